# SPDX-License-Identifier: Apache-2.0
"""People over DDS in the very messages of vision_msgs and hri_msgs, made of their published definitions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from glimpse_clouds.msg import PersonActivities

from gc_ros.media import people_topics
from gc_ros.media.detections import Detections
from gc_ros.media.people_topics import Bodies
from gc_ros.node import people_results, ros_messages
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.crowd import PERIOD, Drawn, detections, picture
from tests.gc_ros.node.harness import NAME, Peer, Running, running, wait_until
from tests.gc_ros.node.message_packages import build, importable, installed

# The first test of each package compiles it: ten seconds to half a minute of two quiet cores.
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(1200)]
START, WIDTH, HEIGHT = 1000 * NS, 320, 240
PEOPLE = [Drawn("ab1", "red", "red", x=60), Drawn("cd2", "blue", "blue", x=220, y=160)]
# As github.com/ros-perception/vision_msgs (ros2, from release 4 on) and github.com/ros4hri/hri_msgs (2.x, with the
# handedness of gestures that came later) publish them.
VISION = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "Detection2D": "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id\n",
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections\n",
    "Classification": "std_msgs/Header header\nObjectHypothesis[] results\n",
}
HRI = {
    "IdsList": "std_msgs/Header header\nstring[] ids\n",
    "NormalizedRegionOfInterest2D": "std_msgs/Header header\nfloat32 xmin\nfloat32 ymin\nfloat32 xmax\nfloat32 ymax\n"
    "float32 c\n",
    "Gesture": "std_msgs/Header header\nuint8 HANDS_ON_FACE=1\nuint8 ARMS_CROSSED=2\nuint8 WAVING=6\nuint8 OTHER=0\n"
    "uint8 RIGHT=1\nuint8 LEFT=2\nuint8 INDEPENDENT=0\nuint8 gesture\nuint8 handedness\n",
}


@contextlib.contextmanager
def made(package: str, messages: Mapping[str, str], needs: tuple[str, ...], folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not installed(package):
            stack.enter_context(importable(build(package, messages, needs, folder)))
        yield


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with made("vision_msgs", VISION, ("std_msgs", "geometry_msgs"), tmp_path_factory.mktemp("vision")):
        yield


@pytest.fixture(scope="module")
def hri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with made("hri_msgs", HRI, ("std_msgs",), tmp_path_factory.mktemp("hri")):
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which red means a gesture."""
    folder = tmp_path_factory.mktemp("colours") / "bundle"
    return toy.toy_bundle(folder, "colours", reset_after=0, labels=["waving", "green", "left"]).path


class Listener:
    """What the node says about people."""

    def __init__(self, peer: Peer) -> None:
        self.messages: list[PersonActivities] = []
        peer.node.create_subscription(PersonActivities, f"{NAME}/people", self.messages.append, 50)

    def both(self) -> dict[str, tuple[str, float]]:
        """Label and left edge of each person, once there are two."""
        wait_until(lambda: self.messages and len(self.messages[-1].people) == 2, "both people")
        return {p.person_id: (p.label, p.x_min) for p in self.messages[-1].people}


EXPECTED = {"ab1": ("waving", pytest.approx(40.0, abs=0.01)), "cd2": ("left", pytest.approx(200.0, abs=0.01))}


def publisher(node: Running, peer: Peer, kind: Any, topic: str) -> Any:
    found = peer.node.create_publisher(kind, topic, 10)
    wait_until(found.get_subscription_count, f"the node at {topic}")
    wait_until(lambda: node.node.count_publishers(found.topic_name), f"{topic} at the node")
    return found


