# SPDX-License-Identifier: Apache-2.0
"""The few calls of the CUDA runtime that an engine needs, through NVIDIA's cuda-python; failures are exceptions.

cuda-python returns the error code first and releases the GIL inside its calls.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.engines.nvidia import Gpu
from trt_build.errors import EngineError
from trt_build.install import pip

INSTALL = f"{pip('cuda-bindings==12.*')}, or 13.* where the driver is for CUDA 13 (nvidia-smi shows it)"
_REMEDIES = {
    "cudaErrorMemoryAllocation": "free GPU memory or use fewer cameras in one batch",
    "cudaErrorInsufficientDriver": "install or update the NVIDIA driver",
    "cudaErrorNoDevice": "no GPU is visible; check nvidia-smi and the container's --runtime nvidia",
    "cudaErrorInvalidDevice": "choose an existing GPU with device cuda:N",
}
_OTHERWISE = (
    "the CUDA context may be broken: restart the process; CUDA_LAUNCH_BLOCKING=1 shows the failing call"
)


class Cuda:
    """Calls on one device. `runtime` is the module cuda.bindings.runtime; tests put a double in its place."""

    def __init__(self, runtime: Any, device: int = 0) -> None:
        self._rt = runtime
        self.device = device

    def call(self, name: str, *arguments: Any) -> Any:
        """One call's result, None, or a tuple of results. Raises EngineError with the call's name and a remedy."""
        code, *results = getattr(self._rt, name)(*arguments)
        if int(code) != 0:
            label = getattr(code, "name", f"error {int(code)}")
            raise EngineError(f"{name} failed: {label} ({self._text(code)}); {self._remedy(label)}")
        return results[0] if len(results) == 1 else (tuple(results) or None)

    def _remedy(self, label: str) -> str:
        if label == "cudaErrorInsufficientDriver":
            (_, driver), (_, ours) = self._rt.cudaDriverGetVersion(), self._rt.cudaRuntimeGetVersion()
            if 0 < driver // 1000 < ours // 1000:
                has, needs = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, ours))
                return (
                    f"the driver is for CUDA {has} and cuda-bindings for CUDA {needs}: "
                    f"{pip(f'cuda-bindings=={driver // 1000}.*')}, or update the NVIDIA driver"
                )
        return _REMEDIES.get(label, _OTHERWISE)

    def _text(self, code: Any) -> str:
        _, text = self._rt.cudaGetErrorString(code)
        return text.decode() if isinstance(text, bytes) else str(text)

    def use(self) -> None:
        """Make the device current in this thread. CUDA keeps one for each thread, and runs come from another thread."""
        self.call("cudaSetDevice", self.device)

    def gpu(self) -> Gpu:
        count = self.call("cudaGetDeviceCount")
        if self.device >= count:
            raise EngineError(
                f"no GPU cuda:{self.device}; there are {count}, counted from 0: choose another device"
            )
        found = self.call("cudaGetDeviceProperties", self.device)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Gpu(
            self.device,
            name.strip("\0 "),
            f"{found.major}.{found.minor}",
            int(found.totalGlobalMem),
            int(found.multiProcessorCount),
        )

    def malloc(self, size: int) -> int:
        return int(self.call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        self.call("cudaFree", pointer)

    def pinned(self, size: int) -> int:
        return int(self.call("cudaHostAlloc", size, 0))

    def free_pinned(self, pointer: int) -> None:
        self.call("cudaFreeHost", pointer)

    def copy(self, target: int, source: int, size: int, kind: str, stream: Any) -> None:
        """kind: HostToDevice, DeviceToHost or DeviceToDevice."""
        self.call(
            "cudaMemcpyAsync", target, source, size, self._enum("cudaMemcpyKind", f"cudaMemcpy{kind}"), stream
        )

    def zero(self, target: int, size: int, stream: Any) -> None:
        self.call("cudaMemsetAsync", target, 0, size, stream)

    def stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", 1)  # cudaStreamNonBlocking

    def synchronize(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: Any) -> None:
        self.call("cudaStreamDestroy", stream)

    @contextmanager
    def capture(self, stream: Any) -> Iterator[list[Any]]:
        """Record what the block enqueues as a graph; after the block the list holds it, ready to launch."""
        made: list[Any] = []
        self.call(
            "cudaStreamBeginCapture",
            stream,
            self._enum("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal"),
        )
        try:
            yield made
        except BaseException:
            _, *graphs = self._rt.cudaStreamEndCapture(stream)  # leave the stream usable
            if graphs and graphs[0] is not None and int(graphs[0]):  # None: the recording is invalid
                self._rt.cudaGraphDestroy(graphs[0])
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            made.append(self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self.call("cudaGraphExecDestroy", graph)

    def _enum(self, kind: str, name: str) -> Any:
        return getattr(getattr(self._rt, kind), name)


def load_cuda(device: int = 0) -> Cuda:
    """CUDA through either layout of cuda-python. Raises EngineError with what to install."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return Cuda(importlib.import_module(name), device)
        except ImportError as error:
            failure = error
    raise EngineError(f"cuda-python cannot be imported ({failure}); {INSTALL}")


def host_view(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Host memory at `pointer` as an array that does not own it."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = (ctypes.c_uint8 * size).from_address(pointer)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
