# SPDX-License-Identifier: Apache-2.0
"""Which other files an ONNX graph refers to: the locations of its external data.

A runtime opens these files by itself, so a bundle must have a hash of each. A robot has no `onnx`, so the few message
fields on the way to them are read here from the protobuf wire format. What is not protobuf ends the reading: a
runtime refuses such a file as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

MAX_DEPTH = 64  # of messages in messages; onnx nests eight for a graph in a graph
MAX_FIELDS = 4_000_000  # that are looked at; the window of the paper's network has 100,000
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)

# Field number -> message type, as onnx.proto3 has them. Other fields lead to no external data.
_TENSOR: dict[int, Any] = {13: "entry"}
_SPARSE: dict[int, Any] = {1: _TENSOR, 2: _TENSOR}
_GRAPH: dict[int, Any] = {5: _TENSOR, 15: _SPARSE}
_ATTRIBUTE: dict[int, Any] = {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE}
_NODE: dict[int, Any] = {5: _ATTRIBUTE}
_GRAPH[1] = _NODE
_FUNCTION: dict[int, Any] = {7: _NODE, 11: _ATTRIBUTE}
_TRAINING: dict[int, Any] = {1: _GRAPH, 2: _GRAPH}
_MODEL: dict[int, Any] = {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION}


class _NotProtobuf(Exception):
    pass


def external_files(model: bytes) -> set[str]:
    """The locations that tensors of a serialised ModelProto name, as they are written there.

    Raises ValueError for messages nested deeper than MAX_DEPTH, and for more than MAX_FIELDS fields.
    """
    found: set[str] = set()
    with suppress(_NotProtobuf):
        _walk(memoryview(model), _MODEL, found, 0, count())
    return found


def _walk(
    data: memoryview, fields: Mapping[int, Any], found: set[str], depth: int, counter: Iterator[int]
) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} messages")
    for number, value in _messages(data, counter):
        inner = fields.get(number)
        if inner == "entry":
            # Of a field given twice the last holds.
            entry = {n: bytes(v) for n, v in _messages(value, counter)}
            if entry.get(1) == b"location":
                found.add(entry.get(2, b"").decode("utf-8", "replace"))
        elif inner is not None:
            _walk(value, inner, found, depth + 1, counter)


def _messages(data: memoryview, counter: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of the fields that have a length, at the top level of a message."""
    at, groups = 0, 0
    while at < len(data):
        if next(counter) > MAX_FIELDS:
            raise ValueError(f"it has more than {MAX_FIELDS} fields")
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise _NotProtobuf
            if not groups:
                yield number, data[at : at + length]
            at += length
        elif kind == _GROUP:  # unknown to onnx, skipped with all that is in it
            groups += 1
        elif kind == _GROUP_END and groups:
            groups -= 1
        else:
            raise _NotProtobuf
    if at > len(data):
        raise _NotProtobuf


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, place behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotProtobuf
