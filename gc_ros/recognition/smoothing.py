# SPDX-License-Identifier: Apache-2.0
"""From scores window by window to events: an activity begins (onset) and ends (offset).

Scores are smoothed exponentially over time. An activity begins when its smoothed score reaches `onset` and ends when
it falls below `offset`; it is announced once it has lasted `min_duration_s`. Everything goes by stamps, so the events
do not depend on the stride.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gc_ros.stamps import NS


@dataclass(frozen=True)
class Smoothing:
    """How scores become events; these defaults are the node's and every command's.

    tau_s: time constant of the smoothing, seconds; 0: none. onset, offset: smoothed scores in [0, 1], offset <= onset.
    """

    tau_s: float = 0.5
    onset: float = 0.6
    offset: float = 0.4
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau_s) and self.tau_s >= 0):
            raise ValueError(f"smoothing tau_s is {self.tau_s}, it must be 0 or more seconds")
        if not 0 <= self.offset <= self.onset <= 1:
            raise ValueError(
                f"event thresholds must be 0 <= offset <= onset <= 1, got offset {self.offset}, onset {self.onset}"
            )
        if not (math.isfinite(self.min_duration_s) and self.min_duration_s >= 0):
            raise ValueError(f"min_duration_s is {self.min_duration_s}, it must be 0 or more seconds")


@dataclass(frozen=True)
class ActivityEvent:
    """An activity began or ended.

    stamp_ns: of an onset, the end of the first window that had it; of an offset, the end of the first window that no
        longer had it or, at a break in the stream, of the last one that did.
    score: its smoothed score at that stamp.
    """

    kind: Literal["onset", "offset"]
    label: str
    index: int
    stamp_ns: int
    score: float


class EventDetector:
    """Holds the smoothed scores of one stream. Not thread-safe.

    idle: those of `labels` that are no activity: none of them begins, and an activity ends where one would.
    """

    def __init__(
        self, labels: list[str], smoothing: Smoothing | None = None, idle: Collection[str] = ()
    ) -> None:
        self.smoothing = smoothing or Smoothing()
        self._labels, self._idle = labels, idle
        self._clear()

    def _clear(self) -> None:
        self.scores: NDArray[Any] | None = None  # smoothed, (K,), sums to 1 at most
        self._stamp = 0
        self._active: int | None = None
        self._candidate: tuple[int, int, float] | None = None  # index, since (ns), score then

    @property
    def active(self) -> str | None:
        """Label of the activity that is on, or None."""
        return None if self._active is None else self._labels[self._active]

    def update(self, scores: NDArray[Any], stamp_ns: int) -> list[ActivityEvent]:
        """Take the scores (K,) of the window that ends at `stamp_ns`; return what began or ended, in order.

        All zero: of a window that shows no activity at all.
        """
        s = self.smoothing
        if self.scores is None or s.tau_s == 0:
            self.scores = np.asarray(scores, np.float64).copy()
        else:
            weight = 1 - math.exp(-max(stamp_ns - self._stamp, 0) / (s.tau_s * NS))
            self.scores = self.scores + weight * (scores - self.scores)
        self._stamp = stamp_ns
        events: list[ActivityEvent] = []
        best = int(np.argmax(self.scores))
        rival = best != self._active and self.scores[best] >= s.onset
        if self._active is not None and (self.scores[self._active] < s.offset or rival):
            events.append(self._event("offset", self._active, stamp_ns))
            self._active = None
        if self._active is None:
            events += self._rise(best, stamp_ns)
        return events

    def _rise(self, best: int, stamp_ns: int) -> list[ActivityEvent]:
        assert self.scores is not None
        if self.scores[best] < self.smoothing.onset or self._labels[best] in self._idle:
            self._candidate = None
            return []
        if self._candidate is None or self._candidate[0] != best:
            self._candidate = (best, stamp_ns, float(self.scores[best]))
        _, since, score = self._candidate
        if stamp_ns - since < self.smoothing.min_duration_s * NS:
            return []
        self._active, self._candidate = best, None
        return [ActivityEvent("onset", self._labels[best], best, since, score)]

    def reset(self) -> list[ActivityEvent]:
        """Forget everything; an activity that is on ends with the last window seen."""
        events = [] if self._active is None else [self._event("offset", self._active, self._stamp)]
        self._clear()
        return events

    def _event(self, kind: Literal["onset", "offset"], index: int, stamp_ns: int) -> ActivityEvent:
        assert self.scores is not None
        return ActivityEvent(kind, self._labels[index], index, stamp_ns, float(self.scores[index]))
