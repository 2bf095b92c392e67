# SPDX-License-Identifier: Apache-2.0
"""Doubles of the CUDA runtime and of TensorRT that compute, record, and fail on misuse.

What is enqueued runs only when its stream is synchronised, so a result read without synchronising is stale. Memory is
real host memory: reading or writing outside an allocation, freeing twice, using a destroyed stream or graph, or
destroying an engine before its context is an AssertionError. `leaks` lists what was never released.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from trt_build.bundle import LoadedBundle
from trt_build.engines.sidecar import (
    BUILD_VERSION,
    Io,
    Sidecar,
    Wanted,
    plan_path,
    wanted_sources,
    write_plan,
)

GPU = SimpleNamespace(name=b"Double 9000", major=8, minor=9, totalGlobalMem=8 << 30, multiProcessorCount=16)
VERSION = "10.3.0"
PLAN = b"a plan"
KERNELS = b"compiled kernels"


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureInvalidated = 901


class FakeCudart:
    """Stands for the module cuda.bindings.runtime."""

    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h", cudaMemcpyDeviceToDevice="d2d"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, *gpus: Any) -> None:
        self.gpus, self.current = gpus or (GPU,), 0  # as in a new process
        self.calls: list[str] = []
        self.fail: dict[str, cudaError_t] = {}  # call -> error, once
        self.fail_in_capture: dict[str, cudaError_t] = {}
        self.memory: dict[int, tuple[str, Any, int]] = {}  # pointer -> (device or host, buffer, size)
        self.queues: dict[int, list[Callable[[], None]]] = {}  # streams
        self.capturing: int | None = None
        self.captured: list[Callable[[], None]] = []
        self.void = False  # a call failed since the capture began
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = 1

    @property
    def leaks(self) -> list[str]:
        return [*(kind for kind, _, _ in self.memory.values()), *("stream" for _ in self.queues)] + [
            "graph" for _ in self.graphs
        ]

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value) or name == "cudaGetErrorString":
            return value

        def counted(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.fail:
                self.void = self.capturing is not None
                return (self.fail.pop(name),)
            # As the driver does: an error, and None for the graph.
            if name == "cudaStreamEndCapture" and self.void:
                self.capturing, self.void = None, False
                return (cudaError_t.cudaErrorStreamCaptureInvalidated, None)
            result = value(*arguments)
            return (cudaError_t.cudaSuccess, *(() if result is None else (result,)))

        return counted

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def _allocate(self, kind: str, size: int) -> int:
        buffer = np.full(size + 256, 0xAB, np.uint8)  # neither zeros nor aligned by luck
        pointer = -(-buffer.ctypes.data // 256) * 256
        self.memory[pointer] = (kind, buffer, size)
        return pointer

    def check(self, pointer: int, size: int, kind: str | None = None) -> None:
        for start, (found, _, length) in self.memory.items():
            if start <= pointer and pointer + size <= start + length:
                assert kind in (None, found), f"{found} memory where {kind} was said"
                return
        raise AssertionError(f"access outside every allocation: {size} bytes at {pointer}")

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert stream in self.queues, "a stream that does not exist"
        (self.captured if self.capturing == stream else self.queues[stream]).append(work)

    def cudaGetErrorString(self, code: Any) -> Any:
        return cudaError_t.cudaSuccess, b"as injected"

    driver, runtime = 13000, 13000

    def cudaDriverGetVersion(self) -> int:
        return self.driver

    def cudaRuntimeGetVersion(self) -> int:
        return self.runtime

    def cudaSetDevice(self, device: int) -> None:
        assert 0 <= device < len(self.gpus)
        self.current = device

    def cudaGetDeviceCount(self) -> int:
        return len(self.gpus)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return self.gpus[device]

    def cudaMalloc(self, size: int) -> int:
        return self._allocate("device", size)

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._allocate("host", size)

    def _free(self, pointer: int, kind: str) -> None:
        assert pointer in self.memory and self.memory[pointer][0] == kind, "freed twice or never allocated"
        assert not any(self.queues.values()), "memory freed under work in flight"
        del self.memory[pointer]

    def cudaFree(self, pointer: int) -> None:
        self._free(pointer, "device")

    def cudaFreeHost(self, pointer: int) -> None:
        self._free(pointer, "host")

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        ends = {"h2d": ("host", "device"), "d2h": ("device", "host"), "d2d": ("device", "device")}[kind]
        self.check(source, size, ends[0])
        self.check(target, size, ends[1])
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)

    def cudaMemsetAsync(self, target: int, value: int, size: int, stream: int) -> None:
        self.check(target, size, "device")
        self.enqueue(stream, lambda: ctypes.memset(target, value, size) and None)

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        handle = self._handle()
        self.queues[handle] = []
        return handle

    def cudaStreamSynchronize(self, stream: int) -> None:
        assert self.capturing is None, "synchronised while capturing"
        queue = self.queues[stream]
        while queue:
            queue.pop(0)()

    def cudaStreamDestroy(self, stream: int) -> None:
        assert not self.queues.pop(stream), "a stream destroyed under work in flight"

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:
        assert self.capturing is None and not self.queues[stream]
        self.capturing, self.captured = stream, []
        self.fail.update(self.fail_in_capture)

    def cudaStreamEndCapture(self, stream: int) -> int:
        assert self.capturing == stream
        self.capturing = None
        handle = self._handle()
        self.graphs[handle] = self.captured
        return handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        handle = self._handle()
        self.graphs[handle] = list(self.graphs[graph])
        return handle

    def cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cudaGraphExecDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cudaGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            self.enqueue(stream, work)


class FakeTensorRT:
    """Stands for the module tensorrt; its engine computes the bundle's graph of `mode` with ONNX Runtime."""

    __version__ = VERSION

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, cudart: FakeCudart, bundle: LoadedBundle, mode: str, batch: int) -> None:
        self.cudart, self.batch = cudart, batch
        self.session = ort.InferenceSession(str(bundle.graph(mode)))
        self.inputs = {v.name: v for v in self.session.get_inputs()}
        self.outputs = {v.name: v for v in self.session.get_outputs()}
        self.alive: list[str] = []  # runtime, engine, context
        self.refuses: set[str] = set()  # calls that fail
        self.report = '{"Layers": []}'
        self.deserialised: list[bytes] = []

    def nptype(self, kind: Any) -> Any:
        return kind

    def Runtime(self, log: Any) -> _Runtime:
        return _Runtime(self, log)

    def spec(self, name: str) -> tuple[tuple[int, ...], Any]:
        value = self.inputs.get(name) or self.outputs[name]
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        shape = tuple(n if isinstance(n, int) else self.batch for n in value.shape)
        if not isinstance(value.shape[0], int):
            shape = (self.batch, *shape[1:])
        return shape, np.dtype(kinds[value.type])


