# SPDX-License-Identifier: Apache-2.0
"""Which camera frames the model sees: by their stamps, on a grid at the rate the model was trained at.

The grid starts at the first frame after a reset: due times t0, t0 + 1/rate, t0 + 2/rate, ... For each due time the
first frame at or after it is taken. A frame that is early by at most a quarter of the camera's own period counts as on
time, so that jitter does not delay the choice by a whole frame. A frame is taken once; of a camera slower than the
grid every frame is taken. So cameras of any rate give the same samples to within one of their periods.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from gc_ros.stamps import NS

# Recent camera periods: their median ignores single dropped and late frames.
_PERIODS_KEPT = 15
# So many old frames in a row, in order among themselves, are a stream that jumped back.
_OLD_RUN = 3


@dataclass(frozen=True)
class Decision:
    """What to do with one frame.

    take: the frame belongs to the window; False without a reason to drop it: it lies between two due times.
    reset: why everything before it must be forgotten first ("gap", "backward"), or None.
    drop: why it is useless ("duplicate", "old"), or None.
    """

    take: bool
    reset: str | None = None
    drop: str | None = None


class Sampler:
    """Decides by stamps alone, frame by frame, in the order of arrival.

    rate_hz: samples a second.
    max_frame_gap_s: a longer step between two frames is a break ("gap"). None: three sampling periods, at least half a
        second.

    A stamp more than one sampling period back is a break too ("backward"). A smaller step back is a frame that came
    late ("old"), unless three such frames in a row are in order among themselves. Stamps are int nanoseconds of any
    clock.
    """

    def __init__(self, rate_hz: float, max_frame_gap_s: float | None = None) -> None:
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ValueError(f"rate_hz is {rate_hz}, it must be positive")
        if max_frame_gap_s is None:
            max_frame_gap_s = max(3 / rate_hz, 0.5)
        if not max_frame_gap_s > 0:
            raise ValueError(f"max_frame_gap_s is {max_frame_gap_s}, it must be positive")
        self.rate_hz = float(rate_hz)
        self.max_frame_gap_s = float(max_frame_gap_s)
        self._period = NS / self.rate_hz
        self._gap = self.max_frame_gap_s * NS
        self._periods: deque[int] = deque(maxlen=_PERIODS_KEPT)
        self.reset()

    def reset(self) -> None:
        """Forget the grid and all stamps: the next frame is taken and starts a new grid."""
        self._start: int | None = None
        self._last = 0
        self._next = 0  # index of the next due time
        self._old: list[int] = []
        self._periods.clear()

    @property
    def camera_period_s(self) -> float | None:
        """Median period of the recent frames, None before the second frame."""
        return median(self._periods) / NS if self._periods else None

    def would_take(self, stamp_ns: int) -> bool:
        """Whether `decide` would take the frame; decides nothing."""
        # What copy.copy does, in a tenth of the time; a reader asks this for every image.
        trial = object.__new__(type(self))
        vars(trial).update(vars(self))
        trial._periods, trial._old = self._periods.copy(), self._old.copy()
        return trial.decide(stamp_ns).take

    def decide(self, stamp_ns: int) -> Decision:
        """Decide on the frame with this stamp."""
        if self._start is None:
            return self._begin(stamp_ns)
        step = stamp_ns - self._last
        if step <= 0:
            return self._not_newer(stamp_ns, -step)
        self._old.clear()
        if step > self._gap:
            return self._begin(stamp_ns, "gap")
        self._periods.append(step)
        self._last = stamp_ns
        since = stamp_ns - self._start
        if since + self._tolerance() < self._next * self._period:
            return Decision(take=False)
        # Due times that passed without a frame are gone: a frame is taken once.
        self._next = max(self._next, math.floor(since / self._period)) + 1
        return Decision(take=True)

    def _tolerance(self) -> float:
        # At most a quarter of the grid, too, or a camera slower than the grid would swallow due times.
        return min(median(self._periods), self._period) / 4

    def _begin(self, stamp_ns: int, reason: str | None = None) -> Decision:
        self.reset()
        self._start = self._last = stamp_ns
        self._next = 1
        return Decision(take=True, reset=reason)

    def _not_newer(self, stamp_ns: int, back: int) -> Decision:
        if back == 0:
            return Decision(take=False, drop="duplicate")
        if back > self._period:
            return self._begin(stamp_ns, "backward")
        if self._old and stamp_ns <= self._old[-1]:
            self._old.clear()
        self._old.append(stamp_ns)
        if len(self._old) >= _OLD_RUN:
            return self._begin(stamp_ns, "backward")
        return Decision(take=False, drop="old")


class EveryFrame(Sampler):
    """Takes every frame: of frames that another sampler chose. Breaks, duplicates and old frames are the same."""

    def decide(self, stamp_ns: int) -> Decision:
        """Decide on the frame with this stamp."""
        decision = super().decide(stamp_ns)
        return decision if decision.take or decision.drop else Decision(take=True)
