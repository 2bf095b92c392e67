# SPDX-License-Identifier: Apache-2.0
"""Names of engines on the command line: backend, precision and device, and what is unknown in them."""

import pytest

from trt_build.engines.targets import split_target
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
