# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on long clips in chunks, so that a model may carry its state from window to window.

A model trained on windows always starts from zeros; with a state that has seen another activity its results are
undefined. Here it sees streams of several clips, T frames at a time; each chunk starts from the state after the last
one, detached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from gc_model.data.frozen_front import FrozenFront, layers
from gc_model.data.samples import Sample, TestClips, TrainingClips
from gc_model.paper.losses import total_loss
from gc_model.paper.network import Network
from gc_model.paper.presets import Config
from gc_model.training.options import TrainOptions
from gc_model.training.stages import Stage
from trt_build.errors import DataError

RAMP = 4  # frames until a new activity counts in full: its first frame alone does not tell it


def check_streams(config: Config) -> None:
    """Raises DataError for a network whose state cannot be carried on."""
    if not config.streams:
        raise DataError(
            "epochs3: streams need a causal model that reads every frame; train with --set temporal=causal"
        )


class StreamClips(Dataset[Sample]):
    """Clips one after the other: {"clip": uint8 (chunks * T, 3, S, S), "labels": (chunks * T,), "age": the same}, and
    "joints" and "moving" of the frames where the clips have them.

    Indexed by (epoch, clip): that clip and `chunks` others, cut so that activities change anywhere in a chunk. age: the
    frame's number within its activity, from 1. Every draw follows from (seed, epoch, clip).
    base: samples of the clips. From stored features of single frames, "maps" or "Z" and "c" replace "clip".
    sources, shares: as of `EpochSampler`; the other clips come from each source by its share, None: all alike.
    """

    def __init__(
        self,
        base: TrainingClips | FrozenFront,
        chunks: int,
        sources: Sequence[int] = (),
        shares: Sequence[float] | None = None,
    ):
        self.base, self.chunks, self.sources, self.shares = base, chunks, sources, shares
        *_, plain = layers(base)
        assert isinstance(plain, TrainingClips)
        self.T, self.seed = plain.config.T, plain.seed

    def __len__(self) -> int:
        return len(self.base)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of "clip", for a base of frames."""
        assert isinstance(self.base, TrainingClips)
        return (self.chunks * self.T, *self.base.clip_shape[1:])

    def __getitem__(self, which: tuple[int, int]) -> Sample:
        clips, cut = self._drawn(which)
        parts = [self.base[which[0], k] for k in clips]
        frames = {
            n: torch.cat([p[n] for p in parts])[cut] for n in ("clip", "maps", "Z", "c") if n in parts[0]
        }
        return frames | self._truth(parts, cut)

    def beside(self, which: tuple[int, int]) -> Sample:
        """The sample `which` without its frames."""
        clips, cut = self._drawn(which)
        return self._truth([self.base.beside((which[0], k)) for k in clips], cut)

    def _truth(self, parts: Sequence[Sample], cut: slice) -> Sample:
        """What is true of the frames `cut` of clips one after the other. parts: samples of them, with their truth."""
        labels = torch.tensor([p["label"] for p in parts]).repeat_interleave(self.T)
        change = torch.cat([torch.tensor([True]), labels[1:] != labels[:-1]])
        n = torch.arange(len(labels))
        age = n - torch.where(change, n, 0).cummax(0).values + 1
        places = {n: torch.cat([p[n] for p in parts])[cut] for n in ("joints", "moving") if n in parts[0]}
        return {"labels": labels[cut], "age": age[cut]} | places

    def _drawn(self, which: tuple[int, int]) -> tuple[list[int], slice]:
        """The clips, one after the other, and the range of their frames that is taken."""
        epoch, i = which
        # The fourth number keeps these draws apart from those of the clips themselves.
        rng = np.random.default_rng((self.seed, epoch, i, 1))
        others = self._others(rng)
        first = int(rng.integers(0, self.T))
        return [i, *(int(k) for k in others)], slice(first, first + self.chunks * self.T)

    def _others(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The clips behind the first, whose source the sampler chose."""
        if self.shares is None:
            return rng.integers(0, len(self.base), self.chunks)
        share, n = np.array(self.shares), np.array(self.sources)
        source = rng.choice(len(n), self.chunks, p=share / share.sum())
        return (np.cumsum(n) - n)[source] + rng.integers(0, n[source])


