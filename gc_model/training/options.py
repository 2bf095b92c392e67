# SPDX-License-Identifier: Apache-2.0
"""How a model is trained: what `gc-model train` takes with `--set`, and what options.json of a run holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gc_model.data.own import joints_beside
from gc_ros.recognition.region import MARGIN
from trt_build.errors import DataError

# With so many frozen stages only the one behind the context map trains; with more, none.
LAST_STAGE_ONLY = 4


class TrainOptions(BaseModel):
    """Options of a training. The defaults suit some hundred clips and a CPU; the paper's values are noted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path
    layout: Literal["clips", "ntu", "nucla"] = "clips"
    # The --split: cross-subject or cross-view of ntu; V3, V2 or V1 of nucla. Run directories keep its former name.
    protocol: str = ""
    # Of layout "clips", as `gc-model joints` writes them; L_P and L_G need joints.
    joints: Path | None = None
    # Boxes of people, class/clip.boxes.csv, or "skeletons": from those of ntu. Then `person_share` of the samples show
    # one person, as the robot sees people, the others whole pictures; the rest is the margin of the squares, and how
    # far they vary, see `BoxAugment`.
    boxes: Path | None = None
    person_share: float = Field(default=0.8, gt=0, le=1)
    person_margin: float = Field(default=MARGIN, ge=0, le=1)
    box_scale: float = Field(default=1.2, ge=1, le=2)
    box_jitter: float = Field(default=0.03, ge=0, le=0.3)
    box_drop: float = Field(default=0.1, ge=0, lt=1)
    subjects: list[str] | None = None  # train on these people only
    # More folders or tables of clips of the same or other classes, with their `joints` if they have any; `shares` of an
    # epoch, and of the clips that streams join, are those of `data` and of each of them, None: every clip once.
    also: list[Path] = []
    shares: list[float] | None = None
    classes: list[str] | None = None
    # Classes whose clips show nothing that the model shall name: they train its class idle, by which it knows that what
    # somebody does is none of the others.
    idle_classes: list[str] = []
    preset: str = "edge"
    temporal: Literal["centered", "causal"] = "causal"  # paper: centered
    fit: Literal["stretch", "square", "pad"] = "stretch"
    weights: Path | None = None  # 2-D ImageNet checkpoint; None = what an installed package brings
    from_scratch: bool = False
    # Rows of the paper's tables, see `presets.Config`; None: as in the preset, or in the run to start from.
    model: str | None = None
    attention: str | None = None
    metric_init: str | None = None
    metric_trainable: bool | None = None
    encoding: str | None = None
    global_head: bool | None = None
    glimpses: int | None = None
    workers: int | None = None
    start: Path | None = None  # a run to start from: its network, and its weights where classes agree
    # T frames in it are 0.01 to 1000 Hz, as bundles have it.
    window_s: float = Field(default=4.0, ge=0.1, le=600)
    epochs1: int = Field(default=20, ge=0)
    epochs2: int = Field(default=20, ge=0)
    epochs3: int = Field(default=0, ge=0)  # on streams; after them the state is carried on (reset_after=0)
    stream_chunks: int = Field(default=3, ge=2, le=4)  # streams of 2 to 4 times T frames
    batch: int = Field(default=8, ge=1)  # paper: 40
    lr: float = Field(default=1e-4, gt=0)
    trunk_lr_factor: float = Field(default=1.0, gt=0)
    head_lr_factor: float = Field(default=5.0, gt=0)  # paper: 1
    weight_decay: float = Field(default=0.01, ge=0)  # paper: 0
    schedule: Literal["cosine", "constant"] = "cosine"  # paper: constant
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)  # paper: 0
    dropout: float = Field(default=0.3, ge=0, lt=1)  # before the classifier of stage 1
    # Beta(a, a) of the share that a clip keeps when another is blended or cut into it; 0: off.
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    # Chance that the trunk's last residual branch is left out of a batch, less for earlier ones.
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    # Decay of the running mean of the weights that a stage ends with; 0: its last or best weights themselves.
    ema: float = Field(default=0.0, ge=0, lt=1)
    pose_weight: float = Field(default=1.0, ge=0)
    glimpse_weight: float = Field(default=0.05, ge=0)
    # Of L_G1 relative to L_G2; less for joints that lie close together, as a hand's do.
    separation: float = Field(default=1.0, ge=0)
    # Eq 15 to the letter, one term a frame; or a term for each pair of glimpses.
    separation_form: Literal["frame", "pairs"] = "frame"
    # What moves stands for joints where a clip has none: with it L_G is on for data without joints.
    motion: bool = False
    # Chance that a training clip is grey, and that a box of it is erased.
    grey: float = Field(default=0.1, ge=0, le=1)
    erase: float = Field(default=0.0, ge=0, le=1)
    # Chance that a training clip shows one of its frames all the time, and with it that nobody does anything; takes a
    # class of such clips, `trt_build.labels.IDLE_LABELS`.
    still: float = Field(default=0.0, ge=0, lt=1)
    # Learning rate of the location layer, relative to the rest of the head.
    locate_lr_factor: float = Field(default=1.0, gt=0)
    # See gc_model.paper.presets.Config; None: as the preset has it.
    glimpse_extent: float | None = Field(default=None, ge=0, lt=1)
    least_extent: float | None = Field(default=None, ge=0, lt=1)
    alpha: float | None = Field(default=None, gt=0)
    anchor: float | None = Field(default=None, ge=0, le=1)
    tau: float | None = Field(default=None, gt=0)
    # So many of the trunk's resolutions keep their weights. With 4 only the last one trains, with 5 the head alone; in
    # both cases the frozen part is computed once for each of `views` augmented views of a clip, which saves most of
    # the time.
    freeze_stages: int = Field(default=0, ge=0, le=5)
    freeze_stages2: int | None = Field(default=None, ge=0, le=5)  # from stage 2 on; None: as in stage 1
    # From stage 2 on the classifiers alone train: what glimpses and workers do stays as it is.
    classifiers_alone: bool = False  # takes a frozen trunk
    standardise: bool = True  # channels of Z over the training clips, if a pretrained trunk allows it
    views: int = Field(default=8, ge=1)
    trunk_statistics: Literal["auto", "train", "frozen"] = "auto"  # of batch norm in stage 1
    flip: bool = True
    augment: bool = True
    scale: tuple[float, float] = (0.55, 1.1)
    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    patience: int = Field(default=10, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: int = Field(default=1, ge=1)  # GPUs (or processes, without one) of each node; more than one: DDP
    nodes: int = Field(default=1, ge=1)
    loaders: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    @property
    def after_stage1(self) -> TrainOptions:
        """The options of stage 2 and of streams."""
        stages = self.freeze_stages if self.freeze_stages2 is None else self.freeze_stages2
        return self.model_copy(update={"freeze_stages": stages})

    @property
    def head_alone(self) -> bool:
        """Whether stage 1 would train only its classifier, which a network without a global head does not keep."""
        return self.freeze_stages > LAST_STAGE_ONLY and not self.loss_weights[0] > 0

    @property
    def switches(self) -> dict[str, Any]:
        """The fields of `Config` that these options set."""
        names = (
            "model",
            "attention",
            "metric_init",
            "metric_trainable",
            "encoding",
            "global_head",
            "glimpse_extent",
            "least_extent",
            "alpha",
            "anchor",
            "tau",
        )
        asked = {n: getattr(self, n) for n in names} | {"G": self.glimpses, "C": self.workers}
        return {k: v for k, v in asked.items() if v is not None}

    @property
    def loss_weights(self) -> tuple[float, float, float]:
        """Weights of L_P, of L_G, and of L_G1 within L_G.

        All are zero for data without joints, unless what moves stands for them: L_G1 alone would drive the glimpses to
        the edges.
        """
        mixed_in = any(joints_beside(folder).is_dir() for folder in self.also)
        known = self.layout == "ntu" or self.joints is not None or mixed_in
        pose = self.pose_weight if known else 0.0
        if not (known or self.motion):
            return 0.0, 0.0, 0.0
        return pose, self.glimpse_weight, self.separation

    @model_validator(mode="after")
    def _classifiers_behind_a_frozen_trunk(self) -> TrainOptions:
        if self.classifiers_alone and self.after_stage1.freeze_stages <= LAST_STAGE_ONLY:
            raise ValueError("classifiers_alone: the trunk has to keep its weights too, add freeze_stages2=5")
        return self

    @model_validator(mode="after")
    def _one_share_a_source(self) -> TrainOptions:
        if self.shares is not None and (
            len(self.shares) != 1 + len(self.also) or min(self.shares) < 0 or not sum(self.shares) > 0
        ):
            raise ValueError("shares: give one for data and one for each of also, none below 0")
        return self

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 4:
            raise ValueError(
                f"{scale[0]:g} to {scale[1]:g} is not a range of crop sizes; the default is scale=0.55,1.1"
            )
        return scale

    @field_validator("classes", "subjects")
    @classmethod
    def _named_once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a name is listed twice; name each once")
        return names


def training_options(
    values: dict[str, Any], settings: Iterable[str] | None, also: Sequence[Path] = ()
) -> TrainOptions:
    """Options from values and from every `name=value` of `--set`, which win. Raises DataError that names the option.

    also: clips that are mixed in beside those of `--set also=`, after them.

    An option of several values takes them separated by commas, or as a JSON list for names that hold commas.
    """
    for item in settings or ():
        name, equals, value = item.partition("=")
        if not equals or name not in TrainOptions.model_fields:
            raise DataError(
                f"--set {item}: give name=value with one of {', '.join(TrainOptions.model_fields)}"
            )
        values[name] = _several(name, value) if holds_several(name) else value
    values["also"] = [*values.get("also", ()), *also]
    try:
        return TrainOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        name = str(first["loc"][0]) if first["loc"] else ""
        # A value_error is a sentence of our own, which says what to do.
        remedy = f"; {_spelling(name)}" if holds_several(name) and first["type"] != "value_error" else ""
        raise DataError(f"{where + ': ' if where else ''}{message}{remedy}") from None


def holds_several(name: str) -> bool:
    """Whether the option `name` is a list or a range."""
    field = TrainOptions.model_fields.get(name)
    return field is not None and any(get_origin(kind) in (list, tuple) for kind in _kinds(field.annotation))


def _several(name: str, text: str) -> list[Any]:
    """The values in `a,b`, or in a JSON list."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        found: list[Any] = json.loads(text)
    except ValueError as error:
        raise DataError(f"--set {name}={text}: not JSON ({error}); {_spelling(name)}") from None
    return found


def _spelling(name: str) -> str:
    """How to type an option of several values."""
    field = TrainOptions.model_fields[name]
    if isinstance(field.default, tuple):
        example = ",".join(f"{value:g}" for value in field.default)
    else:
        numbers = any(float in get_args(kind) for kind in _kinds(field.annotation))
        example = "0.6,0.4" if numbers else "a,b"
    return f"separate the values by commas, as in --set {name}={example}"


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The parts of `annotation`, a type or several joined by |."""
    return annotation, *get_args(annotation)
