# SPDX-License-Identifier: Apache-2.0
"""Tables of clips: a CSV with the columns path and class, and if it knows them subject.

Read as people and spreadsheets write them: commas, semicolons or tabs, quotes, blanks round the cells, empty rows,
every kind of line end, UTF-8 or UTF-16 with or without a byte order mark.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from gc_ros.media import kinds
from trt_build.errors import DataError

SUFFIXES = (".csv", ".tsv")
_DELIMITERS = (",", ";", "\t", "|")


def read_rows(
    table: Path, columns: Sequence[str], *, hint: str = ""
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """(its columns, (number, cells by column) of every row that is not empty) of a CSV that has these columns.

    Column names are compared in lower case. Cells are stripped of blanks. Numbers count from 1 below the header, empty
    rows included. Raises DataError for what cannot be read or lacks a column.
    """
    lines = _text(table, hint).splitlines(keepends=True)
    hinted = ""
    while lines and (not lines[0].strip() or lines[0].startswith("sep=")):
        hinted = lines.pop(0).strip().removeprefix("sep=") or hinted
    best: tuple[list[str], str] = ([], ",")
    for delimiter in (hinted, *_DELIMITERS) if len(hinted) == 1 else _DELIMITERS:
        cells = next(_cells(table, lines[:1], delimiter), [])
        names = [kinds.clean(cell).lower() for cell in cells]
        if set(columns) <= set(names) or not best[0]:
            best = names, delimiter
        if set(columns) <= set(names):
            break
    names, delimiter = best
    if not set(columns) <= set(names):
        wanted = " and ".join(columns) if len(columns) == 2 else ", ".join(columns)
        raise DataError(
            f"{table}: needs the columns {wanted}, has {', '.join(filter(None, names)) or 'none'}{hint}"
        )
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"{table}: has two columns {twice[0]}; remove or rename all but one")
    rows = []
    for number, cells in enumerate(_cells(table, lines[1:], delimiter), 1):
        values = [cell.strip().strip("\ufeff").strip() for cell in cells]
        if any(values):
            rows.append((number, dict(zip(names, [*values, *[""] * len(names)], strict=False))))
    return names, rows


def number(cell: str) -> Decimal:
    """A finite number as spreadsheets write it, with a point or with a comma. Raises ValueError for anything else.

    Not a float: a stamp of this century in seconds has more digits than a float holds.
    """
    try:
        value = Decimal(cell.replace(",", ".") if "." not in cell else cell)
    except InvalidOperation:
        raise ValueError(f"{cell!r} is no number" if cell else "is empty") from None
    if not value.is_finite():
        raise ValueError(f"{cell!r} is no number")
    return value


def times_of(table: Path, place: int, row: dict[str, str], most_s: float) -> tuple[Decimal, Decimal]:
    """start_s and end_s of a row, the place-th. Raises DataError where they are no times, of up to `most_s`."""
    try:
        start, end = (number(row[name]) for name in ("start_s", "end_s"))
    except ValueError as error:
        raise DataError(
            f"{table}: row {place}: start_s and end_s must be numbers of seconds: {error}"
        ) from None
    if max(abs(start), abs(end)) > most_s:
        raise DataError(
            f"{table}: row {place}: start_s and end_s must be numbers of seconds, up to {most_s:g}"
        )
    if start > end:
        raise DataError(f"{table}: row {place}: needs start_s <= end_s")
    return start, end


def _text(table: Path, hint: str) -> str:
    try:
        data = table.read_bytes()
        if kinds.lfs_pointer(table):
            raise DataError(f"{table}: this is a Git LFS pointer, not the table; get it with: git lfs pull")
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{table}: no such table{hint}") from None
    except OSError as error:
        raise DataError(f"{table}: not a readable table: {error.strerror}{hint}") from None
    except UnicodeError as error:
        raise DataError(f"{table}: not a readable CSV ({error}); save it as UTF-8 text{hint}") from None


def _cells(table: Path, lines: list[str], delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(
            io.StringIO("".join(lines), newline=""), delimiter=delimiter, skipinitialspace=True
        )
    except csv.Error as error:
        raise DataError(f"{table}: not a readable CSV ({error}); save it as UTF-8 text") from None


def locate(base: Path, text: str) -> Path:
    """The file that a table means, also where disk and table write the same name in other Unicode forms or blanks."""
    path = base / text
    if os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if part == ".." or os.path.lexists(found / part):
            found /= part
            continue
        try:
            alike = sorted(name for name in os.listdir(found) if kinds.clean(name) == kinds.clean(part))
        except OSError:
            return path
        if not alike:
            return path
        found /= alike[0]
    return found


def name_of(text: str, path: Path, base: Path) -> str:
    """The name of what a table lists as `text`: a relative path that never leads out of the folder it is put below.

    Below the table's folder it is the path from there; elsewhere the last folder and the file.
    """
    if os.path.isabs(text):
        text = os.path.relpath(os.path.abspath(text), os.path.abspath(base))
    text = os.path.normpath(text)
    parts = [part for part in Path(text).parts if part not in ("..", "/", "")]
    if len(parts) < len(Path(text).parts):
        parts = list(Path(os.path.abspath(path)).parts[-2:])
    return "/".join(parts)


def looks_like_windows(text: str) -> bool:
    return "\\" in text or re.match(r"[A-Za-z]:[\\/]", text) is not None
