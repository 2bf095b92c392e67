# SPDX-License-Identifier: Apache-2.0
"""Online equals offline: a bag through the live node over DDS and through `evaluate` gives the same windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gc_ros.evaluation import many, results
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.sources import find_sources
from gc_ros.media.bag_reading import read_bag_messages
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from tests.gc_ros.evaluation.bag_files import write_bag
from tests.gc_ros.node.harness import running, wait_until
from trt_build.bundle import LoadedBundle

pytest.importorskip("sklearn")
pytestmark = pytest.mark.ros


def assert_same(bundle: LoadedBundle, bag: Path, out: Path, *, stride: int = 1) -> int:
    """Evaluate, play to a live node, compare; the number of windows."""
    from gc_ros.node.player import to_message
    from gc_ros.node.ros_messages import message_type, to_ns

    options = Options(threads=1, stride=stride, predictions="none", pictures=0)
    many.evaluate_many(find_sources([bag]), bundle.path, out, options, jobs=1)
    rows = list(results.read_windows(out / results.WINDOWS))
    due: dict[tuple[int, int], int] = {}
    for row in rows:
        due[(row["pass"], row["end_ns"])] = row["n"] + 1
    frames = list(read_bag_messages(bag))
    transport = frames[0].transport
    parameters: dict[str, Any] = {"stride": stride, "top_k": len(bundle.info.labels), "max_age_s": 0.0}
    parameters["stall_timeout_s"] = 60.0  # a busy machine is no stalled camera
    parameters["image_transport"] = transport.name
    with running(bundle.path, **parameters) as (_, peer):
        camera = peer.node.create_publisher(message_type(transport), f"image{transport.suffix}", 10)
        wait_until(lambda: camera.get_subscription_count(), "the node's subscription")
        wait_until(
            lambda: peer.node.count_publishers("/activity_recognition/activity"), "the node's publisher"
        )
        wait_until(lambda: _node_sees(peer, camera), "the camera at the node")
        number, last = 0, None
        for item in frames:
            if last is not None and last - item.stamp_ns > 10**9 / bundle.info.rate_hz:
                number += 1
            last = item.stamp_ns
            before = _received(peer)
            camera.publish(to_message(item))
            wait_until(lambda before=before: _received(peer) > before, "the image at the node")
            expected = due.get((number, item.stamp_ns))
            if expected is not None:
                wait_until(
                    lambda n=expected: len(peer.activities) >= n, f"result {expected} of {len(rows)}", 30
                )
        got = list(peer.activities)
    assert len(got) == len(rows) > 0
    for message, row in zip(got, rows, strict=True):
        assert to_ns(message.window_start) == row["start_ns"] and to_ns(message.window_end) == row["end_ns"]
        assert message.label == row["label"] and message.class_index == row["index"]
        for entry in message.top_k:
            assert entry.score == pytest.approx(row["scores"][entry.class_index], abs=1e-6)
        for box, g in zip(message.glimpses, row["glimpses"], strict=True):
            assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(g, abs=0.01)
    return len(rows)


def _received(peer: Any) -> int:
    return int(peer.running.node._cameras[0].input.received)


def _node_sees(peer: Any, camera: Any) -> int:
    return int(peer.running.node.count_publishers(camera.topic_name))


@pytest.mark.parametrize("jpeg", [False, True], ids=["raw", "compressed"])
def test_made_up_bags_with_a_gap_and_a_loop(tmp_path: Path, colours: LoadedBundle, jpeg: bool) -> None:
    pieces = [("red", 1.5), ("grey", 0.5), ("gap", 2.0), ("green", 1.5), ("loop", 0.0), ("blue", 1.5)]
    write_bag(tmp_path / "bag", pieces, jpeg=jpeg)
    assert assert_same(colours, tmp_path / "bag", tmp_path / "out") > 12


@pytest.mark.clips
@pytest.mark.slow
def test_five_bags_of_real_clips_raw_and_compressed_with_gaps_and_loops(
    clips: Path, tmp_path: Path, colours: LoadedBundle
) -> None:
    found = find_clips([clips / "gestures" / "clips.csv"], ["p3"])
    for number in range(5):
        bag = tmp_path / f"bag{number}"
        compressed = "jpeg" if number % 2 else None
        make_bag(
            found[number * 9 : number * 9 + 3],
            bag,
            compressed=compressed,
            gap_s=1.0 + 2 * (number % 2),
            width=160,
        )
        if number >= 3:
            loop(bag, tmp_path / f"loop{number}")
            bag = tmp_path / f"loop{number}"
        assert_same(colours, bag, tmp_path / f"out{number}")


def loop(bag: Path, target: Path) -> None:
    """The same bag twice over, as one that is played in a loop: header stamps go back, those of recording go on."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, frames = get_typestore(Stores.ROS2_JAZZY), list(read_bag_messages(bag))
    kind = frames[0].transport.type_name
    span = frames[-1].stamp_ns - frames[0].stamp_ns + 10**8
    with Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(frames[0].topic, kind, typestore=store)
        for turn in range(2):
            for item in frames:
                writer.write(connection, item.stamp_ns + turn * span, store.serialize_cdr(item.message, kind))
