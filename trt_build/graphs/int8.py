# SPDX-License-Identifier: Apache-2.0
"""`trt-build quantize`: INT8 graphs for processors without an accelerator, added to a bundle.

Static quantisation in QDQ form (`qdq`); ONNX Runtime and OpenVINO both run it as INT8. The ranges of the activations
are measured on clips of the training set (`ranges`).

Quantised are the trunk's convolutions and the large products of the head. Depthwise convolutions are not: they are a
small part of the work and most of the error. Nor are, between depthwise convolutions, those that compute too little for
what they read and write: converting that costs more than INT8 saves. What decides and what remembers stays in FP32: the
metric and its distances, min-max, softmax and decay, the location layer, the read-out, and every gate and state; see
`choose`.

Some further weights are too sensitive for INT8. They are few and differ from model to model: in the network trained on
Weizmann's actions, 8 of 36 caused four fifths of the error. `sensitive_weights` finds them by measuring.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from trt_build.bundle import INT8, INT8_WEIGHTS_NAME, LoadedBundle, graph_name, load_bundle, write_bundle
from trt_build.errors import BundleError
from trt_build.files import temporary_folder
from trt_build.footage import Footage, windows
from trt_build.graphs.qdq import PRODUCTS, Range, node_values, tensors_to_measure, write_qdq
from trt_build.graphs.ranges import measure_ranges, run_clips, session
from trt_build.graphs.weights import share_weights
from trt_build.tolerances import INT8_LIMITS, error_of

# Nodes of the trunk: convolutions, and what can stay in INT8 between them.
_TRUNK = {
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "MaxPool",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Transpose",
}
_LARGE = 2048  # weights of a product worth quantising
_DENSE = 48  # multiply-adds for each value that a convolution reads or writes, from which INT8 pays for conversions
# Parts of the head, by module names in the graph, that stay in FP32. An error there is not noise in a long sum: it
# moves a glimpse, assigns another worker or changes the label.
SENSITIVE = ("assignment", "locate", "readout", "Lambda.0")
_MEASURED = 6  # windows on which errors are measured
_MOST = 0.75  # of the weights may stay in FP32; a model that needs more should not run in INT8


def choose(graph: onnx.GraphProto, spared: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """(names of the nodes to quantise, names of the convolutions and weight products that stay in FP32).

    spared: names of weights whose convolutions and products stay in FP32.
    """
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if _groups(node) > 1}
    # Between depthwise convolutions, values would only be converted to INT8 and back.
    between = set() if depthwise else _between(graph, convolutions)
    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    thin = {node.name for node in convolutions if depthwise and _density(dims[node.input[1]]) < _DENSE}
    # The first convolution sees the image, whose channels differ in range after normalisation.
    apart = depthwise | thin | {node.name for node in convolutions[:1]}
    sizes = {name: int(np.prod(shape)) for name, shape in dims.items()}
    chosen: list[str] = []
    left: list[str] = []
    made: set[str] = set()  # tensors that a chosen node makes
    for node in graph.node:
        weights = [name for name in node.input if name in sizes]
        kept = any(name in spared for name in weights)
        if node.op_type == "Conv":
            (left if kept or node.name in apart else chosen).append(node.name)
        elif node.op_type in PRODUCTS and weights:
            sensitive = any(part in name for part in SENSITIVE for name in (node.name, *weights))
            small = max(sizes[name] for name in weights) < _LARGE
            (left if kept or sensitive or small else chosen).append(node.name)
        # An Add of what convolutions in FP32 make gains nothing in INT8, and ONNX Runtime's optimiser (1.32) computes
        # it wrongly.
        elif (
            node.op_type in _TRUNK
            and node.name in between
            and made.issuperset(name for name in node_values(node) if name not in sizes)
        ):
            chosen.append(node.name)
        if chosen[-1:] == [node.name]:
            made.update(node.output)
    return chosen, left


def _density(shape: list[int]) -> float:
    """Multiply-adds of a convolution for each value that it reads or writes; shape: of its weight."""
    out, read, *kernel = shape
    return out * read * float(np.prod(kernel)) / (out + read)


def _groups(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _between(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """Names of all nodes on a path from one of `nodes`, which are convolutions, to another."""
    made_by = {name: node for node in graph.node for name in node.output}
    found = {node.name: node for node in nodes}
    below: set[str] = set()
    waiting = list(nodes)
    while waiting:
        for name in waiting.pop().input:
            if name in made_by and made_by[name].name not in found:
                found[made_by[name].name] = made_by[name]
                waiting.append(made_by[name])
    for node in graph.node:  # in topological order
        if node.op_type == "Conv" or any(name in below for name in node.input):
            below.update(node.output)
    return {name for name, node in found.items() if any(out in below for out in node.output)}


class _Trials:
    """One graph, of which some nodes are quantised: writes it, and measures how far its outputs move.

    clips: uint8 (n, T, S, S, 3).
    """

    def __init__(self, source: Path, clips: NDArray[np.uint8]) -> None:
        self.model = onnx.load(source)
        self.graph, self._clips = self.model.graph, clips
        self._ranges: dict[str, Range] = {}

    def write(self, nodes: list[str]) -> onnx.ModelProto:
        missing = [n for n in tensors_to_measure(self.graph, nodes) if n not in self._ranges]
        if missing:
            self._ranges |= measure_ranges(self.model, self._clips, missing)
        written = onnx.ModelProto()
        written.CopyFrom(self.model)
        write_qdq(written, nodes, self._ranges)
        return written

    def expect(self) -> None:
        """Take the outputs of FP32 on a few of the clips as what `error` compares with."""
        count = len(self._clips)
        self._measured = self._clips[np.unique(np.linspace(0, count - 1, _MEASURED).round().astype(int))]
        there = {value.name for value in self.graph.output}  # a bundle of schema 1 has no embedding
        self._names = [name for name in INT8_LIMITS if name in there]
        self._expected = self._outputs(self.model)

    def _outputs(self, model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        runs = list(run_clips(session(model), self._measured, self._names))
        return {name: np.concatenate([found[name] for found in runs]) for name in self._names}

    def error(self, nodes: list[str]) -> float:
        """The largest error of an output with these nodes in INT8, in units of its limit."""
        found, expected = self._outputs(self.write(nodes)), self._expected
        return max(error_of(n, found[n], expected[n]) / INT8_LIMITS[n] for n in self._names)


def sensitive_weights(
    trials: _Trials, progress: Callable[[int, int], None] | None = None
) -> tuple[list[str], float]:
    """(weights to leave in FP32, the most sensitive first, so that all outputs stay within `INT8_LIMITS`; the error).

    Every weight is quantised alone. Those with the largest errors are then left out, as few as needed and at most three
    quarters of all weights, rounded up; `trt-build verify` shows whether that was enough. The error is that of all that
    is then quantised, in units of the limits.

    progress: called with (done, all).
    """
    trials.expect()
    chosen, _ = choose(trials.graph)
    if (whole := trials.error(chosen)) <= 1:
        return [], whole
    of_weight = _by_weight(trials.graph, chosen)
    alone: dict[str, float] = {}
    for weight, nodes in of_weight.items():
        alone[weight] = trials.error(nodes)
        if progress is not None:
            progress(len(alone), len(of_weight))
    order = sorted(alone, key=lambda weight: alone[weight], reverse=True)[: math.ceil(len(alone) * _MOST)]
    errors: dict[int, float] = {}

    def enough(count: int) -> bool:
        errors[count] = trials.error(choose(trials.graph, set(order[:count]))[0])
        return errors[count] <= 1

    # All of them where fewer are not enough.
    count = bisect_left(range(1, len(order)), True, key=enough) + 1
    if count not in errors:
        enough(count)
    return order[:count], errors[count]


def _by_weight(graph: onnx.GraphProto, chosen: Collection[str]) -> Mapping[str, list[str]]:
    """The chosen nodes that have weights, by the name of the weight; the products of all T frames share one."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    wanted, found = set(chosen), defaultdict(list)
    for node in graph.node:
        weights = [name for name in node.input if name in sizes]
        if node.name in wanted and weights and node.op_type in {"Conv", *PRODUCTS}:
            found[max(weights, key=lambda name: sizes[name])].append(node.name)
    return found


