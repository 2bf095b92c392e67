# SPDX-License-Identifier: Apache-2.0
"""The graph an engine is compiled from: static shapes, and FP16 exactly where it is meant to be.

Written by us instead of by a converter, because the types of this file are the precision of the engine
(strongly typed networks). The policy, applied to the structure of the graph and not to names:

* FP16: the trunk (every convolution and what lies between convolutions, so the trunk's caches too) and every
  product with a weight matrix, its result cast back at once;
* FP32: the input's normalisation, spatial means, crop, GRU gates and states, memory, metric projection,
  distance, min-max, decay and softmax. They cost next to nothing and are what drifts over a long stream.

Needs onnx, not torch. Opset 17 is written, the newest that the parser of TensorRT 8.6 reads.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from trt_build.bundle import LoadedBundle
from trt_build.engine import STATE_PREFIX
from trt_build.errors import BundleError, EngineError

OPSET = 17
GraphPrecision = Literal["fp32", "fp16"]

_PRODUCTS = {"MatMul", "Gemm"}
# Nodes that hand values on without accumulating: they take the type of what feeds them.
_PASSING = {
    "Add", "Clip", "Concat", "Gather", "Identity", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Equal"}
# Which inputs of a node hold values; the others are shapes, axes and indices.
_VALUE_INPUTS = {
    "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1, "Unsqueeze": 1, "Transpose": 1, "Gather": 1,
}  # fmt: skip
_FP16_MAX = 65504.0
_LARGE = 1 << 17  # elements
_SMALL = 1 << 12


def mixed_precision(bundle: LoadedBundle, mode: str, *, batch: int = 1) -> onnx.ModelProto:
    """The FP16 graph of `mode` ("window" or "step") for `batch` slots, weights embedded; see `engine_graph`."""
    return engine_graph(bundle, mode, precision="fp16", batch=batch)


def engine_graph(
    bundle: LoadedBundle, mode: str, *, precision: str = "fp16", batch: int = 1
) -> onnx.ModelProto:
    """The graph that an engine of this precision is compiled from.

    precision: "fp16" (mixed, the policy above) or "fp32" (the same graph without half types).
    batch: N, fixed; every shape of the result is static.
    Inputs and outputs keep their names. The frame stays uint8; logits, glimpses, assignment and all states but the
    trunk's caches stay float32, the caches are float16 under "fp16".
    Raises BundleError where the bundle has no such mode or the weights do not fit FP16, EngineError for another
    precision.
    """
    if precision not in ("fp32", "fp16"):
        raise EngineError(f"no engine graph of precision {precision!r}; use fp16 or fp32")
    path = bundle.graph(mode)
    try:
        model = onnx.load(str(path), load_external_data=False)
        # Weights are read as late as possible: the passes below would copy all of them again and again.
        _load_weights(model.graph.initializer, path.parent, below=_SMALL)
    except Exception as error:
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle anew") from None
    _fix_batch(model, batch)
    _lower_opset(model)
    _cast_before_layout(model.graph)
    _zeros_of_products(model)
    _fold_constants(model, path.parent)
    _slices_to_splits(model)
    _merge_reshapes(model)
    _align_ranks(model)
    if precision == "fp16":
        _Halver(model.graph, path.parent).run()
    del model.graph.value_info[:]
    _sort(model.graph)
    _load_weights(model.graph.initializer, path.parent)
    onnx.checker.check_model(model)
    return model


def _load_weights(tensors: Iterable[onnx.TensorProto], folder: Path, below: float = float("inf")) -> None:
    """Bring external tensors of fewer than `below` elements into the model."""
    for tensor in tensors:
        if external_data_helper.uses_external_data(tensor) and np.prod(tensor.dims) < below:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor of the graph by name, from its own declarations and shape inference."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    return types | {t.name: t.data_type for t in inferred.graph.initializer}


def half_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and weight products that are FP16: what a layer report must bear out."""
    types = tensor_types(model)
    heavy = [n for n in model.graph.node if n.op_type in {"Conv", *_PRODUCTS}]
    return [n.name for n in heavy if types.get(n.output[0]) == TensorProto.FLOAT16]


def _fix_batch(model: onnx.ModelProto, batch: int) -> None:
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                if axis and value in graph.input:
                    raise BundleError(f"input {value.name} has an open axis {axis}; export the bundle anew")
                size.dim_value = batch if axis == 0 else 0
    del graph.value_info[:]
    fixed = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    shapes = {v.name: v for v in fixed.graph.output}
    for value in graph.output:
        value.CopyFrom(shapes[value.name])


