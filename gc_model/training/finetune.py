# SPDX-License-Identifier: Apache-2.0
"""Starting from a trained model: the same network, with other labels if the data has others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gc_model.data.clip import spelled
from gc_model.paper.network import Network
from gc_model.paper.presets import Config
from gc_model.training import checkpoint
from trt_build.errors import DataError

CLASSIFIERS = ("readout.", "global_head.")


@torch.no_grad()
def start_from(model: Network, labels: Sequence[str], run: Path) -> list[str]:
    """Load the weights of `run` into `model`. Returns the labels that the run did not know.

    Everything but the classifiers is taken as it is, the metric too. A classifier keeps the weights of the classes that
    both know, by name; new classes start with small weights. With the same labels it is the same function, unless the
    glimpses are to start elsewhere: then the location layer starts as in a new network. Raises DataError if `run` is
    another network.
    """
    before, recipe = checkpoint.load(run)
    weights, mine = before.state_dict(), model.state_dict()
    if moved(before.config, model.config):
        weights |= {n: v for n, v in mine.items() if n.startswith(("attention.locate.", "attention.start"))}
    theirs = [spelled(label, recipe.labels) for label in labels]
    known = [(i, recipe.labels.index(label)) for i, label in enumerate(theirs) if label in recipe.labels]
    here, there = torch.tensor([k for k, _ in known]), torch.tensor([k for _, k in known])
    for name in [n for n in weights if n.startswith(CLASSIFIERS) and n in mine]:
        old = weights[name]
        # Classes are the first axis of a plain Linear, the last of the workers' read-outs.
        axis = 0 if name.startswith("global_head.") or old.dim() <= 2 else -1
        # Random but small: no two new classes are equal, and none outvotes a class that is known.
        fresh = mine[name] * (0.1 if name.endswith("weight") else 0.0)
        if known and _same_but_classes(old, fresh, axis):
            fresh.index_copy_(axis, here, old.index_select(axis, there))
        weights[name] = fresh
    wrong = [n for n, v in mine.items() if n not in weights or weights[n].shape != v.shape]
    if wrong := wrong + [n for n in weights if n not in mine]:
        raise DataError(
            f"{run} is another network ({wrong[0]} differs): use the switches that it was trained with"
        )
    model.load_state_dict(weights)
    return [label for label in theirs if label not in recipe.labels]


def moved(before: Config, now: Config) -> bool:
    """Whether the glimpses of a run start at other places than those of the run that it starts from."""
    return before.glimpse_extent != now.glimpse_extent


def _same_but_classes(a: torch.Tensor, b: torch.Tensor, axis: int) -> bool:
    one, other = list(a.shape), list(b.shape)
    one[axis] = other[axis] = 0
    return one == other
