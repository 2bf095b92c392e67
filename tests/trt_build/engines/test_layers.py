# SPDX-License-Identifier: Apache-2.0
"""The engine's own layer report confirms FP16 or names what is not, in every form that TensorRT gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trt_build.engines.layers import not_half, read_layer_report
from trt_build.errors import EngineError

HERE = Path(__file__).parent


def report(name: str) -> str:
    return (HERE / f"report_{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["tensorrt_8.6", "tensorrt_10", "tensorrt_11", "tensorrt_rtx_1.7"])
def test_every_form_confirms_what_is_half_and_names_what_is_not(form: str) -> None:
    layers = read_layer_report(report(form))
    assert not_half(layers, ["/layer1/Conv", "/omega/Gemm"]) == []
    assert not_half(layers, ["/layer1/Conv", "/layer1/Conv_1", "/omega/Gemm"]) == ["/layer1/Conv_1"]
    assert all(kind for layer in layers for kind in layer.types)


def test_a_node_inside_a_region_counts_as_confirmed_only_where_a_region_is_half() -> None:
    layers = read_layer_report(report("tensorrt_10"))
    assert not_half(layers, ["/inside/Gemm"]) == []
    assert not_half([layer for layer in layers if not layer.region], ["/inside/Gemm"]) == ["/inside/Gemm"]


def test_a_region_with_fp32_ends_denies_nothing() -> None:
    """Products of the head are cast back at once, so a region around them reads and writes FP32."""
    layers = read_layer_report(report("tensorrt_10"))
    ends = [layer for layer in layers if layer.region and not layer.half]
    assert ends and "/workers/MatMul" in ends[0].covers
    assert not_half(layers, ["/workers/MatMul"]) == []
    assert not_half(ends, ["/workers/MatMul"]) == ["/workers/MatMul"]


def test_a_node_is_not_another_whose_name_holds_its_own() -> None:
    entries = [{"Name": "/trunk/layer1/Conv", "Outputs": [{"Format/Datatype": "Half"}]}]
    layers = read_layer_report(json.dumps({"Layers": entries}))
    assert not_half(layers, ["/trunk/layer1/Conv"]) == []
    assert not_half(layers, ["/layer1/Conv", "/trunk/layer1/Con"]) == ["/layer1/Conv", "/trunk/layer1/Con"]


def test_a_report_without_details_or_types_is_an_error() -> None:
    with pytest.raises(EngineError, match="names only"):
        read_layer_report('{"Layers": ["conv1"]}')
    with pytest.raises(EngineError, match="not readable"):
        read_layer_report("Layers: conv1")
    untyped = {
        "Layers": [{"Name": "/a/Conv", "Inputs": [{"Name": "x", "Dimensions": [1, 3]}], "Outputs": []}]
    }
    with pytest.raises(EngineError, match="no types"):
        read_layer_report(json.dumps(untyped))
