# SPDX-License-Identifier: Apache-2.0
"""A message that carries detections over DDS where no package of theirs is installed: none of them is on PyPI.

A diagnostic_msgs/DiagnosticArray holds what vision_msgs/Detection2DArray would, a status for each detection with its
numbers as text, and is read by the reader of vision_msgs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from gc_ros.media import people_topics
from gc_ros.media.detections import Detections
from gc_ros.node import ros_messages

_NUMBERS = ("x", "y", "width", "height", "theta", "score")


def carried(message: Any) -> Any:
    """As vision_msgs/Detection2DArray."""

    def as_detection(status: Any) -> Any:
        values = {entry.key: float(entry.value) for entry in status.values}
        centre = SimpleNamespace(
            position=SimpleNamespace(x=values["x"], y=values["y"]), theta=values["theta"]
        )
        hypothesis = SimpleNamespace(class_id=status.message, score=values["score"])
        return SimpleNamespace(
            id=status.name,
            results=[SimpleNamespace(hypothesis=hypothesis)],
            bbox=SimpleNamespace(center=centre, size_x=values["width"], size_y=values["height"]),
        )

    items = [as_detection(status) for status in message.status]
    return SimpleNamespace(header=message.header, detections=items)


_READ: Callable[..., Any] = lambda message, classes: people_topics.read_vision(carried(message), classes)
# In place of the row `detections`.
ROW = dataclasses.replace(
    people_topics.BY_NAME["detections"], type_name="diagnostic_msgs/msg/DiagnosticArray", read=_READ
)


def status(who: str, box: Iterable[float], score: float = 1.0, name: str = "person") -> DiagnosticStatus:
    """box: x and y of the centre, width, height, and perhaps the angle."""
    x, y, width, height, theta = [*box, 0.0][:5]
    numbers = zip(_NUMBERS, (x, y, width, height, theta, score), strict=True)
    return DiagnosticStatus(
        name=who, message=name, values=[KeyValue(key=k, value=repr(float(v))) for k, v in numbers]
    )


def found_message(found: Detections, frame_id: str = "camera") -> DiagnosticArray:
    """The carrier of these detections."""
    made = DiagnosticArray(header=ros_messages.to_header(found.stamp_ns, frame_id))
    for person in found.people:
        b = person.box
        centre = (b.x_min + b.x_max) / 2, (b.y_min + b.y_max) / 2, b.x_max - b.x_min, b.y_max - b.y_min
        made.status.append(status(person.id, centre, person.score))
    return made
