# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG before decoding: how large they say they are, where they end, and what an attacker makes of that."""

from __future__ import annotations

import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.coded import MAX_SCANS, jpeg_extent, png_length, png_size
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
    if kind == "png":
        assert png_size(view) == (128, 96) and png_length(view) == len(data)
    else:
        assert jpeg_extent(view) == (128, 96, len(data))


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
    assert jpeg_extent(memoryview(data[:2] + segment + data[2:]))[2] == len(data) + len(segment)
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
