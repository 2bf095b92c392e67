# SPDX-License-Identifier: Apache-2.0
"""A trained model on disk: `model.safetensors` and `model.json`. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gc_model.data.clip import LabelledClip, idle_of, spelled_as
from gc_model.paper.network import Network
from gc_model.paper.presets import Config
from gc_model.paper.variants import build
from gc_ros.media.clips import clean
from gc_ros.recognition.region import margin_of
from trt_build.bundle import INFO_NAME
from trt_build.errors import DataError
from trt_build.files import replacing, write_atomically

SCHEMA = 1
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Recipe:
    """What a user of the model must know in addition to its weights.

    labels: class names in the order of the logits. window_s: seconds that the T frames of a window span, so that
    frames are sampled at T / window_s Hz. temperature and unknown_threshold: see
    `gc-model calibrate`. provenance: how the model was made.
    """

    labels: list[str]
    window_s: float = 4.0
    temperature: float = 1.0
    unknown_threshold: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def person_margin(self) -> float:
        """Of the squares around people that the model was trained on; the robot's own if it saw whole pictures."""
        return margin_of(self.provenance)

    def own(self, clips: Sequence[LabelledClip]) -> list[LabelledClip]:
        """The clips with their classes as the run has them: in its spelling; idle where its training said so."""
        options = self.provenance.get("options") or {}
        counted = {clean(c) for c in options.get("idle_classes") or ()}
        idle = idle_of(self.labels)
        named = [replace(c, label=idle) if idle and c.label in counted else c for c in clips]
        return spelled_as(named, self.labels)

    def rate_hz(self, T: int) -> float:
        return T / self.window_s


def without_figures(provenance: Mapping[str, Any], *, looks_alike: bool = False) -> dict[str, Any]:
    """The provenance of a network whose weights were changed, without what was measured on it before.

    looks_alike: whether its classifiers alone were changed, so that the figures of where it looks still hold.
    """
    kept = {name: value for name, value in provenance.items() if name not in ("stream", "glimpses")}
    if looks_alike and "glimpses" in provenance:
        kept["glimpses"] = {n: v for n, v in provenance["glimpses"].items() if n != "accuracy"}
    return kept


def save(run: Path, model: Network, recipe: Recipe) -> None:
    """Write both files, the description last; a kill leaves no half file."""
    run.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    with replacing(run / "model.safetensors", durable=True) as part:
        save_file(weights, part)
    text = json.dumps({"schema": SCHEMA, "config": model.config.to_json(), "recipe": vars(recipe)}, indent=1)
    write_atomically(run / DESCRIPTION, text, durable=True)


def load(run: Path) -> tuple[Network, Recipe]:
    """The model in evaluation mode and its recipe. Raises DataError if the run is not complete."""
    config, recipe = read_description(run)
    model = build(config)
    try:
        weights = complete(load_file(run / "model.safetensors"), model)
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise DataError(
            f"{run} has no model.safetensors: train with `gc-model train --out {quote(str(run))}`"
        ) from error
    except (SafetensorError, RuntimeError, OSError) as error:
        first = " ".join(str(error).split())[:160]
        raise DataError(
            f"{run}/model.safetensors does not fit model.json, restore or train again: {first}"
        ) from error
    if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise DataError(
            f"{run}/model.safetensors: {broken[0]} is not finite: restore it, or train again into another --out"
        )
    return model.eval(), recipe


def complete(weights: dict[str, Tensor], model: Network) -> dict[str, Tensor]:
    """The weights of a run trained before glimpses had a start of their own: it was zero."""
    start = "attention.start"
    here = model.state_dict()
    return weights | (
        {start: torch.zeros_like(here[start])} if start in here and start not in weights else {}
    )


def read_description(run: Path) -> tuple[Config, Recipe]:
    """Configuration and recipe of a trained model, without its weights. Raises DataError."""
    path = run / DESCRIPTION
    # An export once wrote a bundle into the run itself.
    if (run / INFO_NAME).is_file() and not path.is_file():
        raise DataError(
            f"{run} is a bundle, not a run: `gc-model unpack {quote(str(run))} --out RUN` makes a run of it, which "
            "this takes"
        )
    if not path.is_file():
        raise DataError(
            f"{run} holds no trained model (no model.json): `gc-model train --data ... --out {quote(str(run))}`"
        )
    try:
        values = json.loads(path.read_text())
        if values["schema"] != SCHEMA:
            raise DataError(f"{path} has schema {values['schema']}, this version reads {SCHEMA}: train again")
        config, recipe = Config.from_json(values["config"]), Recipe(**values["recipe"])
        if len(recipe.labels) != config.classes:
            raise ValueError(f"{len(recipe.labels)} labels of {config.classes} classes")
        return config, recipe
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): train again, or restore it") from error