@pytest.mark.usefixtures("vision")
def test_detections_of_vision_msgs_give_activities_and_results_go_out_as_classification(bundle: Path) -> None:
    from vision_msgs.msg import Classification, Detection2D, Detection2DArray, ObjectHypothesisWithPose

    def message(found: Detections) -> Any:
        made = Detection2DArray(header=ros_messages.to_header(found.stamp_ns, "camera"))
        for person in found.people:
            one = Detection2D(header=made.header, id=person.id, results=[ObjectHypothesisWithPose()])
            one.results[0].hypothesis.class_id, one.results[0].hypothesis.score = "person", 0.9
            box = person.box
            one.bbox.center.position.x, one.bbox.center.position.y = (
                (box.x_min + box.x_max) / 2,
                (box.y_min + box.y_max) / 2,
            )
            one.bbox.size_x, one.bbox.size_y = box.x_max - box.x_min, box.y_max - box.y_min
            made.detections.append(one)
        return made

    with running(bundle, people="detections", max_age_s=0.0, stall_timeout_s=60.0) as (node, peer):
        peer.wait_for_camera()
        listener, results = Listener(peer), []
        peer.node.create_subscription(Classification, f"{NAME}/classification", results.append, 50)
        detector = publisher(node, peer, Detection2DArray, "people")
        (camera,) = node.node._cameras
        for frame in range(12):
            stamp_ns = START + frame * PERIOD
            peer.publish(picture(PEOPLE, frame), stamp_ns)
            before = camera.people.input.messages
            detector.publish(message(detections(PEOPLE, frame, stamp_ns)))
            wait_until(lambda before=before: camera.people.input.messages > before, "the detections")
        assert listener.both() == EXPECTED
        wait_until(lambda: results, "a classification")
        assert results[-1].results[0].class_id in ("waving", "green", "left")
        assert sum(h.score for h in results[-1].results) == pytest.approx(1.0, abs=1e-3)
        assert not node.errors


@pytest.mark.usefixtures("hri")
def test_bodies_of_hri_msgs_give_activities_and_gestures_go_out_on_their_topics(bundle: Path) -> None:
    from hri_msgs.msg import Gesture, IdsList, NormalizedRegionOfInterest2D

    with running(bundle, people="hri", max_age_s=0.0, stall_timeout_s=60.0) as (node, peer):
        peer.wait_for_camera()
        listener, gestures = Listener(peer), {person.id: [] for person in PEOPLE}
        for name, found in gestures.items():
            peer.node.create_subscription(Gesture, Bodies.gesture_topic(name), found.append, 50)
        publisher(node, peer, IdsList, "/humans/bodies/tracked").publish(
            IdsList(header=ros_messages.to_header(START, "camera"), ids=[person.id for person in PEOPLE])
        )
        rois = [
            publisher(node, peer, NormalizedRegionOfInterest2D, Bodies.roi_topic(person.id))
            for person in PEOPLE
        ]
        (camera,) = node.node._cameras
        for frame in range(1, 24):
            stamp_ns = START + frame * PERIOD
            peer.publish(picture(PEOPLE, frame), stamp_ns)
            before = camera.people.input.detections
            for person, topic in zip(PEOPLE, rois, strict=True):
                box = person.box(frame)
                topic.publish(
                    NormalizedRegionOfInterest2D(
                        header=ros_messages.to_header(stamp_ns, "camera"),
                        xmin=box.x_min / WIDTH,
                        ymin=box.y_min / HEIGHT,
                        xmax=box.x_max / WIDTH,
                        ymax=box.y_max / HEIGHT,
                        c=1.0,
                    )
                )
            wait_until(lambda before=before: camera.people.input.detections == before + 2, "both boxes")
        assert listener.both() == EXPECTED
        wait_until(lambda: gestures["ab1"], "the gesture")
        assert {(m.gesture, m.handedness) for m in gestures["ab1"]} == {(Gesture.WAVING, Gesture.INDEPENDENT)}
        assert gestures["ab1"][0].header.frame_id == "camera"
        assert not gestures["cd2"], "left is a hand, and no gesture"
        assert not node.errors


@pytest.mark.usefixtures("hri")
def test_a_hand_is_no_gesture() -> None:
    kind = people_results._gesture_type()
    assert people_results.gesture_of(kind, "arms crossed") == 2
    for label in ("left", "right", "independent", "other"):
        assert people_results.gesture_of(kind, label) is None


def test_the_table_has_the_published_definitions() -> None:
    """With which bags that hold none are read, and which `make-bag` writes."""
    published = {f"vision_msgs/msg/{n}": text for n, text in VISION.items()}
    published |= {f"hri_msgs/msg/{n}": text for n, text in HRI.items()}
    for family in people_topics.FAMILIES:
        for name, definition in family.definitions.items():
            package = name.split("/")[0]
            assert definition.replace(f"{package}/", "") == published[name].replace(f"{package}/", ""), name
