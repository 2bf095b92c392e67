# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a trained run on labelled clips.

Two protocols: `clips`, the paper's five fixed sub-sequences a clip, logits averaged; and `stream`, where each
clip runs through the robot's own recogniser and is labelled as `gc-ros video` labels it. Every clip counts: one
that does not decode is wrong and is named. One that is shorter than a window repeats frames: in a
stream the camera goes on showing its last one until the window is full, and "held" names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gc_model.data.datasets import index, read_frames
from gc_model.data.frames import Clip, FrameCache, decode
from gc_model.data.samples import FrozenFront, TestClips, front_key, sub_sequences
from gc_model.data.sampling import SUB_SEQUENCES
from gc_model.export.torch_engine import TorchEngine, bundle_info
from gc_model.paper.network import Network
from gc_model.training import checkpoint
from gc_model.training.options import LAST_STAGE_ONLY
from gc_model.training.processes import accelerator
from gc_ros.recognition.recognizer import Recognizer, stream_label
from trt_build.bundle import Bundle, LoadedBundle
from trt_build.errors import DataError

PROTOCOLS = ("clips", "stream", "continuous")
NONE = "(no result)"


@dataclass(frozen=True)
class Judged:
    """One clip: its label, the scores (K,) over the model's labels, or the reason why there are none."""

    clip: Clip
    scores: NDArray[np.float64] | None
    problem: str = ""


def evaluate(
    run: Path,
    data: Path,
    *,
    subjects: Iterable[str] | None = None,
    protocol: str = "clips",
    layout: str = "clips",
    split: str = "",
    mode: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Judge every clip and sum up. See `report` for what is returned.

    layout, split: as for training; of a data set with a protocol its test part is judged. cache: keep decoded frames
    there, for many evaluations of the same clips. Protocol "stream": "held" names the clips shorter than a window.
    "continuous": all clips one after the other as one stream, whose state is carried on; "window_accuracy" is that of
    the same frames as windows from zeros.

    Raises DataError for an unknown protocol or a class that the model was not trained on.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f'unknown protocol "{protocol}": choose {" or ".join(PROTOCOLS)}')
    model, recipe = checkpoint.load(run)
    model.to(accelerator())
    clips = index(layout, data, split, part="test", subjects=list(subjects) if subjects is not None else None)
    if strange := sorted({c.label for c in clips} - set(recipe.labels)):
        raise DataError(
            f'{data} has the class "{strange[0]}", which {run} was not trained on; it knows {", ".join(recipe.labels)}'
        )
    _Groups(recipe.labels, groups)  # its errors before the judging, not after
    info = bundle_info(model.config, recipe)
    if mode is not None and mode not in info.modes:
        raise DataError(f'mode "{mode}" is not one of this model: choose {" or ".join(info.modes)}')
    asked = {"freeze_stages": 0, "freeze_stages2": None} | recipe.provenance.get("options", {})
    at_last = asked["freeze_stages"] if asked["freeze_stages2"] is None else asked["freeze_stages2"]
    carried = robot = None
    judge: Callable[[Clip], NDArray[np.float64]]
    if protocol == "stream":
        judge = robot = _Robot(model, info, mode or info.default_mode)
    elif protocol == "continuous":
        clips = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
        judge = carried = _Carried(model, info)
    elif cache is not None and at_last > LAST_STAGE_ONLY:
        judge = _stored_sub_sequences(model, info, cache, clips, asked["freeze_stages"] == LAST_STAGE_ONLY)
    else:
        judge = _five_sub_sequences(model, info, cache)
    judged = [_judge(judge, clip) for clip in _track(clips, progress)]
    result = report(judged, recipe.labels, groups)
    return {
        "run": run.name,
        "data": data.resolve().name,
        "protocol": protocol,
        "split": split,
        "mode": "carried" if carried else mode or info.default_mode,
        **(
            {"window_accuracy": report(carried.windows, recipe.labels, groups)["accuracy"]} if carried else {}
        ),
        **({"held": robot.held} if robot else {}),
    } | result


def _track(clips: Sequence[Clip], progress: bool) -> Iterable[Clip]:
    from rich.progress import track

    return track(clips, "evaluating", disable=not progress)


def _judge(judge: Callable[[Clip], NDArray[np.float64]], clip: Clip) -> Judged:
    try:
        return Judged(clip, judge(clip))
    except DataError as error:
        return Judged(clip, None, str(error))


def _five_sub_sequences(
    model: Network, info: Bundle, cache: Path | None = None
) -> Callable[[Clip], NDArray[np.float64]]:
    # Every frame, since the sub-sequences are fixed by frame number.
    kept = None if cache is None else FrameCache(cache, info.preprocess, max_fps=1e9)
    at_once = SUB_SEQUENCES if model.mean.is_cuda else 1  # together they outgrow a processor's cache

    @torch.no_grad()
    def judge(clip: Clip) -> NDArray[np.float64]:
        frames = kept.read(clip) if kept else decode(clip.path, info.preprocess, max_fps=1e9)
        images = frames.images
        parts = sub_sequences(images, model.config).split(at_once)
        logits = torch.cat([model(part).logits for part in parts]).mean(0)
        return torch.softmax(logits.double() / info.calibration.temperature, 0).cpu().numpy()

    return judge


