# SPDX-License-Identifier: Apache-2.0
"""Reshapes that leave only the batch axis open.

`torch.flatten` and `unflatten` trace into shape arithmetic on the host; these trace into one Reshape with
constants. Axis 0 is always the open one.
"""

from __future__ import annotations

from math import prod

from torch import Tensor


def merge(x: Tensor, first: int, last: int) -> Tensor:
    """`x.flatten(first, last)`."""
    sizes = [int(n) for n in x.shape]
    return x.reshape([-1, *[*sizes[:first], prod(sizes[first : last + 1]), *sizes[last + 1 :]][1:]])


def split(x: Tensor, axis: int, n: int) -> Tensor:
    """`x.unflatten(axis, (n, -1))`, or `(-1, n)` where the axis is the batch."""
    sizes = [int(s) for s in x.shape]
    parts = [-1, n] if axis == 0 else [n, sizes[axis] // n]
    return x.reshape([-1, *[*sizes[:axis], *parts, *sizes[axis + 1 :]][1:]])
