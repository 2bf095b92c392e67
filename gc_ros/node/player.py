# SPDX-License-Identifier: Apache-2.0
"""`gc-ros play`: publishes the images of a bag over DDS at their own pace, without `ros2 bag`."""

from __future__ import annotations

import array
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from gc_ros.media.bags import BagMessage, read_bag_messages
from gc_ros.node import ros_messages  # first: it finds ROS, or says in one line what is missing
from gc_ros.stamps import NS
from trt_build.errors import DataError

_SETTLE_S = 1.0  # the publisher sees the match before the subscriber does; the first images would be lost


def play(
    bag: str | os.PathLike[str],
    rate: float = 1.0,
    topic: str | None = None,
    stamps: str = "bag",
    *,
    wait_s: float = 30.0,
    reliable: bool = True,
    published: Callable[[int, int], None] | None = None,
) -> int:
    """Publish one image topic of a bag under its own name and return 0; ROS arguments of the process remap it.

    rate: 2.0 plays twice as fast. topic: None: the bag's only image topic.
    stamps: "bag": header stamps as recorded, whatever the rate; "now": the time at which each image is due, so that
        ages are those of a camera.
    wait_s: how long to wait for a subscriber.
    reliable: offer reliable delivery, which best-effort subscribers (cameras' usual QoS) take too; False: offer best
        effort only, as camera drivers do.
    published: called after each image with its recorded stamp and the one it was published with, nanoseconds.

    Raises DataError when the bag cannot be read, has no images, or nobody subscribes.
    """
    import rclpy
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

    if rate <= 0:
        raise DataError(f"rate is {rate}, it must be positive")
    messages = read_bag_messages(bag, topic)
    first = next(messages, None)
    if first is None:
        raise DataError(f"{bag}: holds no images")
    context = rclpy.Context()
    rclpy.init(args=sys.argv if "--ros-args" in sys.argv else None, context=context)
    node = rclpy.create_node("glimpse_clouds_player", context=context)
    try:
        kind = ros_messages.message_type(first.transport)
        qos = (
            QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
            if reliable
            else qos_profile_sensor_data
        )
        publisher = node.create_publisher(kind, first.topic, qos)
        _wait_for_subscriber(publisher, wait_s)
        began = time.monotonic()
        start_ns = time.time_ns()
        count = 0
        item: BagMessage | None = first
        while item is not None and context.ok():
            message = to_message(item)
            due_s = (item.stamp_ns - first.stamp_ns) / NS / rate
            if stamps == "now":
                first.transport.set_stamp(message, ros_messages.to_time(start_ns + round(due_s * NS)))
            pause = began + due_s - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            publisher.publish(message)
            count += 1
            if published is not None:
                published(item.stamp_ns, ros_messages.to_ns(first.transport.stamp(message)))
            item = next(messages, None)
        publisher.wait_for_all_acked(Duration(seconds=2))
        print(
            f"{count} images on {publisher.topic_name} in {time.monotonic() - began:.1f} s", file=sys.stderr
        )
        time.sleep(_SETTLE_S)  # best-effort readers acknowledge nothing
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    return 0


def _wait_for_subscriber(publisher: Any, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            raise DataError(
                f"nobody subscribed to {publisher.topic_name} within {wait_s:g} s; start the node first, with the same "
                "ROS_DOMAIN_ID and Fast DDS profile"
            )
        time.sleep(0.02)
    time.sleep(_SETTLE_S)


def to_message(item: BagMessage) -> Any:
    """A recorded image as an rclpy message, whatever its type and encoding; nothing is decoded."""
    recorded, transport = item.message, item.transport
    message = ros_messages.message_type(transport)()
    for name in message.get_fields_and_field_types():
        if name not in ("header", "timestamp", "data"):
            setattr(message, name, getattr(recorded, name))
    # array.array: rclpy takes it as it is, an ndarray it would check element by element.
    message.data = array.array("B", recorded.data.tobytes())
    if transport.header:
        message.header.frame_id = transport.frame_id(recorded)
    transport.set_stamp(message, ros_messages.to_time(item.stamp_ns))
    return message
