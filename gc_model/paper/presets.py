# SPDX-License-Identifier: Apache-2.0
"""Sizes of the model. No size is written anywhere but here; the symbols are the paper's.

`paper` is the published network, `edge` the same mechanisms on an EfficientNet-Lite0 trunk for robots
whose processor has no accelerator, `tiny` what the tests run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from trt_build.errors import DataError

Temporal = Literal["centered", "causal"]
Readout = Literal["mean", "last"]
Fit = Literal["stretch", "square", "pad"]

MODELS = ("clouds", "global", "glimpse_sum", "glimpse_tubes", "c3d", "frame_lstm")
SWITCHES = {
    "model": MODELS,
    "attention": ("learned", "saliency", "random", "whole"),
    "metric_init": ("covariance", "random"),
    "encoding": ("hadamard", "concat"),
}


@dataclass(frozen=True)
class Config:
    """Everything that determines the shapes and the function of a network; defaults are the paper's unless noted."""

    preset: str
    trunk: str  # timm architecture; see `gc_model.paper.inflated`
    mean: tuple[float, float, float]  # of the trunk's ImageNet training, RGB, in 0..255
    std: tuple[float, float, float]
    omega: int  # hidden size of the attention GRU
    psi: int  # hidden size of one worker GRU
    lambda_hidden: int  # hidden size of the what-where MLP Lambda
    classes: int = 60
    T: int = 8  # frames of a window
    K: int = 8  # frames the memory holds, G entries each
    G: int = 3  # glimpses a frame
    C: int = 3  # workers; independent of G
    tau: float = 4.0  # decay of the memory in frames (Eq 10)
    alpha: float = 0.5  # temperature of the soft assignment (Eq 10)
    # Weight of the first assignment in all that follow, which keeps workers apart in a stream; the paper has none, 0.
    anchor: float = 0.0
    # Half extent that glimpses start at, each at a place of its own; 0 is the paper's start, all at the whole frame.
    glimpse_extent: float = 0.0
    # Smallest half extent of a glimpse; the paper has none, 0. Without one the class loss shrinks them to points.
    least_extent: float = 0.0
    temporal: Temporal = "causal"  # the paper's is "centered", which only a window can have
    readout: Readout = "mean"  # "last" is Eq 11-12 to the letter
    reset_after: int = 8  # frames after which the state is reset to zeros; 0: it is carried on
    size: int = 224  # side of the input in pixels
    resize: int = 256  # side of the frame the input is the central crop of
    fit: Fit = "stretch"  # how a frame becomes a square: see trt_build.preprocess
    bodies: int = 2
    joints: int = 25
    trunk_args: tuple[tuple[str, Any], ...] = ()  # passed to timm.create_model
    # The rows of the paper's tables; the defaults are the paper's model.
    model: str = "clouds"  # see MODELS
    attention: str = "learned"  # "saliency": without the workers' r; "random"
    metric_init: str = "covariance"  # "random": L is drawn, not set from training clips
    metric_trainable: bool = True
    encoding: str = "hadamard"  # "concat": v = [z, Lambda(l)]
    global_head: bool = False  # average with the global model's logits
    # Channels of C3D's five groups and its two dense layers.
    c3d: tuple[int, ...] = (64, 128, 256, 512, 512, 4096)
    c3d_size: int = 112  # side of C3D's input in pixels

    def __post_init__(self) -> None:
        for name, low, high in (
            ("G", 1, 4),
            ("C", 1, 4),
            ("K", 1, 64),
            ("T", 1, 64),
            ("classes", 1, 100_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise DataError(f"{name}={value} is outside {low}..{high}")
        if not 0 <= self.glimpse_extent < 1:
            raise DataError(f"glimpse_extent={self.glimpse_extent} is outside 0..1, below 1")
        if not 0 <= self.least_extent < 1:
            raise DataError(f"least_extent={self.least_extent} is outside 0..1, below 1")
        if 0 < self.glimpse_extent <= self.least_extent:
            raise DataError(
                f"glimpses cannot start at glimpse_extent={self.glimpse_extent}, not above "
                f"least_extent={self.least_extent}"
            )
        if not 0 <= self.anchor <= 1:
            raise DataError(f"anchor={self.anchor} is outside 0..1")
        if not (self.alpha > 0 and self.tau > 0):
            raise DataError(f"alpha={self.alpha} and tau={self.tau} must be above 0")
        for name, known in SWITCHES.items():
            if getattr(self, name) not in known:
                raise DataError(f'{name}="{getattr(self, name)}": choose {", ".join(known)}')
        if self.model == "glimpse_tubes" and self.G != self.C:
            raise DataError(f"tubes have a worker each: glimpses={self.G} must equal workers={self.C}")
        if self.temporal not in ("centered", "causal"):
            raise DataError(
                f'temporal="{self.temporal}": choose "centered" (the paper) or "causal" (streams)'
            )
        if self.temporal == "centered" and self.reset_after != self.T:
            raise DataError(f"a centered trunk sees whole windows only: reset_after must be T={self.T}")
        if self.reset_after not in (0, self.T):
            raise DataError(f"reset_after={self.reset_after}: choose T={self.T} (windows) or 0 (carry on)")

    @property
    def streams(self) -> bool:
        """Whether frames can be taken one at a time: nothing looks ahead, and every frame is read."""
        return self.temporal == "causal" and self.readout == "mean" and self.model != "c3d"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, which `Config.from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise DataError(
                f"the model description has unknown fields {unknown}: written by a newer version?"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["trunk_args"] = tuple(
            (k, tuple(v) if isinstance(v, list) else v) for k, v in values.get("trunk_args", ())
        )
        return cls(**values)


IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

PRESETS: dict[str, Config] = {
    "paper": Config(
        preset="paper",
        trunk="resnet50",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        omega=1024,
        psi=512,
        lambda_hidden=256,
    ),
    # Last map 320 channels, context 112: the head shrinks by the same factor of about five.
    "edge": Config(
        preset="edge",
        trunk="tf_efficientnet_lite0",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        omega=192,
        psi=128,
        lambda_hidden=64,
        # The paper's start, all glimpses at the whole frame, leaves them there, and its even softmax gives every worker
        # the same: measured in docs/training.md.
        glimpse_extent=0.3,
        alpha=0.1,
    ),
    "tiny": Config(
        preset="tiny",
        trunk="resnet26",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        omega=16,
        psi=12,
        lambda_hidden=8,
        size=64,
        resize=72,
        trunk_args=(("layers", (1, 1, 1, 1)), ("channels", (8, 8, 16, 16))),
        c3d=(8, 16, 32, 32, 32, 64),
        c3d_size=64,
    ),
}


def has_glimpses(config: Config) -> bool:
    """Whether the network looks at parts of a frame, so that its glimpses can be measured and moved."""
    return config.G > 0 and config.model not in ("global", "c3d", "frame_lstm")


def preset(name: str, **changes: Any) -> Config:
    """The preset `name` with some fields changed, for example `temporal="centered"`.

    Raises DataError for an unknown preset.
    """
    if name not in PRESETS:
        raise DataError(f'unknown preset "{name}": choose one of {", ".join(PRESETS)}')
    return replace(PRESETS[name], **changes)
