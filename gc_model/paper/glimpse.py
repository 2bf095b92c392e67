# SPDX-License-Identifier: Apache-2.0
"""Where to look and what is seen there: attention Omega, location l, glimpse z, encoding v (Eq 1 to 5).

Convention: l = [x, y, s^x, s^y] in the coordinates of `torch.nn.functional.affine_grid` with
`align_corners=False`: -1 and 1 are the outer edges of the map, (x, y) is the centre of the crop and
(s^x, s^y) its half extents.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gc_model.paper.shapes import merge


def hat_weights(centre: Tensor, scale: Tensor, size: int, samples: int) -> Tensor:
    """Weight of every cell along one axis in the mean of a bilinear crop: (..., size).

    A bilinear sample at p weighs cell i by the tent max(0, 1 - |p - i|); outside the map nothing weighs in.
    The crop takes `samples` equidistant points of [centre - scale, centre + scale].
    """
    u = (torch.arange(samples, dtype=centre.dtype, device=centre.device) * 2 + 1) / samples - 1
    p = ((centre[..., None] + scale[..., None] * u + 1) * size - 1) / 2
    cells = torch.arange(size, dtype=centre.dtype, device=centre.device)
    return torch.relu(1 - (p[..., None, :] - cells[:, None]).abs()).mean(-1)


def glimpse(Z: Tensor, l: Tensor) -> Tensor:
    """Eq 1-2: crop Z at l and average over space, as a separable weighted mean.

    Z: (B, D, H, W); l: (B, 4). Returns z: (B, D). Equal in value and gradient to
    `grid_sample(Z, affine_grid(l)).mean((2, 3))` with zeros outside, without a GridSample operator.
    """
    H, W = (int(n) for n in Z.shape[-2:])
    x, y, sx, sy = l.unbind(-1)
    a = hat_weights(y, sy, H, H)
    b = hat_weights(x, sx, W, W)
    weights = merge(a[:, :, None] * b[:, None, :], 1, 2)  # (B, H*W)
    return torch.matmul(merge(Z, 2, 3), weights[:, :, None])[..., 0]


class GRU(nn.Module):
    """A gated recurrent cell (Cho et al. 2014) in the parametrisation of `torch.nn.GRUCell`."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.from_x = nn.Linear(inputs, 3 * hidden)
        self.from_h = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return gru(self.from_x(x), self.from_h(h), h)


def gru(x3: Tensor, h3: Tensor, h: Tensor) -> Tensor:
    """New hidden state from the projected input x3 and state h3, both (..., 3 * hidden): reset, update, new."""
    xr, xu, xn = x3.chunk(3, -1)
    hr, hu, hn = h3.chunk(3, -1)
    update = torch.sigmoid(xu + hu)
    new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return new + update * (h - new)


def starting_places(G: int) -> list[tuple[float, float]]:
    """(x, y) where the glimpses of a frame start: one above the middle, where heads are, the others round it."""
    if G == 1:
        return [(0.0, -0.2)]
    angles = [2 * math.pi * g / G for g in range(G)]
    return [(0.45 * math.sin(a), -0.45 * math.cos(a)) for a in angles]


class Locate(nn.Linear):
    """The location layer, with a bias for each glimpse. A module, so that its nodes in a graph bear its name."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:  # type: ignore[override]
        """x: (B, in), start: (4,), added to the bias."""
        # A constant in the exported graphs, so that they cost what they did.
        return F.linear(x, self.weight, self.bias + start)


class Attention(nn.Module):
    """Omega and the location layer: where the next glimpse of a frame is taken (Eq 3-4).

    start: (G, 4), what glimpse g adds to the layer's bias. In the paper nothing but the recurrent state tells the
    glimpses of a frame apart, and all of them start at the whole frame, where their place has next to no gradient:
    trained so, they stay on one another. `spread_start` gives each a place and a zoom of its own to learn from.
    least: the smallest half extent, s = least + (1 - least) sigmoid(.); 0 is Eq 4.
    """

    def __init__(self, features: int, context: int, workers: int, hidden: int, G: int, least: float = 0.0):
        super().__init__()
        self.least = least
        self.omega = GRU(features + workers, hidden)
        self.locate = Locate(hidden + context, 4)
        self.start = nn.Parameter(torch.zeros(G, 4))
        with torch.no_grad():
            # The paper's +3 on the zoom: the first glimpses see nearly the whole frame.
            self.locate.bias.copy_(torch.tensor([0.0, 0.0, 3.0, 3.0]))
            self.locate.weight.mul_(0.1)

    @torch.no_grad()
    def spread_start(self, extent: float) -> None:
        """Start glimpse g at a place of its own, its half extents s^x = s^y = `extent` of the frame's half side."""
        places = torch.tensor(starting_places(len(self.start)))
        zoom = torch.full((len(places), 2), (extent - self.least) / (1 - self.least))
        self.start.copy_(torch.cat([torch.atanh(places), torch.logit(zoom) - self.locate.bias[2:]], -1))

    def forward(self, z: Tensor, r: Tensor, h: Tensor, c: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """z: (B, D) the previous glimpse, r: (B, psi) the workers' sum, h: (B, omega), c: (B, context).

        Returns h_g (B, omega) and l_g (B, 4). z, not v, is fed back, as Eq 3 has it.
        """
        h = self.omega(torch.cat([z, r], -1), h)
        raw = self.locate(torch.cat([h, c], -1), self.start[g])
        zoom = torch.sigmoid(raw[:, 2:])
        # Held back from a point: a single cell of the map has the gradient of its neighbours alone, and what the trunk
        # has learned to pool is not in it.
        if self.least:
            zoom = self.least + (1 - self.least) * zoom
        return h, torch.cat([torch.tanh(raw[:, :2]), zoom], -1)


class WhatWhere(nn.Module):
    """v = z * Lambda(l): what was seen, coloured by where (Eq 5). concat: v = [z, Lambda(l)], the paper's ablation."""

    def __init__(self, features: int, hidden: int, concat: bool = False):
        super().__init__()
        last = nn.Linear(hidden, features)
        # Starting near 1, so that v starts as z: an unlearned Lambda would scramble the trunk's features.
        nn.init.ones_(last.bias)
        self.Lambda = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), last)
        self.concat, self.channels = concat, features * (2 if concat else 1)

    def forward(self, z: Tensor, l: Tensor) -> Tensor:
        where = self.Lambda(l)
        return torch.cat([z, where], -1) if self.concat else z * where


def random_location(c: Tensor, g: int) -> Tensor:
    """A glimpse anywhere, l (B, 4), drawn from the frame itself: the same clip always gets the same glimpses.

    c: (B, context). Positions are even over the map and zooms over (0, 1), hashed from the context, so that a result
    depends on nothing else in the batch and a window and a stream agree.
    """
    with torch.no_grad():
        n = torch.arange(1, c.shape[-1] + 1, dtype=torch.float64, device=c.device)
        k = torch.arange(1, 5, dtype=torch.float64, device=c.device) + 4 * g
        u = torch.remainder((c.double() @ torch.sin(n[:, None] * k)) * 997.0, 1.0).to(c.dtype)
        return torch.cat([2 * u[:, :2] - 1, u[:, 2:]], -1)
