# SPDX-License-Identifier: Apache-2.0
"""INT8 graphs: what is quantised and what is not, their place in the bundle, and that both CPU backends run them."""

import functools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from gc_ros.recognition.footage import read_footage
from tests import command_line
from tests.gc_model.runs import bundle, colours, scratch
from tests.trt_build.graphs.test_qdq import network
from trt_build.bundle import LoadedBundle, load_bundle, write_bundle
from trt_build.cli import app
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError
from trt_build.footage import Footage, stream, windows
from trt_build.graphs import int8
from trt_build.graphs.int8 import SENSITIVE, choose, quantize_bundle
from trt_build.graphs.qdq import tensors_to_measure, write_qdq

call = functools.partial(command_line.call, app)


@functools.cache
def quantised() -> LoadedBundle:
    """The tiny bundle with INT8 graphs, ranges measured on its training clips; made once, not to be edited."""
    path = Path(shutil.copytree(bundle(), scratch() / "quantised"))
    loaded = load_bundle(path)
    return quantize_bundle(loaded, read_footage([colours()], loaded.info), samples=6)


def graph(mode: str, precision: str = "int8") -> "onnx.GraphProto":
    return onnx.load(quantised().graph(mode, precision), load_external_data=False).graph


def residual() -> "onnx.ModelProto":
    """Two residual blocks: stem -> a, b -> Add -> Relu -> c -> Add with what was before c -> Relu -> d."""
    helper, rng = onnx.helper, np.random.default_rng(0)
    nodes, tensors = [], []

    def conv(name: str, source: str) -> None:
        weight = rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
        tensors.append(onnx.numpy_helper.from_array(weight, f"{name}_w"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_w"], [name], name))

    conv("stem", "x")
    conv("a", "stem")
    conv("b", "stem")
    nodes.append(helper.make_node("Add", ["a", "b"], ["sum1"], "Add1"))
    nodes.append(helper.make_node("Relu", ["sum1"], ["relu1"], "Relu1"))
    conv("c", "relu1")
    nodes.append(helper.make_node("Add", ["c", "relu1"], ["sum2"], "Add2"))
    nodes.append(helper.make_node("Relu", ["sum2"], ["relu2"], "Relu2"))
    conv("d", "relu2")
    ends = [helper.make_tensor_value_info(name, 1, [1, 8, 6, 6]) for name in ("x", "d")]
    made = helper.make_graph(nodes, "residual", ends[:1], ends[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("spared", "in_int8"),
    [
        ((), {"a", "b", "Add1", "Relu1", "c", "Add2", "Relu2", "d"}),
        (("a_w", "b_w"), {"c", "d"}),
        (("b_w",), {"a", "c", "d"}),
        (("c_w",), {"a", "b", "Add1", "Relu1", "d"}),
    ],
)
def test_a_sum_of_what_is_not_in_int8_is_not_either(spared: tuple[str, ...], in_int8: set[str]) -> None:
    model = residual()
    chosen, left = choose(model.graph, spared)
    assert set(chosen) == in_int8
    assert {"stem", *(name[0] for name in spared)} == set(left)
    x = np.random.default_rng(1).normal(0, 1, (1, 8, 6, 6)).astype(np.float32)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    names = tensors_to_measure(model.graph, chosen)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = ort.InferenceSession(model.SerializeToString()).run(names, {"x": x}) if names else []
    del model.graph.output[1:]
    ranges = {n: (min(float(v.min()), 0.0), float(v.max())) for n, v in zip(names, values, strict=True)}
    write_qdq(model, chosen, ranges)
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        (found,) = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max(), level


@pytest.mark.slow
def test_int8_graphs_are_hashed_and_have_weights_of_their_own():
    loaded = quantised()
    before = load_bundle(bundle()).info
    added = set(loaded.info.sha256) - set(before.sha256)
    assert added == {"window.int8.onnx", "step.int8.onnx", "weights.int8.bin"}
    assert {name: loaded.info.sha256[name] for name in before.sha256} == before.sha256
    assert loaded.info.provenance["int8"]["windows"] == 6
    sizes = {name: (loaded.path / name).stat().st_size for name in ("weights.bin", "weights.int8.bin")}
    assert sizes["weights.int8.bin"] < sizes["weights.bin"]
    for mode in ("window", "step"):
        places = {e.value for t in graph(mode).initializer for e in t.external_data if e.key == "location"}
        assert places == {"weights.int8.bin"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
def test_what_decides_where_to_look_and_who_follows_stays_in_fp32(mode):
    source = graph(mode, "fp32")
    convolutions = [n.name for n in source.node if n.op_type == "Conv"]
    chosen, left = choose(source)
    assert convolutions[0] in left and set(convolutions[1:]) <= set(chosen)
    chosen, left = choose(source, quantised().info.provenance["int8"]["sensitive"])
    assert not any(part in name for part in SENSITIVE for name in chosen)
    for part in ("assignment", "locate", "readout"):
        assert any(part in name for name in left), part
    made_by = {out: node for node in graph(mode).node for out in node.output}
    quantised_products = 0
    for node in graph(mode).node:
        if node.op_type in ("MatMul", "Gemm") and any(part in node.name for part in SENSITIVE):
            assert all(made_by[i].op_type != "DequantizeLinear" for i in node.input if i in made_by), (
                node.name
            )
        elif node.op_type in ("Conv", "MatMul", "Gemm") and node.name in chosen:
            assert made_by[node.input[1]].op_type == "DequantizeLinear", node.name
            quantised_products += 1
    assert quantised_products == len(
        [n for n in source.node if n.name in chosen and n.op_type in ("Conv", "MatMul", "Gemm")]
    )


def test_depthwise_convolutions_stay_in_fp32():
    people = Path(__file__).resolve().parents[3] / "bundles" / "people" / "step.onnx"
    source = onnx.load(people, load_external_data=False).graph
    chosen, left = choose(source)
    groups = {
        n.name: next((a.i for a in n.attribute if a.name == "group"), 1)
        for n in source.node
        if n.op_type == "Conv"
    }
    assert any(g > 1 for g in groups.values())
    assert {n for n, g in groups.items() if g > 1} <= set(left)
    assert all(n in groups or "MatMul" in n or "Gemm" in n for n in chosen)
    # Of the others, those that compute much for what they read and write.
    sizes = {t.name: tuple(t.dims) for t in source.initializer}
    pointwise = [sizes[n.input[1]][:2] for n in source.node if n.op_type == "Conv" and n.name in chosen]
    assert len(pointwise) > 15 and min(out * read / (out + read) for out, read in pointwise) >= 48


@pytest.mark.slow
def test_weights_that_cost_most_are_spared_and_no_more_of_them_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_bundle(bundle())
    clips, source = windows(read_footage([colours()], loaded.info), loaded.info.T, 2), loaded.graph("window")
    trials = int8._Trials(source, clips)
    trials.expect()
    whole = trials.error(choose(trials.graph)[0])
    limits, asked = int8.INT8_LIMITS, []

    def at(part: float) -> list[str]:
        monkeypatch.setattr(int8, "INT8_LIMITS", {n: limit * whole * part for n, limit in limits.items()})
        found, error = int8.sensitive_weights(trials, lambda *a: asked.append(a))
        assert error == trials.error(choose(trials.graph, set(found))[0])
        return found

    assert at(1.01) == [] and not asked
    spared = at(0.8)
    assert asked[-1][0] == asked[-1][1] > len(spared) >= 1
    for count, within in ((len(spared), True), (len(spared) - 1, False)):
        assert (trials.error(choose(trials.graph, set(spared[:count]))[0]) <= 1) is within, count


def test_the_fewest_weights_are_spared_and_those_are_the_most_sensitive() -> None:
    people = Path(__file__).resolve().parents[3] / "bundles" / "people" / "step.onnx"
    source = onnx.load(people, load_external_data=False).graph
    weights = int8._by_weight(source, choose(source)[0])
    drawn = np.random.default_rng(4).permutation(len(weights)) + 1.0
    costs = dict(zip(weights, drawn / drawn[drawn <= 18].sum(), strict=True))

    def error(nodes: list[str]) -> float:
        return sum(cost for weight, cost in costs.items() if set(nodes) & set(weights[weight]))

    trials: Any = SimpleNamespace(graph=source, expect=lambda: None, error=error)
    found, left = int8.sensitive_weights(trials)
    assert len(weights) == 26 and found == sorted(costs, key=lambda weight: costs[weight], reverse=True)[:8]
    assert left == pytest.approx(1)


def test_a_small_product_is_not_worth_it() -> None:
    chosen, left = choose(network().graph)
    assert chosen == ["project"]
    assert left == ["expand", "last"]


def test_where_nothing_is_enough_three_quarters_of_the_weights_rounded_up_stay_in_fp32() -> None:
    people = Path(__file__).resolve().parents[3] / "bundles" / "people" / "step.onnx"
    asked: list[tuple[int, int]] = []
    hopeless: Any = SimpleNamespace(
        graph=onnx.load(people, load_external_data=False).graph,
        expect=lambda: None,
        error=lambda nodes: 2.0,
    )
    found, error = int8.sensitive_weights(hopeless, lambda *count: asked.append(count))
    assert asked[-1] == (26, 26) and len(found) == 20 and error == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
def test_spared_weights_stay_in_fp32_in_every_mode(mode):
    spared = set(quantised().info.provenance["int8"]["sensitive"])
    assert spared, "the untrained network needs some"
    used = [n.name for n in graph(mode, "fp32").node if spared & set(n.input)]
    made_by = {out: node for node in graph(mode).node for out in node.output}
    found = [n for n in graph(mode).node if n.name in used]
    assert len(found) == len(used) > 0
    for node in found:
        assert all(made_by[i].op_type != "DequantizeLinear" for i in node.input[1:] if i in made_by)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_both_backends_run_int8_with_nearly_the_results_of_fp32(backend):
    pytest.importorskip(backend, reason=f"pip install -e '.[{backend}]'")
    loaded = quantised()
    pieces = read_footage([colours()], loaded.info)
    for mode in ("window", "step"):
        name = "frames" if mode == "window" else "frame"
        inputs = windows(pieces, 8, 12) if mode == "window" else np.stack(list(stream(pieces, 48)))
        results = []
        for options in ({"backend": "onnxruntime"}, {"backend": backend, "precision": "int8"}):
            engine = open_engine(loaded, mode, threads=1, **options)
            results.append(np.concatenate([engine.run({name: x[None]})["logits"].copy() for x in inputs]))
            assert not engine.states or all(s.dtype == np.float32 for s in engine.states.values())
            engine.close()
        exact, found = results
        assert np.abs(found - exact).max() > 0  # it is another arithmetic
        assert np.sqrt(np.mean((found - exact) ** 2)) < 0.1 * exact.std(), mode


@pytest.mark.slow
def test_an_edited_int8_graph_is_refused_and_a_new_export_drops_them(tmp_path):
    path = Path(shutil.copytree(quantised().path, tmp_path / "b"))
    with (path / "step.int8.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"step\.int8\.onnx was changed"):
        load_bundle(path)
    info = load_bundle(bundle()).info
    write_bundle(path, info, {name: bundle() / name for name in info.sha256})
    assert not list(path.glob("*int8*")) and load_bundle(path).info.modes == ["window", "step"]


@pytest.mark.slow
def test_clips_of_the_same_name_in_several_folders_all_count(tmp_path):
    loaded = load_bundle(Path(shutil.copytree(quantised().path, tmp_path / "b")))
    size = loaded.info.preprocess.size
    clip = Footage("s001.mp4", "red", np.zeros((loaded.info.T, size, size, 3), np.uint8))
    made = quantize_bundle(loaded, [clip, replace(clip, label="green")], samples=2, spare=False)
    assert made.info.provenance["int8"]["clips"] == 2


@pytest.mark.slow
def test_the_command_quantises_again_and_says_what_comes_next(tmp_path, monkeypatch):
    nothing_to_search_for = dict.fromkeys(int8.INT8_LIMITS, math.inf)
    monkeypatch.setattr(int8, "INT8_LIMITS", nothing_to_search_for)
    path = shutil.copytree(quantised().path, tmp_path / "b")
    text = call("quantize", path, "--clips", colours() / "clips.csv", "--subject", "a", "--samples", 2)
    assert text.exit_code == 0 and "trt-build verify" in text.stdout, text.output
    assert json.loads((path / "bundle.json").read_text())["provenance"]["int8"]["windows"] == 2
    load_bundle(path)


def test_clips_that_do_not_exist_or_do_not_decode_are_one_line(tmp_path):
    path = shutil.copytree(bundle(), tmp_path / "b")
    command_line.assert_one_line(call("quantize", path, "--clips", tmp_path / "none"), "no such clip")
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    command_line.assert_one_line(call("quantize", path, "--clips", tmp_path / "broken.mp4"), "broken.mp4")
    assert load_bundle(path).info.sha256 == load_bundle(bundle()).info.sha256


@pytest.mark.slow
def test_a_bundle_that_is_changed_while_it_is_measured_stays_as_it_was_changed(tmp_path, monkeypatch):
    nothing_to_search_for = dict.fromkeys(int8.INT8_LIMITS, math.inf)
    monkeypatch.setattr(int8, "INT8_LIMITS", nothing_to_search_for)
    path = Path(shutil.copytree(bundle(), tmp_path / "b"))
    loaded = load_bundle(path)
    share, changed = int8.share_weights, []

    def meanwhile(*arguments):
        info = loaded.info.model_copy(update={"model_id": "another"})
        changed.append(write_bundle(path, info, list(loaded.info.sha256)))
        return share(*arguments)

    monkeypatch.setattr(int8, "share_weights", meanwhile)
    with pytest.raises(BundleError, match="changed while it was measured; quantise it again"):
        quantize_bundle(loaded, read_footage([colours()], loaded.info), samples=2)
    assert load_bundle(path).sha256 == changed[0].sha256
