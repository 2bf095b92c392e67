# SPDX-License-Identifier: Apache-2.0
"""The table of the messages in which detected people come, and what makes `Detections` of them, by shape alone.

The parameter `people` of the node names a row; bags are searched for the types. Nothing here raises, whatever a message
holds: what cannot be used is left out, counted and said. Boxes are in pixels of the camera image; those of hri_msgs are
shares of it, so their reader must be told its size. No ROS import.

What a detection is must be named in `classes`, or in no way at all (a detector of people alone). An id is the
tracker's; a detector without a tracker gives none, and nobody can be told apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gc_ros.media.detections import MAX_ID_LENGTH, Box, Detection, Detections
from gc_ros.stamps import NS
from trt_build.errors import DataError

PERSON = ("person", "0")  # names of a person: of most detectors, and the number in the 80 classes of COCO
MOST_BODIES = 64  # of REP-155 at once: each has a topic of its own, and no node has places for more people
LOOKED_AT = 256  # detections of one message: more are no people, and cost time at every image

NO_ID = "no id; start the detector with its tracker, and subscribe to what the tracker publishes"
LONG_ID = f"an id of more than {MAX_ID_LENGTH} characters"
BAD_BOX = "a box that is not finite, or has no area"
TOO_MANY = f"more than {LOOKED_AT} in one message"
NO_STAMP = "no stamp; header.stamp must be that of the image in which people were looked for"
TOO_LATE = "a box of an image that was complete already"
NO_SIZE = "a box in shares of an image whose size is not known yet"


@dataclass(frozen=True)
class Found:
    """What was read. detections: None where there are none yet, or the message is of no use.

    refused: detections or messages that cannot be used, by reason. others: detections of something else than people.
    earlier: those of the image before, which is known to be complete because this one has begun.
    """

    detections: Detections | None
    frame_id: str = ""
    refused: Mapping[str, int] = field(default_factory=dict)
    others: int = 0
    earlier: Detections | None = None

    @property
    def complete(self) -> tuple[Detections, ...]:
        """All detections that are complete now, the oldest first."""
        return tuple(found for found in (self.earlier, self.detections) if found is not None)


@dataclass(frozen=True)
class Family:
    """A row. name: in the parameter `people`. topic: where its messages come, before remapping.

    read: of one message, with the names of a person; None: people come in topics of their own, see `Bodies`.
    definitions: fields of the types in bags that hold none, by type. source: what to do where the type is not
    installed; empty: its package is one of the distribution.
    """

    name: str
    type_name: str  # package/msg/Name
    topic: str
    read: Callable[[Any, Iterable[str]], Found] | None
    definitions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def short_type(self) -> str:
        """The type as people write it: vision_msgs/Detection2DArray."""
        return self.type_name.replace("/msg/", "/")


def read_vision(message: Any, classes: Iterable[str] = PERSON) -> Found:
    """vision_msgs/Detection2DArray, of every release: the centre of a box is a Pose2D of either package."""

    def parts(item: Any) -> tuple[str, tuple[str, ...], float]:
        best = max(item.results, key=_score_of, default=None)
        names = () if best is None else (_class_of(best),)
        score = 1.0 if best is None else _score_of(best)
        # Before release 4 a message has no id of its own.
        return str(getattr(item, "id", "")), names, score

    def box_of(item: Any) -> Box:
        centre = getattr(item.bbox.center, "position", item.bbox.center)
        return _turned(centre.x, centre.y, item.bbox.size_x, item.bbox.size_y, item.bbox.center.theta)

    return _read(message, classes, parts, box_of)


def read_yolo(message: Any, classes: Iterable[str] = PERSON) -> Found:
    """yolo_msgs/DetectionArray, as yolo_ros publishes it on `tracking`."""

    def parts(item: Any) -> tuple[str, tuple[str, ...], float]:
        names = (str(item.class_name),) if item.class_name else (str(item.class_id),)
        return str(item.id), names, float(item.score)

    def box_of(item: Any) -> Box:
        centre, size = item.bbox.center, item.bbox.size
        return _turned(centre.position.x, centre.position.y, size.x, size.y, centre.theta)

    return _read(message, classes, parts, box_of)


FAMILIES = (
    Family(
        "detections",
        "vision_msgs/msg/Detection2DArray",
        "people",
        read_vision,
        {
            "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
            "vision_msgs/msg/Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
            "vision_msgs/BoundingBox2D bbox\nstring id\n",
            "vision_msgs/msg/ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n"
            "geometry_msgs/PoseWithCovariance pose\n",
            "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
            "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
            "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
            "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
        },
    ),
    Family(
        "yolo",
        "yolo_msgs/msg/DetectionArray",
        "people",
        read_yolo,
        source="build yolo_ros in the workspace (github.com/mgonzs13/yolo_ros) and source its install/setup.bash",
    ),
    Family(
        "hri",
        "hri_msgs/msg/IdsList",
        "/humans/bodies/tracked",
        None,
        {
            "hri_msgs/msg/IdsList": "std_msgs/Header header\nstring[] ids\n",
            "hri_msgs/msg/NormalizedRegionOfInterest2D": "std_msgs/Header header\nfloat32 xmin\nfloat32 ymin\n"
            "float32 xmax\nfloat32 ymax\nfloat32 c\n",
        },
    ),
)
BY_NAME = {row.name: row for row in FAMILIES}
BY_TYPE = {row.type_name: row for row in FAMILIES}


class Bodies:
    """People as REP-155 has them: who is tracked on one topic, and the box of each on a topic of its own.

    The boxes of one image are put together by their stamps. An image is complete once everybody who is tracked has his
    box, or once one of a later image has come. Not thread-safe.
    """

    ROI_TYPE = "hri_msgs/msg/NormalizedRegionOfInterest2D"
    GESTURE_TYPE = "hri_msgs/msg/Gesture"

    def __init__(self) -> None:
        self.ids: tuple[str, ...] = ()
        self._boxes: dict[str, Detection] = {}
        self._stamp_ns = 0
        self._newest = -math.inf  # stamp of the last that was complete

    @staticmethod
    def roi_topic(body: str) -> str:
        """The topic of the boxes of a body."""
        return f"/humans/bodies/{body}/roi"

    @staticmethod
    def gesture_topic(body: str) -> str:
        """The topic of the gestures of a body."""
        return f"/humans/bodies/{body}/gesture"

    def tracked(self, message: Any) -> Found:
        """Take hri_msgs/IdsList. Gives what is complete now; nobody, where nobody is tracked."""
        try:
            stamp_ns, frame_id, wrong = _header(message)
            refused: Counter[str] = Counter()
            ids: dict[str, None] = {}
            for body in list(message.ids)[:LOOKED_AT]:
                # The id is a part of a topic's name.
                if not _BODY.fullmatch(str(body)) or len(str(body)) > MAX_ID_LENGTH:
                    refused[NO_ID if not body else "an id that cannot be part of a topic's name"] += 1
                else:
                    ids[str(body)] = None
            if len(message.ids) > LOOKED_AT:
                refused[TOO_MANY] += len(message.ids) - LOOKED_AT
        except Exception as error:
            return _unreadable(error)
        if len(ids) > MOST_BODIES:
            refused[f"more than {MOST_BODIES} bodies at once"] += len(ids) - MOST_BODIES
        self.ids = tuple(ids)[:MOST_BODIES]
        if wrong:
            return Found(None, frame_id, {**refused, wrong: 1})
        self._jump_back(stamp_ns)
        if not self.ids and stamp_ns > self._newest:
            self._boxes.clear()
            self._newest = stamp_ns
            return Found(Detections(stamp_ns, ()), frame_id, dict(refused))
        return Found(self._complete(), frame_id, dict(refused))

    def roi(self, body: str, message: Any, size: tuple[int, int] | None) -> Found:
        """Take the box of a body, hri_msgs/NormalizedRegionOfInterest2D. Gives an image that is complete now.

        size: width and height of the camera image, None: not known.
        """
        try:
            stamp_ns, frame_id, wrong = _header(message)
            if wrong:
                return Found(None, frame_id, {wrong: 1})
            if size is None:
                return Found(None, frame_id, {NO_SIZE: 1})
            width, height = size
            values = (float(message.xmin), float(message.ymin), float(message.xmax), float(message.ymax))
            box = Box(values[0] * width, values[1] * height, values[2] * width, values[3] * height)
            person = Detection(body, box, _share(float(message.c)))
        except DataError:
            return Found(None, frame_id, {BAD_BOX: 1})
        except Exception as error:
            return _unreadable(error)
        self._jump_back(stamp_ns)
        if stamp_ns <= self._newest or (self._boxes and stamp_ns < self._stamp_ns):
            return Found(None, frame_id, {TOO_LATE: 1})
        done = self._take() if self._boxes and stamp_ns > self._stamp_ns else None
        self._stamp_ns = stamp_ns
        self._boxes[body] = person
        now = self._complete()
        return Found(now or done, frame_id, earlier=done if now else None)

    def _jump_back(self, stamp_ns: int) -> None:
        """Begin again where the stamps do, as a bag that is played twice."""
        if stamp_ns < self._newest - NS:
            self._boxes.clear()
            self._newest = -math.inf

    def _complete(self) -> Detections | None:
        return self._take() if self._boxes and set(self.ids) <= set(self._boxes) else None

    def _take(self) -> Detections:
        found = Detections(self._stamp_ns, tuple(self._boxes.values()))
        self._newest = self._stamp_ns
        self._boxes.clear()
        return found


_BODY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def _read(
    message: Any,
    classes: Iterable[str],
    parts: Callable[[Any], tuple[str, tuple[str, ...], float]],
    box_of: Callable[[Any], Box],
) -> Found:
    """The people of a message with a header and a list of detections. parts: id, names of the class, score of one."""
    try:
        stamp_ns, frame_id, wrong = _header(message)
        items = list(message.detections[:LOOKED_AT])
        left = len(message.detections) - len(items)
    except Exception as error:
        return _unreadable(error)
    if wrong:
        return Found(None, frame_id, {wrong: 1})
    wanted = {name.casefold() for name in classes}
    refused: Counter[str] = Counter()
    people: list[Detection] = []
    others = 0
    for item in items:
        try:
            who, names, score = parts(item)
            if wanted and names and names[0] and not wanted & {name.casefold() for name in names}:
                others += 1
                continue
            if not who or len(who) > MAX_ID_LENGTH:
                refused[LONG_ID if who else NO_ID] += 1
            else:
                people.append(Detection(who, box_of(item), _share(score)))
        except DataError:
            refused[BAD_BOX] += 1
        except Exception as error:
            refused.update(_unreadable(error).refused)
    if left:
        refused[TOO_MANY] += left
    return Found(Detections(stamp_ns, tuple(people)), frame_id, dict(refused), others)


def _header(message: Any) -> tuple[int, str, str | None]:
    """Stamp, frame_id, and why the stamp is none."""
    stamp = message.header.stamp
    stamp_ns = int(stamp.sec) * NS + int(stamp.nanosec)
    bad = stamp_ns == 0 or not 0 <= int(stamp.nanosec) < NS
    return stamp_ns, str(message.header.frame_id), NO_STAMP if bad else None


def _unreadable(error: Exception) -> Found:
    """A field is missing or of the wrong type."""
    return Found(None, "", {f"fields that are not those of its type ({type(error).__name__})": 1})


def _turned(x: float, y: float, width: float, height: float, theta: float) -> Box:
    """The upright box around a box that is turned about its centre by theta. Raises DataError."""
    x, y, width, height, theta = (float(value) for value in (x, y, width, height, theta))
    if not math.isfinite(theta) or not (width > 0 and height > 0):
        raise DataError("a box without area, or of no angle")
    across = abs(math.cos(theta)) * width + abs(math.sin(theta)) * height
    along = abs(math.sin(theta)) * width + abs(math.cos(theta)) * height
    return Box(x - across / 2, y - along / 2, x + across / 2, y + along / 2)


def _share(score: float) -> float:
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


def _class_of(result: Any) -> str:
    # Before release 3 of vision_msgs the hypothesis was the result itself.
    named = getattr(result, "hypothesis", result)
    return str(named.class_id if hasattr(named, "class_id") else named.id)


def _score_of(result: Any) -> float:
    score = float(getattr(result, "hypothesis", result).score)
    return score if math.isfinite(score) else -math.inf
