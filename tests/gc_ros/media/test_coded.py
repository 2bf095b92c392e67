# SPDX-License-Identifier: Apache-2.0
"""Compressed images before decoding: the size they claim, where they end, and what an attacker makes of that."""

from __future__ import annotations

import struct
import time
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.coded import MAX_SCANS, extent, jpeg_extent, png_extent
from gc_ros.media.images import Decoded, Refusal, decode

NOISE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
KINDS = {
    "baseline": (".jpg", []),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
    "png": (".png", []),
}


def coded(kind: str) -> bytes:
    suffix, options = KINDS[kind]
    return cv2.imencode(suffix, NOISE, options)[1].tobytes()


def decoded(data: bytes) -> Decoded | Refusal:
    return decode(SimpleNamespace(format="", data=memoryview(data)), compressed=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "behind",
    [b"", b"\0", bytes(600), bytes(400_000), b"\xff" * 100, b"GoPro\xff\xd9", coded("baseline")[:500]],
)
def test_whatever_comes_behind_the_end_mark_the_image_is_the_same(kind: str, behind: bytes) -> None:
    data = coded(kind)
    found, alone = decoded(data + behind), decoded(data)
    assert isinstance(found, Decoded) and isinstance(alone, Decoded)
    assert np.array_equal(found.image, alone.image)
    view = memoryview(data + behind)
    read = png_extent if kind == "png" else jpeg_extent
    assert read(view)[:3] == (128, 96, len(data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", [b"", bytes(600), b"\xff" * 64])
def test_without_an_end_mark_it_is_truncated_also_with_zeros_behind(kind: str, behind: bytes) -> None:
    data = coded(kind)
    for length in (len(data) - (14 if kind == "png" else 2), len(data) - 100, len(data) // 2):
        found = decoded(data[:length] + behind)
        assert isinstance(found, Refusal) and "truncated" in found.reason


def test_the_end_mark_of_a_thumbnail_is_not_that_of_the_image() -> None:
    data = coded("baseline")
    thumbnail = b"Exif\0\0" + coded("baseline")[:20_000] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert jpeg_extent(memoryview(data[:2] + segment + data[2:])).length == len(data) + len(segment)
    with pytest.raises(ValueError, match="truncated"):
        jpeg_extent(memoryview(data[:2] + segment + data[2:-200]))


@pytest.mark.parametrize("mark", [0x01, *range(0xD0, 0xD8)])
def test_no_mark_without_a_length_hides_the_real_size(mark: int) -> None:
    """As a segment its length would lead past the frame header that libjpeg reads, to one with harmless numbers."""
    real = bytearray(coded("baseline"))
    at = real.index(b"\xff\xc0")
    header = bytes(real[at : at + 2 + int.from_bytes(real[at + 2 : at + 4], "big")])
    small = header[:5] + (16).to_bytes(2, "big") * 2 + header[9:]
    real[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    hidden = bytes(real[:at]) + b"\xff" + bytes([mark]) + bytes(real[at : at + len(header)]) + small
    found = decoded(hidden + bytes(real[at + len(header) :]))
    assert isinstance(found, Refusal) and ("limit" in found.reason or "two frame headers" in found.reason)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    data = coded("progressive")
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    assert jpeg_extent(memoryview(data[:-2] + scan * 20 + b"\xff\xd9"))[:2] == (128, 96)
    found = decoded(data[:-2] + scan * 5000 + b"\xff\xd9")
    assert isinstance(found, Refusal) and f"more than {MAX_SCANS} scans" in found.reason


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + bytes(20_000_000),
        b"\xff\xd8" + b"\xff\xd0" * 10_000_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 5_000_000,
        coded("baseline")[:-2] + b"\xff\xfe\0\2" * 5_000_000,
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1" + bytes(20_000_000),
    ],
    ids=["zeros", "restarts", "segments", "comments", "chunks"],
)
def test_looking_for_the_end_takes_no_time_to_speak_of(data: bytes) -> None:
    began = time.process_time()
    assert isinstance(decoded(data), Refusal)
    assert time.process_time() - began < 2


def tiff(order: str, width: int, height: int, at: int = 8, **more: int) -> bytes:
    """An uncompressed grey TIFF, written out by hand; at: where it says its one strip lies; more: t322=5 and so on."""
    pixels = bytes(NOISE[:48, :64, 0])
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: at, 277: 1, 278: height, 279: len(pixels)}
    tags |= {int(name[1:]): value for name, value in more.items()}
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_either_byte_order_has_its_size_and_its_pixels(order: str) -> None:
    data = tiff(order, 64, 48)
    assert extent(memoryview(data))[:3] == (64, 48, len(data))
    found = decoded(data)
    assert isinstance(found, Decoded)
    assert np.array_equal(found.image, cv2.cvtColor(NOISE[:48, :64, 0], cv2.COLOR_GRAY2BGR))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff("<", 64, 48, at=20_000), "truncated"),
        (tiff("<", 1 << 20, 1 << 20), "limit"),
        (tiff("<", 8000, 8000), "claims 8000x8000"),
        (tiff("<", 64, 48, t322=1 << 20, t323=1 << 20), "no camera writes"),
        (tiff("<", 64, 48, t258=64), "no camera writes"),
        (tiff("<", 64, 48)[:-30], "truncated"),
        (b"II*\0" + struct.pack("<I", 1 << 31) + bytes(40), "truncated"),
        (b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + bytes(4), "truncated"),
        (b"RIFF" + struct.pack("<I", 36) + b"WEBPVP8X" + bytes(8) + b"\xff" * 20, "limit"),
        (b"RIFF" + struct.pack("<I", 40) + b"WEBPABCD" + bytes(28), "truncated or corrupt"),
    ],
)
def test_a_tiff_or_webp_that_cannot_be_is_refused_before_it_is_decoded(
    data: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    found = decoded(data)
    assert isinstance(found, Refusal) and says in found.reason, found


def test_a_tiff_whose_last_strip_is_not_whole_is_truncated() -> None:
    data = bytearray(cv2.imencode(".tiff", NOISE, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes())
    entries = struct.unpack_from("<I", data, 4)[0]
    places = {struct.unpack_from("<H", data, at)[0]: at for at in range(entries + 2, len(data) - 12, 12)}
    kind, count, where = struct.unpack_from("<HII", data, places[279] + 2)
    last = places[279] + 8 if count == 1 else where + (count - 1) * (2 if kind == 3 else 4)
    assert isinstance(decoded(bytes(data)), Decoded)
    struct.pack_into("<H", data, last, 0xFFFF)
    found = decoded(bytes(data))
    assert isinstance(found, Refusal) and "truncated" in found.reason


@pytest.mark.parametrize("quality", [50, 101], ids=["lossy", "lossless"])
@pytest.mark.parametrize("behind", [b"", bytes(600)])
def test_a_webp_has_its_size_and_its_end(quality: int, behind: bytes) -> None:
    data = cv2.imencode(".webp", NOISE, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    assert extent(memoryview(data + behind))[:3] == (128, 96, len(data))
    assert isinstance(decoded(data + behind), Decoded)
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + bytes([127, 0, 0, 95, 0, 0])
    body = b"WEBP" + extended + data[12:]
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    assert extent(memoryview(whole + behind))[:3] == (128, 96, len(whole))
    assert isinstance(decoded(whole + behind), Decoded)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    kind=st.sampled_from(list(KINDS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.floats(0.1, 1),
    behind=st.binary(max_size=20),
)
def test_nothing_raises_and_what_is_accepted_has_the_size_it_says(
    kind: str, changes: list[tuple[float, bytes]], cut: float, behind: bytes
) -> None:
    data = bytearray(coded(kind))
    for place, change in changes:
        at = int(place * (len(data) - 4))
        data[at : at + len(change)] = change
    found = decoded(bytes(data[: int(cut * len(data))]) + behind)
    assert isinstance(found, (Decoded, Refusal))


def test_a_png_of_very_many_chunks_is_refused_and_one_of_many_costs_what_its_bound_says() -> None:
    header, data, end = (bytes(c) for c in png_chunks(noise_png(64, 96)))
    for pieces, whole in ((4000, True), (20_000, False)):
        body = data[8:-4]
        step = max(1, len(body) // pieces)
        cut = [body[i : i + step] for i in range(0, len(body), step)]
        cut += [b""] * (pieces - len(cut))
        file = b"\x89PNG\r\n\x1a\n" + header + b"".join(png_chunk(b"IDAT", part) for part in cut) + end
        if not whole:
            with pytest.raises(ValueError, match="corrupt"):
                png_extent(memoryview(file))
            continue
        took = []
        for _ in range(5):
            began = time.thread_time()
            found = png_extent(memoryview(file))
            assert isinstance(decoded(file), Decoded)
            took.append(time.thread_time() - began)
        assert min(took) < 4 * found.seconds < 0.2


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def noise_png(height: int, width: int) -> bytes:
    return cv2.imencode(".png", NOISE[:height, :width])[1].tobytes()


def png_chunks(data: bytes) -> list[bytes]:
    """IHDR, all of IDAT as one chunk, IEND."""
    found, at, body = [], 8, b""
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            body += data[at + 8 : at + 8 + length]
        elif kind in (b"IHDR", b"IEND"):
            found.append(data[at : at + 12 + length])
        at += 12 + length
    return [found[0], png_chunk(b"IDAT", body), found[-1]]
