# SPDX-License-Identifier: Apache-2.0
"""The memory of one TensorRT engine, allocated once, and the stream of its copies.

All inputs share one block, all outputs another, each on the device and pinned on the host: a step is one copy in and
one copy out. States stay on the device in two sets of buffers that take turns: a run reads one set and writes the
other, the next run the reverse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.engine import STATE_PREFIX, TensorSpec, chosen_slots
from trt_build.engines.cuda import Cuda, host_view

ALIGN = 256  # of device addresses, what TensorRT asks for
_SHORT = {"HostToDevice": "h2d", "DeviceToHost": "d2h", "DeviceToDevice": "d2d"}


class _Block:
    """Tensors that are copied as one: `size` bytes at `device` and, pinned, at `host`; places: name -> offset."""

    def __init__(self, buffers: DeviceBuffers, specs: Mapping[str, TensorSpec]) -> None:
        self.places: dict[str, int] = {}
        self.size = 0
        for name, spec in specs.items():
            self.places[name] = self.size
            self.size += -(-buffers.bytes_of(spec) // ALIGN) * ALIGN
        self.device = buffers.malloc(self.size)
        self.host = buffers.pinned(self.size)
        self.arrays = {
            name: host_view(self.host + self.places[name], spec.sized(buffers.batch), spec.dtype)
            for name, spec in specs.items()
        }
        for array in self.arrays.values():
            array[...] = 0


class DeviceBuffers:
    """Empty until `allocate`. `free` releases what was allocated, even where `allocate` failed half-way.

    allocated: bytes on the device. transfers: number of copies so far, by direction (h2d, d2h, d2d). current: the set
    that holds the states now.
    """

    def __init__(self, cuda: Cuda, batch: int) -> None:
        self._cuda, self.batch = cuda, batch
        self.stream: Any = None
        self.allocated = 0
        self.transfers: Counter[str] = Counter()
        self.current = 0
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []
        self._states: dict[str, TensorSpec] = {}
        self._slot_bytes: dict[str, int] = {}
        self._blocks: list[_Block] = []

    def allocate(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        states: Mapping[str, TensorSpec],
    ) -> None:
        """Make the stream and all buffers, with states of zero. Raises EngineError."""
        self.stream = self._cuda.stream()
        self._in, self._out = self._blocks = [_Block(self, inputs), _Block(self, outputs)]
        # Callers get ordinary arrays: pinned memory is gone when the engine is closed.
        self._results = {name: np.zeros_like(array) for name, array in self._out.arrays.items()}
        self._sets = [{name: self.malloc(self.bytes_of(s)) for name, s in states.items()} for _ in range(2)]
        self._states = dict(states)
        self._slot_bytes = {name: self.bytes_of(s) // self.batch for name, s in states.items()}
        self.reset()
        self.synchronize()

    def bytes_of(self, spec: TensorSpec) -> int:
        return int(np.prod(spec.sized(self.batch))) * spec.dtype.itemsize

    def malloc(self, size: int) -> int:
        pointer = self._cuda.malloc(size)
        self._device_memory.append(pointer)
        self.allocated += size
        return pointer

    def pinned(self, size: int) -> int:
        pointer = self._cuda.pinned(size)
        self._host_memory.append(pointer)
        return pointer

    def addresses(self) -> dict[str, int]:
        """Device address of every input and output; they never change."""
        return {name: block.device + at for block in self._blocks for name, at in block.places.items()}

    def state_addresses(self) -> dict[str, int]:
        """Device addresses of a run's states: X in the set it reads, next_X in the set it writes."""
        read, write = self._sets[self.current], self._sets[1 - self.current]
        return dict(read) | {STATE_PREFIX + name: pointer for name, pointer in write.items()}

    def put(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Copy inputs into pinned memory, for `copy_in`."""
        for name, array in inputs.items():
            np.copyto(self._in.arrays[name], array)

    def results(self) -> dict[str, NDArray[Any]]:
        """The outputs that `copy_out` brought to the host, by name; the next call overwrites the arrays."""
        for name, array in self._out.arrays.items():
            np.copyto(self._results[name], array)
        return dict(self._results)

    def copy_in(self) -> None:
        self._copy(self._in.device, self._in.host, self._in.size, "HostToDevice")

    def copy_out(self) -> None:
        self._copy(self._out.host, self._out.device, self._out.size, "DeviceToHost")

    def keep(self, slots: Sequence[int]) -> None:
        """After a run and before `swap`, let these slots keep the states they had."""
        for name, size in self._slot_bytes.items():
            old, new = self._sets[self.current][name], self._sets[1 - self.current][name]
            for slot in slots:
                self._copy(new + slot * size, old + slot * size, size, "DeviceToDevice")

    def swap(self) -> None:
        """After a run, make the set just written the current one."""
        if self._states:
            self.current = 1 - self.current

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (None: all) to zero. Raises EngineError for a slot that does not exist."""
        chosen = chosen_slots(slots, self.batch)
        for name, size in self._slot_bytes.items():
            for slot in chosen:
                self._cuda.zero(self._sets[self.current][name] + slot * size, size, self.stream)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the current states on the host."""
        found = {}
        for name, spec in self._states.items():
            size = self.bytes_of(spec)
            host = self._cuda.pinned(size)
            try:
                self._cuda.copy(host, self._sets[self.current][name], size, "DeviceToHost", self.stream)
                self.synchronize()
                found[name] = host_view(host, spec.sized(self.batch), spec.dtype).copy()
            finally:
                self._cuda.free_pinned(host)
        return found

    def synchronize(self) -> None:
        self._cuda.synchronize(self.stream)

    def free(self, attempt: Callable[..., None]) -> None:
        """Release the stream and all memory. attempt: called with (call, argument), may swallow the call's error."""
        if self.stream is not None:
            attempt(self._cuda.destroy_stream, self.stream)
        self.stream = None
        for pointer in self._device_memory:
            attempt(self._cuda.free, pointer)
        self._states, self._slot_bytes = {}, {}
        for block in self._blocks:
            block.arrays = {}  # views of memory that is about to go
        for pointer in self._host_memory:
            attempt(self._cuda.free_pinned, pointer)
        self._device_memory, self._host_memory = [], []

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        self._cuda.copy(target, source, size, kind, self.stream)
        self.transfers[_SHORT[kind]] += 1
