# SPDX-License-Identifier: Apache-2.0
"""Bags as they lie on disks: files that metadata.yaml does not know, logs, holes, other orders, bombs."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gc_ros.evaluation.sources import FrameReader, find_sources
from gc_ros.media.bag_reading import read_bag_images
from gc_ros.media.recording import Recording, bag, mcap
from gc_ros.media.recording.storage import expand, zstd
from tests.gc_ros.evaluation.bag_files import mcap_of, write_bag
from trt_build.errors import DataError

PIECES = [("red", 1.0), ("blue", 1.0)]
COUNT = 32


def read(path: Path, pieces: tuple[Path, ...] = ()) -> tuple[list[int], list[str]]:
    """(times of recording of its images, damage)."""
    with Recording(path, pieces) as recording:
        (topic,) = (t for t, kind in recording.topics.items() if "Image" in kind)
        return [item.log_ns for item in recording.messages([topic])], list(recording.damage)


def database(path: Path) -> Path:
    write_bag(path, PIECES, plugin=StoragePlugin.SQLITE3)
    (file,) = path.glob("*.db3")
    return file


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A bag of two seconds, and beside its file that of the two seconds before it, which metadata.yaml lacks."""
    write_bag(tmp_path / "bag", PIECES)
    write_bag(tmp_path / "before", PIECES, log_shift_ns=-(10**10))
    shutil.copy(mcap_of(tmp_path / "before"), tmp_path / "bag/zzz.mcap")
    return tmp_path / "bag"


def test_a_file_that_the_metadata_lacks_is_read_in_its_time(two: Path) -> None:
    times, damage = read(two)
    assert len(times) == 2 * COUNT and times == sorted(times)
    assert damage == ["metadata.yaml lacks zzz.mcap; it is read too"]


def test_a_copy_or_the_compressed_form_of_a_file_is_not_read_twice(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", PIECES)
    file = mcap_of(tmp_path / "bag")
    shutil.copy(file, tmp_path / "bag/bag (copy).mcap")
    (tmp_path / "bag/bag.mcap.zstd").write_bytes(zstd.compress(file.read_bytes()))
    assert read(tmp_path / "bag") == (read(file)[0], [])
    file.unlink()
    (tmp_path / "bag/bag (copy).mcap").unlink()
    times, (line,) = read(tmp_path / "bag")
    assert len(times) == COUNT and "bag.mcap.zstd is read in its place" in line


def test_of_two_files_that_are_gone_and_one_with_another_name_the_loss_is_said(two: Path) -> None:
    meta = (two / "metadata.yaml").read_text()
    meta = meta.replace("  - bag.mcap\n", "  - bag.mcap\n  - bag_1.mcap\n  - bag_2.mcap\n", 1)
    (two / "metadata.yaml").write_text(meta)
    times, damage = read(two)
    assert len(times) == 2 * COUNT
    assert damage == [
        "bag_2.mcap is missing",
        "metadata.yaml names bag_1.mcap, which is not there; zzz.mcap is read in its place",
    ]


def test_pieces_side_by_side_with_other_recordings_are_one_bag(two: Path) -> None:
    folder = two.parent / "usb"
    folder.mkdir()
    shutil.copy(two / "zzz.mcap", folder / "r_0.mcap")
    shutil.copy(two / "bag.mcap", folder / "r_1.mcap")
    shutil.copy(two / "bag.mcap", folder / "other.mcap")
    other, split = find_sources([folder])
    assert (other.name, split.name) == ("other.mcap", "r_0.mcap")
    assert [sum(1 for _ in FrameReader(s, None, "header")) for s in (other, split)] == [COUNT, 2 * COUNT]
    assert [name for name, *_ in split.quick()] == ["r_0.mcap", "r_1.mcap"]


def test_files_without_metadata_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    for number in (2, 10):
        write_bag(tmp_path / f"{number}", PIECES, log_shift_ns=number * 10**10)
        shutil.copy(mcap_of(tmp_path / f"{number}"), tmp_path / f"r/r_{number}.mcap")
    times, _ = read(tmp_path / "r")
    assert len(times) == 2 * COUNT and times == sorted(times)


@pytest.mark.parametrize("name", ["X.MCAP", "x.dat", "x.bag"])
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, name: str) -> None:
    write_bag(tmp_path / "bag", PIECES)
    shutil.copy(mcap_of(tmp_path / "bag"), tmp_path / name)
    assert len(read(tmp_path / name)[0]) == COUNT
    (source,) = find_sources([tmp_path / name])
    assert not source.is_video


