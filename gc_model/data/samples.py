# SPDX-License-Identifier: Apache-2.0
"""Clips as training and test samples.

Every random choice is drawn from (seed, epoch, clip), never from a global generator, so that a resumed run sees
exactly the samples that an uninterrupted one sees, whatever the number of loading processes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from gc_model.data.augment import Augment
from gc_model.data.frames import Clip, FrameCache, Frames
from gc_model.data.joints import MIRRORED, to_input
from gc_model.data.sampling import SUB_SEQUENCES, test_indices, train_indices
from gc_model.paper.modes import evaluating
from gc_model.paper.network import Network
from gc_model.paper.presets import Config
from trt_build.errors import DataError

Sample = dict[str, Any]


class TrainingClips(Dataset[Sample]):
    """One augmented T-frame sub-sequence a clip: {"clip": uint8 (T, 3, S, S), "label": int}.

    With "joints" (T, 2, 25, 2) where the data set has them, NaN where they are unknown.
    Indexed by (epoch, clip), as `EpochSampler` yields them.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        labels: Sequence[str],
        cache: FrameCache,
        config: Config,
        window_s: float,
        augment: Augment,
        seed: int,
    ):
        self.clips, self.cache, self.config = list(clips), cache, config
        self.window_s, self.augment, self.seed = window_s, augment, seed
        self.index = {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of "clip"."""
        return (self.config.T, 3, self.config.size, self.config.size)

    def __getitem__(self, which: tuple[int, int]) -> Sample:
        frames, chosen, matrix, rng = self._drawn(which)
        images = self.augment.apply(frames.images[chosen], self.config.size, matrix, rng)
        return {"clip": to_tensor(images)} | self._truth(which[1], frames, chosen, matrix)

    def beside(self, which: tuple[int, int]) -> Sample:
        """The sample `which` without its pictures."""
        frames, chosen, matrix, _ = self._drawn(which)
        return self._truth(which[1], frames, chosen, matrix)

    def _drawn(self, which: tuple[int, int]) -> tuple[Frames, np.ndarray, np.ndarray, np.random.Generator]:
        """The clip's frames, which of them and where in them, and the generator for what is still to be drawn."""
        epoch, i = which
        rng = np.random.default_rng((self.seed, epoch, i))
        frames = self.cache.read(self.clips[i])
        chosen = train_indices(frames.times, self.config.T, self.window_s, rng)
        return frames, chosen, self.augment.matrix(frames.images.shape[1], self.config.size, rng), rng

    def _truth(self, i: int, frames: Frames, chosen: np.ndarray, matrix: np.ndarray) -> Sample:
        label = {"label": self.index[self.clips[i].label]}
        joints = self.cache.joints(self.clips[i], frames)
        if joints is None:
            return label
        R = frames.images.shape[1]
        mirrored = getattr(self.clips[i], "mirrored", MIRRORED)
        found = torch.from_numpy(to_input(joints[chosen], matrix, R, self.config.size, mirrored))
        return label | {"joints": found}


class TestClips(Dataset[Sample]):
    """The fixed sub-sequences of every clip, centre crop: {"clip": uint8 (5, T, 3, S, S), "label": int}."""

    def __init__(
        self,
        clips: Sequence[Clip],
        labels: Sequence[str],
        cache: FrameCache,
        config: Config,
        sub_sequences: int = SUB_SEQUENCES,
    ):
        self.clips, self.cache, self.config, self.sub_sequences = list(clips), cache, config, sub_sequences
        self.index = {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of "clip"."""
        return (self.sub_sequences, self.config.T, 3, self.config.size, self.config.size)

    def __getitem__(self, i: int) -> Sample:
        images = self.cache.read(self.clips[i]).images
        return {"clip": sub_sequences(images, self.config, self.sub_sequences)} | self.beside(i)

    def beside(self, i: int) -> Sample:
        """The sample i without its pictures."""
        return {"label": self.index.get(self.clips[i].label, -1)}


class Pictures(Protocol):
    """Samples whose "clip" a frozen front may take the place of: `TrainingClips`, `TestClips`, streams of clips."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of "clip": (n, 3, S, S), or (clips, n, 3, S, S) of several by themselves."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> Sample: ...

    def beside(self, which: Any) -> Sample:
        """The sample without its pictures."""


class FrozenFront(Dataset[Sample]):
    """Samples of `base` with what the frozen part of the trunk makes of "clip" in its place; each computed once.

    That is "maps", the penultimate stage's, or with `whole` the features "Z" and "c", which a `base` of maps gives too.
    views > 0: `base` is indexed by (epoch, clip), and epoch e sees view e mod views of a clip; 0: it is `TestClips`.
    They lie in `path` as float16, read through from there also the first time, so that a resumed run sees the
    same numbers. Not for several loading processes: the network lives in this one. Raises DataError where the disk is
    too small.
    """

    def __init__(
        self, base: Pictures | FrozenFront, model: Network, path: Path, views: int, whole: bool = False
    ):
        self.base, self.model, self.path, self.views, self.whole = base, model, path, views, whole
        slots = (max(views, 1), len(base))
        path.parent.mkdir(parents=True, exist_ok=True)
        first = self._front(base.blank if isinstance(base, FrozenFront) else _blank(base))
        self._stored = {
            name: _memmap(self.neighbour(name), np.float16, (*slots, *part.shape))
            for name, part in first.items()
        }
        self._done = _memmap(self.neighbour("done"), np.uint8, slots)

    def neighbour(self, name: str) -> Path:
        """A file beside `path`: a part of these features, or where those of other clips of the same run lie."""
        return self.path.with_name(f"{self.path.name}.{name}")

    def __len__(self) -> int:
        return len(self.base)

    @property
    def blank(self) -> Sample:
        """What a sample holds besides its truth, as zeros."""
        return {n: torch.zeros(s.shape[2:]) for n, s in self._stored.items()}

    def beside(self, which: Any) -> Sample:
        """The sample `which` without what the front makes of it."""
        return self.base.beside(which)

    def __getitem__(self, which: tuple[int, int] | int) -> Sample:
        epoch, i = which if isinstance(which, tuple) else (0, which)
        view = epoch % max(self.views, 1)
        of_base = (view, i) if self.views else i
        if not self._done[view, i]:
            sample = self.base[of_base]
            for name, part in self._front(sample).items():
                self._stored[name][view, i] = part
                self._stored[name].flush()
            self._done[view, i] = 1
        stored = {n: torch.from_numpy(s[view, i].astype(np.float32)) for n, s in self._stored.items()}
        return stored | self.base.beside(of_base)

    @torch.no_grad()
    def _front(self, sample: Sample) -> dict[str, np.ndarray]:
        of_maps = "maps" in sample
        x = sample["maps" if of_maps else "clip"]
        many = x if x.dim() == 5 else x[None]
        with evaluating(self.model):
            if self.whole:
                whole = (
                    self.model.features_of(many.to(self.model.mean)) if of_maps else self.model.features(many)
                )
                found = dict(zip(("Z", "c"), whole, strict=True))
            else:
                found = {"maps": self.model.maps(many)}
        parts = {n: part.cpu().numpy().astype(np.float16) for n, part in found.items()}
        return parts if x.dim() == 5 else {n: part[0] for n, part in parts.items()}


def _blank(base: Pictures) -> Sample:
    return {"clip": torch.zeros(base.clip_shape, dtype=torch.uint8)}


def front_key(model: Network, also: Any, whole: bool) -> str:
    """A name for features: of the weights that make them, the whole trunk's or its front's, and of whatever else they
    depend on, as JSON."""
    digest = hashlib.sha256(json.dumps([also, whole]).encode())
    for name, value in model.trunk.weights(whole).items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _memmap(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A file-backed array, zeros where new; a file of another size is from another run and starts anew.

    Raises DataError where the disk could not hold it: writing to a mapped file on a full disk ends the process.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        path.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise DataError(
                f"{path.parent}: what the frozen trunk makes of the clips takes {size / 1e9:.1f} GB, {free / 1e9:.1f} "
                "are free; take fewer --set views=, or a --out on a larger disk"
            )
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


class EpochSampler(Sampler[tuple[int, int]]):
    """All clips once an epoch in an order drawn from (seed, epoch); Lightning calls `set_epoch`.

    With several processes each takes every world-th clip of the same order, padded so that all have equally many.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1):
        self.n, self.seed, self.rank, self.world, self.epoch = n, seed, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        order = np.resize(order, len(self) * self.world)
        return ((self.epoch, int(i)) for i in order[self.rank :: self.world])

    def __len__(self) -> int:
        return -(-self.n // self.world)


def sub_sequences(images: np.ndarray, config: Config, of: int = SUB_SEQUENCES) -> torch.Tensor:
    """The fixed sub-sequences of a clip's frames (n, resize, resize, 3), centre crop: uint8 (of, T, 3, S, S)."""
    images = centre(images, config)
    return torch.stack([to_tensor(images[test_indices(len(images), config.T, i, of)]) for i in range(of)])


def centre(images: np.ndarray, config: Config) -> np.ndarray:
    """The central size x size of (n, resize, resize, 3) frames: what the robot's resize gives."""
    border = (config.resize - config.size) // 2
    return images[:, border : border + config.size, border : border + config.size]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(T, S, S, 3) RGB -> (T, 3, S, S) uint8."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
