# SPDX-License-Identifier: Apache-2.0
"""TensorRT backend (`tensorrt` and `tensorrt_rtx`): memory is allocated once, states never leave the GPU.

One step copies the frames in, runs the engine and copies all results out; it is recorded as a CUDA graph. There is one
graph for each direction of the states (`device_buffers`), and the two take turns. The calls that take time release the
GIL.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.bundle import LoadedBundle
from trt_build.engine import TensorSpec, check_inputs, check_signature, expected_io, idle_slots, split_states
from trt_build.engines import nvidia
from trt_build.engines.capabilities import check_capability, started
from trt_build.engines.cuda import load_cuda
from trt_build.engines.device_buffers import DeviceBuffers
from trt_build.engines.layers import Layer, read_layer_report
from trt_build.engines.loading import deserialise
from trt_build.engines.plan import Plan, open_plan
from trt_build.engines.runtime_cache import KernelCache, kernel_cache
from trt_build.engines.sidecar import Sidecar
from trt_build.errors import BundleError, EngineError


class TrtEngine:
    """`trt_build.engine.Engine` on TensorRT; made by `open_engine`.

    transfers: number of copies since the engine was opened, by direction (h2d, d2h, d2d).
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
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.backend, self.batch = backend, batch
        self._trt = nvidia.load(backend)
        self._log = nvidia.log_of(self._trt)
        self._cuda = load_cuda(_index(device))
        self._buffers = DeviceBuffers(self._cuda, batch)
        self.transfers = self._buffers.transfers
        self._open = True
        self._graphs: list[tuple[Any, Counter[str]]] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._kernels: KernelCache | None = None
        self._context: Any = None
        try:
            self._cuda.use()
            gpu = self._cuda.gpu()
            check_capability(self._trt, backend, gpu)
            plan = open_plan(
                bundle,
                mode,
                backend=backend,
                batch=batch,
                precision=precision,
                policy=engine_policy,
                gpu=gpu,
                trt=self._trt,
                say=say,
            )
            self._load(plan, say)
            self._signature(bundle, mode, plan.sidecar)
            self._buffers.allocate(self.inputs, self.outputs, self.states)
            self._bind(self._buffers.addresses())
            ways = [self._record_graphs() if cuda_graph else self._run_once()]
            if self._kernels is not None:
                self._kernels.keep()
                ways.append(self._kernels.state)
        except BaseException:
            with contextlib.suppress(EngineError):
                self.close()
            raise
        self.precision = plan.sidecar.precision
        self.description = (
            f"{backend} {self._trt.__version__} {gpu.name}, {mode}, {self.precision}, batch {batch}, "
            f"{', '.join(ways)}, {self.device_bytes / 1e6:.0f} MB on the device"
        )

    # -- opening -------------------------------------------------------------------------------------------------

    def _load(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._runtime = started(self._trt.Runtime, self._trt, self.backend, self._log)
        self._engine = deserialise(self._trt, self._runtime, plan, self._log)
        self._kernels = kernel_cache(self._trt, self._engine, plan.path, plan.sidecar, plan.wanted)
        if self._kernels is None:
            self._context = self._engine.create_execution_context()
        else:
            if self._kernels.reason:
                say(f"compiling the engine's kernels for this GPU: {self._kernels.reason}")
            self._context = self._engine.create_execution_context(self._kernels.config)
        if self._context is None:
            raise EngineError(f"create_execution_context failed: {self._log.take()}; free GPU memory")

    def _signature(self, bundle: LoadedBundle, mode: str, sidecar: Sidecar) -> None:
        """Read inputs, outputs and states from the engine; they must be those of bundle and sidecar."""
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

    @property
    def device_bytes(self) -> int:
        """Device memory in use: buffers and, by the engine's own report, activations (not the weights)."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        return self._buffers.allocated + int(size if size is not None else self._engine.device_memory_size)

    def _bind(self, addresses: Mapping[str, int]) -> None:
        for name, pointer in addresses.items():
            if not self._context.set_tensor_address(name, pointer):
                raise EngineError(
                    f"set_tensor_address refused {name}: {self._log.take()}; build with --force"
                )

    def _record_graphs(self) -> str:
        """Capture one step for each direction of the states. Returns, for the description, how steps will run.

        TensorRT needs one ordinary run before a capture. A network that cannot be captured runs without a graph.
        """
        how = "CUDA graph"
        for _ in range(2 if self.states else 1):
            self._step()
            self._buffers.synchronize()
            # TensorRT-RTX can say beforehand; elsewhere the capture itself shows it.
            able = getattr(self._context, "is_stream_capturable", None)
            if able is not None and not able(int(self._buffers.stream)):
                self._drop_graphs()
                how = "no CUDA graph (TensorRT says that this network cannot be recorded)"
                break
            before = Counter(self.transfers)
            try:
                with self._cuda.capture(self._buffers.stream) as made:
                    self._step()
            except EngineError as error:
                self._drop_graphs()
                how = f"no CUDA graph ({error})"
                break
            self._graphs.append((made[0], self.transfers - before))
            self._buffers.swap()
        self._start_again()
        return how

    def _run_once(self) -> str:
        """Run every kernel without a capture. Returns, for the description, how steps will run."""
        self._step()
        self._buffers.synchronize()
        self._start_again()
        return "no CUDA graph"

    def _start_again(self) -> None:
        """Forget what opening has run: states of zero, no copies counted."""
        self._buffers.current = 0
        self._buffers.reset()
        self._buffers.synchronize()
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
        self._buffers.put(inputs)
        if self._graphs:
            graph, copies = self._graphs[self._buffers.current]
            self._cuda.launch(graph, self._buffers.stream)
            self.transfers.update(copies)
        else:
            self._step()
        self._buffers.keep(idle)
        self._buffers.synchronize()
        self._buffers.swap()
        return self._buffers.results()

    def _step(self) -> None:
        """Enqueue one step: copy frames in, run the engine, copy results out."""
        self._bind(self._buffers.state_addresses())
        self._buffers.copy_in()
        if not self._context.execute_async_v3(int(self._buffers.stream)):
            raise EngineError(f"execute_async_v3 failed: {self._log.take()}; check with trt-build verify")
        self._buffers.copy_out()

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        if self._open:
            self._cuda.use()
        self._buffers.reset(slots)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states on the host, for verification; a step never does this."""
        self._cuda.use()
        return self._buffers.read_states()

    def layers(self) -> list[Layer]:
        """The engine's own layer report."""
        inspector = self._engine.create_engine_inspector()
        return read_layer_report(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Release everything, users before what they use. May be called twice.

        Continues after a failing call, so that a broken context leaks as little as possible; raises the first error.
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
        if self._buffers.stream is not None:
            attempt(self._buffers.synchronize)
        for graph, _ in self._graphs:
            attempt(self._cuda.destroy_graph, graph)
        self._graphs = []
        self._context = None
        if self._kernels is not None:
            self._kernels.close()
        self._engine = None
        self._runtime = None
        self._buffers.free(attempt)
        if errors:
            raise errors[0]

    def _drop_graphs(self) -> None:
        for graph, _ in self._graphs:
            self._cuda.destroy_graph(graph)
        self._graphs = []


def _index(device: str) -> int:
    """GPU number of "cuda" or "cuda:N"; "cpu", the default of `open_engine`, means the first GPU here."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise EngineError(f"unknown device {device!r}; use cuda or cuda:1")
    return int(index or 0)
