# SPDX-License-Identifier: Apache-2.0
"""People as REP-155 has them, over real DDS, and their gestures. hri_msgs is not on PyPI: messages of other packages
carry ids and boxes, and are read by the readers of hri_msgs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point32, PolygonStamped
from glimpse_clouds.msg import PersonActivities

from gc_ros.media import people_topics
from gc_ros.media.people_topics import Bodies, Found
from gc_ros.node import people_input, people_results, ros_messages
from gc_ros.node.people_results import gesture_of
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.crowd import PERIOD, Drawn, picture
from tests.gc_ros.node.harness import NAME, running, wait_until

pytestmark = pytest.mark.ros
START, WIDTH, HEIGHT = 1000 * NS, 320, 240
TRACKED = "/humans/bodies/tracked"


class Carried(Bodies):
    ROI_TYPE = "geometry_msgs/msg/PolygonStamped"

    def tracked(self, message: Any) -> Found:
        return super().tracked(SimpleNamespace(header=message.header, ids=[s.name for s in message.status]))

    def roi(self, body: str, message: Any, size: tuple[int, int] | None) -> Found:
        low, high = message.polygon.points
        box = {"xmin": low.x, "ymin": low.y, "xmax": high.x, "ymax": high.y, "c": 1.0}
        return super().roi(body, SimpleNamespace(header=message.header, **box), size)


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    row = people_topics.BY_NAME["hri"]
    carried = dataclasses.replace(row, type_name="diagnostic_msgs/msg/DiagnosticArray")
    monkeypatch.setitem(people_topics.BY_NAME, "hri", carried)
    monkeypatch.setattr(people_input, "Bodies", Carried)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("colours") / "bundle", "colours", reset_after=0).path


class Body:
    """A publisher of the boxes of a body."""

    def __init__(self, peer: Any, person: Drawn) -> None:
        self.person = person
        self.topic = peer.node.create_publisher(PolygonStamped, Bodies.roi_topic(person.id), 10)

    def send(self, frame: int) -> None:
        box = self.person.box(frame)
        message = PolygonStamped(header=ros_messages.to_header(START + frame * PERIOD, "camera"))
        message.polygon.points = [
            Point32(x=box.x_min / WIDTH, y=box.y_min / HEIGHT),
            Point32(x=box.x_max / WIDTH, y=box.y_max / HEIGHT),
        ]
        self.topic.publish(message)


@pytest.mark.usefixtures("bodies")
def test_bodies_come_and_go_with_topics_of_their_own(colours: Path) -> None:
    people = [Drawn("ab1", "red", "red", x=60), Drawn("cd2", "blue", "blue", x=220, y=160)]
    messages: list[PersonActivities] = []
    with running(colours, people="hri", max_age_s=0.0, stall_timeout_s=60.0) as (node, peer):
        peer.wait_for_camera()
        peer.node.create_subscription(PersonActivities, f"{NAME}/people", messages.append, 50)
        ids = peer.node.create_publisher(DiagnosticArray, TRACKED, 10)
        wait_until(ids.get_subscription_count, "the node at the ids")
        wait_until(lambda: node.node.count_publishers(TRACKED), "the ids at the node")
        (camera,) = node.node._cameras
        assert camera.people is not None
        follows = camera.people.input._rois

        def tell(stamp_ns: int, *who: str) -> None:
            message = DiagnosticArray(header=ros_messages.to_header(stamp_ns, "camera"))
            message.status = [DiagnosticStatus(name=name) for name in who]
            ids.publish(message)
            wait_until(lambda: set(follows) == set(who), f"the topics of {who}")

        made = [Body(peer, person) for person in people]
        tell(START, "ab1", "cd2")
        for body in made:
            wait_until(body.topic.get_subscription_count, "the node at the boxes")
            wait_until(
                lambda body=body: node.node.count_publishers(body.topic.topic_name), "the boxes at the node"
            )
        time.sleep(0.2)
        for frame in range(1, 12):
            peer.publish(picture(people, frame), START + frame * PERIOD)
            before = camera.people.input.detections
            for body in made:
                body.send(frame)
            wait_until(lambda before=before: camera.people.input.detections == before + 2, "both boxes")
        wait_until(lambda: messages and len(messages[-1].people) == 2, "both people")
        found = {p.person_id: (p.label, p.x_min) for p in messages[-1].people}
        assert found == {
            "ab1": ("red", pytest.approx(40.0, abs=0.01)),
            "cd2": ("blue", pytest.approx(200.0, abs=0.01)),
        }
        peer.wait_for_diagnostic("people", "2 people")
        tell(START + 12 * PERIOD, "cd2")
        tell(START + 13 * PERIOD)
        wait_until(lambda: not made[1].topic.get_subscription_count(), "no topic of a body")
        assert not node.errors


def test_people_of_named_cameras_are_refused_with_rep_155(colours: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        row = dataclasses.replace(
            people_topics.BY_NAME["hri"], type_name="diagnostic_msgs/msg/DiagnosticArray"
        )
        patch.setitem(people_topics.BY_NAME, "hri", row)
        with running(colours, people="hri", cameras=["front", "left"]) as (_, peer):
            peer.wait_for_diagnostic("engine", "people hri is for one camera without a name")
            assert peer.state() == "unconfigured"


GESTURE = SimpleNamespace(OTHER=0, ARMS_CROSSED=2, WAVING=6, THUMB_UP=11, LEFT=2, RIGHT=1, SLOT_TYPES=())


@pytest.mark.parametrize(
    ("label", "number"),
    [("waving", 6), ("wave", 6), ("Hand waving", 6), ("arms-crossed", 2), ("thumb_up", 11), ("drink", None),
     ("other", None), ("left", None), ("Right", None), ("", None), ("slot types", None), ("unknown", None)],
)  # fmt: skip
def test_labels_that_are_gestures_are_known_in_any_usual_spelling(label: str, number: int | None) -> None:
    assert gesture_of(GESTURE, label) == number
    assert gesture_of(None, label) is None


@pytest.mark.usefixtures("bodies")
def test_a_gesture_goes_out_on_the_topic_of_its_body(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The colour red stands for a gesture, and a DiagnosticArray for hri_msgs/Gesture."""

    class Gesture(DiagnosticArray):
        RED = 6

        def __init__(self, header: Any, gesture: int) -> None:
            super().__init__(header=header, status=[DiagnosticStatus(name=str(gesture))])

    monkeypatch.setattr(people_results, "_gesture_type", lambda: Gesture)
    person = Drawn("ab1", "red", "red", x=60)
    found: list[DiagnosticArray] = []
    with running(colours, people="hri", max_age_s=0.0, stall_timeout_s=60.0) as (node, peer):
        peer.wait_for_camera()
        peer.node.create_subscription(DiagnosticArray, Bodies.gesture_topic("ab1"), found.append, 50)
        (camera,) = node.node._cameras
        assert camera.people is not None
        show = camera.people._take
        for frame in range(30):
            stamp_ns = START + frame * PERIOD
            peer.publish(picture([person], frame), stamp_ns)
            show(people_topics.Detections(stamp_ns, (people_topics.Detection("ab1", person.box(frame)),)))
            time.sleep(0.02)
        wait_until(lambda: found, "the gesture")
    assert {s.name for message in found for s in message.status} == {"6"}
