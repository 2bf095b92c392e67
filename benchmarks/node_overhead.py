# SPDX-License-Identifier: Apache-2.0
"""The cost of the node without its engine, against a bare rclpy node that answers each image with an empty message.

Latency: from `publish` of an image to the receipt of its message, less the engine's own time. CPU: of the process a
camera frame, less the engine's (one thread). A result for every frame, and at 8 Hz as models usually sample.

    python benchmarks/node_overhead.py [--seconds 10] [--hz 30] [--out FILE]

Aim: 640x480 p50 at most 5 ms and 2 ms CPU a frame; 1280x720 at most twice that.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import Clock, NodeProcess, harness, percentiles, report, scratch, toy

from gc_ros.node import ros_messages
from gc_ros.stamps import NS

SIZES = ((640, 480), (1280, 720))
_BARE = """
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from glimpse_clouds.msg import Activity
from trt_build.heap import keep_freed_memory

keep_freed_memory()
rclpy.init()
node = rclpy.create_node("activity_recognition")
publisher = node.create_publisher(Activity, "~/activity", 10)
node.create_subscription(
    Image, "image", lambda image: publisher.publish(Activity(header=image.header)), qos_profile_sensor_data
)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""


class Bare(NodeProcess):
    """The floor: receive, answer, nothing else."""

    def __init__(self) -> None:
        script = scratch() / "bare.py"
        script.write_text(_BARE)
        harness.Process.__init__(self, script=script)


def measure(make: Any, width: int, height: int, seconds: float, hz: float) -> dict[str, Any]:
    """Latency less engine and CPU time a frame of one process at one image size."""
    harness.new_domain()
    peer = harness.Peer()
    received: list[tuple[int, int, float]] = []

    def note(message: Any) -> None:
        received.append((time.time_ns(), ros_messages.to_ns(message.header.stamp), message.inference_s))

    peer.node.create_subscription(harness.Activity, f"{harness.NAME}/activity", note, 10)
    process = make()
    try:
        peer.wait_for_camera()
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        message = ros_messages.to_image(pixels, ros_messages.to_header(0, "camera"), "bgr8")
        clock = Clock(hz)

        def stream(frames: int) -> None:
            for _ in range(frames):
                clock.wait()
                message.header.stamp = ros_messages.to_time(time.time_ns())
                peer.camera.publish(message)

        stream(int(2 * hz))  # fills the window, warms the caches
        received.clear()
        before, frames = process.cpu_s(), int(seconds * hz)
        stream(frames)
        time.sleep(0.3)
        spent = process.cpu_s() - before
        ages = [(now - stamp) / NS - engine for now, stamp, engine in received]
        engine_s = sum(engine for _, _, engine in received)
        return {
            "latency_less_engine_ms": percentiles(ages),
            "cpu_ms_per_frame": round((spent - engine_s) / frames * 1e3, 3),
            "frames": frames,
            "messages": len(received),
            "engine_ms_mean": round(engine_s / max(len(received), 1) * 1e3, 3),
        }
    finally:
        process.close()
        peer.close()


def run(seconds: float, hz: float, rates_hz: tuple[float, ...]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for width, height in SIZES:
        bare = measure(Bare, width, height, seconds, hz)
        figures[f"{width}x{height}"] = found = {"bare": bare}
        for rate_hz in rates_hz:
            bundle = toy(rate_hz=rate_hz)
            node = measure(partial(NodeProcess, bundle), width, height, seconds, hz)
            for key in ("latency_less_engine_ms", "cpu_ms_per_frame"):
                a, b = (side[key]["p50"] if "latency" in key else side[key] for side in (node, bare))
                node[f"{key}_over_bare"] = round(a / b, 2)
            found[f"model at {rate_hz:g} Hz"] = node
    return {"camera_hz": hz, "sizes": figures}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--hz", type=float, default=30)
    parser.add_argument("--out")
    options = parser.parse_args()
    report("node_overhead", run(options.seconds, options.hz, (8.0, options.hz)), options.out)
