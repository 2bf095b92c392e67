# SPDX-License-Identifier: Apache-2.0
"""Training samples of the coloured clips, for a `tiny` network."""

from gc_model.data import own
from gc_model.data.augment import Augment
from gc_model.data.frames import FrameCache
from gc_model.data.samples import TrainingClips
from gc_model.paper.presets import preset
from tests.gc_model.runs import COLOURS, colours, scratch
from trt_build.bundle import Preprocess

TINY = preset("tiny", classes=3)
P = Preprocess(size=TINY.size, resize=TINY.resize)


def cache() -> FrameCache:
    return FrameCache(scratch() / "cache", P)


def training(seed: int = 0, augment: Augment | None = None) -> TrainingClips:
    return TrainingClips(own.clips(colours()), list(COLOURS), cache(), TINY, 4.0, augment or Augment(), seed)
