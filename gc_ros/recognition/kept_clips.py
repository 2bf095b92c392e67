# SPDX-License-Identifier: Apache-2.0
"""Small clips of what was shown, kept beside what was taught, so that a training can start from them.

They show people: they are kept only where the user asks for it, and forgetting an activity removes its clips.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.video_writer import PART, VideoWriter
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.files import write_atomically

TABLE = "clips.csv"
MOST = 300  # frames of a clip


def clips_of(taught: Path) -> Path:
    """The folder of kept clips in a folder of what was taught."""
    return taught / "clips"


def kept_clips(taught: Path) -> Path:
    """The folder of clips, with their table, that were kept beside what was taught, a folder or its taught.json.

    Raises DataError where none were.
    """
    folder = clips_of(taught.parent if taught.is_file() else taught)
    if not (folder / TABLE).is_file():
        raise DataError(
            f"{taught}: no clips were kept, and their features alone cannot train a network; teach with "
            "gc-ros teach --keep-clips, or give clips by --data"
        )
    return folder


def keep_clips(taught: Path, name: str, clips: Sequence[NDArray[np.uint8]], rate_hz: float) -> None:
    """Keep clips of an activity, each of frames (n, S, S, 3) as the network sees them; one that is there stays.

    Call it with the folder locked. Raises DataError where they cannot be written.
    """
    folder = clips_of(taught)
    rows = _read(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_parts(folder)
        for frames in clips:
            small = np.ascontiguousarray(frames[:MOST])
            file = f"{hashlib.sha256(small.data).hexdigest()[:16]}.mp4"
            if not (folder / file).exists():
                with VideoWriter(folder / file) as writer:
                    for i, frame in enumerate(small):
                        writer.write(frame, round(i * NS / rate_hz))
            if (file, name) not in rows:
                rows.append((file, name))
        _write(folder, rows)
    except OSError as error:
        raise DataError(
            f"{folder}: clips cannot be kept ({error.strerror or error}); name a writable folder"
        ) from None


def check_clips(taught: Path) -> None:
    """Raise DataError where the table of kept clips cannot be read: before what it belongs to is changed."""
    _read(clips_of(taught))


def forget_clips(taught: Path, name: str) -> None:
    """Remove the clips of an activity. Call it with the folder locked.

    Raises DataError where they cannot be removed.
    """
    folder = clips_of(taught)
    rows = _read(folder)
    kept = [row for row in rows if row[1] != name]
    try:
        _remove_parts(folder)
        if kept == rows:
            return
        for file in {file for file, _ in rows} - {file for file, _ in kept}:
            # The table may have been edited: nothing outside the folder is removed.
            (folder / Path(file).name).unlink(missing_ok=True)
        if kept:
            _write(folder, kept)
            return
        (folder / TABLE).unlink()
        with suppress(OSError):  # somebody put something else there
            folder.rmdir()
    except OSError as error:
        raise DataError(
            f"{folder}: clips of {name} cannot be removed ({error.strerror or error}); remove them"
        ) from None


def rename_clips(taught: Path, old: str, new: str) -> None:
    """Give the clips of an activity another name."""
    rows = _read(clips_of(taught))
    if any(name == old for _, name in rows):
        _write(clips_of(taught), [(file, new if name == old else name) for file, name in rows])


def _remove_parts(folder: Path) -> None:
    """Remove what a process that was killed, or a full disk, left of a clip: it shows people too."""
    for part in folder.glob(PART):
        part.unlink(missing_ok=True)


def _read(folder: Path) -> list[tuple[str, str]]:
    """(file, activity) of the table; nothing where there is none."""
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"path", "class"} <= set(table.fieldnames or ()):
                raise KeyError("its first line names other columns")
            rows = [(row["path"], row["class"]) for row in table]
            if any(path is None or name is None for path, name in rows):
                raise KeyError("a row ends early")
            return rows
    except FileNotFoundError:
        return []
    except (OSError, KeyError, UnicodeError, csv.Error) as error:
        why = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(
            f"{folder / TABLE}: not a table path,class ({why}); correct it, or remove {folder}, whose clips show people"
        ) from None


def _write(folder: Path, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "class"), *rows])
    write_atomically(folder / TABLE, text.getvalue(), durable=True)
