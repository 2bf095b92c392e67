# SPDX-License-Identifier: Apache-2.0
"""Glimpses and people as visualization_msgs/MarkerArray, for RViz: in the camera's optical frame (REP 103), beside TF.

Only where visualization_msgs is installed (part of ROS's common_interfaces). An image has no depth: boxes and label lie
on a plane one metre in front of the camera, as wide as the parameter `marker_fov_deg` says it sees.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from gc_ros.node.ros_messages import to_time
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import Colour, glimpse_colour, person_colour
from gc_ros.recognition.people import PersonActivity
from gc_ros.stamps import NS

# After which a marker goes that no result has renewed: the node has stopped. The longest: of an engine that was busy.
LIFETIME_S, LONGEST_S = 2.0, 60.0
_PICTURE = ""  # whose results are those of the whole picture


def lifetime_s(apart_s: float) -> float:
    """How long markers stay whose results come so far apart: two of them, and `LIFETIME_S` at least."""
    return min(max(LIFETIME_S, 2 * apart_s), LONGEST_S)


def markers_type() -> Any:
    """The message class, or None where its package is missing."""
    try:
        from visualization_msgs.msg import MarkerArray
    except ImportError:
        return None
    return MarkerArray


class _Plane:
    """Markers of one image, on a plane one metre in front of the camera. fov_deg: its horizontal field of view."""

    def __init__(
        self, width: int, height: int, stamp_ns: int, frame_id: str, fov_deg: float, lifetime_s: float
    ) -> None:
        from visualization_msgs.msg import MarkerArray

        self.message = MarkerArray()
        self.wide = 2 * math.tan(math.radians(fov_deg) / 2)  # metres of the image, at one metre
        self._width, self._height, self._stamp_ns, self._frame_id = width, height, stamp_ns, frame_id
        self._lifetime_s = lifetime_s

    def _at(self, x: float, y: float) -> Any:
        from geometry_msgs.msg import Point

        pixel = self.wide / self._width
        return Point(x=(x - self._width / 2) * pixel, y=(y - self._height / 2) * pixel, z=1.0)

    def _marker(self, kind: int, space: str, number: int, colour: Colour) -> Any:
        from builtin_interfaces.msg import Duration
        from visualization_msgs.msg import Marker

        made = Marker(ns=space, id=number, type=kind, action=Marker.ADD)
        made.header.frame_id, made.header.stamp = self._frame_id, to_time(self._stamp_ns)
        made.lifetime = Duration(sec=int(self._lifetime_s), nanosec=int(self._lifetime_s % 1 * NS))
        made.pose.orientation.w = 1.0
        made.color.r, made.color.g, made.color.b = (channel / 255 for channel in colour)
        made.color.a = 1.0
        self.message.markers.append(made)
        return made

    def box(
        self, space: str, number: int, sides: tuple[float, float, float, float], colour: Colour, thick: float
    ) -> None:
        """sides: x0, y0, x1, y1 in pixels. thick: share of the width of the image."""
        from visualization_msgs.msg import Marker

        drawn = self._marker(Marker.LINE_STRIP, space, number, colour)
        x0, y0, x1, y1 = sides
        drawn.points = [self._at(x, y) for x, y in [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]]
        drawn.scale.x = self.wide * thick

    def text(
        self, space: str, number: int, words: str, x: float, y: float, colour: Colour, size: float = 0.08
    ) -> None:
        """Words about the pixel (x, y). size: share of the width of the image."""
        from visualization_msgs.msg import Marker

        drawn = self._marker(Marker.TEXT_VIEW_FACING, space, number, colour)
        drawn.text = words
        drawn.pose.position = self._at(x, y)
        drawn.scale.z = size * self.wide


def to_markers(activity: Activity, frame_id: str, fov_deg: float, lifetime_s: float = LIFETIME_S) -> Any:
    """The result as visualization_msgs/MarkerArray, stamped as its newest frame.

    Each glimpse is a box whose lines are the thicker the more the workers take from it, the label with its score is a
    text above the picture. frame_id: of the camera's optical frame, x right, y down, z forward. fov_deg: its horizontal
    field of view.
    """
    plane = _Plane(activity.width, activity.height, activity.stamp_ns, frame_id, fov_deg, lifetime_s)
    for g, box in enumerate(activity.glimpses):
        thick = 0.003 + 0.012 * float(activity.shares[g])
        plane.box("glimpses", g, (box.x0, box.y0, box.x1, box.y1), glimpse_colour(g), thick)
    words = f"{activity.spoken}  {activity.score:.0%}"
    plane.text("label", 0, words, activity.width / 2, -0.08 * activity.height, (255, 255, 255))
    return plane.message


def to_people_markers(
    people: Sequence[PersonActivity],
    size: tuple[int, int],
    stamp_ns: int,
    frame_id: str,
    fov_deg: float,
    lifetime_s: float = LIFETIME_S,
) -> Any:
    """The newest result of each person as visualization_msgs/MarkerArray: box, glimpses, and above it id and label.

    size: of the image, width and height in pixels. A marker's namespace is the person's, so that RViz can hide one.
    """
    plane = _Plane(*size, stamp_ns, frame_id, fov_deg, lifetime_s)
    for person in people:
        activity, box, space = person.activity, person.box, f"person {person.person_id}"
        colour = person_colour(person.person_id)
        plane.box(space, 0, (box.x_min, box.y_min, box.x_max, box.y_max), colour, 0.006)
        for g, glimpse in enumerate(activity.glimpses, 1):
            thick = 0.002 + 0.006 * float(activity.shares[g - 1])
            sides = (glimpse.x0, glimpse.y0, glimpse.x1, glimpse.y1)
            plane.box(space, g, sides, glimpse_colour(g - 1), thick)
        words = f"{person.person_id}  {activity.spoken}  {activity.score:.0%}"
        across, above = (box.x_min + box.x_max) / 2, box.y_min - 0.04 * size[1]
        plane.text(space, 1 + len(activity.glimpses), words, across, above, colour, 0.05)
    return plane.message


class Shown:
    """What RViz shows of one camera: the newest message alone, what it leaves out is deleted. Thread-safe.

    Made only while somebody subscribes. publisher: of MarkerArray; None where its package is missing. apart_s: from one
    result to the next, where none is late.
    """

    def __init__(self, publisher: Any, apart_s: float) -> None:
        self._publisher, self._due_s = publisher, apart_s
        self._there: dict[tuple[str, int], str] = {}  # namespace and number of markers -> frame_id
        self._stamps: dict[str, int] = {}  # of the newest result, by person
        self._apart_s: dict[str, float] = {}  # of the last two results, by person
        self._lock = threading.Lock()  # a break clears in another thread than results come from

    def picture(self, activity: Activity, frame_id: str, fov_deg: float) -> None:
        """See `to_markers`."""
        with self._lock:
            if self._watched():
                stays_s = self._stays_s({_PICTURE: activity.stamp_ns})
                self._send(to_markers(activity, frame_id, fov_deg, stays_s))

    def people(
        self,
        people: Sequence[PersonActivity],
        size: tuple[int, int],
        stamp_ns: int,
        frame_id: str,
        fov_deg: float,
    ) -> None:
        """See `to_people_markers`."""
        with self._lock:
            if self._watched():
                stays_s = self._stays_s({p.person_id: p.activity.stamp_ns for p in people})
                self._send(to_people_markers(people, size, stamp_ns, frame_id, fov_deg, stays_s))

    def clear(self) -> None:
        """Show nothing: a break, or nobody is there any more."""
        with self._lock:
            if self._watched() and self._there:
                from visualization_msgs.msg import MarkerArray

                self._send(MarkerArray())
            self._forget()

    def _watched(self) -> bool:
        if self._publisher is None:
            return False
        if self._publisher.get_subscription_count():
            return True
        self._forget()
        return False

    def _forget(self) -> None:
        self._there.clear()
        self._stamps.clear()
        self._apart_s.clear()

    def _stays_s(self, stamps: Mapping[str, int]) -> float:
        """How long the markers of these results stay, those of all as long as those of the slowest."""
        apart_s = {}
        for who, stamp_ns in stamps.items():
            since_ns = stamp_ns - self._stamps.get(who, stamp_ns)
            # One that is shown again tells nothing.
            apart_s[who] = since_ns / NS if since_ns > 0 else self._apart_s.get(who, 0.0)
        self._stamps, self._apart_s = dict(stamps), apart_s
        return lifetime_s(max([self._due_s, *apart_s.values()]))

    def _send(self, message: Any) -> None:
        """Publish the message, with the end of all that it does not show."""
        shown = {(m.ns, m.id): m.header.frame_id for m in message.markers}
        gone = {key: frame_id for key, frame_id in self._there.items() if key not in shown}
        self._there = shown
        message.markers += [_deleted(*key, frame_id) for key, frame_id in gone.items()]
        self._publisher.publish(message)


def _deleted(space: str, number: int, frame_id: str) -> Any:
    from visualization_msgs.msg import Marker

    made = Marker(ns=space, id=number, action=Marker.DELETE)
    made.header.frame_id = frame_id
    return made
