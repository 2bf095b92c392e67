# SPDX-License-Identifier: Apache-2.0
"""Markers for RViz. visualization_msgs is not on PyPI: its messages are stood in for by classes with the same fields
and nothing else, so a misspelt field is an error."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: make env, or source a ROS 2")

from geometry_msgs.msg import Pose, Vector3
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header

from gc_ros.media.detections import Box
from gc_ros.node import ros_messages, rviz
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import GLIMPSE_COLOURS
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, running, wait_until
from trt_build.engines.open import open_engine

pytestmark = pytest.mark.ros
# Of visualization_msgs/Marker; sequences start empty.
MARKER: dict[str, Any] = {
    "header": Header, "ns": str, "id": int, "type": int, "action": int, "pose": Pose, "scale": Vector3,
    "color": ColorRGBA, "lifetime": lambda: None, "frame_locked": bool, "points": list, "colors": list,
    "texture_resource": str, "text": str, "mesh_resource": str, "mesh_use_embedded_materials": bool,
}  # fmt: skip


@pytest.fixture
def visualization_msgs(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module: Any = types.ModuleType("visualization_msgs.msg")
    made = [(name, Any, dataclasses.field(default_factory=start)) for name, start in MARKER.items()]
    module.Marker = dataclasses.make_dataclass("Marker", made, kw_only=True, slots=True)
    module.Marker.LINE_STRIP, module.Marker.TEXT_VIEW_FACING, module.Marker.ADD = 4, 9, 0
    module.Marker.DELETE = 2
    markers = [("markers", list, dataclasses.field(default_factory=list))]
    module.MarkerArray = dataclasses.make_dataclass("MarkerArray", markers, kw_only=True, slots=True)
    monkeypatch.setitem(sys.modules, "visualization_msgs", types.ModuleType("visualization_msgs"))
    monkeypatch.setitem(sys.modules, "visualization_msgs.msg", module)
    return module


@pytest.fixture
def activity(tmp_path: Path) -> Activity:
    numbers = toy.toy_bundle(tmp_path)
    recognizer = Recognizer(numbers, open_engine(numbers, "window", threads=1))
    for i in range(8):
        result = recognizer.push(toy.number_image(i, 640, 480), NS + i * NS // 8, bgr=False)
    recognizer.close()
    assert result is not None
    return result


def test_without_the_message_package_there_is_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visualization_msgs", None)
    monkeypatch.setitem(sys.modules, "visualization_msgs.msg", None)
    assert rviz.markers_type() is None


def test_every_glimpse_is_a_closed_box_where_the_camera_sees_it(
    visualization_msgs: Any, activity: Activity
) -> None:
    assert rviz.markers_type() is visualization_msgs.MarkerArray
    message = rviz.to_markers(activity, "camera_optical", 90.0)
    boxes = [m for m in message.markers if m.ns == "glimpses"]
    assert [m.id for m in boxes] == [0, 1, 2]
    for g, (drawn, box) in enumerate(zip(boxes, activity.glimpses, strict=True)):
        assert drawn.header.frame_id == "camera_optical" and drawn.type == 4 and drawn.lifetime.sec == 2
        assert ros_messages.to_ns(drawn.header.stamp) == activity.stamp_ns
        points = np.array([(p.x, p.y, p.z) for p in drawn.points])
        assert points[0].tolist() == points[-1].tolist() and (points[:, 2] == 1.0).all()
        # At 90 degrees the picture is two metres wide at one metre; y points down, as in the image.
        pixels = points[:, :2] * 320 + (320, 240)
        assert np.allclose([*pixels.min(0), *pixels.max(0)], (box.x0, box.y0, box.x1, box.y1))
        colour = tuple(round(255 * v) for v in (drawn.color.r, drawn.color.g, drawn.color.b))
        assert colour == GLIMPSE_COLOURS[g] and drawn.color.a == 1.0 and drawn.pose.orientation.w == 1.0
    shares = activity.assignment.sum(axis=0)
    widths = [m.scale.x for m in boxes]
    assert shares[int(np.argmax(widths))] == shares.max() and min(widths) > 0
    narrow = rviz.to_markers(activity, "camera_optical", 30.0).markers[0].points[0]
    assert narrow.x == pytest.approx(boxes[0].points[0].x * math.tan(math.radians(15)))


def test_markers_stay_until_the_next_but_one_result_and_two_seconds_at_least(
    visualization_msgs: Any, activity: Activity
) -> None:
    assert [rviz.lifetime_s(apart) for apart in (0.0, 0.125, 1.25, 4.0, 3600.0)] == [2, 2, 2.5, 8, 60]
    for message in (
        rviz.to_markers(activity, "camera", 60.0, 2.5),
        rviz.to_people_markers(
            [PersonActivity("7", Box(1, 2, 3, 4), activity)], (640, 480), NS, "camera", 60.0, 2.5
        ),
    ):
        assert {(m.lifetime.sec, m.lifetime.nanosec) for m in message.markers} == {(2, NS // 2)}


def test_the_label_is_a_text_and_an_unknown_one_is_not_named(
    visualization_msgs: Any, activity: Activity
) -> None:
    text = rviz.to_markers(activity, "camera", 60.0).markers[-1]
    assert text.text == f"{activity.label}  {activity.score:.0%}" and text.type == 9
    assert text.pose.position.y < -0.5 * 2 * math.tan(math.radians(30)) * 480 / 640 and text.scale.z > 0
    unsure = dataclasses.replace(activity, status="unknown")
    assert rviz.to_markers(unsure, "camera", 60.0).markers[-1].text.startswith("unknown  ")


def test_people_are_boxes_with_a_text_above_in_a_namespace_of_their_own(
    visualization_msgs: Any, activity: Activity
) -> None:
    people = [PersonActivity("7", Box(100, 50, 200, 450), activity)]
    message = rviz.to_people_markers(people, (640, 480), 5 * NS, "camera", 90.0)
    assert {m.ns for m in message.markers} == {"person 7"}
    assert [m.id for m in message.markers] == list(range(1 + 3 + 1)), "else one replaces another"
    points = np.array([(p.x, p.y) for p in message.markers[0].points]) * 320 + (320, 240)
    assert np.allclose([*points.min(0), *points.max(0)], (100, 50, 200, 450))
    assert all(ros_messages.to_ns(m.header.stamp) == 5 * NS for m in message.markers)
    text = message.markers[-1]
    assert text.text == f"7  {activity.label}  {activity.score:.0%}"
    assert text.pose.position.y * 320 + 240 < 50


class RViz:
    """A publisher with what RViz makes of its messages, and whether RViz runs."""

    def __init__(self) -> None:
        self.runs = True
        self.messages: list[Any] = []
        self.there: set[tuple[str, int]] = set()

    def get_subscription_count(self) -> int:
        return int(self.runs)

    def publish(self, message: Any) -> None:
        self.messages.append(message)
        for m in message.markers:
            (self.there.discard if m.action == 2 else self.there.add)((m.ns, m.id))

    @property
    def spaces(self) -> set[str]:
        return {space for space, _ in self.there}

    @property
    def stays_s(self) -> set[float]:
        """How long what the newest message shows stays."""
        markers = [m for m in self.messages[-1].markers if m.action == 0]
        return {m.lifetime.sec + m.lifetime.nanosec / NS for m in markers}


class Camera:
    """What one camera shows in RViz, results at given seconds. apart_s: as `rviz.Shown` takes it."""

    def __init__(self, activity: Activity, apart_s: float) -> None:
        self.rviz = RViz()
        self.shown = rviz.Shown(self.rviz, apart_s)
        self._activity = activity

    def picture(self, at_s: float) -> None:
        self.shown.picture(self._at(at_s), "camera", 60.0)

    def people(self, **at_s: float) -> None:
        people = [PersonActivity(who, Box(1, 2, 3, 4), self._at(s)) for who, s in at_s.items()]
        self.shown.people(people, (640, 480), int(max(at_s.values()) * NS), "camera", 60.0)

    def _at(self, at_s: float) -> Activity:
        return dataclasses.replace(self._activity, stamp_ns=int(at_s * NS))


def test_rviz_shows_the_newest_message_and_nothing_of_those_before(
    visualization_msgs: Any, activity: Activity
) -> None:
    camera = Camera(activity, 1.0)
    camera.picture(1)
    assert camera.rviz.spaces == {"glimpses", "label"}
    camera.people(ann=2, bob=2)
    assert camera.rviz.spaces == {"person ann", "person bob"}
    camera.people(ann=3)
    assert camera.rviz.spaces == {"person ann"}
    assert {m.ns for m in camera.rviz.messages[-1].markers if m.action == 2} == {"person bob"}
    assert all(m.header.frame_id == "camera" for m in camera.rviz.messages[-1].markers)
    camera.picture(4)
    assert camera.rviz.spaces == {"glimpses", "label"}
    camera.shown.clear()
    assert not camera.rviz.there
    camera.shown.clear()
    assert len(camera.rviz.messages) == 5, "nothing is left to delete"


def test_who_does_not_watch_is_told_nothing_and_who_comes_later_no_end_of_what_he_never_saw(
    visualization_msgs: Any, activity: Activity
) -> None:
    camera = Camera(activity, 1.0)
    camera.picture(1)
    camera.rviz.runs = False
    camera.picture(2)
    camera.shown.clear()
    camera.rviz.runs = True
    camera.people(ann=900)
    assert len(camera.rviz.messages) == 2 and camera.rviz.stays_s == {2.0}
    assert {m.action for m in camera.rviz.messages[-1].markers} == {0}
    rviz.Shown(None, 1.0).picture(activity, "camera", 60.0)
    rviz.Shown(None, 1.0).clear()


def test_markers_stay_as_long_as_two_results_of_the_slowest_take(
    visualization_msgs: Any, activity: Activity
) -> None:
    camera = Camera(activity, 6.0)
    stays_s = []
    # Two people whose results come every 6 s, half a second after each other.
    for turn in range(3):
        camera.people(ann=6 * turn, bob=6 * turn - 5.5)
        stays_s.append(camera.rviz.stays_s)
        camera.people(ann=6 * turn, bob=6 * turn + 0.5)
        stays_s.append(camera.rviz.stays_s)
    assert stays_s == [{12.0}] * 6
    # Bob goes: ann's is shown again.
    camera.people(ann=12)
    assert camera.rviz.stays_s == {12.0}
    # A busy engine takes longer than it should.
    camera.people(ann=22)
    assert camera.rviz.stays_s == {20.0}


def test_a_break_is_not_the_pace_of_results(visualization_msgs: Any, activity: Activity) -> None:
    camera = Camera(activity, 0.5)
    camera.picture(1)
    camera.shown.clear()
    camera.picture(41)
    assert camera.rviz.stays_s == {2.0}
    # Nor is the time in which people were shown in the picture's place.
    camera.people(ann=42)
    camera.picture(90)
    assert camera.rviz.stays_s == {2.0}


def test_markers_are_made_only_while_somebody_subscribes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """visualization_msgs is not on PyPI, so another message type carries them over DDS here."""
    made: list[tuple[str, float]] = []

    def to_markers(activity: Any, frame_id: str, fov_deg: float, lifetime_s: float) -> CompressedImage:
        made.append((frame_id, fov_deg))
        return CompressedImage(header=ros_messages.to_header(activity.stamp_ns, frame_id))

    monkeypatch.setattr(rviz, "markers_type", lambda: CompressedImage)
    monkeypatch.setattr(rviz, "to_markers", to_markers)
    monkeypatch.setattr(rviz.Shown, "_send", lambda self, message: self._publisher.publish(message))
    got: list[CompressedImage] = []
    with running(toy.toy_bundle(tmp_path).path, marker_fov_deg=75.0) as (node, peer):
        peer.wait_for_camera()
        for number in range(8):
            peer.publish(toy.number_image(number), NS + number * NS // 8)
            time.sleep(0.005)
        wait_until(lambda: peer.activities, "a message")
        assert not made, "made though nobody watches"
        peer.node.create_subscription(CompressedImage, f"{NAME}/markers", got.append, 10)
        wait_until(lambda: node.node.count_subscribers(f"{NAME}/markers"), "the watcher")
        time.sleep(0.2)
        for number in range(8, 12):
            peer.publish(toy.number_image(number), NS + number * NS // 8)
            time.sleep(0.02)
        wait_until(lambda: got, "markers")
        frame_id = peer.activities[0].header.frame_id
    assert set(made) == {(frame_id, 75.0)}