# -- sqlite3 -----------------------------------------------------------------------------------------------------------


def test_rows_out_of_order_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    file = database(tmp_path / "b")
    times = read(file)[0]
    with sqlite3.connect(file) as db:
        rows = db.execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
        db.execute("DELETE FROM messages")
        random.Random(1).shuffle(rows)
        db.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    db.close()
    assert read(file) == (times, []) and times == sorted(times)


def test_a_clock_that_was_set_back_is_said_of_a_database_too(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", [("red", 2.0), ("set back", 3.0), ("blue", 1.0)], plugin=StoragePlugin.SQLITE3)
    times, (line,) = read(tmp_path / "b")
    assert times == sorted(times) and "go back by 2.9 s" in line


def test_pieces_of_databases_that_nothing_orders_are_read_in_their_time(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", PIECES, plugin=StoragePlugin.SQLITE3)
    write_bag(tmp_path / "before", PIECES, log_shift_ns=-(10**10), plugin=StoragePlugin.SQLITE3)
    (file,) = (tmp_path / "before").glob("*.db3")
    shutil.copy(file, tmp_path / "bag/zzz.db3")
    times, _ = read(tmp_path / "bag")
    assert len(times) == 2 * COUNT and times == sorted(times)


def test_a_database_brings_the_definitions_of_its_types(tmp_path: Path) -> None:
    store, kind = get_typestore(Stores.ROS2_JAZZY), "house_msgs/msg/Door"
    store.register(get_types_from_msg("string name\nfloat64 angle\n", kind))
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/door", kind, typestore=store)
        writer.write(connection, 1, store.serialize_cdr(store.types[kind](name="hall", angle=0.5), kind))
    with Recording(tmp_path / "b") as recording:
        (item,) = recording.messages(["/door"])
        assert (item.message.name, item.message.angle, recording.damage) == ("hall", 0.5, [])


def test_rows_behind_a_hole_in_a_database_are_read_and_the_hole_is_said_once(tmp_path: Path) -> None:
    file = database(tmp_path / "b")
    whole = read(file)[0]
    data = bytearray(file.read_bytes())
    (size,) = struct.unpack_from(">H", data, 16)
    # Pages of the table's leaves, with the rows, begin with 13.
    leaves = [at for at in range(size, len(data), size) if data[at] == 13]
    db = sqlite3.connect(file)
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
    db.close()
    assert data[(root - 1) * size] == 5 and len(leaves) > 8
    at = leaves[len(leaves) // 2]
    data[at : at + 8] = b"\xff" * 8
    file.write_bytes(data)
    times, damage = read(file)
    assert 0 < len(times) < COUNT and set(times) < set(whole) and times[-1] == whole[-1]
    assert sum("are not readable" in line for line in damage) == 1


def test_opening_a_database_reads_no_more_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = database(tmp_path / "b")

    def whole(_: Path) -> bytes:
        raise AssertionError("the whole file is read into memory")

    monkeypatch.setattr(Path, "read_bytes", whole)
    assert len(read(file)[0]) == COUNT


@pytest.mark.parametrize("size", [0, 50, 99])
def test_a_stub_of_a_database_is_none(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.db3").write_bytes(database(tmp_path / "b").read_bytes()[:size])
    with pytest.raises(DataError, match="no sqlite3 file"):
        Recording(tmp_path / "x.db3")


def test_a_view_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    file = database(tmp_path / "b")
    with sqlite3.connect(file) as db:
        db.execute("ALTER TABLE topics RENAME TO t")
        forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT * FROM c"
        db.execute(f"CREATE VIEW topics AS SELECT x AS id, 'n' AS name, 'k' AS type FROM ({forever})")
    db.close()
    with pytest.raises(DataError, match="no tables of rosbag2"):
        Recording(file)


def test_a_write_ahead_log_is_read_and_the_folder_stays_as_it_was(tmp_path: Path) -> None:
    file = database(tmp_path / "b")
    db = sqlite3.connect(file)
    db.execute("PRAGMA journal_mode=WAL")
    row = db.execute("SELECT topic_id, timestamp + 1, data FROM messages ORDER BY id DESC LIMIT 1").fetchone()
    db.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    db.commit()
    (tmp_path / "left").mkdir()
    for end in ("", "-wal"):  # as a recorder that was killed leaves them
        shutil.copy(f"{file}{end}", tmp_path / f"left/x.db3{end}")
    db.close()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "left").iterdir()}
    assert len(read(tmp_path / "left/x.db3")[0]) == COUNT + 1
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "left").iterdir()} == before
    (tmp_path / "left/x.db3-wal").unlink()
    assert len(read(tmp_path / "left/x.db3")[0]) == COUNT
    assert os.listdir(tmp_path / "left") == ["x.db3"]


