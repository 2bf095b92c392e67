# SPDX-License-Identifier: Apache-2.0
"""The player: a bag's images over DDS, in order, complete, with the stamps asked for."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gc_ros.media.bag_reading import BagMessage, read_bag_messages
from gc_ros.media.transports import BY_NAME
from gc_ros.stamps import NS
from tests.gc_ros.node.harness import new_domain, ros_messages, wait_until
from trt_build.errors import DataError

pytestmark = pytest.mark.ros
STORE = get_typestore(Stores.ROS2_JAZZY)
START = 1_700_000_000 * NS
COUNT, RATE_HZ = 12, 20


def write_bag(path: Path, *, compressed: bool = False, count: int = COUNT) -> Path:
    kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    types = STORE.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image", kind, typestore=STORE)
        for number in range(count):
            stamp = START + number * NS // RATE_HZ
            time_type = types["builtin_interfaces/msg/Time"](sec=stamp // NS, nanosec=stamp % NS)
            header = types["std_msgs/msg/Header"](stamp=time_type, frame_id="camera")
            if compressed:
                message: Any = types[kind](header=header, format="jpeg", data=np.arange(9, dtype=np.uint8))
            else:
                data = np.full(24, number, np.uint8)  # 3 x 2 with padded rows
                message = types[kind](
                    header=header, height=2, width=3, encoding="rgb8", is_bigendian=0, step=12, data=data
                )
            writer.write(connection, stamp, STORE.serialize_cdr(message, kind))
    return path


@pytest.fixture
def listen() -> Any:
    """Subscribes to the bag's topic; messages as they come."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data

    new_domain()
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()

    def start(kind: Any) -> list[Any]:
        received: list[Any] = []
        node.create_subscription(kind, "/camera/image", received.append, qos_profile_sensor_data)
        return received

    yield start
    executor.shutdown(timeout_sec=2)
    thread.join(5)
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.mark.slow
def test_a_bag_arrives_complete_unchanged_and_at_its_own_rate(tmp_path: Path, listen: Any) -> None:
    from gc_ros.node.player import play

    bag = write_bag(tmp_path / "bag")
    received = listen(ros_messages.Image)
    pairs: list[tuple[int, int]] = []
    times: list[float] = []

    def published(recorded: int, sent: int) -> None:
        pairs.append((recorded, sent))
        times.append(time.monotonic())

    assert play(bag, published=published) == 0
    wait_until(lambda: len(received) == COUNT, "all images")
    assert [message.data[0] for message in received] == list(range(COUNT))
    assert {(m.width, m.height, m.step, m.encoding, m.header.frame_id) for m in received} == {
        (3, 2, 12, "rgb8", "camera")
    }
    stamps = [ros_messages.to_ns(message.header.stamp) for message in received]
    assert stamps == [START + n * NS // RATE_HZ for n in range(COUNT)]
    assert pairs == [(stamp, stamp) for stamp in stamps]
    assert times[-1] - times[0] >= (COUNT - 1) / RATE_HZ - 0.05


def images(*rows: tuple[float, float]) -> list[BagMessage]:
    """Of these stamps and times of recording, in seconds."""
    return [
        BagMessage(round(stamp * NS), "/image", BY_NAME["raw"], None, round(log * NS)) for stamp, log in rows
    ]


@pytest.mark.parametrize(
    ("rows", "due"),
    [
        # A clock of its own, and jitter of the recorder.
        ([(10, 1000.1), (11, 1001), (12, 1002.2)], [0, 1, 2]),
        # As frames of a video stream are reordered.
        ([(10, 10), (10.3, 10.3), (10.1, 10.31), (10.2, 10.32)], [0, 0.3, 0.1, 0.2]),
        # Loops, a short and a long one.
        ([(10, 10), (11, 11), (10, 12), (11, 13)], [0, 1, 2, 3]),
        ([(10, 10), (20, 20), (10, 21), (20, 31)], [0, 10, 11, 21]),
        # A clock that was set ahead.
        ([(10, 10), (11, 11), (3611, 12), (3612, 13)], [0, 1, 2, 3]),
        # Simulated time.
        ([(0, 1000), (0.1, 1000.1), (0.2, 1000.2)], [0, 0.1, 0.2]),
        # A gap is a gap.
        ([(10, 10), (40, 40), (41, 41)], [0, 30, 31]),
    ],
)
def test_images_are_due_as_far_apart_as_they_were_seen(
    rows: list[tuple[float, float]], due: list[float]
) -> None:
    from gc_ros.node.player import Pace

    found = images(*rows)
    pace = Pace(found[0])
    assert [pace.due_ns(image) / NS for image in found] == pytest.approx(due)


def test_of_a_damaged_bag_what_is_readable_is_played_and_the_damage_is_said(
    tmp_path: Path, listen: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    from gc_ros.node.player import play

    bag = write_bag(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-200])
    received = listen(ros_messages.Image)
    assert play(bag, rate=4.0) == 0
    wait_until(lambda: len(received) == COUNT, "all images")
    assert f"warning: {bag}: " in capfd.readouterr().err


def test_a_stamp_that_is_none_is_played_as_it_was_recorded(tmp_path: Path) -> None:
    from gc_ros.node.player import to_message

    (item,) = read_bag_messages(write_bag(tmp_path / "bag", count=1))
    item.message.header.stamp.nanosec = 2 * NS
    assert to_message(item).header.stamp.nanosec == 2 * NS


def test_stamps_can_be_those_of_the_play_and_the_rate_doubled(tmp_path: Path, listen: Any) -> None:
    from gc_ros.node.player import play

    bag = write_bag(tmp_path / "bag")
    received = listen(ros_messages.Image)
    before = time.time_ns()
    play(bag, rate=2.0, stamps="now", reliable=False)
    wait_until(lambda: len(received) == COUNT, "all images")
    stamps = [ros_messages.to_ns(message.header.stamp) for message in received]
    assert before < stamps[0] < time.time_ns()
    steps = np.diff(stamps)
    assert np.allclose(steps, NS / RATE_HZ / 2, atol=2)


def test_compressed_topics_are_played_as_they_are(tmp_path: Path, listen: Any) -> None:
    from gc_ros.node.player import play

    bag = write_bag(tmp_path / "bag", compressed=True, count=3)
    received = listen(ros_messages.CompressedImage)
    play(bag)
    wait_until(lambda: len(received) == 3, "all images")
    assert bytes(received[0].data) == bytes(range(9)) and received[0].format == "jpeg"


def test_without_a_subscriber_it_says_what_to_do(tmp_path: Path) -> None:
    from gc_ros.node.player import play

    new_domain()
    with pytest.raises(DataError, match=r"nobody subscribed to /camera/image .* start the node first"):
        play(write_bag(tmp_path / "bag", count=1), wait_s=0.2)


def test_a_missing_bag_and_a_bad_rate_are_one_line(tmp_path: Path) -> None:
    from gc_ros.node.player import play

    with pytest.raises(DataError, match="no such bag"):
        play(tmp_path / "none")
    with pytest.raises(DataError, match="rate is 0"):
        play(write_bag(tmp_path / "bag", count=1), rate=0)


def test_messages_convert_without_a_check_element_by_element(tmp_path: Path) -> None:
    from gc_ros.node.player import to_message

    (item,) = read_bag_messages(write_bag(tmp_path / "bag", count=1))
    item.message.data = np.zeros(1920 * 1080 * 3, np.uint8)
    began = time.perf_counter()
    to_message(item)
    assert time.perf_counter() - began < 0.5 and "array" in sys.modules
