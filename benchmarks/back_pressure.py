# SPDX-License-Identifier: Apache-2.0
"""An engine slower than the camera: are frames still taken in, and do results stay young and even? And does a dead
or a slow camera cost the others anything?

    python benchmarks/back_pressure.py [--seconds 20] [--engine-ms 100] [--out FILE]

One camera at 30 Hz: at least 98 % taken in; age of a result p50 below 1.5 and p99 below 2.5 engine times; the spacing
of the windows' frames within 10 % of the sampling period. Four at 15 Hz, then the same with one dead and one at 1 Hz:
the others' age the same within 10 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import NodeProcess, harness, percentiles, report, toy

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from trt_build.bundle import load_bundle

Image = harness.Image


class Listener:
    """A peer that notes age and span of every result, and the node's own counts."""

    def __init__(self, cameras: list[str]) -> None:
        harness.new_domain()
        self.peer = harness.Peer()
        self.publishers = {
            name: self.peer.node.create_publisher(
                Image, f"{name}/image" if name else "image", harness.qos_profile_sensor_data
            )
            for name in cameras
            if name
        } or {"": self.peer.camera}
        self.results: dict[str, list[Any]] = {name: [] for name in cameras}
        for name in cameras:
            topic = f"{harness.NAME}/{name}/activity" if name else f"{harness.NAME}/activity"
            self.peer.node.create_subscription(
                harness.Activity, topic, lambda m, name=name: self._note(name, m), 100
            )

    def _note(self, name: str, message: Any) -> None:
        age_s = (time.time_ns() - ros_messages.to_ns(message.header.stamp)) / NS
        start, end = ros_messages.to_ns(message.window_start), ros_messages.to_ns(message.window_end)
        self.results[name].append((age_s, (end - start) / NS, message))

    def stream(self, rates: dict[str, float], seconds: float) -> dict[str, int]:
        """All cameras at their rates at once, each phase-shifted, 0 Hz is dead; frames sent by camera."""
        message = ros_messages.to_image(
            np.zeros((480, 640, 3), np.uint8), ros_messages.to_header(0, "c"), "bgr8"
        )
        began, began_ns, sent = time.monotonic(), time.time_ns(), dict.fromkeys(rates, 0)
        due = {name: began + 0.37 * i / rate for i, (name, rate) in enumerate(rates.items()) if rate}
        while due:
            name = min(due, key=due.get)  # type: ignore[arg-type]
            if due[name] > began + seconds:
                break
            time.sleep(max(due[name] - time.monotonic(), 0))
            # When it was due: a camera that a busy machine serves late has exposed in time all the same.
            message.header.stamp = ros_messages.to_time(began_ns + round((due[name] - began) * NS))
            self.publishers[name].publish(message)
            sent[name] += 1
            due[name] += 1 / rates[name]
        return sent


def _deviation(periods: Any) -> float:
    """Mean distance of a window's frames in sampling periods: how far it is off 1, and how much it varies."""
    return float(abs(periods.mean() - 1) + periods.std())


def scene(bundle: Path, engine_s: float, rates: dict[str, float], seconds: float) -> dict[str, Any]:
    """One node, its cameras at these rates; what came of it, by camera."""
    listener = Listener(list(rates))
    info = load_bundle(bundle).info
    process = NodeProcess(bundle, engine_s, cameras=list(rates), max_frame_gap_s=3.0)
    try:
        for publisher in listener.publishers.values():
            harness.wait_until(publisher.get_subscription_count, publisher.topic_name)
        time.sleep(1)
        warm = listener.stream(rates, 3.0)
        for results in listener.results.values():
            results.clear()
        sent = listener.stream(rates, seconds)
        time.sleep(3 * engine_s + 0.3)
        out: dict[str, dict[str, Any]] = {}
        for name, rate in rates.items():
            results = listener.results[name]
            if not results:
                out[name or "camera"] = {"hz": rate, "results": 0}
                continue
            ages, spans = [age for age, _, _ in results], [span for _, span, _ in results]
            engine = float(np.mean([m.inference_s for _, _, m in results]))
            last = results[-1][2]
            out[name or "camera"] = {
                "hz": rate,
                "results": len(results),
                "taken_in": round(last.frames_received / (warm[name] + sent[name]), 4),
                "age_ms": percentiles(ages),
                "age_in_engine_times": {k: round(v / engine / 1e3, 3) for k, v in percentiles(ages).items()},
                "spacing_deviation": round(_deviation(np.array(spans) * info.rate_hz / (info.T - 1)), 4),
                "windows_skipped": int(last.windows_skipped),
            }
        return out
    finally:
        process.close()
        listener.peer.close()


def run(seconds: float, engine_s: float, rate_hz: float = 8.0) -> dict[str, Any]:
    bundle = toy(rate_hz=rate_hz)
    one = scene(bundle, engine_s, {"": 30.0}, seconds)
    names = ("front", "left", "right", "rear")
    all_well = scene(bundle, engine_s, dict.fromkeys(names, 15.0), seconds)
    faulty = scene(bundle, engine_s, {"front": 15.0, "left": 15.0, "right": 1.0, "rear": 0.0}, seconds)
    pooled = [sum(found[name]["age_ms"]["p50"] for name in ("front", "left")) for found in (faulty, all_well)]
    return {
        "engine_ms": engine_s * 1e3,
        "one_camera": one,
        "four_cameras": all_well,
        "one_dead_one_at_1_hz": faulty,
        "age_p50_faulty_over_well": round(pooled[0] / pooled[1], 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--engine-ms", type=float, default=100)
    parser.add_argument("--out")
    options = parser.parse_args()
    report("back_pressure", run(options.seconds, options.engine_ms / 1e3), options.out)
