# SPDX-License-Identifier: Apache-2.0
"""`gc-model average`: a run between two others, weight by weight.

A fine-tuning forgets of its start what its own clips do not show. Between both networks, which lie in one valley of the
loss, is one that keeps most of either (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from gc_model.training import checkpoint
from gc_model.training.run_directory import check_unused, new_run
from trt_build.errors import DataError


@torch.no_grad()
def average(start: Path, tuned: Path, share: float, out: Path) -> None:
    """Write the run `out`: `share` of the weights of `tuned`, the rest of those of `start`, from which it was trained.

    It knows the labels, clips and provenance of `tuned`, but no figures of either, and is not calibrated. Raises
    DataError for runs of different networks or labels, or an `out` that is occupied.
    """
    check_unused(out)
    first, before = checkpoint.load(start)
    model, recipe = checkpoint.load(tuned)
    if (first.config, before.labels) != (model.config, recipe.labels):
        raise DataError(
            f"{start} and {tuned} differ in their network or labels: only like runs have a middle"
        )
    there = first.state_dict()
    model.load_state_dict(
        {
            name: there[name].lerp(value, share) if value.is_floating_point() else value
            for name, value in model.state_dict().items()
        }
    )
    provenance = checkpoint.without_figures(recipe.provenance) | {"averaged": {"share": share}}
    recipe = replace(recipe, temperature=1.0, unknown_threshold=0.0, provenance=provenance)
    with new_run(out):
        for name in ("options.json", "clips.json"):  # what the export needs to know of the training
            if (tuned / name).is_file():
                shutil.copyfile(tuned / name, out / name)
        checkpoint.save(out, model, recipe)
