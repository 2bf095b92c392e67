# SPDX-License-Identifier: Apache-2.0
"""Drawn people with known answers, and a detector of them over DDS."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from glimpse_clouds.msg import PersonActivities

from gc_ros.media import people_topics
from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.media.images import Picture
from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests.gc_ros.node.carrier import ROW, found_message
from tests.gc_ros.node.harness import NAME, Peer, Running, wait_until

PERIOD = NS // 8
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A person: a square of the colour that the toy `colours` takes for an activity, changing at frame `change`."""

    id: str
    before: str
    after: str
    change: int = 1_000_000
    x: float = 40.0
    y: float = 40.0
    speed: float = 0.0  # pixels a frame, to the right
    size: float = 40.0
    first: int = 0
    last: int = 1_000_000

    def doing(self, frame: int) -> str:
        return self.before if frame < self.change else self.after

    def here(self, frame: int) -> bool:
        return self.first <= frame <= self.last

    def box(self, frame: int) -> Box:
        x, half = self.x + self.speed * frame, self.size / 2
        return Box(x - half, self.y - half, x + half, self.y + half)


def picture(people: Iterable[Drawn], frame: int, width: int = 320, height: int = 240) -> np.ndarray:
    """RGB image (H, W, 3): nearly black, and the people that are there."""
    image = np.full((height, width, 3), 8, np.uint8)
    for person in people:
        if person.here(frame):
            box = person.box(frame)
            y0, y1, x0, x1 = (max(round(v), 0) for v in (box.y_min, box.y_max, box.x_min, box.x_max))
            image[y0:y1, x0:x1] = COLOURS[person.doing(frame)]
    return image


def detections(people: Iterable[Drawn], frame: int, stamp_ns: int) -> Detections:
    """What a perfect detector with a perfect tracker finds."""
    there = [person for person in people if person.here(frame)]
    return Detections(stamp_ns, tuple(Detection(person.id, person.box(frame)) for person in there))


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """`detections` come as DiagnosticArray."""
    monkeypatch.setitem(people_topics.BY_NAME, "detections", ROW)


class Detector:
    """Publishes detections beside a camera, and listens to what the node says about the people in it."""

    def __init__(self, node: Running, peer: Peer, camera: str = "", topic: str = "people") -> None:
        prefix = f"{camera}/" if camera else ""
        self.node, self.peer, self.camera = node, peer, camera
        self.topic = peer.node.create_publisher(DiagnosticArray, f"{prefix}{topic}", 50)
        self.messages: list[PersonActivities] = []
        peer.node.create_subscription(PersonActivities, f"{NAME}/{prefix}people", self.messages.append, 200)
        wait_until(lambda: peer.node.count_publishers(f"{NAME}/{prefix}people"), "the node's people")
        wait_until(self.topic.get_subscription_count, "the node's subscription")
        wait_until(lambda: node.node.count_publishers(self.topic.topic_name), "the detector at the node")

    @property
    def at_node(self) -> Any:
        (camera,) = [one for one in self.node.node._cameras if one.name == self.camera]
        return camera.people

    def send(self, message: DiagnosticArray) -> None:
        """Publish, and wait until the node has taken it."""
        before = self.at_node.input.messages
        self.topic.publish(message)
        wait_until(lambda: self.at_node.input.messages > before, "the detections to be taken")

    def show(
        self, people: list[Drawn], frames: Iterable[int], start_ns: int = 1000 * NS, pause_s: float = 0.0
    ) -> None:
        """Images of these frames, each followed by what was detected in it."""
        for frame in frames:
            stamp_ns = start_ns + frame * PERIOD
            self.peer.publish(picture(people, frame), stamp_ns, camera=self.camera)
            self.send(found_message(detections(people, frame, stamp_ns)))
            time.sleep(pause_s)

    def results(self) -> Iterator[tuple[str, int, Any]]:
        """(id, stamp of the window's end, PersonActivity), each result once."""
        seen = set()
        for message in list(self.messages):
            for person in message.people:
                key = person.person_id, ros_messages.to_ns(person.window_end)
                if key not in seen:
                    seen.add(key)
                    yield (*key, person)


def as_picture(people: list[Drawn], frame: int) -> Picture:
    """What a file gives the recogniser of the same frame."""
    return Picture.of(picture(people, frame), bgr=False)
