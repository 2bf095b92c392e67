# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: clips become an MCAP bag of camera images.

Bags are written as sensor_msgs/Image (bgr8, as cameras publish) or CompressedImage (JPEG, PNG; on
`<topic>/compressed`, as image_transport names it).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gc_ros.media.bag_people import PeopleWriter, check_boxes, check_topics
from gc_ros.media.clips import Clip
from gc_ros.media.images import MAX_PIXELS
from gc_ros.media.kinds import printable
from gc_ros.media.transports import BY_NAME
from gc_ros.media.unfinished import unfinished
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from trt_build.command import os_error_line
from trt_build.errors import DataError

START_NS = 1_700_000_000 * NS  # a fixed start, so that the same clips always give the same bag
IMAGE, COMPRESSED = (BY_NAME[name].type_name for name in ("raw", "compressed"))
_COLUMNS = ("id", "start_s", "end_s", "label", "clip")  # of the truth, the first where people are told apart
_LONGEST_GAP_S = 86_400  # a day: stamps of messages end in 2038


@dataclass(frozen=True)
class BagSummary:
    """What `make_bag` wrote."""

    bag: Path
    truth: Path
    topic: str
    clips: int
    images: int
    duration_s: float
    people: int = 0  # who are told apart in the truth; 0 where no boxes are known


def make_bag(
    clips: Sequence[Clip],
    out: str | os.PathLike[str],
    *,
    compressed: str | None = None,
    topic: str = "/image",
    gap_s: float = 3.0,
    frame_id: str = "camera",
    width: int | None = None,
    still: bool = False,
    boxes: Path | None = None,
    people_topic: str = "/people",
    progress: Callable[[Clip], None] | None = None,
) -> BagSummary:
    """Write clips one after the other as an MCAP bag, and `<out>.truth.csv` beside it.

    Header stamps are the clips' own times, shifted so that `gap_s` lies between two clips: longer than a node's
    `max_frame_gap_s`, the node then starts a new window with each clip. still: the camera runs on in between and shows
    the clip's last image, idle time without a break. compressed: None (bgr8), "jpeg" or "png". width: scale images
    to this width, aspect kept. boxes: a folder of the clips' boxes, which become vision_msgs/Detection2DArray on
    `people_topic`. progress is called before each clip.
    The CSV has start_s, end_s (first and last image, relative to the first of the bag), label, clip; with `boxes`
    also id, and a row for each person and what they do.
    Raises DataError; nothing is left of a bag that could not be finished. It has its name only when it is whole: until
    then it is in a hidden folder beside it, and what a killed run left there is replaced.
    """
    out = Path(out)
    truth = out.with_name(out.name + ".truth.csv")
    if not clips:
        raise DataError("no clips to make a bag of; give files, folders or a CSV file")
    if compressed not in (None, "jpeg", "png"):
        raise DataError(f"unknown compression {compressed!r}; use jpeg or png")
    if not 0 <= gap_s <= _LONGEST_GAP_S:
        raise DataError(f"a gap of {gap_s} s is not possible; give 0 to {_LONGEST_GAP_S} s")
    if width is not None and width < 2:
        raise DataError(f"a width of {width} pixels is not possible; give 2 or more")
    for name in (out, truth):
        if os.path.lexists(name) and not (name == truth and _is_ours(truth)):
            raise DataError(f"{name}: exists already; remove it or choose another name")
    if compressed and not topic.endswith("/compressed"):
        topic += "/compressed"
    check_topics(topic, *([] if boxes is None else [people_topic]))
    if boxes is not None:
        check_boxes(boxes, clips)
    try:
        with unfinished(out) as part:
            # A folder in it has the bag's name, which its files and its metadata repeat.
            images, last, rows = _write(
                clips, part / out.name, compressed, topic, gap_s, frame_id, width, still, boxes, people_topic, progress
            )  # fmt: skip
            _write_truth(part / truth.name, rows, boxes is not None)
            os.replace(part / truth.name, truth)  # first: a bag without its truth would be taken for whole
            os.rename(part / out.name, out)
    except OSError as error:
        named = OSError(error.errno, error.strerror or str(error), os.fspath(out))
        raise DataError(os_error_line(named)) from None
    people = len({row.who for row in rows} - {""})
    return BagSummary(out, truth, topic, len(clips), images, (last - START_NS) / NS, people)