def quantize_bundle(
    bundle: LoadedBundle,
    pieces: list[Footage],
    *,
    samples: int = 24,
    spare: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedBundle:
    """Add INT8 graphs of all modes to a bundle, with ranges measured on at most `samples` windows of `pieces`.

    The weights go into a file of their own; hashes and provenance are updated. Existing INT8 graphs are replaced.

    spare: whether the most sensitive weights stay in FP32 where the outputs would be off by more than `INT8_LIMITS`;
        `sensitive_weights` finds them on one graph, with its `progress`; they are left out in all modes.

    Raises BundleError where a graph holds nothing to quantise or somebody else changed the bundle meanwhile, OSError
    where it cannot be written; then it stays as it was.
    """
    clips = windows(pieces, bundle.info.T, samples)
    # Frame by frame where the model can: the same sums as in a window, and a graph a fifth of the size.
    trials = {mode: _Trials(bundle.graph(mode), clips) for mode in sorted(bundle.info.modes)}
    graphs: dict[str, onnx.ModelProto] = {}
    left: dict[str, int] = {}
    spared, error = sensitive_weights(next(iter(trials.values())), progress) if spare else ([], None)
    for mode, each in trials.items():
        chosen, out = choose(each.graph, set(spared))
        if not chosen:
            raise BundleError(f"{bundle.graph(mode)}: holds nothing to quantise; export the bundle again")
        left[mode], graphs[mode] = len(out), each.write(chosen)
    with temporary_folder() as folder:
        files = {graph_name(mode, INT8): graph for mode, graph in graphs.items()}
        share_weights(files, folder / INT8_WEIGHTS_NAME)
        made: dict[str, Any] = {INT8_WEIGHTS_NAME: folder / INT8_WEIGHTS_NAME}
        made |= {name: graph.SerializeToString() for name, graph in files.items()}
        note = {
            "clips": len(pieces),
            "windows": len(clips),
            "left_in_fp32": left,
            "sensitive": spared,
            "error": None if error is None else round(error, 3),
            "onnxruntime": ort.__version__,
        }
        info = bundle.info.model_copy(update={"provenance": bundle.info.provenance | {"int8": note}})
        kept = {name: bundle.path / name for name in bundle.info.sha256 if name not in made}
        if load_bundle(bundle.path).sha256 != bundle.sha256:
            raise BundleError(f"{bundle.path}: was changed while it was measured; quantise it again")
        write_bundle(bundle.path, info, kept | made)
    return load_bundle(bundle.path)
