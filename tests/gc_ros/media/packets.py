# SPDX-License-Identifier: Apache-2.0
"""Video encoded packet by packet, as cameras publish it, and bags of such packets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gc_ros.media.transports import BY_NAME

NS = 1_000_000_000
START = 1_700_000_000 * NS
Packet = tuple[bytes, int]  # and the number of its image
LIBX265 = "log-level=none:keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b}"


def grey(count: int, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    """Images whose brightness is their number, 5 a step, with a moving square."""
    images = []
    for number in range(count):
        image = np.full((height, width, 3), 20 + 5 * (number % 40), np.uint8)
        at = number * 3 % (width - 8)
        image[4:12, at : at + 8] = 250
        images.append(image)
    return images


def number_of(image: NDArray[np.uint8]) -> int:
    """The number of an image of `grey` (modulo 40)."""
    return round((float(np.median(image)) - 20) / 5)


def encode(
    images: Iterable[NDArray[np.uint8]],
    encoder: str = "libx264",
    gop: int = 10,
    b_frames: int = 0,
    crf: int = 18,
    colours: tuple[str, bool] = ("", False),
    **options: str,
) -> list[Packet]:
    """The packets in the order of decoding. Skips where this libav lacks the encoder.

    colours: matrix, "ITU601" or "ITU709", and whether in full range, with which the stream is tagged; "": no tags.
    """
    if encoder not in av.codecs_available:
        pytest.skip(f"this libav has no {encoder}")
    images = list(images)
    context = cast("av.VideoCodecContext", av.CodecContext.create(encoder, "w"))
    context.height, context.width = images[0].shape[:2]
    context.pix_fmt, context.time_base, context.gop_size = "yuv420p", Fraction(1, 30), gop
    context.framerate = Fraction(30)
    known = {"libx264": {"preset": "veryfast", "bf": str(b_frames), "sc_threshold": "0", "crf": str(crf)}}
    known["libx265"] = {"preset": "ultrafast", "x265-params": LIBX265.format(gop=gop, b=b_frames)}
    known["libvpx"] = {"keyint_min": str(gop)}
    if encoder == "libx264" and not b_frames:
        known["libx264"]["tune"] = "zerolatency"
    context.options = known.get(encoder, {}) | options
    matrix, full = colours
    if matrix:
        context.colorspace, context.color_range = {"ITU601": 6, "ITU709": 1}[matrix], 2 if full else 1
    kept = {"dst_colorspace": matrix or "ITU601", "dst_color_range": "JPEG" if full else "MPEG"}
    packets: list[Packet] = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", **kept)
        frame.pts, frame.time_base = number, context.time_base
        packets += [(bytes(packet), int(packet.pts or 0)) for packet in context.encode(frame)]
    return packets + [(bytes(packet), int(packet.pts or 0)) for packet in context.encode(None)]


def store_with(transport: str) -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    row = BY_NAME[transport]
    if row.definition:
        store.register(get_types_from_msg(row.definition, row.type_name))
    return store


def to_message(
    store: Any, transport: str, data: bytes, codec: str, stamp_ns: int, size: tuple[int, int]
) -> Any:
    """A packet as rosbags' message of this transport."""
    row, types = BY_NAME[transport], store.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    content = np.frombuffer(data, np.uint8)
    if transport == "foxglove":
        return types[row.type_name](timestamp=time, frame_id="camera", data=content, format=codec)
    header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
    return types[row.type_name](
        header=header, width=size[0], height=size[1], encoding=f"{codec};yuv420p;bgr8;bgr8",
        pts=0, flags=0, is_bigendian=False, data=content,
    )  # fmt: skip


def write_packets(
    path: Path,
    pieces: Sequence[tuple[str, Sequence[Packet]]],
    transport: str = "foxglove",
    *,
    stamps: Sequence[int] | None = None,
    hz: float = 16.0,
    size: tuple[int, int] = (64, 48),
    plugin: StoragePlugin = StoragePlugin.MCAP,
    topic: str = "/camera",
) -> Path:
    """A bag of packets of (codec, packets), in this order; stamps: of the images by number."""
    store, row = store_with(transport), BY_NAME[transport]
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection(f"{topic}{row.suffix}", row.type_name, typestore=store)
        log = START
        for codec, packets in pieces:
            for data, number in packets:
                stamp = START + round(number * NS / hz) if stamps is None else stamps[number]
                message = to_message(store, transport, data, codec, stamp, size)
                writer.write(connection, log, store.serialize_cdr(message, row.type_name))
                log += round(NS / hz)
    return path
