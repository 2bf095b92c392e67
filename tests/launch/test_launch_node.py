# SPDX-License-Identifier: Apache-2.0
"""What the launch files would start is started, over real DDS: the node takes every argument, the bag arrives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from tests.gc_ros.node.harness import NAME, ROOT, Peer, Process, new_domain, wait_until
from tests.launch.stub import Run
from tests.toy import toy_bundle
from tests.videos import flat, write_clip

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_the_node_of_the_live_launch_file_becomes_active_on_the_topic_it_was_given(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    launched = Run(
        ROOT / "launch" / "activity.launch.py", tmp_path, dict(os.environ), bundle=str(bundle.path),
        image="/cam/image_raw", use_sim_time="true",
    )  # fmt: skip
    (node,) = launched.processes
    new_domain()
    peer, process = Peer(), Process(*node.command[1:])
    try:
        peer.wait_for_diagnostic("engine", "active", 20)
        peer.wait_for_diagnostic("camera", "no publisher on /cam/image_raw", 20)
        assert process.end(signal.SIGINT)[0] == 0, process.output
    finally:
        process.close()
        peer.close()


def test_node_and_player_of_the_bag_launch_file_meet_and_the_player_ends(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle", "colours", S=32)
    make_bag(find_clips([write_clip(tmp_path / "a.mp4", [flat((200, 0, 0))] * 90)]), tmp_path / "bag")
    launched = Run(
        ROOT / "launch" / "bag.launch.py", tmp_path, dict(os.environ), bundle=str(bundle.path),
        bag=str(tmp_path / "bag"), evaluate="false",
    )  # fmt: skip
    node, play = launched.processes
    new_domain()
    peer, process, player = Peer(), Process(*node.command[1:]), None
    try:
        # The launch file starts both at once; here a listener must not miss the few messages of a short bag.
        peer.wait_for_diagnostic("engine", "active", 20)
        wait_until(lambda: peer.node.count_publishers(f"{NAME}/activity"), "the node's publisher")
        player = Process(*play.command[1:], script=Path(play.command[0]))
        assert player.wait(60) == 0, player.output
        wait_until(lambda: peer.activities, f"a message of the node, which says {process.output!r}")
        # Recorded stamps are years old, and the launch file says that this is no fault.
        assert {message.status for message in peer.activities} == {0}
    finally:
        if player is not None:
            player.close()
        process.close()
        peer.close()


def test_the_node_of_several_cameras_becomes_active_on_all_their_topics(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    launched = Run(
        ROOT / "launch" / "multi_camera.launch.py", tmp_path, dict(os.environ), bundle=str(bundle.path),
        cameras="front,left", images="/f/image_raw,/l/image_raw",
    )  # fmt: skip
    (node,) = launched.processes
    new_domain()
    peer, process = Peer(), Process(*node.command[1:])
    try:
        peer.wait_for_diagnostic("camera front", "no publisher on /f/image_raw", 20)
        peer.wait_for_diagnostic("camera left", "no publisher on /l/image_raw", 20)
        assert process.end(signal.SIGTERM)[0] == 0, process.output
    finally:
        process.close()
        peer.close()


def test_build_only_of_the_live_launch_file_ends_by_itself_with_0_or_3(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    for path, code in ((bundle.path, 0), (tmp_path / "none", 3)):
        launched = Run(
            ROOT / "launch" / "activity.launch.py", tmp_path, dict(os.environ), bundle=str(path),
            build_only="true",
        )  # fmt: skip
        new_domain()
        process = Process(*launched.processes[0].command[1:])
        try:
            assert process.wait(30) == code, process.output
        finally:
            process.close()