def _lower_opset(model: onnx.ModelProto) -> None:
    """From 18 to 17: reductions take their axes, splits their sizes, the old way.

    The 8.6 parser does not look at the axes input of a ReduceMean and would reduce over everything.
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", axes))
        if node.op_type == "Split":
            kept = [a for a in node.attribute if a.name != "num_outputs"]
            if len(kept) != len(node.attribute) and len(node.input) < 2:
                raise BundleError(f"{node.name} splits by a number of parts; export the bundle anew")
            del node.attribute[:]
            node.attribute.extend(kept)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, OPSET)


def _cast_before_layout(graph: onnx.GraphProto) -> None:
    """uint8 -> Transpose/Reshape -> Cast becomes uint8 -> Cast -> Transpose/Reshape.

    The parsers take uint8 only where a Cast follows at once.
    """
    for value in graph.input:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        pixels = f"{value.name}_float"
        casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
        moved, users = {value.name}, []
        for node in graph.node:  # nodes are in order of use
            if node.op_type in ("Transpose", "Reshape") and node.input[0] in moved:
                moved.add(node.output[0])
                users.append(node)
        for node in list(graph.node):
            if node.op_type == "Cast" and node.input[0] in moved:
                source = node.input[0] if node.input[0] != value.name else pixels
                _rename(graph, node.output[0], source)
                graph.node.remove(node)
        for node in users:
            node.input[0] = pixels if node.input[0] == value.name else node.input[0]
        if not casts:
            raise BundleError(f"the graph never casts its input {value.name}; export the bundle anew")
        cast = helper.make_node("Cast", [value.name], [pixels], f"{value.name}_cast", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _zeros_of_products(model: onnx.ModelProto) -> None:
    """x * 0 with a known shape is a constant: the exporter's way of taking N from the data.

    The empty memory then costs the engine nothing. Large ones stay: they would only fatten the plan.
    """
    graph = model.graph
    shapes = _static_shapes(model)
    zeros = {
        t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and _is_zero(t)
    }  # scalars only
    for node in list(graph.node):
        if node.op_type == "Mul" and zeros & set(node.input) and node.output[0] in shapes:
            name = node.output[0]
            if np.prod(shapes[name]) > _LARGE:
                continue
            graph.node.remove(node)
            graph.initializer.append(numpy_helper.from_array(np.zeros(shapes[name], np.float32), name))
    _drop_unused(graph)


def _fold_constants(model: onnx.ModelProto, folder: Path) -> None:
    """Evaluate what depends on constants alone: much of a window's first frame, whose memory is empty."""
    graph = model.graph
    known = {t.name for t in graph.initializer}
    outputs = {v.name for v in graph.output}
    folded: list[onnx.NodeProto] = []
    for node in graph.node:
        if all(name in known or not name for name in node.input) and not outputs & set(node.output):
            folded.append(node)
            known.update(node.output)
    if not folded:
        return
    gone = {node.output[0] for node in folded}
    rest = [node for node in graph.node if node.output[0] not in gone]
    read = {name for node in rest for name in node.input}
    used = {name for node in folded for name in node.input}
    tensors = [t for t in graph.initializer if t.name in used]
    _load_weights(tensors, folder)
    names = sorted(name for node in folded for name in node.output if name in read)
    wanted = [helper.make_empty_tensor_value_info(name) for name in names]
    part = helper.make_graph(folded, "constants", [], wanted, tensors)
    values = ReferenceEvaluator(helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
    _replace(graph.node, rest)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, values, strict=True)
    )
    _drop_unused(graph)


def _slices_to_splits(model: onnx.ModelProto) -> None:
    """Slices of one tensor become a Split.

    The parsers spell out the arithmetic of a Slice's bounds, some twenty layers for each, and none for a Split's.
    """
    graph = model.graph
    shapes = _static_shapes(model)
    constants = {
        t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT64
    }
    nodes = list(graph.node)
    order = {node.output[0]: i for i, node in enumerate(nodes)}
    families: dict[tuple[str, int], list[tuple[int, int, onnx.NodeProto]]] = defaultdict(list)
    for node in nodes:
        bounds = [constants.get(name) for name in node.input[1:]]
        if node.op_type != "Slice" or node.input[0] not in shapes or len(bounds) < 3:
            continue
        numbers = [int(b[0]) for b in bounds if b is not None and b.size == 1]
        if len(numbers) != len(bounds) or (len(numbers) > 3 and numbers[3] != 1):
            continue
        start, end, axis = numbers[:3]
        shape = shapes[node.input[0]]
        axis, size = axis % len(shape), shape[axis]
        start, end = (max(0, min(size, b + size if b < 0 else b)) for b in (start, end))
        if start < end:
            families[node.input[0], axis].append((start, end, node))
    instead: dict[str, onnx.NodeProto | None] = {}  # by a Slice's output
    for (source, axis), members in families.items():
        members.sort(key=lambda m: m[:2])
        apart = all(a[1] <= b[0] for a, b in itertools.pairwise(members))
        for group in [members] if apart else [[member] for member in members]:
            instead.update({node.output[0]: None for _, _, node in group})
            first = min((node for _, _, node in group), key=lambda n: order[n.output[0]])
            instead[first.output[0]] = _split(graph, source, axis, shapes[source][axis], group)
    kept = [instead.get(node.output[0], node) for node in nodes]
    _replace(graph.node, [node for node in kept if node is not None])
    _drop_unused(graph)


