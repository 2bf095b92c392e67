# SPDX-License-Identifier: Apache-2.0
"""Engines of a bundle and video models of torchvision, interleaved in one run.

    python benchmarks/engines.py bundles/people --threads 2

Prints JSON: `trt-build bench`'s answer, and for each peer its milliseconds a clip and how many times the window of
ONNX Runtime FP32 fits into that. The peers are the classes of the installed torchvision themselves, in eager PyTorch,
with random weights (the time does not depend on them), 16 frames of 112 x 112 or 224 x 224 as their papers have it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.models import video

from trt_build.bench import as_json, bench
from trt_build.bundle import load_bundle
from trt_build.engine import open_engine
from trt_build.verify import candidates

PEERS = {
    "torchvision r3d_18": (video.r3d_18, (16, 112, 112)),
    "torchvision r2plus1d_18": (video.r2plus1d_18, (16, 112, 112)),
    "torchvision s3d": (video.s3d, (16, 224, 224)),
    "torchvision mvit_v2_s": (video.mvit_v2_s, (16, 224, 224)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    loaded = load_bundle(options.bundle)
    answer = as_json(
        bench(loaded, candidates(loaded), calls=options.calls, threads=options.threads),
        loaded,
        options.threads,
    )
    answer["peers"] = peers(loaded, options.threads, options.calls)
    print(json.dumps(answer, indent=2))


@torch.no_grad()
def peers(loaded, threads: int, calls: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(threads)
    engine = open_engine(loaded, "window", backend="onnxruntime", threads=threads)
    ours = {n: np.zeros(s.sized(1), s.dtype) for n, s in engine.inputs.items()}
    models = {
        name: (make(weights=None).eval(), torch.randn(1, 3, *size)) for name, (make, size) in PEERS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in (*models, "window")}
    for round_ in range(max(calls // 4, 3)):
        for name in times:
            began = time.perf_counter()
            if name == "window":
                engine.run(ours)
            else:
                model, clip = models[name]
                model(clip)
            if round_:  # the first round is the warm-up
                times[name].append((time.perf_counter() - began) * 1e3)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return {
        name: {"p50_ms": medians[name], "times_our_window": medians[name] / medians["window"]}
        for name in models
    }


if __name__ == "__main__":
    main()
