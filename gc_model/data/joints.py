# SPDX-License-Identifier: Apache-2.0
"""Joints of a clip, from the data set's file into the coordinates of the network's input.

Convention: fractions of the picture (x, y), then [-1, 1] over the input as glimpses have them; NaN where unknown.
Joints outside the crop keep their place outside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_model.data import joint_tables, ntu
from gc_model.data.frames import Clip, Frames
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.preprocess import region

# Which joint a mirrored picture makes of each: left and right change places.
MIRRORED = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22)


def read_joints(clip: Clip, frames: Frames, kept: Path, preprocess: Preprocess) -> NDArray[np.float32] | None:
    """(n, 2, 25, 2) of the frames' numbers, as fractions of the resized frame; None where the layout has no joints.

    kept: where the whole clip's joints lie once they were read. A missing or damaged skeleton gives NaN.
    """
    if not getattr(clip, "has_joints", False):
        return None
    skeleton: Path | None = getattr(clip, "skeleton", None)
    if skeleton is None:
        return _unknown(len(frames.numbers))
    try:
        with np.load(kept) as file:
            joints, size = file["joints"], file["size"]
    except (OSError, ValueError, EOFError, KeyError):
        try:
            joints, size = _read(skeleton)
        except DataError:
            joints, size = _unknown(0), np.ones(2, np.float32)
        part = kept.with_name(f"{kept.name}.{os.getpid()}.part.npz")
        part.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, joints=joints, size=size)
        os.replace(part, kept)
    if not len(joints):
        return _unknown(len(frames.numbers))
    if skeleton.suffix == ".csv":  # ends with the last body that was seen
        found = joints[np.minimum(frames.numbers, len(joints) - 1)]
        found[frames.numbers >= len(joints)] = np.nan
    else:
        # Recorders stop a frame apart now and then; the nearest known frame stands for one that is not there.
        found = joints[np.minimum(frames.numbers, len(joints) - 1)]
    return to_frame(found, float(size[0]), float(size[1]), preprocess)


def _unknown(frames: int) -> NDArray[np.float32]:
    return np.full((frames, ntu.BODIES, ntu.JOINTS, 2), np.nan, np.float32)


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints as fractions of the picture, and the picture's (width, height)."""
    if path.suffix == ".csv":
        return joint_tables.read_table(path)
    return ntu.read_skeleton(path).joints, np.array(ntu.COLOUR_SIZE, np.float32)


def to_frame(joints: NDArray[np.float32], width: float, height: float, p: Preprocess) -> NDArray[np.float32]:
    """Fractions of a width x height picture to fractions of the whole R x R frame that `fit` makes of it."""
    x0, y0, x1, y1 = region(int(width), int(height), p.model_copy(update={"size": p.resize}))
    start, extent = np.array([x0, y0], np.float32), np.array([x1 - x0, y1 - y0], np.float32)
    return (joints * np.array([width, height], np.float32) - start) / extent


def to_input(
    joints: NDArray[np.float32],
    matrix: NDArray[np.float64],
    R: int,
    size: int,
    mirrored: Sequence[int] = MIRRORED,
) -> NDArray[np.float32]:
    """Fractions of the R x R frame through an affine map (2, 3) of pixel centres to [-1, 1] over the size x size input.

    A mirroring map also swaps left and right joints, as `mirrored` says.
    """
    pixels = joints * R - 0.5
    mapped = pixels @ matrix[:, :2].T + matrix[:, 2]
    out = ((mapped + 0.5) * 2 / size - 1).astype(np.float32)
    return out[:, :, list(mirrored)] if np.linalg.det(matrix[:, :2]) < 0 else out


def centre_matrix(R: int, size: int) -> NDArray[np.float64]:
    """The central crop as such a map."""
    border = (R - size) // 2
    return np.array([[1.0, 0.0, -border], [0.0, 1.0, -border]])


def skeleton_problems(clips: Sequence[Clip]) -> dict[str, str]:
    """Clips whose skeleton is missing or damaged, by name, with the reason."""
    problems: dict[str, str] = {}
    for clip in clips:
        path = getattr(clip, "skeleton", None)
        if path is None:
            problems[clip.name] = "no skeleton"
            continue
        try:
            _read(path)
        except DataError as error:
            problems[clip.name] = str(error)
    return problems
