# SPDX-License-Identifier: Apache-2.0
"""INT8 weights around zero where the processor multiplies them exactly, around 128 elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from tests.trt_build.graphs.test_int8 import quantised
from trt_build.engines import int8_graph
from trt_build.engines.open import open_engine

FLAGS = "processor\t: 0\nmodel name\t: Some avx_vnni processor\nflags\t\t: fpu sse2 avx2 {} fma\nbugs\t\t: amx_int8\n"
HERE = int8_graph.multiplies_signed()


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    int8_graph.multiplies_signed.cache_clear()
    yield
    int8_graph.multiplies_signed.cache_clear()


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (FLAGS.format("avx512_vnni"), True),
        (FLAGS.format("avx_vnni"), True),
        (FLAGS.format("amx_tile amx_int8"), True),
        (FLAGS.format("avx512f avx512bw"), False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_multiplies_exactly_if_linux_says_so(
    text: str | None, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_graph, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert int8_graph.multiplies_signed() is exact


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_results_are_the_same_in_either_form(
    backend: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend, reason=f"pip install -e '.[{backend}]'")
    inputs = np.random.default_rng(5).integers(0, 256, (6, *shape_of(mode)), np.uint8)
    results = []
    for signed in (False, HERE):
        monkeypatch.setattr(int8_graph, "multiplies_signed", lambda signed=signed: signed)
        engine = open_engine(quantised(), mode, backend=backend, precision="int8", threads=1)
        assert ("signed weights" in engine.description) == signed
        name = next(iter(engine.inputs))
        results.append(np.concatenate([engine.run({name: x})["logits"].copy() for x in inputs]))
        engine.close()
    one, other = results
    np.testing.assert_allclose(other, one, atol=0.02 * one.std())


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["onnx", "trt_build.graphs.qdq"])
def test_without_onnx_the_file_itself_runs(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_graph, "multiplies_signed", lambda: True)
    path = quantised().graph("step", "int8")
    assert isinstance(int8_graph.int8_graph(path), bytes)
    monkeypatch.setitem(sys.modules, missing, None)
    assert int8_graph.int8_graph(path) == path


def test_a_graph_that_does_not_parse_is_left_to_who_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_graph, "multiplies_signed", lambda: True)
    (tmp_path / "step.int8.onnx").write_bytes(b"no graph")
    assert int8_graph.int8_graph(tmp_path / "step.int8.onnx") == tmp_path / "step.int8.onnx"


def shape_of(mode: str) -> tuple[int, ...]:
    info = quantised().info
    size = info.preprocess.size
    return (1, info.T, size, size, 3) if mode == "window" else (1, size, size, 3)
