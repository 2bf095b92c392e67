# SPDX-License-Identifier: Apache-2.0
"""Damaged and unusual bags: everything readable is read, in order, and what is missing is said."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from gc_ros.evaluation.ahead import read_ahead
from gc_ros.media.recording import Recording
from tests.gc_ros.evaluation.bag_files import mcap_of, write_bag
from trt_build.errors import DataError

PIECES = [("red", 2.0), ("gap", 1.0), ("blue", 2.0)]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s of 160x120 raw images, so several chunks."""
    path = tmp_path_factory.mktemp("bags") / "bag"
    write_bag(path, PIECES, size=(160, 120))
    return path


def read(path: Path) -> tuple[list[tuple[int, int]], list[str]]:
    """((time of recording, sum of pixels) of every image, damage)."""
    with Recording(path) as recording:
        (topic,) = (t for t, kind in recording.topics.items() if "Image" in kind)
        # In another thread than opened it, as the evaluation does.
        items = read_ahead(recording.messages([topic]))
        found = [(item.log_ns, int(np.sum(item.message.data))) for item in items]
        return found, list(recording.damage)


@pytest.mark.parametrize(
    ("plugin", "compression"),
    [
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
def test_every_storage_and_compression_gives_the_same_images(
    bag: Path, tmp_path: Path, plugin: StoragePlugin, compression: CompressionMode | None
) -> None:
    write_bag(tmp_path / "b", PIECES, size=(160, 120), plugin=plugin, compression=compression)
    assert read(tmp_path / "b") == (read(bag)[0], [])


def test_a_ros_1_bag_and_a_single_file_give_the_same_images(bag: Path, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Recording(bag) as recording, Ros1Writer(tmp_path / "one.bag") as writer:
        kind = "sensor_msgs/msg/Image"
        connection = writer.add_connection("/camera", kind, typestore=store)
        header = store.types["std_msgs/msg/Header"]
        for seq, item in enumerate(recording.messages(["/camera"])):
            m, stamp = item.message, item.message.header.stamp
            time = store.types["builtin_interfaces/msg/Time"](stamp.sec, stamp.nanosec)
            old = store.types[kind](
                header(seq, time, "camera"), m.height, m.width, m.encoding, 0, m.step, m.data
            )
            writer.write(connection, item.log_ns, store.serialize_ros1(old, kind))
    assert read(tmp_path / "one.bag") == read(bag) == read(mcap_of(bag))


def test_split_files_are_one_bag_and_a_missing_one_is_said(bag: Path, tmp_path: Path) -> None:
    whole = read(bag)[0]
    split = Path(shutil.copytree(bag, tmp_path / "split"))
    second = write_bag(tmp_path / "next", [("green", 1.0)], size=(160, 120), log_shift_ns=10**10)
    assert second
    shutil.copy(mcap_of(tmp_path / "next"), split / "bag_1.mcap")
    meta = (split / "metadata.yaml").read_text()
    name = mcap_of(bag).name
    (split / "metadata.yaml").write_text(meta.replace(f"  - {name}\n", f"  - {name}\n  - bag_1.mcap\n", 1))
    found, damage = read(split)
    assert found[: len(whole)] == whole and len(found) == len(whole) + 16 and damage == []
    (split / "bag_1.mcap").unlink()
    assert read(split) == (whole, ["bag_1.mcap is missing"])


def test_without_metadata_all_is_read_and_said(bag: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bag, tmp_path / "copy"))
    (copy / "metadata.yaml").unlink()
    found, damage = read(copy)
    assert found == read(bag)[0] and len(damage) == 1 and "metadata.yaml is missing" in damage[0]


@pytest.mark.parametrize("compression", [None, CompressionMode.STORAGE])
def test_cut_at_twenty_places_it_gives_every_whole_image_before_the_cut(
    tmp_path: Path, compression: CompressionMode | None
) -> None:
    write_bag(tmp_path / "b", PIECES, size=(160, 120), compression=compression)
    data, whole = mcap_of(tmp_path / "b").read_bytes(), read(tmp_path / "b")[0]
    cut, lengths = tmp_path / "cut.mcap", []
    for at in sorted(random.Random(3).sample(range(len(data)), 20)):
        cut.write_bytes(data[:at])
        try:
            found, damage = read(cut)
        except (DataError, ValueError):  # before the first schema there is no topic
            found, damage = [], ["nothing"]
            assert at < len(data) * 0.2
        assert damage and found == whole[: len(found)]
        if compression is None:  # no image is lost but the one that was cut
            assert len(found) >= at * len(whole) // len(data) - 2
        lengths.append(len(found))
    assert lengths == sorted(lengths) and lengths[-1] > len(whole) / 2


def with_checksums(bag: Path, target: Path) -> None:
    """The same bag as rosbag2 writes it, chunks with their CRC, which the library that made `bag` leaves out."""
    writer_module = pytest.importorskip("mcap.writer")
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/Image"
    with open(target, "wb") as file, Recording(bag) as recording:
        writer = writer_module.Writer(
            file, chunk_size=200_000, compression=writer_module.CompressionType.NONE, enable_crcs=True
        )
        writer.start(profile="ros2")
        text, _ = store.generate_msgdef(kind, ros_version=2)
        schema = writer.register_schema(kind, "ros2msg", text.encode())
        channel = writer.register_channel("/camera", "cdr", schema)
        for item in recording.messages(["/camera"]):
            data = bytes(store.serialize_cdr(item.message, kind))
            writer.add_message(channel, item.log_ns, data, item.log_ns)
        writer.finish()


def test_flipped_bytes_cost_their_chunk_and_nothing_else(bag: Path, tmp_path: Path) -> None:
    whole = set(read(bag)[0])
    with_checksums(bag, tmp_path / "sound.mcap")
    data = (tmp_path / "sound.mcap").read_bytes()
    assert read(tmp_path / "sound.mcap") == (read(bag)[0], [])
    for seed in range(20):
        chance = random.Random(seed)
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(64, len(data) - 5000)] ^= 1 << chance.randrange(8)
        (tmp_path / "x.mcap").write_bytes(broken)
        try:
            found, damage = read(tmp_path / "x.mcap")
        except (DataError, ValueError):
            continue  # the only chunk with a definition; said by the exception
        assert set(found) <= whole, "a spoiled image was taken for a sound one"
        assert damage or set(found) == whole  # a flip in an index that nothing reads costs nothing


def test_a_cut_database_gives_the_rows_of_its_whole_pages(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", PIECES, plugin=StoragePlugin.SQLITE3)
    whole = read(tmp_path / "b")[0]
    (file,) = (tmp_path / "b").glob("*.db3")
    data = file.read_bytes()
    (tmp_path / "cut.db3").write_bytes(data[: int(len(data) * 0.6)])
    found, damage = read(tmp_path / "cut.db3")
    assert damage and 0.3 * len(whole) < len(found) < len(whole)
    assert set(found) <= set(whole)


def test_what_is_no_bag_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    (tmp_path / "x.db3").write_bytes(b"nothing")
    (tmp_path / "x.txt").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    for name in ("x.mcap", "x.db3", "x.txt", "empty", "none"):
        with pytest.raises(DataError, match="bag"):
            Recording(tmp_path / name)
