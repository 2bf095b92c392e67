# SPDX-License-Identifier: Apache-2.0
"""Strips: small pictures of the worst windows with the model's glimpses, collected while a bag is read."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.evaluation.sources import Frame
from gc_ros.recognition.palette import glimpse_colour
from trt_build.bundle import Bundle
from trt_build.engine import Engine
from trt_build.preprocess import glimpse_to_pixels

WIDTH = 168  # pixels of one picture of a strip, about
_KEPT_S = 20  # of camera frames at most, so that memory is bounded whatever a bag holds


class WatchedEngine:
    """An engine that remembers the glimpses of its last T frames; a result has only the newest frame's."""

    def __init__(self, engine: Engine, T: int) -> None:
        self._engine, self.calls = engine, 0
        self._glimpses: deque[NDArray[Any]] = deque(maxlen=T)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Engine.run`."""
        out = self._engine.run(inputs, active)
        self.calls += 1
        last = out["glimpses"][0]
        if last.ndim == 3:
            self._glimpses.extend(last.copy())
        else:
            self._glimpses.append(last.copy())
        return out

    @property
    def glimpses(self) -> list[NDArray[Any]]:
        """(G, 4) of each of the last frames, oldest first."""
        return list(self._glimpses)


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce an image to about WIDTH by a whole number; any other ratio takes OpenCV four times as long."""
    height, width = image.shape[:2]
    times = min(max(1, round(width / WIDTH)), height)
    size = (width // times, height // times)
    cut = image[: size[1] * times, : size[0] * times]
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class _Strip:
    """One window: small pictures, the glimpses (G, 4) on each, and (width, height) of the camera's images."""

    badness: float
    number: int
    in_pass: int
    start_ns: int
    end_ns: int
    pictures: list[NDArray[np.uint8]]
    glimpses: list[NDArray[Any]]
    size: tuple[int, int]

    def overlaps(self, in_pass: int, start_ns: int, end_ns: int) -> bool:
        return self.in_pass == in_pass and self.start_ns <= end_ns and start_ns <= self.end_ns


class Strips:
    """Keeps the `count` worst windows as strips of pictures; of windows that overlap, only the worst.

    Strips are drawn on request, since worse ones replace most of them.
    """

    def __init__(self, count: int, info: Bundle) -> None:
        self._count, self._info = count, info
        self._frames: deque[tuple[int, NDArray[np.uint8]]] = deque(maxlen=int(_KEPT_S * 60))
        self._size = (1, 1)
        self._worst: list[_Strip] = []  # worst first

    def see(self, frame: Frame) -> None:
        """Remember a sampled frame in small (`frame.made`, where there is one), as long as a window may need it."""
        if not self._count:
            return
        width, height, picture = frame.picture.width, frame.picture.height, frame.picture
        if self._frames and frame.stamp_ns < self._frames[-1][0]:
            self._frames.clear()
        self._size = width, height
        small = frame.made if frame.made is not None else shrunk(picture.pixels())
        self._frames.append(
            (frame.stamp_ns, np.asarray(small if picture.bgr else small[..., ::-1], np.uint8))
        )
        oldest = frame.stamp_ns - round((self._info.window_s * 1.5 + 1) * 1e9)
        while self._frames[0][0] < oldest:
            self._frames.popleft()

    def consider(
        self,
        badness: float,
        number: int,
        in_pass: int,
        start_ns: int,
        end_ns: int,
        glimpses: list[NDArray[Any]],
    ) -> None:
        """Keep the window from start to end if it is among the worst so far, and worse than those it overlaps.

        in_pass: number of the pass through the bag; within a pass stamps only go forward.
        """
        if len(self._worst) >= self._count and (not self._count or badness <= self._worst[-1].badness):
            return
        same = {strip.number for strip in self._worst if strip.overlaps(in_pass, start_ns, end_ns)}
        if any(badness <= strip.badness for strip in self._worst if strip.number in same):
            return
        inside = [item for item in self._frames if start_ns <= item[0] <= end_ns]
        if not inside:
            return
        # Evenly spread over the window, which gives the sampled frames to within a camera period.
        T = len(glimpses)
        due = np.linspace(start_ns, end_ns, T)
        stamps = np.array([stamp for stamp, _ in inside])
        chosen = [inside[int(np.abs(stamps - at).argmin())][1] for at in due]
        new = _Strip(badness, number, in_pass, start_ns, end_ns, chosen, glimpses, self._size)
        kept = [strip for strip in self._worst if strip.number not in same]
        self._worst = sorted([*kept, new], key=lambda strip: (-strip.badness, strip.number))[: self._count]

    def _draw(self, picture: NDArray[np.uint8], l: NDArray[Any], size: tuple[int, int]) -> str:
        out = picture.copy()
        columns = out.shape[1]
        boxes = glimpse_to_pixels(l, *size, self._info.preprocess)
        boxes = boxes / max(1, round(size[0] / columns))
        for g, (x0, y0, x1, y1) in enumerate(np.round(boxes).astype(int).tolist()):
            colour = glimpse_colour(g)[::-1]
            cv2.rectangle(out, (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)), colour, 2, cv2.LINE_AA)
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, 78])
        return base64.b64encode(data.tobytes()).decode()

    def worst(self) -> list[dict[str, Any]]:
        """Worst first: n (number of the window) and pictures (base64 JPEG, oldest frame first)."""
        return [
            {
                "n": strip.number,
                "pictures": [
                    self._draw(picture, l, strip.size)
                    for picture, l in zip(strip.pictures, strip.glimpses, strict=True)
                ],
            }
            for strip in self._worst
        ]
