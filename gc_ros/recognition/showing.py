# SPDX-License-Identifier: Apache-2.0
"""Showing an activity: from clips, or from what a running recogniser sees, to the examples that it is taught by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.clips import Clip
from gc_ros.media.images import Picture
from gc_ros.recognition.intake import StepFrame
from gc_ros.recognition.kept_clips import MOST
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.space import Examples
from gc_ros.recognition.taught import examples_of
from gc_ros.stamps import NS
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.errors import DataError

WINDOWS_A_CLIP = 6
_Run = dict[int, NDArray[np.uint8] | None]  # frames by stamp, in order; None: not kept


def examples_from_clips(
    clips: Sequence[Clip], bundle: LoadedBundle, engine: Engine, mode: str, topic: str | None = None
) -> Examples:
    """What a robot with this engine sees in the clips: videos, or bags with images on `topic`.

    A clip shorter than a window stands still at its end until the window is full. Raises DataError for a clip in which
    nothing is seen.
    """
    shown = []
    for clip in clips:
        recognizer = Recognizer(
            bundle, engine, mode=mode, stride=max(bundle.info.T // 4, 1), owns_engine=False
        )
        features = list(_features(_images(clip, topic), recognizer))
        if not features:
            raise DataError(f"{clip.path}: no image can be used; give another clip")
        kept = np.unique(np.linspace(0, len(features) - 1, WINDOWS_A_CLIP).round().astype(int))
        shown.append(np.stack([features[i] for i in kept]))
    return examples_of(shown)


def _images(clip: Clip, topic: str | None) -> Iterable[tuple[NDArray[np.uint8], int, bool]]:
    """(image, stamp, whether it is BGR)."""
    # Not above: a robot's node, which is shown things by its camera, needs neither rosbags nor PyAV.
    if clip.is_bag:
        from gc_ros.media.bag_reading import read_bag_images

        found = read_bag_images(clip.path, topic, refused=lambda stamp, reason: None, pieces=clip.pieces)
        return ((image, stamp, encoding == "bgr8") for stamp, image, encoding in found)
    from gc_ros.media.video import read_video

    return ((image, stamp, False) for image, stamp in read_video(Path(clip.path)))


def _features(
    images: Iterable[tuple[NDArray[np.uint8], int, bool]], recognizer: Recognizer
) -> Iterator[NDArray[np.float32]]:
    last, stamp, seen = None, 0, False
    for image, stamp, bgr in images:
        last = Picture.of(image, bgr)
        result = recognizer.push(last, stamp)
        if result is not None and result.features is not None:
            yield result.features
            seen = True
    n, T = recognizer.warmup
    if last is None or seen or n == T:
        return
    for _ in range(T - n + 1):
        stamp += round(NS / recognizer.info.rate_hz)
        result = recognizer.push(last, stamp)
        if result is not None and result.features is not None:
            yield result.features


class Showing:
    """Windows that a running recogniser sees while somebody shows an activity; a clip of them for every pause.

    name: of the activity. windows: how many to take. keep: whether frames are kept, too, asked at each. `see` belongs
    to the inference thread, `see_frame` to that of the images, what comes after to whoever has stopped both.
    """

    def __init__(
        self, name: str, windows: int, gap_s: float, keep: Callable[[], bool] = lambda: False
    ) -> None:
        self.name, self.windows, self._keep = name, windows, keep
        self._gap = round(gap_s * NS)
        self._clips: list[list[NDArray[np.float32]]] = []
        self._spans: list[tuple[_Run, int, int]] = []  # of each clip, the stamps of its first and last frame
        # Since it began; another wherever the stamps go back.
        self._runs: list[_Run] = []
        self._kept = 0

    @property
    def taken(self) -> int:
        """Windows so far."""
        return sum(map(len, self._clips))

    @property
    def complete(self) -> bool:
        return self.taken >= self.windows

    def see(self, features: NDArray[np.float32], start_ns: int, end_ns: int) -> None:
        """A result of the recogniser, of a window from its first to its last frame.

        Windows that began before the showing hold something else; those that overlap the last one by more than half say
        nothing new.
        """
        run = next((run for run in reversed(self._runs) if start_ns in run and end_ns in run), None)
        if self.complete or run is None:
            return
        # Results may lie a whole window apart: a pause is between the frames.
        before, first, last = self._spans[-1] if self._spans else (None, 0, 0)
        if before is not run or end_ns < last or start_ns - last > self._gap:
            self._clips.append([])
            self._spans.append((run, start_ns, end_ns))
        elif start_ns < last - (end_ns - start_ns) / 2:
            return
        else:
            self._spans[-1] = run, first, end_ns
        self._clips[-1].append(np.array(features))

    def see_frame(self, frame: StepFrame) -> None:
        """A frame as the network sees it, before any result that it is part of; the first `MOST` may be kept."""
        if not self._runs or frame.stamp_ns <= next(reversed(self._runs[-1])):
            self._runs.append({})
        kept = self._kept < MOST and self._keep()
        self._runs[-1][frame.stamp_ns] = frame.image if kept else None
        self._kept += kept

    def pictures(self) -> list[NDArray[np.uint8]]:
        """The frames (n, S, S, 3) of each clip, of those that `see_frame` was given."""
        clips = [[f for t, f in run.items() if f is not None and a <= t <= b] for run, a, b in self._spans]
        return [np.stack(clip) for clip in clips if clip]

    def examples(self) -> Examples:
        """What was seen. Raises DataError where nothing was."""
        clips = [np.stack(clip) for clip in self._clips if clip]
        if not clips:
            raise DataError(
                "no whole window was seen; show the activity in front of the camera while it is taught"
            )
        # What goes on without a pause counts as clips of three windows, so that there is something to leave out.
        parts = [clip[i : i + 3] for clip in clips for i in range(0, len(clip), 3)]
        return examples_of(parts)
