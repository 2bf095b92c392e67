# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one node over real DDS: topics, windows, states and diagnostics of their own, one engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from glimpse_clouds.msg import ActivityEvent
from rclpy.qos import ReliabilityPolicy
from std_srvs.srv import Trigger

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.crowd import carrier
from tests.gc_ros.node.harness import NAME, Peer, running, wait_until
from trt_build.engines.open import open_engine

__all__ = ["carrier"]  # a fixture

pytestmark = pytest.mark.ros
PERIOD = NS // 8
WARN, ERROR = b"\x01", b"\x02"
MODES = pytest.mark.parametrize("mode", ["window", "step"])


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


class Opened:
    """An `open_engine` that keeps what it was asked for and can break what it gave."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.options = options
        self.engine = toy.FakeEngine(open_engine(*arguments, **options))
        return self.engine


def send(peer: Peer, camera: str, count: int, first: int = 0, start_ns: int = 1000 * NS) -> None:
    for number in range(first, first + count):
        peer.publish(toy.number_image(number), start_ns + number * PERIOD, camera=camera)
        time.sleep(0.005)


def spans(peer: Peer, camera: str) -> list[tuple[int, int]]:
    """First and last frame number of every window of a camera, from the stamps that `send` gives."""
    stamps = [(m.window_start, m.window_end) for m in peer.activities_of[camera]]
    return [tuple((ros_messages.to_ns(t) - 1000 * NS) // PERIOD for t in pair) for pair in stamps]  # type: ignore[misc]


@MODES
def test_each_camera_has_its_topics_window_and_state_and_all_share_one_engine(
    numbers: Path, mode: str
) -> None:
    opened = Opened()
    with running(
        numbers, opened, cameras=["front", "head/left"], mode=mode, stall_timeout_s=60.0, max_age_s=0.0
    ) as (
        _,
        peer,
    ):
        peer.add_cameras("front", "head/left")
        assert opened.options["batch"] == 2
        for number in range(8):  # interleaved, the second camera two hours behind and of another size
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD, camera="front")
            image = toy.number_image(500 + number, 32, 24)
            peer.publish(image, 1000 * NS + (number - 57600) * PERIOD, camera="head/left")
        for name in ("front", "head/left"):
            wait_until(lambda name=name: peer.activities_of[name], f"a message about {name}")
        assert spans(peer, "front") == [(0, 7)] and spans(peer, "head/left") == [(-57600, -57593)]
        assert peer.activities_of["head/left"][0].image_width == 32
        wait_until(lambda: peer.events_of["front"], "the onset at the front")
        assert peer.events_of["front"][0].kind == ActivityEvent.ONSET
        for name in ("front", "head/left"):
            status = peer.wait_for_diagnostic(f"camera {name}", "running")
            assert {v.key: v.value for v in status.values}["topic"] == f"/{name}/image"
        assert not peer.camera.get_subscription_count(), "there is no camera without a name"


@pytest.mark.slow
def test_breaks_stalls_and_dead_cameras_are_one_cameras_business(numbers: Path) -> None:
    with running(numbers, cameras=["front", "left", "dead"], stall_timeout_s=3.0, max_age_s=0.0) as (_, peer):
        peer.add_cameras("front", "left")
        send(peer, "front", 7)
        send(peer, "left", 7)
        send(peer, "left", 1, 100)  # a gap
        send(peer, "front", 1, 7)
        wait_until(lambda: peer.activities_of["front"], "the window of the camera without a break")
        status = peer.wait_for_diagnostic("camera left", "warming up, 1 of 8")
        assert {v.key: v.value for v in status.values}["resets: gap"] == "1"
        status = peer.wait_for_diagnostic("camera dead", "no publisher on /dead/image")
        assert status.level == WARN and "-r dead/image:=/image" in status.message
        peer.wait_for_diagnostic("camera left", "no image on /left/image for")
        send(peer, "front", 8, 8)
        peer.wait_for_diagnostic("camera front", "running")
        assert spans(peer, "front")[0] == (0, 7) and spans(peer, "left") == []


def test_a_failing_engine_is_every_cameras_and_reset_reaches_them_all(numbers: Path) -> None:
    opened = Opened()
    with running(numbers, opened, cameras=["front", "left"]) as (_, peer):
        peer.add_cameras("front", "left")
        send(peer, "front", 7)
        send(peer, "left", 7)
        assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        for name in ("front", "left"):
            peer.wait_for_diagnostic(f"camera {name}", "warming up, 0 of 8")
        opened.engine.poison = True
        for number in range(7, 20):
            for name in ("front", "left"):
                send(peer, name, 1, number)
        status = peer.wait_for_diagnostic("engine", "failed engine runs in a row, deactivated")
        assert status.level == ERROR and peer.state() == "inactive"
        assert not peer.activities_of["front"] and not peer.activities_of["left"]
        opened.engine.poison = False
        assert peer.transition("activate")
        peer.add_cameras()
        send(peer, "left", 8, 100)
        wait_until(lambda: peer.activities_of["left"], "a message after recovery")


def test_a_slow_camera_and_a_dead_one_hold_nobody_up(numbers: Path) -> None:
    """Engine calls take 50 ms each; the front camera's results come one call after their frame, two at the most."""
    opened = Opened()
    with running(numbers, opened, cameras=["front", "slow", "dead"], max_frame_gap_s=10.0) as (_, peer):
        peer.add_cameras("front", "slow")
        opened.engine.before_run = lambda: time.sleep(0.05)
        start = time.time_ns()
        for number in range(40):
            peer.publish(toy.number_image(number), start + number * PERIOD, camera="front")
            if number % 5 == 0:
                peer.publish(toy.number_image(number), start + number * PERIOD, camera="slow")
            time.sleep(1 / 15)
        wait_until(lambda: peer.activities_of["slow"], "a window of the slow camera")
        waits = sorted(m.queue_s for m in peer.activities_of["front"])
        assert len(waits) > 20, "a result for most frames"
        assert waits[len(waits) // 2] < 0.06 and waits[-1] < 0.5


@pytest.mark.parametrize("topic", ["image", "people"])
def test_a_depth_that_no_queue_can_have_is_said(numbers: Path, topic: str, carrier: None) -> None:
    overrides = {f"qos_overrides./{topic}.subscription.depth": -1}
    with running(numbers, people="detections", **overrides) as (_, peer):
        assert peer.state() == "inactive"
        peer.wait_for_diagnostic("engine", "depth must be 1 or more, not -1")


def test_qos_asked_for_one_camera_is_not_that_of_the_others(numbers: Path) -> None:
    overrides = {"qos_overrides./front/image.subscription.reliability": "reliable"}
    with running(numbers, cameras=["front", "left"], **overrides) as (node, peer):
        reliability = {}
        for name in ("front", "left"):
            topic = f"/{name}/image"
            wait_until(lambda topic=topic: peer.node.get_subscriptions_info_by_topic(topic), topic)
            (info,) = peer.node.get_subscriptions_info_by_topic(topic)
            reliability[name] = info.qos_profile.reliability
        assert reliability == {"front": ReliabilityPolicy.RELIABLE, "left": ReliabilityPolicy.BEST_EFFORT}
        left = node.node.get_parameter("qos_overrides./left/image.subscription.reliability")
        assert left.value == "best_effort"
