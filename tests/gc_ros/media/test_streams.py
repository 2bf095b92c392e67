# SPDX-License-Identifier: Apache-2.0
"""Video streams: each image with the stamp of its own packet, a start and a recovery at key frames, no exception."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gc_ros.media import streams
from gc_ros.media.h264 import Continuity
from gc_ros.media.images import Picture, Refusal, Waiting
from gc_ros.media.streams import Stream
from tests.gc_ros.media.packets import Packet, encode, grey, number_of
from tests.videos import centres, patches
from trt_build.errors import ImageError

CODECS = [
    ("libx264", "h264"),
    ("libx265", "h265"),
    ("libsvtav1", "av1"),
    ("libvpx", "vp8"),
    ("libvpx-vp9", "vp9"),
]


_FINE = {"libx264": {"crf": "4"}, "libvpx-vp9": {"crf": "4", "b": "0"}}


def run(packets: list[Packet], codec: str = "h264", stream: Stream | None = None) -> list[tuple[Any, Any]]:
    """(number, its image or refusal), to the end of the stream."""
    stream = stream or Stream()
    found = [item for data, number in packets for item in stream.read(data, codec, number)]
    return found + stream.finish()


def images(found: list[tuple[Any, Any]]) -> list[int]:
    return [number for number, picture in found if isinstance(picture, Picture)]


def reasons(found: list[tuple[Any, Any]]) -> Counter[str]:
    return Counter(picture.reason for _, picture in found if isinstance(picture, Refusal))


@pytest.mark.parametrize(("encoder", "codec"), CODECS)
@pytest.mark.parametrize("b_frames", [0, 3])
def test_every_image_comes_with_the_tag_of_its_own_packet_in_the_order_of_time(
    encoder: str, codec: str, b_frames: int
) -> None:
    if b_frames and encoder not in ("libx264", "libx265"):
        pytest.skip("this encoder's packets are in the order of time")
    packets = encode(grey(30), encoder, b_frames=b_frames)
    order = [number for _, number in packets]
    assert (order != sorted(order)) == bool(b_frames), "the packets are in the order of decoding"
    found = run(packets, codec)
    assert images(found) == list(range(30)) and len(found) == 30
    for number, picture in found:
        assert (picture.width, picture.height) == (64, 48)
        assert abs(number_of(picture.pixels()) - number) <= (2 if codec in ("vp8", "vp9", "av1") else 1)


def test_a_frame_becomes_rgb_only_when_asked_for_its_pixels() -> None:
    ((_, picture), *_) = run(encode(grey(3)))
    assert not picture.ready
    picture.pixels()
    assert picture.ready


@pytest.mark.parametrize(("encoder", "codec"), [CODECS[0], CODECS[1], CODECS[4]])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["", "ITU601", "ITU709"])
def test_colours_are_those_that_the_stream_says_it_has(
    encoder: str, codec: str, matrix: str, full: bool
) -> None:
    """A stream that says nothing of its matrix has BT.601's, which libav's encoders use."""
    if full and not matrix:
        pytest.skip("full range without saying so cannot be told from limited")
    image = patches()
    found = run(encode([image] * 3, encoder, colours=(matrix, full), **_FINE.get(encoder, {})), codec)
    assert images(found) == [0, 1, 2]
    apart = centres(found[0][1].pixels()) - centres(image)
    assert np.abs(apart).max() <= 12, "another matrix or range is 15 to 40 off"


@pytest.mark.parametrize(("encoder", "codec"), CODECS)
def test_a_stream_joined_in_the_middle_begins_at_the_next_key_frame(encoder: str, codec: str) -> None:
    stream = Stream()
    packets = encode(grey(30), encoder)
    assert stream.waiting
    before = [item for data, number in packets[3:9] for item in stream.read(data, codec, number)]
    assert stream.waiting and not images(before)
    found = before + run(packets[9:], codec, stream)
    assert images(found) == list(range(10, 30))
    waited = [number for number, picture in found if isinstance(picture, Waiting)]
    assert waited == list(range(3, 10)), "each packet is counted once"
    assert set(reasons(found)) == {"waiting for a key frame: the stream was joined in the middle"}


@pytest.mark.parametrize(("encoder", "codec"), CODECS[:2])
def test_a_lost_packet_ends_the_stream_until_the_next_key_frame(encoder: str, codec: str) -> None:
    packets = encode(grey(30), encoder)
    found = run(packets[:4] + packets[5:], codec)
    assert images(found) == [0, 1, 2, 3, *range(10, 30)], "nothing that builds on the lost one is shown"
    assert sum(reasons(found).values()) == 5


@pytest.mark.parametrize(("encoder", "codec"), CODECS)
def test_packets_that_are_known_to_be_lost_end_any_stream_until_the_next_key_frame(
    encoder: str, codec: str
) -> None:
    packets, stream = encode(grey(30), encoder), Stream()
    found = [item for data, number in packets[:4] for item in stream.read(data, codec, number)]
    stream.lost()
    found += run(packets[5:], codec, stream)
    assert images(found) == [0, 1, 2, 3, *range(10, 30)]
    assert reasons(found) == {"waiting for a key frame: packets were lost": 5}


def test_a_damaged_packet_is_refused_and_what_builds_on_it_waits_for_a_key_frame() -> None:
    packets = encode(grey(30))
    data, number = packets[5]
    packets[5] = data[: len(data) // 2], number
    found = run(packets)
    assert images(found) == [0, 1, 2, 3, 4, *range(10, 30)]
    assert reasons(found) == {
        "video frame is damaged": 1,
        "waiting for a key frame: a packet was damaged": 4,
    }


@pytest.mark.parametrize(("encoder", "codec"), CODECS)
def test_another_size_is_taken_from_its_first_packet(encoder: str, codec: str) -> None:
    packets = encode(grey(15), encoder)[:14] + encode(grey(15, 96, 80), encoder)
    found = run(packets, codec)
    assert not reasons(found)
    assert [(p.width, p.height) for _, p in found] == [(64, 48)] * 14 + [(96, 80)] * 15


def test_another_codec_is_taken_from_its_first_packet() -> None:
    stream, packets = Stream(), {codec: encode(grey(12), encoder) for encoder, codec in CODECS[:2]}
    found = [
        item
        for codec in ("h264", "h265", "h264")
        for d, n in packets[codec]
        for item in stream.read(d, codec, n)
    ]
    assert images(found) == 3 * list(range(12)) and not reasons(found)


def test_a_stream_that_is_refreshed_without_key_frames_is_taken_once_it_is_whole() -> None:
    packets = encode(grey(40), **{"intra-refresh": "1"})
    found = run(packets[3:])
    first = images(found)[0]
    assert 10 < first < 20 and images(found) == list(range(first, 40))
    assert abs(number_of(dict(found)[first].pixels()) - first) <= 1


@pytest.mark.parametrize(
    "codec",
    ["h264", "H264", "libx264", "h264_nvenc", "h264;yuv420p;bgr8;bgr8", "hevc_vaapi", "libx265", "HEVC"],
)
def test_the_codec_goes_by_any_name_that_messages_give_it(codec: str) -> None:
    encoder = "libx265" if "265" in codec or "hevc" in codec.lower() else "libx264"
    assert len(images(run(encode(grey(3), encoder), codec))) == 3


@pytest.mark.parametrize("codec", ["", "theora", "../../h264", "h264\n" * 50, "libx264rgb?"])
def test_another_codec_is_refused_by_its_name(codec: str) -> None:
    ((tag, refusal),) = Stream().read(b"\0\0\1" * 9, codec, "tag")
    assert tag == "tag" and (
        "is not known; encode it as h264 or h265" in refusal.reason or codec.startswith("h264")
    )
    assert "\n" not in refusal.reason and len(refusal.reason) < 150


def test_an_empty_packet_does_not_end_the_stream() -> None:
    packets = encode(grey(6))
    found = run([*packets[:3], (b"", 99), *packets[3:]])
    assert images(found) == list(range(6)) and reasons(found) == {"empty video packet": 1}


def test_parameter_sets_alone_are_no_image_and_needed_once() -> None:
    (key, _), *others = encode(grey(6), **{"x264-params": "repeat-headers=1"})
    cut = key.index(b"\0\0\1\x65")
    packets = [(key[:cut], -1), (key[cut:], 0), *others]
    assert images(run(packets)) == list(range(6)), "on a message of their own"
    assert images(run(packets[1:])) == [], "without them nothing decodes"


def test_a_picture_above_the_limit_is_refused_before_it_costs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    packets = encode(grey(3))
    monkeypatch.setattr(streams, "MAX_PIXELS", 64 * 48 - 1)
    assert not images(run(packets))
    monkeypatch.setattr(streams, "MAX_PIXELS", 64 * 64)  # libav counts whole blocks
    assert len(images(run(packets))) == 3


def ue(value: int) -> str:
    """H.264's ue(v) as text of bits."""
    return f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1)


