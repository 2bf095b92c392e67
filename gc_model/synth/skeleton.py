# SPDX-License-Identifier: Apache-2.0
"""The data set's `.skeleton` text files: frame count; a frame: body count; a body: ten fields, 25 joints of twelve."""

from __future__ import annotations

import numpy as np

from gc_model.synth.body import JOINTS

COLOUR = (1920.0, 1080.0)
DEPTH = (512.0, 424.0)
# fmt: off
PARENT = (0, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11)
# fmt: on


def skeleton_text(
    skeleton: np.ndarray,
    space: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    body_ids: tuple[int, int],
) -> str:
    """The text of one clip's file.

    skeleton (T, 2, 25, 2) pixels of a picture of `size` (width, height), space (T, 2, 25, 3) metres in camera space,
    both NaN for an absent body; mask (T, H, W) marks who is seen where, which decides between tracked (2) and
    inferred (1) joints. Colour coordinates are scaled to 1920x1080, whatever the picture's shape.
    """
    width, height = size
    lines = [str(len(skeleton))]
    for points, places, seen in zip(skeleton, space, mask, strict=True):
        bodies = [b for b in range(2) if np.isfinite(points[b]).all()]
        lines.append(str(len(bodies)))
        for b in bodies:
            lines.append(f"{body_ids[b]} 0 1 1 1 1 0 0.0 0.0 2")
            lines.append("25")
            turns = _orientation(places[b])
            for j in range(25):
                u, v = points[b, j]
                x, y, z = places[b, j]
                inside = 0 <= u < width and 0 <= v < height
                tracked = 2 if inside and seen[int(v), int(u)] == b + 1 else 1
                fu, fv = u / width, v / height
                qw, qx, qy, qz = turns[j]
                lines.append(
                    f"{x:.7g} {y:.7g} {z:.7g} {fu * DEPTH[0]:.7g} {fv * DEPTH[1]:.7g} {fu * COLOUR[0]:.7g} "
                    f"{fv * COLOUR[1]:.7g} {qw:.6g} {qx:.6g} {qy:.6g} {qz:.6g} {tracked}"
                )
    return "\n".join(lines) + "\n"


def _orientation(places: np.ndarray) -> np.ndarray:
    """Quaternions (25, 4), w first, that turn the y axis along the bone from a joint's parent to it."""
    bone = places - places[list(PARENT)]
    bone = bone / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9)
    q = np.stack([1 + bone[:, 1], bone[:, 2], 0 * bone[:, 0], -bone[:, 0]], axis=-1)
    q[0] = 1, 0, 0, 0
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(norm > 1e-6, q / np.maximum(norm, 1e-9), [1.0, 0.0, 0.0, 0.0])


def joint_table(skeleton: np.ndarray, size: tuple[int, int]) -> str:
    """Joints (T, 2, 25, 2) in pixels as the CSV that `gc_model.data.joint_tables` reads; an absent body has no row.

    Sides come first in the names, left_ and right_, so that a mirrored picture swaps them.
    """
    columns = [f"{name}_{axis}" for name in map(_sided, JOINTS) for axis in "xy"]
    lines = [",".join(("frame", "body", "width", "height", *columns))]
    for t, bodies in enumerate(skeleton):
        for number, points in enumerate(bodies):
            if not np.isnan(points).all():
                cells = ["" if np.isnan(v) else f"{v:.2f}" for v in points.ravel()]
                lines.append(",".join((str(t), str(number), str(size[0]), str(size[1]), *cells)))
    return "\n".join(lines) + "\n"


def _sided(name: str) -> str:
    side = next((s for s in ("Left", "Right") if s in name), "")
    return f"{side.lower()}_{name.replace(side, '').lower()}" if side else name.lower()
