# SPDX-License-Identifier: Apache-2.0
"""The recogniser that node, bags, videos and the evaluator share: camera images and stamps in, activities
out.

    offer(image, stamp)   in the image callback: sample by stamps, resize, store. Cheap, never waits for
    inference. infer(window)         in a worker thread: one engine call. push(image, stamp)    both at
    once, for files.

Every reset starts a new epoch. A window carries the epoch of its frames and is refused once that has
passed, so no result mixes the two sides of a gap, a jump, or a change of the image.

Two ways through time: `window` keeps the last T frames and computes them anew for every result; of several
waiting windows only the newest matters. `step` feeds each sampled frame once, in order, to an engine that
carries the state; no frame may be left out there, so they queue up and one `infer` works off all that wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.images import Picture
from gc_ros.recognition.activity import Activity, Glimpse, softmax, stream_label, to_glimpses, top_k
from gc_ros.recognition.intake import Counters, Intake, Window
from gc_ros.recognition.smoothing import ActivityEvent, EventDetector, Smoothing
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.errors import EngineError, ImageError
from trt_build.readout import read_out

Turn = Generator[None, tuple[dict[str, NDArray[Any]], float], Activity | None]

__all__ = ["Activity", "Counters", "Glimpse", "Recognizer", "Window", "stream_label"]


class Recognizer:
    """One camera's recogniser.

    mode: "window" or "step", None = the bundle's default; it must be the mode the engine was opened with.
    slot: this camera's row in the engine's batch.
    stride: sampled frames between two results (a step model that starts again every T frames has one result a
        start, whatever the stride).
    max_frame_gap_s: None = see `Sampler`. unknown_threshold: None = the bundle's.
    owns_engine: whether `close` closes the engine; False when several recognisers share it.
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
        owns_engine: bool = True,
    ) -> None:
        self.info = bundle.info
        self.mode = mode or bundle.info.default_mode
        self.input_name = "frames" if self.mode == "window" else "frame"
        if self.input_name not in engine.inputs:
            raise EngineError(
                f"mode {self.mode!r} needs an engine of that mode, this one is: {engine.description}"
            )
        if not 0 <= slot < engine.batch:
            raise EngineError(f"no slot {slot}: the engine has {engine.batch}; open it with a larger batch")
        if stride < 1 or top_k < 1:
            raise ValueError(f"stride and top_k must be at least 1, got {stride} and {top_k}")
        self.slot, self.stride, self.top_k = slot, stride, top_k
        calibration = bundle.info.calibration
        self.unknown_threshold = (
            calibration.unknown_threshold if unknown_threshold is None else unknown_threshold
        )
        self._engine, self._owns_engine = engine, owns_engine
        self._input: NDArray[np.uint8] | None = None  # made when `infer` first needs it
        self._active = [row == slot for row in range(engine.batch)]
        self._detector = EventDetector(self.info.labels, smoothing)
        self._events: list[ActivityEvent] = []
        self._intake = Intake(self.info, self.mode, stride, max_frame_gap_s, self._end_activity)
        self._lock = self._intake.lock
        self._engine_lock = threading.Lock()  # held while inferring

        # Engine's side: what the states in the engine hold. Touched under _engine_lock only.
        self._results_through = 0  # number of the newest window inferred (mode window)
        self._engine_epoch = -1
        self._since_reset = 0
        self._history: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=self.info.T)  # (stamp, y_t)

    # -- the callback's side ---------------------------------------------------------------------------------

    def offer(
        self, image: NDArray[np.uint8] | Picture, stamp_ns: int, *, bgr: bool = True, encoding: str = ""
    ) -> Window | None:
        """Take one camera image; return work when there is some.

        image: uint8 (H, W, 3), or a `Picture`, whose pixels are made only where the frame is sampled (and whose own
        channel order counts, not `bgr`). encoding: the camera's own name of its encoding; a change of it, like a
        change of size, is a reset. Raises ImageError for an unusable image, which has no effect; an array that is no
        image is counted as dropped, a picture whose pixels cannot be made is the caller's to count.
        """
        if not isinstance(image, Picture):
            try:
                image = Picture.of(image, bgr)
            except ImageError:
                self._intake.refuse()
                raise
        return self._intake.offer(image, int(stamp_ns), encoding)

    @property
    def smoothing(self) -> Smoothing:
        """How scores become events. A change holds from the next result on and forgets nothing: smoothed
        scores, an activity that is on, and how long a candidate has lasted are judged by the new values."""
        return self._detector.smoothing

    @smoothing.setter
    def smoothing(self, smoothing: Smoothing) -> None:
        with self._lock:
            self._detector.smoothing = smoothing

    def reset(self, reason: str) -> list[ActivityEvent]:
        """Forget window, state and smoothing; the next frame starts anew. Waiting windows become void.

        Returns the offset of an activity that was on, if any (it is not repeated with the next result).
        """
        with self._lock:
            self._intake.reset(reason)
            return self._take_events()

    def _end_activity(self) -> None:
        self._events += self._detector.reset()

    def take_events(self) -> list[ActivityEvent]:
        """Events of resets inside `offer`, which otherwise wait for the next result."""
        with self._lock:
            return self._take_events()

    def _take_events(self) -> list[ActivityEvent]:
        events, self._events = self._events, []
        return events

    @property
    def warmup(self) -> tuple[int, int]:
        """(n, T): sampled frames in the window since the last reset, and how many it needs."""
        with self._lock:
            return min(self._intake.sampled, self.info.T), self.info.T

    @property
    def epoch(self) -> int:
        """Number of resets so far."""
        with self._lock:
            return self._intake.epoch

    @property
    def camera_period_s(self) -> float | None:
        """Median period of the recent camera frames in seconds, by their stamps; None before the second
        one."""
        with self._lock:
            return self._intake.sampler.camera_period_s

    @property
    def max_frame_gap_s(self) -> float:
        """A longer step between two frames is a break."""
        return self._intake.sampler.max_frame_gap_s

    def counters(self) -> Counters:
        """All counts, consistent with each other."""
        with self._lock:
            return self._intake.counters()

    # -- the worker's side -----------------------------------------------------------------------------------

    def infer(self, window: Window) -> Activity | None:
        """Run the engine on a window of `offer`.

        Returns None when the window is from before a reset, overtaken by a newer one that was inferred
        already, or (mode step) when the waiting frames make no result yet. Raises EngineError when the
        engine fails or its logits are not finite.
        """
        with self._engine_lock:
            if self._input is None:
                self._input = np.zeros(
                    self._engine.inputs[self.input_name].sized(self._engine.batch), np.uint8
                )
            turn = self.turn(window, self._input[self.slot])
            try:
                next(turn)
                while True:
                    began = time.perf_counter()
                    out = self._engine.run({self.input_name: self._input}, self._active)
                    turn.send((out, (time.perf_counter() - began) * 1e3))
            except StopIteration as done:
                return done.value
            except EngineError:
                self.lose_state()
                raise

    def turn(self, window: Window, row: NDArray[np.uint8]) -> Turn:
        """The work on one window as a generator, for whoever runs the engine (`infer`, `gc_ros.recognition.batch`).

        At each yield `row`, this camera's row of the engine's input, holds what the next engine call must
        see; the outputs of that call and its duration in ms are sent back. It returns what `infer` does.
        """
        if not self._current(window.epoch):
            return None
        steps = self._turn_window if self.mode == "window" else self._turn_steps
        return (yield from steps(window, row))

    def lose_state(self) -> None:
        """After a failed engine call: a state that was carried is undefined or poisoned, start again."""
        if self.mode == "step":
            self._engine_epoch = -1
            with self._lock:
                self._intake.reset("engine error")

    def push(
        self, image: NDArray[np.uint8] | Picture, stamp_ns: int, *, bgr: bool = True, encoding: str = ""
    ) -> Activity | None:
        """`offer` and `infer` in one: nothing is ever skipped."""
        window = self.offer(image, stamp_ns, bgr=bgr, encoding=encoding)
        return None if window is None else self.infer(window)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Take no more images, wait for a running inference, release the engine. May be called twice.

        False when the inference has not ended after `timeout_s`: a hanging engine is left as it is.
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

    def _current(self, epoch: int) -> bool:
        with self._lock:
            return self._intake.is_current(epoch)

    def _turn_window(self, window: Window, row: NDArray[np.uint8]) -> Turn:
        if window.number <= self._results_through:
            return None
        for t, frame in enumerate(window.frames):
            row[t] = frame
        out, inference_ms = yield
        with self._lock:
            self._intake.skipped += window.number - self._results_through - 1
        self._results_through = window.number
        logits = self._finite(out["logits"][self.slot])
        last = out["glimpses"][self.slot, -1], out["assignment"][self.slot, -1]
        return self._result(window, window.stamps[0], window.stamps[-1], logits, last, inference_ms)

    def _turn_steps(self, window: Window, row: NDArray[np.uint8]) -> Turn:
        T, reset_after = self.info.T, self.info.reset_after
        result: tuple[int, int, NDArray[Any], Any, float] | None = None
        spent_ms, due = 0.0, 0
        while True:
            with self._lock:
                if not self._intake.is_current(window.epoch):
                    return None
                frame = self._intake.pop()
            if frame is None:
                break
            if self._engine_epoch != window.epoch or (reset_after and self._since_reset == reset_after):
                self._engine.reset([self.slot])
                self._engine_epoch, self._since_reset = window.epoch, 0
                self._history.clear()
            row[:] = frame.image
            out, run_ms = yield
            spent_ms += run_ms
            self._since_reset += 1
            self._history.append((frame.stamp_ns, self._finite(out["logits"][self.slot]).copy()))
            beyond = self._since_reset - T
            if beyond >= 0 and beyond % self.stride == 0:
                due += 1
                logits = read_out(y for _, y in self._history)
                last = out["glimpses"][self.slot].copy(), out["assignment"][self.slot].copy()
                result = self._history[0][0], frame.stamp_ns, logits, last, frame.preprocess_ms
        if result is None:
            return None
        with self._lock:
            self._intake.skipped += due - 1
        start, end, logits, last, preprocess_ms = result
        return self._result(window, start, end, logits, last, spent_ms, preprocess_ms)

    def _finite(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(logits).all():
            raise EngineError("the engine's logits are not finite; check the engine with: trt-build verify")
        return logits

    def _result(
        self,
        window: Window,
        start_ns: int,
        end_ns: int,
        logits: NDArray[np.float32],
        last: tuple[NDArray[Any], NDArray[Any]],
        inference_ms: float,
        preprocess_ms: float | None = None,
    ) -> Activity | None:
        info = self.info
        scores = softmax(logits, info.calibration.temperature)
        best = top_k(scores, info.labels, self.top_k)
        label, index, score = best[0]
        glimpses = to_glimpses(*last, window.width, window.height, info)
        with self._lock:
            if not self._intake.is_current(window.epoch):  # reset while the engine ran
                return None
            self._intake.results += 1
            counters = self._intake.counters()
            events = self._take_events() + self._detector.update(scores, end_ns)
            return Activity(
                stamp_ns=end_ns,
                window_start_ns=start_ns,
                window_end_ns=end_ns,
                status="ok" if score >= self.unknown_threshold else "unknown",
                label=label,
                index=index,
                score=score,
                top_k=best,
                scores=scores,
                logits=logits.copy(),
                labels=info.labels,
                glimpses=glimpses,
                timings={
                    "preprocess": window.preprocess_ms if preprocess_ms is None else preprocess_ms,
                    "inference": inference_ms,
                },
                frames_in=counters.frames_in,
                frames_dropped=counters.frames_dropped,
                windows_skipped=counters.windows_skipped,
                model_id=info.model_id,
                width=window.width,
                height=window.height,
                events=events,
            )