# -- MCAP --------------------------------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, **options: Any) -> bytes:
    """The same messages through the mcap library's writer."""
    writer_module = pytest.importorskip("mcap.writer")
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/Image"
    with open(target, "wb") as file, Recording(source) as recording:
        writer = writer_module.Writer(file, **options)
        writer.start(profile="ros2")
        text, _ = store.generate_msgdef(kind, ros_version=2)
        channel = writer.register_channel(
            "/camera", "cdr", writer.register_schema(kind, "ros2msg", text.encode())
        )
        for item in recording.messages(["/camera"]):
            writer.add_message(
                channel, item.log_ns, bytes(store.serialize_cdr(item.message, kind)), item.log_ns
            )
        writer.finish()
    return target.read_bytes()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_finished_file_without_a_summary_is_whole(tmp_path: Path, chunked: bool) -> None:
    index = pytest.importorskip("mcap.writer").IndexType.NONE
    write_bag(tmp_path / "b", PIECES)
    rewritten(
        tmp_path / "b", tmp_path / "x.mcap", use_chunking=chunked, index_types=index, repeat_channels=False,
        repeat_schemas=False, use_statistics=False, use_summary_offsets=False,
    )  # fmt: skip
    assert read(tmp_path / "x.mcap") == (read(tmp_path / "b")[0], [])


@pytest.mark.parametrize("fill", [b"\0", b"\7", b"\xff"])
def test_a_hole_between_messages_costs_what_it_covers(tmp_path: Path, fill: bytes) -> None:
    write_bag(tmp_path / "b", PIECES)
    data = bytearray(rewritten(tmp_path / "b", tmp_path / "x.mcap", use_chunking=False))
    middle, size = len(data) // 2, len(data) // 10
    data[middle : middle + size] = fill * size
    (tmp_path / "x.mcap").write_bytes(data)
    times, damage = read(tmp_path / "x.mcap")
    whole = read(tmp_path / "b")[0]
    assert COUNT - 6 <= len(times) < COUNT and set(times) <= set(whole) and times[-1] == whole[-1]
    assert damage


