# SPDX-License-Identifier: Apache-2.0
"""`gc-model train`: stage 1, calibration of D, stage 2, streams, and a run directory that can be resumed at any point.

RUN/options.json       what was asked for; clips.json: the clips it meant
RUN/cache/             decoded frames
RUN/standardised.safetensors a pretrained trunk whose Z has mean 0 and deviation 1 over the training clips
RUN/stage1.safetensors after the trunk alone; calibrated.safetensors after D; each is skipped when there
RUN/stage1/ stage2/    checkpoints after the last and the best epoch, and logs; stage3/ of the streams
RUN/model.*            the result
"""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before lightning

# isort: split
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from gc_model.data.datasets import index
from gc_model.data.frames import Clip, FrameCache, labels_of, split_validation
from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.presets import Config, preset
from gc_model.paper.variants import build
from gc_model.training import checkpoint
from gc_model.training.finetune import go_on_from
from gc_model.training.lightning_io import SafetensorsIO
from gc_model.training.loaders import STANDARDISE_CLIPS, Loaders
from gc_model.training.metric_start import standardise_trunk, start_metric
from gc_model.training.options import TrainOptions
from gc_model.training.pretrained import imagenet_file, load_imagenet
from gc_model.training.processes import accelerator, rank, tell_prepared, wait_prepared
from gc_model.training.run_directory import check_run, load_front, load_part, save_part, start_run
from gc_model.training.stages import CloudStage, Keep, Stage, TrunkStage
from gc_model.training.streams import StreamStage, check_streams, stream_accuracy
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
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

    Raises DataError for data that cannot be used, an occupied `out` without `resume`, or other options than the
    run to be resumed was started with. Clips that do not decode are left out, named and counted.
    """
    started = time.monotonic()
    keep_freed_memory(any_size=True)
    several = options.devices * options.nodes > 1
    first = not several or rank(options.devices) == 0
    if first:
        check_run(options, out, resume)
    _calm_lightning()
    torch.manual_seed(options.seed)
    clips = index(
        options.layout, options.data, options.protocol, part="train", joints=options.joints,
        subjects=options.subjects, classes=options.classes,
    )  # fmt: skip
    labels = options.classes or labels_of(clips)
    config = _config(options, len(labels))
    squares = Preprocess.model_validate({"size": config.size, "resize": config.resize, "fit": config.fit})
    cache = FrameCache(shared_cache or out / "cache", squares)
    if first:
        failed = cache.fill(clips, workers=os.cpu_count() or 1, progress=progress)
    else:
        failed = wait_prepared(out)["failed"]
    for name, reason in failed.items():
        logging.warning("left out %s: %s", name, reason)
    training, validation = _split(clips, failed, labels, options)

    model = build(config)
    own = options.start is None and config.model != "c3d"  # C3D learns from pixels, a started run has weights
    weights = None if options.from_scratch or not own else options.weights or imagenet_file(config.trunk)
    if weights:
        load_imagenet(model.trunk, weights)
    if options.start:
        go_on_from(model, labels, options.start)
    # Only now: a run that could not start must not occupy its directory.
    if first:
        start_run(options, out, training, validation)
        if several:
            tell_prepared(out, {"failed": failed})
    if config.model == "c3d":  # has no resolutions to freeze
        options = options.model_copy(update={"freeze_stages": 0, "freeze_stages2": None})
    pretrained = weights is not None or options.start is not None
    frozen = {"auto": pretrained, "frozen": True, "train": False}[options.trunk_statistics]
    data = Loaders(options, model, labels, cache, training, validation)
    model.to(accelerator())
    if weights and options.standardise and not load_part(model, out / "standardised.safetensors"):
        standardise_trunk(model, data.start_clips(STANDARDISE_CLIPS))
        if first:
            save_part(model, out / "standardised.safetensors")
    data.freeze_front(options)  # before any stage trains: a resumed run finds what it computed

    classifier: dict[str, Tensor] = {}
    if not load_part(model, out / "stage1.safetensors"):
        if first_stage is not None and first_stage.is_file():
            load_front(model, first_stage)
        elif options.epochs1 and (model.global_head is not None or not options.head_alone):
            stage1 = TrunkStage(model, options, frozen)
            _fit(stage1, data, out / "stage1", options, progress)
            classifier = {f"global_head.{k}": v for k, v in stage1.classifier.state_dict().items()}
        if first and first_stage is not None and not first_stage.is_file():
            first_stage.parent.mkdir(parents=True, exist_ok=True)
            save_part(model, first_stage, classifier)  # a global model that shares this stage keeps it
        if first:
            save_part(model, out / "stage1.safetensors")
    later = options.after_stage1
    calibrated = load_part(model, out / "calibrated.safetensors")
    if later.freeze_stages != options.freeze_stages:
        data.freeze_front(later)  # of the trunk as stage 1 left it
    if not calibrated:
        # A run that is gone on from has its D, unless the trunk before it changed.
        fits = isinstance(model, GlimpseClouds) and config.model == "clouds"
        if fits and (options.start is None or options.epochs1):
            assert isinstance(model, GlimpseClouds)
            found = start_metric(model, data.start_features())
            if first:
                (out / "calibration.json").write_text(json.dumps(found))
        if first:
            save_part(model, out / "calibrated.safetensors")
    if options.epochs2:
        _fit(CloudStage(model, later), data, out / "stage2", later, progress)
    carried = None
    if options.epochs3:
        streams = data.streams()
        _fit(StreamStage(model, later), streams, out / "stage3", later, progress)
        carried = stream_accuracy(model, streams.continuous()) if validation else None
    summary: dict[str, Any] = {
        "clips": len(training),
        "short": _shorter_than_a_window(training, cache, options.window_s, config.T),
        "validation_clips": len(validation),
        "left_out": failed,
        "labels": labels,
        "stream": carried,
        "minutes": round((time.monotonic() - started) / 60, 2),
    }
    provenance = {
        "data": options.data.resolve().name,
        "protocol": options.protocol,
        "subjects": options.subjects,
        "clips": len(training),
        "imagenet": weights.name if weights else None,
        "start": options.start.resolve().name if options.start else None,
        "stream": carried,
        "options": json.loads(options.model_dump_json(exclude={"data", "weights", "start", "joints"})),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if first:
        checkpoint.save(out, model, checkpoint.Recipe(labels, options.window_s, provenance=provenance))
    return summary


def _shorter_than_a_window(clips: Sequence[Clip], cache: FrameCache, window_s: float, T: int) -> int:
    """How many clips the robot would never have a result of: T frames at T / window_s Hz span more than they do."""
    return sum(cache.read(c).times[-1] < window_s * (T - 1) / T - 1e-3 for c in clips)


def _config(options: TrainOptions, classes: int) -> Config:
    """The network asked for: a preset's, or that of the run to go on from. Only streams teach it to carry on."""
    if options.start is not None:
        before, _ = checkpoint.read_description(options.start)
        config = replace(before, classes=classes, reset_after=before.T, **options.switches)
    else:
        config = preset(
            options.preset, classes=classes, temporal=options.temporal, fit=options.fit, **options.switches
        )
    if not options.epochs3:
        return config
    check_streams(config)
    return replace(config, reset_after=0)


