# SPDX-License-Identifier: Apache-2.0
"""Engines as they are named on the command line: BACKEND:PRECISION[@DEVICE], as "onnxruntime:fp16@cuda"."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from trt_build.bundle import INT8, LoadedBundle, graph_name
from trt_build.engine import PRECISIONS
from trt_build.engines import nvidia
from trt_build.engines.capabilities import check_capability
from trt_build.engines.cuda import load_cuda
from trt_build.errors import EngineError


def split_target(target: str) -> tuple[str, str, str]:
    """(backend, precision, device) of "onnxruntime:fp16@cuda".

    The default precision is FP32, the default device "cpu", which TensorRT takes for the first GPU. Raises
    EngineError.
    """
    name, _, device = target.partition("@")
    backend, _, precision = name.partition(":")
    precision = precision or "fp32"
    if precision not in PRECISIONS:
        raise EngineError(
            f"unknown precision in {target!r}; use BACKEND:PRECISION[@DEVICE] with {', '.join(PRECISIONS)}"
        )
    return backend, precision, device or "cpu"


def candidates(bundle: LoadedBundle) -> list[str]:
    """Every target that can run this bundle on this machine."""
    found = ["onnxruntime:fp32"]
    if _gpu_with("onnxruntime") and _has_cuda_provider():
        found.append("onnxruntime:fp32@cuda")
    if importlib.util.find_spec("onnx") is not None:
        found.append("onnxruntime:fp16")
    quantised = graph_name(bundle.info.default_mode, INT8) in bundle.info.sha256
    found += ["onnxruntime:int8"] * quantised
    found += [f"{name}:fp16" for name in ("tensorrt", "tensorrt_rtx") if _gpu_with(name) and _loads(name)]
    try:
        import openvino
    except ImportError:
        return found
    found.append("openvino:fp32")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found.append("openvino:bf16")
    return found + ["openvino:int8"] * quantised


def _gpu_with(module: str) -> bool:
    return importlib.util.find_spec(module) is not None and Path("/dev/nvidiactl").exists()


def _loads(backend: str) -> bool:
    """Whether this TensorRT runs on the first GPU."""
    try:
        check_capability(nvidia.load(backend), backend, load_cuda().gpu())
    except EngineError:
        return False
    return True


def _has_cuda_provider() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
