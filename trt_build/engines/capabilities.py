# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT loads on which GPU: a table with sources, and the check that reads it before anything is built.

TensorRT-RTX builds an engine for a GPU that it leaves out, and refuses it only when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_build.engines.nvidia import Gpu, numbers_of
from trt_build.errors import EngineError
from trt_build.install import pip


@dataclass(frozen=True)
class Row:
    """What is known of some versions on some compute capabilities.

    first, last: versions, both included, compared as far as they are written: (1, 7) is every 1.7; last None: no end is
        known. loads: whether engines load. source: who says so. get: how to get such a version.
    """

    backend: str
    capabilities: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...] | None
    loads: bool
    source: str
    get: str = ""

    def holds(self, backend: str, version: tuple[int, ...], capability: str) -> bool:
        return (
            self.backend == backend
            and capability in self.capabilities
            and self.first <= version[: len(self.first)]
            and (self.last is None or version[: len(self.last)] <= self.last)
        )


_MATRIX = "NVIDIA's support matrix of TensorRT-RTX"
_MIGRATION = "NVIDIA's page on migrating to TensorRT 11 on JetPack"
_JETPACK_6 = "TensorRT 10.3 of JetPack 6.1 or 6.2"
_JETPACK_7 = "TensorRT 10.16 of JetPack 7.2"
TABLE = (
    Row("tensorrt_rtx", ("7.5", "8.6", "8.9", "12.0"), (1, 0), None, True, f"{_MATRIX} 1.0 to 1.5"),
    Row("tensorrt_rtx", ("8.0",), (1, 4), None, True, "ComputeCapability of the bindings 1.4 to 1.7"),
    Row("tensorrt_rtx", ("12.1",), (1, 5), None, True, f"{_MATRIX} 1.5"),
    Row(
        "tensorrt_rtx", ("9.0",), (1, 4), (1, 4), True,
        "1.4.0.76 built, loaded and ran on an H100 (driver 580, CUDA 13)", pip("tensorrt-rtx==1.4.*"),
    ),
    Row("tensorrt_rtx", ("9.0",), (1, 7), None, False, "1.7 refused on an H200 to load what it had built"),
    Row("tensorrt", ("8.7",), (8, 6), (8, 6), True, "JetPack 6.0"),
    Row("tensorrt", ("8.7",), (10, 3), (10, 3), True, "JetPack 6.1 and 6.2", _JETPACK_6),
    Row(
        "tensorrt", ("8.7",), (10, 13, 3), (10, 13, 3), False,
        "10.13.3 has no code for sm_87 (github.com/NVIDIA-ISAAC-ROS/isaac-ros-cli, issue 22)",
    ),
    Row("tensorrt", ("8.7",), (10, 16), (10, 16), True, "JetPack 7.2 on Orin", _JETPACK_7),
    Row("tensorrt", ("8.7",), (11, 0), (11, 4, 0), False, f"11.0 to 11.4.0 do not support JetPack ({_MIGRATION})"),
    Row("tensorrt", ("8.7",), (11, 4, 1), None, True, f"JetPack 7.2.2 on AGX Orin ({_MIGRATION})"),
)  # fmt: skip


def check_capability(trt: Any, backend: str, gpu: Gpu) -> None:
    """Raise EngineError where this TensorRT does not run on the GPU; the message names a version that does.

    The table decides. Where it has no row, the module's own list of targets does: a GPU that it lists, or that is newer
    than all it lists, is taken. TensorRT without such a list says so itself when it builds.
    """
    capability = gpu.compute_capability
    rows = [row for row in TABLE if row.holds(backend, numbers_of(trt.__version__), capability)]
    if any(row.loads for row in rows):
        return
    why = rows[0].source if rows else _not_listed(trt, capability)
    if why is None:
        return
    raise EngineError(
        f"{backend} {trt.__version__} does not support the {gpu.name} (compute capability {capability}): {why}; "
        f"{instead(backend, capability)}"
    )


def instead(backend: str, capability: str) -> str:
    """What to use on a GPU that a version does not support."""
    others = [row.get for row in TABLE if row.loads and row.get and capability in row.capabilities]
    if backend == "tensorrt":
        return (
            f"use {' or '.join(others)}" if others else "use another version, or onnxruntime with device cuda"
        )
    return f"use {', '.join([*others, 'backend tensorrt'])}, or onnxruntime with device cuda"


def started(kind: Callable[[Any], Any], trt: Any, backend: str, log: Any) -> Any:
    """TensorRT's Builder or Runtime. Raises EngineError where it cannot start on this machine."""
    log.take()
    try:
        return kind(log)
    except TypeError as error:  # pybind11 says only that there is no object
        why = log.take()
        raise EngineError(
            f"{backend} {trt.__version__} cannot start: {why}{remedy(trt, backend, why)}"
        ) from error


def remedy(trt: Any, backend: str, reported: str) -> str:
    """What helps where TensorRT reports an error: "; ..." to append to it, or nothing where we know no remedy."""
    missing = re.search(r"Target GPU SM (\d+)(\d) is not supported", reported)
    driver = re.search(r"CUDA initialization failure|driver version is insufficient", reported)
    if (missing or driver) and _is_jetson() and not _from_jetpack(trt):
        return (
            "; this is pip's TensorRT, built for servers: pip uninstall it with its -bindings and -libs, and take "
            "JetPack's (sudo apt install python3-libnvinfer)"
        )
    if missing:
        capability = f"{missing[1]}.{missing[2]}"
        return f"; {backend} {trt.__version__} has no code for this GPU: {instead(backend, capability)}"
    if driver:
        return "; check nvidia-smi: the driver must be at least as new as the CUDA that this TensorRT was built for"
    return ""


def _is_jetson() -> bool:
    return Path("/etc/nv_tegra_release").exists()


def _from_jetpack(trt: Any) -> bool:
    """Whether the module is the Debian package's; pip installs elsewhere, as root below /usr/local."""
    return str(getattr(trt, "__file__", "")).startswith("/usr/lib/")


def _not_listed(trt: Any, capability: str) -> str | None:
    """Why the module's list of targets leaves a capability out; None where it does not, or has no such list."""
    names = getattr(trt, "ComputeCapability", None)
    if names is None:
        return None
    known = sorted(int(n[2:]) for n in dir(names) if re.fullmatch(r"SM\d+", n))
    own = int(capability.replace(".", ""))
    # GPUs newer than all of these work: TensorRT-RTX compiles an engine's kernels when it is opened.
    if not known or own in known or own > known[-1]:
        return None
    return f"it lists only {', '.join(f'sm{n}' for n in known)}, and nobody has seen it load"
