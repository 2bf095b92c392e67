# SPDX-License-Identifier: Apache-2.0
"""The other networks of the paper's tables, each with the interface of `Network`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.inflated import InflatedTrunk
from gc_model.paper.network import FrameResult, Network, State
from gc_model.paper.presets import Config
from gc_model.paper.shapes import merge
from gc_model.paper.trunk import RESOLUTIONS, Trunk
from gc_model.paper.workers import ReadOut, Workers
from trt_build.errors import DataError


def build(config: Config) -> Network:
    """The network that `config` describes."""
    kinds: dict[str, type[Network]] = {
        "clouds": GlimpseClouds,
        "global": Global,
        "glimpse_sum": GlimpseSum,
        "glimpse_tubes": GlimpseTubes,
        "c3d": C3D,
        "frame_lstm": FrameLSTM,
    }
    return kinds[config.model](config, trunk_of(config))


def trunk_of(config: Config) -> Trunk:
    """f of the network that `config` describes: the one place where a trunk's name becomes a module."""
    if config.model == "c3d":
        return Conv3D(config.c3d, config.c3d_size)
    # ResNet-50 + LSTM is a network of single frames: its trunk is not inflated.
    temporal = None if config.model == "frame_lstm" else config.temporal
    return InflatedTrunk(config.trunk, temporal, **dict(config.trunk_args))


def for_robot(model: Network) -> GlimpseClouds:
    """`model`, which must be what a bundle describes: glimpses, workers and a memory. Raises DataError otherwise."""
    config = model.config
    if type(model) is not GlimpseClouds or config.attention == "random":
        what = config.model if config.model != "clouds" else f"attention={config.attention}"
        raise DataError(
            f"{what} is a row of the paper's tables, not a model for a robot: train without that switch"
        )
    return model


class Headless(Network):
    """A network without glimpses: l and p are empty, and the state is only what a subclass keeps in h and z."""

    def initial_state(self, batch: int, *, streaming: bool = False) -> State:
        none = self.zeros(batch, 0)
        return State(none, none, none, none, none, **(self.streaming_state(batch) if streaming else {}))

    def frame(self, y: Tensor, Z: Tensor, c: Tensor) -> FrameResult:
        B = len(y)
        return FrameResult(y, y.new_zeros(B, 0, 4), y.new_zeros(B, 0, 0), c)


class Global(Headless):
    """f and a classifier over global average pooling; the frames' mean logits are the logits of the mean features."""

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        self.global_head = nn.Linear(self.trunk.channels, config.classes)
        self.add_pose()

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        assert self.global_head is not None
        return self.frame(self.global_head(Z.mean((2, 3))), Z, c), state


class FrameLSTM(Headless):
    """A 2-D network on every frame, then an LSTM (Donahue et al. 2015)."""

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        self.lstm = nn.LSTMCell(self.trunk.channels, config.psi)
        self.readout = nn.Linear(config.psi, config.classes)
        self.add_pose()

    def initial_state(self, batch: int, *, streaming: bool = False) -> State:
        state = super().initial_state(batch, streaming=streaming)
        zero = self.zeros(batch, self.config.psi)
        return replace(state, h=zero, z=zero)  # hidden and cell

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        h, cell = self.lstm(Z.mean((2, 3)), (state.h, state.z))
        return self.frame(self.readout(h), Z, c), replace(state, h=h, z=cell)


class GlimpseSum(GlimpseClouds):
    """Learned glimpses, summed and given to one recurrent network: no memory, no separate workers."""

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        del self.assignment
        self.workers = Workers(self.what_where.channels, config.psi, 1)
        self.readout = ReadOut(config.psi, config.classes, 1)

    def initial_state(self, batch: int, *, streaming: bool = False) -> State:
        state = super().initial_state(batch, streaming=streaming)
        return replace(state, r=state.r[:, :1])

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        h, z, l, v = self.attend(Z, c, state)
        r = self.workers(state.r, v.sum(1, keepdim=True))
        p = v.new_ones(len(v), 1, v.shape[1])
        result = FrameResult(self.with_global(self.readout(r), Z), l, p, c)
        return result, replace(state, h=h, z=z, r=r)


class GlimpseTubes(GlimpseClouds):
    """Glimpse g of every frame forms one tube that worker g alone follows.

    The paper does not spell out its "3D tubes" baseline; this is the clouds with a fixed correspondence from frame to
    frame in place of the soft assignment over time, everything else equal.
    """

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        del self.assignment

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        h, z, l, v = self.attend(Z, c, state)
        r = self.workers(state.r, v)
        p = torch.eye(v.shape[1], dtype=v.dtype, device=v.device).expand(len(v), -1, -1)
        result = FrameResult(self.with_global(self.readout(r), Z), l, p, c)
        return result, replace(state, h=h, z=z, r=r)


class Conv3D(nn.Module):
    """f of C3D (Tran et al. 2015): eight 3 x 3 x 3 convolutions in five pooled groups, then two dense layers.

    widths: channels of the groups, then of both dense layers; side: of its input in pixels. One feature a clip, from
    pixels: there is no context map, and its `front` only resizes.
    """

    context_channels = 0

    def __init__(self, widths: Sequence[int], side: int):
        super().__init__()
        *groups, self.channels = widths
        self.side = side
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate(groups):
            for _ in range(1 if i < 2 else 2):
                layers += [nn.Conv3d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            # Time is halved three times only, as T = 8 frames allow; the paper of C3D has 16.
            pool = (2, 2, 2) if 0 < i < 4 else (1, 2, 2)
            layers.append(nn.MaxPool3d(pool, ceil_mode=True))
        self.convolutions = nn.Sequential(*layers)
        for _ in groups:
            side = -(-side // 2)
        self.dense = nn.Sequential(
            nn.Linear(before * side**2, self.channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(self.channels, self.channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )

    def front(self, x: Tensor, T: int) -> Tensor:
        """(B*T, 3, H, W) -> (B*T, 3, side, side)."""
        return F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)

    def back(self, context: Tensor, T: int) -> Tensor:
        """(B*T, 3, side, side) -> (B, D, 1, 1)."""
        clips = context.unflatten(0, (-1, T)).transpose(1, 2)
        return self.dense(self.convolutions(clips).mean(2).flatten(1))[..., None, None]

    def step(self, x: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        raise ValueError("C3D sees whole clips only and cannot stream")

    def back_step(self, context: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        raise ValueError("C3D sees whole clips only and cannot stream")

    def cache_shapes(self, size: int) -> list[tuple[int, ...]]:
        return []

    def sees_one_frame(self, whole: bool) -> bool:
        return not whole

    def weights(self, whole: bool) -> dict[str, Tensor]:
        return self.state_dict() if whole else {}

    def first_parameters(self, resolutions: int) -> list[nn.Parameter]:
        return list(self.parameters()) if resolutions == RESOLUTIONS else []


class C3D(Headless):
    """Window only, without ImageNet weights and without a pose head: one feature a clip."""

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__(config, trunk)
        self.global_head = nn.Linear(trunk.channels, config.classes)

    def features_of(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Resized clips (B, T, 3, side, side) -> Z (B, 1, D, 1, 1), and no context (B, 1, 0)."""
        Z = self.trunk.back(merge(maps, 0, 1), int(maps.shape[1]))
        return Z[:, None], Z.new_zeros(len(Z), 1, 0)

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        assert self.global_head is not None
        return self.frame(self.global_head(Z.mean((2, 3))), Z, c), state
