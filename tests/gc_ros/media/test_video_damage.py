# SPDX-License-Identifier: Apache-2.0
"""Videos as they come: what decodes counts, what does not is counted and named, and a missing end is seen."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest

from gc_ros.media import truncation
from gc_ros.media.truncation import missing_bytes
from gc_ros.media.video import _Lost, _packets, read_video
from tests.videos import centres, patches, write_clip
from trt_build.errors import DataError

NS = 1_000_000_000
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# container: (codec, pixel format, options, whether a missing end can be seen at any place)
CONTAINERS: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "mp4": ("libx264", "yuv420p", {"movflags": "faststart"}, True),
    "mov": ("mpeg4", "yuv420p", {"movflags": "faststart"}, True),
    "3gp": ("mpeg4", "yuv420p", {"movflags": "faststart"}, True),
    "avi": ("mjpeg", "yuvj420p", {}, True),
    "mkv": ("libx264", "yuv420p", {}, True),
    "webm": ("libvpx", "yuv420p", {}, True),
    "wmv": ("wmv2", "yuv420p", {}, True),
    "gif": ("gif", "rgb8", {}, True),
    "ogv": ("libvpx", "yuv420p", {}, False),
    "flv": ("flv", "yuv420p", {}, False),
    "mts": ("libx264", "yuv420p", {}, False),
    "mpg": ("mpeg2video", "yuv420p", {}, False),
    "mxf": ("mpeg2video", "yuv420p", {}, False),
}


def noise(count: int) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(count)]


def write(path: Path, images: list[np.ndarray], pts: list[int] | None = None, **options: str) -> Path:
    codec, pixels, defaults, _ = CONTAINERS[path.suffix[1:]]
    with av.open(str(path), "w", options={**defaults, **options}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts = number if pts is None else pts[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path) -> tuple[int, list[str], str]:
    """(frames, what was refused, what was raised)."""
    count, told = 0, list[str]()
    try:
        for _ in read_video(path, told.append):
            count += 1
    except DataError as error:
        return count, told, str(error)
    return count, told, ""


def places(path: Path) -> list[tuple[int, int]]:
    """(position, size) of the frames' packets."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_whole_files_of_every_container_are_whole_also_with_bytes_behind_them(
    tmp_path: Path, suffix: str
) -> None:
    clip = write(tmp_path / f"a.{suffix}", noise(12))
    assert read(clip) == (12, [], "")
    if suffix in ("mp4", "mov", "3gp", "avi", "mkv", "webm"):
        clip.write_bytes(clip.read_bytes() + bytes(999) + b"appended by a phone")
        assert read(clip)[::2] == (12, "")


