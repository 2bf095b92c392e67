# SPDX-License-Identifier: Apache-2.0
"""Does the node grow? Frames by the thousand through a node process that is activated and deactivated all the while.

    python benchmarks/soak.py [--frames 20000] [--activations 50] [--out FILE]

Aim: resident memory grows by less than 1 MB in 10,000 frames once warm, the number of threads stays. Frames go one by
one, each after the answer to the one before, so nothing depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import NodeProcess, harness, report, toy

from gc_ros.stamps import NS

RATE_HZ = 30.0
_WARM = 0.25  # of the run; allocators and DDS histories fill up first


def slope_mb(frames: list[int], megabytes: list[float]) -> float:
    """Least-squares growth in MB per 10,000 frames."""
    return float(np.polyfit(np.array(frames) / 1e4, megabytes, 1)[0])


def run(frames: int, activations: int, width: int = 320, height: int = 240) -> dict[str, Any]:
    harness.new_domain()
    peer = harness.Peer()
    process = NodeProcess(toy(RATE_HZ, S=64), autostart=False, max_age_s=0.0, stall_timeout_s=60.0)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    counts: list[int] = []
    resident: list[float] = []
    threads: list[int] = []
    sent = answered = lost = 0
    began = time.monotonic()
    try:
        assert peer.transition("configure")
        for _ in range(activations):
            assert peer.transition("activate")
            peer.wait_for_camera()
            for number in range(frames // activations):
                heard = len(peer.activities)
                peer.publish(pixels, int((sent + 1) * NS / RATE_HZ), "bgr8")
                sent += 1
                if number < 7:  # the window fills
                    time.sleep(0.01)
                    continue
                deadline = time.monotonic() + 0.5
                while len(peer.activities) == heard and time.monotonic() < deadline:
                    time.sleep(0.0005)
                answered += len(peer.activities) > heard
                lost += len(peer.activities) == heard
            counts.append(sent)
            resident.append(process.resident_mb())
            threads.append(process.threads())
            peer.activities.clear()
            peer.events.clear()
            assert peer.transition("deactivate")
    finally:
        process.close()
        peer.close()
    warm = int(len(counts) * _WARM)
    return {
        "frames": sent,
        "activations": activations,
        "answered": answered,
        "unanswered": lost,
        "resident_mb": {"first": resident[0], "warm": resident[warm], "last": resident[-1]},
        "resident_mb_per_10000_frames": round(slope_mb(counts[warm:], resident[warm:]), 3),
        "threads": {"warm": threads[warm], "last": threads[-1], "most": max(threads[warm:])},
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--activations", type=int, default=50)
    parser.add_argument("--out")
    options = parser.parse_args()
    report("soak", run(options.frames, options.activations), options.out)
