# SPDX-License-Identifier: Apache-2.0
"""The common part of all networks: a trunk, a recurrent head with an explicit state, and a pose regression.

One code path: `step` takes one frame's features and the state, `forward` folds it over the T frames of a
clip, and `stream` feeds single frames through the trunk's caches. All three give the same numbers for a
causal trunk. A network is pure: state in, state out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from gc_model.paper import moving
from gc_model.paper.presets import Config
from gc_model.paper.shapes import merge, split
from gc_model.paper.trunk import Trunk

CACHE = "cache_"


def cache_name(i: int) -> str:
    """The flat name of the trunk's i-th cache; sorted names are in order of use."""
    return f"{CACHE}{i:02d}"


@dataclass(frozen=True)
class State:
    """Everything carried from frame to frame; zeros at the start. B is the batch.

    h: (B, omega) attention; z: (B, D) last glimpse; r: (B, C, psi) workers; memory: (B, K, G, D) projected
    glimpses, oldest first; weight: (B, K, G, C) each worker's share in them; caches: the trunk's, each of
    `Trunk.cache_shapes` with B in front; grey, moved: (B, 1, H/4, W/4), see `moving`. For whole clips there are
    no caches, and neither of these two.
    """

    h: Tensor
    z: Tensor
    r: Tensor
    memory: Tensor
    weight: Tensor
    caches: tuple[Tensor, ...] = ()
    grey: Tensor | None = None
    moved: Tensor | None = None

    def detach(self) -> State:
        """The same values cut off from the graph that computed them: between the chunks of a long clip."""
        return State.from_named({name: value.detach() for name, value in self.named().items()})

    def named(self) -> dict[str, Tensor]:
        """By name, as the inputs of the step graph are called."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "caches"}
        values = {name: part for name, part in parts.items() if part is not None}
        return values | {cache_name(i): c for i, c in enumerate(self.caches)}

    @classmethod
    def from_named(cls, values: dict[str, Tensor]) -> State:
        caches = tuple(values[k] for k in sorted(values) if k.startswith(CACHE))
        return cls(**{k: v for k, v in values.items() if not k.startswith(CACHE)}, caches=caches)


@dataclass(frozen=True)
class FrameResult:
    """One frame: logits y_t (B, classes), locations l (B, G, 4), assignment p (B, C, G), context c (B, context)."""

    logits: Tensor
    l: Tensor
    p: Tensor
    c: Tensor


@dataclass(frozen=True)
class ClipResult:
    """One clip: logits (B, classes); the frames' (B, T, classes), l (B, T, G, 4), p (B, T, C, G), c (B, T, context)."""

    logits: Tensor
    frame_logits: Tensor
    l: Tensor
    p: Tensor
    c: Tensor


