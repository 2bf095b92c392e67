# SPDX-License-Identifier: Apache-2.0
"""Keeps the caches of a step in the layout in which ONNX Runtime convolves on a processor.

It convolves in blocks of 8 or 16 channels (NCHWc). States are plain tensors, so that each step would convert every
cache when it reads it and when it writes it, and add it in a pass of its own. Here ONNX Runtime first optimises a graph
in which each cache goes through a pooling of one pixel, which it computes in blocks too; it then adds the caches within
the convolutions. What is left to convert lies at the borders of the graph, and is cut off. The states keep their
shapes, and zeros stay zeros, but their values are in blocks.

The operators of such a graph are ONNX Runtime's own and differ between processors: it is made when an engine is opened,
compared with the plain graph, and used only where both give the same. It needs `onnx`.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_build.engine import STATE_PREFIX
from trt_build.graphs.passes import drop_unused, load_weights, replace_items, sort_nodes
from trt_build.graphs.ranges import quiet_options, run_clips
from trt_build.tolerances import relative_error, spread

_DOMAIN = "com.microsoft.nchwc"
_BLOCKS = 16  # the largest block: fewer channels would be padded
_EQUAL = 0.01  # `relative_error` of an output; in INT8 a sum in another order may round to another step
_FRAMES = 3  # that are compared: of three taps, the first reaches a result in the third frame alone


def blocked_session(
    plain: ort.InferenceSession, source: Path | bytes, threads: int | None
) -> tuple[ort.InferenceSession, list[str]] | None:
    """(session of the graph of `source` with caches in blocks, names of these caches); None where nothing is gained.

    plain: a session of the same graph, with which the results are compared.
    """
    if isinstance(source, bytes):
        model = onnx.load_model_from_string(source)
    else:
        model = onnx.load(source, load_external_data=False)
    caches = _added_states(model.graph)
    if not caches:
        return None
    if not isinstance(source, bytes):
        load_weights(model.graph.initializer, source.parent)
    _pool(model.graph, caches)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = quiet_options(threads)
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        model = onnx.load(path)
    blocked = _cut(model.graph, caches)
    if not blocked:
        return None
    _fold_clips(model.graph)
    drop_unused(model.graph)
    sort_nodes(model.graph)
    options = quiet_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return (session, blocked) if _equal(plain, session) else None


def block_size() -> int:
    """Channels of a block on this processor."""
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2 * _BLOCKS, 1, 2]) for name in "xy"
    ]
    graph = helper.make_graph([node], "reorder", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), quiet_options(1), ["CPUExecutionProvider"])
    values = np.arange(4 * _BLOCKS, dtype=np.float32).reshape(1, 2 * _BLOCKS, 1, 2)
    # The second pixel of the first channel comes behind the first pixels of a whole block.
    return int(np.flatnonzero(session.run(None, {"x": values})[0].ravel() == 1)[0])


def plain_layout(values: NDArray[Any], block: int) -> NDArray[Any]:
    """A cache (N, C, H, W) in the usual order of its values."""
    N, C, H, W = values.shape
    return values.reshape(N, C // block, H, W, block).transpose(0, 1, 4, 2, 3).reshape(N, C, H, W)


def _users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    return users


def _added_states(graph: onnx.GraphProto) -> list[str]:
    """States of whole blocks of channels that are only added to something."""
    users = _users(graph)
    outputs = {value.name for value in graph.output}
    return [
        value.name
        for value in graph.input
        if STATE_PREFIX + value.name in outputs
        and len(shape := value.type.tensor_type.shape.dim) == 4
        and shape[1].dim_value % _BLOCKS == 0
        and {node.op_type for node in users[value.name]} == {"Add"}
    ]


def _pool(graph: onnx.GraphProto, caches: Collection[str]) -> None:
    for node in graph.node:
        node.input[:] = [f"{name}_pooled" if name in caches else name for name in node.input]
    pools = [
        helper.make_node("MaxPool", [name], [f"{name}_pooled"], f"{name}_pool", kernel_shape=[1, 1])
        for name in caches
    ]
    replace_items(graph.node, [*pools, *graph.node])


def _cut(graph: onnx.GraphProto, caches: Collection[str]) -> list[str]:
    """Remove the conversions of all caches that are read and written in blocks; returns the names of these caches."""
    users = _users(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    rename: dict[str, str] = {}
    blocked = []
    for name in caches:
        reorder = users[name][0]
        pool = users[reorder.output[0]][0] if users[reorder.output[0]] else reorder
        back = made_by[STATE_PREFIX + name]
        inner = made_by.get(back.input[0])
        if (
            (len(users[name]), reorder.op_type, reorder.domain) == (1, "ReorderInput", _DOMAIN)
            and (len(users[reorder.output[0]]), pool.op_type, pool.domain) == (1, "MaxPool", _DOMAIN)
            and (back.op_type, back.domain, users[back.output[0]]) == ("ReorderOutput", _DOMAIN, [])
            and inner is not None
            and (inner.op_type, inner.domain) == ("Conv", _DOMAIN)
            and not any(a.name == "channels_last" and a.i for node in (reorder, back) for a in node.attribute)
            and back.input[0] not in rename
        ):
            blocked.append(name)
            rename |= {pool.output[0]: name, back.input[0]: back.output[0]}
            for node in (reorder, pool, back):
                graph.node.remove(node)
    _rename(graph, rename)
    return blocked


def _fold_clips(graph: onnx.GraphProto) -> None:
    """Have a convolution in blocks compute the clip between it and the next one."""
    users = _users(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {t.name: t for t in graph.initializer}
    rename: dict[str, str] = {}
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        back, following = made_by.get(clip.input[0]), users[clip.output[0]]
        if back is None or back.op_type != "ReorderOutput" or len(users[clip.input[0]]) > 1:
            continue
        inner = made_by.get(back.input[0])
        if (
            inner is not None
            and (inner.op_type, inner.domain) == ("Conv", _DOMAIN)
            and len(users[back.input[0]]) == 1
            and [node.op_type for node in following] == ["ReorderInput"]
            and all(name in constants for name in clip.input[1:3])
            and len(clip.input) == 3
            and not any(a.name == "activation" for a in inner.attribute)
        ):
            ends = [float(numpy_helper.to_array(constants[name])) for name in clip.input[1:3]]
            inner.attribute.append(helper.make_attribute("activation", "Clip"))
            inner.attribute.append(helper.make_attribute("activation_params", ends))
            rename[following[0].output[0]] = back.input[0]
            for node in (back, clip, following[0]):
                graph.node.remove(node)
    _rename(graph, rename)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.value_info[:]


def _equal(plain: ort.InferenceSession, blocked: ort.InferenceSession) -> bool:
    """Whether both give the same results over a few frames of noise; states are compared by what they lead to."""
    shape = plain.get_inputs()[0].shape[1:]
    outputs = [v.name for v in plain.get_outputs() if not v.name.startswith(STATE_PREFIX)]
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, _FRAMES, *shape), np.uint8)
    results = [list(run_clips(session, clip, outputs))[-1].values() for session in (plain, blocked)]
    return all(
        relative_error(ours, theirs, spread(theirs)) <= _EQUAL for theirs, ours in zip(*results, strict=True)
    )
