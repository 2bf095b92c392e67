# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime backend: CPU everywhere, its CUDA provider where onnxruntime-gpu is installed.

Input, output and state buffers are bound once for each direction of the states (`host_states`), and the two bindings
take turns. On a GPU all buffers lie there, and each binding's run is recorded once as a CUDA graph: the head's many
small operations would otherwise be launched one by one.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from trt_build.bundle import INT8, LoadedBundle
from trt_build.engine import (
    STATE_PREFIX,
    TensorSpec,
    check_inputs,
    check_signature,
    expected_io,
    idle_slots,
    split_states,
    zeros,
)
from trt_build.engines.host_states import DIRECTIONS, HostStates
from trt_build.engines.int8_graph import SIGNED, int8_graph
from trt_build.errors import BundleError, EngineError, need
from trt_build.install import pip

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class _BoundStates(HostStates):
    """States as OrtValues to bind: on the CPU they share the arrays' memory, on a GPU they are copies there.

    value: makes an OrtValue of an array. transfers: counts copies to and from a GPU; None on the CPU.
    """

    def __init__(
        self,
        specs: Mapping[str, TensorSpec],
        batch: int,
        value: Callable[[NDArray[Any]], ort.OrtValue],
        transfers: Counter[str] | None,
    ) -> None:
        super().__init__(specs, batch)
        self.values = tuple({name: value(array) for name, array in arrays.items()} for arrays in self.sets)
        self._transfers = transfers

    def fetch(self, which: int, name: str) -> NDArray[Any]:
        if self._transfers is None:
            return super().fetch(which, name)
        self._transfers["d2h"] += 1
        return np.array(self.values[which][name].numpy())

    def store(self, which: int, name: str, array: NDArray[Any]) -> None:
        if self._transfers is not None:
            self.values[which][name].update_inplace(array)
            self._transfers["h2d"] += 1


