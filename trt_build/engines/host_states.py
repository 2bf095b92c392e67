# SPDX-License-Identifier: Apache-2.0
"""States of an engine in host memory: two sets of buffers that take turns.

A run reads one set and writes the other, the next run the reverse, so that no state is copied between runs. An engine
binds the buffers once for each direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from trt_build.engine import TensorSpec, chosen_slots, zeros

DIRECTIONS = ((0, 1), (1, 0))  # (set that a run reads, set that it writes)


class HostStates:
    """Both sets of buffers, zeros at first.

    sets: state name -> array (batch, ...), twice. current: the set that holds the states now.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], batch: int) -> None:
        self.sets = tuple(zeros(specs, batch) for _ in DIRECTIONS)
        self.current = 0
        self._batch = batch

    def advance(self, idle: Sequence[int]) -> None:
        """After a run, make the set just written the current one; `idle` slots keep the states they had."""
        if not self.sets[0]:
            return  # a window graph: every run takes the first direction
        if idle:
            for name in self.sets[0]:
                old, new = self.fetch(self.current, name), self.fetch(1 - self.current, name)
                new[idle] = old[idle]
                self.store(1 - self.current, name, new)
        self.current = 1 - self.current

    def reset(self, slots: Sequence[int] | None) -> None:
        """Set the states of these slots (None: all) to zero. Raises EngineError for a slot that does not exist."""
        chosen = chosen_slots(slots, self._batch)
        for name in self.sets[0]:
            array = self.fetch(self.current, name)
            array[chosen] = 0
            self.store(self.current, name, array)

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the current states by name."""
        return {name: self.fetch(self.current, name).copy() for name in self.sets[0]}

    def fetch(self, which: int, name: str) -> NDArray[Any]:
        """One buffer as an array to read and edit. Where the buffer itself lies elsewhere, `store` takes it back."""
        return self.sets[which][name]

    def store(self, which: int, name: str, array: NDArray[Any]) -> None:
        """Put an edited array of `fetch` back; on the host it is the buffer itself."""
