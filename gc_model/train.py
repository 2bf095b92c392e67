# SPDX-License-Identifier: Apache-2.0
"""`gc-model train`: stage 1, calibration of D, stage 2, streams, and a run directory that can be resumed at any point.

    RUN/options.json       what was asked for; clips.json: the clips it meant
    RUN/cache/             decoded frames
    RUN/stage1.safetensors after the trunk alone; calibrated.safetensors after D; each is skipped when there
    RUN/stage1/ stage2/    checkpoints after the last and the best epoch, and logs; stage3/ of the streams
    RUN/model.*            the result

Every file appears under its name when it is whole.
"""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before lightning

# isort: split
import copy
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from gc_model import checkpoint
from gc_model.augment import Augment
from gc_model.calibrate import calibrate_metric
from gc_model.clips import Clip, FrameCache, labels_of, split_validation
from gc_model.dataset import EpochSampler, FrozenFront, TestClips, TrainingClips
from gc_model.finetune import go_on_from
from gc_model.layouts import index
from gc_model.lightning_io import SafetensorsIO
from gc_model.model import GlimpseClouds
from gc_model.network import Network
from gc_model.options import TrainOptions
from gc_model.presets import Config, preset
from gc_model.pretrained import imagenet_file, load_imagenet
from gc_model.processes import rank, tell_prepared, wait_prepared
from gc_model.streaming import HeldOutStreams, StreamClips, StreamStage, check_streams, stream_accuracy
from gc_model.training import CloudStage, Keep, Stage, TrunkStage
from gc_model.variants import build
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.heap import keep_freed_memory

