# SPDX-License-Identifier: Apache-2.0
"""Videos: right colours, right times, upright, and what is damaged says so after giving what there was."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gc_ros.media import video
from gc_ros.media.kinds import PART
from gc_ros.media.video import open_camera, read_pictures, read_video, upright
from gc_ros.media.video_writer import VideoWriter
from gc_ros.stamps import NS
from tests.command_line import no_file_above
from tests.conftest import REPOSITORY
from tests.videos import BT709, BT2020, centres, flat, patches, rotated, truncated, write_clip
from trt_build.errors import DataError


def test_libav_never_calls_python_from_a_decoder_thread() -> None:
    # A decoder freed with the GIL held waits for its threads, and a log line of theirs would wait for the GIL.
    assert av.logging.get_level() is None


@pytest.mark.parametrize("colours", [BT709, BT2020], ids=lambda c: c[2])
def test_colours_are_decoded_by_the_matrix_of_the_stream(
    tmp_path: Path, colours: tuple[float, float, str]
) -> None:
    image = patches()
    frames = list(read_video(write_clip(tmp_path / "clip.mp4", [image] * 3, colours=colours)))
    assert len(frames) == 3
    for frame, _ in frames:
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        assert np.abs(centres(frame) - centres(image)).max() <= 4


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_a_frames_matrix_and_range_reach_every_release_of_pyav(
    matrix: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV 14 to 16 convert by BT.601 in limited range whatever a frame says of itself, unless they are told."""
    told: dict[str, Any] = {}

    def reformat(frame: av.VideoFrame, **options: Any) -> av.VideoFrame:
        told.update(options)
        return av.VideoFrame(frame.width, frame.height, "rgb24")

    monkeypatch.setattr(video, "reformat", reformat)
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    upright(frame).pixels()
    assert told.pop("format") == "rgb24"
    if (matrix, full) == (6, False):
        assert not told, "its default"
    else:
        assert (told["src_colorspace"], told["src_color_range"]) == (matrix, 2 if full else 1)
        assert told["dst_color_range"] == 2
        assert told["dst_colorspace"] == "ITU601", (
            "another than the frame's: else they leave the matrix as it is"
        )


def test_stamps_are_presentation_times_also_of_varying_rate(tmp_path: Path) -> None:
    times = [0, 1, 2, 5, 6, 20, 21]
    clip = write_clip(tmp_path / "clip.mp4", [patches(i) for i in range(7)], fps=10, pts=times)
    assert [stamp for _, stamp in read_video(clip)] == [t * NS // 10 for t in times]


def test_a_phone_video_comes_upright(tmp_path: Path) -> None:
    image = patches()
    clip = rotated(write_clip(tmp_path / "clip.mp4", [image]), tmp_path / "turned.mp4")
    ((frame, _),) = read_video(clip)
    assert np.abs(centres(frame) - centres(np.rot90(image, -1))).max() <= 4


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_video_gives_what_it_has_and_then_names_the_file(tmp_path: Path, part: float) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(30)]
    clip = truncated(write_clip(tmp_path / "whole.mp4", images), tmp_path / "cut.mp4", part)
    frames = []
    with pytest.raises(DataError, match=r"cut\.mp4: damaged after") as caught:
        for item in read_video(clip):
            frames.append(item)
    assert 5 < len(frames) < 30 and f"after {len(frames)} frames" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00" * 5000])
def test_a_file_that_is_no_video_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.mp4") as caught:
        next(read_video(path))
    assert "\n" not in str(caught.value)


def test_missing_files_and_cameras_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such video"):
        next(read_video(tmp_path / "none.mp4"))
    with pytest.raises(DataError, match="camera 97"):
        next(open_camera(97))
    with pytest.raises(DataError, match="camera 99999999999999999999 cannot be opened"):
        next(open_camera(99999999999999999999))


def test_a_camera_gives_rgb_with_the_time_of_arrival_and_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    class Capture:
        left, released = 2, False

        def open(self, index: int) -> None:
            assert index == 3

        def isOpened(self) -> bool:
            return True

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return (True, flat((30, 20, 200))) if self.left >= 0 else (False, None)

        def release(self) -> None:
            self.released = True

    capture = Capture()
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda: capture)
    before = time.monotonic_ns()
    frames = list(open_camera(3))
    assert [frame[0, 0].tolist() for frame, _ in frames] == 2 * [[200, 20, 30]]
    stamps = [stamp for _, stamp in frames]
    assert before <= stamps[0] <= stamps[1] <= time.monotonic_ns() and capture.released
    capture.left, capture.released = 9, False
    some = open_camera(3)
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert capture.released, "left in the middle, too"


def test_only_a_number_names_a_camera() -> None:
    assert [video.camera_number(text) for text in ("0", "12", "a.mp4", "-1", "", "\u00b2")] == [0, 12] + 4 * [
        None
    ]


def test_opencv_says_nothing_of_its_own_where_a_camera_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="camera 97"):
        next(open_camera(97))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("url", ["http://host/x.mp4", "rtsp://host:554/live"])
