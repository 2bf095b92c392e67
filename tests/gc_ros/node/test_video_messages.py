# SPDX-License-Identifier: Apache-2.0
"""Video streams over DDS in the very messages that cameras publish them in, made of their published definitions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gc_ros.media import transports
from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests.gc_ros.media.packets import encode
from tests.gc_ros.node.harness import wait_until
from tests.gc_ros.node.message_packages import build, importable, installed
from tests.gc_ros.node.packet_camera import assert_red_then_blue, of, packet_message, streaming
from tests.toy import toy_bundle

# The first test of each package compiles it: ten seconds to half a minute of two quiet cores.
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(1200)]

# As github.com/foxglove/schemas (ros_foxglove_msgs/ros2) and github.com/ros-misc-utilities/ffmpeg_image_transport_msgs
# publish them.
PUBLISHED = {
    "foxglove": {
        "timestamp": "builtin_interfaces/Time",
        "frame_id": "string",
        "data": "uint8[]",
        "format": "string",
    },
    "ffmpeg": {
        "header": "std_msgs/Header",
        "width": "int32",
        "height": "int32",
        "encoding": "string",
        "pts": "uint64",
        "flags": "uint8",
        "is_bigendian": "bool",
        "data": "uint8[]",
    },
}
# As the encoders of that transport write it: the codec; FFMPEGPacket's, then the formats of the pixels on the way.
SPELT = {
    "foxglove": {"h264": "h264", "h265": "h265"},
    "ffmpeg": {"h264": "h264;yuv420p;bgr8;bgr8", "h265": "hevc_nvenc"},
}


def definition(transport: str) -> str:
    return "".join(f"{kind} {name}\n" for name, kind in PUBLISHED[transport].items())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("colours") / "bundle", "colours").path


@pytest.fixture(scope="module", params=list(PUBLISHED))
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Each transport with a package of messages, made where the real one is not installed."""
    name = request.param
    package, _, message = transports.BY_NAME[name].type_name.split("/")
    with contextlib.ExitStack() as stack:
        if not installed(package):
            needs = "std_msgs" if name == "ffmpeg" else "builtin_interfaces"
            folder = tmp_path_factory.mktemp("messages")
            stack.enter_context(importable(build(package, {message: definition(name)}, (needs,), folder)))
        yield name


def test_the_table_has_the_published_definition(transport: str) -> None:
    """With which bags that hold none are read."""
    row = transports.BY_NAME[transport]
    assert row.definition == definition(transport)
    kinds = {"uint8[]": "sequence<uint8>", "bool": "boolean"}
    expected = {name: kinds.get(kind, kind) for name, kind in PUBLISHED[transport].items()}
    assert ros_messages.message_type(row).get_fields_and_field_types() == expected


@pytest.mark.parametrize(("encoder", "codec", "b_frames"), [("libx264", "h264", 3), ("libx265", "h265", 0)])
def test_a_stream_gives_activities_with_the_stamps_of_their_images(
    bundle: Path, transport: str, encoder: str, codec: str, b_frames: int
) -> None:
    with streaming(bundle, transport) as (node, peer, camera):
        packets = encode([*of("red", 12), *of("blue", 20)], encoder, b_frames=b_frames)
        camera.send(packets, SPELT[transport][codec])
        assert_red_then_blue(node, peer, camera)


def test_a_stream_recovers_at_a_key_frame_from_all_that_happens_to_it_and_counts_what_it_lost(
    bundle: Path, transport: str
) -> None:
    spelt, packets = SPELT[transport], encode(of("red", 40))  # a key frame each 10 images
    with streaming(bundle, transport) as (node, peer, camera):
        came = camera.at_node.input

        camera.send(packets[3:9], spelt["h264"])  # joined in the middle
        waiting = f"waiting for a key frame of the video on /image/{transport}"
        counts = {"packets before a key frame": "6", "images refused": "0"}
        peer.wait_for_diagnostic("camera", waiting, values=counts)
        camera.send(packets[9:20], spelt["h264"])
        camera.done(10)
        assert came.unusable == 7

        camera.send([*packets[20:24], *packets[25:31]], spelt["h264"])  # packet 24 is lost
        camera.done(10 + 4 + 1)
        assert came.unusable == 7 + 5, "to the key frame 30"

        larger = [(data, number + 40) for data, number in encode(of("blue", 20, 96, 80))]
        camera.send([*packets[31:], *larger], spelt["h264"])  # another size
        camera.done(15 + 9 + 20)
        assert camera.at_node.recognizer.counters().resets == {"gap": 1, "size change": 1}
        wait_until(lambda: peer.activities and peer.activities[-1].label == "blue", "the second activity")
        assert peer.activities[-1].image_width == 96 and peer.activities[-1].frames_dropped == 12
        assert not came.refused and not node.errors and node.node.state == "active"
        peer.wait_for_diagnostic("camera", "running")


def test_packets_of_nonsense_are_refused_and_the_stream_begins_again(bundle: Path, transport: str) -> None:
    with streaming(bundle, transport) as (node, _, camera):
        sound = encode(of("red", 10))
        camera.send(sound, SPELT[transport]["h264"])
        camera.done(10)
        camera.send([(b"\0\0\1\x65" + bytes(range(200)), 10), (b"", 11)], SPELT[transport]["h264"])
        camera.send([(b"whatever", 12)], "theora;yuv420p;bgr8;bgr8")
        camera.send(sound, SPELT[transport]["h264"], 13)
        camera.done(20)
        came = camera.at_node.input
        assert came.refused + came.unusable == 3 and not node.errors and node.node.state == "active"


def test_every_field_crosses_dds(transport: str, bundle: Path) -> None:
    """None of the fields that the node reads is lost or turned round on the way to it."""
    with streaming(bundle, transport) as (_, peer, camera):
        got: list[object] = []
        peer.node.create_subscription(
            ros_messages.message_type(camera.row), camera.topic.topic_name, got.append, 10
        )
        sent = packet_message(camera.row, bytes(range(256)), SPELT[transport]["h264"], 7 * NS + 5)
        wait_until(lambda: camera.topic.publish(sent) or got, "the packet")
        assert got[0] == sent
