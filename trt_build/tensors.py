# SPDX-License-Identifier: Apache-2.0
"""Arrays in a file of the safetensors format, without its package, which a robot need not have.

The file is a length (8 bytes, little-endian), a JSON header with each tensor's type, shape and place, and the values.
What is read may come from anywhere: every place and size is checked before an array is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.integrity import depth

_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
MAX_HEADER, MAX_TENSORS, MAX_AXES = 1 << 20, 1 << 12, 8


def to_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The content of the file; equal arrays give equal bytes, whatever their order in the mapping."""
    header: dict[str, Any] = {}
    values: list[bytes] = []
    end = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
        values.append(array.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values)


def from_bytes(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays by name, which cannot be written to. Raises ValueError for what is no such file."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("it has no header of safetensors")
    text = content[8 : 8 + size].decode("utf-8")
    if depth(text) > 4:
        raise ValueError("its header nests too deep")
    header = json.loads(text)
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ValueError("its header is no list of tensors")
    body = memoryview(content)[8 + size :]
    return {name: _tensor(body, entry) for name, entry in header.items() if name != "__metadata__"}


def _tensor(body: memoryview, entry: Any) -> NDArray[Any]:
    code = _TYPES.get(str(entry.get("dtype"))) if isinstance(entry, dict) else None
    if code is None:
        raise ValueError("a tensor has a type that is not read here")
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not (_whole(shape) and len(shape) <= MAX_AXES and _whole(place) and len(place) == 2):
        raise ValueError("a tensor has no shape or place")
    start, end = place
    if not start <= end <= len(body) or math.prod(shape) * np.dtype(code).itemsize != end - start:
        raise ValueError("a tensor lies outside the file, or does not fill its place")
    return np.frombuffer(body[start:end], code).reshape(shape)


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 40 for v in values)


def rounded(data: NDArray[np.float32], significant_bits: int) -> NDArray[np.float32]:
    """Floats of so many significant bits (24: as they are), ties to even; as they are where some are not finite."""
    dropped = dropped_bits(significant_bits)
    if not dropped or not np.isfinite(data).all():
        return data
    bits = data.view(np.uint32).astype(np.uint64)
    even = (bits >> np.uint64(dropped)) & np.uint64(1)
    bits += (1 << (dropped - 1)) - 1 + even
    found = ((bits >> np.uint64(dropped)) << np.uint64(dropped)).astype(np.uint32).view(np.float32)
    return found if np.isfinite(found).all() else data


def dropped_bits(significant_bits: int) -> int:
    """Bits of a float32 that fall away where so many significant ones stay. Raises ValueError where it lacks them."""
    if not 1 <= significant_bits <= 24:
        raise ValueError(f"a float32 has 1 to 24 significant bits, got {significant_bits}")
    return 24 - significant_bits
