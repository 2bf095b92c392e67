# SPDX-License-Identifier: Apache-2.0
"""The engine's half of a recogniser: what an engine call must see, and what its outputs mean.

A turn is the work on one `Window`, written as a generator so that the caller runs the engine: at each yield, `row`
(this recogniser's row of the engine's input) holds what the next call must see, and the caller sends back the
outputs and the seconds that the call took. Several cameras share an engine that way, see `batch`.

One class for each way through time. A turn belongs to the thread that runs the engine; the lock that it shares with
the image callback is never held across a yield.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.intake import Intake, Window
from gc_ros.recognition.region import Person
from trt_build.engine import Engine
from trt_build.errors import EngineError
from trt_build.readout import pool, read_out

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Reading:
    """What the engine makes of one window of T frames."""

    start_ns: int  # stamp of the oldest frame
    end_ns: int  # stamp of the newest
    logits: NDArray[np.float32]  # (K,)
    glimpses: NDArray[Any]  # (G, 4) of the newest frame, in [-1, 1] of the model's input
    assignment: NDArray[Any]  # (C, G) of the newest frame
    # (F,), see `trt_build.readout.pool`; None for graphs without embedding.
    features: NDArray[np.float32] | None
    preprocess_s: float  # of the newest frame
    inference_s: float  # of all engine calls of this turn
    person: Person | None = None  # whom the newest frame shows


ReadingTurn = Generator[None, tuple[Outputs, float], Reading | None]


class WindowTurns:
    """Mode window: each result computes its T frames afresh, so of several waiting windows only the newest matters."""

    def __init__(self, engine: Engine, intake: Intake, slot: int, stride: int) -> None:
        self._intake, self._slot = intake, slot
        self._results_through = 0  # number of the newest window that the engine was given

    def turn(self, window: Window, row: NDArray[np.uint8]) -> ReadingTurn:
        """One engine call; None where a newer window was inferred already. row: (T, S, S, 3)."""
        if window.number <= self._results_through:
            return None
        for t, frame in enumerate(window.frames):
            row[t] = frame
        with self._intake.lock:
            # What a reset made void was not overtaken.
            passed = max(self._results_through, self._intake.void_through)
            self._intake.skipped += max(0, window.number - passed - 1)
        self._results_through = window.number
        out, inference_s = yield
        logits = _finite(out, "logits", self._slot)
        glimpses = _finite(out, "glimpses", self._slot)[-1]
        assignment = _finite(out, "assignment", self._slot)[-1]
        features = pool(_finite(out, "embedding", self._slot)) if "embedding" in out else None
        start_ns, end_ns = window.stamps[0], window.stamps[-1]
        return Reading(
            start_ns,
            end_ns,
            logits,
            glimpses,
            assignment,
            features,
            window.preprocess_s,
            inference_s,
            window.person,
        )

    def lose_state(self) -> bool:
        """A failed call leaves nothing behind: no frames need to be forgotten."""
        return False


class StepTurns:
    """Mode step: the engine carries the state and sees every sampled frame once, in order.

    No frame may be left out, so they queue up. One turn takes those that wait when it begins, T at most, so that an
    engine slower than the camera still gives results; what is left takes another turn. A result is due every `stride`
    frames once T have been seen since the state was reset; of several that fall due in one turn the newest is read.
    """

    def __init__(self, engine: Engine, intake: Intake, slot: int, stride: int) -> None:
        self._engine, self._intake, self._slot, self._stride = engine, intake, slot, stride
        self._engine_epoch = -1  # whose frames the engine's state comes from
        self._since_reset = 0
        self._y: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=intake.info.T)  # (stamp, y_t)
        self._e: deque[NDArray[np.float32]] = deque(maxlen=intake.info.T)  # their embeddings

    def turn(self, window: Window, row: NDArray[np.uint8]) -> ReadingTurn:
        """One engine call a waiting frame; None where no result fell due. row: (S, S, 3)."""
        reading: Reading | None = None
        spent_s, due = 0.0, 0
        with self._intake.lock:
            count = min(self._intake.waiting, self._intake.info.T)
        for _ in range(count):
            with self._intake.lock:
                # A reset took the others.
                if not self._intake.is_current(window.epoch):
                    return None
                frame = self._intake.pop()
            self._begin(window.epoch)
            row[:] = frame.image
            out, seconds = yield
            spent_s += seconds
            self._since_reset += 1
            # The next call overwrites the engine's outputs.
            self._y.append((frame.stamp_ns, _finite(out, "logits", self._slot).copy()))
            if "embedding" in out:
                self._e.append(_finite(out, "embedding", self._slot).copy())
            beyond = self._since_reset - self._intake.info.T
            if beyond >= 0 and beyond % self._stride == 0:
                due += 1
                logits = read_out(y for _, y in self._y)
                glimpses = _finite(out, "glimpses", self._slot).copy()
                assignment = _finite(out, "assignment", self._slot).copy()
                features = pool(np.stack(self._e)) if self._e else None
                start_ns, end_ns = self._y[0][0], frame.stamp_ns
                reading = Reading(
                    start_ns,
                    end_ns,
                    logits,
                    glimpses,
                    assignment,
                    features,
                    frame.preprocess_s,
                    spent_s,
                    frame.person,
                )
        if reading is None:
            return None
        with self._intake.lock:
            self._intake.skipped += due - 1
        return replace(reading, inference_s=spent_s)

    def _begin(self, epoch: int) -> None:
        """Reset the carried state where its frames are from before a break, or where the model's training says so."""
        reset_after = self._intake.info.reset_after
        if self._engine_epoch != epoch or (reset_after and self._since_reset == reset_after):
            self._engine.reset([self._slot])
            self._engine_epoch, self._since_reset = epoch, 0
            self._y.clear()
            self._e.clear()

    def lose_state(self) -> bool:
        """After a failed call the carried state is undefined or poisoned: all frames must be forgotten."""
        self._engine_epoch = -1
        return True


def _finite(out: Outputs, name: str, slot: int) -> NDArray[Any]:
    """The row of an output. Raises EngineError: what is not finite would stay in the smoothed scores for good."""
    row = out[name][slot]
    if not np.isfinite(row).all():
        raise EngineError(f"the engine's {name} are not finite; check the engine with: trt-build verify")
    return row
