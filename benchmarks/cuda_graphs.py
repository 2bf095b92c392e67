# SPDX-License-Identifier: Apache-2.0
"""Times ONNX Runtime on a GPU with runs recorded as CUDA graphs and with operations launched one by one.

    python benchmarks/cuda_graphs.py --bundle bundles/people > cuda_graphs.json

Engines of one mode and batch take turns of ten calls, so that ratios can be trusted where times cannot. Needs an NVIDIA
GPU and onnxruntime-gpu.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines.cuda import load_cuda
from trt_build.engines.ort import OrtEngine
from trt_build.errors import EngineError

TURN = 10


def measure(bundle: LoadedBundle, mode: str, batch: int, turns: int) -> list[dict[str, Any]]:
    """One row for each precision, recorded and launched; times in milliseconds, memory in MiB."""
    cuda = load_cuda()
    frames: dict[str, np.ndarray] = {}
    engines: dict[tuple[str, bool], OrtEngine] = {}
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for key in [(precision, graph) for precision in ("fp32", "fp16") for graph in (True, False)]:
        free, began = cuda.call("cudaMemGetInfo")[0], time.perf_counter()
        engine = OrtEngine(bundle, mode, batch=batch, device="cuda", precision=key[0], cuda_graph=key[1])
        rng = np.random.default_rng(0)
        frames = {n: rng.integers(0, 256, s.sized(batch), np.uint8) for n, s in engine.inputs.items()}
        engine.run(frames)
        found[key] = {
            "start_s": round(time.perf_counter() - began, 2),
            "device_mib": (free - cuda.call("cudaMemGetInfo")[0]) >> 20,
            "engine": engine.description,
        }
        engines[key] = engine
    times: dict[tuple[str, bool], list[float]] = {key: [] for key in engines}
    for _ in range(turns):
        for key, engine in engines.items():
            engine.run(frames)
            for _ in range(TURN):
                began = time.perf_counter()
                engine.run(frames)
                times[key].append((time.perf_counter() - began) * 1e3)
    rows = []
    for key, values in times.items():
        p50, p90, p99 = (round(float(np.percentile(values, q)), 3) for q in (50, 90, 99))
        rows.append(
            {"mode": mode, "batch": batch, "precision": key[0], "graph": key[1], "p50": p50, "p90": p90, "p99": p99}
            | found[key]
        )  # fmt: skip
    for engine in engines.values():
        engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/people"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--turns", type=int, default=30)
    args = parser.parse_args()
    try:
        gpu = load_cuda().gpu().name
    except EngineError as error:
        parser.error(str(error))
    bundle = load_bundle(args.bundle)
    rows = [
        row for mode in bundle.info.modes for batch in args.batches for row in measure(bundle, mode, batch, args.turns)
    ]  # fmt: skip
    p50 = {(r["mode"], r["batch"], r["precision"], r["graph"]): r["p50"] for r in rows}
    ratios = {
        f"{m} batch {b} {p}": round(p50[m, b, p, True] / launched, 3)
        for (m, b, p, graph), launched in p50.items()
        if not graph
    }
    print(json.dumps({"gpu": gpu, "rows": rows, "recorded_to_launched": ratios}, indent=1))


if __name__ == "__main__":
    main()
