# SPDX-License-Identifier: Apache-2.0
"""ONNX weights in one external file that several graphs share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from trt_build.tensors import dropped_bits, rounded

ALIGN = 4096  # of tensors in the file, so that they can be mapped
SMALLEST = 1024  # bytes of a tensor that goes there


def share_weights(graphs: Mapping[str, onnx.ModelProto], path: Path) -> None:
    """Move the tensors over 1 KiB of all graphs, by file name, into the external file `path`, equal ones once."""
    places: dict[str, tuple[int, int]] = {}
    with path.open("wb") as file:
        for graph in graphs.values():
            _merge_equal(graph)
            for tensor in graph.graph.initializer:
                data = numpy_helper.to_array(tensor)
                raw = np.ascontiguousarray(data).tobytes()
                if len(raw) < SMALLEST:
                    continue
                key = hashlib.sha256(raw).hexdigest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % ALIGN))
                    places[key] = (file.tell(), len(raw))
                    file.write(raw)
                tensor.ClearField("float_data")
                tensor.ClearField("int64_data")
                tensor.ClearField("int32_data")
                tensor.raw_data = b""
                external_data_helper.set_external_data(tensor, path.name, *places[key])
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL


def round_weights(graph: onnx.ModelProto, significant_bits: int) -> None:
    """Round the weights of one KiB and more as `rounded` does.

    The bits below are noise of the training, and noise does not compress: at 19 bits an archive of a bundle is a
    tenth smaller, and its logits move by some 4e-5.
    """
    dropped_bits(significant_bits)  # its error, whatever the graph holds
    for tensor in graph.graph.initializer:
        data = numpy_helper.to_array(tensor)
        if data.dtype == np.float32 and data.nbytes >= SMALLEST:
            tensor.CopyFrom(numpy_helper.from_array(rounded(data, significant_bits), tensor.name))


def _merge_equal(graph: onnx.ModelProto) -> None:
    """Replace initializers of equal content by one: tracing copies a weight for every time step."""
    first: dict[tuple[Any, ...], str] = {}
    rename: dict[str, str] = {}
    kept = []
    for tensor in graph.graph.initializer:
        data = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(data.tobytes()).hexdigest())
        if key in first:
            rename[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    if not rename:
        return
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name in rename:
                node.input[i] = rename[name]
