# SPDX-License-Identifier: Apache-2.0
"""Going on from a trained model: the same network, for other labels where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gc_model.paper.network import Network
from gc_model.training import checkpoint
from trt_build.errors import DataError

CLASSIFIERS = ("readout.", "global_head.")


@torch.no_grad()
def go_on_from(model: Network, labels: Sequence[str], run: Path) -> list[str]:
    """Fill `model` with the weights of `run`. Returns the labels that the run did not know.

    Everything but the classifiers is taken as it is, the calibrated metric too. A classifier keeps the weights of the
    classes that both know, by name; new classes start small. With the same labels it is the same function. Raises
    DataError where `run` is another network.
    """
    before, recipe = checkpoint.load(run)
    weights, mine = before.state_dict(), model.state_dict()
    known = [(i, recipe.labels.index(label)) for i, label in enumerate(labels) if label in recipe.labels]
    here, there = torch.tensor([k for k, _ in known]), torch.tensor([k for _, k in known])
    for name in [n for n in weights if n.startswith(CLASSIFIERS) and n in mine]:
        old = weights[name]
        # A plain Linear has its classes first, the workers' read-outs have them last.
        axis = 0 if name.startswith("global_head.") or old.dim() <= 2 else -1
        # As drawn, but smaller: no two new classes are the same, and none outvotes a class that is known.
        fresh = mine[name] * (0.1 if name.endswith("weight") else 0.0)
        if known and _same_but_classes(old, fresh, axis):
            fresh.index_copy_(axis, here, old.index_select(axis, there))
        weights[name] = fresh
    wrong = [n for n, v in mine.items() if n not in weights or weights[n].shape != v.shape]
    if wrong := wrong + [n for n in weights if n not in mine]:
        raise DataError(f"{run} is another network ({wrong[0]}): leave the switches as they were")
    model.load_state_dict(weights)
    return [label for label in labels if label not in recipe.labels]


def _same_but_classes(a: torch.Tensor, b: torch.Tensor, axis: int) -> bool:
    one, other = list(a.shape), list(b.shape)
    one[axis] = other[axis] = 0
    return one == other