def _write_truth(path: Path, rows: Sequence[_TruthRow], known: bool) -> None:
    """known: whether people are told apart."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS if known else _COLUMNS[1:])
        for row in rows:
            # To the nanosecond: rounded to less, a clip's last image would lie behind its end.
            seconds = (f"{(stamp - START_NS) / NS:.9f}" for stamp in (row.start_ns, row.end_ns))
            cells = [*seconds, row.label, printable(row.clip.path.name)]
            writer.writerow([row.who, *cells] if known else cells)


def _is_ours(truth: Path) -> bool:
    """Whether a table was written with a bag that is gone, and by nobody's hand."""
    try:
        with open(truth, encoding="utf-8") as file:
            return file.readline().rstrip("\n") in (",".join(_COLUMNS), ",".join(_COLUMNS[1:]))
    except (OSError, UnicodeError):
        return False


@dataclass(frozen=True)
class _TruthRow:
    start_ns: int
    end_ns: int
    label: str
    clip: Clip
    who: str = ""


def _write(
    clips: Sequence[Clip],
    out: Path,
    compressed: str | None,
    topic: str,
    gap_s: float,
    frame_id: str,
    width: int | None,
    still: bool,
    boxes: Path | None,
    people_topic: str,
    progress: Callable[[Clip], None] | None,
) -> tuple[int, int, list[_TruthRow]]:
    """The number of images, the stamp of the last that is a clip's own, and the truth."""
    store = get_typestore(Stores.ROS2_JAZZY)
    images, last, at = 0, START_NS, START_NS
    rows: list[_TruthRow] = []
    with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kind = COMPRESSED if compressed else IMAGE
        connection = writer.add_connection(topic, kind, typestore=store)

        people = None
        if boxes is not None:
            people = PeopleWriter(writer, store, boxes, people_topic, frame_id, several=len(clips) > 1)

        def write(image: NDArray[np.uint8], stamp: int) -> None:
            nonlocal images
            message = _message(store, image, stamp, frame_id, compressed)
            writer.write(connection, stamp, store.serialize_cdr(message, kind))
            images += 1

        for number, clip in enumerate(clips, 1):
            if progress is not None:
                progress(clip)
            offset: int | None = None
            stamp, stamps = at, []
            period = NS // 10  # of a clip of one frame
            for frame, time_ns in read_video(clip.path):
                offset = at - time_ns if offset is None else offset
                period = time_ns + offset - stamp or period
                stamp = time_ns + offset
                image = _bgr(clip, frame, width)
                write(image, stamp)
                stamps.append(stamp)
            who = people.clip(clip, number) if people is not None else None
            if people is None or who is None:
                rows.append(_TruthRow(stamps[0], stamp, clip.label, clip))
            else:
                scale = (image.shape[1] / frame.shape[1], image.shape[0] / frame.shape[0])
                done = people.write(who, stamps, scale)
                found = [_TruthRow(r.start_ns, r.end_ns, r.label, clip, r.id) for r in done]
                rows += found or [_TruthRow(stamps[0], stamp, clip.label, clip)]
            last, at = stamp, stamp + round(gap_s * NS)
            if still and number < len(clips):
                for idle in range(stamp + period, at, period):
                    write(image, idle)
    return images, last, rows


def _bgr(clip: Clip, frame: NDArray[np.uint8], width: int | None) -> NDArray[np.uint8]:
    image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if width is not None and width != image.shape[1]:
        height = max(round(image.shape[0] * width / image.shape[1]), 1)
        if width * height > MAX_PIXELS:
            raise DataError(
                f"{clip.path}: {width}x{height} pixels are more than any reader takes; give a smaller width"
            )
        method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=method)
    return np.asarray(image, np.uint8)


def _message(
    store: Any, image: NDArray[np.uint8], stamp_ns: int, frame_id: str, compressed: str | None
) -> Any:
    types = store.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
    if compressed is None:
        height, width = image.shape[:2]
        return types[IMAGE](
            header=header,
            height=height,
            width=width,
            encoding="bgr8",
            is_bigendian=0,
            step=3 * width,
            data=image.reshape(-1),
        )
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if compressed == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    _, data = cv2.imencode("." + compressed, image, options)
    # The form in which image_transport's republishers name the original encoding too.
    return types[COMPRESSED](
        header=header, format=f"bgr8; {compressed} compressed bgr8", data=data.reshape(-1)
    )
