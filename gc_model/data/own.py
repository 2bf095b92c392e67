# SPDX-License-Identifier: Apache-2.0
"""One's own clips: a folder of `class/clip` or a table, as every command finds them; their joints and boxes."""

from __future__ import annotations

import csv
import functools
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gc_model.data import joint_tables
from gc_model.data.clip import JointSource, LabelledClip, labelled
from gc_model.data.people import with_boxes
from gc_ros.media.clips import Clips, find_clips, tables_of
from trt_build.errors import DataError
from trt_build.files import write_atomically


def clips(
    data: Path, *, subjects: Sequence[str] | None = None, classes: Sequence[str] | None = None
) -> Clips[LabelledClip]:
    """The clips of a folder or CSV, sorted by name. subjects, classes: only these.

    The log counts what the finder passed over. Raises DataError where there is nothing to read, a filter names what
    does not exist, or files that the CSV names are missing.
    """
    if not data.exists():
        raise DataError(f"{data}: no such folder or CSV of clips")
    found = find_clips([data], subjects, classes)
    if data.is_file() and not found[0].tabled:
        raise DataError(
            f"{data}: one video is not a data set; give a folder class/clip.mp4, or a CSV of clips"
        )
    for remark in found.remarks():
        _warn(remark)
    in_order = sorted((labelled(c) for c in found), key=lambda c: c.name)
    return Clips(in_order, found.passed_over, found.without)


def clips_for_tables(
    data: Path, subjects: Sequence[str] | None, places: Iterable[Callable[[str], Path]]
) -> Clips[LabelledClip]:
    """The clips of `subjects`, to make tables of at `places`, see `tables_of`.

    Raises DataError where two clips would share a table, whoever they are of: the same command for other people goes on
    in the same folder.
    """
    everybody = clips(data)
    for place in places:
        tables_of(everybody, place)
    return everybody if subjects is None else clips(data, subjects=subjects)


def with_joints(found: Sequence[LabelledClip], folder: Path) -> list[LabelledClip]:
    """The clips with their tables of joints below a folder; the joints of a clip without a table are unknown.

    Raises DataError where there is no table at all, one that cannot be read, two clips share one, or not all have the
    same joints.
    """
    tables = tables_of(found, functools.partial(joint_tables.table_of, folder), there_only=True)
    there = [t for t in tables if t.is_file()]
    if not there:
        raise DataError(
            f"{folder}: no joints of these clips, {tables[0]} for one; write them with `gc-model joints`"
        )
    # Later a table that cannot be read would only count as joints that nobody saw.
    if damaged := [reason for t in there if (reason := _damage(t))]:
        more = f" ({len(damaged)} of {len(there)} tables of joints are damaged)" if len(damaged) > 1 else ""
        raise DataError(damaged[0] + more)
    names = joint_tables.joint_names(there[0])
    if other := next((t for t in there if joint_tables.joint_names(t) != names), None):
        raise DataError(
            f"{other} has other joints than {there[0]}; all tables of a folder must have the same"
        )
    mirrored = joint_tables.mirrored_joints(names)
    # A table ends with the last frame in which a body was seen: what comes after it is unknown.
    return [
        replace(
            c,
            joints=JointSource(
                t if t.is_file() else None, joint_tables.read_table, mirrored, last_stands=False
            ),
        )
        for c, t in zip(found, tables, strict=True)
    ]


def _damage(table: Path) -> str:
    """Why a table of joints cannot be read, "" if it can."""
    try:
        joint_tables.read_table(table)
    except DataError as error:
        return str(error)
    return ""


def all_mixed_in(folders: Iterable[Path], margin: float | None = None) -> list[list[LabelledClip]]:
    """Clips to train on beside those of a data set, of each folder or table, as of `mixed_in`.

    Where several have the same name, the names of the clips of the second begin with NAME_2, and so on.
    """
    found, names = [], Counter[str]()
    for folder in folders:
        name = folder.resolve().stem
        names[name] += 1
        found.append(mixed_in(folder, margin, f"{name}_{names[name]}" if names[name] > 1 else name))
    return found


def mixed_in(folder: Path, margin: float | None = None, name: str = "") -> list[LabelledClip]:
    """Clips to train on beside those of a data set; their names begin with `name`, or with the folder's.

    Their joints come from `joints` in the folder if that exists, as `gc-model synth --joints` writes them; with a
    `margin` their boxes come from `boxes`. Raises DataError.
    """
    found: Sequence[LabelledClip] = clips(folder)
    if joints_beside(folder).is_dir():
        found = with_joints(found, joints_beside(folder))
    boxes = boxes_beside(folder)
    if margin is not None and boxes.is_dir():
        found = with_boxes(found, boxes, margin)
    return [replace(c, name=f"{name or folder.resolve().stem}/{c.name}") for c in found]


def joints_beside(data: Path) -> Path:
    """The folder of joints that comes with a folder or table of clips."""
    return (data if data.is_dir() else data.parent) / "joints"


def boxes_beside(data: Path) -> Path:
    """The folder of boxes that comes with a folder or table of clips."""
    return (data if data.is_dir() else data.parent) / "boxes"


def write_table(folder: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write path, class and subject of clips as `folder`/clips.csv."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["path", "class", "subject"], *rows])
    write_atomically(folder / "clips.csv", text.getvalue())


@functools.cache  # once: an evaluation of many runs reads the same clips again and again
def _warn(remark: str) -> None:
    logging.getLogger(__name__).warning("%s", remark)
