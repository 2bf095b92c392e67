# SPDX-License-Identifier: Apache-2.0
"""How large a JPEG, PNG, TIFF or WebP says it is, where it ends, and what it costs at most, before it is decoded.

OpenCV fills what is missing of a truncated file with zeros or grey and says nothing, so the end must be there.
What comes behind it does not matter: drivers hand over their whole buffer.

The costs are upper bounds, measured with OpenCV 4.14 on a 3 GHz core with images made to cost as much as possible: a
natural JPEG takes two thirds of its bound, a natural PNG half.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_PIXELS = 1 << 26  # 67 megapixels: more is a broken or hostile message, not a camera
MAX_SCANS = 100  # of a progressive JPEG; each costs the decoder the whole image
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_PROCESSES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: not lossless, hierarchical or arithmetic
MAX_SEGMENTS, MAX_CHUNKS = 5000, 1 << 14
# The next segment: between two, libjpeg skips bytes, fill and marks without a length.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
# What may follow a scan: another scan, its tables, a comment, the end. Anything else is part of damaged data.
_AFTER_SCAN = re.compile(rb"\xff[\xd9\xda\xc4\xcc\xdb\xdc\xdd\xe0-\xef\xfe]")
_NO_HEADER = "JPEG image is corrupt: no frame header"
_PNG_FLAW = "PNG image is truncated or corrupt"
_WEBP_FLAW = "WebP image is truncated or corrupt"
_TIFF_FLAW = "TIFF image is truncated or corrupt"
MAX_TAGS, MAX_STRIPS = 200, 1 << 16
# Of a TIFF: width, height, bits, compression, samples, where its strips or tiles lie, how long they are, width and
# height of a tile.
_WIDTH, _HEIGHT, _BITS, _PACKING, _SAMPLES, _STRIPS, _TILES = 256, 257, 258, 259, 277, (273, 279), (324, 325)
_PACKINGS = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, runs of bytes: no file of another kind inside
_TILE_SIZE = (322, 323)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# What makes the pixels. Text, profiles and animations make none, and may expand to megabytes each.
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a size that no camera has."""
    if width <= 0 or height <= 0:
        raise ValueError(f"image of size {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"image of {width}x{height} pixels is above the limit of {MAX_PIXELS}")


class Extent(NamedTuple):
    """Size in pixels, length of the file in bytes, and what decoding takes at most: processor seconds, bytes."""

    width: int
    height: int
    length: int
    seconds: float
    memory: int


def extent(data: memoryview) -> Extent | None:
    """By the kind that the first bytes tell; None of an unknown one. Raises ValueError where it is not whole."""
    head = bytes(data[:16])
    if head[:8] == PNG:
        return png_extent(data)
    if head[:3] == JPEG:
        return jpeg_extent(data)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return tiff_extent(data)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return webp_extent(data)
    return None


def png_extent(data: memoryview) -> Extent:
    """By its header and its chunks to IEND. Raises ValueError with the reason where it is not whole."""
    if len(data) < 33 or bytes(data[12:16]) != b"IHDR":
        raise ValueError(_PNG_FLAW)
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    check_size(width, height)
    depth, colour, interlaced = data[24], data[25], data[28]
    lengths = [len(chunk) for _, chunk in _chunks(data)]
    at = 8 + sum(lengths)
    rows = height * (1 + (width * _CHANNELS.get(colour, 4) * depth + 7) // 8)  # bytes, before their filters
    unpacked = 2.5e-9 if depth >= 8 else 5.5e-9  # a pixel
    seconds = 4e-9 * rows + unpacked * width * height + min(12e-9 * at, 3.6e-9 * rows) + 4e-6 * len(lengths)
    return Extent(width, height, at, seconds * (2 if interlaced else 1), 9 * width * height)


def picture(data: memoryview) -> memoryview:
    """What of the file makes pixels: a PNG without its other chunks, anything else as it is."""
    if bytes(data[:8]) != PNG:
        return data
    chunks = list(_chunks(data))
    if all(kind in _PICTURE for kind, _ in chunks):
        return data
    return memoryview(b"".join([PNG, *(chunk for kind, chunk in chunks if kind in _PICTURE)]))


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, the whole chunk) to IEND. Raises ValueError where the data end before, or there are too many."""
    at = 8
    for _ in range(MAX_CHUNKS):
        kind, end = bytes(data[at + 4 : at + 8]), at + 12 + int.from_bytes(data[at : at + 4], "big")
        if len(kind) < 4 or end > len(data):
            break
        yield kind, data[at:end]
        if kind == b"IEND":
            return
        at = end
    raise ValueError(_PNG_FLAW)


def jpeg_extent(data: memoryview) -> Extent:
    """By its segments, as libjpeg steps from one to the next, to the end mark.

    Raises ValueError with the reason where the image is not whole, or of a kind that no camera writes.
    """
    at, size, scans, first_scan, process, components = 2, (0, 0), 0, 0, 0, 0
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
            if size != (0, 0) or at + 10 > len(data):
                raise ValueError("JPEG image is corrupt: two frame headers" if size != (0, 0) else _NO_HEADER)
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            process, components = kind, int(data[at + 9])
            if process not in _PROCESSES:
                raise ValueError(f"JPEG image has the frame header {process:02X}, which no camera writes")
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
    pixels = size[0] * size[1]
    if process == 0xC2 or scans > 1:  # the decoder keeps the coefficients of the whole image
        seconds = (4e-9 + 0.2e-9 * scans) * pixels + 20e-9 * at
        return Extent(*size, at, seconds, (3 + 2 * components) * pixels)
    return Extent(*size, at, 3.5e-9 * pixels + 7e-9 * at, 3 * pixels)


def webp_extent(data: memoryview) -> Extent:
    """By the header of its first chunk. Raises ValueError where the image is not whole, or one of several."""
    length = 8 + int.from_bytes(data[4:8], "little")
    kind = bytes(data[12:16])
    if length > len(data) or length < 30:
        raise ValueError(_WEBP_FLAW)
    if kind == b"VP8X" and data[20] & 2:
        raise ValueError("WebP image is an animation, which no camera writes")
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and bytes(data[23:26]) == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise ValueError(_WEBP_FLAW)
    pixels = width * height
    return Extent(width, height, length, 20e-9 * pixels + min(30e-9 * length, 15e-9 * pixels), 12 * pixels)


def tiff_extent(data: memoryview) -> Extent:
    """Of its first image; the length is that of the data: directories may lie anywhere.

    Raises ValueError where a strip or tile lies beyond the data, or a tile is larger than libtiff should be asked for.
    """
    try:
        tags = _tiff_tags(data)
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        places, lengths = next((tags[a], tags[b]) for a, b in (_STRIPS, _TILES) if a in tags and b in tags)
    except (struct.error, LookupError, StopIteration):
        raise ValueError(_TIFF_FLAW) from None
    tile, bits = [tags.get(tag, (1,))[0] for tag in _TILE_SIZE], tags.get(_BITS, (1,))
    samples, packing = tags.get(_SAMPLES, (1,))[0], tags.get(_PACKING, (1,))[0]
    if max(tile) > 1 << 16 or max(bits) > 16 or samples > 4 or packing not in _PACKINGS:
        raise ValueError("TIFF image has tiles, samples or a compression that no camera writes")
    if len(places) != len(lengths) or any(a + n > len(data) for a, n in zip(places, lengths, strict=True)):
        raise ValueError(_TIFF_FLAW)
    # Tiles at the edges are whole ones.
    pixels = (width + tile[0]) * (height + tile[1])
    seconds = (6 + (2 if packing == 1 else 6) * samples * max(bits) / 8) * 1e-9 * pixels
    return Extent(width, height, len(data), seconds, 16 * pixels)


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
