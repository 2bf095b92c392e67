# SPDX-License-Identifier: Apache-2.0
"""Caches in blocks of channels: results of the plain graph, which itself runs where they are not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from trt_build.bundle import load_bundle
from trt_build.engines import ort_caches
from trt_build.engines.open import open_engine
from trt_build.engines.ort import OrtEngine
from trt_build.engines.ort_caches import block_size, blocked_session, plain_layout
from trt_build.graphs.ranges import session

PEOPLE = Path(__file__).resolve().parents[3] / "bundles" / "people"
MODULE = "trt_build.engines.ort_caches"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrtEngine]:
    """The step of two people as it is without `onnx`."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, MODULE, None)
        engine = open_engine(load_bundle(PEOPLE), "step", batch=2, threads=1)
    assert isinstance(engine, OrtEngine) and "blocks" not in engine.description
    yield engine
    engine.close()


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (frames, 2, 224, 224, 3), np.uint8)


def blocks_here() -> bool:
    """Whether ONNX Runtime computes in blocks on this processor: x86, and the newer of Arm."""
    try:
        return block_size() > 1
    except Exception:
        return False


def test_results_and_states_are_those_of_the_plain_graph(plain: OrtEngine) -> None:
    engine = open_engine(load_bundle(PEOPLE), "step", batch=2, threads=1)
    assert isinstance(engine, OrtEngine)
    assert (f"caches in blocks of {engine._block}" in engine.description) == blocks_here()
    caches = [name for name in engine.states if name.startswith("cache")]
    assert sorted(engine._blocked) == (caches if blocks_here() else [])
    for count, frame in enumerate(noise(6)):
        active = (count != 3, True)
        found = engine.run({"frame": frame}, active)
        for name, expected in plain.run({"frame": frame}, active).items():
            np.testing.assert_allclose(found[name], expected, atol=2e-5, err_msg=f"{name}, frame {count}")
        if count == 4:
            engine.reset([1])
            plain.reset([1])
    states = plain.read_states()
    assert states.keys() == engine.read_states().keys()
    for name, values in engine.read_states().items():
        assert np.abs(states[name][0]).max() > 0, name
        np.testing.assert_allclose(values, states[name], atol=1e-4, err_msg=name)
    engine.close()


@pytest.mark.skipif(not blocks_here(), reason="ONNX Runtime computes plainly on this processor")
def test_no_conversion_is_left_around_the_caches(tmp_path: Path) -> None:
    # Every block of this one has temporal taps.
    model = onnx.load(PEOPLE.parent / "everyday" / "step.onnx")
    caches = ort_caches._added_states(model.graph)
    ort_caches._pool(model.graph, caches)
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    count = sum(node.op_type in ("ReorderInput", "ReorderOutput", "Clip") for node in graph.node)
    blocked = ort_caches._cut(graph, caches)
    ort_caches._fold_clips(graph)
    assert blocked == caches and len(caches) == 32
    left = sum(node.op_type in ("ReorderInput", "ReorderOutput", "Clip") for node in graph.node)
    # Of each cache two conversions; of each convolution with caches two around a clip, and the clip.
    assert count - left == 2 * 32 + 3 * 16
    assert not any(node.op_type == "MaxPool" for node in graph.node)


@pytest.mark.parametrize("what", ["another result", "no such operator"])
def test_the_plain_graph_runs_where_the_other_is_not_its_equal(
    what: str, plain: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = ort_caches._fold_clips

    def damaged(graph: "onnx.GraphProto") -> None:
        fold(graph)
        for node in [n for n in graph.node if n.domain == ort_caches._DOMAIN and n.op_type == "Conv"]:
            if what == "no such operator":
                node.op_type = "ConvOfAnotherVersion"
            for attribute in node.attribute:
                if attribute.name == "activation_params":
                    attribute.floats[:] = [0.0, 1.0]

    monkeypatch.setattr(ort_caches, "_fold_clips", damaged)
    engine = open_engine(load_bundle(PEOPLE), "step", batch=2, threads=1)
    assert "blocks" not in engine.description
    for frame in noise(2):
        found, expected = engine.run({"frame": frame}), plain.run({"frame": frame})
        np.testing.assert_array_equal(found["logits"], expected["logits"])
    engine.close()


@pytest.mark.slow
def test_a_graph_that_loses_any_one_cache_is_not_the_plain_ones_equal() -> None:
    """Of three taps in time, the first reaches a result two frames later."""
    model = onnx.load(PEOPLE / "step.onnx")
    plain, caches = session(model, 1), ort_caches._added_states(model.graph)
    assert len(caches) == 10 and ort_caches._equal(plain, plain)
    unnoticed = []
    for name in caches:
        wrong = onnx.ModelProto()
        wrong.CopyFrom(model)
        (add,) = [node for node in wrong.graph.node if node.op_type == "Add" and name in node.input]
        (other,) = [value for value in add.input if value != name]
        add.CopyFrom(onnx.helper.make_node("Identity", [other], add.output))
        if ort_caches._equal(plain, session(wrong, 1)):
            unnoticed.append(name)
    assert not unnoticed


def test_a_window_has_no_caches() -> None:
    session = ort.InferenceSession(str(PEOPLE / "window.onnx"), providers=["CPUExecutionProvider"])
    assert blocked_session(session, PEOPLE / "window.onnx", 1) is None


def test_layout_of_a_block() -> None:
    plain = np.arange(2 * 32 * 3 * 5, dtype=np.float32).reshape(2, 32, 3, 5)
    for block in (8, 16):
        blocks = plain.reshape(2, 32 // block, block, 3, 5).transpose(0, 1, 3, 4, 2)
        np.testing.assert_array_equal(plain_layout(blocks.reshape(plain.shape), block), plain)
