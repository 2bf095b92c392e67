# SPDX-License-Identifier: Apache-2.0
"""From scores window by window to events: an activity begins (onset) and ends (offset).

Scores are smoothed exponentially over time. An activity begins when its smoothed score is the largest and reaches
`onset`; it is announced once it has lasted `min_duration_s`. It ends when its score falls below `offset`, or when
another is announced, or idle has lasted as long. Everything goes by stamps, so the events do not depend on the stride.
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
        longer had it or, at a break in the stream, of the last one that did. No two activities are on at once.
    score: its smoothed score when that was decided; of an onset, `min_duration_s` later.
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
        self._ended = 0  # stamp of the last offset
        self._candidate: tuple[int, int] | None = None  # index, since (ns)

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
        if self._active is not None and self.scores[self._active] < s.offset:
            events.append(self._end(stamp_ns))
        self._candidate = self._rising(stamp_ns)
        if self._candidate is not None and stamp_ns - self._candidate[1] >= s.min_duration_s * NS:
            (best, since), self._candidate = self._candidate, None
            if self._active is not None:
                events.append(self._end(since))
            if self._labels[best] not in self._idle:
                self._active = best
                events.append(self._event("onset", best, max(since, self._ended)))
        return events

    def _rising(self, stamp_ns: int) -> tuple[int, int] | None:
        """What is not on and has the largest score and one to begin by, and since when; None where nothing has."""
        assert self.scores is not None
        best = int(np.argmax(self.scores))
        if best == self._active or self.scores[best] < self.smoothing.onset:
            return None
        if self._candidate is not None and self._candidate[0] == best:
            return self._candidate
        return best, stamp_ns

    def _end(self, stamp_ns: int) -> ActivityEvent:
        assert self._active is not None
        index, self._active, self._ended = self._active, None, stamp_ns
        return self._event("offset", index, stamp_ns)

    def reset(self) -> list[ActivityEvent]:
        """Forget everything; an activity that is on ends with the last window seen."""
        events = [] if self._active is None else [self._event("offset", self._active, self._stamp)]
        self._clear()
        return events

    def _event(self, kind: Literal["onset", "offset"], index: int, stamp_ns: int) -> ActivityEvent:
        assert self.scores is not None
        return ActivityEvent(kind, self._labels[index], index, stamp_ns, float(self.scores[index]))
