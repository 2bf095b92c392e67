# SPDX-License-Identifier: Apache-2.0
"""Hand-made bundles: real ONNX graphs with a known answer, made in milliseconds and without torch.

`numbers`: a frame carries its number in its pixels (`number_image`), K = T, and the logits of a window are
the T frame numbers in it. The step graph counts frames in a state and says T * number at the position of
the count, so the mean over T frames since a reset is the same. Whatever a window wrongly mixes can be read
off its logits.
`colours`: labels red, green, blue; logits say which channel is the brightest on average.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from trt_build.bundle import CLASSES_NAME, Bundle, Calibration, LoadedBundle, Preprocess, write_bundle
from trt_build.classes import ClassStatistics
from trt_build.readout import pool

OPSET = 17
COLOURS = ["red", "green", "blue"]


def number_image(number: int, width: int = 16, height: int = 12) -> np.ndarray:
    """RGB image (H, W, 3) that says `number` (below 65536) in every pixel."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (number // 256, number % 256, 0)
    return image


def numbers_of(activity: Any) -> list[int]:
    """The frame numbers in the window of a result of the `numbers` toy."""
    return [round(float(v)) for v in activity.logits]


def glimpse_table(G: int) -> np.ndarray:
    """(G, 4) fixed glimpses of the toys: l = [x, y, sx, sy]."""
    g = np.arange(G)
    columns = [-0.5 + g / max(G - 1, 1), 0.2 * g - 0.2, 0.2 + 0.1 * g, 0.3 + 0 * g]
    return np.stack(columns, 1).astype(np.float32)


def assignment_table(C: int, G: int) -> np.ndarray:
    """(C, G) fixed weights of the toys; rows sum to 1."""
    table = np.full((C, G), 1.0, np.float32)
    table[np.arange(C), np.arange(C) % G] = 4.0
    return table / table.sum(1, keepdims=True)


def toy_bundle(
    path: Path,
    kind: str = "numbers",
    *,
    T: int = 8,
    S: int = 8,
    G: int = 3,
    C: int = 3,
    rate_hz: float = 8.0,
    reset_after: int | None = None,
    modes: tuple[str, ...] = ("window", "step"),
    temperature: float = 1.0,
    unknown_threshold: float = 0.0,
    fit: Any = "stretch",
    embedding: bool = False,
    **changes: Any,
) -> LoadedBundle:
    """Write a toy bundle with external data in weights.bin. `changes` replace fields of bundle.json.

    embedding: whether the graphs put out a frame's mean colour as its embedding, and the bundle can be taught.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "weights.bin").unlink(missing_ok=True)
    labels = [f"frame{t}" for t in range(T)] if kind == "numbers" else list(COLOURS)
    for mode in modes:
        save(path / f"{mode}.onnx", graph(kind, mode, T, S, G, C, embedding))
    fields: dict[str, Any] = {
        "model_id": f"toy-{kind}",
        "preset": "toy",
        "labels": labels,
        "T": T,
        "glimpses": G,
        "workers": C,
        "embedding": 3 if embedding else 0,
        "temporal": "causal",
        "modes": list(modes),
        "default_mode": modes[0],
        "reset_after": T if reset_after is None else reset_after,
        "preprocess": Preprocess(size=S, resize=S, fit=fit),
        "rate_hz": rate_hz,
        "calibration": Calibration(temperature=temperature, unknown_threshold=unknown_threshold),
        "provenance": {"made_by": "tests/toy.py"},
    }
    names = [f"{mode}.onnx" for mode in modes] + ["weights.bin"]
    if embedding:
        (path / CLASSES_NAME).write_bytes(colour_statistics(len(labels), T).to_bytes())
        names.append(CLASSES_NAME)
    return write_bundle(path, Bundle(**{**fields, **changes}), names)


def colour_statistics(classes: int, T: int) -> ClassStatistics:
    """Of windows of T frames that are red, green, blue and so on, somewhat noisy: 12 a class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 12)
    base = 40 + 160 * np.eye(3)[labels % 3]
    frames = base[:, None] + rng.normal(0, 4, (len(labels), T, 3)) + rng.normal(0, 8, (len(labels), 1, 3))
    features = np.stack([pool(window.astype(np.float32)) for window in frames])
    return ClassStatistics.of(features, labels, classes)


