# SPDX-License-Identifier: Apache-2.0
"""Onsets and offsets in the order in which they came about, until they are published.

A result brings its onset in the inference thread, a break its offset in another one. Published from where each is, the
offset may overtake the onset, or an onset be dropped with its result: an activity would go on for ever. So a recogniser
notes its events here under its lock, and whoever publishes takes all that has been noted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

from numpy.typing import NDArray

from gc_ros.recognition.smoothing import ActivityEvent, EventDetector, Smoothing


class EventLog:
    """The events of one or more recognisers. Thread-safe."""

    def __init__(self) -> None:
        self._noted: deque[tuple[str, ActivityEvent, int | None]] = deque()
        self._lock = threading.Lock()  # held while publishing, so that no two threads change the order

    def note(self, events: Iterable[ActivityEvent], decided_ns: int | None = None, person: str = "") -> None:
        """Add events of a person, "" for the picture. decided_ns: stamp of the frame that decided them, if known."""
        self._noted.extend((person, event, decided_ns) for event in events)

    def publish(self, publish: Callable[[str, ActivityEvent, int | None], None]) -> None:
        """Call `publish` with person, event and decided_ns of all that was noted, in order."""
        with self._lock:
            while self._noted:
                publish(*self._noted.popleft())


class Announcer:
    """What begins and ends in one recogniser's results, until its user takes it. Not thread-safe.

    log: where events are noted instead, for users who publish from several threads. The others are those of
    `EventDetector`.
    """

    def __init__(self, labels: list[str], smoothing: Smoothing | None, idle: Collection[str]) -> None:
        self._idle = idle
        self._detector = EventDetector(labels, smoothing, idle)
        self._events: list[ActivityEvent] = []
        self._person = ""  # of the newest result
        self.log: EventLog | None = None

    @property
    def smoothing(self) -> Smoothing:
        """How scores become events; a change forgets nothing."""
        return self._detector.smoothing

    @smoothing.setter
    def smoothing(self, smoothing: Smoothing) -> None:
        self._detector.smoothing = smoothing

    def relabel(self, labels: list[str]) -> None:
        """Go on with other labels; an activity that is on ends."""
        self.end()
        self._detector = EventDetector(labels, self.smoothing, self._idle)

    def update(self, scores: NDArray[Any], stamp_ns: int, person: str) -> list[ActivityEvent]:
        """Take the scores of a result; return all events that were not taken, in order. person: "" for the picture."""
        fresh = self._detector.update(scores, stamp_ns)
        self._person = person
        self._keep(fresh, stamp_ns)
        return self.take()

    def end(self) -> None:
        """A break: forget the smoothed scores; an activity that is on ends."""
        self._keep(self._detector.reset(), None)

    def take(self) -> list[ActivityEvent]:
        """The events since the last time."""
        events, self._events = self._events, []
        return events

    def _keep(self, events: list[ActivityEvent], decided_ns: int | None) -> None:
        if self.log is None:
            self._events += events
        else:
            self.log.note(events, decided_ns, self._person)
