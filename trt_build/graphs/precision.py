# SPDX-License-Identifier: Apache-2.0
"""The graph an engine is compiled from: static shapes, and FP16 exactly where it is meant to be.

Networks are strongly typed: the types in this file are the precision of the engine, so we set them ourselves instead of
using a converter. The policy looks at the structure of the graph, not at names:

* FP16: the trunk (every convolution and what lies between convolutions, so the trunk's caches too) and every product
  with a weight matrix, whose result is cast back at once;
* FP32: the input's normalisation, spatial means, crop, GRU gates and states, memory, metric projection, distance,
  min-max, decay and softmax. They take almost no time and are what drifts over a long stream.

The result has opset 17, the newest that TensorRT 8.6's parser reads.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from trt_build.bundle import LoadedBundle
from trt_build.engine import STATE_PREFIX
from trt_build.errors import BundleError, EngineError
from trt_build.graphs.passes import (
    OPSET,
    align_ranks,
    cast_before_layout,
    drop_unused,
    fix_batch,
    fold_constants,
    load_weights,
    lower_opset,
    merge_reshapes,
    slices_to_splits,
    sort_nodes,
    zeros_of_products,
)
from trt_build.integrity import again

_PRODUCTS = {"MatMul", "Gemm"}
# Nodes that pass values on without accumulating: they take the type of their input.
_PASSING = {
    "Add", "Clip", "Concat", "Gather", "Identity", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
# How many inputs of a node, from the first, hold values; the others are shapes, axes and indices.
_VALUE_INPUTS = {
    "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1, "Unsqueeze": 1, "Transpose": 1, "Gather": 1,
}  # fmt: skip
_FP16_MAX = 65504.0
_SMALL = 1 << 12


def mixed_precision(bundle: LoadedBundle, mode: str, *, batch: int = 1) -> onnx.ModelProto:
    """The FP16 graph of `mode` ("window" or "step") for `batch` slots, weights embedded; see `engine_graph`."""
    return engine_graph(bundle, mode, precision="fp16", batch=batch)


def engine_graph(
    bundle: LoadedBundle, mode: str, *, precision: str = "fp16", batch: int = 1
) -> onnx.ModelProto:
    """The graph that an engine of this precision is compiled from.

    precision: "fp16" (mixed, the policy above) or "fp32" (the same graph without half types).
    batch: N; every shape of the result is static.

    Inputs and outputs keep their names. The frame stays uint8; logits, glimpses, assignment and all states but the
    trunk's caches stay float32; the caches are float16 under "fp16". Raises BundleError where the bundle has no such
    mode or the weights do not fit FP16, EngineError for another precision.
    """
    if precision not in ("fp32", "fp16"):
        raise EngineError(f"no engine graph of precision {precision!r}; use fp16 or fp32")
    path = bundle.graph(mode)
    try:
        model = onnx.load(str(path), load_external_data=False)
        # Large weights are read last: each pass below would copy all of them.
        load_weights(model.graph.initializer, path.parent, below=_SMALL)
    except Exception as error:
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from None
    fix_batch(model, batch)
    lower_opset(model)
    cast_before_layout(model.graph)
    zeros_of_products(model)
    fold_constants(model, path.parent)
    slices_to_splits(model)
    merge_reshapes(model)
    align_ranks(model)
    if precision == "fp16":
        _Halver(model.graph, path.parent).run()
    del model.graph.value_info[:]
    sort_nodes(model.graph)
    load_weights(model.graph.initializer, path.parent)
    onnx.checker.check_model(model)
    return model


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor of the graph by name, from its own declarations and shape inference."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    return types | {t.name: t.data_type for t in inferred.graph.initializer}


def half_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and weight products in FP16, which the engine's layer report must confirm."""
    types = tensor_types(model)
    heavy = [n for n in model.graph.node if n.op_type in {"Conv", *_PRODUCTS}]
    return [n.name for n in heavy if types.get(n.output[0]) == TensorProto.FLOAT16]


