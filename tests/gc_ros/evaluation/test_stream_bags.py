# SPDX-License-Identifier: Apache-2.0
"""Bags of video streams: found, read and evaluated as those of images, whatever happened to the stream."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.rosbag2 import StoragePlugin

from gc_ros.evaluation.results import WINDOWS, read_windows
from gc_ros.media.bags import read_bag_images, read_bag_messages
from gc_ros.media.recording import Recording
from tests.conftest import REPOSITORY
from tests.gc_ros.evaluation.bag_files import COLOURS, write_truth
from tests.gc_ros.evaluation.runs import run
from tests.gc_ros.media.packets import START, encode, grey, number_of, write_packets
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError

NS = 1_000_000_000
SAMPLES = REPOSITORY.parent / "shared" / "data" / "samples"


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
    packets = encode(colours_of(("red", 32)), b_frames=2)
    bag = write_packets(tmp_path / "bag", [("h264", packets)])
    run(colours, tmp_path / "out", bag, "--truth", "none", "--predictions", "merged")
    (merged,) = (tmp_path / "out").rglob("predictions.mcap")
    with open(merged, "rb") as file:
        kept = [
            m.data
            for _, channel, m in make_reader(file).iter_messages()
            if channel.topic == "/camera/foxglove"
        ]
    assert len(kept) == 32
    found = list(read_bag_images(merged, "/camera/foxglove"))
    assert len(found) == 32