def se(value: int) -> str:
    return ue(2 * value - 1 if value > 0 else -2 * value)


def unit(kind: int, reference: int, *fields: str) -> bytes:
    """A NAL unit in Annex B form, with emulation prevention."""
    text = "".join(fields) + "1"
    text += "0" * (-len(text) % 8)
    body = int(text, 2).to_bytes(len(text) // 8, "big")
    return b"\0\0\0\1" + bytes([reference << 5 | kind]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body)


# Scaling lists: one that is not there, one that ends at once, one that ends when it has gone round, a whole one.
_LISTS = ["0", "1" + se(-8), "1" + se(100) + se(100) + se(48), "1" + 16 * se(1), "0", "0"]
_HIGH_444 = ["1", *_LISTS, *("1" + 64 * se(0) for _ in range(2)), "0", "0", "0", "1" + se(-8)]
SEQUENCES = {
    "baseline": ("", [ue(0), ue(4)], 4, ""),
    "order 1": ("", [ue(1), "0", se(-(1 << 29)), se(3), ue(3), se(5), se(-5), se(1)], 9, ""),
    "order 2": ("", [ue(2)], 16, ""),
    "high": (ue(1) + ue(0) + ue(0) + "0" + "1" + "".join([*_LISTS, "1" + 64 * se(0), "0"]), [ue(2)], 4, ""),
    "high 4:4:4": (ue(3) + "0" + ue(0) + ue(0) + "0" + "".join(_HIGH_444), [ue(2)], 5, ""),
    "planes apart": (ue(3) + "1" + ue(0) + ue(0) + "0" + "0", [ue(2)], 5, "10"),
}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", SEQUENCES)
def test_the_count_of_pictures_is_read_from_any_kind_of_sequence(name: str, gaps: bool) -> None:
    high, order, count_bits, plane = SEQUENCES[name]
    profile = f"{244 if 'apart' in name or '4:4:4' in name else 100 if high else 66:08b}"
    parameters = unit(
        7, 3, profile, 8 * "0", f"{30:08b}", ue(0), high, ue(count_bits - 4), *order, ue(1), str(int(gaps))
    )

    def picture(number: int, reference: int = 1, kind: int = 1) -> bytes:
        return unit(kind, reference, ue(0), ue(5), ue(0), plane, f"{number:0{count_bits}b}", 40 * "10")

    stream, last = Continuity(), (1 << count_bits) - 1
    assert stream.follows(parameters + picture(0, kind=5))
    assert stream.follows(picture(1)) and stream.follows(picture(1)), "two slices or fields of one picture"
    assert stream.follows(picture(2, reference=0)) and stream.follows(picture(2)), (
        "nothing builds on the first"
    )
    assert stream.follows(picture(3, reference=0))
    assert stream.follows(picture(4)) == gaps, "the third, on which others build, is missing"
    assert stream.follows(picture(7)) == gaps
    stream.restart()
    assert stream.follows(picture(last)), "after a loss that is known"
    assert stream.follows(picture(0)) and stream.follows(picture(1)), "it begins again at its end"
    assert stream.follows(picture(last)) == gaps
    assert stream.follows(picture(9, kind=5)) and stream.follows(picture(10)), "a key frame always follows"


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "drop", "swap", "random", "repeat", "codec", "lost", "zeros"]),
        st.integers(0, 39),
        st.integers(0, 4000),
        st.binary(max_size=64),
    ),
    max_size=12,
)