CALIBRATION_CLIPS = 256
LAST_STAGE_ONLY = 4  # this many frozen stages leave only the one behind the context map to train


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
        _check_run(options, out, resume)
    _calm_lightning()
    torch.manual_seed(options.seed)
    clips = index(
        options.layout, options.data, options.protocol, part="train", subjects=options.subjects, classes=options.classes
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
        _start_run(options, out, training, validation)
        if several:
            tell_prepared(out, {"failed": failed})
    if config.model == "c3d":  # has no resolutions to freeze
        options = options.model_copy(update={"freeze_stages": 0})
    pretrained = weights is not None or options.start is not None
    frozen = {"auto": pretrained, "frozen": True, "train": False}[options.trunk_statistics]
    data = _Data(options, model, labels, cache, training, validation)

    if not _load_part(model, out / "stage1.safetensors"):
        if first_stage is not None and first_stage.is_file():
            _load_front(model, first_stage)
        elif options.epochs1:
            _fit(TrunkStage(model, options, frozen), data, out / "stage1", options, progress)
        if first and first_stage is not None and not first_stage.is_file():
            first_stage.parent.mkdir(parents=True, exist_ok=True)
            _save_part(model, first_stage)
        if first:
            _save_part(model, out / "stage1.safetensors")
    if not _load_part(model, out / "calibrated.safetensors"):
        # A run that is gone on from has its D, unless the trunk before it changed.
        fits = isinstance(model, GlimpseClouds) and config.model == "clouds"
        if fits and (options.start is None or options.epochs1):
            assert isinstance(model, GlimpseClouds)
            found = calibrate_metric(model, data.calibration())
            if first:
                (out / "calibration.json").write_text(json.dumps(found))
        if first:
            _save_part(model, out / "calibrated.safetensors")
    if options.epochs2:
        _fit(CloudStage(model, options), data, out / "stage2", options, progress)
    carried = None
    if options.epochs3:
        streams = data.streams()
        _fit(StreamStage(model, options), streams, out / "stage3", options, progress)
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
        "options": json.loads(options.model_dump_json(exclude={"data", "weights", "start"})),
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
        before, _ = checkpoint.describe(options.start)
        config = replace(before, classes=classes, reset_after=before.T, **options.switches)
    else:
        config = preset(
            options.preset, classes=classes, temporal=options.temporal, fit=options.fit, **options.switches
        )
    if not options.epochs3:
        return config
    check_streams(config)
    return replace(config, reset_after=0)


class _Data:
    """The loaders of one run."""

    def __init__(
        self,
        options: TrainOptions,
        model: Network,
        labels: Sequence[str],
        cache: FrameCache,
        training: Sequence[Clip],
        validation: Sequence[Clip],
    ):
        self.options = options
        config = model.config
        size, resize = config.size, config.resize
        augment = (
            Augment(scale=options.scale, flip=options.flip)
            if options.augment
            else Augment.paper(size, resize)
        )
        self.plain = TrainingClips(training, labels, cache, config, options.window_s, augment, options.seed)
        self.samples: TrainingClips | FrozenFront | StreamClips = self.plain
        self.fixed = TestClips(training, labels, cache, config, sub_sequences=1)
        self.held_out: TestClips | FrozenFront | HeldOutStreams | None = (
            TestClips(validation, labels, cache, config) if validation else None
        )
        self.middles = TestClips(validation, labels, cache, config, sub_sequences=1)
        if options.freeze_stages == LAST_STAGE_ONLY:
            number = rank(options.devices)
            mine = f".{number}" if number else ""  # processes do not write into each other's file
            self.samples = FrozenFront(self.plain, model, cache.folder / f"maps.train{mine}", options.views)
            if isinstance(self.held_out, TestClips):
                self.held_out = FrozenFront(self.held_out, model, cache.folder / f"maps.val{mine}", 0)

    def streams(self) -> _Data:
        """The same clips one after the other."""
        other = copy.copy(self)
        other.samples = StreamClips(self.plain, self.options.stream_chunks)
        other.held_out = HeldOutStreams(self.middles, self.options.seed) if len(self.middles) else None
        return other

    def continuous(self) -> Iterator[tuple[Tensor, int]]:
        """The held-out clips (T, 3, S, S) in a drawn order that is always the same, with their labels."""
        for i in np.random.default_rng(self.options.seed).permutation(len(self.middles)):
            sample = self.middles[int(i)]
            yield sample["clip"][0], sample["label"]

    def train(self, world: int = 1, rank: int = 0) -> DataLoader:
        sampler = EpochSampler(len(self.samples), self.options.seed, rank, world)
        return DataLoader(
            self.samples,
            self.options.batch,
            sampler=sampler,
            num_workers=0 if isinstance(self.samples, FrozenFront) else self.options.loaders,
            pin_memory=_cuda(),
        )

    def validation(self) -> DataLoader | None:
        return DataLoader(self.held_out, max(1, self.options.batch // 4)) if self.held_out else None

    def shown(self) -> Tensor:
        """One clip (T, 3, S, S) for pictures, a held-out one where there are any."""
        clip: Tensor = (self.middles if len(self.middles) else self.fixed)[0]["clip"][0]
        return clip

    def calibration(self) -> Iterator[Tensor]:
        chosen = range(0, len(self.fixed), max(1, len(self.fixed) // CALIBRATION_CLIPS))
        for i in chosen:
            yield self.fixed[i]["clip"]


def _fit(stage: Stage, data: _Data, folder: Path, options: TrainOptions, progress: bool) -> None:
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


def _check_run(options: TrainOptions, out: Path, resume: bool) -> None:
    """Whether `out` may be written to: new without `resume`, started with the same options with it."""
    path = out / "options.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if path.is_file():
        if not resume:
            raise DataError(f"{out} already holds a run: continue it with --resume, or choose another --out")
        try:
            before = TrainOptions.model_validate_json(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): restore it, or choose another --out") from None
        changed = [k for k, v in before if v != getattr(options, k)]
        if changed:
            raise DataError(
                f"{out} was started with other options ({', '.join(changed)}): resume with the same"
            )
        return
    if resume:
        raise DataError(f"{out} holds no run to resume: leave --resume away to start one")


def _start_run(
    options: TrainOptions, out: Path, training: Sequence[Clip], validation: Sequence[Clip]
) -> None:
    """Write down what the run is; for a resumed one, check that the clips are the same."""
    path = out / "clips.json"
    names = {"training": [c.name for c in training], "validation": [c.name for c in validation]}
    if path.is_file():
        before = json.loads(path.read_text())
        if before != names:
            found, known = ({n for part in of.values() for n in part} for of in (names, before))
            which = next(iter(sorted(found ^ known)), "another split")
            raise DataError(
                f"the clips changed since {out} was started ({which}): restore them, or start anew"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(names, indent=1))
        _write(out / "options.json", options.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): choose another --out") from None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def _save_part(model: Network, path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)
    os.replace(part, path)


def _load_front(model: Network, path: Path) -> None:
    """What stage 1 trains, from another run's."""
    kept = ("trunk.", "pose.", "global_head.")
    values = {k: v for k, v in load_file(path).items() if k.startswith(kept)}
    model.load_state_dict({k: v for k, v in values.items() if k in model.state_dict()}, strict=False)


def _load_part(model: Network, path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it to do this stage again") from None
    return True


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
