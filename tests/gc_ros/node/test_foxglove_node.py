# SPDX-License-Identifier: Apache-2.0
"""The node's annotations topic over DDS. foxglove_msgs is not on PyPI, so another message type carries them here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from gc_ros.node import foxglove, ros_messages
from gc_ros.stamps import NS
from tests.gc_ros.node.harness import NAME, running, wait_until
from tests.toy import toy_bundle

pytestmark = pytest.mark.ros


def test_annotations_are_made_only_while_somebody_watches_and_carry_the_frames_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def to_annotations(activity: Any, stamp: Any, event: Any) -> CompressedImage:
        made.append((activity.stamp_ns, event and event.label))
        return CompressedImage(
            header=ros_messages.to_header(ros_messages.to_ns(stamp), ""), format=activity.label
        )

    monkeypatch.setattr(foxglove, "annotations_type", lambda: CompressedImage)
    monkeypatch.setattr(foxglove, "to_annotations", to_annotations)
    bundle = toy_bundle(tmp_path / "bundle", "colours")
    blue = np.zeros((12, 16, 3), np.uint8)
    blue[..., 2] = 200
    got: list[CompressedImage] = []
    with running(bundle.path, smoothing_tau_s=0.0) as (node, peer):
        peer.wait_for_camera()
        for number in range(8):
            peer.publish(blue, NS + number * NS // 8)
            time.sleep(0.005)
        wait_until(lambda: peer.activities, "a message")
        assert not made, "made though nobody watches"
        peer.node.create_subscription(CompressedImage, f"{NAME}/annotations", got.append, 10)
        wait_until(lambda: node.node.count_subscribers(f"{NAME}/annotations"), "the watcher")
        time.sleep(0.2)
        for number in range(8, 12):
            peer.publish(blue, NS + number * NS // 8)
            time.sleep(0.02)
        wait_until(lambda: got, "annotations")
    assert ros_messages.to_ns(got[0].header.stamp) == made[0][0] > NS
    assert got[0].format == "blue" and made[0][1] == "blue", "the onset of a moment ago is announced"
