# SPDX-License-Identifier: Apache-2.0
"""Passes that rewrite a bundle's graph for TensorRT's parsers; none changes a result.

Each edits the model in place. Large weights may still be external while they run.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from trt_build.errors import BundleError

OPSET = 17  # the newest that the parser of TensorRT 8.6 reads
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Equal"}
_LARGE = 1 << 17  # elements


def load_weights(tensors: Iterable[onnx.TensorProto], folder: Path, below: float = float("inf")) -> None:
    """Load external tensors of fewer than `below` elements into the model; folder: where their files are."""
    for tensor in tensors:
        if external_data_helper.uses_external_data(tensor) and np.prod(tensor.dims) < below:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def fix_batch(model: onnx.ModelProto, batch: int) -> None:
    """Make all shapes static: N becomes `batch`. Raises BundleError where another axis of an input is open."""
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                if axis and value in graph.input:
                    raise BundleError(f"input {value.name} has an open axis {axis}; export the bundle again")
                size.dim_value = batch if axis == 0 else 0
    del graph.value_info[:]
    fixed = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    shapes = {v.name: v for v in fixed.graph.output}
    for value in graph.output:
        value.CopyFrom(shapes[value.name])


def lower_opset(model: onnx.ModelProto) -> None:
    """From opset 18 to 17: reductions have their axes as an attribute, splits no number of outputs.

    TensorRT 8.6's parser ignores the axes input of a ReduceMean and would reduce over all axes.
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
                raise BundleError(f"{node.name} splits by a number of parts; export the bundle again")
            del node.attribute[:]
            node.attribute.extend(kept)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, OPSET)


def cast_before_layout(graph: onnx.GraphProto) -> None:
    """Turn uint8 -> Transpose/Reshape -> Cast into uint8 -> Cast -> Transpose/Reshape.

    The parsers accept uint8 only where a Cast follows directly.
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
            raise BundleError(f"the graph never casts its input {value.name}; export the bundle again")
        cast = helper.make_node("Cast", [value.name], [pixels], f"{value.name}_cast", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def zeros_of_products(model: onnx.ModelProto) -> None:
    """Replace x * 0 of a known shape, by which the exporter takes N from the data, by a constant.

    An engine then computes nothing for the empty memory. Large ones stay: constants would only enlarge the plan.
    """
    graph = model.graph
    shapes = _static_shapes(model)
    zeros = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and _is_zero_scalar(t)}
    for node in list(graph.node):
        if node.op_type == "Mul" and zeros & set(node.input) and node.output[0] in shapes:
            name = node.output[0]
            if np.prod(shapes[name]) > _LARGE:
                continue
            graph.node.remove(node)
            graph.initializer.append(numpy_helper.from_array(np.zeros(shapes[name], np.float32), name))
    drop_unused(graph)


def fold_constants(model: onnx.ModelProto, folder: Path) -> None:
    """Evaluate all nodes that depend on constants only: many of a window's first frame, whose memory is empty."""
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
    load_weights(tensors, folder)
    names = sorted(name for node in folded for name in node.output if name in read)
    wanted = [helper.make_empty_tensor_value_info(name) for name in names]
    part = helper.make_graph(folded, "constants", [], wanted, tensors)
    values = ReferenceEvaluator(helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
    replace_items(graph.node, rest)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, values, strict=True)
    )
    drop_unused(graph)


def slices_to_splits(model: onnx.ModelProto) -> None:
    """Turn the slices of a tensor into a Split.

    The parsers add some twenty layers for the arithmetic of each Slice's bounds, and none for a Split's.
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
    replace_items(graph.node, [node for node in kept if node is not None])
    drop_unused(graph)


def _split(
    graph: onnx.GraphProto, source: str, axis: int, size: int, members: list[tuple[int, int, onnx.NodeProto]]
) -> onnx.NodeProto:
    """One Split that replaces Slices which do not overlap; members: (start, end, Slice), sorted."""
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


def merge_reshapes(model: onnx.ModelProto) -> None:
    """Turn consecutive Squeeze, Unsqueeze and Reshape into one Reshape, or into none where the shape stays."""
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
    drop_unused(graph)


def align_ranks(model: onnx.ModelProto) -> None:
    """Give constants of elementwise nodes the rank of the result: a broadcast costs a layer."""
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
    drop_unused(graph)


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.value_info, *inferred.input, *inferred.output]
        if all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    }


def _is_zero_scalar(tensor: onnx.TensorProto) -> bool:
    return int(np.prod(tensor.dims)) == 1 and float(numpy_helper.to_array(tensor).reshape(())) == 0.0


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads."""
    outputs = {v.name for v in graph.output}
    while True:
        read = outputs.union(*(set(node.input) for node in graph.node))
        kept = [node for node in graph.node if read & set(node.output)]
        if len(kept) == len(graph.node):
            break
        replace_items(graph.node, kept)
    replace_items(graph.initializer, [t for t in graph.initializer if t.name in read])


def replace_items(field: Any, items: Iterable[Any]) -> None:
    items = list(items)
    del field[:]
    field.extend(items)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes into topological order, as ONNX requires. Raises BundleError for a cycle."""
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
            raise BundleError(f"the graph has a cycle at {waiting[0].name}; export the bundle again")
        ordered += ready
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]
    replace_items(graph.node, ordered)
