# SPDX-License-Identifier: Apache-2.0
"""What `classes.safetensors` of a bundle is made from: the training clips of its run, through the exported graph."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import LabelledClip, spelled_as, split_validation
from gc_model.data.datasets import DATA_SETS, OWN, SKELETONS, index
from gc_model.data.own import all_mixed_in, boxes_beside
from gc_model.data.people import alone
from gc_ros.media.clips import clean
from gc_ros.recognition.footage import clip_frames
from gc_ros.recognition.region import MARGIN
from trt_build.bundle import Bundle, LoadedBundle
from trt_build.classes import WINDOWS_A_CLIP, ClassStatistics
from trt_build.engines.open import open_engine
from trt_build.errors import DataError
from trt_build.readout import pool

WINDOWS = 1024  # in all; more hardly change a mean or a covariance, but an export should take a minute


def training_clips(
    run: Path, labels: Sequence[str], data: Path | None, provenance: Mapping[str, Any] | None = None
) -> list[LabelledClip]:
    """The clips that a run was trained on; empty where they are no longer where they were.

    Where the run saw people alone, as many of the clips as in its training show one person (`LabelledClip.person`).

    data: the folder or table that they are in now; None: where the training found them. provenance: that of the run,
    which tells of the training where the run does not: unpacked from a bundle. Raises DataError where `data` holds none
    of the classes.
    """
    try:
        options: dict[str, Any] = json.loads((run / "options.json").read_text())
        trained_on = set(json.loads((run / "clips.json").read_text())["training"])
    except (OSError, ValueError, KeyError):
        options, trained_on = _told(provenance or {}, data), set()
    where = data or Path(options.get("data") or "")
    if data is None and not (options.get("data") and where.exists()):
        return []
    boxes, margin = _boxes(options, where), float(options.get("person_margin", MARGIN))
    found = index(
        options.get("layout", OWN),
        where,
        options.get("protocol", ""),
        part="train",
        boxes=boxes,
        margin=margin,
    )
    people = set(options.get("subjects") or ())
    clips = [
        c for c in spelled_as(found, labels) if c.label in labels and (not people or c.subject in people)
    ]
    if data is not None and not clips:
        raise DataError(
            f"{data} has no clip that {run} was trained on; give the data of its training, or none: --clips"
        )
    # What was mixed in was so whole, whoever the people of the data were.
    also = [Path(a) for a in options.get("also", ()) if Path(a).exists()]
    for each in all_mixed_in(also, margin if boxes else None):
        clips += [c for c in spelled_as(each, labels) if c.label in labels]
    # Classes that counted as idle are left out: idle would lie where a robot may be taught them.
    idle = {clean(c) for c in options.get("idle_classes", ())}
    clips = [c for c in clips if c.label not in idle]
    # A table may name the same files below another folder than when the run was trained.
    ends = {_end(name) for name in trained_on}
    known = [c for c in clips if _end(c.name) in ends]
    if not trained_on:
        known = split_validation(clips, float(options.get("val_fraction", 0)))[0]
    return _with_people_alone(known or clips, float(options.get("person_share", 0)))


def _told(provenance: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """The options of a training as far as its provenance has them: no places, so boxes are those that come with `data`.

    Without a provenance none: of runs made by other means than `gc-model train`.
    """
    options = dict(provenance.get("options") or {})
    options["subjects"] = provenance.get("subjects") or options.get("subjects")
    if data is not None and provenance.get("people"):
        published = DATA_SETS.get(options.get("layout", OWN))
        with_skeletons = published is not None and published.has_joints
        options["boxes"] = SKELETONS if with_skeletons else str(boxes_beside(data))
    return options


def _boxes(options: dict[str, Any], data: Path) -> Path | None:
    """Where the boxes of a run's people are now; None for runs that saw whole pictures, or where they are gone."""
    if not options.get("boxes"):
        return None
    boxes = Path(options["boxes"])
    places = [boxes, boxes_beside(data)]
    found = next((p for p in places if str(p) == SKELETONS or p.is_dir()), None)
    if found is None:
        logging.warning(
            "%s: the boxes of the training are gone; the statistics of the classes are of whole pictures",
            boxes,
        )
    return found


def _with_people_alone(clips: Sequence[LabelledClip], share: float) -> list[LabelledClip]:
    """The clips, that share of them showing one of their people alone, as training shows them."""
    rng = np.random.default_rng(0)
    chosen = []
    for clip in clips:
        if clip.people and (clip.apart or rng.random() < share):
            clip = replace(clip, person=clip.people[rng.integers(len(clip.people))])
        chosen.append(clip)
    return chosen


def _end(name: str) -> tuple[str, ...]:
    return Path(name).parts[-2:]


def _frames(clip: LabelledClip, info: Bundle) -> NDArray[np.uint8]:
    """What a robot would sample of the clip; the whole pictures where its person is in none of them, as in training."""
    if clip.person is not None:
        try:
            return clip_frames(clip.path, info, alone(clip.read, clip.person))
        except DataError:
            if clip.apart:
                raise
    return clip_frames(clip.path, info, clip.read)


def class_statistics(
    bundle: LoadedBundle, clips: Sequence[LabelledClip], *, progress: bool = False
) -> ClassStatistics | None:
    """From the clips' windows as a robot samples them; None, with a warning, where a class has none.

    A clip that does not decode is named and left out.
    """
    from rich.progress import track

    info = bundle.info
    order = np.random.default_rng(0).permutation(len(clips))
    share = max(WINDOWS // (WINDOWS_A_CLIP * len(info.labels)), 1)
    left = dict.fromkeys(info.labels, share)
    features, labels = [], []
    # Threads that wait for one another cost more than they bring on a machine whose every core is busy.
    engine = open_engine(bundle, "window", backend="onnxruntime", threads=max((os.cpu_count() or 1) // 2, 1))
    try:
        for i in track(order, "statistics of the classes", disable=not progress):
            clip = clips[i]
            if not left[clip.label]:
                continue
            try:
                frames = _frames(clip, info)
            except DataError as error:
                logging.warning("left out %s: %s", clip.name, error)
                continue
            left[clip.label] -= 1
            last = len(frames) - info.T
            for at in np.unique(np.linspace(0, last, WINDOWS_A_CLIP).round().astype(int)):
                out = engine.run({"frames": frames[None, at : at + info.T]})
                features.append(pool(out["embedding"][0]))
                labels.append(info.labels.index(clip.label))
    finally:
        engine.close()
    without = [label for label in info.labels if info.labels.index(label) not in labels]
    if without:
        logging.warning("no training clip of %s: the bundle will not be teachable", ", ".join(without[:3]))
        return None
    return ClassStatistics.of(np.stack(features), np.array(labels), len(info.labels))