@pytest.mark.parametrize("examples", [40, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_no_bytes_make_an_exception_and_the_next_sound_key_frame_is_shown(
    encoder: str, examples: int
) -> None:
    codec = dict(CODECS)[encoder]
    sound = [encode(grey(20), encoder)]
    if encoder in ("libx264", "libx265"):
        sound.append(encode(grey(20), encoder, b_frames=2))

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sound), MUTATIONS)
    def fuzz(packets: list[Packet], mutations: list[Any]) -> None:
        sent = [(data, codec, False) for data, _ in packets]
        for kind, at, where, noise in mutations:
            at %= len(sent)
            data, name, lost = sent[at]
            where %= len(data) or 1
            sent[at] = {
                "cut": (data[:where], name, lost),
                "flip": (data[:where] + noise + data[where + len(noise) :], name, lost),
                "drop": (b"", name, lost),
                "swap": sent[(at * 7) % len(sent)],
                "random": (noise, name, lost),
                "repeat": (data + data, name, lost),
                "codec": (data, ["h264", "hevc", "av1", "vp9", "", "mjpeg", "x"][where % 7], lost),
                "lost": (data, name, True),
                "zeros": (bytes(where), name, lost),
            }[kind]
        stream = Stream()
        tags: list[Any] = []
        for number, (data, name, lost) in enumerate(sent):
            if lost:
                stream.lost()
            for tag, picture in stream.read(data, name, number):
                tags.append(tag)
                if isinstance(picture, Picture):
                    with contextlib.suppress(ImageError):
                        assert picture.pixels().shape == (picture.height, picture.width, 3)
        tags += [tag for tag, _ in stream.finish()]
        assert sorted(tags) == list(range(len(sent))), "each packet becomes an image or a reason, once"
        assert len(images(run(packets, codec, stream))) == len(packets), "as if nothing had been"

    fuzz()
