# SPDX-License-Identifier: Apache-2.0
"""INT8 as pairs of QuantizeLinear and DequantizeLinear: what is written where; ranges are cut where it pays."""

from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from onnx import TensorProto, helper, numpy_helper

from trt_build.graphs.qdq import activation_scale, sign_weights, tensors_to_measure, weight_axis, write_qdq
from trt_build.graphs.ranges import best_range, measure_ranges, run_clips, session

CLIPS = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 6, 3), np.uint8)


def network() -> "onnx.ModelProto":
    """frame -> x; x + (x -> expand -> clip -> project), pooled, plus a state, -> product with a bias -> logits."""
    rng = np.random.default_rng(1)
    weights = {
        "expand_w": rng.normal(size=(8, 3, 1, 1)),
        "expand_b": rng.normal(size=8),
        "project_w": rng.normal(size=(3, 8, 1, 1)),
        "project_b": rng.normal(size=3),
        "last_w": rng.normal(size=(5, 3)),
        "last_b": 10 * rng.normal(size=5),
        "least": np.array(0),
        "most": np.array(6),
        "half": np.array(128),
    }
    weights["expand_w"][2] = 0  # a channel that a training has left to its bias
    weights["last_w"][4] = 0
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "half"], ["x"], "scale"),
        helper.make_node("Conv", ["x", "expand_w", "expand_b"], ["e"], "expand"),
        helper.make_node("Clip", ["e", "least", "most"], ["c"], "clip"),
        helper.make_node("Conv", ["c", "project_w", "project_b"], ["p"], "project"),
        helper.make_node("Add", ["x", "p"], ["r"], "residual"),
        helper.make_node("ReduceMean", ["r"], ["pooled"], "pool", axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["pooled", "h"], ["next_h"], "remember"),
        helper.make_node("Gemm", ["next_h", "last_w", "last_b"], ["logits"], "last", transB=1),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info("frame", TensorProto.UINT8, ["N", 6, 6, 3]),
            helper.make_tensor_value_info("h", floats, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["N", 5]),
            helper.make_tensor_value_info("next_h", floats, ["N", 3]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantised(*chosen: str) -> "onnx.ModelProto":
    model = network()
    names = tensors_to_measure(model.graph, chosen)
    write_qdq(model, chosen, measure_ranges(model, CLIPS, names))
    onnx.checker.check_model(model)
    return model


def logits(model: "onnx.ModelProto") -> np.ndarray:
    return np.concatenate([found["logits"] for found in run_clips(session(model, 1), CLIPS, ["logits"])])


def test_only_the_chosen_read_int8_and_a_residual_stays_float() -> None:
    graph = quantised("expand", "project").graph
    made_by = {out: node for node in graph.node for out in node.output}
    nodes = {node.name: node for node in graph.node}
    for name in ("expand", "project"):
        assert [made_by[i].op_type for i in nodes[name].input] == ["DequantizeLinear"] * 3, name
    assert nodes["residual"].input[0] == "x" and made_by["x"].op_type == "Div"
    assert made_by["p"].op_type == "DequantizeLinear"  # a convolution in INT8 has a result in INT8
    # Saturation computes the clip.
    assert "clip" not in nodes
    assert made_by[made_by["c"].input[0]].input[0] == nodes["expand"].output[0]
    assert {i.data_type for i in graph.initializer if i.name.endswith("_w_int8")} == {TensorProto.UINT8}


def test_a_matmul_in_int8_has_a_float_result_and_a_gemm_an_int8_one() -> None:
    graph = quantised("last").graph
    made_by = {out: node for node in graph.node for out in node.output}
    assert made_by["logits"].op_type == "DequantizeLinear"
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    assert [made_by[i].op_type for i in gemm.input] == ["DequantizeLinear"] * 3
    assert tensors_to_measure(network().graph, ["last"]) == ["next_h", "logits"]
    model = network()
    model.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["next_h", "square"], ["logits"], "last"))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, 5, dtype=np.float32), "square"))
    assert tensors_to_measure(model.graph, ["last"]) == ["next_h"]
    write_qdq(model, ["last"], {"next_h": (-1.0, 3.0)})
    assert next(node for node in model.graph.node if "logits" in node.output).op_type == "MatMul"


@pytest.mark.parametrize("chosen", [("expand",), ("project",), ("last",), ("expand", "project", "last")])
def test_results_are_nearly_those_of_float(chosen: tuple[str, ...]) -> None:
    exact, found = logits(network()), logits(quantised(*chosen))
    assert np.abs(found - exact).max() > 0
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.02 * exact.std()


