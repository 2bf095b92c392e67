# SPDX-License-Identifier: Apache-2.0
"""Video streams at the running node. The messages' packages are not on PyPI: over DDS a sensor_msgs/CompressedImage,
which has the same fields in its own header, carries the packets; `test_video_messages` makes the packages."""

from __future__ import annotations

import array
import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
from std_srvs.srv import Trigger

from gc_ros.media import transports
from gc_ros.media.bag_reading import read_bag_messages
from gc_ros.media.images import Refusal
from gc_ros.node import input as node_input
from gc_ros.node import ros_messages
from tests.gc_ros.media.packets import encode, grey, write_packets
from tests.gc_ros.node.harness import NAME, running, wait_until
from tests.gc_ros.node.packet_camera import assert_red_then_blue, of, streaming
from tests.toy import toy_bundle
from trt_build.errors import GlimpseError

pytestmark = pytest.mark.ros
WAITING = "waiting for a key frame of the video on /image/foxglove"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("colours") / "bundle", "colours").path


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> None:
    row = transports.BY_NAME["foxglove"]
    carrier = dataclasses.replace(row, type_name="sensor_msgs/msg/CompressedImage", header=True)
    monkeypatch.setitem(transports.BY_NAME, "foxglove", carrier)


@pytest.mark.usefixtures("carried")
@pytest.mark.parametrize(("encoder", "codec", "b_frames"), [("libx264", "h264", 3), ("libx265", "h265", 0)])
def test_a_stream_gives_activities_with_the_stamps_of_their_images(
    bundle: Path, encoder: str, codec: str, b_frames: int
) -> None:
    with streaming(bundle) as (node, peer, camera):
        camera.send(encode([*of("red", 12), *of("blue", 20)], encoder, b_frames=b_frames), codec)
        assert_red_then_blue(node, peer, camera)


