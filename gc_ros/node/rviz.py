# SPDX-License-Identifier: Apache-2.0
"""The glimpses as visualization_msgs/MarkerArray: RViz shows them in the camera's optical frame (REP 103), beside TF.

Only where visualization_msgs is installed (part of ROS's common_interfaces). An image has no depth: boxes and label lie
on a plane one metre in front of the camera, as wide as the parameter `marker_fov_deg` says it sees.
"""

from __future__ import annotations

import math
from typing import Any

from gc_ros.node.ros_messages import to_time
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import glimpse_colour

LIFETIME_S = 2  # after which a marker goes that no result has renewed: the camera or the node has stopped


def markers_type() -> Any:
    """The message class, or None where its package is missing."""
    try:
        from visualization_msgs.msg import MarkerArray
    except ImportError:
        return None
    return MarkerArray


def to_markers(activity: Activity, frame_id: str, fov_deg: float) -> Any:
    """The result as visualization_msgs/MarkerArray, stamped as its newest frame.

    Each glimpse is a box whose lines are the thicker the more the workers take from it, the label with its score is a
    text above the picture. frame_id: of the camera's optical frame, x right, y down, z forward. fov_deg: its horizontal
    field of view.
    """
    from builtin_interfaces.msg import Duration
    from geometry_msgs.msg import Point
    from visualization_msgs.msg import Marker, MarkerArray

    width = 2 * math.tan(math.radians(fov_deg) / 2)  # metres of the plane, at one metre
    pixel = width / activity.width
    weights = activity.assignment
    shares = weights.sum(axis=0) / max(float(weights.sum()), 1e-9)
    message = MarkerArray()

    def at(x: float, y: float) -> Any:
        return Point(x=(x - activity.width / 2) * pixel, y=(y - activity.height / 2) * pixel, z=1.0)

    def marker(kind: int, name: str, number: int, colour: tuple[int, ...]) -> Any:
        made = Marker(ns=name, id=number, type=kind, action=Marker.ADD)
        made.header.frame_id, made.header.stamp = frame_id, to_time(activity.stamp_ns)
        made.lifetime = Duration(sec=LIFETIME_S)
        made.pose.orientation.w = 1.0
        made.color.r, made.color.g, made.color.b = (channel / 255 for channel in colour)
        made.color.a = 1.0
        message.markers.append(made)
        return made

    for g, box in enumerate(activity.glimpses):
        drawn = marker(Marker.LINE_STRIP, "glimpses", g, glimpse_colour(g))
        corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0)]
        drawn.points = [at(x, y) for x, y in corners]
        drawn.scale.x = width * (0.003 + 0.012 * float(shares[g]))
    # An unknown activity has no label; the best guess would read as a statement.
    label = "unknown" if activity.status == "unknown" else activity.label
    words = marker(Marker.TEXT_VIEW_FACING, "label", 0, (255, 255, 255))
    words.text = f"{label}  {activity.score:.0%}"
    words.pose.position = at(activity.width / 2, -0.08 * activity.height)
    words.scale.z = 0.08 * width
    return message
