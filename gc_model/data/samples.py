# SPDX-License-Identifier: Apache-2.0
"""Clips as training and test samples.

Every random choice is drawn from (seed, epoch, clip), never from a global generator, so that a resumed run sees
exactly the samples that an uninterrupted one sees, whatever the number of loading processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from gc_model.data.augment import Augment, BoxAugment, joined
from gc_model.data.clip import BODIES, JOINTS, LabelledClip, idle_of
from gc_model.data.frames import DecodedClip, FrameCache
from gc_model.data.joints import joints_of, to_input
from gc_model.data.motion import PLACES, moving_places
from gc_model.data.sampling import SUB_SEQUENCES, test_indices, train_indices
from gc_model.paper.presets import Config

Sample = dict[str, Any]


class TrainingClips(Dataset[Sample]):
    """One augmented sub-sequence of T frames of each clip: {"clip": uint8 (T, 3, S, S), "label": int}.

    With "joints" (T, 2, 25, 2) in [-1, 1] over the input where the data set has them, NaN where unknown; with `motion`
    also "moving" (T, PLACES, 2), see gc_model.data.motion. Indexed by (epoch, clip), as `EpochSampler` yields them.
    still: chance that a sample repeats one frame and is of the class in which nothing is done, if `labels` have one.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        labels: Sequence[str],
        cache: FrameCache,
        config: Config,
        window_s: float,
        augment: Augment,
        seed: int,
        motion: bool = False,
        boxes: BoxAugment | None = None,
        still: float = 0.0,
    ):
        self.motion, self.still = motion, still
        self.boxes = boxes or BoxAugment()
        self.clips, self.cache, self.config = list(clips), cache, config
        self.window_s, self.augment, self.seed = window_s, augment, seed
        self.index = {label: i for i, label in enumerate(labels)}
        self.idle = idle_of(self.index)
        self.with_joints = any(c.joints is not None for c in self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of "clip"."""
        return (self.config.T, 3, self.config.size, self.config.size)

    def __getitem__(self, which: tuple[int, int]) -> Sample:
        clip, frames, chosen, matrix, rng = self._drawn(which)
        images = self.augment.apply(frames.images[chosen], self.config.size, matrix, rng)
        return {"clip": to_tensor(images)} | self._truth(clip, frames, chosen, matrix)

    def beside(self, which: tuple[int, int]) -> Sample:
        """The sample `which` without its pictures."""
        clip, frames, chosen, matrix, _ = self._drawn(which)
        return self._truth(clip, frames, chosen, matrix)

    def _drawn(
        self, which: tuple[int, int]
    ) -> tuple[LabelledClip, DecodedClip, np.ndarray, np.ndarray, np.random.Generator]:
        """The random choices of a sample: (clip, frames, chosen (T,), matrix (2, 3) or (T, 2, 3), generator).

        The clip shows one person or whole pictures; the generator draws what remains to be drawn.
        """
        epoch, i = which
        rng = np.random.default_rng((self.seed, epoch, i))
        clip, augment = self.clips[i], self.augment
        if clip.people and (clip.apart or rng.random() < self.boxes.share):
            clip = replace(clip, person=clip.people[rng.integers(len(clip.people))])
            part = self.config.size / self.config.resize  # what the robot shows of the frame
            augment = replace(augment, scale=(part / self.boxes.scale, part * self.boxes.scale))
        frames = self.cache.read(clip)
        chosen = train_indices(frames.times, self.config.T, self.window_s, rng)
        # A draw of its own, which the last number keeps apart from the others: they stay what they were without it.
        if self.idle and np.random.default_rng((self.seed, *which, 3)).random() < self.still:
            chosen[:] = chosen[len(chosen) // 2]
            clip = replace(clip, label=self.idle)
        R, size = frames.images.shape[1], self.config.size
        matrix = augment.matrix(R, size, rng)
        if frames.regions is not None:
            erring = self.boxes.maps(frames.times, frames.regions, chosen, R, rng)
            matrix = np.stack([joined(matrix, each) for each in erring])
        return clip, frames, chosen, matrix, rng

    def _truth(
        self, clip: LabelledClip, frames: DecodedClip, chosen: np.ndarray, matrix: np.ndarray
    ) -> Sample:
        truth: Sample = {"label": self.index[clip.label]}
        joints = joints_of(clip, frames, self.cache)
        R, size = frames.images.shape[1], self.config.size
        if clip.joints is not None and joints is not None:
            found = to_input(joints[chosen], matrix, R, size, clip.joints.mirrored)
            truth["joints"] = torch.from_numpy(found)
        elif self.with_joints:
            truth["joints"] = torch.full((len(chosen), BODIES, JOINTS, 2), torch.nan)
        if self.motion:
            # Joints are better; but clips with and without them lie in one batch, with the same keys.
            if joints is None or np.isnan(joints).all():
                places = moving_places(frames.images[chosen])
            else:
                places = np.full((len(chosen), PLACES, 2), np.nan, np.float32)
            moved = to_input(places[:, None], matrix, R, size, range(PLACES))
            truth["moving"] = torch.from_numpy(moved[:, 0])
        return truth


class TestClips(Dataset[Sample]):
    """The fixed sub-sequences of every clip, centre crop: {"clip": uint8 (5, T, 3, S, S), "label": int}.

    Where people are known, they show the one whom the clip is about most. The label is -1 where `labels` lacks it.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
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
        images = self.cache.read(self.clips[i].first_person).images
        return {"clip": sub_sequences(images, self.config, self.sub_sequences)} | self.beside(i)

    def beside(self, i: int) -> Sample:
        """The sample i without its pictures."""
        return {"label": self.index.get(self.clips[i].label, -1)}


def loading(processes: int) -> dict[str, Any]:
    """Arguments of a DataLoader for that many loading processes; 0: the caller's own."""
    if not processes:
        return {}
    # Spawned, not forked: a fork copies video decoders without their threads, and freeing one waits for them for ever.
    return {"num_workers": processes, "multiprocessing_context": "spawn", "persistent_workers": True}


# More epochs than a training has, and no multiple of a number of stored views: what comes again sees another one.
AGAIN = 1_000_003


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, clip) for one epoch, in an order drawn from (seed, epoch); Lightning calls `set_epoch`.

    n: number of clips of each source; clips are numbered through, source after source. shares: of the epoch that each
    source gets, so that a clip may come several times or not at all; None: every clip once. What comes again counts as
    of another epoch, which is augmented in another way: `AGAIN` more for each time. An epoch has as many
    samples as there are clips. With several processes each takes every world-th sample of the same order, padded so
    that all have equally many.
    """

    def __init__(
        self,
        n: int | Sequence[int],
        seed: int,
        rank: int = 0,
        world: int = 1,
        shares: Sequence[float] | None = None,
    ):
        self.sources = [n] if isinstance(n, int) else list(n)
        self.n, self.seed, self.rank, self.world, self.epoch = sum(self.sources), seed, rank, world, 0
        total = sum(shares) if shares else 1.0
        self.taken = [round(self.n * s / total) for s in shares] if shares else self.sources

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        first, parts = 0, []
        for n, taken in zip(self.sources, self.taken, strict=True):
            # Whole rounds of the source before any of its clips comes once more.
            rounds = [rng.permutation(n) + self.n * k for k in range(-(-taken // n))] if n else []
            parts.append(first + np.concatenate([np.zeros(0, int), *rounds])[:taken])
            first += n
        order = parts[0] if len(parts) == 1 else rng.permutation(np.concatenate(parts))
        order = np.resize(order, len(self) * self.world)
        return (
            (self.epoch + AGAIN * int(i // self.n), int(i % self.n)) for i in order[self.rank :: self.world]
        )

    def __len__(self) -> int:
        return -(-sum(self.taken) // self.world)


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
