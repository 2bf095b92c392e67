# SPDX-License-Identifier: Apache-2.0
"""How large a JPEG or PNG says it is, and where it ends, before anything is decoded.

OpenCV fills what is missing of a truncated file with zeros or grey and says nothing, so the end mark must be there.
What comes behind it does not matter: drivers hand over their whole buffer.
"""

from __future__ import annotations

import re

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
