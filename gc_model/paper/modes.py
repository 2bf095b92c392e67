# SPDX-License-Identifier: Apache-2.0
"""A look at a network in evaluation mode while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Every part of it evaluates inside, and is afterwards as it was.

    Not `module.train(module.training)`: that would wake a batch norm whose statistics a stage has frozen.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
