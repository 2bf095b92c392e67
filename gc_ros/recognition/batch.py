# SPDX-License-Identifier: Apache-2.0
"""Several cameras on one engine: every engine call takes whatever cameras have work at that moment.

Nobody is waited for. A camera whose work comes a moment late joins the next call; one that is dead or slow is
simply not `active`, its row of the batch means nothing and its state stays as it is. In mode `step` a camera
with a backlog needs several calls in a row, and the others join each of them.
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
    """What came of one camera's work: an activity, or None without one, or the error that was its own."""

    key: str
    ticket: Any  # as given to `add`
    began: float  # time.perf_counter before its first engine call
    activity: Activity | None
    error: EngineError | None = None


@dataclass
class _Running:
    turn: Turn
    ticket: Any
    began: float


class Batch:
    """Feeds the recognisers, by camera name, through the one engine they share, one slot each.

    `run` belongs to one thread; nothing else may use the engine meanwhile. After a `run` that raised, the
    next one starts with what has been added since.
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

    @property
    def pending(self) -> bool:
        """Whether `run` has something to do."""
        return bool(self._waiting or self._running)

    def add(self, key: str, window: Window, ticket: Any = None) -> None:
        """Work of a camera for the next `run`; what still waits of the same camera is forgotten."""
        self._waiting[key] = (window, ticket)

    def run(self) -> list[Outcome]:
        """One engine call, with every camera that has work; what it finished.

        Work that was void before any engine call (from before a reset, overtaken) leaves nothing behind.
        Raises EngineError when the call fails. All work of that call is lost then, and step models start
        again, all cameras: the states of all slots are undefined.
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
        outcomes = []
        for key, running in list(self._running.items()):
            try:
                running.turn.send((out, run_s))
            except StopIteration as done:
                outcomes.append(Outcome(key, running.ticket, running.began, done.value))
                del self._running[key]
            except EngineError as error:  # not finite: this camera's row alone
                self._recognizers[key].lose_state()
                outcomes.append(Outcome(key, running.ticket, running.began, None, error))
                del self._running[key]
        return outcomes

    def _begin(self) -> None:
        """Start what waits, camera by camera, unless its earlier work still goes on."""
        for key in [key for key in self._waiting if key not in self._running]:
            window, ticket = self._waiting.pop(key)
            recognizer = self._recognizers[key]
            turn = recognizer.turn(window, self._input[recognizer.slot])
            began = time.perf_counter()
            try:
                next(turn)
            except StopIteration:
                continue
            self._running[key] = _Running(turn, ticket, began)
