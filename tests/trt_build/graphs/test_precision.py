# SPDX-License-Identifier: Apache-2.0
"""The graph for engines: FP16 where it belongs, the same results, nothing a TensorRT parser lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")
import onnxruntime as ort

from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.errors import BundleError, EngineError
from trt_build.graphs.precision import engine_graph, half_nodes, mixed_precision, tensor_types
from trt_build.preprocess import model_input

PEOPLE = Path(__file__).resolve().parents[3] / "bundles" / "people"
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
# What the parsers of TensorRT 8.6 and 10 both take and our graphs are known to need.
PARSED = {
    "Abs", "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "Equal", "Gather", "Gemm", "Greater",
    "MatMul", "MaxPool", "Mul", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Split", "Sqrt", "Sub", "Tanh", "Transpose",
}  # fmt: skip


@pytest.fixture(scope="module")
def people() -> LoadedBundle:
    return load_bundle(PEOPLE)


@pytest.fixture(scope="module")
def half_graphs(people: LoadedBundle) -> dict[str, onnx.ModelProto]:
    return {mode: mixed_precision(people, mode) for mode in ("window", "step")}


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """FP16 without optimisations: fused casts would compute in more than FP16."""
    options = ort.SessionOptions()
    if half_nodes(model):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


class Stream:
    """A step graph with its states."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = session(model)
        self.names = [v.name for v in self._session.get_outputs()]
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        self.states = {
            v.name: np.zeros(v.shape, kinds[v.type]) for v in self._session.get_inputs() if v.name != "frame"
        }

    def reset(self) -> None:
        self.states = {name: np.zeros_like(value) for name, value in self.states.items()}

    def step(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        out = dict(zip(self.names, self._session.run(None, {"frame": frame, **self.states}), strict=True))
        self.states = {name: out[f"next_{name}"] for name in self.states}
        return out


@pytest.mark.parametrize("mode", ["window", "step"])
def test_trunk_and_weight_products_are_half_and_what_drifts_is_not(half_graphs, mode) -> None:
    graph = half_graphs[mode]
    types = tensor_types(graph)
    for node in graph.graph.node:
        kind = types[node.output[0]]
        if node.op_type == "Conv":
            assert kind == HALF, node.name
        if node.op_type in ("Softmax", "Sqrt", "Sigmoid", "Tanh", "ReduceMean", "ReduceSum", "Div", "Sub"):
            assert kind == FLOAT, node.name
    gemms = [n.name for n in graph.graph.node if n.op_type == "Gemm"]
    assert gemms and set(gemms) <= set(half_nodes(graph))
    assert not [name for name in half_nodes(graph) if "/assignment/L" in name], "the metric must stay FP32"


def test_states_of_the_head_are_float_and_the_caches_half(half_graphs) -> None:
    graph = half_graphs["step"].graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output]}
    assert kinds["frame"] == onnx.TensorProto.UINT8
    for name in ("h", "z", "r", "memory", "weight", "logits", "glimpses", "assignment"):
        assert kinds[name] == FLOAT
    caches = [name for name in kinds if name.startswith("cache_")]
    assert len(caches) == 10 and all(kinds[c] == kinds[f"next_{c}"] == HALF for c in caches)


