# SPDX-License-Identifier: Apache-2.0
"""Who was there at frames that people were looked for in and got no result, although one was due: the misses of mAP."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping


class Misses:
    """Follows the frames of a recording that people were looked for in, in their order.

    window_ns: after which somebody who has come gets the first result. every_ns: from one result of a person to the
    next. slack_ns: half of a frame. People have their results at different frames, and one who was not found in a frame
    has the next result a frame later. So what was missed is known when the next result comes, or at the end: one for
    each `every_ns` that it is late, none for less than half of that.
    """

    def __init__(self, window_ns: int, every_ns: int, slack_ns: int) -> None:
        self._window, self._every, self._due = window_ns, every_ns, every_ns - slack_ns
        self._newest: dict[str, int] = {}  # stamp of the newest result of each
        # Of each, the frames since then: their stamps, and since when somebody was there.
        self._without: dict[str, list[tuple[int, int]]] = {}

    def frame(
        self, stamp_ns: int, since_ns: Mapping[str, int], found: Collection[str]
    ) -> list[tuple[str, int]]:
        """A frame, with results or without; returns (person, stamp) of what turns out to be missed.

        since_ns: since when each who is there has been. found: who has a result of this frame.
        """
        missed = []
        for who in found:
            missed += self._missed(who, stamp_ns)
            self._newest[who] = stamp_ns
        for who in since_ns.keys() - {*found}:
            self._without.setdefault(who, []).append((stamp_ns, since_ns[who]))
        return missed

    def end(self) -> list[tuple[str, int]]:
        """The recording ends, or its time begins again; returns what else was missed."""
        missed = [found for who in sorted(self._without) for found in self._missed(who, None)]
        self._newest.clear()
        return missed

    def _missed(self, who: str, next_ns: int | None) -> list[tuple[str, int]]:
        """At which of the frames without a result one was due. next_ns: of the next one, None: there is none."""
        frames = self._without.pop(who, [])
        if not frames:
            return []
        newest = self._newest.get(who)
        # Who has come since the last result begins anew.
        starts = [since_ns + self._window - self._every for _, since_ns in frames]
        last = before = starts[0] if newest is None else max(newest, starts[0])
        due = []
        for (stamp_ns, _), start in zip(frames, starts, strict=True):
            last = max(last, start)
            if stamp_ns - last >= self._due:
                due.append((who, stamp_ns))
                last = stamp_ns
        if next_ns is None:
            return due
        return due[: math.ceil((next_ns - before) / self._every - 0.5) - 1]
