# SPDX-License-Identifier: Apache-2.0
"""The ways to judge a clip: each is called with a clip and returns its scores (K,), or raises DataError."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gc_model.data.clip import LabelledClip
from gc_model.data.frames import FrameCache, decode
from gc_model.data.frozen_front import FrozenFront, front_key
from gc_model.data.samples import TestClips, sub_sequences
from gc_model.data.sampling import SUB_SEQUENCES
from gc_model.evaluation.report import Judged
from gc_model.export.torch_engine import TorchEngine
from gc_model.paper.network import Network
from gc_ros.recognition.recognizer import Recognizer, stream_label
from trt_build.bundle import Bundle, LoadedBundle
from trt_build.errors import DataError

Judge = Callable[[LabelledClip], NDArray[np.float64]]


def scores_of(logits: Tensor, info: Bundle) -> NDArray[np.float64]:
    """Softmax of logits (K,) at the model's temperature."""
    return torch.softmax(logits.double() / info.calibration.temperature, 0).cpu().numpy()


def five_sub_sequences(model: Network, info: Bundle, cache: Path | None = None) -> Judge:
    """The paper's test: five fixed sub-sequences of a clip, their logits averaged. cache: folder for decoded frames."""
    # Every frame, since the sub-sequences are fixed by frame number.
    kept = None if cache is None else FrameCache(cache, info.preprocess, max_fps=1e9)
    at_once = SUB_SEQUENCES if model.mean.is_cuda else 1  # together they outgrow a processor's cache

    @torch.no_grad()
    def judge(clip: LabelledClip) -> NDArray[np.float64]:
        frames = kept.read(clip) if kept else decode(clip.path, info.preprocess, 1e9, clip.read, clip.person)
        parts = sub_sequences(frames.images, model.config).split(at_once)
        return scores_of(torch.cat([model(part).logits for part in parts]).mean(0), info)

    return judge


def stored_sub_sequences(
    model: Network, info: Bundle, cache: Path, clips: Sequence[LabelledClip], front_alone: bool
) -> Judge:
    """As `five_sub_sequences`, from cached features in float16 that runs with the same frozen trunk share.

    front_alone: whether the trunks of these runs differ in the last stage, and share only the maps before it.
    """
    frames = FrameCache(cache, info.preprocess, max_fps=1e9)
    front: TestClips | FrozenFront = TestClips(clips, (), frames, model.config)
    also = frames.identities(clips)
    for whole in (False, True) if front_alone else (True,):
        key = front_key(model, also, whole)
        front = FrozenFront(front, model, cache / f"front.{key}.test", 0, whole)
    at = {c.name: i for i, c in enumerate(clips)}

    @torch.no_grad()
    def judge(clip: LabelledClip) -> NDArray[np.float64]:
        sample = front[at[clip.name]]
        logits = model.fold(sample["Z"].to(model.mean), sample["c"].to(model.mean))[0].logits.mean(0)
        return scores_of(logits, info)

    return judge


class Robot:
    """Runs every frame of a clip through the robot's recogniser. held: names of the clips without a whole window."""

    def __init__(self, model: Network, info: Bundle, mode: str):
        self.info, self.mode = info, mode
        self.bundle, self.engine = LoadedBundle(Path(), info), TorchEngine(model, info, mode)
        self.held: list[str] = []

    def __call__(self, clip: LabelledClip) -> NDArray[np.float64]:
        recognizer = Recognizer(self.bundle, self.engine, mode=self.mode, owns_engine=False)
        image, stamp, results = None, 0, []
        for image, stamp in clip.read(clip.path):
            if (result := recognizer.push(image, stamp, bgr=False)) is not None:
                results.append(result)
        # What is left of a clip behind a break gives no result on a robot either.
        if image is not None and not results and recognizer.warmup[0] < self.info.T:
            self.held.append(clip.name)
            while recognizer.warmup[0] < self.info.T:  # the last frame stands
                stamp += round(1e9 / self.info.rate_hz)
                if (result := recognizer.push(image, stamp, bgr=False)) is not None:
                    results.append(result)
        return stream_label(results)[1]


class CarriedState:
    """Judges clips as one stream: T frames of each, by the mean of their logits, the state never reset.

    windows: the same frames, judged as windows that begin with a state of zeros.
    """

    def __init__(self, model: Network, info: Bundle):
        if model.config.model == "c3d":
            raise DataError(
                "--judge continuous needs a model that takes frame after frame, and c3d sees whole clips: take --judge "
                "sub-sequences or stream"
            )
        if model.config.temporal != "causal":
            raise DataError("--judge continuous needs a causal model: train with --set temporal=causal")
        self.model, self.info = model, info
        self.state = model.initial_state(1, streaming=True)
        self.windows: list[Judged] = []

    @torch.no_grad()
    def __call__(self, clip: LabelledClip) -> NDArray[np.float64]:
        images = decode(clip.path, self.info.preprocess, 1e9, clip.read, clip.person).images
        frames = sub_sequences(images, self.model.config, 1)
        result, self.state = self.model.forward_chunk(frames, self.state)
        self.windows.append(Judged(clip, scores_of(self.model(frames).logits[0], self.info)))
        return scores_of(result.logits[0], self.info)
