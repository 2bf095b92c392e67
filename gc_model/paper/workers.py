# SPDX-License-Identifier: Apache-2.0
"""The workers Psi_c: C recurrent trackers that share no weight, and their read-out (Eq 6, 7, 11, 12)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gc_model.paper.glimpse import gru


class Workers(nn.Module):
    """r_c <- Psi_c(r_c, v~_c): every worker continues from its own past state (Eq 6).

    The C cells are stacked so that one batched matrix product serves all of them.
    """

    def __init__(self, features: int, hidden: int, C: int):
        super().__init__()
        bound = 1 / math.sqrt(hidden)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.weight_x = uniform(C, features, 3 * hidden)
        self.weight_h = uniform(C, hidden, 3 * hidden)
        self.bias_x = uniform(C, 1, 3 * hidden)
        self.bias_h = uniform(C, 1, 3 * hidden)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r: (B, C, psi), v~: (B, C, D). Returns the new r (B, C, psi)."""
        r, v = r.transpose(0, 1), v.transpose(0, 1)
        x3 = torch.matmul(v, self.weight_x) + self.bias_x
        h3 = torch.matmul(r, self.weight_h) + self.bias_h
        return gru(x3, h3, r).transpose(0, 1)


class ReadOut(nn.Module):
    """y_t = mean_c(W_c r_c): one linear classifier a worker, averaged (Eq 11)."""

    def __init__(self, hidden: int, classes: int, C: int):
        super().__init__()
        bound = 1 / math.sqrt(hidden)
        self.weight = nn.Parameter(torch.empty(C, hidden, classes).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(C, 1, classes))

    def forward(self, r: Tensor) -> Tensor:
        """r: (B, C, psi). Returns y_t (B, classes)."""
        return (torch.matmul(r.transpose(0, 1), self.weight) + self.bias).mean(0)
