# SPDX-License-Identifier: Apache-2.0
"""The rest of what goes wrong around a running node, each with its state, its level, its text, and the way back."""

from __future__ import annotations

import array
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glimpse_clouds.msg import LabelInfo
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.harness import NAME, Peer, Process, load_info, new_domain, running, wait_until

pytestmark = pytest.mark.ros
PERIOD = NS // 8
OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("numbers")).path


def send(peer: Peer, count: int, first: int = 0, start_ns: int = 1000 * NS) -> None:
    for number in range(first, first + count):
        peer.publish(toy.number_image(number), start_ns + number * PERIOD)
        time.sleep(0.005)


def values(status: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in status.values}


def test_every_break_and_every_useless_frame_is_counted_by_name_and_told(
    numbers: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(numbers, max_age_s=0.0, stall_timeout_s=60.0) as (_, peer):
        peer.wait_for_camera()
        send(peer, 2)
        send(peer, 1, 1)  # again
        peer.publish(toy.number_image(0), 1000 * NS + PERIOD - NS // 100)  # slightly old
        send(peer, 2, 100)  # a gap
        send(peer, 2, 50)  # a loop
        peer.publish(toy.number_image(60, 20), 1000 * NS + 52 * PERIOD)
        peer.publish(toy.number_image(60, 20), 1000 * NS + 53 * PERIOD, "bgr8")
        counts = {f"images dropped: {reason}": "1" for reason in ("duplicate", "old")}
        counts |= {f"resets: {r}": "1" for r in ("gap", "backward", "size change", "encoding change")}
        status = peer.wait_for_diagnostic("camera", "warming up, 1 of 8", values=counts)
        assert status.level == OK and peer.state() == "active"
        send(peer, 8, 200)
        wait_until(lambda: peer.activities, "a message after all that")
        assert peer.activities[0].frames_dropped == 2
    assert "break in /image, window starts again" in capfd.readouterr().err


def test_a_camera_that_comes_back_is_greeted(numbers: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running(numbers, stall_timeout_s=0.3, max_age_s=0.0) as (_, peer):
        peer.wait_for_camera()
        send(peer, 3)
        status = peer.wait_for_diagnostic("camera", "no image on /image for")
        assert float(values(status)["seconds since the last image"]) > 0.3
        send(peer, 8, 3)
        wait_until(lambda: peer.activities, "a message")
    log = capfd.readouterr().err
    assert "[WARN]" in log and "no image on /image for" in log
    assert any("[INFO]" in line and "images on /image again" in line for line in log.splitlines())


def image(**changes: Any) -> Image:
    fields = {"width": 16, "height": 12, "step": 48, "encoding": "bgr8", "is_bigendian": 0}
    data = changes.pop("data", bytes(576))
    return Image(**{**fields, **changes}, data=array.array("B", data))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (image(encoding="16UC1"), "16UC1 is a depth image; remap"),
        (image(encoding="32FC1"), "32FC1 is a depth image; remap"),
        (image(encoding=""), "the image names no encoding; let the driver publish bgr8"),
        (image(encoding="rgb16"), "rgb16 is not supported here; sudo apt install ros-$ROS_DISTRO-cv-bridge"),
        (image(encoding="nv12", width=15), "nv12 needs an even size, got 15x12"),
        (image(step=10), "step 10 is less than a row of 16 bgr8 pixels (48)"),
        (image(data=bytes(500)), "500 bytes of data, but 12 rows of step 48 are 576"),
        (image(width=0), "size 0x12"),
        (CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff" + bytes(90))), "JPEG image"),
        (CompressedImage(format="png", data=array.array("B", b"\x89PNG\r\n\x1a\n" + bytes(90))), "PNG image"),
        (CompressedImage(format="tiff", data=array.array("B", b"II*\0" + bytes(90))), "TIFF image"),
    ],
    ids=["16UC1", "32FC1", "none", "rgb16", "odd nv12", "step", "short", "empty", "jpeg", "png", "tiff"],
)
def test_a_bad_image_is_refused_with_the_reason_and_good_ones_go_on(
    numbers: Path, bad: Any, says: str
) -> None:
    compressed = isinstance(bad, CompressedImage)
    transport = "compressed" if compressed else "raw"
    with running(numbers, image_transport=transport, max_age_s=0.0, stall_timeout_s=60.0) as (node, peer):
        topic = "image/compressed" if compressed else "image"
        camera = peer.node.create_publisher(type(bad), topic, 5)
        wait_until(camera.get_subscription_count, "the subscription")
        wait_until(lambda: node.node.count_publishers(camera.topic_name), "the camera")
        time.sleep(0.2)
        own = node.node._cameras[0]
        wait_until(lambda: camera.publish(bad) or time.sleep(0.05) or own.input.refused, "a refusal")
        status = peer.wait_for_diagnostic("camera", says)
        assert status.level == ERROR and status.message.startswith("every image is refused: ")
        assert peer.state() == "active" and peer.activities == []
        pixels = np.zeros((12, 16, 3), np.uint8)
        for number in range(12):
            header = ros_messages.to_header(1000 * NS + number * PERIOD, "camera")
            make = ros_messages.to_compressed if compressed else ros_messages.to_image
            camera.publish(make(pixels, header, *(() if compressed else ("rgb8",))))
            time.sleep(0.01)
        wait_until(lambda: peer.activities, "a message")
        assert peer.activities[-1].frames_dropped == own.input.refused


@pytest.mark.slow
@pytest.mark.parametrize("exit_on_failure", [False, True])
def test_an_engine_that_gives_nan_ends_the_process_with_3_only_where_asked(
    tmp_path: Path, exit_on_failure: bool
) -> None:
    bundle = toy.toy_bundle(tmp_path / "bundle", "colours")
    _spoil_weights(bundle.path)
    new_domain()
    peer = Peer()
    flag = str(exit_on_failure).lower()
    process = Process("--ros-args", "-p", f"bundle:={bundle.path}", "-p", f"exit_on_failure:={flag}")
    try:
        peer.wait_for_camera()
        for number in range(14):
            peer.publish(toy.number_image(number), 1000 * NS + number * PERIOD)
            time.sleep(0.05)
        if exit_on_failure:
            assert process.wait() == 3, process.output
        else:
            status = peer.wait_for_diagnostic("engine", "3 failed engine runs in a row, deactivated")
            assert status.level == ERROR and "trt-build verify" in status.message
            assert peer.state() == "inactive" and process.process.poll() is None
    finally:
        process.close()
        peer.close()
    assert "Traceback" not in process.output and "not finite" in process.output


def _spoil_weights(path: Path) -> None:
    """The same bundle, rightly hashed, whose colours are multiplied by NaN."""
    import onnx

    from trt_build.bundle import load_bundle, write_bundle

    info = load_bundle(path).info
    model = onnx.load(str(path / "window.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "scale":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "scale"))
    (path / "weights.bin").unlink()
    toy.save(path / "window.onnx", model)
    changed = info.model_copy(update={"modes": ["window"]})
    write_bundle(path, changed, ["window.onnx", "weights.bin"])


def test_labels_and_outputs_that_disagree_leave_the_node_unconfigured(tmp_path: Path) -> None:
    bundle = toy.toy_bundle(tmp_path / "bundle", labels=["only", "two"]).path
    with running(bundle) as (_, peer):
        status = peer.wait_for_diagnostic("engine", "logits")
        assert status.level == ERROR and "(2 labels)" in status.message and "export" in status.message
        assert peer.state() == "unconfigured"
        toy.toy_bundle(tmp_path / "bundle")
        assert peer.transition("configure") and peer.transition("activate")
        peer.wait_for_diagnostic("engine", "active")


RELIABILITY = [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE]
DURABILITY = [DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["no override", "best_effort", "reliable"])
@pytest.mark.parametrize("durability", DURABILITY, ids=lambda p: p.name.lower())
@pytest.mark.parametrize("reliability", RELIABILITY, ids=lambda p: p.name.lower())
def test_every_pair_of_qos_either_works_or_says_what_to_type(
    numbers: Path, reliability: Any, durability: Any, wanted: str
) -> None:
    overrides = {"qos_overrides./image.subscription.reliability": wanted} if wanted != "no override" else {}
    fits = wanted != "reliable" or reliability == ReliabilityPolicy.RELIABLE
    profile = QoSProfile(depth=5, reliability=reliability, durability=durability)
    with running(numbers, camera_qos=profile, stall_timeout_s=0.5, max_age_s=0.0, **overrides) as (_, peer):
        if not fits:
            line = "-p qos_overrides./image.subscription.reliability:=best_effort"
            assert peer.wait_for_diagnostic("camera", line).level == ERROR
            return
        peer.wait_for_camera()
        send(peer, 9)
        wait_until(lambda: peer.activities, "a message")


def test_what_makes_events_changes_at_run_time_and_is_told(numbers: Path) -> None:
    with running(numbers, max_age_s=0.0) as (_, peer):

        def change(**values: Any) -> Any:
            request = SetParametersAtomically.Request()
            request.parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
            return peer.call(SetParametersAtomically, f"{NAME}/set_parameters_atomically", request).result

        infos: list[LabelInfo] = load_info(peer)
        wait_until(lambda: infos, "the labels")
        refused = change(offset_threshold=0.95)
        assert not refused.successful and "above onset_threshold" in refused.reason
        assert change(onset_threshold=1.0, offset_threshold=0.95, smoothing_tau_s=0.0).successful
        wait_until(lambda: np.isclose(infos[-1].onset_threshold, 1.0), "the new thresholds")
        peer.wait_for_camera()
        send(peer, 9)
        wait_until(lambda: peer.activities, "a message")
        assert peer.events == [], "no score reaches 1"
        assert change(onset_threshold=0.5, offset_threshold=0.1, min_duration_s=0.25).successful
        send(peer, 4, 9)
        wait_until(lambda: peer.events, "the onset")
        (event,) = peer.events
        assert ros_messages.to_ns(event.header.stamp) - ros_messages.to_ns(event.stamp) == NS // 4