class _Halver:
    """Sets the FP16 types of a float32 graph, by the policy above; used once."""

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self.graph, self.folder = graph, folder
        self.constants = {t.name: t for t in graph.initializer}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        self.types = tensor_types(model)  # before anything is half
        self.half: set[str] = set()  # tensors that are FP16 in the result
        self.made: dict[tuple[str, int], str] = {}  # (tensor, type) -> its cast
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        trunk = self._trunk()
        products = {
            id(n)
            for n in self.graph.node
            if n.op_type in _PRODUCTS and self._weighted(n) and not self._metric(n)
        }
        for value in self.graph.input:
            if value.name in self.half:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for node in self.graph.node:
            if id(node) in trunk:
                self._retype(node, TensorProto.FLOAT16)
                self.nodes.append(node)
            elif id(node) in products:
                self._product(node)
            else:
                self._retype(node, TensorProto.FLOAT)
                self.nodes.append(node)
        self._outputs()
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        drop_unused(self.graph)

    def _trunk(self) -> set[int]:
        """Nodes of the trunk: convolutions, what passes their results on, and the caches' path to them."""
        # States may become FP16 where only the trunk reads them.
        states = {v.name for v in self.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        free: dict[str, onnx.NodeProto | None] = dict.fromkeys(states)
        trunk: dict[int, onnx.NodeProto] = {}
        for node in self.graph.node:
            values = [name for name in self._values(node) if name not in self.constants]
            if node.op_type == "Conv":
                joined = True
            elif node.op_type in _PASSING and values and all(v in self.half or v in free for v in values):
                joined = any(v in self.half for v in values)
                if not joined:
                    free.update(dict.fromkeys(node.output, node))
            else:
                continue
            if joined:
                trunk[id(node)] = node
                self.half.update(node.output)
                for name in values:
                    self._claim(name, free, trunk)
        return set(trunk)

    def _claim(
        self, name: str, free: dict[str, onnx.NodeProto | None], trunk: dict[int, onnx.NodeProto]
    ) -> None:
        """Make a tensor that the trunk reads FP16, and what it was made from."""
        if name not in free or name in self.half:
            return
        self.half.add(name)
        node = free[name]
        if node is not None:
            trunk[id(node)] = node
            self.half.update(node.output)
            for source in self._values(node):
                self._claim(source, free, trunk)

    def _weighted(self, node: onnx.NodeProto) -> bool:
        return any(name in self.constants and len(self.constants[name].dims) >= 2 for name in node.input[:2])

    def _metric(self, node: onnx.NodeProto) -> bool:
        """Whether this product leads to a square root (Eq 9) without another product in between."""
        seen, todo = set(), list(node.output)
        while todo:
            name = todo.pop()
            for user in self.users[name]:
                if user.op_type == "Sqrt":
                    return True
                if id(user) not in seen and user.op_type not in {"Conv", *_PRODUCTS}:
                    seen.add(id(user))
                    todo.extend(user.output)
        return False

    def _values(self, node: onnx.NodeProto) -> list[str]:
        count = _VALUE_INPUTS.get(node.op_type, len(node.input))
        if node.op_type == "Pad":
            return [name for i, name in enumerate(node.input) if i in (0, 2) and name]
        return [name for name in node.input[:count] if name]

    def _retype(self, node: onnx.NodeProto, kind: int) -> None:
        """Give every value input of `node` the type `kind`, by a cast or a converted constant."""
        values = set(self._values(node))
        for i, name in enumerate(node.input):
            if name in values:
                node.input[i] = self._as(name, kind)

    def _product(self, node: onnx.NodeProto) -> None:
        self._retype(node, TensorProto.FLOAT16)
        out = node.output[0]
        node.output[0] = f"{out}_half"
        self.nodes += [node, self._cast(node.output[0], out, TensorProto.FLOAT)]

    def _as(self, name: str, kind: int) -> str:
        constant = self.constants.get(name)
        if constant is not None:
            if kind == TensorProto.FLOAT or constant.data_type != TensorProto.FLOAT:
                return name
            return self.made.get((name, kind)) or self._half_constant(constant)
        if (name in self.half) == (kind == TensorProto.FLOAT16) or not self._is_float(name):
            return name
        if (name, kind) not in self.made:
            self.made[name, kind] = f"{name}_{'half' if kind == TensorProto.FLOAT16 else 'float'}_cast"
            self.nodes.append(self._cast(name, self.made[name, kind], kind))
        return self.made[name, kind]

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def _half_constant(self, tensor: onnx.TensorProto) -> str:
        load_weights([tensor], self.folder)
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            raise BundleError(f"weight {tensor.name} is not finite; {again(self.folder)}")
        if not np.all(np.abs(values) <= _FP16_MAX):
            raise BundleError(
                f"weight {tensor.name} reaches {np.abs(values).max():.3g}, beyond FP16's {_FP16_MAX:g}; "
                "build with precision fp32"
            )
        name = f"{tensor.name}_half"
        self.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
        self.made[tensor.name, TensorProto.FLOAT16] = name
        return name

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)

    def _outputs(self) -> None:
        """Keep outputs float32, but give `next_X` the type of `X`, whose buffer it is in the next run."""
        inputs = {v.name for v in self.graph.input}
        for value in self.graph.output:
            name = value.name
            state = name.removeprefix(STATE_PREFIX)
            wanted = name.startswith(STATE_PREFIX) and state in inputs and state in self.half
            if wanted == (name in self.half):
                if wanted:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT16
                continue
            inner = f"{name}_inner"
            for node in self.nodes:
                node.input[:] = [inner if n == name else n for n in node.input]
                node.output[:] = [inner if n == name else n for n in node.output]
            kind = TensorProto.FLOAT16 if wanted else TensorProto.FLOAT
            self.nodes.append(self._cast(inner, name, kind))
            value.type.tensor_type.elem_type = kind
