# SPDX-License-Identifier: Apache-2.0
"""The clips of a training run: found, decoded, and split into those to train on and those for validation."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gc_model.data.clip import (
    LabelledClip,
    PersonSource,
    as_idle,
    check_labels,
    check_named,
    labels_of,
    split_validation,
)
from gc_model.data.datasets import index
from gc_model.data.frames import FrameCache
from gc_model.data.own import all_mixed_in
from gc_model.paper.presets import Config, preset
from gc_model.training import checkpoint
from gc_model.training.options import TrainOptions
from gc_model.training.processes import wait_prepared
from gc_model.training.streams import check_streams
from gc_ros.media.clips import Clips, check_classes, clean
from trt_build.bundle import Preprocess
from trt_build.errors import DataError


@dataclass(frozen=True)
class Samples:
    """The clips of a run, decoded. failed: reason by name of those that are left out; away: of people who are.

    files: by name, what tells a clip from one that was filmed again under it. identity: a digest of them all, of the
    first process's files, since those of another machine may be copies.
    """

    config: Config
    labels: Sequence[str]
    cache: FrameCache
    training: Sequence[LabelledClip]
    validation: Sequence[LabelledClip]
    failed: Mapping[str, str]
    away: Mapping[str, str]
    files: Mapping[str, str]
    identity: str

    def shorter_than(self, window_s: float) -> int:
        """How many clips the robot would never have a result of: T frames at T / window_s Hz span more than they do."""
        T = self.config.T
        spans = (self.cache.read(c.first_person).times for c in self.training)
        return sum(times[-1] - times[0] < window_s * (T - 1) / T - 1e-3 for times in spans)


def gather(options: TrainOptions, out: Path, folder: Path, first: bool, progress: bool) -> Samples:
    """Find the clips, decode them into `folder` where they are not there yet, and split off those for validation."""
    clips = index(
        options.layout, options.data, options.protocol, part="train", joints=options.joints,
        subjects=options.subjects, classes=None if options.idle_classes or options.also else options.classes,
        boxes=options.boxes, margin=options.person_margin,
    )  # fmt: skip
    margin = options.person_margin if options.boxes is not None else None
    for k, found in enumerate(all_mixed_in(options.also, margin), 1):
        clips += [replace(c, source=k) for c in found]
    clips[:] = of_classes(clips, options)
    classes = [clean(c) for c in options.classes or ()]
    check_classes(Clips(clips, without=() if classes else clips.without), options.data)
    labels = classes + [label for label in labels_of(clips) if label not in classes]
    config = config_of(options, len(labels))
    squares = Preprocess.model_validate({"size": config.size, "resize": config.resize, "fit": config.fit})
    cache = FrameCache(folder, squares)
    told = {} if first else wait_prepared(out)
    if first:
        workers = os.cpu_count() or 1
        alone = [replace(c, name=_shown(c, p), person=p) for c in clips for p in c.people]
        away = cache.fill(alone, workers=workers, progress=progress)
        # Who cannot be shown alone leaves a clip of whole pictures.
        whole = [c for c in clips if not c.apart and (options.person_share < 1 or not _there(c, away).people)]
        failed = cache.fill(whole, workers=workers, progress=progress)
        failed |= {
            c.name: away[_shown(c, p)] for c in clips if c.apart for p in c.people if _shown(c, p) in away
        }
    else:
        failed, away = told["failed"], told["away"]
    for name, reason in failed.items():
        logging.warning("left out %s: %s", name, reason)
    clips[:] = [_there(clip, away) for clip in clips]
    training, validation = _split(clips, failed, labels, options)
    used = [*training, *validation]
    files = dict(zip((c.name for c in used), cache.identities(used), strict=True))
    identity = told.get("identity") or hashlib.sha256(" ".join(files.values()).encode()).hexdigest()[:16]
    return Samples(config, labels, cache, training, validation, failed, away, files, identity)


def of_classes(clips: Sequence[LabelledClip], options: TrainOptions) -> list[LabelledClip]:
    """The clips of the classes to learn, those of `idle_classes` as clips of idle.

    Raises DataError for a class that no clip is of, and for one that no bundle may have.
    """
    classes, idle = ([clean(c) for c in names or ()] for names in (options.classes, options.idle_classes))
    if classes:
        check_named(clips, classes)
        clips = [c for c in clips if c.label in classes + idle]
    chosen = as_idle(clips, idle)
    check_labels(chosen)
    return chosen


def _there(clip: LabelledClip, away: Mapping[str, str]) -> LabelledClip:
    """The clip with those of its people whose frames could be made; without any, it is of whole pictures."""
    return replace(clip, people=tuple(p for p in clip.people if _shown(clip, p) not in away))


def _shown(clip: LabelledClip, person: PersonSource) -> str:
    return f"{clip.name}, person {person.id}"


def config_of(options: TrainOptions, classes: int) -> Config:
    """The network asked for: a preset's, or that of the run to start from. Only streams teach it to carry its state.

    Raises DataError for what the run to start from does not have.
    """
    if options.start is not None:
        before, _ = checkpoint.read_description(options.start)
        for name in ("temporal", "fit"):
            asked = getattr(options, name)
            if name in options.model_fields_set and asked != getattr(before, name):
                raise DataError(
                    f"{name}={asked}: the network of {options.start} keeps its own, {getattr(before, name)}; leave it "
                    "away, or train a new one without start"
                )
        config = replace(before, classes=classes, reset_after=before.T, **options.switches)
    else:
        config = preset(
            options.preset, classes=classes, temporal=options.temporal, fit=options.fit, **options.switches
        )
    if not options.epochs3:
        return config
    check_streams(config)
    return replace(config, reset_after=0)


def _split(
    clips: Sequence[LabelledClip], failed: Mapping[str, str], labels: Sequence[str], options: TrainOptions
) -> tuple[list[LabelledClip], list[LabelledClip]]:
    """(training, validation) without the clips that failed. Raises DataError for a class with nothing to train on."""
    good = [c for c in clips if c.name not in failed]
    training, validation = split_validation(good, options.val_fraction)
    if without := sorted(set(labels) - {c.label for c in training}):
        if without[0] in {c.label for c in validation}:
            raise DataError(
                f'all clips of class "{without[0]}" fell to validation; add clips, or lower --set val_fraction='
            )
        reasons = [failed[c.name] for c in clips if c.label == without[0]]
        raise DataError(f'class "{without[0]}" has no clip that decodes; add one ({"; ".join(reasons[:1])})')
    for k, share in enumerate(options.shares or ()):
        if share and all(c.source != k for c in training):
            raise DataError(
                f"shares: {[options.data, *options.also][k]} has no clip to train on, so it cannot have {share:g} of "
                "an epoch; give it 0, or clips"
            )
    return training, validation
