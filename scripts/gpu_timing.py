# SPDX-License-Identifier: Apache-2.0
"""One engine in a process of its own, for gpu_check.py: opened, or timed; one line of JSON.

gpu_timing.py open|time {"bundle": ..., "mode": ..., "backend": ..., "precision": ..., "batch": ...}
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from trt_build.bundle import load_bundle
from trt_build.engines.trt import TrtEngine

CALLS = 200  # of each way to run
TURN = 10  # calls of one way before the other takes its turn


def open_once(order: dict[str, Any]) -> dict[str, Any]:
    """Open an engine, build it if it is missing, and keep its kernels."""
    began = time.perf_counter()
    engine = TrtEngine(load_bundle(order.pop("bundle")), order.pop("mode"), **order)
    found = {"s": round(time.perf_counter() - began, 2), "description": engine.description}
    engine.close()
    return found


def time_both_ways(order: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step recorded as a CUDA graph and launched, in turn."""
    bundle = load_bundle(order.pop("bundle"))
    mode = order.pop("mode")
    began = time.perf_counter()
    engines = {"graph": TrtEngine(bundle, mode, cuda_graph=True, **order)}
    opening = time.perf_counter() - began
    engines["launched"] = TrtEngine(bundle, mode, cuda_graph=False, **order)
    rng = np.random.default_rng(0)
    spec = next(iter(engines["graph"].inputs.values()))
    frames = {spec.name: rng.integers(0, 256, spec.sized(engines["graph"].batch), np.uint8)}
    times: dict[str, list[float]] = {way: [] for way in engines}
    for _ in range(CALLS // TURN):
        for way, engine in engines.items():
            engine.run(frames)
            for _ in range(TURN):
                began = time.perf_counter()
                engine.run(frames)
                times[way].append((time.perf_counter() - began) * 1e3)
    found: dict[str, Any] = {"open_s": round(opening, 2), "description": engines["graph"].description}
    for way, ms in times.items():
        found[way] = {f"p{q}_ms": round(float(np.percentile(ms, q)), 4) for q in (50, 90, 99)}
    for engine in engines.values():
        engine.close()
    return found


if __name__ == "__main__":
    work = {"open": open_once, "time": time_both_ways}[sys.argv[1]]
    print(json.dumps(work(json.loads(sys.argv[2]))))
