# SPDX-License-Identifier: Apache-2.0
"""What the networks of the YOLO family take and give: the picture as their input, their output as boxes of people.

Output: one tensor, of one of these shapes, in pixels of the input (C classes, N places):

    (1, 4 + C, N)   YOLOv8, v9, 11, 12: centre x, centre y, width, height, then a score a class
    (1, N, 5 + C)   YOLOv5, v6, v7, YOLOX: the same four, how sure it is that anything is there, then a score a class
    (1, N, 6)       YOLOv10, 26, and exports with nms=True: x_min, y_min, x_max, y_max, score, class

Of the first two, overlapping boxes are left out here, by non-maximum suppression. Input: RGB from 0 to 1, the picture
centred on grey; YOLOX: BGR from 0 to 255, the picture in the upper left corner, and unless it was exported with
--decode_in_inference its centres and sizes count in cells (https://github.com/Megvii-BaseDetection/YOLOX, demo of ONNX
Runtime).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.media.tracker import LEAST_SCORE
from trt_build.errors import DataError

WANTED = (
    "(1, 4 + classes, N) as of YOLOv8 and 11, (1, N, 5 + classes) as of YOLOX, or (1, N, 6) as with nms=True"
)
GREY = 114  # around the picture, as YOLO is trained
_MOST = 300  # boxes that non-maximum suppression looks at
_STRIDES = (8, 16, 32, 64)  # the last in networks for large pictures alone
_ANCHORS = 3  # of each cell in YOLOv5 and v7


@dataclass(frozen=True)
class Form:
    """What a network takes and gives. cells: (N, 3), x, y and stride, where centres and sizes count in cells."""

    layout: Literal["columns", "rows", "end"]
    yolox: bool = False
    cells: NDArray[np.float64] | None = None


def form_of(file: Path, seen: NDArray[np.float64], size: tuple[int, int]) -> Form:
    """The form of the network that gave `seen` for a grey picture of `size` (width, height).

    Raises DataError for what is no output of a YOLO.
    """
    if seen.ndim == 3 and len(seen) == 1:
        _, n, m = seen.shape
        cells = next((grid for grid in _grids(size) if n in (len(grid), _ANCHORS * len(grid))), None)
        if cells is not None and m > 5:
            return _form_of_rows(seen[0], cells)
        if m == 6:
            return Form("end")
        # More places than classes.
        if 5 <= n < m:
            return Form("columns")
    raise DataError(f"{file}: its output is {seen.shape}; needs {WANTED}")


def _form_of_rows(rows: NDArray[np.float64], cells: NDArray[np.float64]) -> Form:
    # YOLOv6 is sure everywhere that something is there: it has no such score, and gives one.
    if len(rows) != len(cells) or (rows[:, 4] == 1).all():
        return Form("rows")
    # On grey each box lies near its own cell, in the unit that is right.
    middle = cells[:, :2] + 0.5
    in_pixels = np.abs(rows[:, :2] - middle * cells[:, 2:]).sum()
    in_cells = np.abs((rows[:, :2] - 0.5) * cells[:, 2:]).sum()
    return Form("rows", yolox=True, cells=cells if in_cells < in_pixels else None)


def _grids(size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Cells of three resolutions and of four, (N, 3) each: x, y, stride; line by line, the finest first."""
    found = []
    for stride in _STRIDES:
        y, x = np.mgrid[: size[1] // stride, : size[0] // stride].reshape(2, -1)
        found.append(np.stack([x, y, np.full(len(x), stride)], 1).astype(np.float64))
    return [np.concatenate(found[:3]), np.concatenate(found)]


def people_of(
    file: Path, output: NDArray[np.float64], form: Form, person: int, overlap: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (n, 4) and scores (n,) of people, class number `person`, in pixels of the input.

    overlap: IoU from which the weaker of two boxes is left out. Raises DataError where there are not so many classes.
    """
    if form.layout == "end":
        rows = output.reshape(-1, 6)
        people = rows[:, 5].round() == person
        return rows[people, :4], rows[people, 4]
    if form.layout == "columns":
        boxes, scores = output[0, :4].T, output[0, 4:].T
    else:
        boxes, scores = output[0, :, :4], output[0, :, 5:] * output[0, :, 4:5]
    if person >= scores.shape[1]:
        raise DataError(f"{file}: {scores.shape[1]} classes, and people are number {person}")
    # The class of people must be the most likely one.
    mine = scores[:, person]
    chosen = np.flatnonzero((mine >= LEAST_SCORE) & (scores.argmax(1) == person))
    chosen = chosen[np.argsort(-mine[chosen], kind="stable")][:_MOST]
    middle, size = boxes[chosen, :2], boxes[chosen, 2:]
    if form.cells is not None:
        stride = form.cells[chosen, 2:]
        middle, size = (middle + form.cells[chosen, :2]) * stride, np.exp(size) * stride
    corner = middle - size / 2
    kept = cv2.dnn.NMSBoxes(
        np.concatenate([corner, size], 1).tolist(), mine[chosen].tolist(), LEAST_SCORE, overlap
    )
    order = np.asarray(kept, int).reshape(-1)
    return np.concatenate([corner, middle + size / 2], 1)[order], mine[chosen][order]


def letterbox(
    image: NDArray[np.uint8], size: tuple[int, int], *, yolox: bool = False
) -> tuple[NDArray[np.float32], float, tuple[int, int]]:
    """The RGB image (H, W, 3) as input (1, 3, H, W) of `size` (width, height); its scale; where its corner lies."""
    (width, height), (h, w) = size, image.shape[:2]
    scale = min(width / w, height / h)
    inside = (max(round(w * scale), 1), max(round(h * scale), 1))
    left, top = (0, 0) if yolox else ((width - inside[0]) // 2, (height - inside[1]) // 2)
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[top : top + inside[1], left : left + inside[0]] = cv2.resize(
        image, inside, interpolation=cv2.INTER_LINEAR
    )
    tensor = canvas.transpose(2, 0, 1)[None].astype(np.float32)
    return np.ascontiguousarray(tensor[:, ::-1] if yolox else tensor / 255), scale, (left, top)
