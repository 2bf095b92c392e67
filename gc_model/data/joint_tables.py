# SPDX-License-Identifier: Apache-2.0
"""Joints of one's own clips, as any pose estimator can write them: a CSV a clip.

JOINTS/class/clip.joints.csv for the clip class/clip.mp4, with the columns

    frame,body,width,height,wrist_x,wrist_y,thumb_tip_x,thumb_tip_y,...

A row is one body in one frame: frames are counted from 0 as the video decodes, body is 0 or 1 (for hands: one hand
each), x and y are pixels of a picture of width x height. Up to 25 joints of any names, the same in all files. An empty
cell is a joint that was not seen, a missing row a body that was not. Where a name begins with left_ or right_, a
mirrored picture swaps the two.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import BODIES, JOINTS
from trt_build.errors import DataError
from trt_build.files import replacing

FIXED = ("frame", "body", "width", "height")
SUFFIX = ".joints.csv"
_LARGEST = 1e7  # pixels: no picture is wider, and nothing farther outside is a joint that was seen


def table_of(folder: Path, name: str) -> Path:
    """Where the joints of the clip `name` lie below `folder`."""
    return (folder / name).with_suffix(SUFFIX)


def joint_names(path: Path) -> tuple[str, ...]:
    """The names of a table's joints. Raises DataError for columns that are not as described above."""
    _, columns = next(_lines(path), (1, []))
    names = tuple(c.removesuffix("_x") for c in columns[len(FIXED) :: 2])
    if tuple(columns) != (*FIXED, *columns_of(names)) or not 0 < len(set(names)) == len(names) <= JOINTS:
        raise DataError(
            f"{path}: needs the columns {','.join(FIXED)} and NAME_x,NAME_y of 1 to {JOINTS} joints, has "
            f"{','.join(columns[:8]) or 'none'}"
        )
    return names


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line, the first one included. Raises DataError for what is no CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV ({error}); write it again") from None


def columns_of(names: Iterable[str]) -> list[str]:
    return [f"{name}_{axis}" for name in names for axis in "xy"]


def mirrored_joints(names: Sequence[str]) -> tuple[int, ...]:
    """For each of the 25 joints, the one whose place it takes in a mirrored picture.

    Raises DataError for a side without the other.
    """
    order = list(range(JOINTS))
    sides = {"left_": "right_", "right_": "left_"}
    for i, name in enumerate(names):
        side = next((s for s in sides if name.startswith(s)), None)
        if side is None:
            continue
        other = sides[side] + name.removeprefix(side)
        if other not in names:
            raise DataError(f'joint "{name}" has no "{other}": name both sides, or neither')
        order[i] = list(names).index(other)
    return tuple(order)


def read_table(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The joints of a table, (frames, 2, 25, 2) as fractions of the picture, NaN where unknown; its (width, height).

    What is no place in or near the picture, such as inf, is unknown. Rows without a cell are passed over. Raises
    DataError, naming file and line, for a file that is not such a table.
    """
    names = joint_names(path)
    rows: list[tuple[int, int]] = []
    values: list[list[float]] = []
    size: tuple[float, float] | None = None
    lines = _lines(path)
    next(lines)
    for number, cells in lines:
        if not any(c.strip() for c in cells):
            continue
        where = f"{path}:{number}"
        try:
            frame, body, width, height = (int(c) for c in cells[: len(FIXED)])
            points = [float(c) if c.strip() else np.nan for c in cells[len(FIXED) :]]
        except ValueError as error:
            raise DataError(f"{where}: {error}; write the table again") from None
        if len(points) != 2 * len(names):
            raise DataError(
                f"{where}: {len(points)} coordinates of {len(names)} joints; write the table again"
            )
        sized = 0 < width <= _LARGEST and 0 < height <= _LARGEST
        if not (0 <= frame < 1_000_000 and 0 <= body < BODIES and sized):
            raise DataError(
                f"{where}: frame {frame}, body {body}, {width}x{height}: bodies are 0 and 1, the rest not negative"
            )
        if size not in (None, (width, height)):
            raise DataError(f"{where}: {width}x{height} after {size}: a clip has one size")
        size = (width, height)
        rows.append((frame, body))
        values.append([value if abs(value) <= _LARGEST else np.nan for value in points])
    extent = np.array(size or (1, 1), np.float32)
    joints = np.full((max((f for f, _ in rows), default=-1) + 1, BODIES, JOINTS, 2), np.nan, np.float32)
    for (frame, body), points in zip(rows, values, strict=True):
        joints[frame, body, : len(names)] = np.asarray(points, np.float32).reshape(-1, 2) / extent
    return joints, extent


def write_table(
    path: Path,
    names: Sequence[str],
    size: tuple[int, int],
    rows: Iterable[tuple[int, int, NDArray[np.floating]]],
) -> None:
    """Write a table of joints, whole or not at all.

    rows: (frame, body, points (joints, 2) in pixels of a picture of `size`, NaN where unknown).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*FIXED, *columns_of(names)])
        for frame, body, points in rows:
            cells = [f"{v:.2f}" if np.isfinite(v) else "" for v in np.asarray(points, float).ravel()]
            writer.writerow([frame, body, *size, *cells])