@pytest.mark.parametrize("mode", ["window", "step"])
def test_only_what_the_old_parsers_take(half_graphs, mode) -> None:
    model = half_graphs[mode]
    assert {node.op_type for node in model.graph.node} <= PARSED
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    for node in model.graph.node:
        # TensorRT 8.6 ignores an axes input and reduces over everything.
        if node.op_type in ("ReduceMean", "ReduceMax"):
            assert len(node.input) == 1 and [a for a in node.attribute if a.name == "axes"]
        if {"frame", "frames"} & set(node.input):
            assert node.op_type == "Cast"
    for value in [*model.graph.input, *model.graph.output]:
        assert all(d.HasField("dim_value") and d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


@pytest.mark.parametrize("mode", [pytest.param("window", marks=pytest.mark.slow), "step"])
def test_the_float_graph_is_the_bundles_graph_to_rounding(people: LoadedBundle, mode: str) -> None:
    rng = np.random.default_rng(0)
    lead = (2, 8) if mode == "window" else (2,)
    frames = rng.integers(0, 256, (*lead, 224, 224, 3), np.uint8)
    ours = session(engine_graph(people, mode, precision="fp32", batch=2))
    theirs = ort.InferenceSession(str(people.graph(mode)))
    feed = {
        v.name: rng.random(v.shape, np.float32) for v in ours.get_inputs() if not v.name.startswith("frame")
    } | {"frames" if mode == "window" else "frame": frames}
    names = [v.name for v in theirs.get_outputs()]
    for name, a, b in zip(names, ours.run(names, feed), theirs.run(names, feed), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * max(1, np.abs(b).max()), name


@pytest.mark.parametrize("mode", [pytest.param("window", marks=pytest.mark.slow), "step"])
def test_nothing_overflows_on_adversarial_input(half_graphs, mode: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(half_graphs[mode])
    for node in model.graph.node:  # watch inside: a relu6 would hide an infinity
        if node.op_type in ("Conv", "Gemm"):
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], HALF, None))
    runner = session(model)
    lead = (1, 8) if mode == "window" else (1,)
    rng = np.random.default_rng(1)
    shape = (*lead, 224, 224, 3)
    saturated = np.zeros(shape, np.uint8)
    saturated[..., 0] = 255
    pictures = {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "noise": rng.integers(0, 256, shape, np.uint8),
        "saturated red": saturated,
        "chequered": np.broadcast_to((np.indices((224, 224)).sum(0) % 2 * 255)[..., None], shape).astype(
            np.uint8
        ),
    }
    state = {
        v.name: np.zeros(v.shape, np.float16 if "16" in v.type else np.float32)
        for v in runner.get_inputs()
        if not v.name.startswith("frame")
    }
    frame = "frames" if mode == "window" else "frame"
    for what, picture in pictures.items():
        for name, value in zip(
            runner.get_outputs(), runner.run(None, {frame: picture, **state}), strict=True
        ):
            assert np.isfinite(value).all(), (what, name.name)


def test_toys_keep_their_answers(colours: LoadedBundle) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 8, 224, 224, 3), np.uint8)
    want = ort.InferenceSession(str(colours.graph("window"))).run(None, {"frames": frames})
    have = session(engine_graph(colours, "window", batch=3)).run(None, {"frames": frames})
    assert all(np.allclose(a, b, rtol=1e-5) for a, b in zip(have, want, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "remedy"), [(1e6, "fp32"), (float("nan"), "trt-build export RUN --out")])
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, people: LoadedBundle, factor: float, remedy: str
) -> None:
    from trt_build.bundle import write_bundle

    model = onnx.load(str(people.graph("step")))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for tensor in model.graph.initializer:
        if tensor.name == conv.input[1]:
            big = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(big, tensor.name))
    onnx.save(model, tmp_path / "step.onnx")
    info = people.info.model_copy(update={"modes": ["step"], "default_mode": "step"})
    bundle = write_bundle(tmp_path, info, ["step.onnx"])
    with pytest.raises(BundleError, match=rf"conv_stem.*{remedy}"):
        mixed_precision(bundle, "step")
    assert engine_graph(bundle, "step", precision="fp32")


