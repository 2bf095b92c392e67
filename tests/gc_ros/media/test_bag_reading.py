# SPDX-License-Identifier: Apache-2.0
"""Images of a bag: stamps and what 0 means, damage, and what cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gc_ros.evaluation.sources import FrameReader, find_sources
from gc_ros.media.bag_reading import read_bag_images, read_bag_messages
from gc_ros.media.bags import IMAGE
from tests.gc_ros.evaluation.bag_files import START, mcap_of, write_bag
from trt_build.errors import DataError

NS = 1_000_000_000


def handmade(path: Path, topics: dict[str, Callable[[object], object]]) -> None:
    """A bag with one message a topic; the function fills a sensor_msgs/Image."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "camera")
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for topic, fill in topics.items():
            connection = writer.add_connection(topic, IMAGE, typestore=store)
            message = types[IMAGE](header, 2, 2, "rgb8", 0, 8, np.arange(16, dtype=np.uint8))
            fill(message)
            writer.write(connection, 77, store.serialize_cdr(message, IMAGE))


def test_padded_rgb_without_a_stamp_and_other_storage_is_read(tmp_path: Path) -> None:
    handmade(tmp_path / "bag", {"/camera": lambda m: m})
    ((stamp, image, encoding),) = read_bag_images(tmp_path / "bag")
    assert (stamp, encoding) == (77, "rgb8")
    assert image.tolist() == [[[0, 1, 2], [3, 4, 5]], [[8, 9, 10], [11, 12, 13]]]


def test_what_a_stamp_of_zero_means_is_one_thing_for_every_reader(tmp_path: Path) -> None:
    """Simulated time begins at 0; a driver that stamps nothing has 0 all the while."""
    write_bag(tmp_path / "simulated", [("red", 1.0)], first_ns=0)
    write_bag(tmp_path / "unstamped", [("red", 1.0)], zero_stamps=True)
    for name, first_ns in (("simulated", 0), ("unstamped", START)):
        stamps = [item.stamp_ns for item in read_bag_messages(tmp_path / name)]
        assert stamps == [first_ns + n * NS // 16 for n in range(16)], name


def test_a_clock_that_was_set_back_is_no_damage_and_a_cut_file_is(tmp_path: Path) -> None:
    write_bag(tmp_path / "set", [("red", 4.0), ("set back", 2.5), ("green", 4.0)])
    told: list[str] = []
    assert len(list(read_bag_images(tmp_path / "set"))) == 128
    assert len(list(read_bag_messages(tmp_path / "set", damaged=told.append))) == 128 and told == []
    write_bag(tmp_path / "cut", [("red", 2.0)])
    cut = mcap_of(tmp_path / "cut")
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged after 32 images"):
        list(read_bag_images(tmp_path / "cut"))
    assert len(list(read_bag_messages(tmp_path / "cut", damaged=told.append))) == 32 and len(told) == 1


def test_an_image_whose_stamp_is_none_is_refused(tmp_path: Path) -> None:
    """As the node does: more nanoseconds than a second has are no time."""

    def spoil(message: object) -> None:
        message.header = replace(message.header, stamp=replace(message.header.stamp, nanosec=2 * NS))  # type: ignore

    handmade(tmp_path / "bag", {"/camera": spoil})
    told: list[str] = []
    assert list(read_bag_images(tmp_path / "bag", refused=lambda s, why: told.append(why))) == []
    reader = FrameReader(find_sources([tmp_path / "bag"])[0], None, "header")
    assert list(reader) == [] and list(reader.refused) == told and "let the driver fill" in told[0]


def test_an_image_that_cannot_be_decoded_is_reported_not_hidden(tmp_path: Path) -> None:
    def spoil(message: object) -> None:
        message.step = 5  # type: ignore[attr-defined]

    handmade(tmp_path / "bag", {"/camera": spoil})
    with pytest.raises(DataError, match="step"):
        list(read_bag_images(tmp_path / "bag"))
    told: list[tuple[int, str]] = []
    assert list(read_bag_images(tmp_path / "bag", refused=lambda s, why: told.append((s, why)))) == []
    assert told[0][0] == 77 and "step" in told[0][1]


def test_of_several_topics_one_must_be_chosen(tmp_path: Path) -> None:
    handmade(tmp_path / "bag", {"/left": lambda m: m, "/right": lambda m: m})
    with pytest.raises(DataError, match="/left, /right"):
        list(read_bag_images(tmp_path / "bag"))
    with pytest.raises(DataError, match="no image topic /none"):
        list(read_bag_images(tmp_path / "bag", "/none"))
    assert len(list(read_bag_images(tmp_path / "bag", "/right"))) == 1
