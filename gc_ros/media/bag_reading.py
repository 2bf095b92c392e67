# SPDX-License-Identifier: Apache-2.0
"""The images of any bag, without ROS: messages as they were recorded, of every type of the table in `transports`.

Stamps are the messages' own in nanoseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.images import Picture, Refusal
from gc_ros.media.recording import SET_BACK, Message, Recording
from gc_ros.media.transports import BY_TYPE, TRANSPORTS, Reader, Transport
from trt_build.errors import DataError, ImageError

_AHEAD = 8  # images with a stamp of 0 that are held until one with another says what 0 means


@dataclass(frozen=True)
class BagMessage:
    """An image message as recorded: `message` has the fields of the transport's type."""

    stamp_ns: int  # its own stamp; the time of recording where it has none
    topic: str
    transport: Transport
    message: Any
    log_ns: int  # time of recording


def read_bag_messages(
    bag: str | os.PathLike[str],
    topic: str | None = None,
    *,
    pieces: Sequence[Path] = (),
    damaged: Callable[[str], None] | None = None,
) -> Iterator[BagMessage]:
    """Yield the image messages of one topic, in the order of recording.

    bag: a rosbag2 directory, an .mcap or .db3 file, or a ROS 1 .bag. topic: None = the only image topic
    there is. pieces: as `Recording` takes them. damaged: told at the end of what could not be read of a bag of which
    something could; without it that raises. Raises DataError.
    """
    with Recording(bag, pieces) as recording:
        chosen = choose_topic(recording, topic)
        count = 0
        transport = BY_TYPE[recording.topics[chosen]]
        for item, stamp_ns in stamped(transport, chosen, recording.messages([chosen])):
            count += 1
            stamp = item.log_ns if stamp_ns is None else stamp_ns
            yield BagMessage(stamp, chosen, transport, item.message, item.log_ns)
        damage = _damage(recording)
        if damage and not count:
            raise DataError(
                f"{bag}: no image can be read ({damage[0]}); record it again, or as sensor_msgs/Image: "
                "ros2 run image_transport republish"
            )
        if damage and damaged is None:
            raise DataError(f"{bag}: damaged after {count} images ({damage[0]}); record it again")
        if damaged is not None:
            for line in damage:
                damaged(f"{bag}: {line}")


def _damage(recording: Recording) -> list[str]:
    """What was lost; remarks on what is odd are none."""
    return [
        line for line in recording.damage if not line.startswith("metadata.yaml") and SET_BACK not in line
    ]


def stamped(
    transport: Transport, topic: str, items: Iterable[Message]
) -> Iterator[tuple[Message, int | None]]:
    """Messages in their order, images on `topic` with their stamp; None where that is 0 and means that there is none.

    Simulated time begins at 0. So what 0 means is said by the next image with another stamp.
    """
    held: list[Message] = []
    zeros = 0  # images among them
    for item in items:
        stamp_ns = transport.stamp_ns(item.message) if item.topic == topic else None
        if stamp_ns == 0 and zeros < _AHEAD:
            zeros += 1
        elif stamp_ns is not None and held:
            late_ns = item.log_ns - stamp_ns
            # At 0 on the clock of this image, or at the time of recording: which is nearer to when it came?
            yield from (
                (old, 0 if stamp_ns and abs(old.log_ns - late_ns) <= abs(late_ns) else None) for old in held
            )
            held, zeros = [], 0
        if zeros:
            held.append(item)
        else:
            yield item, stamp_ns or None
    yield from ((old, None) for old in held)


def choose_topic(recording: Recording, topic: str | None) -> str:
    """The only image topic there is, or the one asked for. Raises DataError that names those there are."""
    path, kinds = recording.path, recording.topics
    topics = sorted(name for name, kind in kinds.items() if kind in BY_TYPE)
    if topic is None and len(topics) == 1:
        return topics[0]
    if topic in topics:
        return str(topic)
    if not topics:
        types = ", ".join(row.short_type for row in TRANSPORTS)
        raise DataError(f"{path}: holds no topic of images ({types}){_instead(recording)}")
    what = "several image topics, choose one" if topic is None else f"no image topic {topic}"
    if topic in kinds:
        what = f"{topic} is of type {kinds[str(topic)]} and no image, choose another"
    raise DataError(f"{path}: {what} with --topic; there are: {', '.join(topics)}")


def _instead(recording: Recording) -> str:
    """What there is in place of camera images, and what to do about it."""
    there = {topic: f"{kind} (cdr)" for topic, kind in recording.topics.items()} | recording.others
    if not there:
        return ""
    found = ", ".join(f"{topic}: {what}" for topic, what in sorted(there.items())[:12])
    kinds = " ".join(there.values())
    remedy = "record the camera's sensor_msgs/Image"
    if "ros1" in kinds:
        remedy = "convert it with: rosbags-convert --src IN --dst OUT"
    elif "foxglove" in kinds:
        remedy = "record sensor_msgs/CompressedImage or foxglove_msgs/CompressedVideo in CDR, not Foxglove's schemas"
    return f"; there are {found}; {remedy}"


def read_bag_images(
    bag: str | os.PathLike[str],
    topic: str | None = None,
    *,
    refused: Callable[[int, str], None] | None = None,
    pieces: Sequence[Path] = (),
) -> Iterator[tuple[int, NDArray[np.uint8], str]]:
    """Yield (stamp_ns, image uint8 (H, W, 3), "bgr8" or "rgb8") of one image topic; see `read_bag_messages`.

    refused(stamp_ns, reason) is told of images that cannot be decoded, which are left out; without it they
    raise DataError. Images may be views into the message. Of a video stream each has the stamp of its own packet.
    """
    for stamp, found in _pictures(read_bag_messages(bag, topic, pieces=pieces)):
        reason = found.reason if isinstance(found, Refusal) else ""
        if not isinstance(found, Refusal):
            try:
                image = found.pixels()
            except ImageError as error:
                reason = str(error)
            else:
                yield stamp, image, "bgr8" if found.bgr else "rgb8"
        if reason and refused is None:
            raise DataError(f"{bag}: image at {stamp} ns: {reason}")
        if reason and refused is not None:
            refused(stamp, reason)


def _pictures(messages: Iterable[BagMessage]) -> Iterator[tuple[int, Picture | Refusal]]:
    reader: Reader | None = None
    for item in messages:
        reader = reader or item.transport.reader(False)
        if wrong_stamp := item.transport.refuse_stamp(item.message):
            reader.lost()
            yield item.stamp_ns, Refusal(wrong_stamp)
            continue
        yield from reader.read(item.message, item.stamp_ns)
    if reader is not None:
        yield from reader.finish()
