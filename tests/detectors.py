# SPDX-License-Identifier: Apache-2.0
"""Toy detectors in ONNX: they find people, who are plain red, in pictures without red, with the outputs of YOLO.

The network averages the input over a grid of squares of 2 x 2 pixels. A square is of a person where red is high and
green low. The box of all such squares is what each of them says, so that non-maximum suppression has something to do.
One person a picture; `columns` is (1, 4 + 2, N), `end` is (1, N, 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIDE, STEP = 96, 2
GRID = SIDE // STEP
COCO = str({0: "person", 1: "bicycle"})


def people_picture(size: tuple[int, int], people: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """RGB image (H, W, 3) of size (width, height), people (x, y, width, height) in it."""
    image = np.full((size[1], size[0], 3), (40, 160, 90), np.uint8)
    for x, y, width, height in people:
        image[y : y + height, x : x + width] = (250, 10, 20)
    return image


def write_model(
    path: Path,
    nodes: Sequence[NodeProto],
    outputs: Mapping[str, Sequence[int | str]],
    *,
    image: Sequence[int | str] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    constants: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("images", kind, list(image))],
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def person_detector(path: Path, layout: str, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the toy; its metadata calls class 0 person unless told otherwise."""
    make = helper.make_node
    # Where squares begin and end, (1, 1, GRID, GRID).
    begin = np.arange(GRID, dtype=np.float32) * STEP
    x, y = np.meshgrid(begin, begin)
    constants = {
        "red": np.array([1, -2, 0], np.float32).reshape(1, 3, 1, 1),
        "half": np.array(0.5, np.float32),
        "far": np.array(1e4, np.float32),
        "x": x[None, None],
        "y": y[None, None],
        "step": np.array(STEP, np.float32),
        "two": np.array(2, np.float32),
        "score": np.array(0.9, np.float32),
        "zero": np.array(0, np.float32),
        "row": np.array([1, 1, GRID * GRID], np.int64),
        "one": np.array([1, 1, 1], np.int64),
    }
    nodes = [
        make("Mul", ["images", "red"], ["tinted"]),
        make("ReduceSum", ["tinted", "channel"], ["how_red"], keepdims=1),
        make("AveragePool", ["how_red"], ["squares"], kernel_shape=[STEP, STEP], strides=[STEP, STEP]),
        make("Greater", ["squares", "half"], ["is_person"]),
        make("Cast", ["is_person"], ["person"], to=TensorProto.FLOAT),
        make("Not", ["is_person"], ["is_other"]),
        make("Cast", ["is_other"], ["other"], to=TensorProto.FLOAT),
        make("Mul", ["other", "far"], ["away"]),
    ]
    constants["channel"] = np.array([1], np.int64)
    for axis in "xy":
        nodes += [
            make("Add", [axis, "away"], [f"{axis}_low"]),
            make("Sub", [axis, "away"], [f"{axis}_high"]),
            make("ReduceMin", [f"{axis}_low"], [f"{axis}0_"], keepdims=1, axes=[2, 3]),
            make("ReduceMax", [f"{axis}_high"], [f"{axis}9_"], keepdims=1, axes=[2, 3]),
            make("Reshape", [f"{axis}0_", "one"], [f"{axis}0"]),
            make("Reshape", [f"{axis}9_", "one"], [f"{axis}9"]),
            make("Add", [f"{axis}9", "step"], [f"{axis}1"]),
            make("Add", [f"{axis}0", f"{axis}1"], [f"{axis}_sum"]),
            make("Div", [f"{axis}_sum", "two"], [f"{axis}c"]),
            make("Sub", [f"{axis}1", f"{axis}0"], [f"{axis}w"]),
        ]
    nodes += [
        make("Reshape", ["person", "row"], ["mine"]),
        make("Mul", ["mine", "score"], ["sure"]),
        make("Mul", ["mine", "zero"], ["nothing"]),
    ]
    first = ["xc", "yc", "xw", "yw"] if layout == "columns" else ["x0", "y0", "x1", "y1"]
    for name in first:
        nodes.append(make("Add", [name, "nothing"], [f"{name}_all"]))
    rows = [*(f"{name}_all" for name in first), "sure", "nothing"]
    if layout == "columns":
        nodes.append(make("Concat", rows, ["out"], axis=1))
        shape = (1, 6, GRID * GRID)
    else:
        # One row: the best square's.
        nodes.append(make("Concat", rows, ["columns"], axis=1))
        nodes.append(make("ReduceMax", ["columns"], ["best"], keepdims=1, axes=[2]))
        nodes.append(make("Transpose", ["best"], ["out"], perm=[0, 2, 1]))
        shape = (1, 1, 6)
    props = {"names": COCO} if metadata is None else metadata
    return write_model(path, nodes, {"out": shape}, constants=constants, metadata=props)
