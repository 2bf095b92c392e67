# SPDX-License-Identifier: Apache-2.0
"""Small clips of what was shown, kept beside what was taught, so that a training can start from them.

They show people: they are kept only where the user asks for it, and forgetting an activity removes its clips.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.kinds import PART
from gc_ros.recognition.taught import alike
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.files import NO_ROOM, write_atomically
from trt_build.install import pip

TABLE = "clips.csv"
MOST = 300  # frames of a clip
_OURS = re.compile(r"[0-9a-f]{16}\.mp4")  # names that keep_clips gives


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


def keep_clips(
    taught: Path, name: str, clips: Sequence[NDArray[np.uint8]], rate_hz: float, side: int = 0
) -> None:
    """Keep clips of an activity, each of frames (n, S, S, 3) as the network sees them; one that is there stays.

    side: of the pictures of whose middle the network sees S x S, `Preprocess.resize`. The frames are kept as the middle
    of such pictures, so that whoever prepares these sees the same again. Call it with the folder locked. Raises
    DataError where they cannot be written.
    """
    try:
        # Not above: a robot's node, which keeps none unless it is told to, does without PyAV.
        from gc_ros.media.video_writer import VideoWriter
    except ImportError as error:
        raise DataError(f"videos need PyAV ({error}): {pip('av>=14')}") from None
    folder = clips_of(taught)
    rows = _read(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, rows)
        for frames in clips:
            small = np.ascontiguousarray(_widened(frames[:MOST], side))
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
            f"{folder}: clips cannot be kept ({error.strerror or error}); {remedy(error)}"
        ) from None


def _widened(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Frames of side x side with these in their middle; what lies around them is not known, and goes on as they end."""
    missing = max(side - frames.shape[1], 0)
    around = (missing // 2, missing - missing // 2)
    return np.pad(frames, ((0, 0), around, around, (0, 0)), mode="edge")


def check_clips(taught: Path) -> None:
    """Raise DataError where the table of kept clips cannot be read: before what it belongs to is changed."""
    _read(clips_of(taught))


def names_of_clips(taught: Path) -> list[str]:
    """The activities whose clips are kept, each once. Raises DataError as `check_clips`."""
    return list(dict.fromkeys(name for _, name in _read(clips_of(taught))))


def name_of_clips(taught: Path, name: str) -> str | None:
    """The name of an activity as its kept clips have it, of one that looks the same; None where none are kept."""
    return alike(name, names_of_clips(taught))


def forget_clips(taught: Path, name: str) -> None:
    """Remove the clips of an activity. Call it with the folder locked, before the activity itself is forgotten.

    Raises DataError where they cannot be removed.
    """
    folder = clips_of(taught)
    rows = _read(folder)
    kept = [row for row in rows if row[1] != name]
    try:
        # The table first: after a kill it names no file that is gone, and what it no longer names is swept.
        if kept != rows and kept:
            _write(folder, kept)
        elif kept != rows:
            (folder / TABLE).unlink()
        for file in {file for file, _ in rows} - {file for file, _ in kept}:
            # The table may have been edited: nothing outside the folder is removed.
            (folder / Path(file).name).unlink(missing_ok=True)
        _sweep(folder, kept)
        if not kept and folder.is_dir():
            with suppress(OSError):  # somebody put something else there
                folder.rmdir()
    except OSError as error:
        what = "make room on its disk, or remove them" if error.errno in NO_ROOM else "remove them"
        raise DataError(
            f"{folder}: clips of {name} cannot be removed ({error.strerror or error}); {what}"
        ) from None


def sweep_clips(taught: Path) -> None:
    """Remove clips that the table does not name, as a kill leaves them. Call it with the folder locked.

    A table that cannot be read says of no clip that it is left over: then nothing is removed.
    """
    with suppress(OSError, DataError):
        _sweep(clips_of(taught), _read(clips_of(taught)))


def rename_clips(taught: Path, old: str, new: str) -> None:
    """Give the clips of an activity another name, beside the old one: until that is forgotten, either has them.

    So a kill before the activity itself is renamed, or after, leaves its clips with it. Raises DataError where the
    table cannot be written.
    """
    folder = clips_of(taught)
    rows = _read(folder)
    more = [(file, new) for file, name in rows if name == old and (file, new) not in rows]
    try:
        if more:
            _write(folder, rows + more)
    except OSError as error:
        raise DataError(
            f"{folder}: clips cannot be renamed ({error.strerror or error}); {remedy(error)}"
        ) from None


def remedy(error: OSError) -> str:
    """What helps where something cannot be written."""
    if error.errno in NO_ROOM:
        return "there is no room for it: make room, or name a folder on another disk"
    return "name a writable folder"


def _sweep(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Remove what a process that was killed, or a full disk, left of clips: it shows people too.

    Files with names that are not ours are somebody else's, and stay.
    """
    for part in [*folder.glob(PART), *folder.glob(f".{TABLE}.*.part")]:
        part.unlink(missing_ok=True)
    named = {Path(file).name for file, _ in rows}
    for clip in folder.glob("*.mp4"):
        if _OURS.fullmatch(clip.name) and clip.name not in named:
            clip.unlink(missing_ok=True)


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
