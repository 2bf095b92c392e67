# SPDX-License-Identifier: Apache-2.0
"""The node over DDS with a real bundle: latency, rate, missed frames, CPU and memory; and the overlay, watched or not.

    python benchmarks/node_over_dds.py [--bundle bundles/people] [--seconds 20] [--hz 30] [--backend B] [--device D]
                                       [--board NAME] [--out FILE]

Times a result by the stamp of its newest frame, from the `publish` of that frame to the receipt of its message in
another process. The metrics have the names of NVIDIA's ros2_benchmark (basic_performance_calculator.py), so its tools
compare them with those of other nodes; percentiles, CPU and memory come beside them. A frame that the model does not
sample is not missed: "sent" are the frames at which a result is due, one for each stride once the window is full.

Aim of the overlay: at least 95 % of the results drawn at 30 Hz, 640x480 raw, while watched; no cost while not.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import ROOT, Clock, NodeProcess, harness, percentiles, report

from gc_ros.node import ros_messages
from gc_ros.recognition.sampler import Sampler
from gc_ros.stamps import NS
from trt_build.bundle import load_bundle

SIZES = ((640, 480), (1280, 720))
Image = harness.Image


class Watcher:
    """A peer that notes when each result, and each picture of the overlay, came in, by its stamp."""

    def __init__(self, watched: bool) -> None:
        harness.new_domain()
        self.peer = harness.Peer()
        self.results: dict[int, int] = {}
        self.drawn: set[int] = set()
        self.last: Any = None
        self.peer.node.create_subscription(harness.Activity, f"{harness.NAME}/activity", self._result, 100)
        if watched:
            self.peer.node.create_subscription(Image, f"{harness.NAME}/debug/image", self._picture, 10)

    def _result(self, message: Any) -> None:
        self.results[ros_messages.to_ns(message.header.stamp)] = time.time_ns()
        self.last = message

    def _picture(self, message: Any) -> None:
        self.drawn.add(ros_messages.to_ns(message.header.stamp))


def due(stamps: list[int], bundle: Any) -> list[int]:
    """The stamps at which a result is due: each sampled frame from the one that fills the window on."""
    sampler = Sampler(bundle.rate_hz)
    sampled = [stamp for stamp in stamps if sampler.decide(stamp).take]
    return sampled[bundle.T - 1 :]


def metrics(wanted: list[int], sent: dict[int, int], received: dict[int, int]) -> dict[str, Any]:
    """ros2_benchmark's basic metrics. wanted: stamps of `due`. sent, received: time of day in ns by stamp, in order."""
    starts = np.array([sent[stamp] for stamp in wanted]) / 1e6
    ends = np.array(list(received.values())) / 1e6
    ages = np.array([(at - sent[stamp]) / 1e6 for stamp, at in received.items()])
    jitter = np.abs(np.diff(ends, 2))
    return {
        "Delta between First & Last Received Frames (ms)": ends[-1] - ends[0],
        "Mean Playback Frame Rate (fps)": (len(starts) - 1) / (starts[-1] - starts[0]) * 1e3,
        "Mean Frame Rate (fps)": (len(ends) - 1) / (ends[-1] - ends[0]) * 1e3,
        "# of Missed Frames": max(len(starts) - len(ends), 0),
        "# of Frames Sent": len(starts),
        "First Sent to First Received Latency (ms)": ends[0] - starts[0],
        "Last Sent to Last Received Latency (ms)": ends[-1] - starts[-1],
        "First Frame End-to-end Latency (ms)": ages[0],
        "Last Frame End-to-end Latency (ms)": ages[-1],
        "Max. End-to-End Latency (ms)": ages.max(),
        "Min. End-to-End Latency (ms)": ages.min(),
        "Mean End-to-End Latency (ms)": ages.mean(),
        "Max. Frame-to-Frame Jitter (ms)": jitter.max(),
        "Min. Frame-to-Frame Jitter (ms)": jitter.min(),
        "Mean Frame-to-Frame Jitter (ms)": jitter.mean(),
        "Frame-to-Frame Jitter Std. Deviation (ms)": jitter.std(),
    }