def _fit(stage: Stage, data: Loaders, folder: Path, options: TrainOptions, progress: bool) -> None:
    """Run one stage to its end, from its last checkpoint where there is one; the best weights stay in its model."""
    validation = data.validation()
    stage.shown = data.shown()
    callbacks: list[pl.Callback] = [RichProgressBar()] if progress else []
    stopping = EarlyStopping("val_loss", patience=options.patience) if validation else None
    callbacks += [stopping] if stopping else []
    callbacks.append(Keep(folder, stopping))
    trainer = pl.Trainer(
        max_epochs=stage.epochs,
        accelerator="auto",
        devices=options.devices,
        num_nodes=options.nodes,
        # Stage 1 does not use the pose head where there are no joints.
        strategy="ddp_find_unused_parameters_true" if options.devices * options.nodes > 1 else "auto",
        precision=options.precision,
        callbacks=callbacks,
        plugins=[SafetensorsIO()],
        logger=TensorBoardLogger(folder, name="log", version=""),
        use_distributed_sampler=False,
        gradient_clip_val=5.0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=progress,
        log_every_n_steps=1,
    )
    last = folder / "last.ckpt"
    loader = data.train(trainer.world_size, trainer.global_rank)
    try:
        trainer.fit(stage, loader, validation, ckpt_path=str(last) if last.is_file() else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if trainer.interrupted:  # its older versions return
        raise KeyboardInterrupt
    stage.model.to(accelerator())  # Lightning leaves it on the CPU
    if validation:
        stage.load_state_dict(SafetensorsIO().load_checkpoint(folder / "best.ckpt")["state_dict"])


def _split(
    clips: Sequence[Clip], failed: Mapping[str, str], labels: Sequence[str], options: TrainOptions
) -> tuple[list[Clip], list[Clip]]:
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
    return training, validation


def _cuda() -> bool:
    return torch.cuda.is_available()


def _calm_lightning() -> None:
    for name in (
        "lightning.pytorch",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*num_workers.*|.*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    warnings.filterwarnings(
        "ignore", message=".*isinstance.treespec, LeafSpec.*"
    )  # Lightning 2.6 with torch 2.13
