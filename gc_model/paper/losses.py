# SPDX-License-Identifier: Apache-2.0
"""The losses of section 3.3: L = L_D + L_P + L_G (Eq 14 to 17).

Locations and joints share one convention: [-1, 1] over the network's input, x to the right, y down. Joints
may lie outside the crop and are never clipped to it; a joint that is not known is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gc_model.paper.network import ClipResult


@dataclass(frozen=True)
class Weights:
    """Weight of each term relative to L_D; zero switches a term off."""

    pose: float = 1.0
    glimpse: float = 0.05  # Eq 16 and 17 are sums over t and g: about 30 at the start where L_D is about 4
    separation: float = 1.0  # of L_G1 relative to L_G2; the paper has no factor
    separation_form: str = "frame"  # see `separation`


def separation(l: Tensor, form: str = "frame") -> Tensor:
    """L_G1: glimpses of one frame keep apart. l: (B, T, G, 4); sum over t, mean over batch.

    form: "frame", Eq 15 to the letter: 1 / (1 + the sum of all pairs' distances), one term a frame; "pairs": the sum
    of 1 / (1 + distance), which pushes each pair by itself. One glimpse has nobody to keep apart from: zero.
    """
    centre = l[..., :2]
    G = l.shape[-2]
    pairs = [norm(centre[..., g, :] - centre[..., k, :]) for g in range(G) for k in range(g + 1, G)]
    if not pairs:
        return l.new_zeros(())
    distances = torch.stack(pairs)
    terms = 1 / (1 + distances.sum(0)) if form == "frame" else (1 / (1 + distances)).sum(0)
    return terms.sum(1).mean()


def attraction(l: Tensor, places: Tensor) -> Tensor:
    """L_G2: each glimpse near some joint. places: (B, T, bodies, J, 2) or (B, T, J, 2), NaN where unknown.

    The minimum over *joints* of the Euclidean distance, not per axis; summed over t and g, mean over batch.
    A frame without any known joint adds nothing.
    """
    places = places.flatten(2, -2)
    known = ~places.isnan().any(-1)  # (B, T, J)
    distance = norm(l[..., None, :2] - torch.nan_to_num(places)[:, :, None])  # (B, T, G, J)
    nearest = distance.masked_fill(~known[:, :, None], torch.inf).amin(-1)
    return torch.where(known.any(-1)[..., None], nearest, 0.0).sum((1, 2)).mean()


def pose_loss(predicted: Tensor, joints: Tensor) -> Tensor:
    """L_P: squared error of the regressed joints over the bodies that are present.

    predicted, joints: (B, T, bodies, J, 2). Which body is written first is arbitrary in the data, so the cost is
    the smaller of the two permutations, each summed over bodies and the whole clip. Unknown joints, and absent
    bodies (all NaN), are masked, never regressed. Mean over the known joints of the batch.
    """
    known = ~joints.isnan().any(-1, keepdim=True)
    target = torch.nan_to_num(joints)
    # One (B,) for each permutation.
    costs = [((p - target).square() * known).flatten(1).sum(1) for p in permutations_of_bodies(predicted)]
    best = torch.stack(costs).amin(0)
    return best.sum() / known.sum().clamp_min(1)


def permutations_of_bodies(poses: Tensor) -> list[Tensor]:
    """The poses as they are and, for two bodies, with the bodies swapped."""
    return [poses] if poses.shape[2] == 1 else [poses, poses.flip(2)]


def norm(difference: Tensor) -> Tensor:
    """Euclidean norm over the last axis with a gradient at zero."""
    return torch.sqrt(difference.square().sum(-1) + 1e-12)


def total_loss(
    L_D: Tensor,
    result: ClipResult,
    poses: Tensor | None,
    joints: Tensor | None,
    weights: Weights,
    moving: Tensor | None = None,
) -> dict[str, Tensor]:
    """All terms and their weighted sum "loss". L_D: the cross entropy; poses, joints: (B, T, bodies, J, 2) or None.

    Without joints (a data set that has none) the pose term is off, and glimpses are drawn to what moves where
    `moving` (B, T, M, 2) says it; without either the attraction is off, too.
    """
    terms = {"L_D": L_D}
    if joints is not None and poses is not None and weights.pose:
        terms["L_P"] = weights.pose * pose_loss(poses, joints)
    if weights.glimpse:
        apart = separation(result.l, weights.separation_form)
        terms["L_G1"] = weights.glimpse * weights.separation * apart
        known = [joints.flatten(2, 3)] if joints is not None else []
        known += [moving] if moving is not None else []
        if known:
            terms["L_G2"] = weights.glimpse * attraction(result.l, torch.cat(known, 2))
    return terms | {"loss": torch.stack(list(terms.values())).sum()}
