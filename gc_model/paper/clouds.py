# SPDX-License-Identifier: Apache-2.0
"""Glimpse Clouds: trunk, attention, memory and workers, folded over time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gc_model.paper.glimpse import Attention, WhatWhere, glimpse, random_location
from gc_model.paper.memory import Assignment, write
from gc_model.paper.network import FrameResult, Network, State
from gc_model.paper.presets import Config
from gc_model.paper.trunk import Trunk
from gc_model.paper.workers import ReadOut, Workers


class GlimpseClouds(Network):
    """The network of the paper; sizes and the switches of its ablations come from `config`."""

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        D, context = self.trunk.channels, self.trunk.context_channels
        self.attention = Attention(D, context, config.psi, config.omega, config.G, config.least_extent)
        if config.glimpse_extent:
            self.attention.spread_start(config.glimpse_extent)
        self.what_where = WhatWhere(D, config.lambda_hidden, concat=config.encoding == "concat")
        V = self.what_where.channels
        self.assignment = Assignment(V, config.G, config.C, config.K, config.tau, config.alpha, config.anchor)
        self.workers = Workers(V, config.psi, config.C)
        self.readout = ReadOut(config.psi, config.classes, config.C)
        self.add_pose()
        if config.global_head:
            self.global_head = nn.Linear(D, config.classes)
        if config.metric_init == "random":
            nn.init.normal_(self.assignment.metric.L.weight, std=V**-0.5)
        self.assignment.metric.L.requires_grad_(config.metric_trainable)

    def initial_state(self, batch: int, *, streaming: bool = False) -> State:
        """Zeros, on the model's device and dtype; with the trunk's caches for `stream`."""
        config = self.config
        return State(
            h=self.zeros(batch, config.omega),
            z=self.zeros(batch, self.trunk.channels),
            r=self.zeros(batch, config.C, config.psi),
            memory=self.zeros(batch, config.K, config.G, self.what_where.channels),
            weight=self.zeros(batch, config.K, config.G, config.C),
            **(self.streaming_state(batch) if streaming else {}),
        )

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        """One frame: Z (B, D, h, w), c (B, context). Frame t sees the workers' r of frame t-1."""
        h, z, l, v = self.attend(Z, c, state)
        r = state.r
        p, u = self.assignment(v, state.memory, state.weight)
        r = self.workers(r, torch.matmul(p, v))  # Eq 8, 6
        memory, weight = write(state.memory, state.weight, u, p)
        result = FrameResult(self.with_global(self.readout(r), Z), l, p, c)
        return result, replace(state, h=h, z=z, r=r, memory=memory, weight=weight)

    def attend(self, Z: Tensor, c: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The G glimpses of one frame: h, z after them, l (B, G, 4) and v (B, G, D)."""
        h, z = state.h, state.z
        r_sum = state.r.sum(1)  # Eq 7
        # Saliency: where to look no longer depends on what the workers made of the past.
        if self.config.attention == "saliency":
            r_sum = torch.zeros_like(r_sum)
        ls, vs = [], []
        for g in range(self.config.G):
            if self.config.attention == "random":
                l = random_location(c, g)
            elif self.config.attention == "whole":
                l = torch.cat([torch.zeros_like(c[:, :2]), torch.ones_like(c[:, :2])], -1)
            else:
                h, l = self.attention(z, r_sum, h, c, g)
            z = glimpse(Z, l)
            ls.append(l)
            vs.append(self.what_where(z, l))
        return h, z, torch.stack(ls, 1), torch.stack(vs, 1)

    def with_global(self, y: Tensor, Z: Tensor) -> Tensor:
        """y (B, classes), averaged with the global model's if the network has one."""
        return y if self.global_head is None else (y + self.global_head(Z.mean((2, 3)))) / 2
