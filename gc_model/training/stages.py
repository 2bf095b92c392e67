# SPDX-License-Identifier: Apache-2.0
"""The two training stages of the paper as Lightning modules (its section 4)."""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before lightning

# isort: split
import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.core.optimizer import LightningOptimizer
from timm.layers import DropPath
from torch import Tensor, nn

from gc_model.paper.losses import Weights, pose_loss, total_loss
from gc_model.paper.network import ClipResult, Network
from gc_model.paper.presets import has_glimpses
from gc_model.paper.trunk import Trunk
from gc_model.training.alive import figures
from gc_model.training.drawing import glimpse_strip
from gc_model.training.finetune import CLASSIFIERS
from gc_model.training.mixing import Mixed, mix
from gc_model.training.options import TrainOptions
from trt_build.errors import DataError


class Stage(pl.LightningModule):
    """What all stages share: optimiser, schedule, frozen parts, validation on fixed sub-sequences."""

    def __init__(self, model: Network, options: TrainOptions, epochs: int, frozen_statistics: bool):
        super().__init__()
        self.model, self.options, self.epochs = model, options, epochs
        self.frozen_statistics = frozen_statistics
        self.classifiers_alone = False
        self.shown: Tensor | None = None  # (T, 3, S, S): the clip whose glimpses are drawn into the log
        # Once: the options look on the disk for joints.
        self.weights = Weights(*options.loss_weights, options.separation_form)
        if not has_glimpses(model.config):
            self.weights = replace(self.weights, glimpse=0.0)
        freeze_stages(model, options.freeze_stages)
        set_drop_path(model.trunk, options.drop_path)

    def logits(self, Z: Tensor, c: Tensor) -> Tensor:
        """Clip logits (B, classes) from features (B, T, D, h, w) and contexts (B, T, context)."""
        raise NotImplementedError

    def features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Z and c of a batch of clips, context maps or cached features; sub-sequences of a clip join the batch axis."""
        if "Z" in batch:
            Z, c = (batch[name].to(self.model.mean.dtype) for name in ("Z", "c"))
            return Z.flatten(0, -5), c.flatten(0, -3)
        name = "maps" if "maps" in batch else "clip"
        x = batch[name]
        x = x.flatten(0, -5) if x.dim() > 5 else x
        if name == "clip":
            return self.model.features(x)
        return self.model.features_of(x.to(self.model.mean.dtype))

    def on_train_start(self) -> None:
        # A run that was killed after it had stopped early stays stopped: one more epoch would change its result.
        if any(
            isinstance(c, EarlyStopping) and c.stopped_epoch for c in self.trainer.early_stopping_callbacks
        ):
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        # A function of the epoch alone, so that a resumed run repeats exactly what an uninterrupted one does.
        factor = cosine(self.current_epoch, self.epochs) if self.options.schedule == "cosine" else 1.0
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        # Lightning leaves the mode as it is, and the start of D before stage 2 sets evaluation mode.
        self.train()
        if self.classifiers_alone:
            # The metric's running extremes stay too, and nothing is left out.
            self.model.eval()
        elif self.frozen_statistics:
            freeze_statistics(self.model.trunk)

    def train_head(self) -> None:
        """Everything behind the trunk trains, or the classifiers alone; L of the metric as the configuration says."""
        model = self.model
        self.classifiers_alone = self.options.classifiers_alone
        for parameter in model.head_parameters():
            parameter.requires_grad_(not self.classifiers_alone)
        for name, parameter in model.named_parameters():
            if name.startswith(CLASSIFIERS):
                parameter.requires_grad_(True)
            elif name.startswith("assignment.metric.L") and not model.config.metric_trainable:
                parameter.requires_grad_(False)

    def mixed(self, batch: dict[str, Tensor], index: int) -> Mixed:
        """The batch `index` of this epoch, its clips mixed as the options say; a function of both alone."""
        o = self.options
        rng = np.random.default_rng((o.seed, self.current_epoch, index, 2))
        return mix(batch, o.mixup, o.cutmix, rng)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # The draws of dropout, too, follow from the epoch alone. Not seeded at its start: the loader draws a number of
        # its own before that in the first epoch of a process, and after it in the others.
        if index == 0:
            torch.manual_seed(self.options.seed * 100_003 + self.current_epoch)

    def on_train_epoch_end(self) -> None:
        # Before a checkpoint of this epoch is written: a diverged network must not replace a good one.
        for name in ("loss", "val_loss"):
            loss = self.trainer.callback_metrics.get(name)
            if loss is not None and not torch.isfinite(loss):
                raise DataError(
                    f"training diverged: {name} of epoch {self.current_epoch + 1} is {float(loss)}; "
                    f"start again with a smaller --set lr= (it was {self.options.lr:g}) and another --out"
                )
        self.show()

    def show(self) -> None:
        """Draw into the log; stage 1 has no glimpses to draw."""

    def configure_optimizers(self) -> Any:
        trunk = [p for p in self.model.trunk.parameters() if p.requires_grad]
        of_trunk = {id(p) for p in self.model.trunk.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in of_trunk]
        lr = self.options.lr
        head = lr * self.options.head_lr_factor
        locate = [
            p
            for n, p in self.named_parameters()
            if p.requires_grad and ("attention.locate" in n or "attention.start" in n)
        ]
        of_locate = {id(p) for p in locate}
        groups = [
            {"params": trunk, "base_lr": lr * self.options.trunk_lr_factor},
            {"params": [p for p in rest if id(p) not in of_locate], "base_lr": head},
            {"params": locate, "base_lr": head * self.options.locate_lr_factor, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, weight_decay=self.options.weight_decay)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        labels = batch["label"]
        self.report_validation(
            self.logits(*self.features(batch)).unflatten(0, (len(labels), -1)).mean(1), labels
        )

    def report_validation(self, logits: Tensor, labels: Tensor) -> None:
        self.log(
            "val_loss", F.cross_entropy(logits, labels), prog_bar=True, batch_size=len(labels), sync_dist=True
        )
        self.log(
            "val_accuracy", accuracy(logits, labels), prog_bar=True, batch_size=len(labels), sync_dist=True
        )

    def report_clouds(self, result: ClipResult) -> None:
        """What glimpses and workers do, see `gc_model.training.alive`; nothing for a network without glimpses."""
        if not result.l.shape[2]:
            return
        for name, value in figures(result.l.detach(), result.p.detach()).items():
            self.log(
                f"clouds/{name}",
                value,
                on_epoch=True,
                on_step=False,
                batch_size=len(result.l),
                sync_dist=True,
            )

    def _report(self, terms: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        n = len(labels)
        for name, value in terms.items():
            # Synchronised, so that all processes see the same loss when it diverges.
            self.log(
                name, value.detach(), on_step=False, on_epoch=True, prog_bar=name == "loss", batch_size=n,
                sync_dist=True,
            )  # fmt: skip
        self.log(
            "accuracy", accuracy(logits, labels), on_step=False, on_epoch=True, prog_bar=True, batch_size=n,
            sync_dist=True,
        )  # fmt: skip
        return terms["loss"]


class TrunkStage(Stage):
    """Stage 1: f alone with L_D + L_P and a classifier over global average pooling."""

    def __init__(self, model: Network, options: TrainOptions, frozen_statistics: bool):
        super().__init__(model, options, options.epochs1, frozen_statistics)
        for parameter in model.head_parameters():
            parameter.requires_grad_(False)
        # A global model keeps its classifier; for the others it is removed after this stage.
        self.classifier = model.global_head or nn.Linear(model.trunk.channels, model.config.classes)
        self.classifier.requires_grad_(True)
        self.dropout = options.dropout

    def logits(self, Z: Tensor, c: Tensor) -> Tensor:
        return self.classifier(F.dropout(Z.mean((1, 3, 4)), self.dropout, self.training))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        mixed = self.mixed(batch, index)
        Z, c = self.features(mixed.batch)
        logits = self.logits(Z, c)
        terms = {"L_D": mixed.cross_entropy(logits, self.options.label_smoothing)}
        if "joints" in batch and self.weights.pose and self.model.pose is not None:
            terms["L_P"] = self.weights.pose * pose_loss(self.model.poses(c), batch["joints"])
        return self._report(terms | {"loss": torch.stack(list(terms.values())).sum()}, logits, batch["label"])


class CloudStage(Stage):
    """Stage 2: everything end to end with L; the trunk's batch-norm statistics stay, its weights train."""

    def __init__(self, model: Network, options: TrainOptions):
        super().__init__(model, options, options.epochs2, frozen_statistics=True)
        self.train_head()

    def logits(self, Z: Tensor, c: Tensor) -> Tensor:
        return self.model.fold(Z, c)[0].logits

    @torch.no_grad()
    def show(self) -> None:
        board: Any = getattr(self.logger, "experiment", None)
        if self.shown is None or not hasattr(board, "add_image") or not self.trainer.is_global_zero:
            return
        self.model.eval()  # until the next epoch starts, which sets the mode
        l = self.model(self.shown[None].to(self.device)).l[0]
        if l.shape[1]:
            frames = self.shown.permute(0, 2, 3, 1).cpu().numpy()
            strip = glimpse_strip(frames, l.float().cpu().numpy())
            board.add_image("glimpses", strip, self.current_epoch, dataformats="HWC")

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        mixed = self.mixed(batch, index)
        result, _state = self.model.fold(*self.features(mixed.batch))
        joints = batch.get("joints") if self.model.pose is not None else None
        poses = self.model.poses(result.c) if joints is not None else None
        L_D = mixed.cross_entropy(result.logits, self.options.label_smoothing)
        terms = total_loss(L_D, result, poses, joints, self.weights, batch.get("moving"))
        self.report_clouds(result)
        return self._report(terms, result.logits, batch["label"])


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of (B, classes) whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean()


