# SPDX-License-Identifier: Apache-2.0
"""Recorded frames as model input, for `trt-build quantize` and `verify`; `gc_ros.recognition.footage` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Footage:
    """An unbroken piece of a recording: frames uint8 (n, S, S, 3) at the model's rate, n >= T."""

    name: str
    label: str  # "" where unknown
    frames: NDArray[np.uint8]


def windows(pieces: Sequence[Footage], T: int, limit: int) -> NDArray[np.uint8]:
    """At most `limit` windows uint8 (n, T, S, S, 3), spread evenly over all that the pieces hold."""
    places = [
        (i, at) for i, piece in enumerate(pieces) for at in range(0, len(piece.frames) - T + 1, T // 2 or 1)
    ]
    if len(places) > limit:
        places = [places[k] for k in np.linspace(0, len(places) - 1, limit).round().astype(int)]
    return np.stack([pieces[i].frames[at : at + T] for i, at in places])


def stream(pieces: Sequence[Footage], length: int) -> Iterator[NDArray[np.uint8]]:
    """`length` frames (S, S, 3): the pieces one after the other, again from the first where they end."""
    count = 0
    while True:
        for piece in pieces:
            for frame in piece.frames:
                if count == length:
                    return
                yield frame
                count += 1
