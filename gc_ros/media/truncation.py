# SPDX-License-Identifier: Apache-2.0
"""Whether a video file lacks its end, by what its container says of its own length.

A count of frames in a header is no proof: recorders write estimates, editors keep samples that are not shown. How long
a box, chunk, segment or page is that lies in the file is one, for a reader could not step over it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

_SEGMENT = 0x18538067
_ASF, _ASF_FILE = bytes.fromhex("3026b2758e66cf11a6d9"), bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_INDEX = 1 << 22  # of an AVI: 16 bytes a picture
_TAIL = 1 << 17  # longer than an Ogg page


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks at its end, at least; 0 where it is whole or where its container does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        for fits, measure in _CONTAINERS:
            if fits(head):
                try:
                    return max(measure(file, size) - size, 0)
                except (struct.error, IndexError):  # not even a whole header: the demuxer has more to say
                    return 0
    return 0


def _read(file: IO[bytes], at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _iso(file: IO[bytes], size: int) -> int:
    """MP4, MOV, 3GP: boxes one after the other; what follows the last one of a known type does not count."""
    at = end = 0
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", _read(file, at, 8))
        if length == 1:
            (length,) = struct.unpack(">Q", _read(file, at + 8, 8))
        if length < 8 or not kind.isalnum():  # 0: to the end of the file
            break
        if kind in (b"mdat", b"moov", b"moof"):
            end = at + length
        at += length
    return end


def _riff(file: IO[bytes], size: int) -> int:
    """AVI: the index comes after the pictures, so a file that has one has them all, whatever its sizes say.

    Of a list that is longer than the file, the recorder may have written an estimate: then the index is looked for.
    """
    at, end = 12, 0
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", _read(file, at, 8))
        if kind == b"idx1":
            end = 0
        if kind == b"LIST" and _read(file, at + 8, 4) == b"movi":
            end = at + 8 + length
        if kind == b"RIFF":  # the next part of a large file
            length = 4
        at += 8 + length + length % 2
    tail = _read(file, max(size - _INDEX, 0), _INDEX) if size < end < 1 << 31 else b""
    at = tail.rfind(b"idx1")
    if end >= 1 << 31 or (at >= 0 and at + 8 + int.from_bytes(tail[at + 4 : at + 8], "little") <= len(tail)):
        return 0
    return end


def _ebml(file: IO[bytes], size: int) -> int:
    """Matroska, WebM: the segment's size, where the recorder came back to write it."""
    at = 0
    while at + 12 <= size:
        data = _read(file, at, 12)
        key_length = 9 - data[0].bit_length()
        if key_length > 4:
            return 0
        first = data[key_length]
        length_length = 9 - first.bit_length()
        raw = int.from_bytes(data[key_length : key_length + length_length], "big")
        length = raw & ((1 << 7 * length_length) - 1)
        body = at + key_length + length_length
        if int.from_bytes(data[:key_length], "big") == _SEGMENT:
            return 0 if length == (1 << 7 * length_length) - 1 else body + length
        at = body + length
    return at


def _asf(file: IO[bytes], size: int) -> int:
    """WMV: the file's size stands in its header, unless it was a broadcast."""
    head = _read(file, 0, 1 << 16)
    at = head.index(_ASF_FILE) if _ASF_FILE in head else -1
    if at < 0:
        return 0
    (length,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    return 0 if flags & 1 else int(length)


def _ogg(file: IO[bytes], size: int) -> int:
    start = max(size - _TAIL, 0)
    tail = _read(file, start, _TAIL)
    at = tail.rfind(b"OggS")
    count = tail[at + 26]
    table = tail[at + 27 : at + 27 + count]
    return start + at + 27 + count + sum(table) + (1 if len(table) < count else 0)


def _gif(file: IO[bytes], size: int) -> int:
    return size if b"\x3b" in _read(file, max(size - 16, 0), 16) else size + 1


_CONTAINERS: tuple[tuple[Callable[[bytes], bool], Callable[[IO[bytes], int], int]], ...] = (
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _iso),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", _riff),
    (lambda head: head[:4] == b"\x1a\x45\xdf\xa3", _ebml),
    (lambda head: head[:10] == _ASF, _asf),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:4] == b"GIF8", _gif),
)
