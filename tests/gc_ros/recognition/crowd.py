# SPDX-License-Identifier: Apache-2.0
"""A crowd whose frames say who is where: histories of tracks with everything that trackers, cameras and clocks do.

Everybody stands in a cell of the image, which holds the person's number and that of the frame. The network of the toy
sees one pixel, the centre of the region. So a window's logits tell whom it saw, and when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.media.images import Picture
from gc_ros.recognition.people import PersonActivity
from gc_ros.stamps import NS
from tests.toy import numbers_of

PEOPLE, CELL, HEIGHT = 5, 60, 60
FRAMES = 40
KINDS = ("swap", "give", "new id", "lose", "leave", "twice", "huge", "outside", "tiny", "shift", "no message")
CLOCKS = ("repeat", "old", "future", "past")  # of a message
CAMERA = ("gap", "back", "size", "reset", "again", "late")


@dataclass(frozen=True)
class Happening:
    """Something that goes wrong at a frame. a, b: whom it concerns. n: how many messages it lasts, or how far."""

    kind: str
    at: int
    a: int
    b: int
    n: int


@dataclass
class Event:
    """What arrives: an image, detections, or the wish for a reset."""

    arrival: float
    order: int
    picture: Picture | None = None
    found: Detections | None = None
    stamp_ns: int = 0


@dataclass
class History:
    """Events in the order of a file; `late` gives that of a robot. meant: which people each id was ever given to."""

    events: list[Event]
    stamps: list[int]  # of the frames, by number
    breaks: list[int]  # numbers of frames that begin after a break
    meant: dict[str, set[int]] = field(default_factory=dict)

    def late(self, delay: Any) -> list[Event]:
        """The events where detections come later by delay(number), in order among themselves."""
        moved, newest = [], 0.0
        for i, event in enumerate(self.events):
            arrival = event.arrival
            if event.found is not None:
                newest = arrival = max(arrival + delay(i), newest)
            moved.append((arrival, event.order, event))
        return [event for _, _, event in sorted(moved, key=lambda item: item[:2])]


happenings = st.builds(
    Happening,
    kind=st.sampled_from([*KINDS, *CLOCKS, *CAMERA]),
    at=st.integers(0, FRAMES - 1),
    a=st.integers(0, PEOPLE - 1),
    b=st.integers(0, PEOPLE - 1),
    n=st.integers(1, 14),
)


def harmless(happening: Happening) -> bool:
    """Whether a robot and a file see the same: not where the order of images and detections is what went wrong."""
    return happening.kind not in (*CLOCKS, *CAMERA)


def person_box(person: int, i: int) -> Box:
    """Where a person is in frame i: a cell each, swaying in it."""
    x = CELL * person + CELL / 2 + 4 * np.sin(i / 3 + person)
    return Box(x - 10, 15, x + 10, 45)


def frame(i: int, height: int = HEIGHT) -> Picture:
    """Everybody in frame i, RGB: person + 1 and i."""
    image = np.zeros((height, CELL * PEOPLE, 3), np.uint8)
    image[..., 0] = np.repeat(np.arange(PEOPLE) + 1, CELL)
    image[..., 1] = i
    return Picture.of(image, False)


def history(wrong: list[Happening], rate_hz: float = 8.0, every: int = 1, frames: int = FRAMES) -> History:
    """FRAMES frames at a rate, with detections in every `every`-th, and what goes wrong."""
    by_frame: dict[int, list[Happening]] = {}
    for happening in wrong:
        by_frame.setdefault(happening.at, []).append(happening)
    tracker = _Tracker()
    made = History([], [], [], tracker.meant)
    clock, height, order = 100.0, HEIGHT, 0
    for i in range(frames):
        here = by_frame.get(i, [])
        clock += 1 / rate_hz
        for happening in here:
            if happening.kind == "gap":
                clock += 0.4 + happening.n / 10
            elif happening.kind == "back":
                clock -= 0.3 + happening.n
            elif happening.kind == "size":
                height += 2
            if happening.kind in ("size", "reset"):
                made.breaks.append(i)
            if happening.kind == "reset":
                made.events.append(Event(float(i), order))
                order += 1
        stamp = round(clock * NS)
        made.stamps.append(stamp)
        seen = Event(float(i), order, picture=frame(i, height), stamp_ns=stamp)
        repeats = 1 + sum(h.kind == "again" for h in here)
        messages = [] if i % every else tracker.look(here, i, stamp)
        told = [Event(float(i), order + 20 + k, found=message) for k, message in enumerate(messages)]
        if any(h.kind == "late" for h in here):  # the image comes after its detections
            made.events += [*told, seen]
        else:
            made.events += [seen] * repeats + told
        order += 100
    return made


class _Tracker:
    """Who has which id, and what of it the messages say."""

    def __init__(self) -> None:
        self.ids = {person: f"p{person}" for person in range(PEOPLE)}
        self.meant: dict[str, set[int]] = {}
        self._absent: dict[int, int] = {}  # person: messages left
        self._fresh = 0

    def look(self, wrong: list[Happening], i: int, stamp: int) -> list[Detections]:
        boxes = {person: person_box(person, i) for person in range(PEOPLE)}
        twice: list[Detection] = []
        none, stamps = False, [stamp]
        for h in wrong:
            kind, a, b = h.kind, h.a, h.b
            if kind == "swap":
                self.ids[a], self.ids[b] = self.ids[b], self.ids[a]
            elif kind == "give" and a != b:  # a's id is b's from now on, a gets another
                self.ids[b], self.ids[a] = self.ids[a], self._new()
            elif kind == "new id":
                self.ids[a] = self._new()
            elif kind == "lose":
                self._absent[a] = min(h.n, 4)
            elif kind == "leave":
                self._absent[a] = h.n
            elif kind == "twice" and a != b:
                twice.append(Detection(self.ids[a], boxes[b]))
            elif kind == "huge":
                boxes[a] = Box(-5e4, -5e4, 5e4, 5e4)
            elif kind == "outside":
                boxes[a] = Box(-90, -90, -40, -20)
            elif kind == "tiny":
                boxes[a] = Box(boxes[a].x_min, 20, boxes[a].x_min + 0.01, 20.01)
            elif kind == "shift":  # onto somebody else, as after an error of the detector
                boxes[a] = boxes[b]
            elif kind == "no message":
                none = True
            elif kind == "repeat":
                stamps.append(stamp)
            elif kind == "old":
                stamps.append(stamp - NS // 3)
            elif kind == "future":
                stamps.append(stamp + 60 * h.n * NS)
            elif kind == "past":
                stamps.append(stamp - 60 * h.n * NS)
        people = []
        for person, box in boxes.items():
            if self._absent.get(person, 0) > 0:
                self._absent[person] -= 1
                continue
            people.append(Detection(self.ids[person], box))
        for person in range(PEOPLE):
            self.meant.setdefault(self.ids[person], set()).add(person)
        for h in wrong:
            if h.kind == "shift":
                self.meant[self.ids[h.a]].add(h.b)
        return [] if none else [Detections(at, (*people, *twice)) for at in stamps]

    def _new(self) -> str:
        self._fresh += 1
        return f"new{self._fresh}"


def seen(result: PersonActivity) -> tuple[list[int], list[int]]:
    """(people, numbers of the frames) in the window of a result."""
    numbers = numbers_of(result.activity)
    return [number // 256 - 1 for number in numbers], [number % 256 for number in numbers]


def check(result: PersonActivity, made: History, gap_s: float) -> None:
    """Fail unless a window holds frames of one person, in order, without a break, under an id of that person."""
    people, frames = seen(result)
    assert len(set(people)) == 1, f"{result.person_id}: a window of {people} in frames {frames}"
    assert people[0] in made.meant[result.person_id]
    stamps = [made.stamps[i] for i in frames]
    steps = [b - a for a, b in pairwise(stamps)]
    assert all(0 < step <= gap_s * NS for step in steps), f"frames {frames}"
    assert frames == sorted(frames)
    assert not any(frames[0] < i <= frames[-1] for i in made.breaks), f"{made.breaks} within {frames}"
    activity = result.activity
    assert (activity.window_start_ns, activity.window_end_ns) == (stamps[0], stamps[-1])
    middle = (result.box.x_min + result.box.x_max) / 2
    assert int(middle // CELL) == people[0]
