# SPDX-License-Identifier: Apache-2.0
"""How a model is trained: what `gc-model train` takes and writes into the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrainOptions(BaseModel):
    """Defaults suit some hundred clips of one's own on a CPU; the paper's values are named where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    subjects: list[str] | None = None  # train on these people only
    classes: list[str] | None = None
    preset: str = "edge"
    temporal: Literal["centered", "causal"] = "causal"  # paper: centered
    fit: Literal["stretch", "square", "pad"] = "stretch"
    weights: Path | None = None  # 2-D ImageNet checkpoint; None = what an installed package brings
    from_scratch: bool = False
    window_s: float = Field(default=4.0, gt=0)
    epochs1: int = Field(default=20, ge=0)
    epochs2: int = Field(default=20, ge=0)
    batch: int = Field(default=8, ge=1)  # paper: 40
    lr: float = Field(default=1e-4, gt=0)
    trunk_lr_factor: float = Field(default=1.0, gt=0)
    head_lr_factor: float = Field(default=5.0, gt=0)  # paper: 1
    weight_decay: float = Field(default=0.01, ge=0)  # paper: 0
    schedule: Literal["cosine", "constant"] = "cosine"  # paper: constant
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)  # paper: 0
    dropout: float = Field(default=0.3, ge=0, lt=1)  # before the classifier of stage 1
    pose_weight: float = Field(default=1.0, ge=0)
    glimpse_weight: float = Field(default=0.05, ge=0)
    # The first resolutions of the trunk keep their weights. With 4 only the last stage trains, and what comes before
    # it is computed once for each of `views` augmented views of a clip: a fifth of the time.
    freeze_stages: int = Field(default=0, ge=0, le=4)
    views: int = Field(default=8, ge=1)
    trunk_statistics: Literal["auto", "train", "frozen"] = "auto"  # of batch norm in stage 1
    flip: bool = True
    augment: bool = True
    scale: tuple[float, float] = (0.55, 1.1)
    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    patience: int = Field(default=10, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    loaders: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 4:
            raise ValueError(
                f"{scale[0]:g} to {scale[1]:g} is no range of crop sizes; the default is 0.55 to 1.1"
            )
        return scale

    @field_validator("classes", "subjects")
    @classmethod
    def _named_once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a name is listed twice; name each once")
        return names
