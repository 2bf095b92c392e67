# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on robots: the node stays up, publishes nothing false, and says what to do."""

from __future__ import annotations

import array
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, Faulty, Peer, running, wait_until
from trt_build.engines.open import open_engine
from trt_build.errors import EngineError

pytestmark = pytest.mark.ros
PERIOD = NS // 8
WARN, ERROR = b"\x01", b"\x02"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


def send(peer: Peer, count: int, first: int = 0, start_ns: int = 1000 * NS, pause_s: float = 0.01) -> None:
    for number in range(first, first + count):
        peer.publish(toy.number_image(number), start_ns + number * PERIOD)
        time.sleep(pause_s)


def fail() -> None:
    raise EngineError("the device is gone")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nan", "inf", "raise", "raise what no backend should"])
def test_a_failing_engine_publishes_nothing_and_deactivates_after_three_in_a_row(
    numbers: Path, fault: str
) -> None:
    faulty = Faulty()
    with running(numbers, faulty) as (_, peer):
        peer.wait_for_camera()
        if fault in ("nan", "inf"):
            faulty.engine.poison = float(fault)
        else:
            faulty.engine.before_run = fail if fault == "raise" else lambda: 1 // 0
        send(peer, 20, pause_s=0.05)
        status = peer.wait_for_diagnostic("engine", "failed engine runs in a row, deactivated")
        assert status.level == ERROR
        says = {"raise": "the device is gone", "nan": "not finite", "inf": "not finite"}.get(
            fault, "ZeroDivision"
        )
        assert says in status.message
        assert peer.activities == [] and peer.state() == "inactive"
        faulty.engine.poison, faulty.engine.before_run = False, None
        assert peer.transition("activate")
        peer.wait_for_camera()
        send(peer, 8, 100)
        wait_until(lambda: peer.activities, "a message after recovery")
        peer.wait_for_diagnostic("engine", "active")


def test_an_engine_that_is_slow_to_fail_is_given_up_while_images_come(numbers: Path) -> None:
    """Each failed run of a step makes the images void that came meanwhile: they are no runs that went well."""
    faulty, arrived = Faulty(), threading.Event()

    def fail_late() -> None:
        arrived.clear()
        arrived.wait(2)
        fail()

    with running(numbers, faulty, mode="step") as (node, peer):
        peer.wait_for_camera()
        faulty.engine.before_run = fail_late

        def taken(more_than: int) -> bool:
            sampled = node.node._cameras[0].recognizer.counters().frames_sampled
            return sampled > more_than or node.node.state != "active"

        for number in range(100):
            before = node.node._cameras[0].recognizer.counters().frames_sampled
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
            wait_until(partial(taken, before), "the image to be taken")
            if number:
                arrived.set()
            if node.node.state != "active":
                break
        peer.wait_for_diagnostic("engine", "3 failed engine runs in a row, deactivated")
        # One run was at configuring, and went well; a fourth may begin before the node hears of the third.
        assert faulty.engine.runs - 1 in (3, 4) and peer.state() == "inactive"


def test_one_failed_run_is_survived(numbers: Path) -> None:
    faulty = Faulty()
    with running(numbers, faulty) as (_, peer):
        peer.wait_for_camera()
        send(peer, 7)
        faulty.engine.poison = True
        runs = faulty.engine.runs
        send(peer, 1, 7)
        wait_until(lambda: faulty.engine.runs > runs, "the poisoned run")
        faulty.engine.poison = False
        send(peer, 1, 8)
        wait_until(lambda: peer.activities, "a message")
        assert ros_messages.to_ns(peer.activities[0].window_start) == 1000 * NS + PERIOD
        assert peer.state() == "active"


