# SPDX-License-Identifier: Apache-2.0
"""Whether the clouds are awake: what glimpses and workers do, in numbers.

A network whose glimpses lie on one another over the whole frame, shared evenly by its workers, is a global model with
more steps, however right its equations. These figures tell: they need locations and assignments alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

# What each figure is when the clouds are awake: ("at most" or "at least", bound).
AWAKE = {
    "iou": ("at most", 0.35),
    "share": ("at most", 0.25),
    "moves": ("at least", 0.15),
    "max_p": ("at least", 0.6),
    "worker_distance": ("at least", 0.2),
}
# The same in words, for a table.
MEANING = {
    "iou": "glimpses differ: mean pairwise IoU of a frame's boxes",
    "share": "they are local: mean share of the frame",
    "moves": "they move with the scene: deviation of (x, y)",
    "max_p": "workers specialise: mean of the largest p",
    "worker_distance": "each worker is another: mean pairwise distance of p",
}
MATTERS = 0.02  # of accuracy lost where glimpses are put elsewhere


def boxes(l: Tensor) -> Tensor:
    """Corners (..., 4) x0, y0, x1, y1 of glimpses l (..., 4), within the frame [-1, 1]."""
    centre, extent = l[..., :2], l[..., 2:]
    return torch.cat([centre - extent, centre + extent], -1).clamp(-1, 1)


def pairwise_iou(l: Tensor) -> Tensor:
    """Mean over pairs of intersection over union of the G boxes of each frame. l: (..., G, 4) -> (...)."""
    b = boxes(l)
    area = (b[..., 2:] - b[..., :2]).prod(-1)
    found = []
    for g, k in combinations(range(l.shape[-2]), 2):
        low = torch.maximum(b[..., g, :2], b[..., k, :2])
        high = torch.minimum(b[..., g, 2:], b[..., k, 2:])
        common = (high - low).clamp_min(0).prod(-1)
        found.append(common / (area[..., g] + area[..., k] - common).clamp_min(1e-9))
    return torch.stack(found).mean(0) if found else l.new_zeros(l.shape[:-2])


def worker_distance(p: Tensor) -> Tensor:
    """Mean over pairs of workers of the total variation between their shares. p: (..., C, G) -> (...)."""
    found = [(p[..., c, :] - p[..., d, :]).abs().sum(-1) / 2 for c, d in combinations(range(p.shape[-2]), 2)]
    return torch.stack(found).mean(0) if found else p.new_zeros(p.shape[:-2])


def figures(l: Sequence[Tensor] | Tensor, p: Sequence[Tensor] | Tensor) -> dict[str, float]:
    """The figures over clips' locations l (T, G, 4) and assignments p (T, C, G), frames 2 to T of p.

    iou: mean pairwise IoU of a frame's boxes. share: mean of s^x s^y. moves: deviation of one glimpse's (x, y) over
    frames and clips, mean over glimpses and both axes. max_p: mean over c of max_g p_{c,g}. worker_distance: mean
    pairwise total variation of p_c and p_c'. Of one clip or many. What a network does not have it has no figure of: a
    single glimpse differs from none and leaves workers nothing to choose, a single worker differs from none.
    """
    l, p = torch.stack(list(l)).double(), torch.stack(list(p)).double()
    several = l.shape[-2] > 1
    found = {"iou": float(pairwise_iou(l).mean())} if several else {}
    found["share"] = float((l[..., 2] * l[..., 3]).mean())
    found["moves"] = float(l[..., :2].flatten(0, 1).std(0, correction=0).mean())
    if p.numel() and several:
        later = p[:, 1:] if p.shape[1] > 1 else p
        found["max_p"] = float(later.amax(-1).mean())
        if p.shape[-2] > 1:
            found["worker_distance"] = float(worker_distance(later).mean())
    return found


def awake(figure: str, value: float) -> bool:
    """Whether a figure is within its bound in `AWAKE`."""
    side, bound = AWAKE[figure]
    return value <= bound if side == "at most" else value >= bound


def table(measured: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows (what, measured, awake where, verdict) of what `gc_model.evaluation.glimpses.look` found.

    Accuracies are in per cent. A row that could not be measured is left out.
    """
    rows = []

    def add(what: str, value: str, bound: str, good: bool) -> None:
        rows.append((what, value, bound, "awake" if good else "asleep"))

    found = [(MEANING[name], name, value) for name, value in measured["figures"].items()]
    if "stream" in measured:
        found.append(
            ("and stays another where the state is carried on", "worker_distance", measured["stream"])
        )
    for what, name, value in found:
        side, bound = AWAKE[name]
        add(what, f"{value:.3f}", f"{side} {bound:g}", awake(name, value))
    if "glimpses" in measured:
        near, middle, anywhere = (measured[name] for name in ("glimpses", "middle", "anywhere"))
        value = f"{100 * near:.1f} % (middle {100 * middle:.1f}, random {100 * anywhere:.1f})"
        add(
            "they see people: distance to the nearest joint",
            value,
            "below both",
            near < min(middle, anywhere),
        )
    accuracy = measured.get("accuracy", {})
    for name, instead in (("whole", "the whole frame"), ("random", "random places")):
        if name in accuracy:
            lost = accuracy["learned"] - accuracy[name]
            value = f"{100 * lost:+.1f} points (of {100 * accuracy['learned']:.1f} %)"
            add(
                f"they matter: lost with {instead} instead",
                value,
                f"at least {100 * MATTERS:g}",
                lost >= MATTERS,
            )
    if "beside" in accuracy:
        more = accuracy["learned"] - accuracy["beside"]
        value = f"{100 * more:+.1f} points (of {100 * accuracy['beside']:.1f} %)"
        add("better than the model beside it", value, "above 0", more > 0)
    return rows