class OrtEngine:
    """`trt_build.engine.Engine` on ONNX Runtime; made by `open_engine`.

    transfers: number of copies to and from a GPU since the engine was opened, by direction (h2d, d2h).
    """

    backend = "onnxruntime"

    def __init__(
        self,
        bundle: LoadedBundle,
        mode: str,
        *,
        batch: int = 1,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "auto",
        cuda_graph: bool = True,
    ) -> None:
        self.batch = batch
        self.precision = "fp32" if precision == "auto" else precision
        if self.precision == "bf16":
            raise EngineError("onnxruntime has no bf16; use precision fp32 or int8, or backend openvino")
        self._device, self._device_id = _split_device(device)
        self._graph = cuda_graph and self._device == "cuda"
        self._session: ort.InferenceSession | None = None
        self.transfers: Counter[str] = Counter()
        why = "not asked for"
        if self._graph:
            try:
                self._open(bundle, mode, threads, device)
                self._warm_up()
            except (BundleError, EngineError) as error:
                # A network that cannot be recorded still runs, launched operation by operation.
                self._graph, self._session, why = False, None, str(error)
        if self._session is None:
            self._open(bundle, mode, threads, device)
        self.transfers.clear()
        assert self._session is not None
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.description: str = (
            f"onnxruntime {ort.__version__} {provider}, {mode}, {self.precision}, batch {batch}"
        )
        if self._signed:
            self.description += SIGNED
        if self._blocked:
            self.description += f", caches in blocks of {self._block}"
        if self._device == "cuda" and not self._graph:
            self.description += f", no CUDA graph ({why})"

    def _open(self, bundle: LoadedBundle, mode: str, threads: int | None, device: str) -> None:
        """Open the session and make every buffer."""
        graph = bundle.graph(mode, INT8 if self.precision == INT8 else "fp32")
        source: Path | bytes = graph
        if self.precision == "fp16":
            # The graph that TensorRT compiles, so that the effect of FP16 on the results shows without a GPU.
            need("onnx", pip("onnx"))
            from trt_build.graphs.precision import mixed_precision

            source = mixed_precision(bundle, mode, batch=self.batch).SerializeToString()
        elif self.precision == INT8 and self._device == "cpu":
            source = int8_graph(graph)
        self._session = _open(source, graph, self.batch, threads, device, self._graph)
        self._signed = self.precision == INT8 and source is not graph
        self._block = 0
        self._blocked: list[str] = []
        if self._device == "cpu" and mode == "step" and self.precision in ("fp32", INT8):
            self._block_caches(source, threads)
        graph_in = {v.name: _spec(v, bundle, mode) for v in self._session.get_inputs()}
        graph_out = {v.name: _spec(v, bundle, mode) for v in self._session.get_outputs()}
        self.inputs, found, self.states = split_states(graph_in, graph_out)
        # Where a row of the batch costs time and the graph takes any number of them, idle ones are left out.
        any_batch = all(spec.shape[:1] == (None,) for spec in (*graph_in.values(), *graph_out.values()))
        self._leave_out = self._device == "cpu" and any_batch
        check_signature(bundle, mode, self.inputs, found)
        # Axes the exporter left open are fixed by bundle.json, so that every buffer can be made now.
        want_in, self.outputs = expected_io(bundle.info, mode)
        self.inputs = dict(want_in)
        # On the CPU an OrtValue shares the array's memory: these arrays are the buffers and must be kept.
        self._host = zeros(self.outputs, self.batch)
        self._carried = self._state_buffers(self.states)
        self._results = {n: self._value(a) for n, a in self._host.items()}
        # On a GPU a recorded graph reads its inputs from fixed buffers; on the CPU the caller's arrays are bound.
        blank = {} if self._device == "cpu" else zeros(self.inputs, self.batch)
        self._frames = {n: self._value(a) for n, a in blank.items()}
        self._bindings = [self._bind(read, write) for read, write in DIRECTIONS]
        self._bound: list[dict[str, NDArray[Any]]] = [{}, {}]

    def _block_caches(self, graph: Path | bytes, threads: int | None) -> None:
        """Use the graph with its caches in blocks where it can be made, which is faster and not necessary."""
        with contextlib.suppress(Exception):  # without `onnx`; or of a version whose own operators are others
            from trt_build.engines.ort_caches import block_size, blocked_session

            assert self._session is not None
            found = blocked_session(self._session, graph, threads)
            if found is not None:
                self._block = block_size()
                self._session, self._blocked = found

    def _value(self, array: NDArray[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, self._device_id)

    def _state_buffers(self, specs: Mapping[str, TensorSpec]) -> _BoundStates:
        return _BoundStates(specs, self.batch, self._value, None if self._device == "cpu" else self.transfers)

    def _bind(self, read: int, write: int) -> tuple[Any, ort.RunOptions]:
        """A binding for one direction of the states, and the run options that name its recorded graph."""
        assert self._session is not None
        binding = self._session.io_binding()
        for name in self.states:
            binding.bind_ortvalue_input(name, self._carried.values[read][name])
            binding.bind_ortvalue_output(STATE_PREFIX + name, self._carried.values[write][name])
        for name, value in self._frames.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._results.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        if self._graph:
            options.add_run_config_entry("gpu_graph_id", str(read + 1))
        return binding, options

    def _warm_up(self) -> None:
        """Record both graphs here, where a failure still has a remedy. Each further thread records its own at first."""
        blank = zeros(self.inputs, self.batch)
        for _ in self._bindings:
            self.run(blank)
        self.reset()

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Engine.run`. Passing the same contiguous arrays again costs no rebinding."""
        if self._session is None:
            raise EngineError("the engine is closed; open a new one")
        check_inputs(self.inputs, inputs, self.batch)
        idle = idle_slots(active, self.batch)
        if idle and self._leave_out:
            return self._run_some(inputs, idle)
        direction = self._carried.current
        (binding, options), bound = self._bindings[direction], self._bound[direction]
        for name, array in inputs.items():
            if self._device != "cpu":
                self._frames[name].update_inplace(np.ascontiguousarray(array))
                self.transfers["h2d"] += 1
            elif bound.get(name) is not array:
                array = np.ascontiguousarray(array)
                binding.bind_cpu_input(name, array)
                bound[name] = array  # keeps the memory alive for as long as it is bound
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        self._carried.advance(idle)
        if self._device == "cpu":
            return dict(self._host)
        self.transfers["d2h"] += len(self._results)
        return {name: value.numpy() for name, value in self._results.items()}

    def _run_some(self, inputs: Mapping[str, NDArray[Any]], idle: list[int]) -> dict[str, NDArray[Any]]:
        """A run of the slots that are not idle, as a smaller batch."""
        assert self._session is not None
        rows = [slot for slot in range(self.batch) if slot not in idle]
        if not rows:
            return dict(self._host)
        feed = {name: array[rows] for name, array in inputs.items()}
        feed |= {name: self._carried.fetch(self._carried.current, name)[rows] for name in self.states}
        names = [*self.outputs, *(STATE_PREFIX + name for name in self.states)]
        try:
            found = dict(zip(names, self._session.run(names, feed), strict=True))
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        for name, kept in self._host.items():
            kept[rows] = found[name]
        for name in self.states:
            self._carried.fetch(1 - self._carried.current, name)[rows] = found[STATE_PREFIX + name]
        self._carried.advance(idle)
        return dict(self._host)

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        self._carried.reset(slots)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states, for verification."""
        states = self._carried.read()
        if self._blocked:
            from trt_build.engines.ort_caches import plain_layout

            states |= {name: plain_layout(states[name], self._block) for name in self._blocked}
        return states

    def close(self) -> None:
        """Release the session and its memory."""
        self._bindings, self._bound = [], []
        self._carried, self._results, self._frames = self._state_buffers({}), {}, {}
        self._session = None


def _open(
    source: Path | bytes, graph: Path, batch: int, threads: int | None, device: str, cuda_graph: bool
) -> ort.InferenceSession:
    """A session of `source`, which is or comes from the file `graph`."""
    kind, index = _split_device(device)
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise EngineError(
                f"device {device!r} needs the CUDA provider, but there are only {ort.get_available_providers()}; "
                f"{pip('onnxruntime-gpu')}, or use device cpu"
            )
        if hasattr(ort, "preload_dlls"):  # CUDA and cuDNN from pip are where no loader looks
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
                ort.preload_dlls()
        graphs = {"enable_cuda_graph": "1"} if cuda_graph else {}
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index} | graphs))
    options = ort.SessionOptions()
    if cuda_graph:  # with a known batch, no shape is computed on the host
        options.add_free_dimension_override_by_name("N", batch)
    options.log_severity_level = 3  # errors arrive as exceptions; warnings would clutter a robot's log
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        opened = source if isinstance(source, bytes) else str(source)
        # Its own fallback to the CPU prints on stdout, where answers go, and hides the reason.
        session = ort.InferenceSession(opened, sess_options=options, providers=providers, enable_fallback=0)
    except Exception as error:
        if kind == "cuda" and isinstance(error, RuntimeError):  # of the provider
            raise _not_started(device, str(error)) from None
        raise BundleError(f"{graph}: onnxruntime cannot load it ({error}); export the bundle again") from None
    if kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        # ONNX Runtime would silently use the CPU, at a tenth of the speed.
        raise _not_started(device, "its CUDA provider found no driver, CUDA or cuDNN")
    return session


def _not_started(device: str, why: str) -> EngineError:
    return EngineError(
        f"onnxruntime could not start on {device}: {why}; {pip('onnxruntime-gpu[cuda,cudnn]')}, check nvidia-smi, or "
        "use device cpu"
    )


def _split_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise EngineError(f"unknown device {device!r}; use cpu, cuda, or cuda:1")
    return kind, int(index or 0)


def _spec(value: Any, bundle: LoadedBundle, mode: str) -> TensorSpec:
    dtype = _TYPES.get(value.type)
    if dtype is None:
        raise BundleError(
            f"{bundle.path}: {mode} graph tensor {value.name} has type {value.type}; export the bundle again"
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, np.dtype(dtype))