@pytest.mark.parametrize("before", [1, 20, 60])
def test_a_chunk_is_found_behind_a_hole_wherever_it_begins(tmp_path: Path, before: int) -> None:
    """The file is searched in pieces of 4 MiB: a chunk may begin in one and go on in the next."""
    write_bag(tmp_path / "b", PIECES)
    data = rewritten(tmp_path / "b", tmp_path / "x.mcap", chunk_size=1 << 30)
    header = 17 + struct.unpack_from("<Q", data, 9)[0]
    assert data[header] == 6
    hole = bytes((1 << 22) + 1 - before)
    (tmp_path / "x.mcap").write_bytes(data[:header] + hole + data[header : len(data) - 100])
    assert read(tmp_path / "x.mcap")[0] == read(tmp_path / "b")[0]


def test_records_of_applications_between_messages_are_skipped(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", PIECES)
    data = rewritten(tmp_path / "b", tmp_path / "x.mcap", use_chunking=False)
    records, at = [data[:8]], 8
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        records.append(data[at : at + 9 + length])
        at += 9 + length
        if opcode == 5:
            records.append(struct.pack("<BQ", random.Random(at).randrange(0x80, 0x100), 300) + b"\5" * 300)
        if opcode == 15:
            break
    footer = struct.pack("<BQQQI", 2, 20, 0, 0, 0)
    (tmp_path / "x.mcap").write_bytes(b"".join(records) + footer + mcap.MAGIC)
    assert read(tmp_path / "x.mcap") == (read(tmp_path / "b")[0], [])


def test_a_definition_in_idl_is_read(tmp_path: Path) -> None:
    writer_module = pytest.importorskip("mcap.writer")
    store, kind = get_typestore(Stores.ROS2_JAZZY), "house_msgs/msg/Door"
    store.register(get_types_from_msg("string name\nfloat64 angle\n", kind))
    part = "module house_msgs { module msg { struct Door { string name; double angle; }; }; };\n"
    with open(tmp_path / "x.mcap", "wb") as file:
        writer = writer_module.Writer(file)
        writer.start()
        text = f"{'=' * 80}\nIDL: {kind}\n{part}"
        channel = writer.register_channel(
            "/door", "cdr", writer.register_schema(kind, "ros2idl", text.encode())
        )
        message = store.types[kind](name="hall", angle=0.5)
        writer.add_message(channel, 1, bytes(store.serialize_cdr(message, kind)), 1)
        writer.finish()
    with Recording(tmp_path / "x.mcap") as recording:
        (item,) = recording.messages(["/door"])
        assert (item.message.name, item.message.angle, recording.damage) == ("hall", 0.5, [])


def test_other_encodings_are_named(tmp_path: Path) -> None:
    writer_module = pytest.importorskip("mcap.writer")
    with open(tmp_path / "x.mcap", "wb") as file:
        writer = writer_module.Writer(file)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "protobuf", b"\xff\xfe")
        channel = writer.register_channel("/cam", "protobuf", schema)
        writer.add_message(channel, 1, b"x", 1)
        writer.finish()
    with pytest.raises(DataError, match=r"/cam: foxglove\.CompressedImage \(protobuf\); record"):
        list(read_bag_images(tmp_path / "x.mcap"))


# -- compressed --------------------------------------------------------------------------------------------------------


def test_what_expands_beyond_the_limit_is_refused_before_it_does() -> None:
    bomb = zstd.compress(bytes(1 << 24))
    assert len(expand(bomb, 1 << 24)) == 1 << 24
    with pytest.raises(ValueError, match="expands to more than 1000 bytes"):
        expand(bomb, 1000)
    with pytest.raises(EOFError):
        expand(zstd.compress(np.random.default_rng(0).bytes(10**5))[:-10])


