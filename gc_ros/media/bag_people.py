# SPDX-License-Identifier: Apache-2.0
"""Detected people in the bags that `make_bag` writes: their messages, and the truth a person.

Boxes of a clip come from a folder of CSVs (`detections.boxes_of`). Who does what when stands in `clip.truth.csv` beside
the clip (id,start_s,end_s,label), as scenes of `gc-model synth` have it; without it the clip's label is true of those
whom it is about.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_types_from_msg

from gc_ros.media.clips import Clip, tables_of
from gc_ros.media.detections import LATEST_S, Box, Detection, Detections, about, boxes_of, read_csv
from gc_ros.media.kinds import clean
from gc_ros.media.people_topics import BY_NAME
from gc_ros.media.tables import read_rows, times_of
from gc_ros.stamps import NS
from trt_build.errors import DataError

VISION = BY_NAME["detections"]
_TOPIC = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Row:
    """What a person does from one time to another, in nanoseconds since the first image of the clip."""

    id: str
    start_ns: int
    end_ns: int
    label: str


def has_boxes(folder: Path, clips: Iterable[Clip]) -> bool:
    """Whether the folder holds the boxes of one of the clips at least."""
    return any(boxes_of(folder, clip.name).is_file() for clip in clips)


def folder_of_boxes(sources: Iterable[str | os.PathLike[str]], clips: Iterable[Clip]) -> Path | None:
    """The folder `boxes` that comes with the only folder or table of clips, None where none has boxes of these.

    Raises DataError where several folders have one.
    """
    roots = {Path(s) if Path(s).is_dir() else Path(s).parent for s in sources}
    found = [root / "boxes" for root in sorted(roots) if (root / "boxes").is_dir()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]}: boxes of several data sets; say which with --boxes")
    return found[0] if found and has_boxes(found[0], clips) else None


def check_boxes(folder: Path, clips: Sequence[Clip]) -> None:
    """Raise DataError where the folder is none, holds boxes of none of the clips, or the same for two of them."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; name one that has boxes of the clips, class/clip.boxes.csv"
        )
    if not has_boxes(folder, clips):
        first = boxes_of(folder, clips[0].name)
        raise DataError(f"{folder}: no boxes of these clips, {first} for one; name the folder that has them")
    tables_of(clips, partial(boxes_of, folder), there_only=True)


def check_topics(*names: str) -> None:
    """Raise DataError for a name that ROS takes for no topic, and where two are one."""
    for name in names:
        if not _TOPIC.fullmatch(name):
            raise DataError(
                f"{name!r} is no name of a ROS topic; give letters, digits and _ in parts that begin with no digit, "
                "such as /camera/image"
            )
    if len({name.lstrip("/") for name in names}) < len(names):
        raise DataError(
            f"{names[-1]}: a topic for images and people, too; give the people another with --people"
        )


class PeopleWriter:
    """Writes detections into a bag that is being made, beside the images of its clips.

    several: whether the bag has several clips, whose people are then told apart by the clip's number in their ids.
    """

    def __init__(
        self, writer: Writer, store: Any, boxes: Path, topic: str, frame_id: str, several: bool
    ) -> None:
        for name, text in VISION.definitions.items():
            types = get_types_from_msg(text, name)
            store.register({k: v for k, v in types.items() if k not in store.fielddefs})
        self._writer, self._store, self._boxes = writer, store, boxes
        self._frame_id, self._several = frame_id, several
        self._connection = writer.add_connection(topic, VISION.type_name, typestore=store)

    def clip(self, clip: Clip, number: int) -> _Track | None:
        """The people of the clip, the number-th of the bag, counted from 1; None where its boxes are not known."""
        file = boxes_of(self._boxes, clip.name)
        if not file.is_file():
            return None
        # Two clips may both have a person 1, who are different people. Rows without an id are about everybody.
        named: Callable[[str], str] = lambda who: f"{number}_{who}" if self._several and who else who
        found = read_csv(file)
        truth = truth_of_people(clip) or [
            Row(who, found[0].stamp_ns, found[-1].stamp_ns, clip.label) for who in about(found)
        ]
        people = [
            Detections(now.stamp_ns, tuple(replace(person, id=named(person.id)) for person in now.people))
            for now in found
        ]
        return _Track(people, [replace(row, id=named(row.id)) for row in truth])

    def write(self, track: _Track, stamps: Sequence[int], scale: tuple[float, float]) -> list[Row]:
        """Write the detections of a clip whose images have these stamps, each with that of its own image.

        scale: width and height of the bag's images relative to the clip's. Returns the truth a person by these stamps.
        """
        begin = stamps[0]
        for now in track.found:
            stamp = _nearest(stamps, begin + now.stamp_ns)
            people = [_scaled(person, scale) for person in now.people]
            message = _message(self._store, people, stamp, self._frame_id)
            self._writer.write(self._connection, stamp, self._store.serialize_cdr(message, VISION.type_name))
        rows = [
            replace(row, start_ns=begin + row.start_ns, end_ns=min(begin + row.end_ns, stamps[-1]))
            for row in track.rows
        ]
        return [row for row in rows if row.start_ns <= row.end_ns]  # others begin when the clip is over


@dataclass(frozen=True)
class _Track:
    """Who stands where in a clip, and what they do."""

    found: list[Detections]
    rows: list[Row]


def truth_of_people(clip: Clip) -> list[Row]:
    """Who does what when in the clip, from the table beside it; none without one that tells people apart.

    Raises DataError for a table that cannot be read.
    """
    table = clip.path.with_suffix(".truth.csv")
    if not table.is_file():
        return []
    columns, rows = read_rows(table, ("start_s", "end_s", "label"))
    if "id" not in columns:
        return []
    found = []
    for place, row in rows:
        start, end = times_of(table, place, row, LATEST_S)
        found.append(Row(clean(row["id"]), round(start * NS), round(end * NS), row["label"]))
    return found


def _nearest(stamps: Sequence[int], stamp: int) -> int:
    at = bisect.bisect_left(stamps, stamp)
    return min(stamps[max(at - 1, 0) : at + 1], key=lambda other: abs(other - stamp))


def _scaled(person: Detection, scale: tuple[float, float]) -> Detection:
    (x, y), box = scale, person.box
    return replace(person, box=Box(box.x_min * x, box.y_min * y, box.x_max * x, box.y_max * y))


def _message(store: Any, people: Sequence[Detection], stamp_ns: int, frame_id: str) -> Any:
    types = store.types

    def make(name: str, **fields: Any) -> Any:
        return types[name](**fields)

    time = make("builtin_interfaces/msg/Time", sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    header = make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)
    still = make(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=make(
            "geometry_msgs/msg/Pose",
            position=make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )
    items = []
    for person in people:
        box = person.box
        middle = make("vision_msgs/msg/Point2D", x=(box.x_min + box.x_max) / 2, y=(box.y_min + box.y_max) / 2)
        hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id="person", score=person.score)
        items.append(
            make(
                "vision_msgs/msg/Detection2D",
                header=header,
                results=[make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=still)],
                bbox=make(
                    "vision_msgs/msg/BoundingBox2D",
                    center=make("vision_msgs/msg/Pose2D", position=middle, theta=0.0),
                    size_x=box.x_max - box.x_min,
                    size_y=box.y_max - box.y_min,
                ),
                id=person.id,
            )
        )
    return make(VISION.type_name, header=header, detections=items)
