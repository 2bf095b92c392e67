# SPDX-License-Identifier: Apache-2.0
"""External memory and soft assignment of glimpses to workers (Eq 8 to 10).

The memory is a shift register of K frames x G entries. Each entry keeps u = L v and how much each worker
took of it, w. Ages are therefore a constant, and an empty slot drops out because its w is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gc_model.paper.shapes import merge


class Metric(nn.Module):
    """phi(v, m) = sqrt((v - m)^T D (v - m)), min-max normalised (Eq 9).

    D = L^T L is positive semi-definite by construction. Distances are means over the feature dimension
    instead of sums, with 1e-6 under the root so that the gradient exists at zero.
    """

    phi_min: Tensor
    phi_max: Tensor

    def __init__(self, features: int, momentum: float = 0.05):
        super().__init__()
        self.L = nn.Linear(features, features, bias=False)
        nn.init.eye_(self.L.weight)
        self.momentum = momentum
        self.register_buffer("phi_min", torch.zeros(()))
        self.register_buffer("phi_max", torch.ones(()))

    def distance(self, u: Tensor, memory: Tensor) -> Tensor:
        """u: (B, G, D) projected glimpses, memory: (B, K*G, D). Returns (B, G, K*G), not normalised."""
        difference = u[:, :, None] - memory[:, None]
        return torch.sqrt((difference * difference).mean(-1) + 1e-6)

    def normalise(self, d: Tensor, filled: Tensor) -> Tensor:
        """Min-max to [0, 1]. filled: (B, K*G) marks slots that hold something; the others never count.

        In training by the batch's own extremes (detached), which also move the running ones; at inference by
        the two running constants alone, so that a result never depends on what else is in the batch.
        """
        if self.training and bool(filled.any()):
            seen = d.detach().masked_select(filled[:, None].expand_as(d))
            low, high = seen.min(), seen.max()
            self.phi_min.lerp_(low.to(self.phi_min), self.momentum)
            self.phi_max.lerp_(high.to(self.phi_max), self.momentum)
            return (d - low) / (high - low).clamp_min(1e-6)
        return ((d - self.phi_min) / (self.phi_max - self.phi_min).clamp_min(1e-6)).clamp(0, 1)


class Assignment(nn.Module):
    """p_{c,g}: the share of worker c in glimpse g, by similarity to what the worker took before (Eq 10)."""

    decay: Tensor

    def __init__(self, features: int, G: int, C: int, K: int, tau: float, alpha: float, anchor: float = 0.0):
        super().__init__()
        self.metric = Metric(features)
        self.alpha, self.anchor = alpha, anchor
        # A uniform start would keep all workers' p identical for ever.
        self.first = nn.Parameter(torch.eye(G)[torch.arange(C) % G])  # (C, G): 1 at g = c mod G
        # Age, where the paper's index of time would let old frames weigh more. The newest frame, stored last, is
        # one frame old.
        age = torch.arange(K, 0, -1, dtype=torch.float64)
        decay = torch.exp(-age / tau).repeat_interleave(G)
        self.register_buffer("decay", decay.to(torch.get_default_dtype()), persistent=False)

    def forward(self, v: Tensor, memory: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """v: (B, G, D); memory u_k: (B, K, G, D) oldest first; weight w_{c,k}: (B, K, G, C).

        Returns p (B, C, G), a softmax over g, and the projected glimpses u (B, G, D) to be written.
        """
        u = self.metric.L(v)
        w = merge(weight, 1, 2)  # (B, K*G, C)
        taken = w.sum(-1)
        phi = self.metric.normalise(self.metric.distance(u, merge(memory, 1, 2)), taken > 0)
        similarity = torch.matmul(1 - phi, w * self.decay[:, None])  # (B, G, C)
        first = (taken.sum(-1) == 0).to(v.dtype)[:, None, None]
        if self.anchor:
            # Not in the paper: workers that once took the same for K frames would do so for the rest of a stream.
            first = first.clamp_min(self.anchor)
        return torch.softmax((similarity.transpose(1, 2) + first * self.first) / self.alpha, -1), u


def write(memory: Tensor, weight: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Append (u_g, w_c = p_{c,g}); the oldest frame falls out. Nothing is detached."""
    memory = torch.cat([memory[:, 1:], u[:, None]], 1)
    weight = torch.cat([weight[:, 1:], p.transpose(1, 2)[:, None]], 1)
    return memory, weight
