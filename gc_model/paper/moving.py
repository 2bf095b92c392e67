# SPDX-License-Identifier: Apache-2.0
"""The context averaged over where something moves, for teaching: a gesture is a hand, and the frame is mostly room.

Not in the paper. How much each place changed lately is a map that fades from frame to frame, so that a hand that rests
for a moment is still seen; it needs the frame before, as small as gestures stay visible in it.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from gc_model.paper.shapes import merge, split

SMALL = 4  # pixels in each direction that become one of `grey`
FADING = 0.8  # of the map of change, from one frame to the next
_LEAST = 1e-3  # of the largest weight, for places where nothing moves


def grey(frames: Tensor) -> Tensor:
    """RGB 0..255 (B, 3, H, W) -> their brightness 0..1 (B, 1, H/4, W/4)."""
    return F.avg_pool2d(frames.mean(1, keepdim=True) / 255, SMALL)


def change(now: Tensor, before: Tensor) -> Tensor:
    """How much each place changed from the grey frame before to this one, all (B, 1, h, w).

    Before the first frame there are zeros, from which the first frame is no change.
    """
    there = (before.amax((1, 2, 3), keepdim=True) > 0).to(now.dtype)
    return there * (now - before).abs()


def faded(moved: Tensor, changed: Tensor) -> Tensor:
    """How much each place changed lately, from that until the frame before and the change to this one."""
    return FADING * moved + changed


def where_it_moves(maps: Tensor, moved: Tensor) -> Tensor:
    """maps (B, C, h, w) averaged with weights that grow with the square of the change -> (B, C).

    Where nothing moves at all it is the mean.
    """
    # Numbers, not sizes of a traced tensor, of which the exporter makes no kernel.
    h, w, high, wide = (int(n) for n in (*maps.shape[-2:], *moved.shape[-2:]))
    if high % h or wide % w:
        moved = F.interpolate(moved, (h, w), mode="bilinear")
    else:
        moved = F.avg_pool2d(moved, (high // h, wide // w))
    # In units of the largest, so that half precision holds the squares.
    moved = moved / (moved.amax((2, 3), keepdim=True) + _LEAST)
    weights = moved.square() + _LEAST
    return (maps * (weights / weights.sum((2, 3), keepdim=True))).sum((2, 3))


def over_time(frames: Tensor) -> Tensor:
    """How much each place changed lately, at each frame of clips: (B, T, 3, H, W) of floats -> (B, T, 1, H/4, W/4)."""
    T = int(frames.shape[1])
    now = split(grey(merge(frames, 0, 1)), 0, T)
    # Not torch.zeros, whose size a trace would compute or fix.
    before = torch.cat([now[:, :1] * 0, now[:, :-1]], 1)
    changed = split(change(merge(now, 0, 1), merge(before, 0, 1)), 0, T)
    return torch.stack(list(itertools.accumulate(changed.unbind(1), faded)), 1)
