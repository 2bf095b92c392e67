# SPDX-License-Identifier: Apache-2.0
"""Several cameras on one engine: every engine call takes the cameras that have work at that moment.

No camera is waited for. One whose work comes a moment late joins the next call; one that is dead or slow is not
`active`: its row of the batch means nothing and its state stays as it is. In mode `step` a camera with a backlog needs
several calls in a row, and the others join each of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gc_ros.recognition.recognizer import Activity, Recognizer, Turn, Window
from trt_build.engine import Engine
from trt_build.errors import EngineError


@dataclass(frozen=True)
class Outcome:
    """The outcome of one camera's work: an activity, or None, or the error that is this camera's alone."""

    key: str
    ticket: Any  # as given to `add`
    began: float  # time.perf_counter before its first engine call
    activity: Activity | None
    error: EngineError | None = None


@dataclass
class _Running:
    turn: Turn
    window: Window
    ticket: Any
    began: float


class Batch:
    """Runs the recognisers, by camera name, on the one engine they share, one slot each.

    `run` belongs to one thread, and nothing else may use the engine meanwhile. After a `run` that raised, the next one
    starts with what has been added since.
    """

    def __init__(self, engine: Engine, recognizers: Mapping[str, Recognizer]) -> None:
        slots = [r.slot for r in recognizers.values()]
        if len(set(slots)) != len(slots):
            raise EngineError(f"two cameras cannot share a slot of the engine, got slots {slots}")
        self._engine, self._recognizers = engine, dict(recognizers)
        (self._name,) = {r.input_name for r in recognizers.values()}
        self._input = np.zeros(engine.inputs[self._name].sized(engine.batch), np.uint8)
        self._waiting: dict[str, tuple[Window, Any]] = {}
        self._running: dict[str, _Running] = {}
        self.calls = 0  # of the engine that returned

    @property
    def pending(self) -> bool:
        """Whether `run` has something to do."""
        return bool(self._waiting or self._running)

    def add(self, key: str, window: Window, ticket: Any = None) -> None:
        """Add work of a camera for the next `run`; work of the same camera that still waits is forgotten."""
        self._waiting[key] = (window, ticket)

    def run(self) -> list[Outcome]:
        """Run the engine once for every camera that has work; return the outcomes of the work that this finished.

        Work that is void before its first engine call (from before a reset, or overtaken) has no outcome. Raises
        EngineError where the call fails: all work of that call is lost then and, of a step model, the state of every
        camera, because the states of all slots are undefined.
        """
        self._begin()
        if not self._running:
            return []
        active = [False] * self._engine.batch
        for key in self._running:
            active[self._recognizers[key].slot] = True
        began = time.perf_counter()
        try:
            out = self._engine.run({self._name: self._input}, active)
        except Exception:
            self._running.clear()
            for recognizer in self._recognizers.values():
                recognizer.lose_state()
            raise
        run_s = time.perf_counter() - began
        self.calls += 1
        outcomes = []
        for key, running in list(self._running.items()):
            try:
                running.turn.send((out, run_s))
            except StopIteration as done:
                outcomes.append(Outcome(key, running.ticket, running.began, done.value))
                del self._running[key]
                if self._recognizers[key].waits(running.window):
                    # Newer work that is to be added or was brings its own ticket.
                    self._waiting.setdefault(key, (running.window, running.ticket))
            except EngineError as error:  # not finite, in this camera's row alone
                self._recognizers[key].lose_state()
                outcomes.append(Outcome(key, running.ticket, running.began, None, error))
                del self._running[key]
        return outcomes

    def _begin(self) -> None:
        """Start the work that waits, except that of cameras whose earlier work is not finished."""
        for key in [key for key in self._waiting if key not in self._running]:
            window, ticket = self._waiting.pop(key)
            recognizer = self._recognizers[key]
            turn = recognizer.turn(window, self._input[recognizer.slot])
            began = time.perf_counter()
            try:
                next(turn)
            except StopIteration:
                continue
            self._running[key] = _Running(turn, window, ticket, began)