def test_single_failed_runs_do_not_add_up_on_a_camera_that_is_silent(numbers: Path) -> None:
    faulty = Faulty()
    with running(numbers, faulty, cameras=["front", "left"], max_failures=2) as (node, peer):
        peer.add_cameras("front", "left")
        for hiccup in range(3):
            start_ns = (1000 + 100 * hiccup) * NS
            faulty.engine.before_run, runs = fail, faulty.engine.runs
            send_to_front(peer, 8, start_ns)
            wait_until(lambda runs=runs: faulty.engine.runs > runs, "the failed run")
            faulty.engine.before_run = None
            seen = len(peer.activities_of["front"])
            send_to_front(peer, 2, start_ns + 8 * PERIOD)
            wait_until(lambda seen=seen: len(peer.activities_of["front"]) > seen, "a result after it")
            assert node.node._failures_in_row == 0 and peer.state() == "active"


def send_to_front(peer: Peer, count: int, start_ns: int) -> None:
    for number in range(count):
        peer.publish(toy.number_image(number), start_ns + number * PERIOD, camera="front")
        time.sleep(0.01)


def test_what_a_failed_run_ends_is_told_though_no_image_comes_any_more(tmp_path: Path) -> None:
    """A state that is lost ends the activity that is on; a camera that stops then would leave it on for ever."""
    faulty = Faulty()
    bundle = toy.toy_bundle(tmp_path / "bundle", "colours", reset_after=0).path
    green = np.zeros((48, 64, 3), np.uint8)
    green[..., 1] = 250
    options = {"mode": "step", "stall_timeout_s": 60.0, "smoothing_tau_s": 0.0, "max_age_s": 0.0}
    with running(bundle, faulty, **options) as (_, peer):
        peer.wait_for_camera()
        for number in range(12):
            peer.publish(green, 1000 * NS + number * PERIOD)
            time.sleep(0.02)
        wait_until(lambda: peer.events, "the onset")
        faulty.engine.before_run = fail
        peer.publish(green, 1000 * NS + 12 * PERIOD)
        wait_until(lambda: len(peer.events) > 1, "the offset")
        assert [(event.kind, event.label) for event in peer.events] == [(0, "green"), (1, "green")]


def test_exit_on_failure_sets_exit_code_3(numbers: Path) -> None:
    faulty = Faulty()
    with running(numbers, faulty, exit_on_failure=True, max_failures=1) as (node, peer):
        peer.wait_for_camera()
        faulty.engine.poison = True
        send(peer, 8)
        wait_until(lambda: node.node.exit_code == 3, "the exit code")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_backend_that_is_not_installed_is_never_another_one_in_silence(
    backend: str, numbers: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for loaded in [name for name in sys.modules if name.split(".")[0] == backend]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, backend, None)
    with running(numbers, backend=backend, exit_on_failure=False) as (_, peer):
        status = peer.wait_for_diagnostic("engine", f"{backend} cannot be imported")
        assert status.level == ERROR and "python3 -m pip install" in status.message
        assert peer.state() == "unconfigured"
    assert f"{backend} cannot be imported" in capfd.readouterr().err


def test_a_hanging_engine_is_told_and_abandoned(numbers: Path) -> None:
    faulty, release = Faulty(), threading.Event()
    with running(numbers, faulty, inference_timeout_s=0.5) as (_, peer):
        peer.wait_for_camera()
        faulty.engine.before_run = lambda: release.wait(60)
        try:
            send(peer, 8)
            peer.wait_for_diagnostic("engine", "inference_timeout_s")
            assert peer.state() == "inactive" and peer.activities == []
            assert not peer.transition("activate"), "the engine still hangs"
            assert peer.transition("cleanup") and peer.transition("configure") and peer.transition("activate")
            peer.wait_for_camera()
            send(peer, 8, 100)
            wait_until(lambda: peer.activities, "a message of the new engine")
        finally:
            release.set()


def test_a_build_that_takes_minutes_is_told_line_by_line(numbers: Path, capfd: pytest.CaptureFixture) -> None:
    def building(*arguments: Any, **options: Any) -> Any:
        options["say"]("compiling: tactics 3/9 (8 s)")
        return open_engine(*arguments, **options)

    with running(numbers, building) as (_, peer):
        peer.wait_for_camera()
    assert "building the engine: compiling: tactics 3/9 (8 s)" in capfd.readouterr().err


