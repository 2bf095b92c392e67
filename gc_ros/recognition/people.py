# SPDX-License-Identifier: Apache-2.0
"""Who does what: the people in one camera's images, each with a recogniser and a slot of the engine's batch.

    detections(found)           boxes of people, when the tracker has them
    offer(picture, stamp_ns)    in the image callback, as with a `Recognizer`
    flush()                     at the end of a file

Each returns the work that it makes due, for the `Batch` that runs the recognisers. One sampler chooses the frames for
everybody, so that everybody's work is due at once and shares an engine call. A chosen frame waits until detections at
or after its stamp have come, but no longer than `max_age_s` of the stream; as long as detections come within that time,
what a robot gives is what a file gives. Of several frames that one message of detections releases the node recognises
the newest, as of any work that waits.

A frame carries whom it shows (`Person`), from the box to the result. A recogniser is reset before it sees the first
frame of somebody else, and work from before a reset is void: no window holds two people.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gc_ros.media.detections import Box, Detections
from gc_ros.media.images import Picture
from gc_ros.recognition.event_log import EventLog
from gc_ros.recognition.intake import Signature, signature_of
from gc_ros.recognition.person import PeopleCounters, PersonActivity, PersonWork
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.region import Person, PersonPicture, hidden, margin_of, misplaced, square
from gc_ros.recognition.sampler import EveryFrame, Sampler
from gc_ros.recognition.seats import Seats
from gc_ros.recognition.smoothing import ActivityEvent, Smoothing
from gc_ros.recognition.taught import Lessons
from gc_ros.recognition.tracks import Place, Tracks
from gc_ros.stamps import NS
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.errors import ImageError

__all__ = ["People", "PeopleCounters", "PersonActivity", "PersonWork"]

MAX_AGE_S, TIMEOUT_S = 0.5, 1.0
_MOST_WAITING = 32  # frames; each holds its image
_LATE_S = 10.0  # an image that comes so much later than its detections finds them forgotten


@dataclass(frozen=True)
class _Waiting:
    picture: Picture
    stamp_ns: int
    encoding: str


class People:
    """The people in front of one camera.

    slots: rows of the engine's batch, one for each person at most. name: the camera's, part of the keys of
    `recognizers`, which a `Batch` runs. max_age_s: how long the last box of a person still counts, and a frame
    waits for detections. margin: see `square`; None: the bundle's. timeout_s: after which who is not detected any more
    gives up the slot. at_once: for files, takes the work of each frame before the next one is looked at; none is
    returned then. The others are those of `Recognizer`.

    Thread-safe; results may come in another thread than images and detections.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        engine: Engine,
        slots: Sequence[int],
        *,
        name: str = "",
        mode: str | None = None,
        stride: int = 1,
        top_k: int = 5,
        smoothing: Smoothing | None = None,
        max_frame_gap_s: float | None = None,
        unknown_threshold: float | None = None,
        lessons: Lessons | None = None,
        max_age_s: float = MAX_AGE_S,
        margin: float | None = None,
        timeout_s: float = TIMEOUT_S,
        at_once: Callable[[list[PersonWork]], None] | None = None,
    ) -> None:
        if not slots:
            raise ValueError("people need at least one slot of the engine")
        if not 0 < max_age_s <= timeout_s:
            raise ValueError(f"0 < max_age_s <= timeout_s is needed, got {max_age_s} and {timeout_s} s")
        self.info = bundle.info
        self.margin = margin_of(self.info.provenance) if margin is None else margin
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin is {margin}, it must be 0 to 1")
        self._max_age, self._timeout = round(max_age_s * NS), round(timeout_s * NS)
        self._patience = self._timeout - self._max_age  # the last box has counted for `max_age_s` by then
        self._sampler = Sampler(bundle.info.rate_hz, max_frame_gap_s)
        # Chosen frames lie up to a sampling period and a camera period apart without anybody being gone.
        gap_s = max(self._sampler.max_frame_gap_s, 2 / bundle.info.rate_hz)
        self.recognizers = {
            f"{name}#{slot}": Recognizer(
                bundle,
                engine,
                slot=slot,
                mode=mode,
                stride=stride,
                top_k=top_k,
                smoothing=smoothing,
                unknown_threshold=unknown_threshold,
                lessons=lessons,
                owns_engine=False,
                sampler=EveryFrame(bundle.info.rate_hz, gap_s),
            )
            for slot in slots
        }
        self._seats = Seats(self.recognizers)
        self._tracks = Tracks(max_age_s, timeout_s)
        self._at_once = at_once
        self._lock = threading.Lock()
        self._frames: deque[_Waiting] = deque()
        self._signature: Signature | None = None
        self._newest_ns: int | None = None  # stamp of the newest image
        self._asked = 0
        self._received = self._sampled = 0
        #: Chosen frames that have been given to who is in them; the others wait for detections. Stamp of the last.
        self.shown = self.shown_ns = 0
        self._dropped: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def detections(self, found: Detections) -> list[PersonWork]:
        """Take the boxes of one picture; return the work of the frames that waited for them. Never raises."""
        with self._lock:
            self._tracks.add(found)
            work = self._release()
            newest = self._tracks.newest_ns
            if newest is not None and not self._frames:  # also where no image comes at all
                self._tracks.forget_before(newest - round(_LATE_S * NS))
            return work

    def offer(
        self, picture: Picture, stamp_ns: int, *, encoding: str = "", asked: int | None = None
    ) -> list[PersonWork]:
        """Take one camera image; return the work that is due, also of earlier images.

        encoding, asked: as of `Recognizer.offer`. A picture that cannot be decoded is counted; nothing raises.
        """
        with self._lock:
            self._received += 1
            if asked not in (None, self._asked):
                return []
            signature = signature_of(picture, encoding)
            changed = self._signature not in (None, signature)
            if changed:
                self._change(signature)
            self._signature = signature
            decision = self._sampler.decide(stamp_ns)
            if decision.drop:
                self._dropped[decision.drop] += 1
                return []
            if decision.reset:
                self._break(decision.reset)
            newest = self._tracks.newest_ns
            # What changed began anew: whether the stamps went back nobody says.
            again = decision.reset == "backward" or (changed and stamp_ns < (self._newest_ns or 0))
            if again and newest is not None and newest - stamp_ns > self._timeout:
                self._tracks.clear()
            self._newest_ns = stamp_ns
            if decision.take:
                self._sampled += 1
                self._frames.append(_Waiting(picture, stamp_ns, encoding))
            return self._release()

    def would_take(self, stamp_ns: int) -> bool:
        """Whether `offer` would look for people in an image with this stamp, of the present size and encoding."""
        with self._lock:
            return self._sampler.would_take(stamp_ns)

    def flush(self) -> list[PersonWork]:
        """The work of the frames that still wait, when nothing more will come."""
        with self._lock:
            return self._release(everything=True)

    def reset(self, reason: str) -> list[tuple[str, ActivityEvent]]:
        """Forget everybody and all frames; returns the offsets of what was on, with who did it."""
        with self._lock:
            self._asked += 1
            self._break(reason)
            self._tracks.clear()
            self._sampler.reset()
            self._signature = self._newest_ns = None
            return self._seats.take_events()

    def _break(self, reason: str) -> None:
        """The stream broke: what waits is void, and everybody begins again."""
        self._frames.clear()
        self._seats.clear(reason)

    def _change(self, signature: Signature) -> None:
        """The images changed: boxes of another size say nothing about them."""
        same_size = self._signature is not None and self._signature[:2] == signature[:2]
        self._break("encoding change" if same_size else "size change")
        self._sampler.reset()
        if not same_size:
            self._tracks.clear()

    def _release(self, everything: bool = False) -> list[PersonWork]:
        """Process the frames, oldest first, whose boxes are known or will not come in time."""
        work: list[PersonWork] = []
        while self._frames:
            frame, boxes_ns = self._frames[0], self._tracks.newest_ns
            known = boxes_ns is not None and boxes_ns >= frame.stamp_ns
            late = self._newest_ns is not None and self._newest_ns - frame.stamp_ns >= self._max_age
            if not (known or late or everything or len(self._frames) > _MOST_WAITING):
                break
            self._frames.popleft()
            due = self._show(frame)
            if self._at_once is None:
                work += due
            else:
                self._at_once(due)
            self._tracks.forget_before(frame.stamp_ns)
        return work

    def _show(self, frame: _Waiting) -> list[PersonWork]:
        """Give a frame to the recognisers of everybody who is in it."""
        self.shown, self.shown_ns = self.shown + 1, frame.stamp_ns
        places = self._usable(frame)
        self._seats.free(frame.stamp_ns, self._patience, places)
        work: list[PersonWork] = []
        seated = self._seats.seat(places, frame.stamp_ns)
        self._left_out["too many people"] += len(self._seats.without)
        for name, seat in seated:
            box = places[name].box
            person = Person(name, box, square(box, self.margin), places[name].stretch)
            picture = PersonPicture(frame.picture, person)
            try:
                window = seat.recognizer.offer(picture, frame.stamp_ns, encoding=frame.encoding)
            except ImageError:
                self._dropped["image"] += 1  # nobody sees this image
                return work
            self._seats.note(name, seat.recognizer.take_events())
            if window is not None:
                work.append(PersonWork(seat.key, window, person))
        return work

    def _usable(self, frame: _Waiting) -> dict[str, Place]:
        places, nearest = self._tracks.at(frame.stamp_ns), self._tracks.nearest_ns(frame.stamp_ns)
        if nearest is None:
            self._left_out["no detections yet"] += 1
        elif nearest < frame.stamp_ns - self._max_age:
            self._left_out["detections too old"] += 1
        elif nearest > frame.stamp_ns + self._max_age:
            self._left_out["detections too new"] += 1
        for name, place in list(places.items()):
            why = misplaced(place.box, frame.picture.width, frame.picture.height, self.margin)
            if not why and place.held and hidden(place.box, (p.box for p in places.values() if not p.held)):
                why = "hidden behind somebody"
            if why:
                self._left_out[why] += 1
                del places[name]
        return places

    def take_events(self) -> list[tuple[str, ActivityEvent]]:
        """(person, event) of everything that ended because somebody left or a window began again.

        Events that results bring are in `Activity.events`.
        """
        with self._lock:
            return self._seats.take_events()

    def log_events(self, log: EventLog) -> None:
        """Note everybody's events from now on there, as of `Recognizer.log_events`."""
        for recognizer in self.recognizers.values():
            recognizer.log_events(log)

    @property
    def asked(self) -> int:
        """How often `reset` was called."""
        return self._asked

    @property
    def present(self) -> dict[str, tuple[int, int]]:
        """Who has a slot, and the `warmup` of each."""
        with self._lock:
            return {name: seat.recognizer.warmup for name, seat in self._seats.taken.items()}

    @property
    def known(self) -> set[str]:
        """Whose window is full: before that, what was said of the id may be of somebody else."""
        return {who for who, (n, T) in self.present.items() if n == T}

    def boxes(self, stamp_ns: int) -> dict[str, Box]:
        """Where everybody who has a slot is at a stamp, as far as that is known by now."""
        with self._lock:
            places = self._tracks.at(stamp_ns)
            return {name: places[name].box for name in self._seats.taken if name in places}

    @property
    def without_slot(self) -> tuple[str, ...]:
        """Who was in the newest frame and found no slot."""
        return self._seats.without

    @property
    def behind_s(self) -> float | None:
        """How much older the newest detections are than the newest image; None before there are both."""
        with self._lock:
            newest = self._tracks.newest_ns
            return None if newest is None or self._newest_ns is None else (self._newest_ns - newest) / NS

    @property
    def lessons(self) -> Lessons | None:
        """What was taught; a change holds for everybody, as of `Recognizer.lessons`."""
        return next(iter(self.recognizers.values())).lessons

    @lessons.setter
    def lessons(self, lessons: Lessons | None) -> None:
        for recognizer in self.recognizers.values():
            recognizer.lessons = lessons

    @property
    def smoothing(self) -> Smoothing:
        """How scores become events; a change holds for everybody, as of `Recognizer.smoothing`."""
        return next(iter(self.recognizers.values())).smoothing

    @smoothing.setter
    def smoothing(self, smoothing: Smoothing) -> None:
        for recognizer in self.recognizers.values():
            recognizer.smoothing = smoothing

    def counters(self) -> PeopleCounters:
        """All counts."""
        with self._lock:
            each = [recognizer.counters() for recognizer in self.recognizers.values()]
            resets: Counter[str] = Counter()
            for counts in each:
                resets.update(counts.resets)
            return PeopleCounters(
                self._received,
                self._sampled,
                dict(self._dropped),
                dict(self._left_out + self._tracks.left_out),  # without those that are 0
                dict(resets),
                sum(counts.results for counts in each),
                sum(counts.windows_skipped for counts in each),
            )

    def close(self) -> None:
        """Take no more images."""
        for recognizer in self.recognizers.values():
            recognizer.close()
