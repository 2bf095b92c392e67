# SPDX-License-Identifier: Apache-2.0
"""The samples of a training run: clips or cached features of the frozen trunk, one by one or as streams."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gc_model.data.augment import Augment, BoxAugment
from gc_model.data.clip import LabelledClip
from gc_model.data.frames import FrameCache
from gc_model.data.frozen_front import FrozenFront, front_key, layers
from gc_model.data.samples import EpochSampler, TestClips, TrainingClips, loading
from gc_model.paper.network import Network
from gc_model.training.options import LAST_STAGE_ONLY, TrainOptions
from gc_model.training.processes import rank
from gc_model.training.streams import HeldOutStreams, StreamClips

START_CLIPS = 256
STANDARDISE_CLIPS = 64


class Loaders:
    """Training samples, held-out samples, and the plain clips for the passes between the stages of one run."""

    def __init__(
        self,
        options: TrainOptions,
        model: Network,
        labels: Sequence[str],
        cache: FrameCache,
        training: Sequence[LabelledClip],
        validation: Sequence[LabelledClip],
    ):
        self.options = options
        config = model.config
        size, resize = config.size, config.resize
        augment = (
            Augment(scale=options.scale, flip=options.flip, grey=options.grey, erase=options.erase)
            if options.augment
            else Augment.paper(size, resize)
        )
        boxes = BoxAugment(options.person_share, options.box_scale, options.box_jitter, options.box_drop)
        if not options.augment:
            boxes = BoxAugment(options.person_share, scale=1.0, jitter=0.0, drop=0.0)
        self.plain = TrainingClips(
            training, labels, cache, config, options.window_s, augment, options.seed, options.motion, boxes,
            options.still,
        )  # fmt: skip
        self.samples: TrainingClips | FrozenFront | StreamClips = self.plain
        counts = Counter(c.source for c in self.plain.clips)
        self.sources = [counts[k] for k in range(1 + len(options.also))]
        self.fixed = TestClips(training, labels, cache, config, sub_sequences=1)
        self.sub_sequences = TestClips(validation, labels, cache, config) if validation else None
        self.held_out: TestClips | FrozenFront | HeldOutStreams | None = self.sub_sequences
        self.middles = TestClips(validation, labels, cache, config, sub_sequences=1)
        self.cache, self.model = cache, model

    def freeze_front(self, options: TrainOptions) -> None:
        """Replace the clips by cached features of the frozen part of the trunk, if `options` freeze one.

        Called again when more of the trunk freezes: Z is then computed from the cached context maps.
        """
        training: TrainingClips | FrozenFront = self.plain
        held_out: TestClips | FrozenFront | None = self.sub_sequences
        whole = options.freeze_stages > LAST_STAGE_ONLY
        if whole and isinstance(self.samples, FrozenFront) and not self.samples.whole:
            training = self.samples
            held_out = self.held_out if isinstance(self.held_out, FrozenFront) else None
        self.options, self.samples, self.held_out = options, training, held_out
        if options.freeze_stages < LAST_STAGE_ONLY:
            return
        path = self.cache.folder / f"front.{self.front_key(whole)}"
        number = rank(options.devices)  # every process has a file of its own
        path = path.with_name(f"{path.name}.{number}") if number else path
        self.samples = FrozenFront(training, self.model, path, options.views, whole)
        if held_out:
            self.held_out = FrozenFront(held_out, self.model, self.samples.neighbour("val"), 0, whole)

    def front_key(self, whole: bool) -> str:
        """A hash of everything that the features depend on, since several runs may share one cache."""
        o, plain = self.options, self.plain
        # Not by their names: a clip that was filmed again keeps its own.
        clips = [self.cache.identities(part) for part in (plain.clips, self.middles.clips)]
        also = [clips, o.window_s, o.seed, o.views, asdict(plain.augment)]
        if plain.still:
            also.append(plain.still)
        if any(c.people for c in (*plain.clips, *self.middles.clips)):
            also.append(asdict(plain.boxes))
        return front_key(self.model, also, whole)

    def streams(self) -> Loaders:
        """The same clips one after the other, from cached features if a part of the trunk is frozen.

        If the frozen part sees one frame at a time, the streams are joined from the features of the clips. If it looks
        back in time, the features of whole streams are cached instead, one stream for every view and clip.
        """
        other = copy.copy(self)
        chunks = self.options.stream_chunks
        mixed = self.sources, self.options.shares
        other.samples = StreamClips(self.plain, chunks, *mixed)
        if isinstance(self.samples, FrozenFront):
            whole = self.samples.whole
            if self.model.trunk.sees_one_frame(whole):
                other.samples = StreamClips(self.samples, chunks, *mixed)
            elif whole:
                name = f"streams{chunks}"
                # Which clips a stream joins goes by the shares, too.
                if self.options.shares is not None:
                    name += f"-{hashlib.sha256(repr(mixed).encode()).hexdigest()[:8]}"
                path = self.samples.neighbour(name)
                other.samples = FrozenFront(other.samples, self.model, path, self.options.views, whole)
        other.held_out = HeldOutStreams(self.middles, self.options.seed) if len(self.middles) else None
        return other

    def continuous(self) -> Iterator[tuple[Tensor, int]]:
        """The held-out clips (T, 3, S, S) with their labels, in a random order that is always the same."""
        for i in np.random.default_rng(self.options.seed).permutation(len(self.middles)):
            sample = self.middles[int(i)]
            yield sample["clip"][0], sample["label"]

    def train(self, world: int = 1, rank: int = 0) -> DataLoader:
        sampler = EpochSampler(self.sources, self.options.seed, rank, world, self.options.shares)
        # Features are stored by this process, which has the network.
        stored = any(isinstance(s, FrozenFront) for s in layers(self.samples))
        return DataLoader(
            self.samples,
            self.options.batch,
            sampler=sampler,
            pin_memory=torch.cuda.is_available(),
            **loading(0 if stored else self.options.loaders),
        )

    def validation(self) -> DataLoader | None:
        return DataLoader(self.held_out, max(1, self.options.batch // 4)) if self.held_out else None

    def shown(self) -> Tensor:
        """The clip (T, 3, S, S) whose glimpses are drawn: a held-out one if there is any."""
        clip: Tensor = (self.middles if len(self.middles) else self.fixed)[0]["clip"][0]
        return clip

    def start_clips(self, at_most: int = START_CLIPS) -> Iterator[Tensor]:
        """Training clips (1, T, 3, S, S) without augmentation, at even distances through the list."""
        for i in self._spread(at_most):
            yield self.fixed[i]["clip"]

    @torch.no_grad()
    def start_features(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Z and c of the same clips, cached if the whole trunk is frozen."""
        if isinstance(self.samples, FrozenFront) and self.samples.whole:
            stored = FrozenFront(self.fixed, self.model, self.samples.neighbour("fixed"), 0, whole=True)
            for i in self._spread(START_CLIPS):
                yield stored[i]["Z"].to(self.model.mean), stored[i]["c"].to(self.model.mean)
        else:
            for clip in self.start_clips():
                yield self.model.features(clip)

    def _spread(self, at_most: int) -> list[int]:
        n = len(self.fixed)
        return [int(i) for i in np.linspace(0, n - 1, min(n, at_most)).round()]
