# SPDX-License-Identifier: Apache-2.0
"""/diagnostics of a running node: no condition outlives its cause, none hides another; publishing never raises."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, Peer, Process, load_info, new_domain, running, wait_until
from tests.marks import first_fast
from trt_build.engines.open import open_engine

# After the harness, which skips this module where ROS is missing.
from builtin_interfaces.msg import Time  # isort: skip
from diagnostic_msgs.msg import DiagnosticArray  # isort: skip
from rosgraph_msgs.msg import Clock  # isort: skip
from rclpy.parameter import Parameter  # isort: skip
from rclpy.qos import qos_profile_sensor_data  # isort: skip
from sensor_msgs.msg import Image  # isort: skip
from std_srvs.srv import SetBool  # isort: skip

from gc_ros.node import results, ros_messages
from gc_ros.node.camera import lost_share

pytestmark = pytest.mark.ros
PERIOD = NS // 8
OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


def image(number: int, stamp: Time) -> Image:
    message = ros_messages.to_image(toy.number_image(number), ros_messages.to_header(0, "camera"), "rgb8")
    message.header.stamp = stamp
    return message


def test_a_camera_whose_stamp_never_changes_is_told_what_to_mend(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()

        def says() -> Any:
            peer.publish(toy.number_image(1), 1000 * NS)
            status = peer.diagnostics.get("camera")
            return status if status is not None and "their stamp came already" in status.message else None

        status = wait_until(says, "the condition", 10)
        assert status.level == WARN and "let the driver fill header.stamp" in status.message
        assert {v.key: v.value for v in status.values}["images dropped: duplicate"] != "0"


@pytest.mark.slow
def test_an_image_without_a_stamp_is_told_and_hides_the_warming_up_no_longer_than_its_window(
    numbers: Path,
) -> None:
    with running(numbers, stall_timeout_s=60.0) as (_, peer):
        peer.wait_for_camera()
        peer.publish(toy.number_image(0), 0)
        assert peer.wait_for_diagnostic("camera", "1 images had no stamp").level == WARN
        for number in range(1, 4):
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
        status = peer.wait_for_diagnostic("camera", "warming up, 3 of 8", 12)
        assert status.level == OK and {v.key: v.value for v in status.values}["images with zero stamp"] == "1"


@pytest.mark.slow
def test_a_simulation_begins_at_zero_and_begins_again(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=60.0, use_sim_time=True) as (node, peer):
        clock = peer.node.create_publisher(Clock, "/clock", 10)
        peer.wait_for_camera()
        wait_until(lambda: clock.get_subscription_count() > 0, "the clock's listener")
        for turn in (1, 2):
            for number in range(10):
                now = number * PERIOD
                clock.publish(Clock(clock=ros_messages.to_time(now)))
                wait_until(lambda now=now: node.node.get_clock().now().nanoseconds == now, "the time")
                peer.publish(toy.number_image(number), number * PERIOD)
            wait_until(lambda turn=turn: len(peer.activities) == 3 * turn, "three results of ten images")
            first = peer.activities[-3]
            assert first.window_start.sec == first.window_start.nanosec == 0
        status = wait_until(lambda: peer.diagnostics.get("camera"), "diagnostics")
        assert "no stamp" not in status.message


def test_the_frame_id_of_a_result_is_that_of_its_own_image(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        for number in range(24):
            stamp_ns = 1000 * NS + number * PERIOD
            peer.publish(toy.number_image(number), stamp_ns, frame_id=f"camera{number}")
        wait_until(lambda: len(peer.activities) > 10, "results")
        for activity in peer.activities:
            stamp = activity.header.stamp
            number = ((stamp.sec - 1000) * NS + stamp.nanosec) // PERIOD
            assert activity.header.frame_id == f"camera{number}"


def test_the_frame_id_is_that_of_the_newest_image_of_a_time_that_comes_again(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        for name, numbers_ in (("a", range(12)), ("b", range(12, 24)), ("b", range(4, 24))):
            for number in numbers_:
                peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD, frame_id=name)
            wait_until(lambda: peer.activities and _last_number(peer) == number, "the last result")  # noqa: B023
        again = peer.activities[-13:]
        assert [a.header.frame_id for a in again] == ["b"] * 13
        assert {a.header.frame_id for a in peer.activities[:-13]} == {"a", "b"}


def _last_number(peer: Any) -> int:
    stamp = peer.activities[-1].header.stamp
    return int(((stamp.sec - 1000) * NS + stamp.nanosec) // PERIOD)


def test_the_overlay_of_another_node_is_not_named_as_a_camera(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=0.3) as (_, peer):
        peer.node.destroy_publisher(peer.camera)
        peer.node.create_publisher(Image, "/a/activity_recognition/front/debug/image", 1)
        peer.wait_for_diagnostic("camera", "no publisher on /image")
        peer.node.create_publisher(Image, "/b/image_raw", 1)
        status = peer.wait_for_diagnostic("camera", "there is /b/image_raw")
        assert "debug" not in status.message


def test_two_publishers_on_one_topic_are_named(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        peer.node.create_publisher(Image, "image", qos_profile_sensor_data)
        count = 0

        def says() -> Any:
            nonlocal count
            count += 1
            peer.publish(toy.number_image(count), 1000 * NS + count * PERIOD)
            status = peer.diagnostics.get("camera")
            return status if status is not None and "2 publishers on /image" in status.message else None

        status = wait_until(says, "the condition", 10)
        assert status.level == WARN and "/peer" in status.message


@pytest.mark.parametrize(
    "stamp",
    [
        Time(sec=5, nanosec=NS),
        Time(sec=5, nanosec=2**32 - 1),
        Time(sec=2**31 - 1, nanosec=2**32 - 1),
        Time(sec=-(2**31), nanosec=NS),
    ],
    ids=str,
)
def test_a_stamp_that_is_none_is_refused_and_the_node_lives(numbers: Path, stamp: Time) -> None:
    with running(numbers) as (node, peer):
        peer.wait_for_camera()
        camera = node.node._cameras[0]
        for number in range(9):
            peer.camera.publish(image(number, stamp))
            time.sleep(0.01)
        wait_until(lambda: camera.input.refused, "a refusal")
        assert camera.recognizer.counters().frames_received == 0
        peer.wait_for_diagnostic("camera", "nanoseconds, a second has")
        for number in range(8):
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
        wait_until(lambda: peer.activities, "a result of the images that come after")


@pytest.mark.parametrize("second", [-(2**31), 2**31 - 2], ids=["first", "last"])
def test_the_first_and_the_last_seconds_there_are_make_results(numbers: Path, second: int) -> None:
    with running(numbers, max_age_s=0.0) as (_, peer):
        peer.wait_for_camera()
        for number in range(8):
            peer.publish(toy.number_image(number), second * NS + number * PERIOD)
        (message,) = wait_until(lambda: peer.activities, "a result")
        assert message.window_start.sec == second


@pytest.mark.parametrize("ns", [-(2**63), -(2**31) * NS - 1, 2**31 * NS, 2**63])
def test_no_time_is_too_far_away_to_be_published(ns: int) -> None:
    stamp = ros_messages.to_time(ns)
    assert stamp.sec == (-(2**31) if ns < 0 else 2**31 - 1) and 0 <= stamp.nanosec < NS


def test_a_result_that_cannot_be_published_is_no_failure_of_the_engine(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(numbers) as (node, peer):
        peer.wait_for_camera()

        def fail(*arguments: Any, **options: Any) -> None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

        monkeypatch.setattr(results.ros_messages, "to_activity", fail)
        for number in range(16):
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
            time.sleep(0.02)
        status = peer.wait_for_diagnostic("camera", "results cannot be published: UnicodeEncodeError")
        assert status.level == ERROR
        monkeypatch.undo()
        assert node.node.state == "active" and node.node._failures == 0
        for number in range(16, 20):
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
        wait_until(lambda: peer.activities, "a result")


def test_names_in_diagnostics_have_the_namespace_and_hardware_is_the_camera(numbers: Path) -> None:
    new_domain()
    peer = Peer()
    found: dict[str, Any] = {}
    peer.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda m: found.update({s.name: s.hardware_id for s in m.status}), 10
    )
    process = Process(
        "--ros-args", "-r", "__ns:=/robot1", "-r", "image:=/cam/image_raw", "-p", f"bundle:={numbers}",
        "-p", "image_transport:=compressed",
    )  # fmt: skip
    try:
        wait_until(lambda: len(found) == 2, "two statuses", 20)
        assert set(found) == {"robot1/activity_recognition: engine", "robot1/activity_recognition: camera"}
        # As image_transport has it: the remapping of the image holds for its compressed twin.
        assert found["robot1/activity_recognition: camera"] == "/cam/image_raw/compressed"
    finally:
        process.close()
        peer.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remappings", "topic"),
    first_fast(
        ([], "/image/compressed"),
        (["image:=/cam/image_raw"], "/cam/image_raw/compressed"),
        (["image/compressed:=/cam/jpeg"], "/cam/jpeg"),
        (["image:=/cam/image_raw", "image/compressed:=/cam/jpeg"], "/cam/jpeg"),
    ),
)
def test_the_compressed_topic_follows_the_image(remappings: list[str], topic: str, numbers: Path) -> None:
    new_domain()
    peer = Peer()
    words = [word for remapping in remappings for word in ("-r", remapping)]
    process = Process("--ros-args", *words, "-p", f"bundle:={numbers}", "-p", "image_transport:=compressed")
    try:
        wait_until(lambda: peer.node.count_subscribers(topic), f"a subscription of {topic}", 20)
        peer.wait_for_diagnostic("camera", f"no publisher on {topic}")
    finally:
        process.close()
        peer.close()


def test_a_late_listener_gets_the_newest_label_info_alone(numbers: Path) -> None:
    with running(numbers) as (node, peer):
        for threshold in (0.1, 0.2, 0.3):
            (result,) = node.node.set_parameters([Parameter("unknown_threshold", value=threshold)])
            assert result.successful
        infos = load_info(peer)
        wait_until(lambda: infos, "the label info")
        time.sleep(0.5)
        assert [round(info.unknown_threshold, 3) for info in infos] == [0.3]


@pytest.mark.slow
@pytest.mark.parametrize("camera_hz", [30, 60])
def test_the_overlay_shows_nearly_every_result_of_a_fast_camera(camera_hz: int, numbers: Path) -> None:
    """An engine of half a second: many camera frames later the frame of the result must still be there."""

    class Slow:
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            engine = toy.FakeEngine(open_engine(*arguments, **options))
            engine.before_run = lambda: time.sleep(0.5)
            return engine

    with running(numbers, Slow(), max_age_s=0.0) as (node, peer):
        pictures: list[Image] = []
        peer.node.create_subscription(Image, f"{NAME}/debug/image", pictures.append, 10)
        peer.wait_for_camera()
        wait_until(lambda: node.node._cameras[0].results._debug.get_subscription_count(), "the watcher")
        picture = np.zeros((480, 640, 3), np.uint8)
        began, start = time.monotonic(), time.time_ns()
        for number in range(6 * camera_hz):
            time.sleep(max(began + number / camera_hz - time.monotonic(), 0))
            peer.publish(picture, start + number * NS // camera_hz)
        time.sleep(1.5)
        results_of = {ros_messages.to_ns(message.header.stamp) for message in peer.activities}
        drawn = {ros_messages.to_ns(message.header.stamp) for message in pictures}
    assert len(results_of) >= 5 and drawn <= results_of
    assert len(drawn) >= 0.95 * len(results_of), f"{len(drawn)} of {len(results_of)} results drawn"


@pytest.mark.parametrize("how", ["disabled", "deactivated"])
def test_images_that_nobody_wanted_are_not_lost_on_the_way(numbers: Path, how: str) -> None:
    with running(numbers) as (node, peer):
        (camera,) = node.node._cameras
        for start, pause_ns in ((0, 0), (30, 20 * NS)):
            peer.wait_for_camera()
            for number in range(start, start + 30):
                received = camera.input.received
                peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD + pause_ns)
                wait_until(lambda received=received: camera.input.received > received, "the image")
            if how == "deactivated":
                assert peer.transition("deactivate") and peer.transition("activate")
            else:
                for on in (False, True):
                    assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=on)).success
        assert lost_share([*camera._stamps]) in (None, 0.0)
