# SPDX-License-Identifier: Apache-2.0
"""The glimpses as foxglove_msgs/ImageAnnotations: Foxglove draws them on the camera's own image, at its resolution.

Only where foxglove_msgs is installed (apt: ros-$ROS_DISTRO-foxglove-msgs). Coordinates are pixels of the original
image, as in Activity.
"""

from __future__ import annotations

from typing import Any

from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import glimpse_colour
from gc_ros.recognition.smoothing import ActivityEvent

_DARK = (17 / 255, 21 / 255, 28 / 255, 0.7)


def annotations_type() -> Any:
    """The message class, or None where its package is missing."""
    try:
        from foxglove_msgs.msg import ImageAnnotations
    except ImportError:
        return None
    return ImageAnnotations


def to_annotations(activity: Activity, stamp: Any, event: ActivityEvent | None = None) -> Any:
    """The result as foxglove_msgs/ImageAnnotations.

    Each glimpse is a box whose lines are the thicker the more the workers take from it, with its number and that share;
    the label with its score, and an event, are text. stamp: builtin_interfaces/Time of the newest frame, so that
    Foxglove draws on that very frame.
    """
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation

    unit = activity.height / 480
    weights = activity.assignment
    shares = weights.sum(axis=0) / max(float(weights.sum()), 1e-9)
    message = ImageAnnotations()

    def text(words: str, x: float, y: float, colour: Color) -> None:
        message.texts.append(
            TextAnnotation(
                timestamp=stamp,
                position=Point2(x=x, y=y),
                text=words,
                font_size=18.0 * unit,
                text_color=colour,
                background_color=Color(r=_DARK[0], g=_DARK[1], b=_DARK[2], a=_DARK[3]),
            )
        )

    white = Color(r=1.0, g=1.0, b=1.0, a=1.0)
    for g, box in enumerate(activity.glimpses):
        red, green, blue = glimpse_colour(g)
        colour = Color(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
        corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
        message.points.append(
            PointsAnnotation(
                timestamp=stamp,
                type=PointsAnnotation.LINE_LOOP,
                points=[Point2(x=x, y=y) for x, y in corners],
                outline_color=colour,
                thickness=unit * (1 + 5 * float(shares[g])),
            )
        )
        text(f"{g + 1}  {shares[g]:.0%}", box.x0, box.y0 + 20 * unit, colour)
    # An unknown activity has no label; the best guess would read as a statement.
    label = "unknown" if activity.status == "unknown" else activity.label
    text(f"{label}  {activity.score:.0%}", 10 * unit, 28 * unit, white)
    if event is not None:
        verb = "began" if event.kind == "onset" else "ended"
        text(f"{event.label} {verb}  {event.score:.0%}", 10 * unit, activity.height - 12 * unit, white)
    return message