def _stored_sub_sequences(
    model: Network, info: Bundle, cache: Path, clips: Sequence[Clip], front_alone: bool
) -> Callable[[Clip], NDArray[np.float64]]:
    """As `_five_sub_sequences`, from features that runs with the same frozen trunk share, in float16.

    front_alone: their trunks may differ in the last stage, and share the maps before it.
    """
    frames = FrameCache(cache, info.preprocess, max_fps=1e9)
    front: TestClips | FrozenFront = TestClips(clips, (), frames, model.config)
    for whole in (False, True) if front_alone else (True,):
        key = front_key(model, [c.name for c in clips], whole)
        front = FrozenFront(front, model, cache / f"front.{key}.test", 0, whole)
    at = {c.name: i for i, c in enumerate(clips)}

    @torch.no_grad()
    def judge(clip: Clip) -> NDArray[np.float64]:
        sample = front[at[clip.name]]
        logits = model.fold(sample["Z"].to(model.mean), sample["c"].to(model.mean))[0].logits.mean(0)
        return torch.softmax(logits.double() / info.calibration.temperature, 0).cpu().numpy()

    return judge


class _Robot:
    """Every frame of a clip through the robot's recogniser; `held` are clips that ended before their first window."""

    def __init__(self, model: Network, info: Bundle, mode: str):
        self.info, self.mode = info, mode
        self.bundle, self.engine = LoadedBundle(Path(), info), TorchEngine(model, info, mode)
        self.held: list[str] = []

    def __call__(self, clip: Clip) -> NDArray[np.float64]:
        recognizer = Recognizer(self.bundle, self.engine, mode=self.mode, owns_engine=False)
        image, stamp, results = None, 0, []
        for image, stamp in read_frames(clip.path):
            results.append(recognizer.push(image, stamp, bgr=False))
        if image is not None and recognizer.warmup[0] < self.info.T:
            self.held.append(clip.name)
            while recognizer.warmup[0] < self.info.T:  # the last frame stands
                stamp += round(1e9 / self.info.rate_hz)
                results.append(recognizer.push(image, stamp, bgr=False))
        return stream_label(r for r in results if r is not None)[1]


class _Carried:
    """Clips as one stream: T frames of each, judged from the mean of their logits, the state never reset."""

    def __init__(self, model: Network, info: Bundle):
        if model.config.temporal != "causal":
            raise DataError("--judge continuous needs a causal model: train with --set temporal=causal")
        self.model, self.info = model, info
        self.state = model.initial_state(1, streaming=True)
        self.windows: list[Judged] = []  # the same frames, from zeros

    @torch.no_grad()
    def __call__(self, clip: Clip) -> NDArray[np.float64]:
        images = decode(clip.path, self.info.preprocess, max_fps=1e9).images
        frames = sub_sequences(images, self.model.config, 1)
        result, self.state = self.model.forward_chunk(frames, self.state)
        T = self.info.calibration.temperature
        window, carried = (
            torch.softmax(logits[0].double() / T, 0).cpu().numpy()
            for logits in (self.model(frames).logits, result.logits)
        )
        self.windows.append(Judged(clip, window))
        return carried


class _Groups:
    """Coarser classes: their names, and member (groups, labels) with a one where a label belongs to a group."""

    def __init__(self, labels: Sequence[str], groups: Mapping[str, Sequence[str]] | None):
        self.names, self.member = list(labels), np.eye(len(labels))
        if groups is not None:
            if not isinstance(groups, Mapping) or not all(
                isinstance(m, (list, tuple)) for m in groups.values()
            ):
                raise DataError('groups must be an object of lists: {"coarse": ["label", ...], ...}')
            flat = [label for members in groups.values() for label in members]
            wrong = sorted(set(map(str, flat)) ^ set(labels)) or [
                n for n, k in Counter(flat).items() if k > 1
            ]
            if wrong:
                raise DataError(f'groups must name each label once; look at "{wrong[0]}"')
            self.names = list(groups)
            self.member = np.array(
                [[label in groups[name] for label in labels] for name in self.names], float
            )
        self.of = {label: int(np.argmax(self.member[:, i])) for i, label in enumerate(labels)}

    def predict(self, scores: NDArray[np.float64]) -> int:
        return int(np.argmax(self.member @ scores))


def report(
    judged: Sequence[Judged], labels: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Accuracy, mean of the per-class recalls, recall per class, and the confusion matrix.

    With groups these are of the groups, and "class_accuracy" is that of the classes themselves.
    Rows of the confusion are the true classes, columns the predicted ones; the last column counts clips without
    a result. groups: coarser classes as name -> labels; their scores are the sums of their members'. Raises
    DataError where groups do not partition the labels.
    """
    coarse = _Groups(labels, groups)
    names = coarse.names
    predicted = [len(names) if j.scores is None else coarse.predict(j.scores) for j in judged]
    confusion = np.zeros((len(names), len(names) + 1), int)
    for j, k in zip(judged, predicted, strict=True):
        confusion[coarse.of[j.clip.label], k] += 1
    right, total = np.diag(confusion), confusion.sum(1)
    recall = {name: float(right[i] / total[i]) for i, name in enumerate(names) if total[i]}
    columns = [*names, NONE]
    of_classes = [j.scores is not None and labels[int(np.argmax(j.scores))] == j.clip.label for j in judged]
    return {
        "clips": int(total.sum()),
        "class_accuracy": sum(of_classes) / max(len(judged), 1),
        "accuracy": float(right.sum() / max(total.sum(), 1)),
        "balanced_accuracy": float(np.mean(list(recall.values()))) if recall else 0.0,
        "per_class": recall,
        "labels": columns,
        "confusion": confusion.tolist(),
        "problems": {j.clip.name: j.problem for j in judged if j.scores is None},
        "predictions": {j.clip.name: columns[k] for j, k in zip(judged, predicted, strict=True)},
    }