@pytest.mark.parametrize("suffix", [name for name, (*_, seen) in CONTAINERS.items() if seen])
def test_a_missing_end_is_seen_even_where_it_begins_between_two_frames(tmp_path: Path, suffix: str) -> None:
    data = write(tmp_path / f"a.{suffix}", noise(30)).read_bytes()
    between = places(tmp_path / f"a.{suffix}")[20][0]
    for size in (len(data) // 2, len(data) * 9 // 10, between):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[:size])
        count, _, raised = read(cut)
        assert 5 <= count < 30 and f"cut.{suffix}: damaged after {count} frames (truncated)" in raised
    assert missing_bytes(tmp_path / f"a.{suffix}") == 0 < missing_bytes(cut)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("live.mkv", {"live": "1"}),
        ("live.webm", {"live": "1"}),
        ("moving.mp4", {"movflags": "frag_keyframe+empty_moov", "g": "5"}),
    ],
)
def test_what_was_written_as_it_came_is_whole(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    assert read(write(tmp_path / name, noise(12), **options)) == (12, [], "")


def test_the_end_of_a_fragment_is_missed_even_within_its_head(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mp4", noise(12), movflags="frag_every_frame+empty_moov")
    data = clip.read_bytes()
    head, content = data.rindex(b"moof") - 4, data.rindex(b"mdat") - 4
    clip.write_bytes(data[: content - 10])
    assert head < content - 10 and missing_bytes(clip) == 10
    clip.write_bytes(data[: content + 8])
    assert "truncated" in read(clip)[2]


def test_an_ogg_file_ends_where_its_last_page_says(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.ogv", noise(30))
    data = clip.read_bytes()
    for size in (len(data) // 2, len(data) * 9 // 10, len(data) - 1):
        clip.write_bytes(data[:size])
        count, _, raised = read(clip)
        assert 0 < count < 30 and f"damaged after {count} frames (truncated)" in raised
    clip.write_bytes(b"OggS" + bytes(20))  # not even a whole page
    assert missing_bytes(clip) == 0


def test_a_box_of_more_than_four_gigabytes_has_a_longer_length(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mp4", noise(12), movflags="use_metadata_tags")
    data = clip.read_bytes()
    at = data.index(b"\0\0\0\x08free") + 8  # where libav leaves room for it
    length = struct.unpack_from(">I", data, at)[0] + 8
    assert data[at + 4 : at + 8] == b"mdat"
    long = struct.pack(">I4sQ", 1, b"mdat", length)
    clip.write_bytes(data[: at - 8] + long + data[at + 8 :])
    assert read(clip) == (12, [], "")
    cut = data[: at - 8] + long + data[at + 8 : at + length // 2]
    clip.write_bytes(cut)
    assert missing_bytes(clip) == at - 8 + length - len(cut)


def riff(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return (
        kind
        + struct.pack("<I", len(content) if length is None else length)
        + content
        + b"\0" * (len(content) % 2)
    )


def test_the_parts_of_a_large_avi_are_each_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncation, "_INDEX", 64)  # that of the first part lies far from the end
    first = riff(
        b"RIFF",
        b"AVI " + riff(b"JUNK", b"odd") + riff(b"LIST", b"movi" + bytes(100)) + riff(b"idx1", bytes(16)),
    )
    second = riff(b"RIFF", b"AVIX" + riff(b"LIST", b"movi" + bytes(200)))
    file = tmp_path / "a.avi"
    for lost in (0, 50, 150):
        file.write_bytes((first + second)[: len(first + second) - lost])
        assert missing_bytes(file) == lost
    # As a recorder leaves it that does not come back to write its lengths.
    file.write_bytes(riff(b"RIFF", b"AVI " + riff(b"LIST", b"movi" + bytes(100), 0xFFFFFFFF), 0xFFFFFFFF))
    assert missing_bytes(file) == 0


def test_a_broadcast_in_asf_says_nothing_of_its_length(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.wmv", noise(12))
    data = bytearray(clip.read_bytes())
    at = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    struct.pack_into("<Q", data, at + 40, len(data) + 999)
    clip.write_bytes(data)
    assert missing_bytes(clip) == 999
    data[at + 88] |= 1
    clip.write_bytes(data)
    assert missing_bytes(clip) == 0 and read(clip) == (12, [], "")


def test_of_an_mp4_that_lost_sound_alone_nothing_is_missing(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mp4", noise(10))
    data = clip.read_bytes()
    at = data.index(b"mdat") - 4  # its box says that more comes, its index that no picture does
    (length,) = struct.unpack_from(">I", data, at)
    clip.write_bytes(data[:at] + struct.pack(">I", length + 5000) + data[at + 4 :])
    assert missing_bytes(clip) == 5000 and read(clip) == (10, [], "")


@pytest.mark.parametrize("broken", [[0], [10], [29], [3, 4, 5, 20]])
def test_every_frame_that_does_not_decode_costs_itself_alone(
    tmp_path: Path, broken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    clip = write(tmp_path / "a.avi", noise(30))
    stamps = [stamp for _, stamp in read_video(clip)]
    data = bytearray(clip.read_bytes())
    for number in broken:
        position, size = places(clip)[number]
        assert data[position : position + 2] == b"\xff\xd8"
        data[position : position + size] = bytes([7]) * size
    clip.write_bytes(data)
    count, told, raised = read(clip)
    assert (count, len(told), raised) == (30 - len(broken), len(broken), "")
    left = [stamp for i, stamp in enumerate(stamps) if i not in broken]
    assert [stamp for _, stamp in read_video(clip)] == left
    assert f"{len(broken)} of 30 frames left out" in caplog.text


def test_where_nothing_decodes_it_is_said(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.avi", noise(5))
    data = bytearray(clip.read_bytes())
    for position, size in places(clip):
        assert data[position : position + 2] == b"\xff\xd8"
        data[position : position + size] = bytes([7]) * size
    clip.write_bytes(data)
    assert "holds no frame that decodes" in read(clip)[2]


def test_dropped_frames_of_an_avi_are_no_end(tmp_path: Path) -> None:
    times = [0, 1, 2, 9, 10, 30]
    clip = write(tmp_path / "a.avi", noise(6), pts=times)
    assert clip.read_bytes().count(b"00dc\0\0\0\0") >= 25
    assert [round(stamp * 25 / NS) for _, stamp in read_video(clip)] == times


def test_empty_samples_of_an_mp4_are_no_end(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for number, image in enumerate(noise(30)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "a.mov").read_bytes())
    at = data.index(b"stsz") + 16
    sizes = list(struct.unpack_from(">30I", data, at))
    for empty in (5, 6, 20):  # what is behind the picture before it is not part of that
        before = empty - 1 if sizes[empty - 1] else empty - 2
        sizes[before], sizes[empty] = sizes[before] + sizes[empty], 0
    struct.pack_into(">30I", data, at, *sizes)
    (tmp_path / "a.mov").write_bytes(data)
    assert read(tmp_path / "a.mov") == (27, [], "")


@pytest.mark.parametrize("count", [0, 1, 5, 10**6])
def test_no_count_in_a_header_is_believed(tmp_path: Path, count: int) -> None:
    clip = write(tmp_path / "a.avi", noise(12))
    data = bytearray(clip.read_bytes())
    for mark, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        struct.pack_into("<I", data, data.index(mark) + offset, count)
    clip.write_bytes(data)
    assert read(clip) == (12, [], "")


def test_an_estimated_length_is_no_proof_where_the_index_is_there(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.avi", noise(12))
    data = bytearray(clip.read_bytes())
    for at in (4, data.index(b"movi") - 4):
        struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + 500_000)
    clip.write_bytes(data)
    assert read(clip) == (12, [], "")


def test_what_an_edit_list_presents_is_the_video(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", noise(30), fps=25)
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst")
    (whole,) = struct.unpack_from(">I", data, at + 12)
    struct.pack_into(">I", data, at + 12, whole // 2)
    clip.write_bytes(data)
    assert read(clip) == (15, [], "")


def test_damage_in_the_middle_does_not_end_a_stream(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mts", noise(60), g="5")
    data = bytearray(clip.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 188 * 40] = bytes(188 * 40)
    clip.write_bytes(data)
    count, _, raised = read(clip)
    assert raised == "" and count > 40 and read(clip)[0] == count


class Faulty:
    """A container that fails at these places, counted in calls, and gives a packet at any other."""

    def __init__(self, packets: int, fails: Callable[[int], bool]) -> None:
        self.left, self.calls, self.fails = packets, 0, fails

    def demux(self, stream: object) -> Iterator[Any]:
        while self.left:
            self.calls += 1
            if self.fails(self.calls):
                raise av.error.InvalidDataError(1, "broken")
            self.left -= 1
            yield SimpleNamespace(size=7)


def test_any_number_of_damaged_places_is_stepped_over_and_each_is_told_once() -> None:
    items = list(_packets(cast(Any, Faulty(300, lambda call: call % 5 in (1, 2))), cast(Any, None)))
    assert sum(not isinstance(item, _Lost) for item in items) == 300
    assert sum(isinstance(item, _Lost) for item in items) == 100
    (item,) = _packets(cast(Any, Faulty(300, lambda call: True)), cast(Any, None))
    assert isinstance(item, _Lost), "and nothing but damage comes to an end"


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)],
)
def test_turned_and_mirrored_pictures_come_as_players_show_them(
    tmp_path: Path, a: int, b: int, c: int, d: int
) -> None:
    """The display matrix sends (x, y) to (a x + c y, b x + d y); then the picture is moved to the origin."""
    image = patches()
    clip = write_clip(tmp_path / "a.mp4", [image])
    data = clip.read_bytes()
    at = data.index(_IDENTITY, data.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    clip.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    small = centres(image)
    height, width = small.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), int)
    shown[to_y, to_x] = small
    ((frame, _),) = read_video(clip)
    assert np.abs(centres(frame) - shown).max() <= 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("flagged", [True, False])
def test_a_picture_in_front_of_the_video_is_not_the_video(tmp_path: Path, suffix: str, flagged: bool) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=25)
        video: Any = container.add_stream("libx264", rate=25)
        for stream, pixels in ((cover, "yuvj420p"), (video, "yuv420p")):
            stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        if flagged and hasattr(cover, "disposition"):
            cover.disposition = 0x400  # attached picture
        for number, image in enumerate(noise(10)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            if number == 0:
                container.mux(cover.encode(frame.reformat(format="yuvj420p")))
                container.mux(cover.encode())
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode())
    assert read(path) == (10, [], "")


def test_an_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    assert "Git LFS pointer" in read(tmp_path / "a.mp4")[2]