@pytest.fixture
def by_hand(tmp_path: Path, numbers: LoadedBundle) -> LoadedBundle:
    """A step of two convolutions with a turned cache between them, a gate, and products with and without weights."""
    helper, rng = onnx.helper, np.random.default_rng(0)
    weights = {"w1": (4, 3, 1, 1), "w2": (4, 4, 1, 1), "matrix": (4, 5), "vector": (4,)}
    constants = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in weights.items()}
    constants |= {"flat": np.array([0, 4]), "deep": np.array([0, 4, 1, 1]), "grey": np.float32(255)}
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], "cast", to=FLOAT),
        helper.make_node("Div", ["pixels", "grey"], ["scaled"], "scale"),
        helper.make_node("Transpose", ["scaled"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w1"], ["next_cache"], "first"),
        helper.make_node("Transpose", ["cache"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("Add", ["next_cache", "turned"], ["both"], "add"),
        helper.make_node("Conv", ["both", "w2"], ["trunk"], "second"),
        helper.make_node("MaxPool", ["trunk"], ["most"], "most", kernel_shape=[8, 8]),
        helper.make_node("Reshape", ["most", "flat"], ["next_h"], "flatten"),
        helper.make_node("Sigmoid", ["h"], ["gate"], "gate"),
        helper.make_node("Reshape", ["gate", "deep"], ["gates"], "deepen"),
        helper.make_node("Mul", ["trunk", "gates"], ["gated"], "mul"),
        helper.make_node("ReduceMean", ["gated"], ["mean"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"], "weighted"),
        helper.make_node("Transpose", ["mean"], ["columns"], "columns", perm=[1, 0]),
        helper.make_node("MatMul", ["mean", "columns"], ["alike"], "compare"),
        helper.make_node("MatMul", ["mean", "vector"], ["dot"], "dot"),
    ]

    def value(name: str, *shape: int, kind: int = FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["N", *shape])

    graph = helper.make_graph(
        nodes,
        "by hand",
        [value("frame", 8, 8, 3, kind=onnx.TensorProto.UINT8), value("cache", 4, 8, 8), value("h", 4)],
        [
            value("logits", 5),
            value("next_cache", 4, 8, 8),
            value("next_h", 4),
            value("alike", 2),
            value("dot"),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "step.onnx")
    return LoadedBundle(tmp_path, numbers.info)


def test_each_tensor_of_a_graph_made_by_hand_has_the_type_of_the_policy(by_hand: LoadedBundle) -> None:
    model = engine_graph(by_hand, "step", batch=2)
    types, nodes = tensor_types(model), {node.name: node for node in model.graph.node}

    def read(name: str) -> set[int]:
        return {types[tensor] for tensor in nodes[name].input if types[tensor] in (HALF, FLOAT)}

    # The trunk, and a cache that is turned on its way to it.
    assert [types[name] for name in ("cache", "next_cache", "turned", "both", "trunk")] == [HALF] * 5
    # What meets the head's FP32 is FP32, and so is a state that the head reads, whatever computes its next value.
    assert read("mul") == {FLOAT} and [types[name] for name in ("h", "next_h", "gated")] == [FLOAT] * 3
    # Of the products only that with a matrix of weights.
    assert read("weighted") == {HALF} and types["logits"] == FLOAT
    assert read("compare") == read("dot") == {FLOAT}
    assert half_nodes(model) == ["first", "second", "weighted"]


def test_a_graph_made_by_hand_computes_in_half_what_it_does_in_float(by_hand: LoadedBundle) -> None:
    rng = np.random.default_rng(1)
    half = Stream(engine_graph(by_hand, "step", batch=2))
    full = Stream(engine_graph(by_hand, "step", batch=2, precision="fp32"))
    for _ in range(4):
        frame = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
        ours, theirs = half.step(frame), full.step(frame)
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected, atol=5e-3, err_msg=name)


def test_other_precisions_are_refused(people: LoadedBundle) -> None:
    with pytest.raises(EngineError, match="int4"):
        engine_graph(people, "step", precision="int4")


def frames_of(clips: Path, bundle: LoadedBundle, count: int) -> Iterator[np.ndarray]:
    """Real frames in the model's form, clip after clip, at the clips' own rate."""
    given = 0
    while True:
        for path in sorted((clips / "gestures").rglob("*.*")):
            if path.suffix not in (".mp4", ".avi", ".mov", ".webm", ".mkv"):
                continue
            video = cv2.VideoCapture(str(path))
            while (read := video.read())[0]:
                yield model_input(read[1], bundle.info.preprocess, bgr=True)
                given += 1
                if given == count:
                    return
            video.release()
        assert given, "no clip could be read"


def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, float, float]:
    """(cosine of all logits as one vector, smallest cosine of one result, share of equal labels)."""
    x, y = np.concatenate(a), np.concatenate(b)
    cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    whole = float((x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)))
    return whole, float(cosine.min()), float((x.argmax(1) == y.argmax(1)).mean())


@pytest.mark.clips
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_long_real_stream_does_not_drift_in_half(clips: Path, people: LoadedBundle, half_graphs) -> None:
    half = Stream(half_graphs["step"])
    full = Stream(engine_graph(people, "step", precision="fp32"))
    ours, theirs = [], []
    reset_after = people.info.reset_after
    for n, frame in enumerate(frames_of(clips, people, 1000)):
        # As the recogniser does; this model was not trained to carry on.
        if reset_after and n % reset_after == 0:
            half.reset()
            full.reset()
        ours.append(half.step(frame[None])["logits"])
        theirs.append(full.step(frame[None])["logits"])
    whole, worst, equal = agreement(ours, theirs)
    # One frame in some hundreds is short of 0.999 by itself (0.9988 was seen): these clips show nothing it knows.
    assert len(ours) == 1000 and whole > 0.999 and worst > 0.998 and equal >= 0.99, (whole, worst, equal)


@pytest.mark.clips
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_windows_keep_their_labels_in_half(clips: Path, people: LoadedBundle, half_graphs) -> None:
    half = session(half_graphs["window"])
    full = session(engine_graph(people, "window", precision="fp32"))
    ours, theirs = [], []
    # Many: of activities that the bundle does not know the two best labels of a window may be as likely.
    for window in zip(*[frames_of(clips, people, 3200)] * 8, strict=True):
        feed = {"frames": np.stack(window)[None]}
        ours.append(half.run(["logits"], feed)[0])
        theirs.append(full.run(["logits"], feed)[0])
    _, worst, equal = agreement(ours, theirs)
    assert len(ours) == 400 and worst > 0.999 and equal >= 0.99, (worst, equal)
