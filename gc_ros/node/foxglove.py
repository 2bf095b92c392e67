# SPDX-License-Identifier: Apache-2.0
"""Glimpses and people as foxglove_msgs/ImageAnnotations: Foxglove draws them on the camera's image, at its resolution.

Only where foxglove_msgs is installed (apt: ros-$ROS_DISTRO-foxglove-msgs). Coordinates are pixels of the original
image, as in Activity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import Colour, glimpse_colour, person_colour
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent

_DARK = (17 / 255, 21 / 255, 28 / 255, 0.7)


def annotations_type() -> Any:
    """The message class, or None where its package is missing."""
    try:
        from foxglove_msgs.msg import ImageAnnotations
    except ImportError:
        return None
    return ImageAnnotations


class _Drawing:
    """A message in the making. stamp: builtin_interfaces/Time of the frame that Foxglove draws on. unit: of sizes."""

    def __init__(self, stamp: Any, unit: float) -> None:
        from foxglove_msgs.msg import ImageAnnotations

        self.message, self._stamp, self._unit = ImageAnnotations(), stamp, unit

    def text(self, words: str, x: float, y: float, colour: Colour = (255, 255, 255)) -> None:
        from foxglove_msgs.msg import Color, Point2, TextAnnotation

        self.message.texts.append(
            TextAnnotation(
                timestamp=self._stamp,
                position=Point2(x=x, y=y),
                text=words,
                font_size=18.0 * self._unit,
                text_color=_color(colour),
                background_color=Color(r=_DARK[0], g=_DARK[1], b=_DARK[2], a=_DARK[3]),
            )
        )

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, thick: float) -> None:
        from foxglove_msgs.msg import Point2, PointsAnnotation

        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        self.message.points.append(
            PointsAnnotation(
                timestamp=self._stamp,
                type=PointsAnnotation.LINE_LOOP,
                points=[Point2(x=x, y=y) for x, y in corners],
                outline_color=_color(colour),
                thickness=self._unit * thick,
            )
        )


def _color(colour: Colour) -> Any:
    from foxglove_msgs.msg import Color

    red, green, blue = colour
    return Color(r=red / 255, g=green / 255, b=blue / 255, a=1.0)


def to_annotations(activity: Activity, stamp: Any, event: ActivityEvent | None = None) -> Any:
    """The result as foxglove_msgs/ImageAnnotations.

    Each glimpse is a box whose lines are the thicker the more the workers take from it, with its number and that share;
    the label with its score, and an event, are text. stamp: builtin_interfaces/Time of the newest frame, so that
    Foxglove draws on that very frame.
    """
    unit = activity.height / 480
    shares = activity.shares
    drawing = _Drawing(stamp, unit)
    for g, box in enumerate(activity.glimpses):
        colour = glimpse_colour(g)
        drawing.box(box.x0, box.y0, box.x1, box.y1, colour, 1 + 5 * float(shares[g]))
        drawing.text(f"{g + 1}  {shares[g]:.0%}", box.x0, box.y0 + 20 * unit, colour)
    drawing.text(f"{activity.spoken}  {activity.score:.0%}", 10 * unit, 28 * unit)
    if event is not None:
        verb = "began" if event.kind == "onset" else "ended"
        drawing.text(f"{event.label} {verb}  {event.score:.0%}", 10 * unit, activity.height - 12 * unit)
    return drawing.message


def to_people_annotations(
    people: Sequence[PersonActivity], scene: Activity | None, stamp: Any, height: int
) -> Any:
    """The newest result of each person as foxglove_msgs/ImageAnnotations: box, id, label, and thinner their glimpses.

    scene: result of the picture. stamp: builtin_interfaces/Time of the newest frame. height: of the image, pixels.
    """
    unit = height / 480
    drawing = _Drawing(stamp, unit)
    for person in people:
        activity, colour = person.activity, person_colour(person.person_id)
        for g, glimpse in enumerate(activity.glimpses):
            thick = 0.5 + 2.5 * float(activity.shares[g])
            drawing.box(glimpse.x0, glimpse.y0, glimpse.x1, glimpse.y1, glimpse_colour(g), thick)
        box = person.box
        drawing.box(box.x_min, box.y_min, box.x_max, box.y_max, colour, 3.0)
        words = f"{person.person_id}  {activity.spoken}  {activity.score:.0%}"
        drawing.text(words, box.x_min, max(box.y_min - 4 * unit, 20 * unit), colour)
    if scene is not None:
        drawing.text(f"whole picture: {scene.spoken}  {scene.score:.0%}", 10 * unit, 28 * unit)
    return drawing.message
