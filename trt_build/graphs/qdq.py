# SPDX-License-Identifier: Apache-2.0
"""Writes INT8 into a float32 graph, as pairs of QuantizeLinear and DequantizeLinear (QDQ).

A node in INT8 reads dequantised weights and inputs. Only this node reads them: a residual that leaves the same tensor
stays float32. The result of a convolution, and of what lies between convolutions, is quantised too, behind the
activation that follows it; all read it dequantised. So is the result of a Gemm, which ONNX Runtime computes in INT8
only then; that of a MatMul is float32.

Weights are symmetric, one scale for each output channel, and written as UINT8 around 128: processors with AVX2 and no
VNNI add two products of UINT8 and INT8 in 16 bits and saturate, and do not where both are UINT8. `sign_weights` turns
them into INT8 for the others. Activations are asymmetric UINT8 with one scale. Biases are INT32 in units of input times
weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_build.graphs.passes import drop_unused, replace_items

PRODUCTS = {"MatMul", "Gemm"}
ACTIVATIONS = {"Clip", "Relu"}
# Nodes that move values: their results keep the scale of what they read.
_MOVING = {"MaxPool", "Reshape", "Slice", "Split", "Transpose"}
# How many inputs of a node, from the first, hold values; elsewhere all do.
_VALUES = dict.fromkeys(("Conv", "Gemm", *_MOVING), 1)
_LEVELS = 255
_MIDDLE = 128  # zero of a weight

Range = tuple[float, float]


def node_values(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that hold values, not weights' biases, shapes, axes or bounds."""
    return list(node.input[: _VALUES.get(node.op_type, len(node.input))])


def tensors_to_measure(graph: onnx.GraphProto, chosen: Collection[str]) -> list[str]:
    """The tensors whose ranges `write_qdq` needs to quantise the chosen nodes, in order of the graph."""
    constants = {t.name for t in graph.initializer}
    behind = _results(graph, set(chosen))
    wanted: dict[str, None] = {}
    for node in graph.node:
        if node.name in chosen:
            wanted |= dict.fromkeys(n for n in node_values(node) if n not in constants and n not in behind)
            if node.op_type not in ("MatMul", *_MOVING):
                wanted |= dict.fromkeys(n for n, maker in behind.items() if maker == node.name)
    return list(wanted)


def write_qdq(model: onnx.ModelProto, chosen: Collection[str], ranges: Mapping[str, Range]) -> None:
    """Quantise the nodes named `chosen`, in place; the weights must be loaded.

    ranges: (least, most) of the activations that `tensors_to_measure` names.
    """
    _Writer(model, set(chosen), ranges).run()


def sign_weights(graph: onnx.GraphProto) -> int:
    """Write weights of UINT8 around 128 as INT8 around zero, in place; returns how many. They must be loaded."""
    constants = {t.name: t for t in graph.initializer}
    nodes = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and len(node.input) > 2
        and {node.input[0], node.input[2]} <= constants.keys()
        and _around_middle(constants[node.input[2]])
    ]
    pairs = [(node.input[0], node.input[2]) for node in nodes]
    readers = Counter(name for node in graph.node for name in node.input)
    # What others read too, as the zero of an activation, stays as they read it, and so does what is read with it.
    while shared := {n for n, own in Counter(n for pair in pairs for n in pair).items() if own < readers[n]}:
        pairs = [pair for pair in pairs if shared.isdisjoint(pair)]
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        # 128 less: the highest bit is another.
        signed = (numpy_helper.to_array(constants[name]) ^ np.uint8(_MIDDLE)).view(np.int8)
        constants[name].CopyFrom(numpy_helper.from_array(signed, name))
    return len(dict(pairs))


def _around_middle(zero: onnx.TensorProto) -> bool:
    return zero.data_type == onnx.TensorProto.UINT8 and bool((numpy_helper.to_array(zero) == _MIDDLE).all())