def freeze_statistics(trunk: Trunk) -> None:
    """Batch norm keeps the statistics it has; its scale and shift still train."""
    for module in trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def freeze_stages(model: Network, stages: int) -> None:
    """The stem and the first `stages` resolutions of the trunk keep their weights: less to train with few clips.

    0: all train, also those that a stage before froze.
    """
    frozen = {id(p) for p in model.trunk.first_parameters(stages)} if stages else set()
    for parameter in model.trunk.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)


def cosine(epoch: int, epochs: int) -> float:
    """Learning-rate factor: half strength for the first epoch, then half a cosine down to one hundredth."""
    if epoch == 0 and epochs > 4:
        return 0.5
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / max(epochs, 1)))


def set_drop_path(trunk: Trunk, rate: float) -> None:
    """Leave out residual branches of a timm trunk in training, with a chance that rises to `rate` at its end.

    Stochastic depth (Huang et al., 2016). Blocks that timm built without it have its place; a trunk without such blocks
    stays as it is. In evaluation nothing is left out.
    """
    if not rate:
        return
    blocks = [m for m in trunk.modules() if hasattr(m, "drop_path")]
    for i, block in enumerate(blocks):
        block.drop_path = DropPath(rate * (i + 1) / len(blocks)).train(block.training)
