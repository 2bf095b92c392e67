# SPDX-License-Identifier: Apache-2.0
"""One stage through Lightning's trainer, from its last checkpoint to its best epoch."""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before lightning

# isort: split
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from gc_model.training.lightning_io import SafetensorsIO
from gc_model.training.loaders import Loaders
from gc_model.training.options import TrainOptions
from gc_model.training.processes import accelerator
from gc_model.training.stages import Stage
from trt_build.files import NO_ROOM


def fit(stage: Stage, data: Loaders, folder: Path, options: TrainOptions, progress: bool) -> bool:
    """Run one stage to its end, from its last checkpoint if there is one; its model ends with the best weights.

    False where the stage had come to its end before.
    """
    validation = data.validation()
    stage.shown = data.shown()
    callbacks: list[pl.Callback] = [RichProgressBar()] if progress else []
    stopping = EarlyStopping("val_loss", patience=options.patience) if validation else None
    callbacks += [stopping] if stopping else []
    if options.ema:
        callbacks.append(Average(decay=options.ema))
    keep = Keep(folder, stopping)
    callbacks.append(keep)
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
        with _named(folder):
            trainer.fit(stage, loader, validation, ckpt_path=str(last) if last.is_file() else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if trainer.interrupted:  # its older versions return
        raise KeyboardInterrupt
    stage.model.to(accelerator())  # Lightning leaves it on the CPU
    if validation or not keep.epochs:
        # Of a stage that had come to its end, Lightning leaves the weights that it trained, not their average.
        kept = folder / "best.ckpt" if validation else last
        stage.load_state_dict(SafetensorsIO().load_checkpoint(kept)["state_dict"])
    return keep.epochs > 0


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """A disk without room is told once, and with the folder: TensorBoard's writer names none, and its thread prints
    a traceback before the training raises the same error.
    """
    told = threading.excepthook

    def tell(arguments: threading.ExceptHookArgs) -> None:
        if not (isinstance(arguments.exc_value, OSError) and arguments.exc_value.errno in NO_ROOM):
            told(arguments)

    threading.excepthook = tell
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, os.fspath(folder)) from None
        raise
    finally:
        threading.excepthook = told


class Average(EMAWeightAveraging):
    """The running mean of the weights; constants, the buffers that no checkpoint holds, stay what they are.

    Lightning averages all buffers. A constant then drifts by rounding, and a resumed run, which does not have the
    drift, would end with other weights.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kw: Any
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kw)
        assert self._average_model is not None
        for mean, own in zip(self._average_model.module.modules(), pl_module.modules(), strict=True):
            for name in own._non_persistent_buffers_set:
                mean.get_buffer(name).copy_(own.get_buffer(name))


class Keep(Checkpoint):
    """last.ckpt after every epoch, best.ckpt after those that improved on validation.

    Lightning's ModelCheckpoint writes the last one only when there is a new best, which may be many hours old, and
    knows its files by absolute paths, so that a run resumed in another place would forget its best.
    """

    def __init__(self, folder: Path, stopping: EarlyStopping | None):
        self.folder, self.stopping = folder, stopping
        self.epochs = 0  # of this process

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1
        # Checkpoints come after early stopping, whose count is zero where this epoch is the best.
        if self.stopping is not None and self.stopping.wait_count == 0:
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")


def calm_lightning() -> None:
    """Silence what Lightning says about choices that are deliberate here."""
    for name in (
        "lightning.pytorch",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*num_workers.*|.*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    # Lightning 2.6 with torch 2.13
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
