# SPDX-License-Identifier: Apache-2.0
"""A camera that attacks beside a camera that works: does the node stay up, small, and true to the good one?

    python benchmarks/attack.py [--minutes 5] [--out FILE]

Two cameras with compressed images over DDS. One is clean, at the model's rate. The other sends mutated JPEG, PNG, WebP
and TIFF, text bombs, huge sizes, many scans, stamps out of range and backwards, and now and then a good image, `--rate`
of them a second. The clean camera alone runs first, for the comparison. At the end SIGTERM.
Aim: resident memory flat, exit code 0, the clean camera's activities within 10 % of those without the attack.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cv2
import numpy as np
from rig import Clock, NodeProcess, harness, percentiles, report, toy

from gc_ros.node import ros_messages
from tests.gc_ros.media.mutations import JPEGS, OTHERS, PNGS, mutated

RATE_HZ = 8.0  # of the model and of the clean camera
KINDS = len(JPEGS) + len(PNGS) + len(OTHERS)


class Compressed:
    """A publisher of compressed images, and the activities that come back about its camera."""

    def __init__(self, peer: Any, name: str) -> None:
        from glimpse_clouds.msg import Activity
        from rclpy.qos import qos_profile_sensor_data

        self.activities: list[float] = []  # their ages
        self.sent = 0
        topic = f"{name}/image/compressed"
        self._publisher = peer.node.create_publisher(
            ros_messages.CompressedImage, topic, qos_profile_sensor_data
        )
        peer.node.create_subscription(Activity, f"{harness.NAME}/{name}/activity", self._take, 100)
        harness.wait_until(self._publisher.get_subscription_count, topic)

    def _take(self, message: Any) -> None:
        self.activities.append(time.time() - ros_messages.to_ns(message.header.stamp) / 1e9)

    def publish(self, data: bytes, second: int, nanosecond: int, form: str = "jpeg") -> None:
        message = ros_messages.CompressedImage(format=form, data=data)
        message.header.stamp.sec, message.header.stamp.nanosec = second, nanosecond
        self._publisher.publish(message)
        self.sent += 1


def attack(camera: Compressed, rate_hz: float, until: float, seed: int) -> None:
    """Send what `random` of this seed makes until the steady clock says so."""
    chance = random.Random(seed)
    clock = Clock(rate_hz)
    good = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes()
    large = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8))[1]
    while time.monotonic() < until:
        kind = chance.random()
        if kind < 0.1:
            data = good
        elif kind < 0.2:  # accepted, and dear
            data = large.tobytes()
        else:
            changes = [
                (chance.randrange(999), chance.random(), chance.random()) for _ in range(chance.randrange(5))
            ]
            data = mutated(chance.randrange(KINDS), changes, chance.choice([b"", bytes(99), good]))
        second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
        if chance.random() < 0.1:
            second = chance.choice([0, -1, -(1 << 31), (1 << 31) - 1, second - 100, second + 100])
            nanosecond = chance.choice([0, 999_999_999, 1_000_000_000, (1 << 32) - 1])
        camera.publish(data, second, nanosecond, chance.choice(["jpeg", "png", "", "x" * 1000, "\x1b[2J"]))
        clock.wait()


def watch(clean: Compressed, frame: bytes, seconds: float, process: NodeProcess) -> dict[str, Any]:
    """The clean camera at its rate for so long; what came of it, and the node's memory meanwhile."""
    begun, resident = len(clean.activities), [process.resident_mb()]
    clock, sent = Clock(RATE_HZ), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        clean.publish(frame, *divmod(time.time_ns(), 1_000_000_000))
        sent += 1
        if sent % round(RATE_HZ) == 0:
            resident.append(process.resident_mb())
        clock.wait()
    time.sleep(0.5)
    ages = clean.activities[begun:]
    return {
        "sent": sent,
        "activities": len(ages),
        "age_ms": percentiles(ages or [float("nan")]),
        "sender_late_s": round(clock.late_s, 3),
        "resident_mb": {"start": resident[0], "end": resident[-1], "most": max(resident)},
        "resident_mb_at_tenths": [round(resident[len(resident) * i // 10], 1) for i in range(1, 10)],
    }


def run(minutes: float, rate_hz: float = 20.0) -> dict[str, Any]:
    harness.new_domain()
    peer = harness.Peer()
    process = NodeProcess(
        toy(RATE_HZ, S=64),
        cameras=["clean", "hostile"],
        image_transport="compressed",
        stall_timeout_s=5.0,
    )
    frame = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))[1]
    found: dict[str, Any] = {"minutes": minutes, "hostile_hz": rate_hz}
    try:
        clean, hostile = Compressed(peer, "clean"), Compressed(peer, "hostile")
        time.sleep(0.5)
        watch(clean, frame.tobytes(), 3, process)  # the window fills
        found["alone"] = watch(clean, frame.tobytes(), min(minutes * 20, 60), process)
        until = time.monotonic() + minutes * 60
        thread = threading.Thread(target=attack, args=(hostile, rate_hz, until, 0), daemon=True)
        thread.start()
        found["attacked"] = watch(clean, frame.tobytes(), minutes * 60, process)
        thread.join(10)
        time.sleep(1.5)  # one more report
        for name in ("clean", "hostile"):
            status = peer.diagnostics[f"camera {name}"]
            values = {value.key: value.value for value in status.values}
            images = {key: int(value) for key, value in values.items() if key.startswith("images ")}
            found[name] = {"says": status.message, **images}
        found["hostile"]["sent"] = hostile.sent
        found["state"] = peer.state()
        code, took = process.end(signal.SIGTERM)
        found["exit_code"], found["seconds_to_exit"] = code, round(took, 2)
        found["tracebacks"] = process.output.count("Traceback")
        found["lines_of_log"] = len(process.lines)
    finally:
        process.close()
        peer.close()
    per = [found[phase]["activities"] / found[phase]["sent"] for phase in ("alone", "attacked")]
    found["activities_against_alone"] = round(per[1] / per[0], 3) if per[0] else None
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=20.0, help="hostile images a second")
    parser.add_argument("--out")
    options = parser.parse_args()
    report("attack", run(options.minutes, options.rate), options.out)
