# SPDX-License-Identifier: Apache-2.0
"""Names of engines on the command line: backend, precision and device, and what is unknown in them."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from trt_build.bundle import LoadedBundle
from trt_build.engines import targets
from trt_build.engines.targets import candidates, split_target
from trt_build.errors import EngineError


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("onnxruntime", ("onnxruntime", "fp32", "cpu")),
        ("onnxruntime:fp16", ("onnxruntime", "fp16", "cpu")),
        ("onnxruntime:fp32@cuda", ("onnxruntime", "fp32", "cuda")),
        ("tensorrt:fp16@cuda:1", ("tensorrt", "fp16", "cuda:1")),
        ("onnxruntime@cuda", ("onnxruntime", "fp32", "cuda")),
    ],
)
def test_a_target_names_backend_precision_and_device(target: str, parts: tuple[str, str, str]) -> None:
    assert split_target(target) == parts


def test_an_unknown_precision_of_a_target_is_named() -> None:
    with pytest.raises(EngineError, match=r"unknown precision in 'onnxruntime:fp7@cuda'"):
        split_target("onnxruntime:fp7@cuda")


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_what_runs_here_is_tried_unasked_and_nothing_else(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch, quantised: bool, gpu: bool, bf16: bool
) -> None:
    there = ("onnx", "onnxruntime", "tensorrt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(targets, "Path", lambda path: SimpleNamespace(exists=lambda: gpu))
    monkeypatch.setattr(targets, "_has_cuda_provider", lambda: True)
    monkeypatch.setattr(targets, "_loads", lambda backend: True)
    core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"] + ["BF16"] * bf16)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    hashes = numbers.info.sha256 | ({"window.int8.onnx": "0" * 64} if quantised else {})
    bundle = LoadedBundle(numbers.path, numbers.info.model_copy(update={"sha256": hashes}))
    assert candidates(bundle) == [
        "onnxruntime:fp32",
        *["onnxruntime:fp32@cuda"] * gpu,
        "onnxruntime:fp16",
        *["onnxruntime:int8"] * quantised,
        *["tensorrt:fp16"] * gpu,
        "openvino:fp32",
        *["openvino:bf16"] * bf16,
        *["openvino:int8"] * quantised,
    ]
