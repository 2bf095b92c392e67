# SPDX-License-Identifier: Apache-2.0
"""A camera that publishes a video stream, packet by packet, to the running node."""

from __future__ import annotations

import array
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gc_ros.media import transports
from gc_ros.media.transports import Transport
from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests.gc_ros.media.packets import Packet
from tests.gc_ros.node.harness import NAME, Peer, Running, running, wait_until

PERIOD = NS // 8
COLOURS = {"red": (220, 20, 20), "blue": (10, 20, 230)}


def of(colour: str, count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Images of one colour, with noise."""
    noise = np.random.default_rng(1)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = COLOURS[colour]
    return [image + noise.integers(0, 20, image.shape, np.uint8) for _ in range(count)]


def packet_message(row: Transport, data: bytes, codec: str, stamp_ns: int) -> Any:
    """The ROS message of a packet; codec: what its field of that name shall hold."""
    message = ros_messages.message_type(row)()
    header = ros_messages.to_header(stamp_ns, "camera")
    if row.header:
        message.header = header
    else:
        message.timestamp, message.frame_id = header.stamp, header.frame_id
    if hasattr(message, "encoding"):
        message.encoding = codec
    else:
        message.format = codec
    message.data = array.array("B", data)
    return message


class Camera:
    """Publishes packets, one after the other has been taken."""

    def __init__(self, node: Running, peer: Peer, transport: str) -> None:
        (self.at_node,) = node.node._cameras
        self.row = transports.BY_NAME[transport]
        topic = f"image{self.row.suffix}"
        self.topic = peer.node.create_publisher(ros_messages.message_type(self.row), topic, 10)
        wait_until(self.topic.get_subscription_count, "the node's subscription")
        wait_until(lambda: node.node.count_publishers(f"/{topic}"), "the camera at the node")
        wait_until(lambda: peer.node.count_publishers(f"{NAME}/activity"), "the node's publisher")
        time.sleep(0.1)

    def send(self, packets: Sequence[Packet], codec: str = "h264", start: int = 0) -> None:
        for data, number in packets:
            before = self.at_node.input.received
            self.topic.publish(packet_message(self.row, data, codec, 1000 * NS + (start + number) * PERIOD))
            wait_until(lambda before=before: self.at_node.input.received > before, "the packet")
            decoding = self.at_node.input._decoding
            assert decoding is not None
            wait_until(lambda decoding=decoding: len(decoding._waiting) < 5, "the decoder")

    def done(self, images: int) -> None:
        """Until so many images have reached the recogniser."""
        counters = self.at_node.recognizer.counters
        wait_until(
            lambda: counters().frames_received == images, f"{images} images, not {counters().frames_received}"
        )


@contextlib.contextmanager
def streaming(
    bundle: Path, transport: str = "foxglove", **parameters: Any
) -> Iterator[tuple[Running, Peer, Camera]]:
    """The node, its peer, and a camera that streams to it."""
    parameters = {"max_age_s": 0.0, "stall_timeout_s": 60.0, "decode_budget": 1.0, **parameters}
    with running(bundle, image_transport=transport, **parameters) as (node, peer):
        yield node, peer, Camera(node, peer, transport)


def assert_red_then_blue(node: Running, peer: Peer, camera: Camera) -> None:
    """Of 12 red images and blue ones after them: the activities have their images' stamps, and nothing was refused."""
    wait_until(lambda: peer.activities and peer.activities[-1].label == "blue", "the second activity")
    labels = {ros_messages.to_ns(a.header.stamp): a.label for a in peer.activities}
    # Windows of red images alone; a busy machine skips some.
    reds = {labels.get(1000 * NS + i * PERIOD) for i in range(7, 12)} - {None}
    assert reds == {"red"}
    assert all(stamp % PERIOD == 0 for stamp in labels) and list(labels) == sorted(labels)
    assert peer.activities[0].header.frame_id == "camera" and peer.activities[0].image_width == 64
    assert not camera.at_node.input.refused and not camera.at_node.input.unusable and not node.errors