def test_a_url_is_named_as_it_was_given_and_its_remedy(url: str) -> None:
    with pytest.raises(DataError, match=f"{url}: URLs are not read; download it .* ROS driver"):
        next(read_video(url))


def test_what_is_written_reads_back_in_colour_and_time(tmp_path: Path) -> None:
    images = [flat((200, 30, 30)), flat((30, 180, 40)), flat((20, 40, 220)), flat((128, 128, 128))]
    stamps = [5 * NS, 5 * NS + 40_000_000, 5 * NS + 300_000_000, 6 * NS]
    with VideoWriter(tmp_path / "out.mp4") as writer:
        for image, stamp in zip(images, stamps, strict=True):
            writer.write(image, stamp)
            writer.write(image, stamp)  # a duplicate stamp is left out
    frames = list(read_video(tmp_path / "out.mp4"))
    assert [round((s - frames[0][1]) / 1e6) for _, s in frames] == [0, 40, 300, 1000]
    for (frame, _), image in zip(frames, images, strict=True):
        assert np.abs(frame.astype(int) - image).max() <= 6
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_odd_and_changing_sizes_are_written(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(flat((9, 9, 9), 65, 49), 0)
        writer.write(flat((9, 9, 9), 32, 20), NS)
    assert [frame.shape for frame, _ in read_video(tmp_path / "out.mp4")] == [(48, 64, 3)] * 2


def test_a_video_is_kept_when_its_source_is_damaged_and_removed_when_the_program_fails(
    tmp_path: Path,
) -> None:
    def write(error: Exception) -> None:
        with VideoWriter(tmp_path / f"{type(error).__name__}.mp4") as writer:
            writer.write(flat((9, 9, 9)), 0)
            raise error

    for error in (DataError("damaged"), RuntimeError("bug")):
        with pytest.raises(type(error)):
            write(error)
    assert [p.name for p in tmp_path.iterdir()] == ["DataError.mp4"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for name in ("none/out.mp4", "out", "out.xyz"):
        with pytest.raises(DataError):
            VideoWriter(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        f"o.{end}"
        for end in ["gif", "webm", "mp3", "png", "ogv", "y4m", "m3u8", "avi", "wmv", "mpg", "mxf", "h264"]
    ],
)
def test_a_kind_of_file_that_takes_no_such_video_is_refused_before_the_first_frame(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(DataError, match=rf"{name}: cannot write .* a name ending in \.mp4"):
        VideoWriter(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_that_name_is_named_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(DataError, match=r"dir\.mp4: is a directory"):
        VideoWriter(tmp_path / "dir.mp4")
    assert [p.name for p in tmp_path.rglob("*")] == ["dir.mp4"]


def test_a_video_without_a_frame_leaves_the_one_before_and_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path) as writer:
        writer.write(flat((1, 2, 3)), 0)
    before, descriptors = path.read_bytes(), len(os.listdir("/proc/self/fd"))
    with VideoWriter(path):
        pass
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.mp4"]
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(("frames", "size"), [(1, 5000), (200, 5000), (0, 1000)])
def test_a_full_disk_leaves_nothing_and_names_the_file_that_was_asked_for(
    tmp_path: Path, frames: int, size: int
) -> None:
    noise = np.random.default_rng(0)
    with (
        no_file_above(size),
        pytest.raises(OSError) as caught,
        VideoWriter(tmp_path / "full.mp4") as writer,
    ):
        for i in range(frames):
            writer.write(noise.integers(0, 256, (96, 128, 3), dtype=np.uint8), i * NS // 30)
    assert caught.value.filename == str(tmp_path / "full.mp4") and not list(tmp_path.iterdir())


def test_the_longest_legal_name_is_written_under_a_hidden_one_that_matches_the_pattern_of_parts(
    tmp_path: Path,
) -> None:
    for name in ("n" * 251 + ".mp4", "é" * 125 + ".mkv", "a.mp4"):
        with VideoWriter(tmp_path / name) as writer:
            writer.write(flat((9, 9, 9)), 0)
            assert len(list(tmp_path.glob(PART))) == 1
        assert [p.name for p in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_what_a_killed_process_left_of_a_video_goes_with_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "o[1].mp4"
    dying = f"""
import os, signal
import numpy as np
from gc_ros.media.video_writer import VideoWriter
writer = VideoWriter({str(out)!r})
writer.write(np.zeros((48, 64, 3), np.uint8), 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", dying], cwd=REPOSITORY, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    # Not of a process, and of another file: somebody else's.
    others = [left.with_name(left.name.replace(".part", "x.part")), left.with_name("." + left.name)]
    for other in others:
        other.touch()
    with VideoWriter(out) as writer:
        assert not left.exists()
        writer.write(flat((9, 9, 9)), 0)
    assert set(tmp_path.iterdir()) == {out, *others}


def test_what_a_process_of_another_machine_writes_is_left_to_it(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "o.mp4") as writer:
        writer.write(flat((9, 9, 9)), 0)
        # Where its number means nothing: there is no such process here.
        (own,) = tmp_path.iterdir()
        foreign = own.rename(own.with_name(own.name.replace(str(os.getpid()), str(2**30))))
        with VideoWriter(tmp_path / "o.mp4") as other:
            other.write(flat((9, 9, 9)), 0)
            assert foreign.exists()
        foreign.rename(own)


def test_two_processes_that_write_one_file_do_not_mix_their_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes the whole of its own; the one that ends last has the name."""
    one = VideoWriter(tmp_path / "o.mp4")
    monkeypatch.setattr("gc_ros.media.video_writer.os.getpid", lambda: 1)
    two = VideoWriter(tmp_path / "o.mp4")
    for i in range(30):
        one.write(flat((220, 20, 20)), i * NS // 10)
        two.write(flat((20, 20, 220)), i * NS // 10)
    for writer, red in ((one, 220), (two, 20)):
        writer.close()
        read = [int(frame[8, 8, 0]) for frame, _ in read_video(tmp_path / "o.mp4")]
        assert read == pytest.approx([red] * 30, abs=8)
    assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]


@pytest.mark.parametrize(
    "name", [f"o.{end}" for end in ["mp4", "mov", "m4v", "3gp", "3g2", "f4v", "flv", "mkv", "ts", "nut"]]
)
def test_every_kind_of_file_that_is_written_keeps_each_frame_and_its_time(tmp_path: Path, name: str) -> None:
    stamps = [0, 60, 200, 210, 500, 540, 580, 1300, 1310, 1700, 1760, 2000]  # milliseconds, at no steady rate
    with VideoWriter(tmp_path / name) as writer:
        for i, stamp in enumerate(stamps):
            writer.write(flat((20 * i, 100, 255 - 20 * i)), stamp * NS // 1000)
    read = [(int(frame[8, 8, 0]), stamp) for frame, stamp in read_video(tmp_path / name)]
    assert [red for red, _ in read] == pytest.approx([20 * i for i in range(len(stamps))], abs=8)
    first = read[0][1]
    assert [(stamp - first) / NS * 1000 for _, stamp in read] == pytest.approx(stamps, abs=1)


@pytest.mark.clips
def test_every_recorded_clip_decodes_whole_with_rising_stamps(clips: Path) -> None:
    import csv

    with open(clips / "gestures" / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[::12]:
        frames = [(frame.shape, stamp) for frame, stamp in read_video(clips / "gestures" / row["path"])]
        assert len(frames) == int(row["frames"]), row["path"]
        assert frames[0][0] == (int(row["height"]), int(row["width"]), 3)
        stamps = [stamp for _, stamp in frames]
        assert stamps == sorted(set(stamps))
        seconds = (stamps[-1] - stamps[0]) / NS
        assert seconds == pytest.approx((len(stamps) - 1) / float(row["fps"]), rel=0.1)


def test_frames_and_their_threads_go_with_them_and_wait_for_no_garbage_collection(tmp_path: Path) -> None:
    threads = Path("/proc/self/task")
    if not threads.exists():
        pytest.skip("threads are counted in /proc")
    path = tmp_path / "clip.mp4"
    gc.collect()
    gc.disable()
    try:
        before = len(list(threads.iterdir()))
        counts = []
        with VideoWriter(path) as writer:
            for i in range(30):
                writer.write(np.full((64, 64, 3), 8 * i, np.uint8), i * NS // 10)
                counts.append(len(list(threads.iterdir())))
        assert len(set(counts)) == 1, "the encoder's own"
        alive = []
        for picture, _ in read_pictures(path):
            picture.pixels()
            alive.append(weakref.ref(picture))
        del picture
        assert len(alive) == 30 and not any(ref() for ref in alive)
        assert not [o for o in gc.get_objects() if type(o) is av.VideoFrame]
        assert len(list(threads.iterdir())) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("encoder", "b_frames"), [("libx264", 1), ("libx264", 7), ("mpeg4", 2), ("mpeg4", 0)]
)
def test_frames_of_an_avi_have_their_own_times_though_it_has_none_for_b_frames(
    tmp_path: Path, encoder: str, b_frames: int
) -> None:
    file = tmp_path / "clip.avi"
    with av.open(str(file), "w") as container:
        options = {"bf": str(b_frames), "b-pyramid": "normal", "sc_threshold": "0"}
        stream = container.add_stream(
            encoder, rate=25, options=options if encoder == "libx264" else {"bf": str(b_frames)}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            image = np.full((48, 64, 3), 20 + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    found = list(read_video(file))
    shades = [float(image.mean()) for image, _ in found]
    assert len(shades) == 40 and np.allclose(shades, 20 + 5 * np.arange(40), atol=7)
    assert (np.diff(shades) >= 0).all()
    stamps = [stamp for _, stamp in found]
    assert np.allclose(np.diff(stamps), NS / 25, atol=2)
