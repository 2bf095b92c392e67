# SPDX-License-Identifier: Apache-2.0
"""Bags of video streams: found, read and evaluated as those of images, whatever happened to the stream."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from gc_ros.evaluation.results import WINDOWS, read_windows
from gc_ros.media.bag_reading import read_bag_images, read_bag_messages
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.recording import Recording
from tests.conftest import REPOSITORY
from tests.gc_ros.evaluation.bag_files import COLOURS, write_truth
from tests.gc_ros.evaluation.runs import run
from tests.gc_ros.media.packets import START, Packet, encode, grey, number_of, write_packets
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.errors import DataError

NS = 1_000_000_000
SHARED = REPOSITORY.parent / "shared"


def colours_of(*pieces: tuple[str, int], size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    noise, images = np.random.default_rng(1), []
    for colour, count in pieces:
        for _ in range(count):
            image = np.empty((size[1], size[0], 3), np.uint8)
            image[:] = COLOURS[colour]
            images.append(image + noise.integers(0, 20, image.shape, np.uint8))
    return images


@pytest.mark.parametrize("transport", ["foxglove", "ffmpeg"])
@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_bag_of_a_stream_reads_as_images_with_their_own_stamps(
    transport: str, plugin: StoragePlugin, tmp_path: Path
) -> None:
    bag = write_packets(tmp_path / "bag", [("h264", encode(grey(25), b_frames=3))], transport, plugin=plugin)
    found = list(read_bag_images(bag))
    assert [stamp for stamp, _, _ in found] == [START + round(n * NS / 16) for n in range(25)]
    for number, (_, image, encoding) in enumerate(found):
        assert encoding == "rgb8" and abs(number_of(image) - number) <= 1
    assert {item.transport.name for item in read_bag_messages(bag)} == {transport}


@pytest.mark.parametrize("transport", ["foxglove", "ffmpeg"])
def test_a_bag_without_definitions_is_read_with_ours(transport: str, tmp_path: Path) -> None:
    """As recorded before Iron: sqlite without message definitions, and a machine without the package."""
    import sqlite3

    bag = write_packets(
        tmp_path / "bag", [("h264", encode(grey(5)))], transport, plugin=StoragePlugin.SQLITE3
    )
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as db:
        db.execute("DELETE FROM message_definitions")
    (bag / "metadata.yaml").unlink()
    with Recording(bag) as recording:
        assert not any("definition" in line for line in recording.damage)
    assert len(list(read_bag_images(bag))) == 5


def test_images_before_a_key_frame_are_named_and_left_out(tmp_path: Path) -> None:
    bag = write_packets(tmp_path / "bag", [("h264", encode(grey(30))[3:])])
    refused: Counter[str] = Counter()
    found = list(read_bag_images(bag, refused=lambda _, reason: refused.update([reason])))
    assert len(found) == 20
    assert refused == {"waiting for a key frame: the stream was joined in the middle": 7}
    with pytest.raises(DataError, match="waiting for a key frame: the stream was joined in the middle"):
        list(read_bag_images(bag))


def test_evaluation_of_a_stream_gives_the_windows_of_the_images(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    packets = encode(colours_of(("red", 48), ("green", 48)), b_frames=2)
    bag = write_packets(tmp_path / "bag", [("h264", packets)], "ffmpeg")
    write_truth(tmp_path / "bag.truth.csv", [(0, 47 / 16, "red"), (3, 95 / 16, "green")])
    summary = run(colours, tmp_path / "out", bag)
    (row,) = summary["bags"]
    assert row["counts"]["images"] == 96 and not row["refused"]
    assert row["accuracy"] == 1.0 and row["scored_windows"] > 30


def test_a_stream_with_everything_wrong_is_evaluated_and_what_was_left_out_is_said(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    first = encode(colours_of(("red", 64)))
    second = [
        (data, number + 64) for data, number in encode(colours_of(("green", 64), size=(96, 80)), "libx265")
    ]
    cut, number = first[35]
    first[35] = cut[: len(cut) // 2], number
    # Joined in the middle, 20 lost, 35 damaged, then another size and codec.
    sent = [*first[3:20], *first[21:]]
    bag = write_packets(tmp_path / "bag", [("h264", sent), ("h265", second)])
    # Counted from the first image, which is that of packet 10.
    write_truth(tmp_path / "bag.truth.csv", [(0, 53 / 16, "red"), (54 / 16, 117 / 16, "green")])
    summary = run(colours, tmp_path / "out", bag)
    (row,) = summary["bags"]
    refused = row["refused"]
    # 20 is a key frame: what follows it up to the next one builds on it.
    assert refused["waiting for a key frame: the stream was joined in the middle"] == 7
    assert refused["waiting for a key frame: packets were lost"] == 9
    assert refused["video frame is damaged"] == 1
    assert refused["waiting for a key frame: a packet was damaged"] == 4
    assert row["accuracy"] == 1.0 and row["counts"]["resets"]["size change"] == 1
    windows = list(read_windows(tmp_path / "out" / WINDOWS))
    assert {w["label"] for w in windows} == {"red", "green"}


def test_merged_predictions_hold_every_packet_that_the_shown_images_need(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    mcap = pytest.importorskip("mcap.reader", reason="pip install -e '.[evaluate]'")
    packets = encode(colours_of(("red", 32)), b_frames=2)
    bag = write_packets(tmp_path / "bag", [("h264", packets)])
    run(colours, tmp_path / "out", bag, "--truth", "none", "--predictions", "merged")
    (merged,) = (tmp_path / "out").rglob("predictions.mcap")
    with open(merged, "rb") as file:
        kept = [
            m.data
            for _, channel, m in mcap.make_reader(file).iter_messages()
            if channel.topic == "/camera/foxglove"
        ]
    assert len(kept) == 32
    found = list(read_bag_images(merged, "/camera/foxglove"))
    assert len(found) == 32


@pytest.fixture(scope="module")
def everyday(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """The recorded model of recorded clips: the demonstration's bundle has seen painted people only."""
    run_directory, out = SHARED / "runs" / "everyday", tmp_path_factory.mktemp("everyday") / "bundle"
    if not run_directory.is_dir() or not (SHARED / "data" / "everyday").is_dir():
        pytest.skip("the recorded clips and their model are not beside the checkout (../shared)")
    pytest.importorskip("torch")
    program = [sys.executable, "-c", "from trt_build.cli import main; main()"]
    subprocess.run([*program, "export", run_directory, "--out", out], check=True, cwd=REPOSITORY)
    return load_bundle(out)


