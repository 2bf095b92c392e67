# SPDX-License-Identifier: Apache-2.0
"""The image callback's half of a recogniser: it samples, resizes, stores and counts frames, and forgets at a break.

What leaves here is a `Window`, work for the engine's half in `gc_ros.recognition.turns`. Both halves share one
lock, which is never held while an engine runs.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.images import Picture
from gc_ros.recognition.region import Person, PersonPicture
from gc_ros.recognition.sampler import Sampler
from trt_build.bundle import Bundle

# Step frames that may wait, in windows of T: some seconds. With more the engine is too slow for the camera.
_QUEUE_WINDOWS = 8


@dataclass(frozen=True)
class Window:
    """Work for `Recognizer.infer`. In mode step it says only that frames wait, and `frames` is empty."""

    epoch: int
    number: int  # of the result that is due, counted from the first
    stamps: tuple[int, ...]
    frames: tuple[NDArray[np.uint8], ...] = field(repr=False)  # T x (S, S, 3), read-only by agreement
    width: int
    height: int
    preprocess_s: float
    person: Person | None = None  # whom the newest frame shows; None: the whole picture


@dataclass(frozen=True)
class Counters:
    """Counts since the recogniser was made; `dropped` and `resets` by reason."""

    frames_received: int
    frames_sampled: int
    dropped: dict[str, int]
    resets: dict[str, int]
    results: int
    windows_skipped: int

    @property
    def frames_dropped(self) -> int:
        """Frames that were useless: duplicates, old stamps, bad images."""
        return sum(self.dropped.values())


@dataclass(frozen=True)
class StepFrame:
    """A sampled frame, as the network sees it: image uint8 (S, S, 3)."""

    stamp_ns: int
    image: NDArray[np.uint8] = field(repr=False)
    preprocess_s: float
    person: Person | None = None


Signature = tuple[int, int, str]


def signature_of(picture: Picture, encoding: str) -> Signature:
    """Size and encoding of a camera's pictures; where they change, a new stream begins."""
    return picture.width, picture.height, encoding or ("bgr" if picture.bgr else "rgb")


class Intake:
    """The sampled frames of one camera, or of one person in it. broken: called under the lock at every reset."""

    def __init__(
        self,
        info: Bundle,
        mode: str,
        stride: int,
        max_frame_gap_s: float | None,
        broken: Callable[[], None],
        sampler: Sampler | None = None,
    ) -> None:
        self.info, self.mode, self.stride = info, mode, stride
        self.lock = threading.Lock()
        self.sampler = sampler or Sampler(info.rate_hz, max_frame_gap_s)
        self.epoch = 0
        self.asked = 0  # resets from outside
        self.closed = False
        self.sampled = 0  # since the last reset
        self.results = self.skipped = 0  # counted by the engine's half
        self._broken = broken
        self._signature: Signature | None = None
        self._frames: deque[StepFrame] = deque(maxlen=info.T)
        self._watch: Callable[[StepFrame], None] | None = None
        self._queue: deque[StepFrame] = deque()
        self._due = 0  # number of the newest result that was due
        self.void_through = 0  # number of the newest that a reset made void
        self._frames_received = self._total_sampled = 0
        self._dropped: Counter[str] = Counter()
        self._resets: Counter[str] = Counter()

    def offer(
        self, picture: Picture, stamp_ns: int, encoding: str, asked: int | None = None
    ) -> Window | None:
        """See `Recognizer.offer`. A picture is decoded only where its frame is taken, and before the frame counts."""
        width, height = picture.width, picture.height
        signature = signature_of(picture, encoding)
        if not picture.ready:
            with self.lock:
                changed = self._signature not in (None, signature)
                due = self._wanted(asked) and (changed or self.sampler.would_take(stamp_ns))
            if due:
                picture.pixels()
        with self.lock:
            if self.closed:
                return None
            self._frames_received += 1
            if not self._wanted(asked):
                return None
            if self._signature not in (None, signature):
                same_size = self._signature is not None and self._signature[:2] == signature[:2]
                self.reset("encoding change" if same_size else "size change")
            self._signature = signature
            decision = self.sampler.decide(stamp_ns)
            if decision.drop:
                self._dropped[decision.drop] += 1
            if decision.reset:
                self.reset(decision.reset, sampler=False)
            if not decision.take:
                return None
            epoch = self.epoch
        # Decodes only where a reset came between the two looks at the sampler above.
        frame = picture.prepared(self.info.preprocess)
        with self.lock:
            if not self.is_current(epoch):  # somebody reset meanwhile: this frame is from before
                return None
            person = picture.person if isinstance(picture, PersonPicture) else None
            return self._store(StepFrame(stamp_ns, frame, picture.prepare_s, person), width, height)

    def _wanted(self, asked: int | None) -> bool:
        return not self.closed and asked in (None, self.asked)

    def refuse(self) -> None:
        """Count an image that cannot be used."""
        with self.lock:
            self._frames_received += 1
            self._dropped["image"] += 1

    def _store(self, frame: StepFrame, width: int, height: int) -> Window | None:
        if self.mode == "step" and len(self._queue) >= _QUEUE_WINDOWS * self.info.T:
            # Leaving frames out would be hidden in the state for ever: start again, and say so.
            self.reset("overload", sampler=False)
        self.sampled += 1
        self._total_sampled += 1
        self._frames.append(frame)
        if self._watch is not None:
            self._watch(frame)
        if self.mode == "step":
            self._queue.append(frame)
            stamps: tuple[int, ...] = (frame.stamp_ns,)
            return Window(self.epoch, self._due, stamps, (), width, height, frame.preprocess_s, frame.person)
        if self.sampled < self.info.T or (self.sampled - self.info.T) % self.stride:
            return None
        self._due += 1
        stamps, frames = zip(*((f.stamp_ns, f.image) for f in self._frames), strict=True)
        return Window(self.epoch, self._due, stamps, frames, width, height, frame.preprocess_s, frame.person)

    def watch(self, see: Callable[[StepFrame], None] | None) -> None:
        """Give `see` each frame that is sampled from now on; None: no longer.

        Call under the lock; `see` is called under it, too.
        """
        self._watch = see

    @property
    def waiting(self) -> int:
        """How many step frames wait. Call under the lock."""
        return len(self._queue)

    def pop(self) -> StepFrame:
        """The oldest step frame that waits, of which there must be one. Call under the lock."""
        return self._queue.popleft()

    def is_current(self, epoch: int) -> bool:
        """Whether work of this epoch still counts. Call under the lock."""
        return epoch == self.epoch and not self.closed

    def reset(self, reason: str, sampler: bool = True) -> None:
        """Forget all frames and begin a new epoch. Call under the lock."""
        self.epoch += 1
        self._resets[reason] += 1
        self.sampled = 0
        self.void_through = self._due
        self._frames.clear()
        self._queue.clear()
        if sampler:
            self.sampler.reset()
            self._signature = None  # nothing is left that another size could break
        self._broken()

    def close(self) -> None:
        """Take no more frames."""
        with self.lock:
            self.closed = True
            self._frames.clear()
            self._queue.clear()

    def counters(self) -> Counters:
        """All counts. Call under the lock."""
        return Counters(
            self._frames_received,
            self._total_sampled,
            dict(self._dropped),
            dict(self._resets),
            self.results,
            self.skipped,
        )
