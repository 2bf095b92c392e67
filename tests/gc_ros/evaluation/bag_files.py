# SPDX-License-Identifier: Apache-2.0
"""Bags of coloured frames with known activities, idle time, breaks, and everything that may be wrong with a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

NS = 1_000_000_000
START = 1_700_000_000 * NS
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 30), "blue": (10, 20, 230), "grey": (90, 90, 90)}
IMAGE, COMPRESSED, STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
Piece = tuple[str, float]  # colour and seconds; "gap", "loop" and "set back" are breaks


def write_bag(
    path: Path,
    pieces: Sequence[Piece],
    *,
    hz: float = 16.0,
    jpeg: bool = False,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
    labels: bool = False,
    other_topic: bool = False,
    log_shift_ns: int = 0,
    zero_stamps: bool = False,
    first_ns: int = START,
    size: tuple[int, int] = (64, 48),
) -> list[tuple[float, float, str]]:
    """Frames of one colour a piece; truth as (start_s, end_s, colour) of all pieces but grey ones.

    A "gap" of s seconds has no images; a "loop" starts again at the first stamp; where the clock is "set back" by s
    seconds, so are the times of recording. Each frame has a noise of its own. first_ns: the first stamp.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    noise = np.random.default_rng(1)
    topic, kind = ("/camera/compressed", COMPRESSED) if jpeg else ("/camera", IMAGE)
    truth, at, log = [], 0.0, START + log_shift_ns
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        images = writer.add_connection(topic, kind, typestore=store)
        strings = writer.add_connection("/label", STRING, typestore=store) if labels or other_topic else None
        for colour, seconds in pieces:
            if colour == "gap":
                at, log = at + seconds, log + round(seconds * NS)
                continue
            if colour == "set back":
                at, log = at - seconds, log - round(seconds * NS)
                continue
            if colour == "loop":
                at = 0.0
                continue
            if labels:
                text = types[STRING](data="" if colour == "grey" else colour)
                writer.write(strings, log, store.serialize_cdr(text, STRING))
            begin = at
            for _ in range(round(seconds * hz)):
                stamp = 0 if zero_stamps else first_ns + round(at * NS)
                header = types["std_msgs/msg/Header"](
                    types["builtin_interfaces/msg/Time"](stamp // NS, stamp % NS), "camera"
                )
                image = np.empty((size[1], size[0], 3), np.uint8)
                image[:] = COLOURS[colour]
                image += noise.integers(0, 20, image.shape, dtype=np.uint8)
                message: Any
                if jpeg:
                    _, data = cv2.imencode(".jpg", image[..., ::-1])
                    message = types[COMPRESSED](header, "jpeg", data.reshape(-1))
                else:
                    message = types[IMAGE](
                        header, size[1], size[0], "rgb8", 0, 3 * size[0], image.reshape(-1)
                    )
                writer.write(images, log, store.serialize_cdr(message, kind))
                last = at
                at, log = at + 1 / hz, log + round(NS / hz)
            if colour != "grey":
                truth.append((begin, last, colour))
    return truth


def join_bags(path: Path, *bags: tuple[Path, float]) -> Path:
    """One bag of the messages of several, each recorded so many seconds later than it was."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics: dict[str, Any] = {}
        for bag, later_s in bags:
            with Reader(bag) as reader:
                for c, log_ns, data in reader.messages():
                    if c.topic not in topics:
                        kept = {"msgdef": c.msgdef.data, "rihs01": c.digest}
                        topics[c.topic] = writer.add_connection(c.topic, c.msgtype, **kept)
                    writer.write(topics[c.topic], log_ns + round(later_s * NS), data)
    return path


def write_truth(path: Path, truth: Sequence[tuple[float, float, str]], zero: float = 0.0) -> Path:
    """As CSV; zero is added to all times."""
    rows = [f"{a + zero:.9f},{b + zero:.9f},{label}" for a, b, label in truth]
    path.write_text("\n".join(["start_s,end_s,label", *rows]) + "\n")
    return path


def mcap_of(bag: Path) -> Path:
    (found,) = bag.glob("*.mcap")
    return found