@pytest.mark.parametrize(
    ("kind", "options", "rank", "axis"),
    [("Conv", {}, 4, 0), ("Gemm", {"transB": 1}, 2, 0), ("Gemm", {"transB": 0}, 2, 1), ("Gemm", {}, 2, 1),
     ("MatMul", {}, 2, 1), ("MatMul", {}, 3, None)],
)  # fmt: skip
def test_each_output_channel_of_a_weight_has_its_own_scale(
    kind: str, options: dict[str, int], rank: int, axis: int | None
) -> None:
    assert weight_axis(helper.make_node(kind, ["x", "w"], ["y"], **options), rank) == axis


def test_products_of_unlike_inputs_may_share_weight_and_bias() -> None:
    """As those of all frames do: each counts the bias in units of its own input."""
    model = network()
    large = numpy_helper.from_array(np.float32(40), "forty")
    model.graph.initializer.append(large)
    model.graph.node.extend([
        helper.make_node("Mul", ["next_h", "forty"], ["larger"], "enlarge"),
        helper.make_node("Gemm", ["larger", "last_w", "last_b"], ["more"], "more", transB=1),
        helper.make_node("Add", ["once", "more"], ["logits"], "both"),
    ])  # fmt: skip
    model.graph.node[-4].output[0] = "once"
    exact, chosen = logits(model), ("last", "more")
    ranges = measure_ranges(model, CLIPS, tensors_to_measure(model.graph, chosen))
    write_qdq(model, chosen, ranges)
    assert np.sqrt(np.mean((logits(model) - exact) ** 2)) < 0.02 * exact.std()


def test_what_only_moves_values_keeps_their_scale_and_is_not_measured() -> None:
    model = network()
    nodes = {node.name: node for node in model.graph.node}
    pool = helper.make_node("MaxPool", ["c"], ["m"], "pool_c", kernel_shape=[1, 1])
    model.graph.node.insert(list(model.graph.node).index(nodes["project"]), pool)
    next(node for node in model.graph.node if node.name == "project").input[0] = "m"
    exact, chosen = logits(model), ("expand", "pool_c", "project")
    wanted = tensors_to_measure(model.graph, chosen)
    assert "m" not in wanted
    write_qdq(model, chosen, measure_ranges(model, CLIPS, wanted))
    nodes = {node.name: node for node in model.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    of_result, of_moved = (
        [constants[name] for name in nodes[f"{name}_quantize"].input[1:]] for name in ("c", "m")
    )
    assert of_result == of_moved
    assert np.sqrt(np.mean((logits(model) - exact) ** 2)) < 0.02 * exact.std()


def test_a_weight_is_the_nearest_step_of_its_channel() -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in quantised("project").graph.initializer}
    exact = {t.name: numpy_helper.to_array(t) for t in network().graph.initializer}["project_w"]
    scale = constants["project_w_scale"].reshape(-1, 1, 1, 1)
    found = (constants["project_w_int8"].astype(np.float32) - 128) * scale
    assert (np.abs(found - exact) <= 0.5001 * scale).all()


def test_a_clip_that_does_not_begin_at_zero_stays() -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name == "least":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(-0.5), "least"))
    write_qdq(model, ("expand", "clip"), {"x": (-2.0, 2.0), "c": (-8.0, 8.0)})
    assert "Clip" in {node.op_type for node in model.graph.node}


def test_a_bias_survives_where_nothing_is_multiplied() -> None:
    """Channels without weights, and an input that was always zero, leave a bias that INT32 must hold."""
    model = network()
    write_qdq(model, ["expand"], {"x": (0.0, 0.0), "c": (0.0, 6.0)})
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    bias = next(name for name in constants if name.startswith("expand_b") and name.endswith("int32"))
    counted = constants[bias] * constants[bias.replace("int32", "scale")].astype(np.float64)
    np.testing.assert_allclose(counted, numpy_helper.to_array(network().graph.initializer[1]), rtol=1e-3)


def test_states_are_carried_within_a_clip_and_not_beyond() -> None:
    found = list(run_clips(session(network(), 1), CLIPS, ["next_h"]))
    assert len(found) == 12
    alone = list(run_clips(session(network(), 1), CLIPS[1:2], ["next_h"]))
    for ours, expected in zip(alone, found[4:8], strict=True):
        np.testing.assert_array_equal(ours["next_h"], expected["next_h"])
    first = next(iter(run_clips(session(network(), 1), CLIPS[:1, 1:], ["next_h"])))["next_h"]
    np.testing.assert_allclose(found[0]["next_h"] + first, found[1]["next_h"], rtol=1e-5)