def measure(
    bundle: Path, width: int, height: int, seconds: float, hz: float, watched: bool, **parameters: Any
) -> dict[str, Any]:
    """One node at one image size, with or without somebody who watches the overlay."""
    info = load_bundle(bundle).info
    watcher = Watcher(watched)
    process = NodeProcess(bundle, **parameters)
    try:
        watcher.peer.wait_for_diagnostic("engine", "active", 600)  # an engine may have to be built first
        watcher.peer.wait_for_camera()
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        message = ros_messages.to_image(pixels, ros_messages.to_header(0, "camera"), "bgr8")
        clock, sent = Clock(hz), {}

        def stream(frames: int) -> None:
            for _ in range(frames):
                clock.wait()
                stamp = time.time_ns()
                message.header.stamp = ros_messages.to_time(stamp)
                sent[stamp] = time.time_ns()
                watcher.peer.camera.publish(message)

        stream(int((info.T / info.rate_hz + 2) * hz))  # fills the window, warms the caches
        warm = len(sent)
        cpu, began = process.cpu_s(), time.monotonic()
        stream(int(seconds * hz))
        cpu, took = process.cpu_s() - cpu, time.monotonic() - began
        resident = process.resident_mb()
        time.sleep(1.0)
        first = list(sent)[warm]
        wanted = [stamp for stamp in due(list(sent), info) if stamp >= first]
        ends = {stamp: at for stamp, at in watcher.results.items() if stamp >= first}
        ages = [(at - sent[stamp]) / NS for stamp, at in ends.items()]
        found: dict[str, Any] = {
            "metrics": {name: round(float(value), 3) for name, value in metrics(wanted, sent, ends).items()},
            "latency_ms": percentiles(ages),
            "engine_ms_last": round(float(watcher.last.inference_s) * 1e3, 3),
            "frames_taken_in": round(int(watcher.last.frames_received) / len(sent), 4),
            "windows_skipped": int(watcher.last.windows_skipped),
            "cpu_percent_of_one_core": round(cpu / took * 100, 1),
            "cpu_ms_per_camera_frame": round(cpu / (len(sent) - warm) * 1e3, 2),
            "resident_mb": round(resident, 1),
            "camera_late_ms": round(clock.late_s * 1e3, 1),
        }
        if watched:
            found["results_drawn"] = round(len(watcher.drawn & ends.keys()) / len(ends), 4)
        return found
    finally:
        process.close()
        watcher.peer.close()


def run(bundle: Path, seconds: float, hz: float, board: str, **parameters: Any) -> dict[str, Any]:
    info = load_bundle(bundle).info
    sizes = {}
    for width, height in SIZES:
        unwatched, watched = (
            measure(bundle, width, height, seconds, hz, each, **parameters) for each in (False, True)
        )
        sizes[f"{width}x{height}"] = {"unwatched": unwatched, "watched": watched}
    return {
        "metadata": {
            "name": "activity_recognition over DDS",
            "test_datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device_hostname": board or platform.machine(),
            "camera_hz": hz,
            "seconds": seconds,
            "model": f"{info.model_id}, T {info.T}, {info.rate_hz:g} Hz",
            **parameters,
        },
        "sizes": sizes,
    }


COLUMNS = (
    "images",
    "overlay",
    "p50 / p99, ms",
    "engine, ms",
    "results a second",
    "missed",
    "CPU",
    "RSS, MB",
    "drawn",
)


def table(sizes: dict[str, Any]) -> str:
    """The rows of docs/boards.md."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for size, both in sizes.items():
        for name, found in both.items():
            latency, metric = found["latency_ms"], found["metrics"]
            cells = [
                size,
                name,
                f"{latency['p50']:.0f} / {latency['p99']:.0f}",
                f"{found['engine_ms_last']:.1f}",
                f"{metric['Mean Frame Rate (fps)']:.2f}",
                f"{metric['# of Missed Frames']:.0f} of {metric['# of Frames Sent']:.0f}",
                f"{found['cpu_percent_of_one_core']:.0f} %",
                f"{found['resident_mb']:.0f}",
                f"{found['results_drawn']:.0%}" if "results_drawn" in found else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "people")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--hz", type=float, default=30)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--board", default="", help="what to call this machine in the report")
    parser.add_argument("--out")
    options = parser.parse_args()
    engine = {name: getattr(options, name) for name in ("backend", "device", "precision")}
    figures = run(options.bundle, options.seconds, options.hz, options.board, **engine)
    report("node_over_dds", figures, options.out)
    print(table(figures["sizes"]), file=sys.stderr)  # for docs/boards.md
