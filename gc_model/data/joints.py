# SPDX-License-Identifier: Apache-2.0
"""Joints of a clip, from the data set's file into the coordinates of the network's input.

Convention: (x, y) as fractions of the picture, then in [-1, 1] over the input, as glimpses have them; NaN where
unknown. Joints outside the crop keep their place outside it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import BODIES, JOINTS, JointSource, LabelledClip
from gc_model.data.frames import DecodedClip, FrameCache
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.files import replacing
from trt_build.preprocess import region

# Of what the readers make of a file: raised with them, so that no cache gives back what an earlier one read.
_READERS = 2


def joints_of(clip: LabelledClip, frames: DecodedClip, cache: FrameCache) -> NDArray[np.float32] | None:
    """The joints (n, 2, 25, 2) of decoded frames, as fractions of the R x R frame; None where the data set has none.

    A missing or damaged file gives NaN, a damaged one also a warning: the pictures still count. Text is slow to read,
    so the joints are kept beside the cached frames.
    """
    source, n = clip.joints, len(frames.numbers)
    if source is None:
        return None
    if source.file is None:
        return _unknown(n)
    joints, size = _read(source, source.file, cache.neighbour(clip, _suffix(source.file)))
    if not len(joints):
        return _unknown(n)
    found = joints[np.minimum(frames.numbers, len(joints) - 1)]
    if not source.last_stands:
        found[frames.numbers >= len(joints)] = np.nan
    if frames.regions is not None:
        start, end = (
            frames.regions[:, None, None, side].astype(np.float32) for side in (slice(2), slice(2, 4))
        )
        return (found - start) / (end - start)
    return to_frame(found, float(size[0]), float(size[1]), cache.preprocess)


def _suffix(file: Path) -> str:
    """The suffix under which the joints of this very file are cached: one's own clips may get better joints."""
    stat = file.stat() if file.is_file() else None
    key = repr((_READERS, str(file), stat and (stat.st_size, stat.st_mtime_ns)))
    return f".{hashlib.sha256(key.encode()).hexdigest()[:8]}.joints.npz"


def _read(source: JointSource, file: Path, kept: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The result of `source.read` on a file, from `kept` where that exists; no frames for a damaged file."""
    try:
        with np.load(kept) as stored:
            return stored["joints"], stored["size"]
    # Missing or damaged: of a damaged file, NumPy and zipfile raise errors of many kinds.
    except Exception:
        pass
    try:
        joints, size = source.read(file)
    except DataError as error:
        logging.getLogger(__name__).warning("no joints of a clip: %s", error)
        joints, size = _unknown(0), np.ones(2, np.float32)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept, suffix=".npz") as part:
        np.savez(part, joints=joints, size=size)
    return joints, size


def _unknown(frames: int) -> NDArray[np.float32]:
    return np.full((frames, BODIES, JOINTS, 2), np.nan, np.float32)


def to_frame(joints: NDArray[np.float32], width: float, height: float, p: Preprocess) -> NDArray[np.float32]:
    """Fractions of a width x height picture to fractions of the whole R x R frame that `fit` turns it into."""
    x0, y0, x1, y1 = region(int(width), int(height), p.model_copy(update={"size": p.resize}))
    start, extent = np.array([x0, y0], np.float32), np.array([x1 - x0, y1 - y0], np.float32)
    return (joints * np.array([width, height], np.float32) - start) / extent


def to_input(
    joints: NDArray[np.float32],
    matrix: NDArray[np.float64],
    R: int,
    size: int,
    mirrored: Sequence[int],
) -> NDArray[np.float32]:
    """Fractions of the R x R frame through an affine map (2, 3) of pixel centres to [-1, 1] over the size x size input.

    joints: (T, bodies, joints, 2); matrix: the same for all frames, or (T, 2, 3), one for each. A mirroring map also
    swaps left and right joints, as `mirrored` says.
    """
    pixels = joints * R - 0.5
    if matrix.ndim == 3:
        mapped = np.einsum("tij,tbkj->tbki", matrix[:, :, :2], pixels) + matrix[:, None, None, :, 2]
        matrix = matrix[0]
    else:
        mapped = pixels @ matrix[:, :2].T + matrix[:, 2]
    out = ((mapped + 0.5) * 2 / size - 1).astype(np.float32)
    return out[:, :, list(mirrored)] if np.linalg.det(matrix[:, :2]) < 0 else out


def centre_matrix(R: int, size: int) -> NDArray[np.float64]:
    """The central crop as an affine map (2, 3)."""
    border = (R - size) // 2
    return np.array([[1.0, 0.0, -border], [0.0, 1.0, -border]])
