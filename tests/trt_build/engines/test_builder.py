# SPDX-License-Identifier: Apache-2.0
"""What TensorRT's builder is told: FP32 stays FP32, types come from the graph, every flag only where it exists."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import pytest

from trt_build.engines import nvidia
from trt_build.engines.builder import (
    configure,
    constrain,
    creation_flags,
    strongly_typed,
)
from trt_build.engines.sidecar import ANY_GPU, Wanted

FLAGS = {
    "8.6": ("TF32", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "10.3": ("TF32", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "11.4": ("TF32",),
    "12 without STRONGLY_TYPED": ("TF32",),
    "rtx 1.7": ("TF32", "REQUIRE_USER_ALLOCATION"),
}
CREATION = {
    "8.6": {"EXPLICIT_BATCH": 0},
    "10.3": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "11.4": {"STRONGLY_TYPED": 1},
    "12 without STRONGLY_TYPED": {},
    "rtx 1.7": {"STRONGLY_TYPED": 1},
}


class Config:
    """Records flags as TensorRT's builder config does; TF32 is on at first, as in every version."""

    def __init__(self, flags: type[enum.Enum]) -> None:
        self.flags = {flags["TF32"]}
        self.num_compute_capabilities = 0

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        return flag in self.flags

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size


def module(version: str) -> Any:
    """A double of the module as far as `builder` reads it."""
    flags = enum.Enum("BuilderFlag", FLAGS[version])  # type: ignore[misc]
    trt = SimpleNamespace(
        BuilderFlag=flags,
        NetworkDefinitionCreationFlag=SimpleNamespace(**CREATION[version]),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
        ProfilingVerbosity=SimpleNamespace(DETAILED=2),
    )
    if version.startswith("rtx"):
        trt.IRuntimeCache = object
    trt.builder = SimpleNamespace(create_builder_config=lambda: Config(flags))
    return trt


def wanted(precision: str, gpu: str = "NVIDIA H100") -> Wanted:
    return Wanted("tensorrt", "step", precision, 1, "10.3.0", gpu, "8.9", {})


@pytest.mark.parametrize("version", FLAGS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tf32_is_cleared_in_every_version_and_precision_and_the_sidecar_says_so(
    version: str, precision: str
) -> None:
    trt = module(version)
    config, told = configure(trt, trt.builder, wanted(precision), 64)
    assert not config.get_flag(trt.BuilderFlag.TF32) and "TF32 off" in told
    assert config.workspace == 64 << 20 and "workspace 64 MiB" in told
    assert config.profiling_verbosity == 2, "the layer report would have names alone"
    assert precision == "fp16" or not {"FP16", "OBEY_PRECISION_CONSTRAINTS"} & {f.name for f in config.flags}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_real_builder_config_reads_back_without_tf32(precision: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    builder = trt.Builder(nvidia.log_of(trt))
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "no longer on by default"
    config, told = configure(trt, builder, wanted(precision, ANY_GPU), 64)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM89
    assert {"TF32 off", "strongly typed", "REQUIRE_USER_ALLOCATION", "target sm89"} <= set(told)


@pytest.mark.parametrize(
    ("version", "typed", "creation", "half"),
    [
        ("8.6", False, 1, True),
        ("10.3", True, 2, False),
        ("11.4", True, 2, False),
        ("12 without STRONGLY_TYPED", True, 0, False),
        ("rtx 1.7", True, 2, False),
    ],
)
def test_a_network_is_typed_where_the_flag_exists_or_fp16_does_not(
    version: str, typed: bool, creation: int, half: bool
) -> None:
    trt = module(version)
    assert strongly_typed(trt) == typed and creation_flags(trt) == creation
    config, told = configure(trt, trt.builder, wanted("fp16"), 64)
    for name in ("FP16", "OBEY_PRECISION_CONSTRAINTS"):
        assert (name in {flag.name for flag in config.flags}) == half
    assert ("strongly typed" in told) == typed
    allocation = "REQUIRE_USER_ALLOCATION" in {flag.name for flag in config.flags}
    assert allocation == version.startswith("rtx") == nvidia.compiles_at_load(trt)


def test_tensorrt_8_gets_every_layers_precision_from_the_graph() -> None:
    class Layer(SimpleNamespace):
        num_outputs = 2  # as a Split

        def get_output(self, i: int) -> Any:
            return SimpleNamespace(name=self.output)

        def set_output_type(self, i: int, kind: str) -> None:
            vars(self).setdefault("types", {})[i] = kind

    trt = SimpleNamespace(
        float32="f32",
        float16="f16",
        LayerType=SimpleNamespace(CONSTANT=1, SHAPE=2),
    )
    layers = [
        Layer(type=3, output="y"),
        Layer(type=3, output="p"),
        Layer(type=1, output="w"),
        Layer(type=3, output="?"),
    ]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    constrain(trt, network, {"y": 10, "p": 1, "w": 10})  # ONNX's FLOAT16 and FLOAT
    assert (layers[0].precision, layers[1].precision) == ("f16", "f32")
    assert (layers[0].types, layers[1].types) == ({0: "f16", 1: "f16"}, {0: "f32", 1: "f32"})
    assert not hasattr(layers[2], "precision") and not hasattr(layers[3], "precision")
