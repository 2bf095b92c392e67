# SPDX-License-Identifier: Apache-2.0
"""Labelled clips: which video files there are and what is seen in them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_build.errors import DataError

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Clip:
    """A video file and what is seen in it; subject is "" where unknown.

    name: the path below the data folder, stable across machines.
    """

    path: Path
    name: str
    label: str
    subject: str = ""


def find_clips(sources: Iterable[str | os.PathLike[str]], subjects: Sequence[str] = ()) -> list[Clip]:
    """Collect clips, in a fixed order, from any mix of

    files (label: the name of their folder), folders of `class/clip` or of clips (label: the folder's name),
    and CSV files with columns path (relative to the CSV), class, and perhaps subject. `subjects` keeps
    those of a CSV. Raises DataError when a source or a subject does not exist or nothing is found.
    """
    clips: list[Clip] = []
    for source in map(Path, sources):
        if source.suffix.lower() == ".csv":
            found = read_table(source)
        elif source.is_dir():
            found = _from_folder(source)
        elif source.is_file():
            found = [Clip(source, source.name, source.resolve().parent.name)]
        else:
            raise DataError(f"{source}: no such clip, folder or CSV file")
        if not found:
            kinds = " ".join(sorted(VIDEO_SUFFIXES))
            raise DataError(f"{source}: holds no clips; expected class/clip files ending in {kinds}")
        clips += found
    if not subjects:
        return clips
    known = sorted({clip.subject for clip in clips if clip.subject})
    for subject in subjects:
        if subject not in known:
            have = (
                f"there are {', '.join(known)}"
                if known
                else "subjects come from a CSV file (path,class,subject)"
            )
            raise DataError(f"no clip of subject {subject!r}; {have}")
    return [clip for clip in clips if clip.subject in subjects]


def _from_folder(folder: Path) -> list[Clip]:
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
    )
    name = folder.resolve().name
    return [
        Clip(
            file,
            file.relative_to(folder).as_posix(),
            file.relative_to(folder).parts[0] if file.parent != folder else name,
        )
        for file in files
    ]


def read_table(table: Path) -> list[Clip]:
    """The clips of a CSV with the columns path (relative to the CSV) and class, and if it knows them subject.

    Raises DataError, naming row or column, for a table that is not like that or names files that do not exist.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table}: not a readable CSV ({error}); save it as UTF-8 text with path,class"
        ) from None
    if not {"path", "class"} <= set(columns):
        raise DataError(f"{table}: needs the columns path and class, has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 1):
        if not row["path"] or not row["class"]:
            raise DataError(f"{table}: row {number} lacks its path or class; complete or remove it")
    if twice := [name for name, n in Counter(r["path"] for r in rows).items() if n > 1]:
        raise DataError(f"{table}: {twice[0]} is listed more than once; each clip has one class")
    clips = [Clip(table.parent / r["path"], r["path"], r["class"], r.get("subject") or "") for r in rows]
    if missing := [c.name for c in clips if not c.path.is_file()]:
        raise DataError(
            f"{table}: {len(missing)} of {len(clips)} files do not exist, the first is {missing[0]}"
        )
    return clips
