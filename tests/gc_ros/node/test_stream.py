# SPDX-License-Identifier: Apache-2.0
"""The node's main job over real DDS: when it speaks, what it says, and when it starts anew."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from glimpse_clouds.msg import Activity, ActivityEvent
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, Peer, load_info, running, wait_until

pytestmark = pytest.mark.ros
PERIOD = NS // 8  # the toys' sampling rate: every frame is sampled


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("colours"), "colours").path


def send(peer: Peer, numbers: range, start_ns: int, *, pause_s: float = 0.005) -> None:
    """Frames that carry their number, one sampling period apart by their stamps."""
    for number in numbers:
        peer.publish(toy.number_image(number), start_ns + number * PERIOD)
        time.sleep(pause_s)  # the order and not the pace matters; keep the best-effort queue short


def stamp_of(message: Any) -> int:
    return ros_messages.to_ns(message.header.stamp)


def test_eight_frames_give_one_message_stamped_as_the_eighth_and_none_before(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        start = time.time_ns()
        send(peer, range(7), start)
        peer.wait_for_diagnostic("camera", "warming up, 7 of 8")
        assert peer.activities == []
        send(peer, range(7, 8), start)
        wait_until(lambda: peer.activities, "the first message")
        peer.wait_for_diagnostic("camera", "running")
        (message,) = peer.activities
        assert stamp_of(message) == start + 7 * PERIOD == ros_messages.to_ns(message.window_end)
        assert message.header.frame_id == "camera"
        assert ros_messages.to_ns(message.window_start) == start
        assert (message.label, message.class_index, message.status) == ("frame7", 7, Activity.STATUS_OK)
        assert [entry.label for entry in message.top_k] == ["frame7", "frame6", "frame5", "frame4", "frame3"]
        assert 0 < message.score <= 1 and message.model_id == "toy-numbers"
        assert (message.image_width, message.image_height) == (16, 12)
        assert len(message.glimpses) == 3 and len(message.glimpses[0].worker_weights) == 3
        for glimpse in message.glimpses:
            assert 0 <= glimpse.x_min < glimpse.x_max <= 16 and 0 <= glimpse.y_min < glimpse.y_max <= 12
        assert (message.frames_received, message.frames_dropped, message.windows_skipped) == (8, 0, 0)
        assert message.inference_s > 0 and message.decode_s > 0 and np.isfinite(message.age_s)


def test_no_window_crosses_a_gap_a_backward_jump_or_a_change_of_size(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        start = time.time_ns()
        send(peer, range(8), start)
        wait_until(lambda: len(peer.activities) == 1, "the first message")
        send(peer, range(8, 15), start + 10 * NS)  # after a gap: seven frames are silent
        send(peer, range(15, 23), start - 60 * NS)  # back in time, as a bag that loops
        wait_until(lambda: len(peer.activities) == 2, "a message after the jump")
        for number in range(23, 31):
            peer.publish(toy.number_image(number, 20, 10), start - 60 * NS + number * PERIOD)
            time.sleep(0.005)
        wait_until(lambda: len(peer.activities) == 3, "a message after the change of size")
        starts = [ros_messages.to_ns(message.window_start) for message in peer.activities]
        assert starts == [start, start - 60 * NS + 15 * PERIOD, start - 60 * NS + 23 * PERIOD]


def test_reset_and_enable_start_the_window_again(numbers: Path) -> None:
    with running(numbers) as (_, peer):
        peer.wait_for_camera()
        start = time.time_ns()
        send(peer, range(7), start)
        peer.wait_for_diagnostic("camera", "warming up, 7 of 8")
        assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        send(peer, range(7, 14), start)
        peer.wait_for_diagnostic("camera", "warming up, 7 of 8")
        assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=False)).success
        peer.wait_for_diagnostic("camera", "disabled")
        assert not peer.camera.get_subscription_count()
        assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=True)).success
        peer.wait_for_camera()
        send(peer, range(14, 22), start)
        wait_until(lambda: peer.activities, "a message")
        assert ros_messages.to_ns(peer.activities[0].window_start) == start + 14 * PERIOD


def test_a_late_joiner_gets_the_labels_and_the_last_event(colours: Path) -> None:
    with running(colours, smoothing_tau_s=0.0) as (_, first):
        first.wait_for_camera()
        red = np.zeros((12, 16, 3), np.uint8)
        red[..., 0] = 200
        start = time.time_ns()
        for number in range(8):
            first.publish(red, start + number * PERIOD)
            time.sleep(0.005)
        wait_until(lambda: first.events, "the onset")
        late = Peer()
        try:
            infos = load_info(late)
            wait_until(lambda: infos and late.events, "labels and event at the late joiner")
        finally:
            late.close()
    assert list(infos[0].labels) == toy.COLOURS and infos[0].mode == "window"
    assert (infos[0].window_frames, infos[0].rate_hz) == (8, 8.0)
    event = late.events[0]
    assert (event.kind, event.label, event.class_index) == (ActivityEvent.ONSET, "red", 0)
    assert ros_messages.to_ns(event.stamp) == start + 7 * PERIOD


def test_old_results_are_late_and_weak_ones_unknown(colours: Path) -> None:
    grey = np.full((12, 16, 3), 100, np.uint8)
    with running(colours, unknown_threshold=0.9, max_age_s=3) as (_, peer):
        peer.wait_for_camera()
        now = time.time_ns()
        for number in range(8):
            peer.publish(grey, now + number * PERIOD - NS)
            time.sleep(0.005)
        wait_until(lambda: len(peer.activities) == 1, "a message")
        for number in range(8):
            peer.publish(grey, now + number * PERIOD - 60 * NS)
            time.sleep(0.005)
        wait_until(lambda: len(peer.activities) == 2, "a second message")
        peer.wait_for_diagnostic("camera", "max_age_s")
    assert [message.status for message in peer.activities] == [Activity.STATUS_UNKNOWN, Activity.STATUS_LATE]
    assert peer.activities[1].age_s > 50


def test_the_step_mode_gives_the_windows_of_the_window_mode(numbers: Path) -> None:
    starts = {}
    for mode in ("window", "step"):
        with running(numbers, mode=mode, stride=8) as (_, peer):
            peer.wait_for_camera()
            send(peer, range(24), 1000 * NS, pause_s=0.02)
            wait_until(lambda peer=peer: len(peer.activities) == 3, f"three messages in mode {mode}")
            starts[mode] = [
                (ros_messages.to_ns(m.window_start), m.label, round(m.score, 5)) for m in peer.activities
            ]
    assert starts["window"] == starts["step"]


def test_compressed_images_are_taken_where_asked_for_and_decoded_where_sampled(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, imdecode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: decoded.append(1) or imdecode(*a))
    with running(colours, image_transport="compressed") as (_, peer):
        camera = peer.node.create_publisher(CompressedImage, "image/compressed", 10)
        wait_until(camera.get_subscription_count, "the compressed subscription")
        time.sleep(0.3)
        green = np.zeros((16, 16, 3), np.uint8)
        green[..., 1] = 200
        for number in range(4 * 7 + 1):
            camera.publish(
                ros_messages.to_compressed(green, ros_messages.to_header(number * PERIOD // 4 + NS, "camera"))
            )
            time.sleep(0.005)
        wait_until(lambda: peer.activities, "a message")
    message = peer.activities[0]
    assert message.label == "green" and len(decoded) == 8 and message.decode_s > 0


def test_the_overlay_is_drawn_only_while_somebody_watches_and_announces_the_onset(colours: Path) -> None:
    with running(colours, smoothing_tau_s=0.0) as (node, peer):
        peer.wait_for_camera()
        blue = np.zeros((120, 160, 3), np.uint8)
        blue[..., 2] = 200
        pictures: list[Image] = []
        for number in range(8):
            peer.publish(blue, NS + number * PERIOD)
            time.sleep(0.005)
        wait_until(lambda: peer.activities, "a message")
        camera = node.node._cameras[0]
        assert not camera.results._watched, "images are kept though nobody watches"
        peer.node.create_subscription(Image, f"{NAME}/debug/image", pictures.append, 1)
        wait_until(lambda: camera.results._debug.get_subscription_count(), "the watcher")
        for number in range(8, 16):
            peer.publish(blue, NS + number * PERIOD)
            time.sleep(0.02)
        wait_until(lambda: pictures, "an overlay")
    picture = pictures[-1]
    assert picture.encoding == "rgb8" and picture.header.frame_id == "camera"
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, -1)
    assert pixels.std() > 0 and picture.height >= 120
    foot = pixels[-8, :12].reshape(4, 3)  # where the onset, one second of the stream ago, is announced
    assert (foot[:, 1] > 150).all() and (foot[:, 2] < 150).all()


@pytest.mark.slow
def test_all_of_150_vga_images_at_30_hz_arrive_with_the_shipped_profile(colours: Path) -> None:
    with running(colours) as (node, peer):
        peer.wait_for_camera()
        message = ros_messages.to_image(
            np.zeros((480, 640, 3), np.uint8), ros_messages.to_header(0, "camera"), "bgr8"
        )
        began, start = time.monotonic(), time.time_ns()
        for number in range(150):
            message.header.stamp = ros_messages.to_time(start + number * NS // 30)
            time.sleep(max(began + number / 30 - time.monotonic(), 0))
            peer.camera.publish(message)
        recognizer = node.node._cameras[0].recognizer
        wait_until(lambda: recognizer.counters().frames_received == 150, "all 150 images", 3)
        assert recognizer.counters().frames_dropped == 0
        wait_until(lambda: len(peer.activities) >= 33, "a message a sampled frame")