def save(path: Path, model: onnx.ModelProto) -> None:
    """Save a graph with all weights in weights.bin beside it (two graphs append to the same file)."""
    onnx.checker.check_model(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:  # axes and the like are needed while the graph is parsed
            set_external_data(tensor, location="weights.bin")
    onnx.save(model, str(path))


def graph(kind: str, mode: str, T: int, S: int, G: int, C: int, embedding: bool = False) -> onnx.ModelProto:
    """The toy graph as a model; see the module's docstring."""
    time = (T,) if mode == "window" else ()
    frame = "frames" if mode == "window" else "frame"
    K = T if kind == "numbers" else 3
    inputs = [_value(frame, TensorProto.UINT8, ("N", *time, S, S, 3))]
    outputs = [
        _value("logits", TensorProto.FLOAT, ("N", K)),
        _value("glimpses", TensorProto.FLOAT, ("N", *time, G, 4)),
        _value("assignment", TensorProto.FLOAT, ("N", *time, C, G)),
    ]
    weights: dict[str, np.ndarray] = {
        "l": glimpse_table(G),
        "p": assignment_table(C, G),
        "zero": np.zeros((), np.float32),
    }
    spatial = [1 + len(time), 2 + len(time)]
    nodes = [
        helper.make_node("Cast", [frame], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["rgb"], axes=spatial, keepdims=0),  # (N, [T,] 3)
    ]
    if embedding:
        outputs.append(_value("embedding", TensorProto.FLOAT, ("N", *time, 3)))
        nodes.append(helper.make_node("Identity", ["rgb"], ["embedding"]))
    if kind == "numbers":
        weights["place"] = np.array([[256.0], [1.0], [0.0]], np.float32)
        nodes.append(helper.make_node("MatMul", ["rgb", "place"], ["number"]))  # (N, [T,] 1)
        if mode == "window":
            weights["axis"] = np.array([2], np.int64)
            nodes.append(helper.make_node("Squeeze", ["number", "axis"], ["logits"]))
        else:
            # The count is kept modulo T, so that a carried-on state rotates through the positions.
            weights["positions"] = np.arange(T, dtype=np.float32)[None]
            weights["one"] = np.ones((), np.float32)
            weights["T"] = np.array(float(T), np.float32)
            inputs.append(_value("count", TensorProto.FLOAT, ("N", 1)))
            outputs.append(_value("next_count", TensorProto.FLOAT, ("N", 1)))
            nodes += [
                helper.make_node("Equal", ["positions", "count"], ["here"]),
                helper.make_node("Cast", ["here"], ["onehot"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["onehot", "number"], ["placed"]),
                helper.make_node("Mul", ["placed", "T"], ["logits"]),
                helper.make_node("Add", ["count", "one"], ["more"]),
                helper.make_node("Mod", ["more", "T"], ["next_count"], fmod=1),
            ]
    else:
        weights["scale"] = np.array(0.1, np.float32)
        if mode == "window":
            nodes.append(helper.make_node("ReduceMean", ["rgb"], ["clip"], axes=[1], keepdims=0))
            nodes.append(helper.make_node("Mul", ["clip", "scale"], ["logits"]))
        else:
            inputs.append(_value("seen", TensorProto.FLOAT, ("N", 3)))
            outputs.append(_value("next_seen", TensorProto.FLOAT, ("N", 3)))
            nodes.append(helper.make_node("Mul", ["rgb", "scale"], ["logits"]))
            nodes.append(helper.make_node("Add", ["seen", "logits"], ["next_seen"]))
    weights["lift"] = np.array([-1], np.int64)
    nodes += [
        helper.make_node("Slice", ["rgb", "from", "to", "lift"], ["red"]),  # (N, [T,] 1)
        helper.make_node("Mul", ["red", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "lift"], ["base"]),  # (N, [T,] 1, 1): zeros of N rows
        helper.make_node("Add", ["base", "l"], ["glimpses"]),
        helper.make_node("Add", ["base", "p"], ["assignment"]),
    ]
    weights["from"], weights["to"] = np.array([0], np.int64), np.array([1], np.int64)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(nodes, f"toy_{kind}_{mode}", inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _value(name: str, dtype: int, shape: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


class FakeEngine:
    """Wraps an engine so that a test can hold it, break it or poison it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.before_run: Any = None  # called with no argument before every run
        self.poison: float | bool = False  # an output becomes NaN, or this number
        self.poisoned = "logits"  # which
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
        self.runs += 1
        if self.before_run is not None:
            self.before_run()
        out = self._engine.run(inputs, active)
        if self.poison:
            value = np.nan if self.poison is True else self.poison
            out[self.poisoned] = np.full_like(out[self.poisoned], value)
        return out

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._engine.close()
