# SPDX-License-Identifier: Apache-2.0
"""Where people really are while a bag is read, who of them a result is about, and which image boxes are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gc_ros.evaluation.sources import Frame
from gc_ros.media.detections import Box, Detections
from gc_ros.media.kinds import clean
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.region import overlap
from gc_ros.recognition.tracks import Tracks
from gc_ros.stamps import NS

OVERLAP = 0.5  # of a person's box and the true one, as AVA has it
_TOGETHER_S = 1.0  # a person who is away for longer has not been there all the time
_IMAGES_KEPT = 1024


class Whereabouts:
    """Where people really are: known beforehand (`recorded`), or told to `add` while the bag is read."""

    def __init__(self, recorded: Sequence[Detections] = ()) -> None:
        self._tracks = Tracks(0.5, _TOGETHER_S, smoothing_s=0)
        self._recorded = sorted(recorded, key=lambda found: -found.stamp_ns)
        self._since: dict[str, tuple[int, int]] = {}  # first and last stamp of an unbroken stay

    def add(self, found: Detections) -> None:
        """Take the true boxes of an image."""
        self._tracks.add(found)
        for person in found.people:
            who = clean(person.id)
            first, last = self._since.get(who, (found.stamp_ns, found.stamp_ns))
            if not 0 <= found.stamp_ns - last <= _TOGETHER_S * NS:
                first = found.stamp_ns
            self._since[who] = first, found.stamp_ns

    def at(self, stamp_ns: int) -> dict[str, Box]:
        """Who is seen at a stamp, by the name that a truth may give them, and where."""
        while self._recorded and (self._tracks.newest_ns is None or self._tracks.newest_ns < stamp_ns):
            self.add(self._recorded.pop())
        places = self._tracks.at(stamp_ns)
        self._tracks.forget_before(stamp_ns)
        return {clean(who): place.box for who, place in places.items() if not place.held}

    def names(self) -> set[str]:
        """Everybody who was seen."""
        return {*self._since}

    def since_ns(self, who: str) -> int:
        """Since when a person who is seen has been there."""
        return self._since[who][0]


def match(found: Sequence[PersonActivity], there: dict[str, Box]) -> list[str | None]:
    """Who each of the results of a frame is about, by their boxes: the best pairs first, nobody twice."""
    pairs = sorted(
        ((overlap(result.box, box), i, who) for i, result in enumerate(found) for who, box in there.items()),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    named: list[str | None] = [None] * len(found)
    taken: set[str] = set()
    for shared, i, who in pairs:
        if shared >= OVERLAP and named[i] is None and who not in taken:
            named[i] = who
            taken.add(who)
    return named


class StampsOfImages:
    """Under which stamps images count, by those of their headers, which boxes carry.

    They differ where the time of recording counts, and where a header has none.
    """

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._newest: Frame | None = None

    def note(self, frame: Frame) -> None:
        """An image was read."""
        self._newest = frame
        # Of a clock that stands still, the newest.
        self._known.pop(frame.header_ns, None)
        self._known[frame.header_ns] = frame.stamp_ns
        if len(self._known) > _IMAGES_KEPT:
            del self._known[next(iter(self._known))]

    def placed(self, found: Detections, following: Frame | None) -> Detections:
        """Boxes under the stamp of their image, else as far from the newest image as on its own clock.

        following: the image that was recorded next, for boxes before any.
        """
        near = self._newest or following
        stamp_ns = self._known.get(found.stamp_ns)
        if stamp_ns is None:
            # Boxes with a stamp beside images without one are on a clock of their own.
            same_clock = near is not None and (near.header_ns or not found.stamp_ns)
            stamp_ns = found.stamp_ns + (near.stamp_ns - near.header_ns if near and same_clock else 0)
        return found if stamp_ns == found.stamp_ns else replace(found, stamp_ns=stamp_ns)
