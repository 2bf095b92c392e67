# SPDX-License-Identifier: Apache-2.0
"""`trt-build quantize`: INT8 graphs for processors without an accelerator, added to a bundle.

Static quantisation in QDQ form (ONNX Runtime's quantizer), which ONNX Runtime and OpenVINO both run as INT8: weights
symmetric and per channel, activations asymmetric, their ranges from clips of the training set. Quantised are the
trunk's convolutions (depthwise ones are not: they are a small part of the work and most of the error) and the large
products of the head. Left in FP32 is what decides and what remembers: the metric and its
distances, min-max, softmax and decay, the location layer, the read-out, and every gate and state; see `choose`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
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
from trt_build.weights import share_weights

# Of the trunk: convolutions and all between them that can stay in INT8.
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
# Parts of the head, by the module names in the graph, that stay in FP32: an error there is no noise on a sum of many
# but another place looked at, another worker chosen, another label.
SENSITIVE = ("assignment", "locate", "readout", "Lambda.0")


def choose(graph: onnx.GraphProto) -> tuple[list[str], list[str]]:
    """Names of the nodes to quantise, and of the convolutions and products with weights that are left out."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if _groups(node) > 1}
    # Between depthwise convolutions INT8 would only be converted to and fro.
    between = set() if depthwise else _between(graph, convolutions)
    # The first convolution sees the image, whose channels differ in range after normalisation.
    apart = depthwise | {node.name for node in convolutions[:1]}
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    chosen: list[str] = []
    left: list[str] = []
    for node in graph.node:
        weights = [name for name in node.input if name in sizes]
        if node.op_type == "Conv":
            (left if node.name in apart else chosen).append(node.name)
        elif node.op_type in _PRODUCTS and weights:
            sensitive = any(part in name for part in SENSITIVE for name in (node.name, *weights))
            small = max(sizes[name] for name in weights) < _LARGE
            (left if sensitive or small else chosen).append(node.name)
        elif node.op_type in _TRUNK and node.name in between:
            chosen.append(node.name)
    return chosen, left


def _groups(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _between(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """Names of all nodes that lie on a way from one of `nodes`, convolutions, to another."""
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


class _Calibration(CalibrationDataReader):
    """Feeds whole windows, or their frames in turn with the states that FP32 then has."""

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


def quantize_bundle(bundle: LoadedBundle, pieces: list[Footage], *, samples: int = 24) -> LoadedBundle:
    """Add INT8 graphs of all modes to a bundle, calibrated on at most `samples` windows of `pieces`.

    Weights go into a file of their own; hashes and provenance are brought up to date. A bundle that had INT8 graphs
    gets new ones. Raises BundleError.
    """
    clips = windows(pieces, bundle.info.T, samples)
    graphs: dict[str, onnx.ModelProto] = {}
    left: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for mode in bundle.info.modes:
            source = bundle.graph(mode)
            chosen, out = choose(onnx.load(source, load_external_data=False).graph)
            if not chosen:
                raise BundleError(f"{source}: nothing in it to quantise; export the bundle anew")
            left[mode] = len(out)
            frame = next(iter(expected_io(bundle.info, mode)[0]))
            graphs[mode] = _quantize(
                source, folder / f"{mode}.onnx", chosen, _Calibration(source, clips, frame)
            )
        files = {graph_name(mode, INT8): graph for mode, graph in graphs.items()}
        share_weights(files, folder / INT8_WEIGHTS_NAME)
        made: dict[str, Any] = {INT8_WEIGHTS_NAME: folder / INT8_WEIGHTS_NAME}
        made |= {name: graph.SerializeToString() for name, graph in files.items()}
        note = {
            "clips": len({piece.name for piece in pieces}),
            "windows": len(clips),
            "left_in_fp32": left,
            "onnxruntime": ort.__version__,
        }
        info = bundle.info.model_copy(update={"provenance": bundle.info.provenance | {"int8": note}})
        kept = {name: bundle.path / name for name in bundle.info.sha256 if name not in made}
        try:
            write_bundle(bundle.path, info, kept | made)
        except OSError as error:
            raise BundleError(
                f"{bundle.path}: cannot be written ({error.strerror}); copy the bundle to where it can"
            ) from None
    return load_bundle(bundle.path)


def _quantize(source: Path, target: Path, nodes: list[str], reader: CalibrationDataReader) -> onnx.ModelProto:
    kinds = sorted(
        {n.op_type for n in onnx.load(source, load_external_data=False).graph.node if n.name in set(nodes)}
    )
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # its advice concerns graphs that were not simplified, as ours are
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
        )
    finally:
        logger.setLevel(level)
    return onnx.load(target)