@pytest.mark.usefixtures("carried")
def test_a_stream_joined_in_the_middle_is_waited_for_told_and_counted(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packets = encode(of("red", 30))
    with streaming(bundle) as (_, peer, camera):
        camera.send(packets[3:9])
        counts = {"packets before a key frame": "6", "images refused": "0"}
        status = peer.wait_for_diagnostic("camera", WAITING, values=counts)
        assert status.level == b"\x01" and "let the encoder send one every second" in status.message
        camera.send(packets[9:])
        camera.done(20)
        peer.wait_for_diagnostic("camera", "running")
        wait_until(lambda: peer.activities, "an activity")
        assert peer.activities[-1].frames_dropped == 7
    assert "waiting for a key frame: the stream was joined in the middle" in capfd.readouterr().err


@pytest.mark.usefixtures("carried")
def test_lost_and_damaged_packets_another_size_and_nonsense_end_nothing(bundle: Path) -> None:
    first, second = encode(of("red", 40)), encode(of("red", 20, 96, 80), "libx265")
    data, number = first[23]
    first[23] = data[: len(data) // 2], number
    with streaming(bundle) as (node, _, camera):
        came = camera.at_node.input
        camera.send([*first[:4], *first[5:]])
        camera.done(27)
        assert came.refused == 1 and came.first_refusal == "video frame is damaged"
        assert came.unusable == 5 + 6, "to the key frames 10 and 30"
        camera.send(second, "h265", 40)
        camera.done(47)
        assert camera.at_node.recognizer.counters().resets["size change"] == 1
        camera.send([(b"\0\0\1\x65" + bytes(range(200)), 60), (b"", 61)], "h264")
        camera.send([(b"whatever", 62)], "theora")
        camera.send(encode(of("red", 12)), "h264", 63)
        camera.done(59)
        assert not node.errors and node.node.state == "active"


@pytest.mark.usefixtures("carried")
def test_a_reset_keeps_the_decoder_and_a_new_subscription_waits_for_a_key_frame(bundle: Path) -> None:
    packets = encode(of("red", 40), gop=20)
    with streaming(bundle) as (_, peer, camera):
        camera.send(packets[:5])
        camera.done(5)
        assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        camera.send(packets[5:10])
        camera.done(10)
        # An image counts as received before the window holds it.
        wait_until(lambda: camera.at_node.recognizer.warmup[0] == 5, "the window to start again")
        assert not camera.at_node.input.unusable
        camera.at_node.enable(False)
        camera.at_node.enable(True)
        wait_until(camera.topic.get_subscription_count, "the new subscription")
        time.sleep(0.3)
        camera.send(packets[15:])
        camera.done(30)
        assert camera.at_node.input.unusable == 5, "to the key frame 20"


@pytest.mark.usefixtures("carried")
def test_a_packet_that_is_passed_over_ends_the_stream_until_the_next_key_frame(bundle: Path) -> None:
    packets = encode(of("red", 20), "libvpx-vp9")  # of which nothing else tells that one is missing
    with streaming(bundle) as (_, _, camera):
        camera.send(packets[:5], "vp9")
        camera.done(5)
        camera.at_node.input._miss("decoding takes too long")
        camera.send(packets[6:], "vp9")
        camera.done(15)
        assert camera.at_node.input.unusable == 4 and camera.at_node.input.refused == 1


@pytest.mark.skipif(
    importlib.util.find_spec("ffmpeg_image_transport_msgs") is not None, reason="the package is installed"
)
def test_without_the_message_package_the_node_says_what_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with running(bundle, image_transport="ffmpeg", exit_on_failure=False) as (_, peer):
        status = peer.wait_for_diagnostic("engine", "sudo apt install ros-jazzy-ffmpeg-image-transport-msgs")
        assert "needs the messages of ffmpeg_image_transport_msgs" in status.message
        assert peer.state() == "unconfigured"


def test_without_pyav_the_node_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gc_ros.media.streams", None)
    with pytest.raises(GlimpseError, match=r"PyAV, which decodes video.* python3 -m pip install 'av>=14'"):
        transports.BY_NAME["foxglove"].reader(True)


class FakePacket:
    """FFMPEGPacket's fields, and no others."""

    __slots__ = ("data", "encoding", "flags", "header", "height", "is_bigendian", "pts", "width")

    def __init__(self) -> None:
        self.header = ros_messages.to_header(0, "")

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        return dict.fromkeys(cls.__slots__, "")


class FakeVideo:
    """CompressedVideo's fields, and no others."""

    __slots__ = ("data", "format", "frame_id", "timestamp")

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        return dict.fromkeys(cls.__slots__, "")


@pytest.mark.parametrize(("transport", "kind"), [("ffmpeg", FakePacket), ("foxglove", FakeVideo)])
def test_the_player_copies_packets_as_they_are(
    transport: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gc_ros.node import player

    monkeypatch.setattr(ros_messages, "message_type", lambda _: kind)
    packets = encode(grey(3))
    row = transports.BY_TYPE[next(t.type_name for t in transports.TRANSPORTS if t.name == transport)]
    for item, (data, number) in zip(
        read_bag_messages(write_packets(tmp_path / "bag", [("h264", packets)], transport)),
        packets,
        strict=True,
    ):
        message = player.to_message(item)
        assert bytes(message.data) == data and isinstance(message.data, array.array)
        assert row.stamp_ns(message) == item.stamp_ns and row.frame_id(message) == "camera"
        assert number >= 0 and row.encoding(message).startswith("h264")


def test_every_row_has_a_topic_a_type_and_a_reader() -> None:
    assert node_input.BY_NAME is transports.BY_NAME
    for row in transports.TRANSPORTS:
        assert row.suffix == ("" if row.name == "raw" else f"/{row.name}"), "as image_transport names topics"
        assert row.stateful <= row.decoded, "a stream is decoded beside the executor"
        ((tag, found),) = row.reader(True).read(object(), "tag")
        assert tag == "tag" and isinstance(found, Refusal), "a message without its fields is refused"
