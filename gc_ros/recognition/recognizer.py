# SPDX-License-Identifier: Apache-2.0
"""The recogniser: camera images and their stamps in, activities out. Node, bags, videos and evaluation share it.

    offer(image, stamp_ns)   in the image callback: sample by stamps, resize, store. Cheap; never waits for inference.
    infer(window)            in the inference thread: run the engine on the work that `offer` returned.
    push(image, stamp_ns)    both at once, for files.

There are two ways through time. In mode `window` the last T frames are computed afresh for every result; of several
waiting windows only the newest matters. In mode `step` the engine carries the state and sees each sampled frame once,
in order; frames queue up, and one `infer` works off those that wait, T at most.

Every reset begins a new epoch. A window carries the epoch of its frames and becomes void when that epoch ends, so no
result ever mixes the two sides of a gap, of a jump in time, or of a change of the image.

The image callback's half of the work is in `intake`, the engine's half in `turns`.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.images import Picture
from gc_ros.recognition.activity import Activity, Glimpse, softmax, stream_label, to_glimpses, top_k
from gc_ros.recognition.event_log import Announcer, EventLog
from gc_ros.recognition.intake import Counters, Intake, StepFrame, Window
from gc_ros.recognition.sampler import Sampler
from gc_ros.recognition.smoothing import ActivityEvent, Smoothing
from gc_ros.recognition.taught import Lessons
from gc_ros.recognition.turns import Outputs, Reading, StepTurns, WindowTurns
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.errors import EngineError, ImageError

Turn = Generator[None, tuple[Outputs, float], Activity | None]

__all__ = ["Activity", "Counters", "Glimpse", "Recognizer", "Turn", "Window", "stream_label"]


class Recognizer:
    """The recogniser of one camera.

    slot: the camera's row in the engine's batch.
    mode: "window" or "step"; None: the bundle's default. The engine must have been opened in this mode.
    stride: sampled frames from one result to the next. A step model that starts again every T frames has one result a
        start, whatever the stride.
    max_frame_gap_s: see `Sampler`. unknown_threshold: None: the bundle's.
    lessons: what it was taught beside the bundle's activities.
    owns_engine: whether `close` closes the engine; False where several recognisers share it.
    sampler: which frames to take; None: a `Sampler` at the bundle's rate.

    One thread may call `offer` while another calls `infer`; `reset` may come from any thread.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        engine: Engine,
        *,
        slot: int = 0,
        mode: str | None = None,
        stride: int = 1,
        top_k: int = 5,
        smoothing: Smoothing | None = None,
        max_frame_gap_s: float | None = None,
        unknown_threshold: float | None = None,
        lessons: Lessons | None = None,
        owns_engine: bool = True,
        sampler: Sampler | None = None,
    ) -> None:
        self.info = bundle.info
        self.mode = mode or bundle.info.default_mode
        if self.mode not in ("window", "step"):
            raise ValueError(f"mode is 'window' or 'step', not {mode!r}")
        self.input_name = "frames" if self.mode == "window" else "frame"
        if self.input_name not in engine.inputs:
            raise EngineError(f"mode {self.mode!r} needs an engine of it, this one is: {engine.description}")
        if not 0 <= slot < engine.batch:
            raise EngineError(f"no slot {slot}: the engine has {engine.batch}; open it with a larger batch")
        if stride < 1 or top_k < 1:
            raise ValueError(f"stride and top_k must be at least 1, got {stride} and {top_k}")
        self.slot, self.stride, self.top_k = slot, operator.index(stride), operator.index(top_k)
        own = bundle.info.calibration.unknown_threshold
        self.unknown_threshold = own if unknown_threshold is None else unknown_threshold
        if not 0 <= self.unknown_threshold <= 1:
            raise ValueError(f"unknown_threshold is a probability, 0 to 1, not {unknown_threshold}")
        self._engine, self._owns_engine = engine, owns_engine
        self._input: NDArray[np.uint8] | None = None  # made when `infer` first needs it
        self._active = [row == slot for row in range(engine.batch)]
        self._lessons = lessons
        self._announcer = Announcer(self.labels, smoothing, self.info.idle)
        self._intake = Intake(self.info, self.mode, stride, max_frame_gap_s, self._announcer.end, sampler)
        self._lock = self._intake.lock
        self._engine_lock = threading.Lock()  # held while inferring
        turns = WindowTurns if self.mode == "window" else StepTurns
        self._turns = turns(engine, self._intake, slot, self.stride)

    # -- in the image callback -------------------------------------------------------------------------------

    def offer(
        self,
        image: NDArray[np.uint8] | Picture,
        stamp_ns: int,
        *,
        bgr: bool = True,
        encoding: str = "",
        asked: int | None = None,
    ) -> Window | None:
        """Take one camera image; return the work for `infer` that it makes due, or None.

        image: uint8 (H, W, 3) in the channel order `bgr` says, or a `Picture`, which is decoded only where the frame
            is sampled and knows its own channel order.
        encoding: the camera's own name of its encoding. A change of it, like a change of size, is a break.
        asked: the property of that name when the image came; one that a `reset` has overtaken is left out.

        Raises ImageError for an unusable image, which changes nothing. An array is then counted as dropped; a picture
        that cannot be decoded is the caller's to count.
        """
        if not isinstance(image, Picture):
            try:
                image = Picture.of(image, bgr)
            except ImageError:
                self._intake.refuse()
                raise
        return self._intake.offer(image, int(stamp_ns), encoding, asked)

    @property
    def smoothing(self) -> Smoothing:
        """How scores become events.

        A change holds from the next result on and forgets nothing: the smoothed scores, an activity that is on, and
        how long a candidate has lasted are judged by the new values.
        """
        return self._announcer.smoothing

    @smoothing.setter
    def smoothing(self, smoothing: Smoothing) -> None:
        with self._lock:
            self._announcer.smoothing = smoothing

    @property
    def lessons(self) -> Lessons | None:
        """What the recogniser was taught; a change holds from the next result on, and an activity that is on ends."""
        return self._lessons

    @lessons.setter
    def lessons(self, lessons: Lessons | None) -> None:
        with self._lock:
            self._lessons = lessons
            self._announcer.relabel(self.labels)

    @property
    def labels(self) -> list[str]:
        """The bundle's, then those that were taught."""
        return self.info.labels if self._lessons is None else self._lessons.labels

    def log_events(self, log: EventLog) -> None:
        """Note every event from now on there, and nowhere else, in the order in which they come about."""
        with self._lock:
            self._announcer.log = log

    def watch(self, see: Callable[[StepFrame], None] | None) -> None:
        """Give `see` each frame that is sampled from now on, in the thread of `offer`; None: no longer."""
        with self._lock:
            self._intake.watch(see)

    def reset(self, reason: str) -> list[ActivityEvent]:
        """Forget window, state and smoothed scores; windows that wait become void.

        Returns the offset of an activity that was on, if any; the next result does not repeat it.
        """
        with self._lock:
            self._intake.asked += 1
            self._intake.reset(reason)
            return self._announcer.take()

    def take_events(self) -> list[ActivityEvent]:
        """Events of the resets inside `offer`, which otherwise come with the next result."""
        with self._lock:
            return self._announcer.take()

    @property
    def warmup(self) -> tuple[int, int]:
        """(n, T): how many sampled frames the window holds since the last reset, and how many it needs."""
        with self._lock:
            return min(self._intake.sampled, self.info.T), self.info.T

    @property
    def asked(self) -> int:
        """How often `reset` was called."""
        return self._intake.asked

    @property
    def epoch(self) -> int:
        """How many resets there have been."""
        with self._lock:
            return self._intake.epoch

    @property
    def camera_period_s(self) -> float | None:
        """Median period of the recent camera frames by their stamps, seconds; None before the second frame."""
        with self._lock:
            return self._intake.sampler.camera_period_s

    @property
    def max_frame_gap_s(self) -> float:
        """A longer step between two frames is a break."""
        return self._intake.sampler.max_frame_gap_s

    def counters(self) -> Counters:
        """All counts, consistent with one another."""
        with self._lock:
            return self._intake.counters()

    # -- in the inference thread -----------------------------------------------------------------------------

    def infer(self, window: Window) -> Activity | None:
        """Run the engine on a window that `offer` returned.

        Returns None where the window is from before a reset, where a newer one was inferred already, or where (mode
        step) the frames that wait make no result due yet. Raises EngineError where the engine fails or its logits are
        not finite.
        """
        with self._engine_lock:
            calls = self.calls(window)
            try:
                while True:
                    next(calls)
            except StopIteration as done:
                return done.value

    def calls(self, window: Window) -> Generator[None, None, Activity | None]:
        """`infer`, one engine call at a time: yields before each. Nothing else may infer until it is done."""
        if self._input is None:
            shape = self._engine.inputs[self.input_name].sized(self._engine.batch)
            self._input = np.zeros(shape, np.uint8)
        turn = self.turn(window, self._input[self.slot])
        try:
            next(turn)
            while True:
                yield
                began = time.perf_counter()
                out = self._engine.run({self.input_name: self._input}, self._active)
                turn.send((out, time.perf_counter() - began))
        except StopIteration as done:
            return done.value
        except EngineError:
            self.lose_state()
            raise

    def turn(self, window: Window, row: NDArray[np.uint8]) -> Turn:
        """The work on one window as a generator, for the caller that runs the engine: `infer`, or `batch`.

        At each yield, `row` (the camera's row of the engine's input) holds what the next engine call must see; send
        back the outputs of that call and its duration in seconds. Returns and raises what `infer` does.
        """
        with self._lock:
            if not self._intake.is_current(window.epoch):
                return None
        reading = yield from self._turns.turn(window, row)
        return None if reading is None else self._to_activity(window, reading)

    def waits(self, window: Window) -> bool:
        """Whether frames of this window's stream still wait, so that there is more to infer; in mode window never."""
        with self._lock:
            return self._intake.is_current(window.epoch) and self._intake.waiting > 0

    def lose_state(self) -> None:
        """After a failed engine call: begin again where that leaves a carried state undefined."""
        if self._turns.lose_state():
            with self._lock:
                self._intake.reset("engine error")

    def push(
        self, image: NDArray[np.uint8] | Picture, stamp_ns: int, *, bgr: bool = True, encoding: str = ""
    ) -> Activity | None:
        """`offer` and `infer` in one call: nothing is ever skipped."""
        window = self.offer(image, stamp_ns, bgr=bgr, encoding=encoding)
        return None if window is None else self.infer(window)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Take no more images, wait for a running inference, release the engine. May be called twice.

        Returns False where the inference has not ended after `timeout_s`: a hanging engine is left as it is.
        """
        self._intake.close()
        if not self._engine_lock.acquire(timeout=timeout_s):
            return False
        try:
            if self._owns_engine:
                self._engine.close()
        finally:
            self._engine_lock.release()
        return True

    def _to_activity(self, window: Window, reading: Reading) -> Activity | None:
        info = self.info
        own_scores = softmax(reading.logits, info.calibration.temperature)
        size = window.width, window.height
        glimpses = to_glimpses(reading.glimpses, reading.assignment, *size, info, reading.person)
        with self._lock:
            if not self._intake.is_current(window.epoch):  # reset while the engine ran
                return None
            lessons, labels = self._lessons, self.labels
            scores, strange = (
                (own_scores, False) if lessons is None else lessons.apply(own_scores, reading.features)
            )
            self._intake.results += 1
            counters = self._intake.counters()
            best = top_k(scores, labels, self.top_k)
            label, index, score = best[0]
            # The threshold is calibrated for the network's own scores; taught activities have limits of their own.
            weak = index < len(info.labels) and score < self.unknown_threshold
            unknown = strange or weak or label in info.idle
            # What is like nothing that was taught or trained counts for no activity, however sure its scores are.
            counted = np.zeros_like(scores) if strange else scores
            whose = "" if reading.person is None else reading.person.id
            events = self._announcer.update(counted, reading.end_ns, whose)
        return Activity(
            stamp_ns=reading.end_ns,
            window_start_ns=reading.start_ns,
            window_end_ns=reading.end_ns,
            status="unknown" if unknown else "ok",
            label=label,
            index=index,
            score=score,
            top_k=best,
            scores=scores,
            logits=reading.logits.copy(),
            labels=labels,
            glimpses=glimpses,
            preprocess_s=reading.preprocess_s,
            inference_s=reading.inference_s,
            frames_received=counters.frames_received,
            frames_dropped=counters.frames_dropped,
            windows_skipped=counters.windows_skipped,
            model_id=info.model_id,
            width=window.width,
            height=window.height,
            events=events,
            features=reading.features,
            person=reading.person,
            taught=() if lessons is None else lessons.names,
        )
