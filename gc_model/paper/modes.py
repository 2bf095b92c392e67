# SPDX-License-Identifier: Apache-2.0
"""Modes of a network for a while: evaluation in the middle of training, and other places for its glimpses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from gc_model.paper.network import Network


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for every part of `module` inside the block; afterwards each part has the mode it had.

    `module.train(module.training)` would instead wake a batch norm whose statistics a stage has frozen.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


# Where glimpses are put to see what their own places are worth.
ELSEWHERE = ("whole", "random")


@contextmanager
def attending(model: Network, places: str) -> Iterator[None]:
    """Glimpses elsewhere inside the block, to see what their places are worth.

    places: "learned", the model's own; "whole", all at the whole frame; "random", anywhere, see `random_location`.
    """
    config = model.config
    model.config = config if places == "learned" else replace(config, attention=places)
    try:
        yield
    finally:
        model.config = config