class FakeRtx(FakeTensorRT):
    """What TensorRT-RTX adds: kernels compiled at load and a cache of them, and questions before loading and recording.

    compiled: how often kernels were compiled. offered: what was handed to the cache. invalid: diagnostics of the plan.
    """

    __version__ = "1.4.0.76"
    IRuntimeCache = object

    class EngineValidity(enum.IntEnum):
        VALID = 0
        SUBOPTIMAL = 1
        INVALID = 2

    class EngineInvalidityDiagnostics(enum.IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4

    def __init__(self, cudart: FakeCudart, bundle: LoadedBundle, mode: str, batch: int) -> None:
        super().__init__(cudart, bundle, mode, batch)
        self.compiled, self.invalid = 0, 0
        self.offered: list[bytes] = []

    def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
        return (self.EngineValidity.INVALID if self.invalid else self.EngineValidity.VALID), self.invalid


class _Living:
    """Notes its birth, and at its end that everything made from it has gone before."""

    kind = ""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        trt.alive.append(self.kind)

    def __del__(self) -> None:
        if self.trt.alive and self.trt.alive[-1] == self.kind:
            self.trt.alive.pop()
        else:
            self.trt.alive.append(f"{self.kind} ended out of order")


class _Runtime(_Living):
    kind = "runtime"

    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        super().__init__(trt)
        self.log = log

    def __getattr__(self, name: str) -> Any:
        if name == "get_engine_validity" and hasattr(self.trt, name):
            return self.trt.get_engine_validity
        raise AttributeError(name)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self.trt.deserialised.append(plan)
        if "deserialize_cuda_engine" in self.trt.refuses:
            self.log.log(1, "the plan is of another world")
            return None
        return _Engine(self.trt)


class _Engine(_Living):
    kind = "engine"
    device_memory_size = device_memory_size_v2 = 1000

    @property
    def num_io_tensors(self) -> int:
        return len(self.trt.inputs) + len(self.trt.outputs)

    def get_tensor_name(self, i: int) -> str:
        return [*self.trt.inputs, *self.trt.outputs][i]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.spec(name)[0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.spec(name)[1]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.trt.inputs else "out"

    def __getattr__(self, name: str) -> Any:
        if name == "create_runtime_config" and hasattr(self.trt, "IRuntimeCache"):
            return lambda: _RuntimeConfig(self.trt)
        raise AttributeError(name)

    def create_execution_context(self, config: _RuntimeConfig | None = None) -> _Context | None:
        if "create_execution_context" in self.trt.refuses:
            return None
        if hasattr(self.trt, "IRuntimeCache"):
            assert config is not None and config.cache is not None, "kernels are compiled at every start"
            if not config.cache.kernels:
                self.trt.compiled += 1
                config.cache.kernels = KERNELS
        return _Context(self.trt)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: self.trt.report)


class _RuntimeConfig(_Living):
    kind = "runtime config"
    cache: _RuntimeCache | None = None

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache(self.trt)

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        self.cache = cache
        return "set_runtime_cache" not in self.trt.refuses


class _RuntimeCache:
    """Takes what this double has serialized, and nothing where "deserialize" is refused (another driver)."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt, self.kernels = trt, b""

    def deserialize(self, kernels: bytes) -> bool:
        self.trt.offered.append(bytes(kernels))
        if "deserialize" in self.trt.refuses:
            return False
        self.kernels = bytes(kernels)
        return True

    def serialize(self) -> bytes | None:
        return None if "serialize" in self.trt.refuses else self.kernels


class _Context(_Living):
    kind = "context"

    def __init__(self, trt: FakeTensorRT) -> None:
        super().__init__(trt)
        self.addresses: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "is_stream_capturable" and hasattr(self.trt, "IRuntimeCache"):
            return lambda stream: "capture" not in self.trt.refuses
        raise AttributeError(name)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        if pointer % 256 or "set_tensor_address" in self.trt.refuses:
            return False
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt = self.trt
        if "execute_async_v3" in trt.refuses or (trt.cudart.capturing and "capture" in trt.refuses):
            return False
        addresses = dict(self.addresses)  # a captured call keeps the addresses of its capture
        assert addresses.keys() == {*trt.inputs, *trt.outputs}, "a tensor without an address"
        assert len(set(addresses.values())) == len(addresses), "two tensors in one place"

        def view(name: str) -> np.ndarray:
            shape, dtype = trt.spec(name)
            size = int(np.prod(shape)) * dtype.itemsize
            trt.cudart.check(addresses[name], size, "device")
            raw = (ctypes.c_uint8 * size).from_address(addresses[name])
            return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

        def work() -> None:
            results = trt.session.run(None, {name: view(name).copy() for name in trt.inputs})
            for name, value in zip(trt.outputs, results, strict=True):
                view(name)[...] = value

        trt.cudart.enqueue(stream, work)
        return True


def install_plan(
    bundle: LoadedBundle, trt: FakeTensorRT, mode: str, gpu: str, compute_capability: str
) -> tuple[Path, Sidecar]:
    """Put `PLAN` and its sidecar where an engine for this GPU is looked for."""
    sources = wanted_sources(bundle, mode)
    backend = "tensorrt_rtx" if isinstance(trt, FakeRtx) else "tensorrt"
    wanted = Wanted(backend, mode, "fp16", trt.batch, trt.__version__, gpu, compute_capability, sources)
    ios = {
        side: [Io(name=n, shape=list(trt.spec(n)[0]), dtype="any") for n in names]
        for side, names in (("inputs", trt.inputs), ("outputs", trt.outputs))
    }
    sidecar = Sidecar(
        **{name: value for name, value in vars(wanted).items() if name in Sidecar.model_fields},
        build_version=BUILD_VERSION,
        onnx_sha256="0",
        flags=[],
        half_layers=[],
        layers=1,
        plan_bytes=len(PLAN),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        build_seconds=0,
        **ios,
    )
    path = plan_path(bundle, wanted)
    path.parent.mkdir(exist_ok=True)
    write_plan(path, PLAN, sidecar)
    return path, sidecar
