# SPDX-License-Identifier: Apache-2.0
"""TensorRT backend (`tensorrt` and `tensorrt_rtx`): everything allocated once, the state never leaves the GPU.

One step is one copy of the frames in, one engine call, one copy of all results out, recorded as a CUDA graph. States
live in two sets of buffers A and B: one graph reads A and writes B, the other the reverse, and runs alternate. The
calls that take time let go of the GIL.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.bundle import LoadedBundle
from trt_build.engine import (
    STATE_PREFIX,
    TensorSpec,
    check_inputs,
    check_signature,
    chosen_slots,
    expected_io,
    idle_slots,
    split_states,
)
from trt_build.engines import nvidia
from trt_build.engines.cuda import Cuda, host_view, load_cuda
from trt_build.engines.layers import Layer, read_layer_report
from trt_build.engines.sidecar import EngineRefused, Sidecar, Wanted, find_plan, wanted_sources
from trt_build.errors import BundleError, EngineError

ALIGN = 256  # of device addresses, what TensorRT asks for
POLICIES = ("rebuild", "refuse")


class TrtEngine:
    """`trt_build.engine.Engine` on TensorRT; made by `open_engine`.

    transfers: copies since the engine was opened, by direction (h2d, d2h, d2d).
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        mode: str,
        *,
        backend: str = "tensorrt",
        batch: int = 1,
        device: str = "cuda",
        precision: str = "auto",
        engine_policy: str = "rebuild",
        cuda_graph: bool = True,
        cuda: Cuda | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.backend, self.batch = backend, batch
        self._trt = nvidia.load(backend)
        self._log = nvidia.log_of(self._trt)
        self._cuda = cuda or load_cuda(_index(device))
        self.transfers: Counter[str] = Counter()
        self._open = True
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []
        self._graphs: list[tuple[Any, Counter[str]]] = []
        self._stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._read = 0  # which set of state buffers holds the states now
        try:
            self._cuda.use()
            gpu = self._cuda.gpu()
            nvidia.check_capability(self._trt, backend, gpu)
            plan, sidecar = _plan(bundle, mode, backend, batch, precision, engine_policy, gpu, self._trt, say)
            self._deserialise(plan)
            self._signature(bundle, mode, sidecar)
            self._allocate()
            graph = self._record_graphs() if cuda_graph else "no CUDA graph"
        except BaseException:
            with contextlib.suppress(EngineError):
                self.close()
            raise
        self.precision = sidecar.precision
        self.description = (
            f"{backend} {self._trt.__version__} {gpu.name}, {mode}, {self.precision}, batch {batch}, {graph}, "
            f"{self.device_bytes / 1e6:.0f} MB on the device"
        )

    # -- opening -------------------------------------------------------------------------------------------------

    def _deserialise(self, plan: bytes) -> None:
        self._log.take()
        self._runtime = self._trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"deserialize_cuda_engine failed: {self._log.take()}; build it again with trt-build build --force"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"create_execution_context failed: {self._log.take()}; free GPU memory")

    def _signature(self, bundle: LoadedBundle, mode: str, sidecar: Sidecar) -> None:
        """Inputs, outputs and states of the engine itself, which must be those of bundle and sidecar."""
        specs: dict[bool, dict[str, TensorSpec]] = {True: {}, False: {}}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            shape = tuple(int(n) for n in self._engine.get_tensor_shape(name))
            if not shape or shape[0] != self.batch:
                raise BundleError(
                    f"{bundle.path}: engine tensor {name} has shape {shape}, batch is {self.batch}"
                )
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            specs[is_input][name] = TensorSpec(name, (None, *shape[1:]), dtype)
        told = {io.name for io in (*sidecar.inputs, *sidecar.outputs)}
        if told != specs[True].keys() | specs[False].keys():
            raise BundleError(f"{bundle.path}: engine and sidecar name different tensors; build with --force")
        self.inputs, self.outputs, self.states = split_states(specs[True], specs[False])
        check_signature(bundle, mode, self.inputs, self.outputs)
        want_in, want_out = expected_io(bundle.info, mode)
        self.inputs = dict(want_in)
        self.outputs = {name: self.outputs[name] for name in want_out}

    def _allocate(self) -> None:
        """All buffers: one block in, one block out, each on the device and pinned on the host; states twice."""
        self._stream = self._cuda.stream()
        self._in, self._in_at, self._in_host = self._block(self.inputs)
        self._out, self._out_at, self._out_host = self._block(self.outputs)
        # Callers get ordinary arrays: pinned memory is gone when the engine is closed.
        self._results = {name: np.zeros_like(array) for name, array in self._out_host.items()}
        self._state = [{s.name: self._malloc(self._bytes(s)) for s in self.states.values()} for _ in range(2)]
        self._slot_bytes = {s.name: self._bytes(s) // self.batch for s in self.states.values()}
        for name, (offset, spec) in {**self._in_at, **self._out_at}.items():
            base = self._in if name in self._in_at else self._out
            self._bind(name, base[0] + offset, spec)
        self.reset()
        self._synchronize()

    def _block(
        self, specs: Mapping[str, TensorSpec]
    ) -> tuple[tuple[int, int, int], dict[str, tuple[int, TensorSpec]], dict[str, NDArray[Any]]]:
        """((device, host, size), name -> (offset, spec), name -> pinned array) of tensors that are copied as one."""
        places, size = {}, 0
        for spec in specs.values():
            places[spec.name] = (size, spec)
            size += -(-self._bytes(spec) // ALIGN) * ALIGN
        device = self._malloc(size)
        host = self._cuda.pinned(size)
        self._host_memory.append(host)
        arrays = {n: host_view(host + at, s.sized(self.batch), s.dtype) for n, (at, s) in places.items()}
        for array in arrays.values():
            array[...] = 0
        return (device, host, size), places, arrays

    def _malloc(self, size: int) -> int:
        pointer = self._cuda.malloc(size)
        self._device_memory.append(pointer)
        self._allocated = getattr(self, "_allocated", 0) + size
        return pointer

    def _bytes(self, spec: TensorSpec) -> int:
        return int(np.prod(spec.sized(self.batch))) * spec.dtype.itemsize

    @property
    def device_bytes(self) -> int:
        """Device memory in use: buffers and, by the engine's own report, activations (not the weights)."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        return self._allocated + int(size if size is not None else self._engine.device_memory_size)

    def _bind(self, name: str, pointer: int, spec: TensorSpec) -> None:
        if not self._context.set_tensor_address(name, pointer):
            raise EngineError(f"set_tensor_address refused {spec}: {self._log.take()}; build with --force")

    def _record_graphs(self) -> str:
        """Capture one step for each direction of the states; says how steps will run.

        TensorRT wants one ordinary run before a capture. A network that cannot be captured runs without.
        """
        for read in range(2 if self.states else 1):
            self._read = read
            self._step()
            self._synchronize()
            before = Counter(self.transfers)
            try:
                with self._cuda.capture(self._stream) as made:
                    self._step()
            except EngineError as error:
                self._drop_graphs()
                self._finish_recording()
                return f"no CUDA graph ({error})"
            self._graphs.append((made[0], self.transfers - before))
        self._finish_recording()
        return "CUDA graph"

    def _finish_recording(self) -> None:
        self._read = 0
        self.reset()
        self._synchronize()
        self.transfers.clear()

    # -- running -------------------------------------------------------------------------------------------------

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Engine.run`."""
        if not self._open:
            raise EngineError("the engine is closed; open a new one")
        check_inputs(self.inputs, inputs, self.batch)
        idle = idle_slots(active, self.batch)
        self._cuda.use()
        for name, array in inputs.items():
            np.copyto(self._in_host[name], array)
        if self._graphs:
            graph, copies = self._graphs[self._read]
            self._cuda.launch(graph, self._stream)
            self.transfers += copies
        else:
            self._step()
        if self.states and idle:
            self._keep(idle)
        self._synchronize()
        if self.states:
            self._read = 1 - self._read
        for name, array in self._out_host.items():
            np.copyto(self._results[name], array)
        return dict(self._results)

    def _step(self) -> None:
        """Enqueue one step: frames in, the engine, results out."""
        for name, spec in self.states.items():
            self._bind(name, self._state[self._read][name], spec)
            self._bind(STATE_PREFIX + name, self._state[1 - self._read][name], spec)
        device, host, size = self._in
        self._copy(device, host, size, "HostToDevice")
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f"execute_async_v3 failed: {self._log.take()}; check with trt-build verify")
        device, host, size = self._out
        self._copy(host, device, size, "DeviceToHost")

    def _keep(self, slots: list[int]) -> None:
        """Carry the old states of these slots over into the buffers just written."""
        for name, size in self._slot_bytes.items():
            old, new = self._state[self._read][name], self._state[1 - self._read][name]
            for slot in slots:
                self._copy(new + slot * size, old + slot * size, size, "DeviceToDevice")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        self._cuda.copy(target, source, size, kind, self._stream)
        self.transfers[{"HostToDevice": "h2d", "DeviceToHost": "d2h"}.get(kind, "d2d")] += 1

    def _synchronize(self) -> None:
        self._cuda.synchronize(self._stream)

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        chosen = chosen_slots(slots, self.batch)
        if not self._open:
            return
        self._cuda.use()
        for name, size in self._slot_bytes.items():
            for slot in chosen:
                self._cuda.zero(self._state[self._read][name] + slot * size, size, self._stream)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states on the host, for verification; a step never does this."""
        self._cuda.use()
        found = {}
        for name, spec in self.states.items():
            size = self._bytes(spec)
            host = self._cuda.pinned(size)
            try:
                source = self._state[self._read][name]
                self._cuda.copy(host, source, size, "DeviceToHost", self._stream)
                self._synchronize()
                found[name] = host_view(host, spec.sized(self.batch), spec.dtype).copy()
            finally:
                self._cuda.free_pinned(host)
        return found

    def layers(self) -> list[Layer]:
        """The engine's own layer report."""
        inspector = self._engine.create_engine_inspector()
        return read_layer_report(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Release everything, users before what they use. May be called twice.

        Goes on after a failing call, so that a broken context leaks as little as possible; the first error is raised.
        """
        if not self._open:
            return
        self._open = False
        errors: list[EngineError] = []

        def attempt(call: Any, *arguments: Any) -> None:
            try:
                call(*arguments)
            except EngineError as error:
                errors.append(error)

        attempt(self._cuda.use)
        if self._stream is not None:
            attempt(self._synchronize)
        for graph, _ in self._graphs:
            attempt(self._cuda.destroy_graph, graph)
        self._graphs = []
        self._context = None
        self._engine = None
        self._runtime = None
        if self._stream is not None:
            attempt(self._cuda.destroy_stream, self._stream)
        self._stream = None
        for pointer in self._device_memory:
            attempt(self._cuda.free, pointer)
        self._in_host = self._out_host = {}  # views of memory that is about to go
        for pointer in self._host_memory:
            attempt(self._cuda.free_pinned, pointer)
        self._device_memory, self._host_memory = [], []
        if errors:
            raise errors[0]

    def _drop_graphs(self) -> None:
        for graph, _ in self._graphs:
            self._cuda.destroy_graph(graph)
        self._graphs = []


def _plan(
    bundle: LoadedBundle,
    mode: str,
    backend: str,
    batch: int,
    precision: str,
    policy: str,
    gpu: nvidia.Gpu,
    trt: Any,
    say: Callable[[str], None],
) -> tuple[bytes, Sidecar]:
    """The plan for this GPU, built now if `policy` allows; read only after its sidecar agreed."""
    if policy not in POLICIES:
        raise EngineError(f"unknown engine_policy {policy!r}; use {' or '.join(POLICIES)}")
    precision = "fp16" if precision == "auto" else precision
    wanted = Wanted(
        backend,
        mode,
        precision,
        batch,
        trt.__version__,
        gpu.name,
        gpu.compute_capability,
        wanted_sources(bundle, mode),
    )
    try:
        path, sidecar = find_plan(bundle, wanted)
    except EngineRefused:
        if policy == "refuse":
            raise
        nvidia.need("onnx", "pip install onnx: an engine is built from the bundle's ONNX graph")
        from trt_build.engines.compile import build_engine

        path, sidecar = build_engine(bundle, wanted, say=say)
    try:
        return path.read_bytes(), sidecar
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); build it again") from None


def _index(device: str) -> int:
    """GPU number of "cuda" or "cuda:N"; "cpu", open_engine's default, means the first GPU here."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise EngineError(f"unknown device {device!r}; use cuda or cuda:1")
    return int(index or 0)
