# SPDX-License-Identifier: Apache-2.0
"""Opens a bundle's graph with one of the backends; each is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable

from trt_build.bundle import LoadedBundle
from trt_build.engine import PRECISIONS, Engine
from trt_build.errors import EngineError, need
from trt_build.install import extra


def open_engine(
    bundle: LoadedBundle,
    mode: str,
    *,
    backend: str = "auto",
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    engine_policy: str = "rebuild",
    say: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Open the graph of `mode` ("window" or "step") with a backend.

    backend: "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", or "auto", which today is onnxruntime.
    precision: "fp32"; "fp16" (TensorRT and onnxruntime); "bf16" (openvino); "int8" (onnxruntime and openvino, a bundle
        with the graphs of `trt-build quantize`); or "auto", the backend's choice: FP16 for TensorRT, else FP32.
    batch: slots of the engine.
    threads: CPU threads of one call; None is the backend's choice.
    device: "cpu", "cuda", or "cuda:1"; TensorRT takes "cpu", the default, for the first GPU.
    engine_policy: what TensorRT does where no engine in the bundle fits this GPU, version, graph and precision:
        "rebuild" builds one, which takes minutes; "refuse" raises EngineError with the command that builds it.
    say: called with progress lines of such a build, at least every 5 s.

    Raises EngineError where the backend is unknown, not installed or refuses an argument, BundleError where the graph
    does not fit the bundle.
    """
    if batch < 1:
        raise EngineError(f"batch is {batch}; it must be at least 1")
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}; it must be at least 1")
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"unknown precision {precision!r}; use auto, {', '.join(PRECISIONS)}")
    if backend == "openvino":
        need("openvino", extra("openvino"))
        from trt_build.engines.ov import OvEngine

        return OvEngine(bundle, mode, batch=batch, threads=threads, device=device, precision=precision)
    if backend in ("tensorrt", "tensorrt_rtx"):
        from trt_build.engines.trt import TrtEngine

        return TrtEngine(
            bundle,
            mode,
            backend=backend,
            batch=batch,
            device=device,
            precision=precision,
            engine_policy=engine_policy,
            say=say,
        )
    if backend not in ("auto", "onnxruntime"):
        raise EngineError(
            f"unknown backend {backend!r}; use onnxruntime, openvino, tensorrt, tensorrt_rtx or auto"
        )
    need("onnxruntime", extra("onnxruntime"))
    from trt_build.engines.ort import OrtEngine

    return OrtEngine(bundle, mode, batch=batch, threads=threads, device=device, precision=precision)