def test_of_a_compressed_file_that_was_cut_what_expands_is_read(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", PIECES)
    rewritten(tmp_path / "b", tmp_path / "x.mcap", use_chunking=False)
    packed = zstd.compress((tmp_path / "x.mcap").read_bytes())
    (tmp_path / "x.mcap.zstd").write_bytes(packed[: len(packed) // 2])
    times, damage = read(tmp_path / "x.mcap.zstd")
    assert 0 < len(times) < COUNT and times == read(tmp_path / "b")[0][: len(times)]
    assert damage[0].startswith("x.mcap.zstd: ")


def test_a_compressed_file_may_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag, "_ALWAYS_EXPANDED", 1 << 20)
    monkeypatch.setattr(bag, "_MOST_EXPANDED", 100)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "x.mcap.zstd").write_bytes(zstd.compress(mcap.MAGIC + bytes(1 << 26)))
    with pytest.raises(DataError, match="expands to more than 1048576 bytes"):
        Recording(tmp_path / "x.mcap.zstd")
    assert os.listdir(tmp_path) == ["x.mcap.zstd"]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("claimed", [100, 1 << 40])
def test_a_chunk_that_lies_about_its_size_is_left_out(tmp_path: Path, compression: str, claimed: int) -> None:
    lz4 = pytest.importorskip("lz4.frame")
    write_bag(tmp_path / "b", PIECES)
    data = rewritten(tmp_path / "b", tmp_path / "x.mcap", use_chunking=False)
    content = bytes(1 << 26)
    packed = zstd.compress(content) if compression == "zstd" else lz4.compress(content)
    name = compression.encode()
    body = struct.pack("<QQQI", 0, 0, claimed, 0) + struct.pack("<I", len(name)) + name
    body += struct.pack("<Q", len(packed)) + packed
    chunk = struct.pack("<BQ", 6, len(body)) + body
    (tmp_path / "x.mcap").write_bytes(data[:8] + chunk + data[8:])
    times, damage = read(tmp_path / "x.mcap")
    assert len(times) == COUNT and any("left out" in line for line in damage)


def peak_of(path: Path) -> tuple[list[int], list[str], int]:
    """The same as `read`, and the bytes of memory that it took at most."""
    tracemalloc.start()
    try:
        times, damage = read(path)
        return times, damage, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("indexed", [True, False], ids=["with its index", "cut short"])
@pytest.mark.parametrize("length", [1 << 40, 1 << 24], ids=["beyond the file", "within it"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_the_length_of_a_chunk_is_believed_as_far_as_file_and_content_bear_it(
    tmp_path: Path, compression: str, length: int, indexed: bool
) -> None:
    kind = getattr(pytest.importorskip("mcap.writer").CompressionType, compression.upper())
    write_bag(tmp_path / "b", PIECES)
    data = bytearray(rewritten(tmp_path / "b", tmp_path / "x.mcap", compression=kind, chunk_size=1 << 30))
    header = 17 + struct.unpack_from("<Q", data, 9)[0]
    assert data[header] == 6
    end = header + 9 + struct.unpack_from("<Q", data, header + 1)[0]
    data[header + 1 : header + 9] = struct.pack("<Q", length)
    with open(tmp_path / "x.mcap", "wb") as file:
        file.write(data[:end])
        if indexed:
            # A hole before the summary, so that the length lies within the file.
            file.seek(1 << 25)
            start = struct.unpack_from("<Q", data, len(data) - 28)[0]
            file.write(data[start:-37] + struct.pack("<BQQQI", 2, 20, 1 << 25, 0, 0) + mcap.MAGIC)
        else:
            file.truncate(1 << 25)
    times, _, peak = peak_of(tmp_path / "x.mcap")
    assert len(times) == COUNT
    assert peak < 14 << 20


def test_a_footer_that_lies_about_its_summary_costs_no_memory(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", PIECES)
    data = rewritten(tmp_path / "b", tmp_path / "x.mcap", use_chunking=False)
    with open(tmp_path / "x.mcap", "wb") as file:
        file.write(data[: len(data) // 2])
        file.seek(1 << 25)
        file.write(struct.pack("<BQQQI", 2, 20, 8, 0, 1) + mcap.MAGIC)
    times, damage, peak = peak_of(tmp_path / "x.mcap")
    assert 0 < len(times) < COUNT
    assert peak < 14 << 20 and "no index at its end" in damage[0]
