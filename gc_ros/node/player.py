# SPDX-License-Identifier: Apache-2.0
"""`gc-ros play`: publishes the images of a bag over DDS at their own pace, without `ros2 bag`."""

from __future__ import annotations

import array
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from gc_ros.media.bag_reading import BagMessage, read_bag_messages
from gc_ros.node import ros_messages  # first: it finds ROS, or says in one line what is missing
from gc_ros.stamps import NS
from trt_build.errors import DataError

_JUMP_NS = 2 * NS  # of stamps against the time of recording
_BACK_NS = NS // 2  # more than frames of a stream are recorded out of their order
_SETTLE_S = 1.0  # the publisher sees the match before the subscriber does; the first images would be lost


def play(
    bag: str | os.PathLike[str],
    rate: float = 1.0,
    topic: str | None = None,
    stamps: str = "bag",
    *,
    wait_s: float | None = 30.0,
    reliable: bool = True,
    published: Callable[[int, int], None] | None = None,
) -> int:
    """Publish one image topic of a bag under its own name and return 0; ROS arguments of the process remap it.

    rate: 2.0 plays twice as fast. topic: None: the bag's only image topic.
    stamps: "bag": header stamps as recorded, whatever the rate; "now": the time at which each image is due, so that
        ages are those of a camera.
    wait_s: how long to wait for a subscriber; None: for ever, as for a node that builds its engine.
    reliable: offer reliable delivery, which best-effort subscribers (cameras' usual QoS) take too; False: offer best
        effort only, as camera drivers do.
    published: called after each image with its recorded stamp and the one it was published with, nanoseconds.

    What is damaged is left out, and said. Raises DataError when the bag cannot be read, has no images, or nobody
    subscribes.
    """
    import rclpy
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

    if rate <= 0:
        raise DataError(f"rate is {rate}, it must be positive")
    messages = read_bag_messages(bag, topic, damaged=lambda what: print(f"warning: {what}", file=sys.stderr))
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
        count, pace = 0, Pace(first)
        item: BagMessage | None = first
        while item is not None and context.ok():
            message = to_message(item)
            due_s = pace.due_ns(item) / NS / rate
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


class Pace:
    """When the images of a bag are due: as far apart as their stamps are.

    Where these jump, back in a loop or ahead as a clock is set, the time of recording says how far apart they were.
    """

    def __init__(self, first: BagMessage) -> None:
        self._since, self._last, self._zero_ns, self._due_ns = first, first, 0, 0

    def due_ns(self, item: BagMessage) -> int:
        """Nanoseconds after the first image, for one image after the other in the order of the bag."""
        stamps_ns, recorded_ns = item.stamp_ns - self._since.stamp_ns, item.log_ns - self._since.log_ns
        back_ns = self._last.stamp_ns - item.stamp_ns
        if abs(stamps_ns - recorded_ns) > _JUMP_NS or back_ns > _BACK_NS:
            self._zero_ns = self._due_ns + max(item.log_ns - self._last.log_ns, 0)
            self._since, stamps_ns = item, 0
        self._last, self._due_ns = item, self._zero_ns + stamps_ns
        return self._due_ns


def _wait_for_subscriber(publisher: Any, wait_s: float | None) -> None:
    deadline = None if wait_s is None else time.monotonic() + wait_s
    while not publisher.get_subscription_count():
        if deadline is not None and time.monotonic() > deadline:
            raise DataError(
                f"nobody subscribed to {publisher.topic_name} within {wait_s:g} s; start the node first, with the same "
                "ROS_DOMAIN_ID and Fast DDS profile, or wait longer: --wait 300"
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
    stamp = ros_messages.to_time(item.stamp_ns)
    if transport.refuse_stamp(recorded):  # it stays what it is, for the node to refuse
        own = transport.stamp(recorded)
        stamp.sec, stamp.nanosec = int(own.sec), int(own.nanosec)
    transport.set_stamp(message, stamp)
    return message
