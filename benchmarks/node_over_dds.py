# SPDX-License-Identifier: Apache-2.0
"""The node over DDS with a real bundle: latency, rate, missed frames, CPU and memory; and the overlay, watched or not.

    python benchmarks/node_over_dds.py [--bundle bundles/people] [--seconds 20] [--hz 30] [--backend B] [--device D]
                                       [--precision P] [--board NAME] [--out FILE]

Times a result by the stamp of its newest frame, from the `publish` of that frame to the receipt of its message in
another process. Prints a report in the form of those of NVIDIA's ros2_benchmark, under its keys and by its formulas
(basic_performance_calculator.py, with `message_key_match`), so that what reads those reads this one: at the top the
metrics of 640x480 with nobody watching, in "sizes" those of every size, with percentiles, CPU and memory. A frame that
the model does not sample is not missed: NUM_FRAMES_SENT are the frames at which a result is due, one for each stride
once the window is full. On stderr: the rows of docs/boards.md.

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


def metrics(wanted: list[int], sent: dict[int, int], received: dict[int, int]) -> dict[str, float]:
    """ros2_benchmark's basic metrics by the keys of its reports, in ms and frames a second.

    wanted: stamps of `due`. sent, received: time of day in ns by stamp, in order. Its rates count both ends of the time
    they are taken over, which is too many by one frame. Without jitter where there are less than three results.
    """
    starts = np.array([sent[stamp] for stamp in wanted]) / 1e6
    ends = np.array(list(received.values())) / 1e6
    ages = np.array([(at - sent[stamp]) / 1e6 for stamp, at in received.items()])
    found = {
        "RECEIVED_DURATION": ends[-1] - ends[0],
        "MEAN_PLAYBACK_FRAME_RATE": len(starts) / (starts[-1] - starts[0]) * 1e3,
        "MEAN_FRAME_RATE": len(ends) / (ends[-1] - ends[0]) * 1e3,
        "NUM_MISSED_FRAMES": max(len(starts) - len(ends), 0),
        "NUM_FRAMES_SENT": len(starts),
        "FIRST_SENT_RECEIVED_LATENCY": ends[0] - starts[0],
        "LAST_SENT_RECEIVED_LATENCY": ends[-1] - starts[-1],
        "FIRST_INPUT_LATENCY": ages[0],
        "LAST_INPUT_LATENCY": ages[-1],
        "MAX_LATENCY": ages.max(),
        "MIN_LATENCY": ages.min(),
        "MEAN_LATENCY": ages.mean(),
    }
    if len(ends) > 2:
        jitter = np.abs(np.diff(ends, 2))
        found |= {"MAX_JITTER": jitter.max(), "MIN_JITTER": jitter.min()}
        found |= {"MEAN_JITTER": jitter.mean(), "STD_DEV_JITTER": jitter.std()}
    return {f"BasicPerformanceMetrics.{name}": round(float(value), 3) for name, value in found.items()}


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
        if len(ends) < 2 or len(wanted) < 2:
            raise SystemExit(f"{len(ends)} results of {len(wanted)} that were due: give more --seconds")
        ages = [(at - sent[stamp]) / NS for stamp, at in ends.items()]
        first_ns, *_, last_ns = ends.values()
        found: dict[str, Any] = {
            **metrics(wanted, sent, ends),
            "latency_ms": percentiles(ages),
            "results_a_second": round((len(ends) - 1) / ((last_ns - first_ns) / NS), 3),
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
    figures = sizes[f"{SIZES[0][0]}x{SIZES[0][1]}"]["unwatched"]
    metadata = {
        "NAME": "activity_recognition over DDS",
        "TEST_FILE_PATH": str(Path(__file__).resolve()),
        "TEST_DATETIME": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "DEVICE_HOSTNAME": board or platform.node(),
        "DEVICE_ARCH": platform.machine(),
        "DEVICE_OS": f"{platform.system()} {platform.release()} {platform.version()}",
    }
    custom = {
        "model": f"{info.model_id}, T {info.T}, {info.rate_hz:g} Hz",
        "camera_hz": hz,
        "seconds": seconds,
    }
    return {
        **{name: value for name, value in figures.items() if name.startswith("BasicPerformanceMetrics.")},
        "sizes": sizes,
        "custom": {**custom, "data_resolution": "x".join(map(str, SIZES[0])), **parameters},
        "metadata": {f"BenchmarkMetadata.{name}": value for name, value in metadata.items()},
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
            latency = found["latency_ms"]
            missed, due_ = (
                found[f"BasicPerformanceMetrics.{name}"] for name in ("NUM_MISSED_FRAMES", "NUM_FRAMES_SENT")
            )
            cells = [
                size,
                name,
                f"{latency['p50']:.0f} / {latency['p99']:.0f}",
                f"{found['engine_ms_last']:.1f}",
                f"{found['results_a_second']:.2f}",
                f"{missed:.0f} of {due_:.0f}",
                f"{found['cpu_percent_of_one_core']:.0f} %",
                f"{found['resident_mb']:.0f}",
                f"{found['results_drawn']:.0%}" if "results_drawn" in found else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
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
    return parser


if __name__ == "__main__":
    options = arguments().parse_args()
    engine = {name: getattr(options, name) for name in ("backend", "device", "precision")}
    figures = run(options.bundle, options.seconds, options.hz, options.board, **engine)
    report("node_over_dds", figures, options.out)
    print(table(figures["sizes"]), file=sys.stderr)  # for docs/boards.md