def _split(
    graph: onnx.GraphProto, source: str, axis: int, size: int, members: list[tuple[int, int, onnx.NodeProto]]
) -> onnx.NodeProto:
    """One Split in the place of Slices that do not overlap, sorted by their bounds."""
    first = members[0][2].output[0]
    sizes: list[int] = []
    names: list[str] = []
    at = 0
    for start, end, node in [*members, (size, size, None)]:
        if start > at:
            sizes.append(start - at)
            names.append(f"{first}_rest{len(names)}")
        if node is not None:
            sizes.append(end - start)
            names.append(node.output[0])
        at = end
    bounds = f"{first}_split"
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), bounds))
    return helper.make_node("Split", [source, bounds], names, f"{first}_split", axis=axis)


def _merge_reshapes(model: onnx.ModelProto) -> None:
    """Squeeze, Unsqueeze and Reshape in a row become one Reshape, or none where the shape is back where it was."""
    graph = model.graph
    shapes = _static_shapes(model)
    made = {
        node.output[0]: node for node in graph.node if node.op_type in ("Squeeze", "Unsqueeze", "Reshape")
    }
    outputs = {v.name for v in graph.output}
    rename: dict[str, str] = {}
    for node in made.values():
        source, out = node.input[0], node.output[0]
        while source in made:
            source = made[source].input[0]
        if source not in shapes or out not in shapes:
            continue
        if shapes[source] == shapes[out] and out not in outputs:
            rename[out] = source
            continue
        target = f"{out}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array(shapes[out], np.int64), target))
        node.CopyFrom(helper.make_node("Reshape", [source, target], [out], node.name))
    for node in graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
    _drop_unused(graph)


def _align_ranks(model: onnx.ModelProto) -> None:
    """Constants of elementwise nodes get the rank of what they meet: a broadcast costs the parsers a layer."""
    graph = model.graph
    shapes = _static_shapes(model)
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        places = {"Gemm": [2]}.get(node.op_type, [0, 1] if node.op_type in _ELEMENTWISE else [])
        rank = len(shapes.get(node.output[0], ()))
        for i in places:
            tensor = constants.get(node.input[i]) if i < len(node.input) else None
            if (
                tensor is None
                or not 0 <= len(tensor.dims) < rank
                or external_data_helper.uses_external_data(tensor)
            ):
                continue
            name = f"{tensor.name}_rank{rank}"
            if name not in constants:
                values = numpy_helper.to_array(tensor)
                wide = values.reshape((1,) * (rank - values.ndim) + values.shape)
                constants[name] = numpy_helper.from_array(wide, name)
                graph.initializer.append(constants[name])
            node.input[i] = name
    _drop_unused(graph)


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.value_info, *inferred.input, *inferred.output]
        if all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    }


def _is_zero(tensor: onnx.TensorProto) -> bool:
    return int(np.prod(tensor.dims)) == 1 and float(numpy_helper.to_array(tensor).reshape(())) == 0.0


class _Halver:
    """Gives a float32 graph its half types; one use."""

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
        _drop_unused(self.graph)

    def _trunk(self) -> set[int]:
        """Nodes of the trunk: convolutions, what they feed without accumulating, and the caches' way to them."""
        states = {
            v.name for v in self.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT
        }  # may become FP16, if nothing but the trunk reads them
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
        """A tensor that the trunk reads, and what it was made from, become FP16."""
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
        """Whether a square root (Eq 9) is reached from this product without passing another one."""
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
        """Let every value input of `node` be of type `kind`."""
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
        _load_weights([tensor], self.folder)
        values = numpy_helper.to_array(tensor)
        if not np.all(np.abs(values) <= _FP16_MAX):
            raise BundleError(
                f"weight {tensor.name} reaches {np.abs(values).max():.3g}, FP16 ends at {_FP16_MAX:g}; "
                "build with precision fp32"
            )
        name = f"{tensor.name}_half"
        self.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
        self.made[tensor.name, TensorProto.FLOAT16] = name
        return name

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)

    def _outputs(self) -> None:
        """Outputs stay float32, but a state's follows its input: `next_X` is copied nowhere on its way to `X`."""
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


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads."""
    outputs = {v.name for v in graph.output}
    while True:
        read = outputs.union(*(set(node.input) for node in graph.node))
        kept = [node for node in graph.node if read & set(node.output)]
        if len(kept) == len(graph.node):
            break
        _replace(graph.node, kept)
    _replace(graph.initializer, [t for t in graph.initializer if t.name in read])


def _replace(field: Any, items: Iterable[Any]) -> None:
    items = list(items)
    del field[:]
    field.extend(items)


def _sort(graph: onnx.GraphProto) -> None:
    """Topological order, as ONNX asks for."""
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = []
        for node in waiting:
            if all(name in known for name in node.input):
                known.update(node.output)
                ready.append(node)
        if not ready:
            raise BundleError(f"the graph has a cycle at {waiting[0].name}; export the bundle anew")
        ordered += ready
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]
    _replace(graph.node, ordered)
