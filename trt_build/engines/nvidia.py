# SPDX-License-Identifier: Apache-2.0
"""What TensorRT and TensorRT-RTX share: finding the module, its version, its log, and the GPU."""

from __future__ import annotations

import functools
import re
import threading
from dataclasses import dataclass
from typing import Any

from trt_build.errors import EngineError, need
from trt_build.install import extra

REMEDIES = {
    "tensorrt": "TensorRT comes with JetPack (sudo apt install python3-libnvinfer) or from NVIDIA's apt repository",
    "tensorrt_rtx": extra("tensorrt_rtx"),
}
OLDEST = {"tensorrt": (8, 6), "tensorrt_rtx": (1, 0)}
NEWEST = {"tensorrt": 11, "tensorrt_rtx": 1}  # major versions


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. Name and capability do not tell two of a kind apart: every Jetson AGX Orin is called "Orin"."""

    index: int
    name: str
    compute_capability: str  # "8.7"
    memory: int  # bytes
    multiprocessors: int


def load(backend: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`. Raises EngineError with what to install."""
    if backend not in REMEDIES:
        raise EngineError(f"{backend!r} does not build engines; use {' or '.join(REMEDIES)}")
    trt = need(backend, REMEDIES[backend])
    major, minor = numbers_of(trt.__version__)[:2]
    if (major, minor) < OLDEST[backend] or major > NEWEST[backend]:
        low = ".".join(map(str, OLDEST[backend]))
        raise EngineError(
            f"{backend} {trt.__version__} is outside {low} to {NEWEST[backend]}.x; {REMEDIES[backend]}"
        )
    return trt


def built_precision(backend: str, precision: str) -> str:
    """The precision of an engine; FP16 for "auto". Raises EngineError for one that no engine is built in."""
    precision = "fp16" if precision == "auto" else precision
    if precision not in ("fp16", "fp32"):
        raise EngineError(f"{backend} engines are built in fp16 or fp32, not {precision}")
    return precision


def numbers_of(version: str) -> tuple[int, ...]:
    """(10, 13, 3, 9) of "10.13.3.9"."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def compiles_at_load(trt: Any) -> bool:
    """Whether kernels are compiled when the engine is opened, as in TensorRT-RTX; `runtime_cache` keeps them."""
    return hasattr(trt, "IRuntimeCache")


@functools.cache
def log_of(trt: Any) -> Any:
    """The one logger of this module in the process; it keeps errors for our exceptions and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self._lock = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                with self._lock:
                    self.errors = [*self.errors[-50:], message]

        def take(self) -> str:
            """The first error since the last call; one that only reports a missing GPU counts last."""
            with self._lock:
                errors, self.errors = self.errors, []
            real = [e for e in errors if "CUDA driver version is insufficient" not in e] or errors
            return real[0] if real else "no reason given"

    return Log()


def parse_target(text: str) -> str:
    """A compute capability "8.9" from "8.9", "89" or "sm89". Raises EngineError."""
    match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    if match is None:
        raise EngineError(f"target {text!r} is not a compute capability; write sm89 or 8.9")
    return f"{int(match[1])}.{match[2]}"
