# SPDX-License-Identifier: Apache-2.0
"""`gc-model train`: stage 1, the start of D, stage 2, streams, in a run directory that can be resumed at any point.

RUN/options.json             what was asked for; clips.json: the clips that it meant
RUN/cache/                   decoded frames
RUN/standardised.safetensors a pretrained trunk whose Z has mean 0 and deviation 1 over the training clips
RUN/stage1.safetensors       after the trunk alone; calibrated.safetensors: after D; what is there is not repeated
RUN/stage1/ stage2/ stage3/  of the trunk, of everything, of streams: the last and the best epoch's checkpoint, and logs
RUN/model.*                  the result
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.inflated import InflatedTrunk
from gc_model.paper.network import Network
from gc_model.paper.presets import Config
from gc_model.paper.variants import build
from gc_model.training import checkpoint
from gc_model.training.finetune import moved, start_from
from gc_model.training.fit import calm_lightning, fit
from gc_model.training.gathering import Samples, gather
from gc_model.training.loaders import STANDARDISE_CLIPS, Loaders
from gc_model.training.metric_start import standardise_trunk, start_metric
from gc_model.training.options import TrainOptions
from gc_model.training.pretrained import imagenet_file, load_imagenet
from gc_model.training.processes import accelerator, is_first, tell_prepared
from gc_model.training.run_directory import alone_in, check_run, load_front, load_part, save_part, start_run
from gc_model.training.stages import CloudStage, TrunkStage
from gc_model.training.streams import StreamStage, stream_accuracy
from trt_build.errors import DataError
from trt_build.files import write_atomically
from trt_build.heap import keep_freed_memory


def train(
    options: TrainOptions,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    shared_cache: Path | None = None,
    first_stage: Path | None = None,
) -> dict[str, Any]:
    """Train as `options` say into the run directory `out`. Returns a summary for the log.

    shared_cache: decoded frames that several runs share. first_stage: weights after a stage 1 that several runs share;
    the run that finds none of its clips there writes it, their digest behind its name. Raises DataError for data that
    cannot be used, an occupied `out` without `resume`, or other options than the run to be resumed was started with.
    Clips that do not decode are left out, named and counted.
    """
    several = options.devices * options.nodes > 1
    first = is_first(options.devices, options.nodes)
    with alone_in(out) if first else nullcontext():
        started = time.monotonic()
        keep_freed_memory(any_size=True)
        calm_lightning()
        if first:
            check_run(options, out, resume)
        torch.manual_seed(options.seed)
        samples = gather(options, out, shared_cache or out / "cache", first, progress)
        model, weights = _network(samples.config, options, samples.labels)
        # Only now: a run that could not start must not occupy its directory.
        if first:
            start_run(options, out, samples.training, samples.validation, samples.files)
            if several:
                told = {"failed": dict(samples.failed), "away": dict(samples.away)}
                tell_prepared(out, {**told, "identity": samples.identity})
        run = _Run(options, out, model, samples, weights, first, progress)
        run.standardise()
        # What was trained on other files of the same names is no first stage of these.
        run.stage1(first_stage and first_stage.with_stem(f"{first_stage.stem}-{samples.identity}"))
        run.start_of_D()
        run.stage2()
        carried = run.stage3()
        # A run that was finished before may have been calibrated since.
        if first and (run.trained or not (out / checkpoint.DESCRIPTION).is_file()):
            checkpoint.save(out, model, run.recipe(carried))
        return run.summary(carried) | {"minutes": round((time.monotonic() - started) / 60, 2)}


def _network(config: Config, options: TrainOptions, labels: Sequence[str]) -> tuple[Network, Path | None]:
    """The network before training, and the file of ImageNet weights that its trunk starts from, if any."""
    model = build(config)
    own = options.start is None and config.model != "c3d"  # C3D learns from pixels, a started run has weights
    weights = None if options.from_scratch or not own else options.weights or imagenet_file(config.trunk)
    if weights:
        load_imagenet(model.trunk, weights)
    elif own and not (options.from_scratch or config.trunk_args) and isinstance(model.trunk, InflatedTrunk):
        _without_weights(config, options)  # of an architecture as published
    if options.start:
        start_from(model, labels, options.start)
    return model, weights


def _without_weights(config: Config, options: TrainOptions) -> None:
    """Say that the trunk starts at random. Raises DataError where it would also stay so."""
    remedy = f"give the ImageNet weights of {config.trunk} with --weights FILE, or --set from_scratch=true"
    if options.freeze_stages or options.after_stage1.freeze_stages:
        raise DataError(f"frozen stages of a trunk with random weights see nothing: {remedy}")
    logging.getLogger(__name__).warning("the trunk starts with random weights: %s", remedy)


class _Run:
    """A run in the middle of its stages. Every method leaves its result in the network and, as a file, in `out`."""

    def __init__(
        self,
        options: TrainOptions,
        out: Path,
        model: Network,
        samples: Samples,
        weights: Path | None,
        first: bool,
        progress: bool,
    ):
        self.out, self.model, self.samples = out, model, samples
        self.weights, self.first, self.progress = weights, first, progress
        self.trained = False  # anything that was not found finished
        if samples.config.model == "c3d":  # has no resolutions to freeze
            options = options.model_copy(update={"freeze_stages": 0, "freeze_stages2": None})
        self.options, self.later = options, options.after_stage1
        self.data = Loaders(
            options, model, samples.labels, samples.cache, samples.training, samples.validation
        )
        model.to(accelerator())

    def _save(self, name: str, also: Mapping[str, Tensor] | None = None) -> None:
        if self.first:
            save_part(self.model, self.out / f"{name}.safetensors", also)

    def _load(self, name: str) -> bool:
        return load_part(self.model, self.out / f"{name}.safetensors")

    def standardise(self) -> None:
        """Z of a pretrained trunk with mean 0 and deviation 1, then what is frozen in stage 1 as stored features."""
        if self.weights and self.options.standardise and not self._load("standardised"):
            standardise_trunk(self.model, self.data.start_clips(STANDARDISE_CLIPS))
            self._save("standardised")
            self.trained = True
        self.data.freeze_front(self.options)  # before any stage trains: a resumed run finds what it computed

    def stage1(self, shared: Path | None) -> None:
        """f alone; from `shared` if that is there, into it otherwise."""
        if self._load("stage1"):
            return
        self.trained = True
        options, model = self.options, self.model
        classifier: dict[str, Tensor] = {}
        if shared is not None and shared.is_file():
            load_front(model, shared)
        elif options.epochs1 and (model.global_head is not None or not options.head_alone):
            pretrained = self.weights is not None or options.start is not None
            frozen = {"auto": pretrained, "frozen": True, "train": False}[options.trunk_statistics]
            stage = TrunkStage(model, options, frozen)
            fit(stage, self.data, self.out / "stage1", options, self.progress)
            classifier = {f"global_head.{k}": v for k, v in stage.classifier.state_dict().items()}
        if self.first and shared is not None and not shared.is_file():
            shared.parent.mkdir(parents=True, exist_ok=True)
            save_part(model, shared, classifier)  # a global model that shares this stage keeps it
        self._save("stage1")

    def start_of_D(self) -> None:
        """D and its min-max constants from training clips."""
        there = self._load("calibrated")
        if self.later.freeze_stages != self.options.freeze_stages:
            self.data.freeze_front(self.later)  # of the trunk as stage 1 left it
        if there:
            return
        self.trained = True
        # A run that starts from another has its D, unless the trunk before it or the glimpses' places changed.
        start = self.options.start
        wanted = start is None or self.options.epochs1
        if start is not None:
            wanted = wanted or moved(checkpoint.read_description(start)[0], self.model.config)
        if isinstance(self.model, GlimpseClouds) and self.model.config.model == "clouds" and wanted:
            found = start_metric(self.model, self.data.start_features())
            if self.first:
                write_atomically(self.out / "calibration.json", json.dumps(found))
        self._save("calibrated")

    def stage2(self) -> None:
        """Everything end to end."""
        if self.options.epochs2:
            stage = CloudStage(self.model, self.later)
            self.trained |= fit(stage, self.data, self.out / "stage2", self.later, self.progress)

    def stage3(self) -> dict[str, Any] | None:
        """Streams of several clips; accuracy of the held-out clips in one stream, if there are any."""
        if not self.options.epochs3:
            return None
        streams = self.data.streams()
        stage = StreamStage(self.model, self.later)
        self.trained |= fit(stage, streams, self.out / "stage3", self.later, self.progress)
        return stream_accuracy(self.model, streams.continuous()) if self.samples.validation else None

    def summary(self, carried: dict[str, Any] | None) -> dict[str, Any]:
        """What the command line says of the run."""
        samples = self.samples
        return {
            "clips": len(samples.training),
            "short": samples.shorter_than(self.options.window_s),
            "validation_clips": len(samples.validation),
            "left_out": samples.failed,
            "labels": samples.labels,
            "stream": carried,
        }

    def _people(self) -> dict[str, Any] | None:
        """What the network knows of people: the share of samples that show one alone, None for whole pictures only."""
        clips, options = self.samples.training, self.options
        known = [c for c in clips if c.people]
        if not known:
            return None
        each = Counter(c.source for c in clips)
        of_epoch = options.shares or [each[k] for k in range(1 + len(options.also))]
        # A sample of each source is any of its clips; of scenes it is never the whole picture.
        shown = sum(of_epoch[c.source] / each[c.source] * (c.apart or options.person_share) for c in known)
        share = round(shown / sum(of_epoch), 4)
        return {"share": share, "margin": options.person_margin, "clips": len(known)}

    def recipe(self, carried: dict[str, Any] | None) -> checkpoint.Recipe:
        """What is published beside the weights: nothing in it names a place on this machine."""
        options = self.options
        provenance = {
            "data": options.data.resolve().name,
            "also": [folder.resolve().name for folder in options.also],
            "protocol": options.protocol,
            "subjects": options.subjects,
            "clips": len(self.samples.training),
            "imagenet": self.weights.name if self.weights else None,
            "start": options.start.resolve().name if options.start else None,
            "stream": carried,
            "people": self._people(),
            "options": json.loads(
                options.model_dump_json(exclude={"data", "weights", "start", "joints", "boxes", "also"})
            ),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        return checkpoint.Recipe(list(self.samples.labels), options.window_s, provenance=provenance)
