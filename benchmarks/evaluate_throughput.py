# SPDX-License-Identifier: Apache-2.0
"""How much of the engine's own speed `evaluate` reaches, memory over a long bag, and two processes against one.

    python benchmarks/evaluate_throughput.py --bundle bundles/people

Prints JSON. The engine alone runs the same sampled frames in the same process right before and right after, and the
mean of both is taken, since other work on the machine changes its speed from minute to minute. Of `evaluate` all counts
but opening the engine: reading, files, pictures, checksums.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gc_ros.evaluation.many import evaluate_many
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.running import Task, evaluate_bag
from gc_ros.evaluation.sources import Source
from gc_ros.media.bag_reading import read_bag_images
from gc_ros.recognition.sampler import Sampler
from tests.gc_ros.evaluation.bag_files import write_bag
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines.open import open_engine
from trt_build.preprocess import model_input


def engine_alone(bundle: LoadedBundle, bag: Path, mode: str) -> float:
    """Seconds the engine needs for the windows of a bag, whose frames are already prepared."""
    info = bundle.info
    sampler, frames = Sampler(info.rate_hz), []
    for stamp, image, encoding in read_bag_images(bag):
        if sampler.decide(stamp).take:
            frames.append(model_input(image, info.preprocess, bgr=encoding == "bgr8"))
    engine = open_engine(bundle, mode, threads=1)
    name = "frames" if mode == "window" else "frame"
    buffer = np.zeros(engine.inputs[name].sized(1), np.uint8)
    window: deque[Any] = deque(maxlen=info.T)
    spent = 0.0
    for frame in frames:
        window.append(frame)
        if mode == "window":
            if len(window) < info.T:
                continue
            for t, one in enumerate(window):
                buffer[0, t] = one
        else:
            buffer[0] = frame
        began = time.perf_counter()
        engine.run({name: buffer})
        spent += time.perf_counter() - began
    engine.close()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--mode", default=None)
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="of the bag for one process; for two they are four times as long",
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="of the bag for memory; 30 is the claim; 0: none"
    )
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    mode = arguments.mode or bundle.info.default_mode
    found: dict[str, Any] = {"bundle": bundle.info.model_id, "mode": mode, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for kind in ("raw", "jpeg"):
            found[kind] = throughput(root / kind, kind == "jpeg", bundle, mode, arguments.seconds)
            shutil.rmtree(root / kind)
        if arguments.minutes:
            found["memory"] = memory(root, arguments.bundle, mode, arguments.minutes)
    found["load_after"] = os.getloadavg()[0]
    print(json.dumps(found, indent=2))


def throughput(root: Path, jpeg: bool, bundle: LoadedBundle, mode: str, seconds: float) -> dict[str, Any]:
    """One process against the engine alone, and two against one, on raw or compressed images."""
    root.mkdir()

    def write(name: str, length: float) -> Path:
        write_bag(root / name, [("red", length)], hz=15.0, jpeg=jpeg, size=(640, 480))
        return root / name

    options = Options(mode=mode, threads=1)
    bag = write("bag", seconds)
    shares: list[float] = []
    for turn in range(4):
        before = engine_alone(bundle, bag, mode)
        task = Task(Source(bag, "bag"), str(bundle.path), options, str(root / f"one{turn}"))
        began = time.perf_counter()
        evaluate_bag(task)
        spent = time.perf_counter() - began
        after = engine_alone(bundle, bag, mode)
        if turn:  # the first opens the engine, which is then kept for all bags
            shares.append((before + after) / 2 / spent)
    # Long enough for the second that a process takes to start.
    sources = [Source(write(name, 4 * seconds), name) for name in ("bag0", "bag1")]
    speedups: list[float] = []
    for turn in range(2):
        times = []
        for jobs in (1, 2):
            began = time.perf_counter()
            evaluate_many(sources, bundle.path, root / f"jobs{jobs}{turn}", options, jobs=jobs)
            times.append(time.perf_counter() - began)
        speedups.append(times[0] / times[1])
    return {
        "share_of_engine_alone": {"median": float(np.median(shares)), "all": shares},
        "two_processes_over_one": {"median": float(np.median(speedups)), "all": speedups},
    }


def memory(root: Path, bundle: Path, mode: str, minutes: float) -> dict[str, float]:
    """Resident memory in MB after a tenth of a long bag and at its end."""
    write_bag(root / "long", [("red", minutes * 60)], hz=10.0, jpeg=True, size=(320, 240))
    process, seen = psutil.Process(), []
    task = Task(Source(root / "long", "long"), str(bundle), Options(mode=mode, threads=1), str(root / "out"))
    record = evaluate_bag(task, lambda n: seen.append((n, process.memory_info().rss / 1e6)))
    tenth = next(rss for n, rss in seen if n >= record["counts"]["images"] / 10)
    return {
        "minutes": minutes,
        "after_a_tenth_mb": tenth,
        "at_the_end_mb": seen[-1][1],
        "images": seen[-1][0],
    }


if __name__ == "__main__":
    main()