class Network(nn.Module):
    """A trunk, the pose regression, and the fold of a head over time; the head is a subclass's `step`.

    Frames are RGB in 0..255, uint8 or float; the network normalises them as its trunk expects.
    pose: the regression of Eq 13, training only; None for a trunk without context.
    global_head: a classifier over global average pooling that is part of the model; None where there is none.
    """

    trunk: Trunk
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, trunk: Trunk):
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.global_head: nn.Linear | None = None
        self.pose: nn.Linear | None = None
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def add_pose(self) -> None:
        """Call it after the head is there, so that a seed draws the weights in the same order for every head."""
        self.pose = nn.Linear(self.trunk.context_channels, self.config.bodies * self.config.joints * 2)

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters behind the trunk that run on the robot: all but the pose regression's."""
        return [p for n, p in self.named_parameters() if not n.startswith(("trunk.", "pose."))]

    def normalise(self, frames: Tensor) -> Tensor:
        """RGB 0..255 (B, 3, H, W), normalised as in the trunk's own training, on the model's device."""
        if frames.device != self.mean.device:
            frames = frames.to(self.mean.device)
        frames = (frames.to(self.mean.dtype) - self.mean) / self.std
        # The same memory as channels_last_3d of clips.
        return frames.contiguous(memory_format=torch.channels_last)

    def features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """clip (B, T, 3, H, W) -> Z (B, T, D, h, w) and c (B, T, context)."""
        return self.features_of(self.maps(clip))

    def maps(self, clip: Tensor) -> Tensor:
        """clip (B, T, 3, H, W) -> the penultimate stage's maps (B, T, context, h, w)."""
        T = int(clip.shape[1])
        return split(self.trunk.front(self.normalise(merge(clip, 0, 1)), T), 0, T)

    def features_of(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """`features` from `maps`, for a trunk whose first stages are frozen and need to run only once."""
        T = int(maps.shape[1])
        Z = self.trunk.back(merge(maps, 0, 1), T)
        return split(Z, 0, T), maps.mean((3, 4))

    def embedding(self, clip: Tensor, maps: Tensor, Z: Tensor, c: Tensor) -> Tensor:
        """`embedding_of` the frames of whole clips (B, T, 3, H, W), with what `maps` and `features_of` make of them."""
        moved = moving.over_time(clip.to(maps))
        return split(self.embedding_of(*(merge(x, 0, 1) for x in (Z, c, maps, moved))), 0, int(clip.shape[1]))

    def embedding_of(self, Z: Tensor, c: Tensor, context: Tensor, moved: Tensor) -> Tensor:
        """What new activities are taught by, of single frames: e (B, D + 2 context).

        The trunk's last maps Z (B, D, h, w), averaged over the frame, and the context maps (B, context, h, w), averaged
        over the frame, c, and over where something moves. No loss sees it. Measured by five clips of activities that
        the network was not trained on: with what moves ten points more on gestures and none on interactions, where
        without the frame's context one clip says five points less. Glimpses' features and workers' states said less
        than either.
        """
        return torch.cat([Z.mean((2, 3)), c, moving.where_it_moves(context, moved)], -1)

    @property
    def embedding_size(self) -> int:
        """E of `embedding`."""
        return self.trunk.channels + 2 * self.trunk.context_channels

    def initial_state(self, batch: int, *, streaming: bool = False) -> State:
        """Zeros, on the model's device and dtype; with the trunk's caches for `stream`."""
        raise NotImplementedError

    def step(self, Z: Tensor, c: Tensor, state: State) -> tuple[FrameResult, State]:
        """One frame: Z (B, D, h, w), c (B, context)."""
        raise NotImplementedError

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=self.mean.dtype, device=self.mean.device)

    def streaming_state(self, batch: int) -> dict[str, Any]:
        """What a state has for streams alone; the caches are the zero padding before a clip's first frame."""
        size = self.config.size
        none = self.zeros(batch, 1, size // moving.SMALL, size // moving.SMALL)
        caches = tuple(self.zeros(batch, *shape) for shape in self.trunk.cache_shapes(size))
        return {"caches": caches, "grey": none, "moved": none}

    def fold(self, Z: Tensor, c: Tensor, state: State | None = None) -> tuple[ClipResult, State]:
        """`step` over the T frames of features Z (B, T, D, h, w), c (B, T, context)."""
        state = state or self.initial_state(Z.shape[0])
        frames = []
        for Z_t, c_t in zip(Z.unbind(1), c.unbind(1), strict=True):
            frame, state = self.step(Z_t, c_t, state)
            frames.append(frame)
        return self.read(frames), state

    def read(self, frames: list[FrameResult]) -> ClipResult:
        """The read-out over time (Eq 12): clip logits are the mean of the frames', or the last for `readout="last"`.

        Training, streams and the graphs of the export all read here.
        """
        y = torch.stack([f.logits for f in frames], 1)
        logits = y.mean(1) if self.config.readout == "mean" else y[:, -1]
        l, p, c = (torch.stack([getattr(f, k) for f in frames], 1) for k in ("l", "p", "c"))
        return ClipResult(logits, y, l, p, c)

    def forward(self, clip: Tensor) -> ClipResult:
        """clip: (B, T, 3, H, W) RGB in 0..255."""
        return self.fold(*self.features(clip))[0]

    def stream(self, frame: Tensor, state: State) -> tuple[FrameResult, State]:
        """One new frame (B, 3, H, W) at one T-th of a window's cost. Raises ValueError for a trunk that looks ahead."""
        return self._stream(frame, state)[:2]

    def stream_and_embed(self, frame: Tensor, state: State) -> tuple[FrameResult, State, Tensor]:
        """`stream`, and the frame's embedding (B, E); of a stream whose frames before were embedded, too."""
        assert state.grey is not None and state.moved is not None
        result, following, Z, context = self._stream(frame, state)
        grey = moving.grey(frame.to(Z))
        moved = moving.faded(state.moved, moving.change(grey, state.grey))
        e = self.embedding_of(Z, result.c, context, moved)
        return result, replace(following, grey=grey, moved=moved), e

    def _stream(self, frame: Tensor, state: State) -> tuple[FrameResult, State, Tensor, Tensor]:
        """`stream`, with Z and the context map of the frame."""
        if self.config.temporal != "causal":
            raise ValueError('a centered trunk looks ahead and cannot stream: train with temporal="causal"')
        Z, context, caches = self.trunk.step(self.normalise(frame), state.caches)
        result, state = self.step(Z, context.mean((2, 3)), state)
        return result, replace(state, caches=tuple(caches)), Z, context

    def stream_map(self, context: Tensor, state: State) -> tuple[FrameResult, State]:
        """`stream` from the new frame's context map (B, context, h, w), see `Trunk.back_step`."""
        Z, caches = self.trunk.back_step(context, state.caches)
        result, state = self.step(Z, context.mean((2, 3)), state)
        return result, replace(state, caches=tuple(caches))

    def chunk_of_maps(self, maps: Tensor, state: State) -> tuple[ClipResult, State]:
        """`forward_chunk` from context maps (B, n, context, h, w)."""
        return self._chunk(self.stream_map, maps, state)

    def forward_chunk(self, clip: Tensor, state: State) -> tuple[ClipResult, State]:
        """The next frames (B, n, 3, H, W) of a stream, any n >= 1, frame by frame."""
        return self._chunk(self.stream, clip, state)

    def _chunk(
        self, one: Callable[[Tensor, State], tuple[FrameResult, State]], parts: Tensor, state: State
    ) -> tuple[ClipResult, State]:
        frames = []
        for part in parts.unbind(1):
            result, state = one(part, state)
            frames.append(result)
        return self.read(frames), state

    def poses(self, c: Tensor) -> Tensor:
        """Eq 13: (..., context) -> (..., bodies, joints, 2) in [-1, 1] coordinates of the input."""
        assert self.pose is not None
        return self.pose(c).unflatten(-1, (self.config.bodies, self.config.joints, 2))
