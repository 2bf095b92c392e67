# SPDX-License-Identifier: Apache-2.0
"""`trt-build quantize`: INT8 graphs for processors without an accelerator, added to a bundle.

Static quantisation in QDQ form with ONNX Runtime's quantizer; ONNX Runtime and OpenVINO both run it as INT8. Weights
are symmetric and per channel. Activations are asymmetric; their ranges are measured on clips of the training set.

Quantised are the trunk's convolutions and the large products of the head. Depthwise convolutions are not: they are a
small part of the work and most of the error. What decides and what remembers stays in FP32: the metric and its
distances, min-max, softmax and decay, the location layer, the read-out, and every gate and state; see `choose`.

Some further weights are too sensitive for INT8. They are few and differ from model to model: in the network trained on
Weizmann's actions, 8 of 36 caused four fifths of the error. `sensitive_weights` finds them by measuring.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod

from trt_build.bundle import INT8, INT8_WEIGHTS_NAME, LoadedBundle, graph_name, load_bundle, write_bundle
from trt_build.engine import STATE_PREFIX, expected_io
from trt_build.errors import BundleError
from trt_build.footage import Footage, windows
from trt_build.graphs.weights import share_weights
from trt_build.tolerances import INT8_LIMITS, relative_error, spread

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
_PRODUCTS = {"MatMul", "Gemm"}
_LARGE = 2048  # weights of a product worth quantising
# Parts of the head, by module names in the graph, that stay in FP32. An error there is not noise in a long sum: it
# moves a glimpse, assigns another worker or changes the label.
SENSITIVE = ("assignment", "locate", "readout", "Lambda.0")
_MEASURED = 6  # windows on which errors are measured
_RANGES = "{}.ranges.json"
_MOST = 4  # at most one weight in this many stays in FP32; a model that needs more should not run in INT8


def choose(graph: onnx.GraphProto, spared: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """(names of the nodes to quantise, names of the convolutions and weight products that stay in FP32).

    spared: names of weights whose convolutions and products stay in FP32.
    """
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if _groups(node) > 1}
    # Between depthwise convolutions, values would only be converted to INT8 and back.
    between = set() if depthwise else _between(graph, convolutions)
    # The first convolution sees the image, whose channels differ in range after normalisation.
    apart = depthwise | {node.name for node in convolutions[:1]}
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    chosen: list[str] = []
    left: list[str] = []
    for node in graph.node:
        weights = [name for name in node.input if name in sizes]
        kept = any(name in spared for name in weights)
        if node.op_type == "Conv":
            (left if kept or node.name in apart else chosen).append(node.name)
        elif node.op_type in _PRODUCTS and weights:
            sensitive = any(part in name for part in SENSITIVE for name in (node.name, *weights))
            small = max(sizes[name] for name in weights) < _LARGE
            (left if kept or sensitive or small else chosen).append(node.name)
        elif node.op_type in _TRUNK and node.name in between:
            chosen.append(node.name)
    return chosen, left


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


class _RangeInputs(CalibrationDataReader):
    """Inputs to measure ranges on: whole windows, or their frames one by one with the states that FP32 then has."""

    def __init__(self, path: Path, clips: NDArray[np.uint8], frame: str):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options)
        self._feeds = (
            self._window_feeds(clips, frame) if frame == "frames" else self._step_feeds(clips, frame)
        )

    @staticmethod
    def _window_feeds(clips: NDArray[np.uint8], frame: str) -> Iterator[dict[str, Any]]:
        for clip in clips:
            yield {frame: clip[None]}

    def _step_feeds(self, clips: NDArray[np.uint8], frame: str) -> Iterator[dict[str, Any]]:
        outputs = [value.name for value in self._session.get_outputs()]
        zeros = {
            value.name: np.zeros([1, *value.shape[1:]], np.float32)
            for value in self._session.get_inputs()
            if value.name != frame
        }
        for clip in clips:
            states = zeros
            for image in clip:
                feed = {frame: image[None], **states}
                yield feed
                results = dict(zip(outputs, self._session.run(None, feed), strict=True))
                states = {name: results[STATE_PREFIX + name] for name in zeros}

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


class _Errors:
    """Measures, on a few windows, how far the window graph's outputs move when some nodes are quantised."""

    def __init__(self, source: Path, clips: NDArray[np.uint8], folder: Path) -> None:
        self.source, self._clips, self._folder = source, clips, folder
        self.graph = onnx.load(source, load_external_data=False).graph
        self._measured = clips[np.unique(np.linspace(0, len(clips) - 1, _MEASURED).round().astype(int))]
        there = {value.name for value in self.graph.output}  # a bundle of schema 1 has no embedding
        self._names = [name for name in INT8_LIMITS if name in there]
        self._expected = self._outputs(source)

    def _outputs(self, path: Path) -> dict[str, NDArray[Any]]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        frame = session.get_inputs()[0].name
        runs = [session.run(self._names, {frame: clip[None]}) for clip in self._measured]
        return {
            name: np.concatenate(values)
            for name, values in zip(self._names, zip(*runs, strict=True), strict=True)
        }

    def quantised(self, nodes: list[str]) -> float:
        """The largest error of an output, in units of its limit."""
        path = self._folder / "trial.onnx"
        reader = _RangeInputs(self.source, self._clips, "frames")
        _quantize(self.source, path, nodes, reader, self._folder / _RANGES.format("window"))
        found, expected = self._outputs(path), self._expected
        return max(
            relative_error(found[n], expected[n], spread(expected[n])) / INT8_LIMITS[n] for n in self._names
        )