def test_a_slow_engine_skips_windows_and_never_takes_an_old_one(numbers: Path) -> None:
    faulty = Faulty()
    with running(numbers, faulty) as (node, peer):
        peer.wait_for_camera()
        faulty.engine.before_run = lambda: time.sleep(0.1)
        began = time.monotonic()
        send(peer, 60, pause_s=1 / 30)
        sent_s = time.monotonic() - began  # two seconds, more on a busy machine
        recognizer = node.node._cameras[0].recognizer
        wait_until(lambda: recognizer.counters().frames_received == 60, "all images", 3)
        wait_until(
            lambda: ros_messages.to_ns(peer.activities[-1].header.stamp) == 1000 * NS + 59 * PERIOD,
            "the last",
        )
        skipped = peer.activities[-1].windows_skipped
        assert len(peer.activities) + skipped == 53
        assert len(peer.activities) <= sent_s / 0.1 + 3, "a run for each tenth of a second, then the last"
        # At most one run is under way when a window comes: it waits for the rest of that one.
        waits = [message.queue_s for message in peer.activities]
        assert np.median(waits) < 0.1 and max(waits) < 0.25


def test_malformed_images_are_counted_and_the_good_ones_go_on(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        bad = Image(width=640, height=480, step=1920, encoding="bgr8", data=array.array("B", bytes(100)))
        for number in range(8):
            bad.header = ros_messages.to_header(1000 * NS + number * PERIOD + 5, "camera")
            peer.camera.publish(bad)
            time.sleep(0.01)
        status = peer.wait_for_diagnostic("camera", "every image is refused: 100 bytes of data")
        assert status.level == ERROR
        send(peer, 8)
        wait_until(lambda: peer.activities, "a message")
        assert (peer.activities[0].frames_received, peer.activities[0].frames_dropped) == (16, 8)


def test_no_publisher_names_the_topics_there_are(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=0.3) as (_, peer):
        peer.node.destroy_publisher(peer.camera)
        peer.wait_for_diagnostic(
            "camera", "no publisher on /image; no other topic of type sensor_msgs/msg/Image"
        )
        peer.node.create_publisher(Image, "/camera/image_raw", 1)
        status = peer.wait_for_diagnostic("camera", "remap with -r image:=/camera/image_raw")
        assert status.level == WARN


def test_a_topic_of_another_type_is_named(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=0.3) as (_, peer):
        peer.node.destroy_publisher(peer.camera)
        other = Peer(camera_type=CompressedImage)  # one participant cannot have a topic in two types
        try:
            status = peer.wait_for_diagnostic(
                "camera", "/image is published as sensor_msgs/msg/CompressedImage"
            )
        finally:
            other.close()
        assert status.level == ERROR


def test_incompatible_qos_names_policy_and_parameter(numbers: Path) -> None:
    overrides = {"qos_overrides./image.subscription.reliability": "reliable", "stall_timeout_s": 0.3}
    with running(numbers, **overrides) as (_, peer):
        wanted = "-p qos_overrides./image.subscription.reliability:=best_effort"
        assert peer.wait_for_diagnostic("camera", wanted).level == ERROR
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        camera = peer.node.create_publisher(Image, "image", reliable)
        first, peer.camera = peer.camera, camera
        peer.wait_for_camera()
        send(peer, 8)
        wait_until(lambda: peer.activities, "a message through the matching publisher")
        # It was said of another publisher: neither silence of this one nor its end is about quality of service.
        peer.wait_for_diagnostic("camera", "though 2 publisher")
        for publisher in (camera, first):
            peer.node.destroy_publisher(publisher)
        peer.wait_for_diagnostic("camera", "no publisher on /image")


def test_of_an_incompatible_publisher_that_has_gone_nothing_is_said(numbers: Path) -> None:
    overrides = {"qos_overrides./image.subscription.reliability": "reliable", "stall_timeout_s": 0.3}
    with running(numbers, **overrides) as (_, peer):
        peer.wait_for_diagnostic("camera", "does not offer the QoS reliability")
        peer.node.destroy_publisher(peer.camera)
        peer.wait_for_diagnostic("camera", "no publisher on /image")


def test_quality_of_service_of_another_topic_is_told(
    numbers: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "qos_overrides./imagee.subscription.reliability"
    own = "qos_overrides./image.subscription.reliability"
    with running(numbers, **{name: "reliable", own: "best_effort"}) as (_, peer):
        peer.wait_for_camera()
    said = capfd.readouterr().err
    assert f"{name} is for no topic of this node: it subscribes to /image" in said
    assert f"{own} is for" not in said


def test_a_stalled_camera_clears_the_window_and_recovers(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=0.3) as (_, peer):
        peer.wait_for_camera()
        send(peer, 7)
        status = peer.wait_for_diagnostic("camera", "no image on /image for")
        assert status.level == WARN
        send(peer, 8, 7)  # right behind by their stamps: only the watchdog knows
        wait_until(lambda: peer.activities, "a message")
        assert ros_messages.to_ns(peer.activities[0].window_start) == 1000 * NS + 7 * PERIOD


def test_a_camera_of_which_no_image_can_be_used_clears_the_window_too(numbers: Path) -> None:
    with running(numbers, stall_timeout_s=0.5) as (node, peer):
        peer.wait_for_camera()
        send(peer, 7)
        (camera,) = node.node._cameras
        wait_until(lambda: camera.recognizer.warmup[0] == 7, "the images")
        nonsense = ros_messages.to_image(
            np.zeros((8, 8, 3), np.uint8), ros_messages.to_header(1001 * NS, "camera"), "rgb8"
        )
        nonsense.encoding = "nonsense"

        def cleared() -> bool:
            peer.camera.publish(nonsense)
            return camera.recognizer.warmup[0] == 0

        wait_until(cleared, "the window to be cleared")
        assert camera.recognizer.counters().resets == {"stall": 1} and not camera.input.stalled


def test_zero_stamps_are_replaced_by_the_time_of_arrival(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        for number in range(9):
            peer.publish(toy.number_image(number), 0)
            time.sleep(0.125)
        wait_until(lambda: peer.activities, "a message")
        peer.wait_for_diagnostic("camera", "had no stamp")
        assert abs(ros_messages.to_ns(peer.activities[0].header.stamp) - time.time_ns()) < 30 * NS


def test_simulated_time_without_a_clock_runs_on_the_stamps(numbers: Path) -> None:
    with running(numbers, use_sim_time=True) as (_, peer):
        peer.wait_for_camera()
        send(peer, 8)
        wait_until(lambda: peer.activities, "a message")
        status = peer.wait_for_diagnostic("camera", "nothing publishes /clock")
        assert status.level == WARN and np.isnan(peer.activities[0].age_s)


def test_a_clock_that_jumps_back_starts_the_window_again(numbers: Path) -> None:
    from rosgraph_msgs.msg import Clock

    with running(numbers, use_sim_time=True) as (node, peer):
        peer.wait_for_camera()
        clock = peer.node.create_publisher(Clock, "/clock", 1)
        wait_until(clock.get_subscription_count, "the node's clock subscription")
        now = node.node.get_clock().now

        def tick(seconds: int) -> bool:
            clock.publish(Clock(clock=ros_messages.to_time(seconds * NS)))
            time.sleep(0.02)
            return int(now().nanoseconds) == seconds * NS

        wait_until(lambda: tick(1001), "the clock at 1001")
        send(peer, 7)
        peer.wait_for_diagnostic("camera", "warming up, 7 of 8")
        wait_until(lambda: tick(900), "the clock at 900")
        send(peer, 1, 7)
        peer.wait_for_diagnostic("camera", "warming up, 1 of 8")
        assert peer.activities == []


def test_duplicates_and_old_frames_are_dropped_and_counted(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        for number in (0, 1, 1, 2, 3, 2, 4, 5, 6, 7):
            send(peer, 1, number)
        wait_until(lambda: peer.activities, "a message")
        assert (peer.activities[0].frames_received, peer.activities[0].frames_dropped) == (10, 2)
        assert ros_messages.to_ns(peer.activities[0].window_start) == 1000 * NS
        assert peer.node.count_publishers(f"{NAME}/activity") == 1
