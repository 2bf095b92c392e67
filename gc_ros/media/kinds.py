# SPDX-License-Identifier: Apache-2.0
"""What a file or folder is: a video, a bag or one of its pieces, a file that systems leave behind, an LFS pointer."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

# Every suffix of a video that PyAV reads; sound alone, still pictures and raw planes without a header are left out.
VIDEO_SUFFIXES = frozenset({
    ".264", ".265", ".266", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avc", ".avi", ".dav", ".dif",
    ".divx", ".dv", ".dvd", ".evo", ".f4v", ".flv", ".gif", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc",
    ".insv", ".ism", ".ismv", ".ivf", ".ivr", ".kux", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v",
    ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg",
    ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".ogx", ".psp", ".qt", ".rm",
    ".rmvb", ".roq", ".swf", ".tod", ".tp", ".trp", ".ts", ".ty", ".viv", ".vob", ".vro", ".vvc",
    ".webm", ".wm", ".wmv", ".wtv", ".xmv", ".y4m",
})  # fmt: skip
PART = ".*.part.*"  # names of videos that are being written, as a pattern
BAG_SUFFIXES = (".mcap", ".db3", ".bag")
METADATA = "metadata.yaml"
_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"}
_MAGIC = (b"\x89MCAP0\r\n", b"SQLite format 3\0", b"#ROSBAG")
_PIECE = re.compile(r"(.*)_(\d+)")
_CONTROL, _ESCAPED = re.compile("[\0-\x1f\x7f-\x9f]"), re.compile("[\0-\x1f\x7f-\x9f\udc80-\udcff]")


def clean(text: str) -> str:
    """A name as it is compared and shown: Unicode form NFC, no blanks around it, no control characters."""
    text = printable(_CONTROL.sub(" ", text))
    return unicodedata.normalize("NFC", text).strip().strip("\ufeff\u200b").strip()


def plain(text: str) -> str:
    """What two spellings of one name have in common: letter case, blanks, underscores and hyphens aside."""
    return re.sub(r"[\s_\-]+", "", clean(text)).lower()


def printable(text: str | os.PathLike[str]) -> str:
    """A file name with bytes that are not UTF-8, and control characters, as %XX: it can be printed and written."""
    text = _ESCAPED.sub(lambda m: f"%{ord(m[0]) & 0xFF:02X}", os.fspath(text))
    return text.encode("utf-8", "replace").decode()


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, for a message, and whether there are more."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def is_hidden(name: str) -> bool:
    """Whether systems leave such files behind: `.DS_Store`, AppleDouble's `._x`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_video_name(name: str) -> bool:
    return os.path.splitext(name.strip())[1].lower() in VIDEO_SUFFIXES


def is_storage_name(name: str) -> bool:
    """Whether a file is a bag or a piece of one, compressed or not."""
    return plain_name(name).endswith(BAG_SUFFIXES)


def plain_name(name: str) -> str:
    """A storage file's name in lower case and without `.zstd`."""
    return name.lower().removesuffix(".zstd")


def is_bag_file(path: Path) -> bool:
    """By its name, or for other names by its first bytes."""
    if is_storage_name(path.name):
        return True
    if is_video_name(path.name) or not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            return file.read(16).startswith(_MAGIC)
    except OSError:
        return False


def is_bag_folder(folder: Path, names: Iterable[str] | None = None, *, alone: bool = False) -> bool:
    """Whether a folder is one bag: rosbag2's metadata.yaml, or without it the pieces X_0, X_1 of one recording.

    A folder of recordings side by side, each a file of its own, is not a bag. names: of its files, where known.
    alone: a single recording is one too, whatever its name, because somebody named the folder as a bag.
    """
    if names is None:
        try:
            names = os.listdir(folder)
        except OSError:
            return False
    names = list(names)
    stored = [name for name in names if is_storage_name(name) and not is_hidden(name)]
    if METADATA in names:
        return bool(stored) or _is_rosbag2(folder / METADATA)
    groups = split_pieces(stored)
    if len(groups) != 1 or any(is_video_name(name) for name in names):
        return False
    (stem, files), own = next(iter(groups.items())), os.path.basename(os.path.abspath(folder))
    return alone or len(files) > 1 or stem == own.lower()


def split_pieces(names: Iterable[str]) -> dict[str, list[str]]:
    """Storage files by recording: the pieces X_0, X_1, ... of a split bag together, every other file by itself.

    A file and its compressed form are one; the one that is ready to read counts. Keys have no number and no suffix.
    """
    ready: dict[str, str] = {}
    for name in sorted(names, key=lambda n: n.lower().endswith(".zstd")):
        ready.setdefault(plain_name(name), name)
    numbered: dict[tuple[str, str], dict[int, str]] = {}
    single: dict[str, list[str]] = {}
    for plain, name in sorted(ready.items()):
        stem, suffix = os.path.splitext(plain)
        match = _PIECE.fullmatch(stem)
        if match and suffix != ".bag":  # the parts of a ROS 1 recording are bags of their own
            numbered.setdefault((match[1], suffix), {})[int(match[2])] = name
        else:
            single[stem if stem not in single else plain] = [name]
    for (stem, _), pieces in numbered.items():
        if 0 in pieces:
            single[stem if stem not in single else f"{stem}_0"] = [pieces[n] for n in sorted(pieces)]
        else:
            single |= {os.path.splitext(plain_name(name))[0]: [name] for name in pieces.values()}
    return single


def _is_rosbag2(metadata: Path) -> bool:
    try:
        with metadata.open("rb") as file:
            return b"rosbag2_bagfile_information" in file.read(1 << 16)
    except OSError:
        return False


def lfs_pointer(path: Path) -> bool:
    """Whether a file is the note that a clone without git-lfs leaves in place of the content."""
    try:
        with path.open("rb") as file:
            return file.read(40).startswith(b"version https://git-lfs")
    except OSError:
        return False


def identity(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """What two spellings of one file or folder have in common. Hard links are files of their own, as copies are."""
    found = os.stat(path)
    if os.path.isdir(path) or (found.st_nlink == 1 and found.st_ino):
        return found.st_dev, found.st_ino
    return (os.path.realpath(path),)
