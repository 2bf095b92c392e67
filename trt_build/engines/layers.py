# SPDX-License-Identifier: Apache-2.0
"""An engine's own layer report: the precision that each layer really runs in.

The report has two forms. TensorRT 8.6 to 10 and TensorRT-RTX 1.4 give a tensor's type as "Format/Datatype" ("Half",
"Channel major FP16 format where channel % 8 == 0"); TensorRT 11 and TensorRT-RTX 1.5 and later as "Datatype" ("Half",
"Float16"), with the layout apart in "Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trt_build.errors import EngineError

_TYPES = ("Format/Datatype", "Datatype", "DataType", "Format")  # the first of them that a tensor has
_REGION = re.compile(r"\.\.\.|ForeignNode")
_HALF = re.compile(r"\b(half|fp16|float16)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer after fusion. covers: its name and metadata, which list the graph's nodes in it."""

    name: str
    kind: str
    types: tuple[str, ...]  # of its inputs and outputs, as the report words them
    covers: str

    @property
    def region(self) -> bool:
        """Whether it is a region of many fused nodes that names only its ends: "{ForeignNode[/a/Conv.../b/Add]}"."""
        return _REGION.search(self.name) is not None

    @property
    def half(self) -> bool:
        """Whether anything it reads or writes is FP16."""
        return any(_HALF.search(kind) for kind in self.types)


def read_layer_report(text: str) -> list[Layer]:
    """All layers from the engine inspector's JSON. Raises EngineError where types are missing."""
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise EngineError(
            "the engine's layer report is not readable; build it again with trt-build build"
        ) from None
    if any(not isinstance(entry, dict) for entry in entries):
        raise EngineError("the engine reports layer names only; build it again with trt-build build")
    layers = [_layer(entry) for entry in entries]
    if any(layer.types for layer in layers) and not any(kind for layer in layers for kind in layer.types):
        raise EngineError(
            "the engine's layer report has no types of tensors; report it with TensorRT's version"
        )
    return layers


def _layer(entry: dict[str, Any]) -> Layer:
    tensors: Iterable[dict[str, Any]] = [*entry.get("Inputs", []), *entry.get("Outputs", [])]
    types = tuple(
        next((str(tensor[key]) for key in _TYPES if tensor.get(key)), "")
        for tensor in tensors
        if isinstance(tensor, dict)
    )
    name = str(entry.get("Name", ""))
    return Layer(name, str(entry.get("LayerType", "")), types, f"{name} {entry.get('Metadata', '')}")


def not_half(layers: Sequence[Layer], wanted: Iterable[str]) -> list[str]:
    """The nodes among `wanted` (Sidecar.half_layers) that no FP16 layer computes; empty when the claim of FP16 holds.

    A node that no layer names is inside a region: confirmed when there is any FP16 region, else missing. A region
    denies nothing: what it reads and writes may be FP32 around products in FP16.
    """
    regions = [layer for layer in layers if layer.half and layer.region]
    bad = []
    for node in wanted:
        # Whole names only: /layer1/Conv is not /layer1/Conv_1.
        pattern = re.compile(rf"(?<![\w./]){re.escape(node)}(?![\w./])")
        holders = [layer for layer in layers if not layer.region and pattern.search(layer.covers)]
        if not any(layer.half for layer in holders) and (holders or not regions):
            bad.append(node)
    return bad
