# SPDX-License-Identifier: Apache-2.0
"""What training clips set before anything is trained on it: the scale of Z, the start of D, the min-max constants.

The paper takes D from an inverse covariance. Here L becomes the symmetric square root of the inverse of a
shrunk covariance of the glimpse features v, so that D = L^T L exists and is well conditioned for any number of
clips. The running minimum and maximum become those of the distances that this D gives.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.network import Network


@torch.no_grad()
def standardise_trunk(model: Network, clips: Iterable[Tensor]) -> bool:
    """Give every channel of Z mean 0 and deviation 1 over clips (B, T, 3, H, W). Returns whether the trunk allows it.

    Both are of Z pooled over space, as glimpses see it. In a trunk that ends in batch norm (EfficientNet's does) they
    go into that norm's scale and shift: no operation is added, and the recurrent cells start with inputs of the size
    they are made for. A trunk that ends in an activation or a sum (ResNet's) is left as it is.
    """
    model.eval()
    norms = [m for m in model.trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or norms[-1].num_features != model.trunk.channels or not norms[-1].affine:
        return False
    last, first = norms[-1], None
    pooled = []
    for clip in clips:
        Z, _ = model.features(clip)
        pooled.append(Z.mean((-2, -1)).flatten(0, -2))
        first = (clip, Z) if first is None else first
    if first is None:
        return False
    values = torch.cat(pooled).double()
    mean, deviation = values.mean(0), values.std(0, correction=0).clamp_min(1e-3)
    before = last.weight.clone(), last.bias.clone()
    last.weight.copy_(last.weight / deviation)
    last.bias.copy_((last.bias - mean) / deviation)
    clip, Z = first
    wanted = (Z - mean[:, None, None].to(Z)) / deviation[:, None, None].to(Z)
    if torch.allclose(model.features(clip)[0], wanted, rtol=1e-3, atol=1e-3):
        return True
    # Something follows the norm: as before.
    last.weight.copy_(before[0])
    last.bias.copy_(before[1])
    return False


@torch.no_grad()
def start_metric(model: GlimpseClouds, features: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Set L, phi_min and phi_max of `model` from clips' features Z (B, T, D, h, w) and c (B, T, context).

    With `metric_init="random"` L stays as it is. Returns number of samples, shrinkage and both constants, for the log.
    """
    model.eval()
    features = list(features)
    v = torch.cat([_glimpses(model, Z, c).flatten(0, 2) for Z, c in features]).double()
    covariance, shrinkage = shrunk_covariance(v)
    values, vectors = torch.linalg.eigh(covariance)
    inverse_root = (vectors * values.clamp_min(values.max() * 1e-6).rsqrt()) @ vectors.T
    metric = model.assignment.metric
    if model.config.metric_init == "covariance":
        metric.L.weight.copy_(inverse_root)
    # The constants last, since distances depend on L.
    distances = torch.cat([_distances(model, Z, c) for Z, c in features])
    # The extremes of many clips would squeeze nearly all distances together; the 1 % tails are clamped.
    tails = torch.quantile(
        distances[:: max(1, len(distances) // 1_000_000)], torch.tensor([0.01, 0.99]).to(distances)
    )
    metric.phi_min.copy_(tails[0])
    metric.phi_max.copy_(tails[1])
    return {
        "samples": float(len(v)),
        "shrinkage": shrinkage,
        "phi_min": float(metric.phi_min),
        "phi_max": float(metric.phi_max),
    }


def shrunk_covariance(v: Tensor) -> tuple[Tensor, float]:
    """Oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero 2010, eq. 23) of samples (n, p): (p, p), rho."""
    n, p = v.shape
    S = torch.cov(v.T, correction=0)
    trace, square = S.trace(), (S * S).sum()
    above = (1 - 2 / p) * square + trace**2
    below = (n + 1 - 2 / p) * (square - trace**2 / p)
    rho = float((above / below.clamp_min(1e-30)).clamp(1e-3, 1.0))
    target = trace.clamp_min(1e-12) / p * torch.eye(p, dtype=S.dtype, device=S.device)
    return (1 - rho) * S + rho * target, rho


def _glimpses(model: GlimpseClouds, Z: Tensor, c: Tensor) -> Tensor:
    """v (B, T, G, D) of the clips, with the attention as it is."""
    collected: list[Tensor] = []
    hook = model.assignment.register_forward_pre_hook(lambda _, args: collected.append(args[0]))
    try:
        model.fold(Z, c)
    finally:
        hook.remove()
    return torch.stack(collected, 1)


def _distances(model: GlimpseClouds, Z: Tensor, c: Tensor) -> Tensor:
    """All distances between glimpses and filled memory entries in a fold over the clips, flat."""
    found: list[Tensor] = []
    metric = model.assignment.metric
    state = model.initial_state(Z.shape[0])
    for Z_t, c_t in zip(Z.unbind(1), c.unbind(1), strict=True):
        memory = state.memory.flatten(1, 2)
        filled = state.weight.flatten(1, 2).sum(-1) > 0
        _, state = model.step(Z_t, c_t, state)
        d = metric.distance(state.memory[:, -1], memory)
        found.append(d.masked_select(filled[:, None].expand_as(d)))
    return torch.cat(found)
