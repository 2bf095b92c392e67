# SPDX-License-Identifier: Apache-2.0
"""Time of one training step of `edge` on this processor, with our depthwise convolutions and with PyTorch's own.

    python benchmarks/training_step.py [--threads 1] [--freeze-stages 4] [--rounds 5]

Prints JSON: seconds of the trunk's forward and backward pass over 8 clips, for "ours" and "grouped Conv3d" in turn, and
the ratio of their shortest times. Weights and frames are random, since times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from gc_model.paper import inflated
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training.stages import freeze_stages, freeze_statistics
from tests.gc_model.nets import depthwise_conv3d
from trt_build.heap import keep_freed_memory

CLIPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--freeze-stages", type=int, default=4, choices=range(5))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    keep_freed_memory(any_size=True)
    model = build(preset("edge", classes=8))
    freeze_stages(model, asked.freeze_stages)
    size = model.config.size
    clips = torch.randint(0, 256, (CLIPS, model.config.T, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        maps = model.maps(clips)
    model.train()
    freeze_statistics(model.trunk)

    def step() -> float:
        began = time.perf_counter()
        model.zero_grad()
        Z, c = model.features_of(maps) if asked.freeze_stages == 4 else model.features(clips)
        (Z.square().mean() + c.mean()).backward()
        return round(time.perf_counter() - began, 3)

    times: dict[str, list[float]] = {"ours": [], "grouped Conv3d": []}
    for _ in range(asked.rounds):
        times["ours"].append(step())
        with mock.patch.object(inflated, "depthwise_clip", depthwise_conv3d):
            times["grouped Conv3d"].append(step())
    ratio = min(times["ours"]) / min(times["grouped Conv3d"])
    print(json.dumps({"clips": CLIPS, **vars(asked), "seconds": times, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
