# SPDX-License-Identifier: Apache-2.0
"""From a plan's bytes to an engine: TensorRT is asked first whether it will run here, where it can be asked."""

from __future__ import annotations

from typing import Any

from trt_build.engines.capabilities import instead, remedy
from trt_build.engines.plan import Plan
from trt_build.errors import EngineError

# By the names of TensorRT-RTX's EngineInvalidityDiagnostics.
_WHY = {
    "VERSION_MISMATCH": "another version built it; build it again with trt-build build --force",
    "OLD_CUDA_DRIVER": "the driver is too old; update the NVIDIA driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old; update it, or use a newer package of TensorRT-RTX",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little free memory; free some, or use fewer cameras in one batch",
    "MALFORMED_ENGINE": "the plan is damaged; build it again with trt-build build --force",
    "CUDA_ERROR": "CUDA does not answer; check nvidia-smi and the driver",
}


def deserialise(trt: Any, runtime: Any, plan: Plan, log: Any) -> Any:
    """The engine of a plan. Raises EngineError with what TensorRT says of it."""
    check_validity(trt, runtime, plan)
    engine = runtime.deserialize_cuda_engine(plan.data)
    if engine is None:
        why = log.take()
        what = remedy(trt, plan.wanted.backend, why) or "; build it again with trt-build build --force"
        raise EngineError(f"deserialize_cuda_engine failed: {why}{what}")
    return engine


def check_validity(trt: Any, runtime: Any, plan: Plan) -> None:
    """Raise EngineError where TensorRT-RTX itself says that the plan is invalid here; others cannot be asked."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, diagnostics = runtime.get_engine_validity(plan.data)
    if validity != trt.EngineValidity.INVALID:
        return
    bits = trt.EngineInvalidityDiagnostics.__members__
    found = [name for name, bit in bits.items() if int(diagnostics) & int(bit)]
    whys = _WHY | {
        "UNSUPPORTED_CC": f"the GPU is not supported; {instead(plan.wanted.backend, plan.wanted.compute_capability)}"
    }
    reasons = "; ".join(f"{name}: {whys[name]}" for name in found if name in whys)
    raise EngineError(
        f"{plan.path}: TensorRT-RTX cannot run it here: {reasons or f'code {int(diagnostics)}'}"
    )