def test_a_state_has_the_range_of_what_is_carried() -> None:
    ranges = measure_ranges(network(), CLIPS, ["h", "next_h"])
    assert ranges["h"] == ranges["next_h"] and ranges["h"][0] < ranges["h"][1]


def test_outliers_are_cut_only_where_that_pays() -> None:
    values = np.tile(np.linspace(-1, 1, 1000, dtype=np.float32), 2000)
    values[0] = 100.0
    assert best_range(values, (-1.0, 100.0)) == pytest.approx((-1.0, 1.0), abs=0.01)
    values[0] = 20.0  # its own error would outweigh the finer steps of all others
    assert best_range(values[::20], (-1.0, 20.0)) == (-1.0, 20.0)
    even = np.linspace(-1, 3, 10_000, dtype=np.float32)
    assert best_range(even, (-1.0, 3.0)) == pytest.approx((-1.0, 3.0), abs=0.01)


def test_both_ends_of_a_range_are_cut_alike() -> None:
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    values = np.concatenate([values, -values])
    low, high = best_range(values, (float(values.min()), float(values.max())))
    assert high < 0.9 * values.max() and low == pytest.approx(-high, rel=0.01)


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0), (0.0, 6.0)])
def test_zero_has_a_step_of_its_own(ends: tuple[float, float]) -> None:
    scale, zero = activation_scale(ends)
    assert scale > 0 and 0 <= int(zero) <= 255
    assert (0 - int(zero)) * scale <= min(ends[0], 0) + scale / 2
    assert (255 - int(zero)) * scale >= max(ends[1], 0) - scale / 2


@pytest.mark.slow
def test_whole_windows_are_run_where_a_graph_has_no_states() -> None:
    people = Path(__file__).resolve().parents[3] / "bundles" / "people" / "window.onnx"
    clip = np.random.default_rng(0).integers(0, 256, (1, 8, 224, 224, 3), np.uint8)
    (found,) = run_clips(session(people, 1), clip, ["logits"])
    assert found["logits"].shape[0] == 1


def test_onnxruntime_computes_in_int8_what_was_chosen(tmp_path: Path) -> None:
    """Convolutions with what lies between them, and products, become its integer operators."""
    chosen = ("expand", "clip", "project", "residual", "last")
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    ort.InferenceSession(quantised(*chosen).SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2 and kinds.count("QLinearAdd") == 1 and kinds.count("QGemm") == 1, (
        kinds
    )
    assert not {"Conv", "FusedConv", "Clip", "Gemm"} & set(kinds), kinds


ALL = ("expand", "clip", "project", "residual", "last")


def as_written(model: "onnx.ModelProto") -> np.ndarray:
    """Logits by the pairs as they stand, dequantised in floats: alike on every processor."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.concatenate([found["logits"] for found in run_clips(opened, CLIPS, ["logits"])])


def test_signed_weights_are_the_same_weights() -> None:
    model = quantised(*ALL)
    before = as_written(model)
    constants = {t.name: t.data_type for t in model.graph.initializer}
    assert sign_weights(model.graph) == 3
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(as_written(model), before)
    changed = {t.name for t in model.graph.initializer if t.data_type != constants[t.name]}
    weights = {f"{name}_w_{part}" for name in ("expand", "project", "last") for part in ("int8", "zero")}
    assert changed == weights
    assert sign_weights(model.graph) == 0


def test_a_zero_that_activations_share_keeps_the_weights_that_are_read_with_it() -> None:
    model = quantised(*ALL)
    nodes = {node.name: node for node in model.graph.node}
    constants = {t.name: t for t in model.graph.initializer}
    # The zero of one has another name, that of the other a second reader.
    for weight, zero in (("project", "zero"), ("last", "zero_of_all")):
        values = numpy_helper.to_array(constants[f"{weight}_w_zero"])
        model.graph.initializer.append(numpy_helper.from_array(values, zero))
        nodes[f"{weight}_w_dequantize"].input[2] = zero
    model.graph.node.append(helper.make_node("Identity", ["zero_of_all"], ["shown"], "show"))
    before = as_written(model)
    assert sign_weights(model.graph) == 2
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["last_w_int8"] == types["zero_of_all"] == TensorProto.UINT8
    assert types["project_w_int8"] == types["zero"] == TensorProto.INT8
    np.testing.assert_array_equal(as_written(model), before)
