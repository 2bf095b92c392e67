# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG taken apart into segments and chunks, changed with knowledge of what they are, and put together again.

Each mutation gets the pieces and two numbers in [0, 1] and changes the pieces in place. Checksums are right again
afterwards, so that what the decoder sees is the mutation and not a broken checksum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
SIZES = (0, 1, 7, 8, 16, 17, 255, 1000, 4096, 8191, 8192, 16384, 32767, 65500, 65535)
# Marker and its content; data of a scan follows the marker SOS as a piece of its own, with the marker None.
Segment = list  # [int | None, bytes]
Chunk = list  # [bytes, bytes]
_RNG = np.random.default_rng(0)
_NOISE = _RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
_FLAT = np.full((256, 320, 3), 90, np.uint8)


def _coded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


JPEGS = (
    _coded(".jpg", _NOISE),
    _coded(".jpg", _NOISE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    _coded(".jpg", _NOISE, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    _coded(".jpg", _FLAT, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111),
    _coded(".jpg", _FLAT[..., 0]),
)
PNGS = (
    _coded(".png", _NOISE),
    _coded(".png", _FLAT),
    _coded(".png", _NOISE[..., 0]),
    _coded(".png", np.dstack([_NOISE, _NOISE[..., :1]])),
    _coded(".png", _NOISE.astype(np.uint16) * 257),
)
OTHERS = (
    _coded(".webp", _NOISE, cv2.IMWRITE_WEBP_QUALITY, 80),
    _coded(".webp", _NOISE, cv2.IMWRITE_WEBP_QUALITY, 101),
    _coded(".tiff", _NOISE),
    _coded(".tiff", _FLAT, cv2.IMWRITE_TIFF_COMPRESSION, 8),
    _coded(".tiff", np.dstack([_NOISE, _NOISE[..., :1]]).astype(np.uint16) * 257),
)


def segments(data: bytes) -> list[Segment]:
    """The pieces of a JPEG that OpenCV wrote, without its start and end marks."""
    found, at = [], 2
    while data[at + 1] != 0xD9:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        found.append([kind, data[at + 4 : at + 2 + length]])
        at += 2 + length
        if kind == 0xDA:
            begin = at
            while data[at] != 0xFF or data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
                at += 1
            found.append([None, data[begin:at]])
    return found


def jpeg(pieces: Sequence[Segment], behind: bytes = b"") -> bytes:
    parts = [b"\xff\xd8"]
    for kind, content in pieces:
        if kind is not None:
            parts.append(b"\xff" + bytes([kind]) + (len(content) + 2).to_bytes(2, "big"))
        parts.append(content)
    return b"".join([*parts, b"\xff\xd9", behind])


def chunks(data: bytes) -> list[Chunk]:
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    return found


def png(pieces: Sequence[Chunk], behind: bytes = b"") -> bytes:
    parts = [PNG]
    for kind, content in pieces:
        parts += [
            len(content).to_bytes(4, "big"),
            kind,
            content,
            zlib.crc32(kind + content).to_bytes(4, "big"),
        ]
    return b"".join([*parts, behind])


def _pick(pieces: Sequence, place: float) -> int:
    return min(int(place * len(pieces)), len(pieces) - 1)


def _swap(pieces: list, a: float, b: float) -> None:
    i, j = _pick(pieces, a), _pick(pieces, b)
    pieces[i], pieces[j] = pieces[j], pieces[i]


def _drop(pieces: list, a: float, b: float) -> None:
    if len(pieces) > 1:
        del pieces[_pick(pieces, a)]


def _double(pieces: list, a: float, b: float) -> None:
    pieces.insert(_pick(pieces, b), list(pieces[_pick(pieces, a)]))


def _repeat(pieces: list, a: float, b: float) -> None:
    at = _pick(pieces, a)
    pieces[at:at] = [list(pieces[at]) for _ in range(int(b * 300))]


def _spoil(pieces: list, a: float, b: float) -> None:
    content = bytearray(pieces[_pick(pieces, a)][1])
    if content:
        content[int(b * (len(content) - 1))] = int(a * 7919) % 256
        pieces[_pick(pieces, a)][1] = bytes(content)


def _shorten(pieces: list, a: float, b: float) -> None:
    content = pieces[_pick(pieces, a)][1]
    pieces[_pick(pieces, a)][1] = content[: int(b * len(content))]


def _frame(pieces: list[Segment]) -> Segment | None:
    return next((s for s in pieces if s[0] is not None and 0xC0 <= s[0] <= 0xC2 and len(s[1]) > 8), None)


def _jpeg_resize(pieces: list[Segment], a: float, b: float) -> None:
    if frame := _frame(pieces):
        size = struct.pack(">HH", SIZES[_pick(SIZES, a)], SIZES[_pick(SIZES, b)])
        frame[1] = frame[1][:1] + size + frame[1][5:]


def _jpeg_process(pieces: list[Segment], a: float, b: float) -> None:
    if frame := _frame(pieces):
        frame[0] = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF)[int(a * 8)]
        frame[1] = bytes([(8, 8, 8, 12, 16, 1)[int(b * 5)]]) + frame[1][1:]


def _jpeg_sampling(pieces: list[Segment], a: float, b: float) -> None:
    if (frame := _frame(pieces)) and len(frame[1]) >= 9:
        factors = (0x11, 0x12, 0x21, 0x22, 0x14, 0x41, 0x42, 0x24, 0x44, 0x13, 0x31, 0x00, 0x5F)
        content = bytearray(frame[1])
        content[7 + 3 * int(b * ((len(content) - 9) // 3))] = factors[_pick(factors, a)]
        frame[1] = bytes(content)


def _jpeg_components(pieces: list[Segment], a: float, b: float) -> None:
    if frame := _frame(pieces):
        count = int(a * 5)
        frame[1] = (
            frame[1][:5] + bytes([count]) + b"".join(bytes([i + 1, 0x11, 0]) for i in range(int(b * 5)))
        )


def _jpeg_marks(pieces: list[Segment], a: float, b: float) -> None:
    """Restart marks, fill bytes and marks without a length between two segments."""
    marks = (
        b"\xff\xd0",
        b"\xff\xd7",
        b"\xff\x01",
        b"\xff\xff\xff",
        b"\xff\x00",
        b"\0\0",
        b"\xff\xd8",
        b"\xff\xd9",
    )
    pieces.insert(_pick(pieces, a), [None, marks[_pick(marks, b)] * (1 + int(a * 99))])


def _jpeg_scans(pieces: list[Segment], a: float, b: float) -> None:
    """Scans again and again, with spectral bands and bits of one's own choice, and with or without data."""
    places = [i for i, s in enumerate(pieces) if s[0] == 0xDA and i + 1 < len(pieces)]
    if not places:
        return
    at = places[_pick(places, a)]
    header, data = pieces[at][1], pieces[at + 1][1]
    bands = (b"\0\0\0", b"\0\0\x10", b"\x01\x3f\0", b"\x01\x3f\x10", b"\x01\x3f\x21", b"\0\x3f\0")
    band = bands[_pick(bands, (a * 13) % 1)]
    one = bytes([1, 1, 0]) + band if (b * 7) % 1 < 0.5 else header[:-3] + band
    extra = []
    for _ in range(int(b * 120)):
        extra += [[0xDA, one], [None, data if (a * 5) % 1 < 0.5 else b"\0"]]
    pieces[at + 2 : at + 2] = extra


def _jpeg_restarts(pieces: list[Segment], a: float, b: float) -> None:
    pieces.insert(_pick(pieces, a), [0xDD, int(b * 65535).to_bytes(2, "big")])


def _jpeg_comments(pieces: list[Segment], a: float, b: float) -> None:
    kinds = (0xFE, 0xE0, 0xE1, 0xE2, 0xED, 0xEE)
    heads = (
        b"",
        b"JFIF\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"ICC_PROFILE\0\1\1",
        b"",
        b"Adobe\0\x64\0\0\0\0\2",
    )
    which = _pick(kinds, a)
    pieces.insert(0, [kinds[which], heads[which] + bytes(int(b * 65000))])


def _png_header(pieces: list[Chunk], a: float, b: float) -> None:
    """Another size, depth, colour type, or interlacing."""
    header = bytearray(pieces[0][1])
    if len(header) != 13:
        return
    which = int(a * 7919) % 4
    if which == 0:
        sizes = (*SIZES, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
        header[:8] = struct.pack(">II", sizes[_pick(sizes, a)], sizes[_pick(sizes, b)])
    elif which == 1:
        header[8] = (1, 2, 4, 8, 16, 0, 3, 255)[int(b * 7)]
    elif which == 2:
        header[9] = (0, 2, 3, 4, 6, 1, 255)[int(b * 6)]
    else:
        header[12] = (0, 1, 2)[int(b * 2)]
    pieces[0][1] = bytes(header)


def _png_honest_resize(pieces: list[Chunk], a: float, b: float) -> None:
    """An image of another size, depth and colour whose data is all there: zeros, which cost next to no bytes."""
    sides = (1, 64, 500, 1500, 3000, 6000, 8000)
    width, height = sides[_pick(sides, a)], sides[_pick(sides, b)]
    depth, colour, channels = ((8, 2, 3), (16, 6, 4), (1, 0, 1), (8, 6, 4), (16, 2, 3))[int(a * 31) % 5]
    if width * height * channels * depth > 1 << 28:  # the test has to make them
        return
    rows = zlib.compress(bytes((1 + (width * channels * depth + 7) // 8) * height), 1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pieces[:] = [[b"IHDR", header], [b"IDAT", rows], [b"IEND", b""]]


def _png_bomb(pieces: list[Chunk], a: float, b: float) -> None:
    """Text or a colour profile of a few kilobytes that expands to megabytes, many times over."""
    packed = zlib.compress(bytes(int(b * 8_000_000)), 9)
    kinds = ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"fdAT", b"\0\0\0\1"))
    kind, head = kinds[_pick(kinds, a)]
    pieces[1:1] = [[kind, head + packed] for _ in range(1 + int((a * 7) % 1 * 40))]


def _png_known(pieces: list[Chunk], a: float, b: float) -> None:
    """A chunk that decoders look into, with content of any length."""
    kinds = (
        b"PLTE",
        b"tRNS",
        b"gAMA",
        b"cHRM",
        b"sBIT",
        b"hIST",
        b"sPLT",
        b"pHYs",
        b"eXIf",
        b"acTL",
        b"fcTL",
    )
    content = bytes(int(x * 251) % 256 for x in np.linspace(a, b, int(b * 800)))
    pieces.insert(_pick(pieces, (a * 7) % 1), [kinds[_pick(kinds, a)], content])


def _png_animate(pieces: list[Chunk], a: float, b: float) -> None:
    """Frames of an animation of a size of their own."""
    side = SIZES[_pick(SIZES, b)]
    control = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, int(a * 3), int(b * 2))
    pieces[1:1] = [[b"acTL", struct.pack(">II", int(a * 5000), 0)], [b"fcTL", control]]


def _png_split(pieces: list[Chunk], a: float, b: float) -> None:
    at = next((i for i, c in enumerate(pieces) if c[0] == b"IDAT"), None)
    if at is not None:
        data, step = pieces[at][1], 1 + int(a * 50)
        pieces[at : at + 1] = [[b"IDAT", data[i : i + step]] for i in range(0, len(data), step)]


def _bytes(pieces: list, a: float, b: float) -> None:
    """A number of one's own choice in the header, or a byte anywhere."""
    data = bytearray(pieces[0][1])
    if (a * 7) % 1 < 0.5:
        data[int(b * (len(data) - 1))] = int(a * 7919) % 256
    else:
        at = 12 + int(b * 20)
        data[at : at + 4] = SIZES[_pick(SIZES, a)].to_bytes(4, "little")
    pieces[0][1] = bytes(data)


def _tiff_tag(pieces: list, a: float, b: float) -> None:
    """Another number in the directory of a TIFF, or a WebP with another size."""
    data = bytearray(pieces[0][1])
    if data[:2] == b"II":
        at = int.from_bytes(data[4:8], "little")
        if at + 14 < len(data):
            at += 2 + 12 * int(b * (data[at] - 1))
            values = (*SIZES, 2, 3, 5, 6, 32773, 34712, 1 << 20, 1 << 31)
            data[at + 8 : at + 12] = values[_pick(values, a)].to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", SIZES[_pick(SIZES, a)] & 0x3FFF, SIZES[_pick(SIZES, b)] & 0x3FFF)
    pieces[0][1] = bytes(data)


Mutation = Callable[[list, float, float], None]
_ANY: tuple[Mutation, ...] = (_swap, _drop, _double, _repeat, _spoil, _shorten)
OF_JPEG: tuple[Mutation, ...] = (
    *_ANY,
    _jpeg_resize,
    _jpeg_process,
    _jpeg_sampling,
    _jpeg_components,
    _jpeg_marks,
    _jpeg_scans,
    _jpeg_restarts,
    _jpeg_comments,
)
OF_PNG: tuple[Mutation, ...] = (
    *_ANY,
    _png_header,
    _png_honest_resize,
    _png_bomb,
    _png_known,
    _png_animate,
    _png_split,
)
OF_OTHERS: tuple[Mutation, ...] = (_bytes, _tiff_tag)


def mutated(which: int, changes: Sequence[tuple[int, float, float]], behind: bytes) -> bytes:
    """Image number `which` of JPEGS, PNGS and OTHERS after the changes (mutation, a, b)."""
    originals = (*JPEGS, *PNGS, *OTHERS)
    data = originals[which % len(originals)]
    if data in OTHERS:
        apart, table, together = (
            lambda whole: [[None, whole]],
            OF_OTHERS,
            lambda pieces, end: pieces[0][1] + end,
        )
    elif data in PNGS:
        apart, table, together = chunks, OF_PNG, png
    else:
        apart, table, together = segments, OF_JPEG, jpeg
    pieces = apart(data)
    for number, a, b in changes:
        table[number % len(table)](pieces, a, b)
    return together(pieces, behind)
