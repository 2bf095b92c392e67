# SPDX-License-Identifier: Apache-2.0
"""Passes over graphs made by hand: every result stays, and what TensorRT's parsers lack or would read wrongly goes."""

from __future__ import annotations

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from onnx import TensorProto, helper, numpy_helper

from trt_build.errors import BundleError
from trt_build.graphs import passes

X = np.arange(2 * 12, dtype=np.float32).reshape(2, 12)


def made(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    shape: tuple[int | str, ...] = (2, 12),
    opset: int = 17,
    **constants: object,
) -> onnx.ModelProto:
    """A model of these nodes, with the input x."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    return model


def results(model: onnx.ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": X})


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def sliced(*bounds: tuple[int, ...]) -> onnx.ModelProto:
    """Slices of x along axis 1, by (start, end) or (start, end, step), each made positive; their order is kept."""
    nodes, constants = [], {}
    for i, numbers in enumerate(bounds):
        start, end, *step = numbers
        values = [start, end, 1, *step]
        names = [f"s{i}_{k}" for k in range(len(values))]
        constants |= {name: np.array([value], np.int64) for name, value in zip(names, values, strict=True)}
        nodes.append(helper.make_node("Slice", ["x", *names], [f"y{i}"], f"slice{i}"))
    return made(nodes, [f"y{i}" for i in range(len(bounds))], **constants)


@pytest.mark.parametrize(
    ("bounds", "splits", "left"),
    [
        (((0, 4), (4, 12)), 1, 0),
        (((8, 12), (0, 3)), 1, 0),  # neither in order nor all of it
        (((-3, 2**62), (0, -9)), 1, 0),  # from the end; as far as there is
        (((0, 6), (3, 9), (3, 9)), 3, 0),  # overlapping
        (((0, 4), (4, 12, 2)), 1, 1),  # every second one is no part
        (((4, 4), (0, 12)), 1, 1),  # nothing
    ],
)
def test_slices_become_splits_with_the_same_results(
    bounds: tuple[tuple[int, ...], ...], splits: int, left: int
) -> None:
    model = sliced(*bounds)
    expected = results(model)
    passes.slices_to_splits(model)
    for ours, theirs in zip(results(model), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (kinds(model).count("Split"), kinds(model).count("Slice")) == (splits, left)


def test_reshapes_in_a_row_become_one_and_an_output_keeps_its_name() -> None:
    shapes = {"a": (4, 6), "b": (24,), "c": (2, 12)}
    nodes, source = [], "x"
    for name in shapes:
        nodes.append(helper.make_node("Reshape", [source, f"{name}_to"], [name], f"to_{name}"))
        source = name
    nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
    constants = {f"{name}_to": np.array(shape, np.int64) for name, shape in shapes.items()}
    for outputs, left in ((["r"], []), (["r", "c"], ["Reshape"]), (["r", "b"], ["Reshape"])):
        model = made(nodes, outputs, **constants)
        expected = results(model)
        passes.merge_reshapes(model)
        for ours, theirs in zip(results(model), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert sorted(kinds(model)) == sorted([*left, "Relu"]), outputs


def test_constants_get_the_rank_of_what_they_are_added_to_also_in_a_product() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "c"], ["p"], "product"),
        helper.make_node("Add", ["p", "c"], ["s"], "sum"),
        helper.make_node("Mul", ["two", "s"], ["y"], "double"),
    ]
    constants = {"w": rng.normal(size=(12, 5)), "c": rng.normal(size=5), "two": 2.0}
    model = made(nodes, ["y"], **{name: np.float32(value) for name, value in constants.items()})
    (expected,) = results(model)
    passes.align_ranks(model)
    np.testing.assert_array_equal(results(model)[0], expected)
    ranks = {t.name: len(t.dims) for t in model.graph.initializer}
    assert [ranks[name] for node in model.graph.node for name in node.input if name in ranks] == [2] * 4


def test_a_product_with_zero_becomes_a_constant_unless_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "nothing"], ["z"], "empty"),
        helper.make_node("Mul", ["x", "two"], ["d"], "double"),
        helper.make_node("Add", ["z", "d"], ["y"], "sum"),
    ]
    for most, left in ((24, ["Mul", "Add"]), (23, ["Mul", "Mul", "Add"])):
        monkeypatch.setattr(passes, "_LARGE", most)
        model = made(nodes, ["y"], nothing=np.float32(0), two=np.float32(2))
        passes.zeros_of_products(model)
        assert kinds(model) == left
        np.testing.assert_array_equal(results(model)[0], 2 * X)


def test_reductions_and_splits_are_those_of_the_older_opset_which_an_older_graph_keeps() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], "mean", keepdims=0),
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], "sum", keepdims=0),
        helper.make_node("Split", ["x", "parts"], ["a", "b"], "split", axis=1),
    ]
    constants = {"axes": np.array([1], np.int64), "parts": np.array([5, 7], np.int64)}
    model = made(nodes, ["m", "s", "a", "b"], opset=18, **constants)
    expected = results(model)
    passes.lower_opset(model)
    assert model.opset_import[0].version == 17
    assert [len(node.input) for node in model.graph.node] == [1, 2, 2]
    for ours, theirs in zip(results(model), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    old = made([helper.make_node("Relu", ["x"], ["y"], "relu")], ["y"], opset=16)
    passes.lower_opset(old)
    assert old.opset_import[0].version == 16


def test_a_split_by_a_number_of_parts_which_an_older_opset_lacks_is_refused() -> None:
    node = helper.make_node("Split", ["x"], ["a", "b", "c", "d", "e"], "uneven", axis=1, num_outputs=5)
    model = made([node], ["a"], opset=18)
    with pytest.raises(BundleError, match="uneven splits by a number of parts"):
        passes.lower_opset(model)


def test_the_batch_is_fixed_and_no_other_open_axis_of_an_input_is_guessed() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"], "relu")
    model = made([relu], ["y"], ("N", 12))
    passes.fix_batch(model, 2)
    for value in (*model.graph.input, *model.graph.output):
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [2, 12]
    with pytest.raises(BundleError, match="input x has an open axis 1"):
        passes.fix_batch(made([relu], ["y"], ("N", "W")), 2)


@pytest.mark.timeout(60)
def test_nodes_come_behind_what_they_read_and_a_cycle_is_an_error() -> None:
    nodes = [helper.make_node("Relu", [a], [b], b) for a, b in (("b", "c"), ("x", "a"), ("a", "b"))]
    model = made(nodes, ["c"])
    passes.sort_nodes(model.graph)
    assert [node.name for node in model.graph.node] == ["a", "b", "c"]
    nodes[1] = helper.make_node("Add", ["x", "c"], ["a"], "a")
    with pytest.raises(BundleError, match="has a cycle at"):
        passes.sort_nodes(made(nodes, ["c"]).graph)
