# SPDX-License-Identifier: Apache-2.0
"""What TensorRT's builder is told: types, flags, target, limits. Each is asked for by feature, not by version."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from trt_build.engines.sidecar import ANY_GPU, Wanted


def strongly_typed(trt: Any) -> bool:
    """Whether the graph's types become the engine's.

    TensorRT 8.6 has no such networks; 11 deprecates the flag, because it knows no others and has no FP16 flag.
    """
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(
        trt.BuilderFlag, "FP16"
    )


def creation_flags(trt: Any) -> int:
    """The argument of `create_network`."""
    kinds = trt.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(kinds, name):
            return 1 << int(getattr(kinds, name))
    return 0


def configure(trt: Any, builder: Any, wanted: Wanted, workspace_mb: int) -> tuple[Any, list[str]]:
    """(a builder config for `wanted`, the flags it has, for the sidecar)."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what the layer report needs
    flags = [f"workspace {workspace_mb} MiB"]
    # On by default, it rounds the inputs of FP32 products to 10 bits: FP32 would not be FP32, nor the FP32 parts of an
    # FP16 engine.
    config.clear_flag(trt.BuilderFlag.TF32)
    flags.append("TF32 off")
    if strongly_typed(trt):
        flags.append("strongly typed")
    elif wanted.precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        flags.append("FP16, OBEY_PRECISION_CONSTRAINTS")
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # Without it an execution context may allocate while it runs, and such a run cannot be recorded as a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        flags.append("REQUIRE_USER_ALLOCATION")
    if wanted.gpu == ANY_GPU:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm(wanted.compute_capability)), 0)
        flags.append(f"target {sm(wanted.compute_capability).lower()}")
    return config, flags


def sm(capability: str) -> str:
    """TensorRT's name of a compute capability: "SM89" of "8.9"."""
    return "SM" + capability.replace(".", "")


def constrain(trt: Any, network: Any, types: dict[str, int]) -> None:
    """For TensorRT 8.6: give every layer the precision that the graph gives its result."""
    precisions: dict[int, Any] = {TensorProto.FLOAT: trt.float32, TensorProto.FLOAT16: trt.float16}
    skip = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type in skip or layer.num_outputs == 0:
            continue
        kind = precisions.get(types.get(layer.get_output(0).name, TensorProto.UNDEFINED))
        if kind is not None:
            layer.precision = kind
            for j in range(layer.num_outputs):
                layer.set_output_type(j, kind)
