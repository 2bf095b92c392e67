# SPDX-License-Identifier: Apache-2.0
"""predictions.mcap: results as our own messages and as Foxglove image annotations, with or without the images.

Times of recording are those of the bag, so that both play side by side. Definitions of our messages come from
msg/*.msg; Foxglove's schema is that of ROS 2 (foxglove_msgs), so every reader of MCAP can decode it.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gc_ros.evaluation.scoring import EXTRA
from gc_ros.media.transports import TRANSPORTS
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import Colour, glimpse_colour
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from trt_build.bundle import Bundle
from trt_build.errors import DataError, need

NODE = "/activity_recognition"
ACTIVITY, EVENT = "glimpse_clouds/msg/Activity", "glimpse_clouds/msg/ActivityEvent"
ANNOTATIONS = "foxglove_msgs/msg/ImageAnnotations"
_STATUS = {"ok": 0, "unknown": 1, "late": 2}
_LINE_LOOP = 2
_FOXGLOVE = {
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n",
    "Point2": "float64 x\nfloat64 y\n",
    "CircleAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\nfloat64 diameter\n"
    "float64 thickness\nfoxglove_msgs/Color fill_color\nfoxglove_msgs/Color outline_color\n",
    "PointsAnnotation": "uint8 UNKNOWN=0\nuint8 POINTS=1\nuint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\nuint8 LINE_LIST=4\n"
    "builtin_interfaces/Time timestamp\nuint8 type\nfoxglove_msgs/Point2[] points\n"
    "foxglove_msgs/Color outline_color\nfoxglove_msgs/Color[] outline_colors\nfoxglove_msgs/Color fill_color\n"
    "float64 thickness\n",
    "TextAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\nstring text\n"
    "float64 font_size\nfoxglove_msgs/Color text_color\nfoxglove_msgs/Color background_color\n",
    "ImageAnnotations": "foxglove_msgs/CircleAnnotation[] circles\nfoxglove_msgs/PointsAnnotation[] points\n"
    "foxglove_msgs/TextAnnotation[] texts\n",
}


def message_folder() -> Path:
    """The folder of msg/*.msg: in the checkout, in an installed wheel, or where ROS installed the package."""
    prefixes = [
        Path(sys.prefix),
        *map(Path, filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))),
    ]
    here = Path(__file__).resolve().parent
    places = [
        here.parents[1] / "msg",
        here / "msg",
        *(p / "share" / "glimpse_clouds" / "msg" for p in prefixes),
    ]
    for place in places:
        if (place / "Activity.msg").is_file():
            return place
    raise DataError(
        "the message definitions msg/*.msg are not installed; use --predictions none, or install again"
    )


@functools.lru_cache(maxsize=1)
def typestore() -> Any:
    """The message types of Jazzy, of this package, of Foxglove, and those in which images come."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: Any = {}
    for path in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"glimpse_clouds/msg/{path.stem}"))
    for name, text in _FOXGLOVE.items():
        types.update(get_types_from_msg(text, f"foxglove_msgs/msg/{name}"))
    for row in TRANSPORTS:
        if row.definition:
            types.update(get_types_from_msg(row.definition, row.type_name))
    store.register(types)
    return store


def spoken(a: Activity) -> str:
    """A result in a few words, with its score."""
    return f"{a.label if a.status == 'ok' else f'{a.status}: {a.label}?'} {a.score:.0%}"


class Predictions:
    """The writer of predictions.mcap. images: whether to copy the images into it."""

    RESULTS = ("activity", ACTIVITY)  # topic below the node's and type of the results

    def __init__(self, path: Path, info: Bundle, images: bool) -> None:
        writer = need("mcap.writer", EXTRA)
        self._store, self._info, self._images = typestore(), info, images
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__
        self._writer = writer.Writer(self._file, compression=writer.CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="glimpse_clouds")
        self._channels: dict[str, int] = {}
        for topic, kind in (self.RESULTS, ("events", EVENT), ("annotations", ANNOTATIONS)):
            self._channel(f"{NODE}/{topic}", kind)

    def _channel(self, topic: str, kind: str) -> int:
        if topic not in self._channels:
            text, _ = self._store.generate_msgdef(kind, ros_version=2)
            schema = self._writer.register_schema(name=kind, encoding="ros2msg", data=text.encode())
            self._channels[topic] = self._writer.register_channel(
                topic=topic, message_encoding="cdr", schema_id=schema
            )
        return self._channels[topic]

    def _write(self, topic: str, kind: str, message: Any, log_ns: int) -> None:
        data = bytes(self._store.serialize_cdr(message, kind))
        self._writer.add_message(
            channel_id=self._channel(topic, kind), log_time=log_ns, publish_time=log_ns, data=data
        )

    def _make(self, msgtype: str, /, **fields: Any) -> Any:
        return self._store.types[msgtype](**fields)

    def _time(self, ns: int) -> Any:
        return self._make("builtin_interfaces/msg/Time", sec=ns // NS, nanosec=ns % NS)

    def _header(self, ns: int, frame_id: str) -> Any:
        return self._make("std_msgs/msg/Header", stamp=self._time(ns), frame_id=frame_id)

    def image(self, frame: Any, topic: str) -> None:
        """Copy the messages of a frame, in a merged file."""
        if self._images:
            for item in frame.messages:
                self._write(topic, item.msgtype, item.message, item.log_ns)

    def activity(self, a: Activity, age_s: float, frames: Any, log_ns: int) -> None:
        """Write a result, and its annotations of the image."""
        refused = sum(frames.refused.values())
        message = self._make(
            ACTIVITY,
            header=self._header(a.stamp_ns, frames.frame_id),
            **self._told(a),
            image_width=a.width,
            image_height=a.height,
            age_s=age_s,
            decode_s=0.0,
            preprocess_s=a.preprocess_s,
            queue_s=0.0,
            inference_s=a.inference_s,
            frames_received=a.frames_received + refused,
            frames_dropped=a.frames_dropped + refused,
            windows_skipped=a.windows_skipped,
            model_id=a.model_id,
            scene=False,
        )
        self._write(f"{NODE}/activity", ACTIVITY, message, log_ns)
        self._write(f"{NODE}/annotations", ANNOTATIONS, self._annotations(a), log_ns)

    def _told(self, a: Activity) -> dict[str, Any]:
        """The fields that a result has in Activity and PersonActivity alike."""
        scores = [
            self._make("glimpse_clouds/msg/ActivityScore", label=label, class_index=i, score=s)
            for label, i, s in a.top_k
        ]
        glimpses = [
            self._make(
                "glimpse_clouds/msg/Glimpse",
                x_min=g.x0,
                y_min=g.y0,
                x_max=g.x1,
                y_max=g.y1,
                worker_weights=np.array(g.weights, np.float32),
            )
            for g in a.glimpses
        ]
        return {
            "window_start": self._time(a.window_start_ns),
            "window_end": self._time(a.window_end_ns),
            "status": _STATUS[a.status],
            "label": a.label,
            "class_index": a.index,
            "score": a.score,
            "top_k": scores,
            "glimpses": glimpses,
        }

    def _annotations(self, a: Activity) -> Any:
        boxes = [
            self._outline((g.x0, g.y0, g.x1, g.y1), glimpse_colour(i), max(a.height / 160, 1.0), a.stamp_ns)
            for i, g in enumerate(a.glimpses)
        ]
        size = max(a.height / 16, 8.0)
        text = self._text(spoken(a), (size / 2, size * 1.5), size, a.stamp_ns)
        return self._make(ANNOTATIONS, circles=[], points=boxes, texts=[text])

    def _outline(
        self, box: tuple[float, float, float, float], colour: Colour, thick: float, stamp_ns: int
    ) -> Any:
        x0, y0, x1, y1 = box
        return self._make(
            "foxglove_msgs/msg/PointsAnnotation",
            timestamp=self._time(stamp_ns),
            type=_LINE_LOOP,
            points=[self._point(x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))],
            outline_color=self._colour(colour),
            outline_colors=[],
            fill_color=self._colour((0, 0, 0), 0.0),
            thickness=thick,
        )

    def _text(self, words: str, place: tuple[float, float], size: float, stamp_ns: int) -> Any:
        return self._make(
            "foxglove_msgs/msg/TextAnnotation",
            timestamp=self._time(stamp_ns),
            position=self._point(*place),
            text=words,
            font_size=size,
            text_color=self._colour((255, 255, 255)),
            background_color=self._colour((0, 0, 0), 0.6),
        )

    def _point(self, x: float, y: float) -> Any:
        return self._make("foxglove_msgs/msg/Point2", x=float(x), y=float(y))

    def _colour(self, colour: Colour, alpha: float = 1.0) -> Any:
        r, g, b = (value / 255 for value in colour)
        return self._make("foxglove_msgs/msg/Color", r=r, g=g, b=b, a=alpha)

    def event(
        self, event: ActivityEvent, decided_ns: int, frame_id: str, log_ns: int, person: str = ""
    ) -> None:
        """Write an onset or offset. person: whose; empty: of the whole picture."""
        message = self._make(
            EVENT,
            header=self._header(decided_ns, frame_id),
            kind=int(event.kind == "offset"),
            label=event.label,
            class_index=event.index,
            score=event.score,
            stamp=self._time(event.stamp_ns),
            model_id=self._info.model_id,
            person_id=person,
        )
        self._write(f"{NODE}/events", EVENT, message, log_ns)

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.finish()
        finally:
            self._file.close()