def _results(graph: onnx.GraphProto, chosen: set[str]) -> dict[str, str]:
    """Tensors that are quantised as results: name -> name of the chosen node that makes them.

    Where an activation is all that follows a node, its result is quantised and not the node's own. Saturation then
    computes a ReLU, or a clip that begins at zero, and `write_qdq` leaves it out.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    followers = {node.input[0]: node for node in graph.node if node.op_type in ACTIVATIONS}
    found = {}
    for node in graph.node:
        if node.name not in chosen or node.op_type == "MatMul" or node.op_type in ACTIVATIONS:
            continue
        for name in node.output:
            follower = followers.get(name) if node.op_type not in _MOVING and readers[name] == 1 else None
            found[follower.output[0] if follower else name] = node.name
    return found


class _Writer:
    """Rewrites one graph; used once."""

    def __init__(self, model: onnx.ModelProto, chosen: set[str], ranges: Mapping[str, Range]) -> None:
        self.graph, self.chosen = model.graph, chosen
        self.results = _results(model.graph, chosen)
        self.constants = {t.name: t for t in model.graph.initializer}
        # (scale, zero) by name.
        self.pairs = {name: activation_scale(found) for name, found in ranges.items()}
        self.made: set[str] = set()  # names of dequantised tensors and of constants of this class
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            if node.op_type in ACTIVATIONS and node.output[0] in self.results and self._saturates(node):
                self._pair(node.input[0], node.output[0], node.output[0])
                continue
            if node.name in self.chosen:
                self._quantise(node)
            # The result comes out of a DequantizeLinear under the tensor's own name, for all who read it.
            results = [name for name in node.output if name in self.results]
            inner = {name: f"{name}_float" for name in results}
            node.output[:] = [inner.get(name, name) for name in node.output]
            self.nodes.append(node)
            for name in results:
                self._pair(inner[name], name, name)
        replace_items(self.graph.node, self.nodes)
        del self.graph.value_info[:]
        drop_unused(self.graph)

    def _quantise(self, node: onnx.NodeProto) -> None:
        if node.op_type in ACTIVATIONS:
            return
        values = node_values(node)
        for i, name in enumerate(values):
            if name not in self.results and name not in self.constants:
                node.input[i] = self._dequantised(name)
        if node.op_type in _MOVING:
            for name in node.output:
                self.pairs[name] = self.pairs[values[0]]
        if node.op_type == "Conv" or node.op_type in PRODUCTS:
            at = next(i for i, name in enumerate(node.input) if name in self.constants)
            scale = self._weight(node, at)
            if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
                self._bias(node, float(self.pairs[values[0]][0]) * scale)

    def _saturates(self, node: onnx.NodeProto) -> bool:
        """Whether quantising the input of an activation, with the range of its result, computes the activation."""
        if node.op_type == "Relu":
            return True
        least = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        return least is not None and float(numpy_helper.to_array(least)) == 0.0

    def _dequantised(self, name: str) -> str:
        target = f"{name}_dequantised"
        if target not in self.made:
            self.made.add(target)
            self._pair(name, target, name)
        return target

    def _pair(self, source: str, target: str, name: str) -> None:
        scale, zero = self.pairs[name]
        inputs = [self._constant(f"{name}_scale", scale), self._constant(f"{name}_zero", zero)]
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, *inputs], [f"{name}_int8"], f"{name}_quantize"),
            helper.make_node("DequantizeLinear", [f"{name}_int8", *inputs], [target], f"{name}_dequantize"),
        ]

    def _weight(self, node: onnx.NodeProto, at: int) -> NDArray[np.float32]:
        """Have input `at` of a node read an INT8 weight; returns the weight's scales."""
        weight = node.input[at]
        values = numpy_helper.to_array(self.constants[weight])
        axis = weight_axis(node, values.ndim)
        scale = weight_scale(values, axis)
        target = f"{weight}_dequantised"
        if target not in self.made:
            self.made.add(target)
            shape = [1] * values.ndim
            if axis is not None:
                shape[axis] = -1
            whole = np.clip(np.rint(values / scale.reshape(shape)), -127, 127) + _MIDDLE
            inputs = [
                self._constant(f"{weight}_int8", whole.astype(np.uint8)),
                self._constant(f"{weight}_scale", scale),
                # QGemm is made only with a zero point.
                self._constant(f"{weight}_zero", np.full(scale.shape, _MIDDLE, np.uint8)),
            ]
            options: dict[str, Any] = {} if axis is None else {"axis": axis}
            self.nodes.append(
                helper.make_node("DequantizeLinear", inputs, [target], f"{weight}_dequantize", **options)
            )
        node.input[at] = target
        return scale

    def _bias(self, node: onnx.NodeProto, scale: NDArray[np.float32]) -> None:
        name = node.input[2]
        values = numpy_helper.to_array(self.constants[name]).astype(np.float64)
        whole = np.clip(np.rint(values / scale), -(2**31), 2**31 - 1)
        # Frames share a bias, but each of their products has an input scale of its own.
        own = f"{name}_{node.name}"
        inputs = [
            self._constant(f"{own}_int32", whole.astype(np.int32)),
            self._constant(f"{own}_scale", scale),
        ]
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [f"{own}_dequantised"], f"{own}_dequantize", axis=0)
        )
        node.input[2] = f"{own}_dequantised"

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.made:
            self.made.add(name)
            # A scalar stays one: ONNX Runtime's integer operators take no vector of one scale.
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name


def activation_scale(found: Range) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(scale, zero point) of UINT8 over a range, which zero belongs to: padding is zero."""
    least, most = min(found[0], 0.0), max(found[1], 0.0)
    # What was always zero, as the state before the first frame, has a scale that a bias can be counted in.
    scale = np.float32((most - least if most - least > 1e-6 else 1.0) / _LEVELS)
    return np.asarray(scale), np.asarray(np.clip(round(-least / float(scale)), 0, _LEVELS), np.uint8)


def weight_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """The axis of a weight's output channels; None for products that share one scale: one for each worker."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if rank == 2 else None


def weight_scale(values: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """The scales of a weight's output channels (or the only one, shape ())."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(others)
    # A channel of nearly no weights, which a training can leave, has a scale that its bias can be counted in.
    return np.maximum(largest, max(1e-4 * float(largest.max()), 1e-8)).astype(np.float32) / np.float32(127)
