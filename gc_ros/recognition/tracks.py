# SPDX-License-Identifier: Apache-2.0
"""Where each tracked person is at a given time, from detections that come at their own times.

The box of a person at a stamp lies between the detections around it, or is that of the nearest one that is not older
than `max_age_s`. Of what was detected later only the first message at or after the stamp counts: so the answer is the
same whether the others have come already, as in a file, or not, as on a robot.

A tracker may give the id of one person to another. Where that shows in the boxes, a new stretch begins, and whoever
keeps something of the person forgets it. It shows where a box jumps, or takes the place that somebody else had.
Where two people of one size stand in one place while their ids change, nothing shows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.recognition.region import SMOOTHING_S, area, between, overlap, smooth
from gc_ros.stamps import NS

JUMP = 1.0  # box sizes between two detections that do not overlap: nobody moves that far
GROWTH = 16.0  # of the area between two detections
SAME = 0.5  # overlap from which on a box is in the place of another
MOST_IN_MESSAGE, MOST_IDS, _MOST_KEPT = 100, 1000, 256


@dataclass(frozen=True)
class Place:
    """Where a person is. stretch: changes where the id may stand for somebody else from now on.

    held: the person was not found in the message that answers for this stamp; the box is an earlier one.
    """

    box: Box
    stretch: int
    held: bool = False


@dataclass(frozen=True)
class _Sighting:
    stamp_ns: int
    found: Box
    smoothed: Box
    stretch: int


class Tracks:
    """The boxes of everybody, by id. max_age_s: how long the last box of a person still counts.

    timeout_s: after which somebody who comes back under the same id is somebody new. left_out: detections that were
    not used, by reason.
    """

    def __init__(self, max_age_s: float, timeout_s: float, smoothing_s: float = SMOOTHING_S) -> None:
        self._max_age, self._timeout = round(max_age_s * NS), round(timeout_s * NS)
        self._smoothing_s = smoothing_s
        self.left_out: Counter[str] = Counter()
        self._stretches = 0
        self._stamps: deque[int] = deque(maxlen=_MOST_KEPT)  # of messages
        self._sightings: dict[str, deque[_Sighting]] = {}

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest message."""
        return self._stamps[-1] if self._stamps else None

    def nearest_ns(self, stamp_ns: int) -> int | None:
        """Stamp of the message that is nearest to a time; None before the first."""
        return min(self._stamps, key=lambda each: abs(each - stamp_ns), default=None)

    def clear(self) -> None:
        """Forget everybody."""
        self._stamps.clear()
        self._sightings.clear()

    def add(self, found: Detections) -> None:
        """Take a message; one that is not newer than the last is left out, one from long before it begins again."""
        newest = self.newest_ns
        if newest is not None and found.stamp_ns <= newest:
            if newest - found.stamp_ns <= self._timeout:
                self.left_out["old message"] += 1
                return
            self.left_out["message from long before"] += 1
            self.clear()
        self._stamps.append(found.stamp_ns)
        people = self._usable(found.people)
        before = {name: kept[-1] for name, kept in self._sightings.items()}
        exchanged = _exchanged(
            {n: s.found for n, s in before.items() if found.stamp_ns - s.stamp_ns <= self._timeout}, people
        )
        for name, box in people.items():
            if name not in before and len(self._sightings) >= MOST_IDS:
                self.left_out["too many ids"] += 1
                continue
            self._see(name, box, found.stamp_ns, name in exchanged)

    def _usable(self, people: tuple[Detection, ...]) -> dict[str, Box]:
        """The boxes by id. Nobody knows which of two boxes of one id is the person's, so neither is used."""
        often = Counter(person.id for person in people)
        once = [person for person in people if often[person.id] == 1]
        if len(once) < len(people):
            self.left_out["id twice in a message"] += len(people) - len(once)
        if len(once) > MOST_IN_MESSAGE:
            self.left_out["too many boxes in a message"] += len(once) - MOST_IN_MESSAGE
            once = sorted(once, key=lambda person: (-area(person.box), person.id))[:MOST_IN_MESSAGE]
        return {person.id: person.box for person in once}

    def _see(self, name: str, box: Box, stamp_ns: int, exchanged: bool) -> None:
        kept = self._sightings.setdefault(name, deque(maxlen=_MOST_KEPT))
        last = kept[-1] if kept else None
        if last is None or exchanged or stamp_ns - last.stamp_ns > self._timeout or _jumped(last.found, box):
            self._stretches += 1
            kept.append(_Sighting(stamp_ns, box, box, self._stretches))
            return
        smoothed = smooth(last.smoothed, box, (stamp_ns - last.stamp_ns) / NS, self._smoothing_s)
        kept.append(_Sighting(stamp_ns, box, smoothed, last.stretch))

    def at(self, stamp_ns: int) -> dict[str, Place]:
        """Everybody who is known to be somewhere at this stamp."""
        closing = self._closing(stamp_ns)
        places = {}
        for name, kept in self._sightings.items():
            place = self._place(kept, stamp_ns, closing)
            if place is not None:
                places[name] = place
        return places

    def _place(self, kept: deque[_Sighting], t: int, closing: int | None) -> Place | None:
        a = next((s for s in reversed(kept) if s.stamp_ns <= t), None)
        b = None if closing is None else next((s for s in reversed(kept) if s.stamp_ns == closing), None)
        if a is not None and b is not None and a.stretch == b.stretch:
            span = b.stamp_ns - a.stamp_ns
            if span == 0:
                return Place(a.smoothed, a.stretch)
            if span <= 2 * self._max_age:  # one of the two is near enough by itself
                return Place(between(a.smoothed, b.smoothed, (t - a.stamp_ns) / span), a.stretch)
        near = [s for s in (a, b) if s is not None and abs(t - s.stamp_ns) <= self._max_age]
        if not near:
            return None
        nearest = min(near, key=lambda s: abs(t - s.stamp_ns))
        return Place(nearest.smoothed, nearest.stretch, held=b is None)

    def _closing(self, stamp_ns: int) -> int | None:
        """Stamp of the first message at or after a stamp."""
        index = bisect_left(self._stamps, stamp_ns)
        return self._stamps[index] if index < len(self._stamps) else None

    def forget_before(self, stamp_ns: int) -> None:
        """Forget what no question about this stamp or a later one needs, and who has left by then."""
        for name, kept in list(self._sightings.items()):
            while len(kept) > 1 and kept[1].stamp_ns <= stamp_ns:
                kept.popleft()
            if kept[-1].stamp_ns < stamp_ns - self._timeout:
                del self._sightings[name]


def _exchanged(before: dict[str, Box], people: dict[str, Box]) -> set[str]:
    """Whose ids may have been exchanged: who lies where somebody else was rather than where they were themselves,
    and whose place that was, unless the other is still there.
    """
    found: set[str] = set()
    for name, box in people.items():
        own = overlap(before[name], box) if name in before else 1.0
        if own >= SAME:
            continue
        for other, place in before.items():
            shared = overlap(place, box) if other != name else 0.0
            if shared < SAME or shared <= own:
                continue
            now = people.get(other)
            if now is None or overlap(place, now) < shared:
                found |= {name, other}
    return found


def _jumped(a: Box, b: Box) -> bool:
    """Whether nobody can have moved from a to b, or grown, between two detections."""
    if max(area(a), area(b)) > GROWTH * min(area(a), area(b)):
        return True
    if overlap(a, b) > 0:
        return False
    size = max(a.x_max - a.x_min, a.y_max - a.y_min, b.x_max - b.x_min, b.y_max - b.y_min)
    apart = math.hypot(
        (a.x_min + a.x_max - b.x_min - b.x_max) / 2, (a.y_min + a.y_max - b.y_min - b.y_max) / 2
    )
    return apart > JUMP * size
