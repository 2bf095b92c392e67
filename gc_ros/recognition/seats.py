# SPDX-License-Identifier: Apache-2.0
"""Which person has which recogniser. There are as many as slots of the engine; whoever comes first has one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.region import area
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.recognition.tracks import Place


@dataclass
class Seat:
    """A recogniser and who has it. stretch: as of `Place`, of the frames it has seen; 0: none yet of this person."""

    key: str
    recognizer: Recognizer
    person: str | None = None
    stretch: int = 0
    seen_ns: int = 0  # stamp of the newest frame with the person


class Seats:
    """The seats of one camera. without: who is in the newest frame and has none. Not thread-safe."""

    def __init__(self, recognizers: Mapping[str, Recognizer]) -> None:
        self._seats = [Seat(key, recognizer) for key, recognizer in recognizers.items()]
        self._events: list[tuple[str, ActivityEvent]] = []
        self.without: tuple[str, ...] = ()

    @property
    def taken(self) -> dict[str, Seat]:
        """The seats that somebody has, by person."""
        return {seat.person: seat for seat in self._seats if seat.person is not None}

    def free(self, stamp_ns: int, patience_ns: int, places: Mapping[str, Place]) -> None:
        """Take the seats of those who are not in the frame of this stamp and were in none for longer than this."""
        for name, seat in self.taken.items():
            if name not in places and stamp_ns - seat.seen_ns > patience_ns:
                self._restart(seat, "person left")
                seat.person = None

    def seat(self, places: Mapping[str, Place], stamp_ns: int) -> list[tuple[str, Seat]]:
        """Who of a frame has a seat. Newcomers take what is free, the largest first.

        A seat whose person may be somebody else from this frame on has forgotten everything.
        """
        taken = self.taken
        free = [seat for seat in self._seats if seat.person is None]
        new = sorted((n for n in places if n not in taken), key=lambda n: (-area(places[n].box), n))
        for seat, name in zip(free, new, strict=False):
            seat.person, seat.stretch = name, 0
            taken[name] = seat
        self.without = tuple(new[len(free) :])
        seated = [(name, seat) for name, seat in taken.items() if name in places]
        for name, seat in seated:
            if seat.stretch not in (0, places[name].stretch):
                self._restart(seat, "id jump")
            seat.stretch, seat.seen_ns = places[name].stretch, stamp_ns
        return seated

    def clear(self, reason: str) -> None:
        """Take everybody's seat."""
        for seat in self.taken.values():
            self._restart(seat, reason)
            seat.person = None
        self.without = ()

    def _restart(self, seat: Seat, reason: str) -> None:
        assert seat.person is not None
        self.note(seat.person, seat.recognizer.reset(reason))

    def note(self, person: str, events: Iterable[ActivityEvent]) -> None:
        """Keep events of a person for `take_events`."""
        self._events += [(person, event) for event in events]

    def take_events(self) -> list[tuple[str, ActivityEvent]]:
        """(person, event), in order, of what ended because somebody left or a window began again."""
        events, self._events = self._events, []
        return events
