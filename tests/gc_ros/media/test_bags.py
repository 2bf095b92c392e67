# SPDX-License-Identifier: Apache-2.0
"""Bags: what is written is what is read, clip after clip with a gap, and the truth table says what is when."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gc_ros.media.bag_reading import read_bag_images, read_bag_messages
from gc_ros.media.bags import START_NS, make_bag
from gc_ros.media.clips import Clip, find_clips, find_recordings
from gc_ros.media.video import read_video
from gc_ros.recognition.recognizer import Recognizer, stream_label
from tests.videos import flat, truncated, write_clip
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine
from trt_build.errors import DataError

NS = 1_000_000_000
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 30), "blue": (10, 20, 230)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """class/clip: red/0.mp4, red/1.mp4, ..., each 1.2 s of its colour; and clips.csv with subjects a and b."""
    root = tmp_path_factory.mktemp("clips")
    with open(root / "clips.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "class", "subject", "fps"])
        for label, colour in COLOURS.items():
            (root / label).mkdir()
            for i, subject in enumerate("ab"):
                write_clip(root / label / f"{i}.mp4", [flat(colour)] * 36)
                rows.writerow([f"{label}/{i}.mp4", label, subject, 30])
    return root


def test_clips_are_found_in_folders_files_and_tables(folder: Path) -> None:
    found = find_clips([folder])
    assert [(c.label, c.path.name) for c in found] == [
        (label, f"{i}.mp4") for label in ("blue", "green", "red") for i in (0, 1)
    ]
    assert [c.label for c in find_clips([folder / "red"])] == ["red", "red"]
    assert find_clips([folder / "green" / "1.mp4"]) == [Clip(folder / "green/1.mp4", "1.mp4", "green")]
    chosen = find_clips([folder / "clips.csv"], ["b"])
    assert [(c.label, c.subject, c.path.name) for c in chosen] == [(x, "b", "1.mp4") for x in COLOURS]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("path,class\nnone.mp4,a\n", "none.mp4"),
        ("file,label\nx,a\n", "columns path and class"),
        ("path,class\n,a\n", "row 1"),
        ("", "columns path and class"),
    ],
)
def test_a_wrong_table_names_the_line_or_the_column(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=word):
        find_clips([tmp_path / "x.csv"])


def test_what_is_not_there_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are a, b"):
        find_clips([folder / "clips.csv"], ["p9"])
    with pytest.raises(DataError, match="CSV"):
        find_clips([folder / "red"], ["a"])
    with pytest.raises(DataError, match="no clips"):
        find_clips([tmp_path])
    with pytest.raises(DataError, match="no such"):
        find_clips([tmp_path / "none"])


@pytest.mark.parametrize("compressed", [None, "jpeg", "png"])
def test_a_bag_reads_back_as_it_was_written(folder: Path, tmp_path: Path, compressed: str | None) -> None:
    clips = find_clips([folder / "clips.csv"], ["a"])
    seen: list[str] = []
    summary = make_bag(
        clips, tmp_path / "bag", compressed=compressed, gap_s=2.0, progress=lambda c: seen.append(c.label)
    )
    assert (summary.clips, summary.images, seen) == (3, 108, list(COLOURS))
    assert summary.topic == ("/image/compressed" if compressed else "/image")
    frames = list(read_bag_images(tmp_path / "bag"))
    assert len(frames) == 108
    for number, (stamp, image, encoding) in enumerate(frames):
        clip, frame = divmod(number, 36)
        assert abs(stamp - START_NS - (clip * (35 / 30 + 2.0) + frame / 30) * NS) < 1000
        colour = tuple(COLOURS.values())[clip][::-1]
        assert encoding == "bgr8" and image.shape == (48, 64, 3)
        assert np.abs(image.astype(int) - colour).max() <= 8
    item = next(read_bag_messages(tmp_path / "bag"))
    assert item.message.header.frame_id == "camera" and item.transport.name == (
        "compressed" if compressed else "raw"
    )
    (mcap,) = (tmp_path / "bag").glob("*.mcap")
    assert len(list(read_bag_images(mcap, summary.topic))) == 108


def test_the_truth_table_covers_the_clips_and_not_the_gaps(folder: Path, tmp_path: Path) -> None:
    summary = make_bag(find_clips([folder / "clips.csv"], ["a"]), tmp_path / "bag", gap_s=1.5)
    with open(tmp_path / "bag.truth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(COLOURS) and rows[0]["clip"] == "0.mp4"
    for row, after in pairwise(rows):
        assert float(row["end_s"]) - float(row["start_s"]) == pytest.approx(35 / 30, abs=1e-4)
        assert float(after["start_s"]) - float(row["end_s"]) == pytest.approx(1.5, abs=1e-4)
    assert float(rows[-1]["end_s"]) == pytest.approx(summary.duration_s, abs=1e-4)


@pytest.mark.parametrize("compressed", [None, "jpeg"])
def test_a_camera_that_goes_on_between_clips_shows_the_last_image_at_the_clips_own_rate(
    folder: Path, tmp_path: Path, compressed: str | None
) -> None:
    clips = find_clips([folder / "clips.csv"], ["a"])
    summary = make_bag(clips, tmp_path / "bag", gap_s=1.0, still=True, compressed=compressed)
    frames = list(read_bag_images(tmp_path / "bag"))
    assert summary.images == len(frames) == 3 * 36 + 2 * 29
    steps = np.diff([stamp for stamp, _, _ in frames]) / NS
    assert np.allclose(steps, 1 / 30, atol=2e-3)
    with open(tmp_path / "bag.truth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, after in pairwise(rows):  # the gaps are not part of the truth, and hold the picture before them
        assert float(after["start_s"]) - float(row["end_s"]) == pytest.approx(1.0, abs=1e-4)
        first, last = (START_NS + round(float(t) * NS) for t in (row["end_s"], after["start_s"]))
        idle = [image for stamp, image, _ in frames if first < stamp < last]
        (before,) = (image for stamp, image, _ in frames if stamp == first)
        assert len(idle) == 29 and all(np.array_equal(image, before) for image in idle)
    assert frames[-1][0] - START_NS == pytest.approx(float(rows[-1]["end_s"]) * NS, abs=1)


def test_a_clips_last_image_lies_within_its_row_of_the_truth_to_the_nanosecond(tmp_path: Path) -> None:
    """A stamp of a thirtieth of a second has no end in decimals: rounded down, the last result would not count."""
    (tmp_path / "red").mkdir()
    write_clip(tmp_path / "red" / "0.mp4", [flat(COLOURS["red"])] * 8, fps=30)
    make_bag(find_clips([tmp_path / "red"]), tmp_path / "bag")
    stamps = [stamp for stamp, _, _ in read_bag_images(tmp_path / "bag")]
    with open(tmp_path / "bag.truth.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert stamps[0] + round(float(row["start_s"]) * NS) == stamps[0]
    assert stamps[0] + round(float(row["end_s"]) * NS) == stamps[-1]


def test_the_same_clips_give_the_same_bag_and_width_scales_it(folder: Path, tmp_path: Path) -> None:
    clips = find_clips([folder / "red"])
    for name in ("one", "two"):
        make_bag(clips, tmp_path / name, width=32)
    one, two = (list(read_bag_images(tmp_path / name)) for name in ("one", "two"))
    assert one[0][1].shape == (24, 32, 3)
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_nothing_is_overwritten_and_nothing_half_made_is_left(folder: Path, tmp_path: Path) -> None:
    whole = folder / "red/0.mp4"
    cut = truncated(whole, tmp_path / "cut.mp4", 0.9)
    with pytest.raises(DataError, match=r"cut\.mp4"):
        make_bag([Clip(whole, whole.name, "red"), Clip(cut, cut.name, "red")], tmp_path / "bag")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.mp4"]
    make_bag([Clip(whole, whole.name, "red")], tmp_path / "bag")
    with pytest.raises(DataError, match="exists already"):
        make_bag([Clip(whole, whole.name, "red")], tmp_path / "bag")
    for options in ({"compressed": "gif"}, {"gap_s": -1.0}, {"width": 0}):
        with pytest.raises(DataError):
            make_bag([Clip(whole, whole.name, "red")], tmp_path / "other", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no clips"):
        make_bag([], tmp_path / "other")


def test_a_table_by_hand_is_kept_and_that_of_a_bag_that_is_gone_replaced(
    folder: Path, tmp_path: Path
) -> None:
    table, clips = tmp_path / "bag.truth.csv", find_clips([folder / "red"])
    table.write_text("start_s,end_s,label\n0,1,HAND\n")
    with pytest.raises(DataError, match=r"bag\.truth\.csv: exists already"):
        make_bag(clips, tmp_path / "bag")
    assert "HAND" in table.read_text() and not (tmp_path / "bag").exists()
    table.unlink()
    made = make_bag(clips, tmp_path / "bag").truth.read_text()
    shutil.rmtree(tmp_path / "bag")
    table.write_text("start_s,end_s,label,clip\n")
    make_bag(clips, tmp_path / "bag")
    assert table.read_text() == made


def test_two_at_once_make_one_bag_and_one_clear_error(folder: Path, tmp_path: Path) -> None:
    clips, refused = find_clips([folder / "red"]), []

    def meanwhile(_: Clip) -> None:
        with pytest.raises(DataError, match="another process is making it") as caught:
            make_bag(clips, tmp_path / "bag")
        refused.append(caught.value)

    make_bag(clips, tmp_path / "bag", progress=meanwhile)
    assert len(refused) == len(clips)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "bag.truth.csv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gap_s": float("nan")}, "gap of nan s"),
        ({"gap_s": float("inf")}, "gap of inf s"),
        ({"gap_s": 1e300}, "give 0 to 86400 s"),
        ({"width": 1_000_000}, "give a smaller width"),
        ({"topic": "foo bar"}, "'foo bar' is no name of a ROS topic"),
        ({"topic": ""}, "no name of a ROS topic"),
        ({"topic": "/a//b"}, "no name of a ROS topic"),
        ({"topic": "/a/"}, "no name of a ROS topic"),
        ({"topic": "/1st"}, "no name of a ROS topic"),
        ({"topic": "/größe"}, "no name of a ROS topic"),
    ],
)
def test_what_no_bag_can_hold_is_refused_and_leaves_nothing(
    folder: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        make_bag(find_clips([folder / "red"]), tmp_path / "bag", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_killed_run_leaves_no_bag_under_the_name_and_the_next_one_makes_it(
    folder: Path, tmp_path: Path, name: str
) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from gc_ros.media.bags import make_bag; from gc_ros.media.clips import find_clips\n"
        f"kill = lambda clip: clip.name.startswith('1') and os.kill(os.getpid(), signal.{name})\n"
        "make_bag(find_clips([Path(sys.argv[1])]), sys.argv[2], progress=kill)"
    )
    out = tmp_path / "bag"
    done = subprocess.run([sys.executable, "-c", program, folder / "red", out], timeout=120, check=False)
    assert done.returncode == -getattr(signal, name)
    assert [p.name for p in tmp_path.iterdir()] == [".bag.part"]
    with pytest.raises(DataError):  # nor is what is left taken for a recording
        find_recordings([tmp_path])
    make_bag(find_clips([folder / "red"]), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "bag.truth.csv"]
    assert sorted(p.name for p in out.iterdir()) == ["bag.mcap", "metadata.yaml"]
    metadata = (out / "metadata.yaml").read_text()
    assert "- bag.mcap" in metadata and ".part" not in metadata


def test_played_through_the_recogniser_each_clip_is_a_stream_of_its_own(
    folder: Path, tmp_path: Path, colours: LoadedBundle
) -> None:
    make_bag(find_clips([folder / "clips.csv"]), tmp_path / "bag")
    r = Recognizer(colours, open_engine(colours, "window", threads=1))
    labels = []
    for stamp, image, encoding in read_bag_images(tmp_path / "bag"):
        result = r.push(image, stamp, bgr=encoding == "bgr8")
        if result is not None:
            labels.append(stream_label([result])[0])
    assert r.counters().resets == {"gap": 5}
    per_clip = len(labels) // 6
    assert labels == [label for label in COLOURS for _ in range(2 * per_clip)] and per_clip >= 2


def test_what_is_no_bag_is_one_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "x.mcap", tmp_path / "empty", tmp_path / "none", folder / "red/0.mp4"):
        with pytest.raises(DataError, match="bag") as caught:
            list(read_bag_images(path))
        assert "\n" not in str(caught.value)


@pytest.mark.clips
def test_recorded_clips_of_one_person_become_a_bag(clips: Path, tmp_path: Path) -> None:
    found = find_clips([clips / "gestures" / "clips.csv"], ["p3"])
    assert len(found) > 40 and {c.subject for c in found} == {"p3"} and len({c.label for c in found}) == 17
    summary = make_bag(found[:3], tmp_path / "bag", compressed="jpeg", width=320)
    frames = list(read_bag_images(tmp_path / "bag"))
    assert len(frames) == summary.images and frames[0][1].shape[1] == 320
    assert cv2.Laplacian(frames[5][1], cv2.CV_64F).var() > 1  # a picture, not a grey plane


@pytest.mark.clips
def test_recorded_clips_give_the_same_scores_as_files_and_as_a_bag(
    clips: Path, tmp_path: Path, colours: LoadedBundle
) -> None:
    found = find_clips([clips / "gestures" / "clips.csv"], ["p1"])[::8]
    make_bag(found, tmp_path / "bag")
    for mode in ("window", "step"):
        from_bag = Recognizer(colours, open_engine(colours, mode, threads=1), mode=mode)
        bag_scores = [
            result.scores
            for stamp, image, encoding in read_bag_images(tmp_path / "bag")
            if (result := from_bag.push(image, stamp, bgr=encoding == "bgr8")) is not None
        ]
        file_scores = []
        for clip in found:
            from_file = Recognizer(colours, open_engine(colours, mode, threads=1), mode=mode)
            for frame, stamp in read_video(clip.path):
                if (result := from_file.push(frame, stamp, bgr=False)) is not None:
                    file_scores.append(result.scores)
        assert len(bag_scores) > len(found) and np.array_equal(bag_scores, file_scores)