def recorded_clips() -> list[Any]:
    """One of each class."""
    by_label = {clip.label: clip for clip in reversed(find_clips([SHARED / "data" / "everyday"]))}
    return [by_label[label] for label in sorted(by_label)]


def recode(raw: Path, target: Path, encoder: str, codec: str, **options: Any) -> Path:
    """The images of a bag as a stream with the same stamps."""
    stamps, images = [], []
    size: tuple[int, int] | None = None
    pieces: list[tuple[str, list[Packet]]] = []

    def close() -> None:
        offset = len(stamps) - len(images)
        if images:
            pieces.append(
                (codec, [(d, n + offset) for d, n in encode(images, encoder, gop=15, crf=23, **options)])
            )
        images.clear()

    for stamp, image, _ in read_bag_images(raw):
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if size != (width, height):
            close()
            size = width, height
        stamps.append(stamp)
        images.append(cv2.cvtColor(image[:height, :width], cv2.COLOR_BGR2RGB))
    close()
    return write_packets(target, pieces, stamps=stamps)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "codec", "b_frames"), [("libx264", "h264", 2), ("libx265", "h265", 0)])
def test_a_stream_of_recorded_clips_gives_the_labels_of_the_images(
    encoder: str, codec: str, b_frames: int, everyday: LoadedBundle, tmp_path: Path
) -> None:
    raw = make_bag(recorded_clips(), tmp_path / "raw", gap_s=3.0).bag
    stream = recode(raw, tmp_path / "stream", encoder, codec, b_frames=b_frames)
    labels = []
    for bag in (raw, stream):
        run(everyday, tmp_path / f"out_{bag.name}", bag, "--truth", "none", "--predictions", "none")
        rows = read_windows(tmp_path / f"out_{bag.name}" / WINDOWS)
        labels.append({row["end_ns"]: row["label"] for row in rows})
    assert labels[0].keys() == labels[1].keys() and len(labels[0]) > 40
    same = sum(labels[0][end] == labels[1][end] for end in labels[0]) / len(labels[0])
    assert same >= 0.95, {end: (labels[0][end], labels[1][end]) for end in labels[0]}
