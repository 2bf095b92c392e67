# SPDX-License-Identifier: Apache-2.0
"""Evaluation mode for a while, in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
