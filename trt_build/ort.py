# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime backend: CPU everywhere, its CUDA provider where onnxruntime-gpu is installed.

Input, output and state buffers are bound once. States live in two sets of buffers A and B: one binding
reads A and writes B, the other reads B and writes A, and runs alternate between the two, so no state is
ever copied.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
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
    chosen_slots,
    expected_io,
    idle_slots,
    need,
    split_states,
)
from trt_build.errors import BundleError, EngineError

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


class OrtEngine:
    """`trt_build.engine.Engine` on ONNX Runtime; made by `open_engine`."""

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
    ) -> None:
        self.batch = batch
        self.precision = "fp32" if precision == "auto" else precision
        if self.precision == "bf16":
            raise EngineError("onnxruntime has no bf16; use precision fp32 or int8, or backend openvino")
        self._session: ort.InferenceSession | None = _open(
            bundle, mode, self.precision, batch, threads, device
        )
        self._device, self._device_id = _split_device(device)
        graph_in = {v.name: _spec(v, bundle, mode) for v in self._session.get_inputs()}
        graph_out = {v.name: _spec(v, bundle, mode) for v in self._session.get_outputs()}
        self.inputs, found, self.states = split_states(graph_in, graph_out)
        check_signature(bundle, mode, self.inputs, found)
        # Axes the exporter left open are fixed by bundle.json, so that every buffer can be made now.
        want_in, self.outputs = expected_io(bundle.info, mode)
        self.inputs = dict(want_in)
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.description = (
            f"onnxruntime {ort.__version__} {provider}, {mode}, {self.precision}, batch {batch}"
        )

        self._host = {s.name: np.zeros(s.sized(batch), s.dtype) for s in self.outputs.values()}
        # On the CPU an OrtValue shares the array's memory: these arrays are the buffers and must stay alive.
        self._arrays = tuple(
            {s.name: np.zeros(s.sized(batch), s.dtype) for s in self.states.values()} for _ in range(2)
        )
        self._values = tuple(
            {n: ort.OrtValue.ortvalue_from_numpy(a, self._device, self._device_id) for n, a in arrays.items()}
            for arrays in self._arrays
        )
        self._bindings = [self._bind(read, write) for read, write in ((0, 1), (1, 0))]
        self._bound: list[dict[str, NDArray[Any]]] = [{}, {}]
        self._read = 0  # which set of state buffers holds the states now

    def _bind(self, read: int, write: int) -> Any:
        assert self._session is not None
        binding = self._session.io_binding()
        for name in self.states:
            binding.bind_ortvalue_input(name, self._values[read][name])
            binding.bind_ortvalue_output(STATE_PREFIX + name, self._values[write][name])
        for name, array in self._host.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Engine.run`. Passing the same contiguous arrays again costs no rebinding."""
        if self._session is None:
            raise EngineError("the engine is closed; open a new one")
        check_inputs(self.inputs, inputs, self.batch)
        idle = idle_slots(active, self.batch)
        binding, bound = self._bindings[self._read], self._bound[self._read]
        for name, array in inputs.items():
            if bound.get(name) is not array:
                if not array.flags.c_contiguous:
                    array = np.ascontiguousarray(array)
                binding.bind_cpu_input(name, array)
                bound[name] = array  # keeps the memory alive for as long as it is bound
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        if self.states:
            if idle:
                self._keep(idle)
            self._read = 1 - self._read
        return dict(self._host)

    def _keep(self, slots: list[int]) -> None:
        """Carry the old states of these slots over into the buffers just written."""
        for name in self.states:
            old, new = self._fetch(self._read, name), self._fetch(1 - self._read, name)
            new[slots] = old[slots]
            self._store(1 - self._read, name, new)

    def _fetch(self, which: int, name: str) -> NDArray[Any]:
        if self._device == "cpu":
            return self._arrays[which][name]
        return np.array(self._values[which][name].numpy())

    def _store(self, which: int, name: str, array: NDArray[Any]) -> None:
        if self._device != "cpu":
            self._values[which][name].update_inplace(array)

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        chosen = chosen_slots(slots, self.batch)
        if self._session is None:
            return
        for name in self.states:
            array = self._fetch(self._read, name)
            array[chosen] = 0
            self._store(self._read, name, array)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states, for verification."""
        return {name: self._fetch(self._read, name).copy() for name in self.states}

    def close(self) -> None:
        """Release the session and its memory."""
        self._bindings, self._bound = [], []
        self._session = None


def _open(
    bundle: LoadedBundle, mode: str, precision: str, batch: int, threads: int | None, device: str
) -> ort.InferenceSession:
    graph = bundle.graph(mode, precision if precision == INT8 else "fp32")
    source: str | bytes = str(graph)
    if precision == "fp16":
        # The graph that TensorRT compiles: what FP16 does to the results can be seen without a GPU.
        need("onnx", "pip install 'glimpse-clouds-python[export]' (or: pip install onnx)")
        from trt_build.precision import mixed_precision

        source = mixed_precision(bundle, mode, batch=batch).SerializeToString()
    kind, index = _split_device(device)
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise EngineError(
                f"device {device!r} needs the CUDA provider, there is {ort.get_available_providers()}; "
                "pip install onnxruntime-gpu, or use device cpu"
            )
        if hasattr(ort, "preload_dlls"):  # CUDA and cuDNN from pip lie where no loader would look
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
                ort.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors arrive as exceptions; warnings would clutter a robot's log
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(source, sess_options=options, providers=providers)
    except Exception as error:
        raise BundleError(f"{graph}: onnxruntime cannot load it ({error}); export the bundle anew") from None
    if kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        # It would go on quietly on the CPU, at a tenth of the speed.
        raise EngineError(
            f"onnxruntime could not start on {device}: its CUDA provider found no driver, CUDA or cuDNN; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', check nvidia-smi, or use device cpu"
        )
    return session


def _split_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise EngineError(f"unknown device {device!r}; use cpu, cuda, or cuda:1")
    return kind, int(index or 0)


def _spec(value: Any, bundle: LoadedBundle, mode: str) -> TensorSpec:
    dtype = _TYPES.get(value.type)
    if dtype is None:
        raise BundleError(
            f"{bundle.path}: {mode} graph tensor {value.name} has type {value.type}; export it anew"
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, np.dtype(dtype))