def sensitive_weights(
    source: Path, clips: NDArray[np.uint8], folder: Path, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Names of the weights to leave in FP32, the most sensitive first, so that all outputs stay within `INT8_LIMITS`.

    Every weight is quantised alone. Those with the largest errors are then left out, as few as needed and at most a
    quarter of all weights; `trt-build verify` shows whether that was enough.

    source: window graph. clips: uint8 (n, T, S, S, 3). folder: for temporary files. progress: called with (done, all).
    """
    errors = _Errors(source, clips, folder)
    chosen, _ = choose(errors.graph)
    if errors.quantised(chosen) <= 1:
        return []
    of_weight = _by_weight(errors.graph, chosen)
    alone: dict[str, float] = {}
    for weight, nodes in of_weight.items():
        alone[weight] = errors.quantised(nodes)
        if progress is not None:
            progress(len(alone), len(of_weight))
    order = sorted(alone, key=lambda weight: alone[weight], reverse=True)[: -(-len(alone) // _MOST)]

    def enough(count: int) -> bool:
        return errors.quantised(choose(errors.graph, set(order[:count]))[0]) <= 1

    # All of them where fewer are not enough.
    return order[: bisect_left(range(1, len(order)), True, key=enough) + 1]


def _by_weight(graph: onnx.GraphProto, chosen: Collection[str]) -> Mapping[str, list[str]]:
    """The chosen nodes that have weights, by the name of the weight; the products of all T frames share one."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    wanted, found = set(chosen), defaultdict(list)
    for node in graph.node:
        weights = [name for name in node.input if name in sizes]
        if node.name in wanted and weights and node.op_type in {"Conv", *_PRODUCTS}:
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
        they are found on the window graph (`sensitive_weights`, with its `progress`) and left out in all modes.

    Raises BundleError where a graph holds nothing to quantise or the bundle cannot be written.
    """
    clips = windows(pieces, bundle.info.T, samples)
    graphs: dict[str, onnx.ModelProto] = {}
    left: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spared = sensitive_weights(bundle.graph("window"), clips, folder, progress) if spare else []
        for mode in bundle.info.modes:
            source = bundle.graph(mode)
            chosen, out = choose(onnx.load(source, load_external_data=False).graph, set(spared))
            if not chosen:
                raise BundleError(f"{source}: holds nothing to quantise; export the bundle again")
            left[mode] = len(out)
            frame = next(iter(expected_io(bundle.info, mode)[0]))
            reader = _RangeInputs(source, clips, frame)
            # The search, if there was one, has written the window graph's ranges.
            ranges = folder / _RANGES.format(mode)
            graphs[mode] = _quantize(source, folder / f"{mode}.onnx", chosen, reader, ranges)
        files = {graph_name(mode, INT8): graph for mode, graph in graphs.items()}
        share_weights(files, folder / INT8_WEIGHTS_NAME)
        made: dict[str, Any] = {INT8_WEIGHTS_NAME: folder / INT8_WEIGHTS_NAME}
        made |= {name: graph.SerializeToString() for name, graph in files.items()}
        note = {
            "clips": len({piece.name for piece in pieces}),
            "windows": len(clips),
            "left_in_fp32": left,
            "sensitive": spared,
            "onnxruntime": ort.__version__,
        }
        info = bundle.info.model_copy(update={"provenance": bundle.info.provenance | {"int8": note}})
        kept = {name: bundle.path / name for name in bundle.info.sha256 if name not in made}
        try:
            write_bundle(bundle.path, info, kept | made)
        except OSError as error:
            raise BundleError(
                f"{bundle.path}: cannot be written ({error.strerror}); copy the bundle to a writable folder"
            ) from None
    return load_bundle(bundle.path)


def _quantize(
    source: Path, target: Path, nodes: list[str], reader: CalibrationDataReader, ranges: Path
) -> onnx.ModelProto:
    """Quantise these nodes of the graph at `source`; the result is written to `target` too.

    ranges: a file of the activations' ranges, written by the first call, which must have the most nodes. Older versions
        of ONNX Runtime have no such option and measure the ranges in every call.
    """
    kept = "calibration_cache_path" in inspect.signature(quantize_static).parameters
    cached: dict[str, Any] = {"calibration_cache_path": str(ranges)} if kept else {}
    kinds = sorted(
        {n.op_type for n in onnx.load(source, load_external_data=False).graph.node if n.name in set(nodes)}
    )
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # its advice is for graphs that were not simplified; ours are
    try:
        quantize_static(
            str(source),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=True,
            **cached,
        )
    finally:
        logger.setLevel(level)
    return onnx.load(target)
