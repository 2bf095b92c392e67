# SPDX-License-Identifier: Apache-2.0
"""Images that take long to decode cost their own camera its images, and no other camera anything."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from glimpse_clouds.msg import Activity
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage

from gc_ros.media import images
from gc_ros.node import ros_messages
from gc_ros.node.decoding import BURST_S, WAITING, Decoding
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, Peer, running, wait_until

pytestmark = pytest.mark.ros
PERIOD = NS // 8


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


def spend(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_items_are_worked_off_in_order_and_the_oldest_of_too_many_is_dropped() -> None:
    done: list[int] = []
    reasons: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.set()
        go.wait(10)
        done.append(item)

    decoding = Decoding(work, reasons.append, lambda: 0.5)
    decoding.put(0)
    assert begun.wait(10)
    for item in range(1, WAITING + 3):
        decoding.put(item)
    assert len(reasons) == 2 and "longer than they take to come" in reasons[0]
    go.set()
    wait_until(lambda: len(done) == WAITING + 1, "the items")
    assert done == [0, *range(3, WAITING + 3)]
    decoding.stop()
    decoding.put(99)
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding" and thread.is_alive()]
    assert done[-1] != 99


@pytest.mark.slow
def test_more_processor_time_than_the_budget_costs_items_and_at_one_there_is_no_limit() -> None:
    for share, limited in ((0.1, True), (1.0, False)):
        done: list[int] = []
        reasons: list[str] = []

        def work(item: int, done: list[int] = done) -> None:
            spend(0.4)
            done.append(item)

        decoding = Decoding(work, reasons.append, lambda share=share: share)
        for item in range(4):
            decoding.put(item)
        wait_until(lambda done=done, reasons=reasons: len(done) + len(reasons) == 4, "the end")
        decoding.stop()
        assert bool(reasons) == limited, (share, done, reasons)
        if limited:  # 0.4 s of a tenth of a processor is 4 s of the clock, more than may be overdrawn
            assert BURST_S < 4 and done == [0] and "10% of a processor" in reasons[0]


def compressed(data: bytes, stamp_ns: int) -> CompressedImage:
    message = CompressedImage(header=ros_messages.to_header(stamp_ns, "camera"), format="png")
    message.data = data
    return message


def number_png(number: int) -> bytes:
    image = cv2.cvtColor(toy.number_image(number), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image)[1].tobytes()


class Cameras:
    """Publishers of compressed images, and what comes back about each."""

    def __init__(self, peer: Peer, *names: str) -> None:
        self.activities: dict[str, list[tuple[float, Activity]]] = {name: [] for name in names}
        self.publishers = {}
        for name in names:
            topic = f"{name}/image/compressed"
            self.publishers[name] = peer.node.create_publisher(
                CompressedImage, topic, qos_profile_sensor_data
            )
            peer.node.create_subscription(Activity, f"{NAME}/{name}/activity", partial(self._take, name), 100)
        for publisher in self.publishers.values():
            wait_until(publisher.get_subscription_count, publisher.topic_name)
        time.sleep(0.5)

    def _take(self, name: str, message: Activity) -> None:
        self.activities[name].append((time.time(), message))


@pytest.mark.slow
def test_a_camera_whose_images_take_long_to_decode_loses_its_own_images_alone(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hostile camera's JPEGs are accepted, and each takes 0.3 s of the processor in native code."""
    hostile = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    decompress = images._decompress

    def slow(data: Any, pattern: int | None) -> np.ndarray:
        if bytes(data[:3]) == b"\xff\xd8\xff":
            end = time.thread_time() + 0.3
            while time.thread_time() < end:
                # Without the interpreter's lock.
                cv2.GaussianBlur(np.zeros((400, 400), np.float32), (0, 0), 9)
        return decompress(data, pattern)

    monkeypatch.setattr(images, "_decompress", slow)
    parameters = {"cameras": ["front", "bad"], "image_transport": "compressed", "stall_timeout_s": 30.0}
    with running(numbers, decode_budget=0.2, max_frame_gap_s=5.0, **parameters) as (node, peer):
        cameras = Cameras(peer, "front", "bad")
        pngs = [number_png(number) for number in range(48)]
        began = time.time_ns()
        for number, png in enumerate(pngs):
            stamp = began + number * PERIOD
            while time.time_ns() < stamp:
                time.sleep(0.002)
            cameras.publishers["bad"].publish(compressed(hostile, stamp))
            cameras.publishers["front"].publish(compressed(png, stamp))
        wait_until(lambda: len(cameras.activities["front"]) >= 36, "the front camera's results")
        ages = sorted(at - ros_messages.to_ns(m.header.stamp) / NS for at, m in cameras.activities["front"])
        assert ages[len(ages) // 2] < 0.1 and ages[-3] < 0.3, ages
        status = peer.wait_for_diagnostic(
            "camera bad", "images refused: decoding this camera's images takes more"
        )
        assert "decode_budget" in status.message
        front, bad = node.node._cameras
        assert (
            front.input.refused == 0
            and bad.input.refused > 20
            and bad.recognizer.counters().frames_sampled > 3
        )
        assert peer.state() == "active"


def held_decoder(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make decoding wait; (set when it has begun, set it to let go)."""
    begun, go = threading.Event(), threading.Event()
    decompress = images._decompress

    def held(data: Any, pattern: int | None) -> np.ndarray:
        begun.set()
        go.wait(20)
        return decompress(data, pattern)

    monkeypatch.setattr(images, "_decompress", held)
    return begun, go


def test_an_image_from_before_a_reset_is_not_in_the_window_after_it(
    numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = held_decoder(monkeypatch)
    with running(numbers, image_transport="compressed", max_age_s=0.0) as (node, _):
        (camera,) = node.node._cameras
        for number in range(3):  # one is being decoded, two wait
            camera.input._on_image(compressed(number_png(number), 1000 * NS + number * PERIOD))
        assert begun.wait(10)
        camera.reset("service")
        go.set()
        wait_until(lambda: camera.recognizer.counters().frames_received == 1, "the held image's end")
        assert camera.recognizer.warmup == (0, 8)
        camera.input._on_image(compressed(number_png(9), 1001 * NS))
        wait_until(lambda: camera.recognizer.warmup == (1, 8), "the first image after the reset")
        assert camera.input.refused == 0


def test_the_node_stops_in_the_midst_of_an_image(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = held_decoder(monkeypatch)
    with running(numbers, image_transport="compressed", max_age_s=0.0) as (node, peer):
        (camera,) = node.node._cameras
        camera.input._on_image(compressed(number_png(0), 1000 * NS))
        assert begun.wait(10)
        before = time.monotonic()
        assert peer.transition("deactivate") and peer.transition("cleanup")
        assert time.monotonic() - before < 5
        go.set()
        time.sleep(0.3)
        assert camera.input.refused == 0 and not node.errors