class HeldOutStreams(Dataset[Sample]):
    """Every held-out clip after one of another class: {"clip": uint8 (2 T, 3, S, S), "label": int}.

    The pairs are always the same. base: held-out clips with one sub-sequence each. If all are of one class, any other
    clip comes first.
    """

    def __init__(self, base: TestClips, seed: int):
        assert base.sub_sequences == 1
        self.base, self.seed = base, seed

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> Sample:
        clips = self.base.clips
        others = [k for k, c in enumerate(clips) if c.label != clips[i].label] or list(range(len(clips)))
        before = others[int(np.random.default_rng((self.seed, i)).integers(0, len(others)))]
        sample = self.base[i]
        return {
            "clip": torch.cat([self.base[before]["clip"][0], sample["clip"][0]]),
            "label": sample["label"],
        }


class StreamStage(Stage):
    """Stage 3: L_D of every frame and L_G with carried state; trunk and head train, batch-norm statistics stay."""

    def __init__(self, model: Network, options: TrainOptions):
        super().__init__(model, options, options.epochs3, frozen_statistics=True)
        self.train_head()
        if model.pose is not None:
            model.pose.requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        T = self.model.config.T
        labels = batch["labels"]
        smoothing = self.options.label_smoothing
        state = self.model.initial_state(len(labels), streaming="Z" not in batch)
        losses, logits = [], []
        for start in range(0, labels.shape[1], T):
            chunk = {n: part[:, start : start + T] for n, part in batch.items()}
            if "clip" in chunk:
                result, state = self.model.forward_chunk(chunk["clip"], state)
            elif "maps" in chunk:
                maps = chunk["maps"].to(self.model.mean.dtype)
                result, state = self.model.chunk_of_maps(maps, state)
            else:
                Z, c = (chunk[n].to(self.model.mean.dtype) for n in ("Z", "c"))
                result, state = self.model.fold(Z, c, state)
            state = state.detach()
            L_D = frame_loss(result.frame_logits, chunk["labels"], chunk["age"], smoothing)
            # Without L_G here the glimpses forget in one epoch what stage 2 taught them. No poses: L_P is done.
            losses.append(
                total_loss(L_D, result, None, chunk.get("joints"), self.weights, chunk.get("moving"))
            )
            self.report_clouds(result)
            logits.append(result.frame_logits)
        terms = {n: torch.stack([loss[n] for loss in losses]).mean() for n in losses[0]}
        return self._report(terms, torch.cat(logits, 1).flatten(0, 1), labels.flatten())

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Judge the second of two clips as the node does, from its last T frames."""
        before, clip = batch["clip"].split(self.model.config.T, 1)
        state = self.model.initial_state(len(clip), streaming=True)
        _result, state = self.model.forward_chunk(before, state)
        self.report_validation(self.model.forward_chunk(clip, state)[0].logits, batch["label"])


def frame_loss(y: Tensor, labels: Tensor, age: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of every frame, y (B, n, classes), weighted up over the first `RAMP` frames of an activity."""
    loss = F.cross_entropy(y.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction="none")
    weight = (age.flatten().to(loss.dtype) / RAMP).clamp(max=1.0)
    return (loss * weight).sum() / weight.sum()


@torch.no_grad()
def stream_accuracy(model: Network, clips: Iterable[tuple[Tensor, int]]) -> dict[str, Any]:
    """Accuracy over one continuous stream of (clip (T, 3, S, S), label), with carried state and as windows from zeros.

    Each clip is judged once, after its last frame, from the mean of its T frames' logits in either way. The first clip
    is left out, since nothing comes before it.
    """
    model.eval()
    state = model.initial_state(1, streaming=True)
    right, n = {"window": 0, "carried": 0}, -1
    for clip, label in clips:
        frames = clip[None]
        result, state = model.forward_chunk(frames, state)
        n += 1
        if n:
            right["carried"] += int(result.logits.argmax() == label)
            right["window"] += int(model(frames).logits.argmax() == label)
    return {"clips": max(n, 0)} | {way: count / max(n, 1) for way, count in right.items()}
