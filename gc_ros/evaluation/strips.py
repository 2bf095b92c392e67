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
from trt_build.bundle import Bundle, Preprocess
from trt_build.engine import Engine
from trt_build.preprocess import glimpse_to_pixels

Tensors = Mapping[str, NDArray[Any]]
Active = Sequence[bool] | None
Seen = tuple[NDArray[np.uint8], NDArray[Any]]  # the network's input RGB (S, S, 3), and glimpses (G, 4) on it

WIDTH = 168  # pixels of one picture of a strip, about
_KEPT_S = 20  # of camera frames at most, so that memory is bounded whatever a bag holds


class _Watched:
    """An engine whose calls are looked at."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Tensors, active: Active = None) -> dict[str, NDArray[Any]]:
        """See `Engine.run`."""
        out = self._engine.run(inputs, active)
        self._look(inputs, active, out)
        return out

    def _look(self, inputs: Tensors, active: Active, out: Tensors) -> None:
        raise NotImplementedError


class WatchedEngine(_Watched):
    """An engine that remembers the glimpses of its last T frames, since a result has only the newest frame's."""

    def __init__(self, engine: Engine, T: int) -> None:
        super().__init__(engine)
        self.calls = 0
        self._glimpses: deque[NDArray[Any]] = deque(maxlen=T)

    def _look(self, inputs: Tensors, active: Active, out: Tensors) -> None:
        self.calls += 1
        last = out["glimpses"][0]
        if last.ndim == 3:
            self._glimpses.extend(last.copy())
        else:
            self._glimpses.append(last.copy())

    @property
    def glimpses(self) -> list[NDArray[Any]]:
        """(G, 4) of each of the last frames, oldest first."""
        return list(self._glimpses)


class WatchedSlots(_Watched):
    """An engine that remembers of each slot the last T frames that the network saw, with the glimpses on them."""

    def __init__(self, engine: Engine, T: int) -> None:
        super().__init__(engine)
        self._seen: list[deque[Seen]] = [deque(maxlen=T) for _ in range(engine.batch)]

    def _look(self, inputs: Tensors, active: Active, out: Tensors) -> None:
        (frames,) = inputs.values()
        for slot, seen in enumerate(self._seen):
            if active is not None and active[slot]:
                # In mode step one frame, else T of them.
                images, glimpses = frames[slot].copy(), out["glimpses"][slot].copy()
                pairs = zip(images, glimpses, strict=True) if images.ndim == 4 else [(images, glimpses)]
                seen.extend(pairs)

    def seen(self, slot: int) -> list[Seen]:
        """The last frames of a slot, oldest first."""
        return list(self._seen[slot])


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce an image to about WIDTH by a whole number; any other ratio takes OpenCV four times as long."""
    height, width = image.shape[:2]
    times = min(max(1, round(width / WIDTH)), height)
    size = (width // times, height // times)
    cut = image[: size[1] * times, : size[0] * times]
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class _Strip:
    """One window: small pictures, and the glimpses as boxes (G, 4) in pixels of each.

    stream: what the window is of, a pass through the bag and in it the picture or a person.
    """

    badness: float
    number: int
    stream: tuple[int, str]
    start_ns: int
    end_ns: int
    pictures: list[NDArray[np.uint8]]
    boxes: list[NDArray[Any]]

    def overlaps(self, stream: tuple[int, str], start_ns: int, end_ns: int) -> bool:
        return self.stream == stream and self.start_ns <= end_ns and start_ns <= self.end_ns


class Strips:
    """The `count` worst windows as strips of pictures; of windows that overlap, only the worst is kept.

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
        stream = in_pass, ""
        if not self._wanted(badness, stream, start_ns, end_ns):
            return
        inside = [item for item in self._frames if start_ns <= item[0] <= end_ns]
        if not inside:
            return
        # Evenly spread over the window, which gives the sampled frames to within a camera period.
        due = np.linspace(start_ns, end_ns, len(glimpses))
        stamps = np.array([stamp for stamp, _ in inside])
        chosen = [inside[int(np.abs(stamps - at).argmin())][1] for at in due]
        times = max(1, round(self._size[0] / chosen[0].shape[1]))
        boxes = [glimpse_to_pixels(l, *self._size, self._info.preprocess) / times for l in glimpses]
        self._keep(_Strip(badness, number, stream, start_ns, end_ns, chosen, boxes))

    def consider_person(
        self,
        badness: float,
        number: int,
        in_pass: int,
        who: str,
        start_ns: int,
        end_ns: int,
        seen: Sequence[Seen],
    ) -> None:
        """The same of a window of one person, whose pictures are what the network saw of that person."""
        stream = in_pass, who
        if not seen or not self._wanted(badness, stream, start_ns, end_ns):
            return
        small = [
            cv2.resize(image[..., ::-1], (WIDTH, WIDTH), interpolation=cv2.INTER_AREA) for image, _ in seen
        ]
        size = self._info.preprocess.size
        whole = Preprocess(size=size, resize=size)  # the picture is the network's input itself
        boxes = [glimpse_to_pixels(l, WIDTH, WIDTH, whole) for _, l in seen]
        pictures = [np.asarray(picture, np.uint8) for picture in small]
        self._keep(_Strip(badness, number, stream, start_ns, end_ns, pictures, boxes))

    def _wanted(self, badness: float, stream: tuple[int, str], start_ns: int, end_ns: int) -> bool:
        if len(self._worst) >= self._count and (not self._count or badness <= self._worst[-1].badness):
            return False
        return all(badness > s.badness for s in self._worst if s.overlaps(stream, start_ns, end_ns))

    def _keep(self, new: _Strip) -> None:
        kept = [s for s in self._worst if not s.overlaps(new.stream, new.start_ns, new.end_ns)]
        self._worst = sorted([*kept, new], key=lambda strip: (-strip.badness, strip.number))[: self._count]

    def _draw(self, picture: NDArray[np.uint8], boxes: NDArray[Any]) -> str:
        out = picture.copy()
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
                    self._draw(picture, boxes)
                    for picture, boxes in zip(strip.pictures, strip.boxes, strict=True)
                ],
            }
            for strip in self._worst
        ]
