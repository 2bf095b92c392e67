# SPDX-License-Identifier: Apache-2.0
"""How large a JPEG, PNG, TIFF or WebP says it is, and where it ends, before anything is decoded.

OpenCV fills what is missing of a truncated file with zeros or grey and says nothing, so the end must be there.
What comes behind it does not matter: drivers hand over their whole buffer.
"""

from __future__ import annotations

import re
import struct

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_SCANS = 100  # of a progressive JPEG; each costs the decoder the whole image
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
MAX_SEGMENTS, MAX_CHUNKS = 5000, 1 << 16
# The next segment: between two, libjpeg skips bytes, fill and marks without a length.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
# What may follow a scan: another scan, its tables, a comment, the end. Anything else is part of damaged data.
_AFTER_SCAN = re.compile(rb"\xff[\xd9\xda\xc4\xcc\xdb\xdc\xdd\xe0-\xef\xfe]")
_NO_HEADER = "JPEG image is corrupt: no frame header"
_PNG_FLAW = "PNG image is truncated or corrupt"
_WEBP_FLAW = "WebP image is truncated or corrupt"
_TIFF_FLAW = "TIFF image is truncated or corrupt"
MAX_TAGS, MAX_STRIPS = 200, 1 << 16
# Of a TIFF: width, height, bits, where its strips or tiles lie, how long they are, width and height of a tile.
_WIDTH, _HEIGHT, _BITS, _STRIPS, _TILES = 256, 257, 258, (273, 279), (324, 325)
_TILE_SIZE = (322, 323)


def extent(data: memoryview) -> tuple[int, int, int] | None:
    """(width, height, length in bytes), or None of no known kind. Raises ValueError where the image is not whole."""
    head = bytes(data[:16])
    if head[:8] == PNG:
        return *png_size(data), png_length(data)
    if head[:3] == JPEG:
        return jpeg_extent(data)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return tiff_extent(data)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return webp_extent(data)
    return None


def png_size(data: memoryview) -> tuple[int, int]:
    """(width, height). Raises ValueError."""
    if bytes(data[12:16]) != b"IHDR":
        raise ValueError(_PNG_FLAW)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def png_length(data: memoryview) -> int:
    """The length in bytes: chunk by chunk to IEND. Raises ValueError where that is missing."""
    at = 8
    for _ in range(MAX_CHUNKS):
        kind = bytes(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if len(kind) < 4 or at > len(data):
            break
        if kind == b"IEND":
            return at
    raise ValueError(_PNG_FLAW)


def jpeg_extent(data: memoryview) -> tuple[int, int, int]:
    """(width, height, length): by its segments, as libjpeg steps from one to the next, to the end mark.

    Raises ValueError with the reason where the image is not whole.
    """
    at, size, scans, first_scan = 2, (0, 0), 0, 0
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            at = len(data)
            break
        at, kind = found.start(), found[0][1]
        if kind == _EOI:
            at += 2
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == _SOI or length < 2:
            break
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if size != (0, 0) or at + 9 > len(data):
                raise ValueError("JPEG image is corrupt: two frame headers" if size != (0, 0) else _NO_HEADER)
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + length
        if kind == _SOS:
            scans, first_scan = scans + 1, first_scan or at
            if size == (0, 0) or scans > MAX_SCANS:
                break
            found = _AFTER_SCAN.search(data, at)
            at = found.start() if found else len(data)
    if size == (0, 0) or not scans:
        raise ValueError(_NO_HEADER)
    if scans > MAX_SCANS:
        raise ValueError(f"JPEG image has more than {MAX_SCANS} scans, which no camera writes")
    if bytes(data[at - 2 : at]) != b"\xff\xd9":
        # A flaw among its segments; its end mark may be there all the same.
        at = bytes(data).rfind(b"\xff\xd9", first_scan) + 2
        if at < 2:
            raise ValueError("JPEG image is truncated")
    return *size, at


def webp_extent(data: memoryview) -> tuple[int, int, int]:
    """(width, height, length): by the header of its first chunk. Raises ValueError where the image is not whole."""
    length = 8 + int.from_bytes(data[4:8], "little")
    kind = bytes(data[12:16])
    if length > len(data) or length < 30:
        raise ValueError(_WEBP_FLAW)
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and bytes(data[23:26]) == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise ValueError(_WEBP_FLAW)
    return width, height, length


def tiff_extent(data: memoryview) -> tuple[int, int, int]:
    """(width, height, length) of its first image; the length is that of the data: directories may lie anywhere.

    Raises ValueError where a strip or tile lies beyond the data, or a tile is larger than libtiff should be asked for.
    """
    try:
        tags = _tiff_tags(data)
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        places, lengths = next((tags[a], tags[b]) for a, b in (_STRIPS, _TILES) if a in tags and b in tags)
    except (struct.error, LookupError, StopIteration):
        raise ValueError(_TIFF_FLAW) from None
    tile = [tags.get(tag, (1,))[0] for tag in _TILE_SIZE]
    if max(tile) > 1 << 16 or max(tags.get(_BITS, (1,))) > 16:
        raise ValueError("TIFF image has tiles or samples that no camera writes")
    if len(places) != len(lengths) or any(a + n > len(data) for a, n in zip(places, lengths, strict=True)):
        raise ValueError(_TIFF_FLAW)
    return width, height, len(data)


def _tiff_tags(data: memoryview) -> dict[int, tuple[int, ...]]:
    """The whole numbers in the first directory of a TIFF. Raises struct.error or LookupError where it is broken."""
    order = "<" if data[0] == ord("I") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    if not 0 < count <= MAX_TAGS:
        raise LookupError
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        code = {3: "H", 4: "I"}.get(kind)
        if code is None:
            continue
        if not 0 < number <= MAX_STRIPS:
            raise LookupError
        values = f"{order}{number}{code}"
        inside = struct.calcsize(values) <= 4
        start = entry + 8 if inside else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        tags[tag] = struct.unpack_from(values, data, start)
    return tags
