# SPDX-License-Identifier: Apache-2.0
"""Probabilities that mean what they say: temperature, calibration error and the threshold of "unknown".

All three come from single windows of validation clips, which is what the robot reports: temperature scaling and the
expected calibration error of Guo et al. (2017), and a threshold on the best probability.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_curve
from torch import Tensor

from gc_model.data.clip import LabelledClip
from gc_model.data.datasets import index
from gc_model.data.frames import decode
from gc_model.data.samples import sub_sequences
from gc_model.export.torch_engine import bundle_info
from gc_model.paper.network import Network
from gc_model.training import checkpoint
from gc_model.training.finetune import CLASSIFIERS
from gc_model.training.processes import accelerator
from trt_build.errors import DataError
from trt_build.files import demand_place, write_atomically
from trt_build.labels import IDLE_LABELS

BINS = 15
KEPT = 0.95  # share of known windows that pass the threshold where no unknown ones are given
SURE = 0.5  # and at most this: known windows alone do not tell how sure a network is of unknown ones
_LOWEST = 16.0  # that a logit of idle is lowered by: it never wins then
LEAST = 0.5  # share of known windows that pass the threshold in any case


def calibrate_run(
    run: Path,
    data: Path,
    *,
    subjects: Sequence[str] | None = None,
    unknown: Path | None = None,
    unknown_labelled: float | None = None,
    boxes: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Set the temperature and the threshold of `run` from validation clips; its export carries them on.

    Of `data` the clips are used that the run held out from training, or those of `subjects`; with `boxes` the people in
    them, as for training. unknown: clips of none of the classes; with them the threshold is where most windows of
    either kind are told apart while `LEAST` of the known pass, without them one that `KEPT` of the known windows or
    more pass, never above `SURE`. unknown_labelled: see `settle_idle`; it comes last, and the figures are those of the
    network after it. Raises DataError where no clip is left or none decodes.
    """
    model, recipe = checkpoint.load(run)
    if unknown_labelled is not None:
        _idle(run, recipe)  # before anything is computed
    demand_place(run)
    model.to(accelerator())
    clips, source = _validation(run, data, recipe, subjects, boxes)
    logits, labels, left_out = _windows(model, recipe, clips, progress)
    if not len(labels):
        raise DataError(
            f"{data}: none of the {len(clips)} validation clips gives a window; look at the first: {left_out}"
        )
    T = temperature(logits, labels)
    strange = None
    if unknown is not None:
        strange = _windows(model, recipe, index("clips", unknown), progress, labelled=False)[0]
        if not len(strange):
            raise DataError(
                f"{unknown}: no clip gives a window; give some that decode, or leave --unknown away"
            )
    threshold = open_set_threshold(_sureness(logits, T), None if strange is None else _sureness(strange, T))
    recipe = replace(recipe, temperature=T, unknown_threshold=threshold)
    settled: dict[str, Any] = {}
    if unknown is not None and strange is not None and unknown_labelled is not None:
        # May be refused: nothing is written before.
        settled = _settle(run, model, recipe, unknown, strange, unknown_labelled)
        # A bias of the classifiers is one of the logits.
        for each in (logits, strange):
            each[:, _idle(run, recipe)] -= settled["idle_lowered"]
    else:
        checkpoint.save(run, model, recipe)
    found: dict[str, Any] = {
        "source": source,
        "clips": len(clips),
        "windows": len(labels),
        "left_out": left_out,
    }
    found |= _figures(logits, labels, strange, recipe) | settled
    write_atomically(run / "confidence.json", json.dumps(found, indent=1))
    return found


def _sureness(logits: Tensor, T: float) -> Tensor:
    """The best probability of each window."""
    return torch.softmax(logits / T, 1).amax(1)


def _figures(
    logits: Tensor, labels: Tensor, strange: Tensor | None, recipe: checkpoint.Recipe
) -> dict[str, Any]:
    """How well the temperature and the threshold of `recipe` do. strange: logits of windows of none of the classes."""
    T, threshold = recipe.temperature, recipe.unknown_threshold
    before, after = torch.softmax(logits, 1), torch.softmax(logits / T, 1)
    found: dict[str, Any] = {
        "temperature": T,
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "nll": [float(F.cross_entropy(logits, labels)), float(F.cross_entropy(logits / T, labels))],
        "ece": [calibration_error(before, labels), calibration_error(after, labels)],
        "unknown_threshold": threshold,
        "known_kept": float((after.amax(1) >= threshold).double().mean()),
    }
    if strange is not None:
        found["unknown_windows"] = len(strange)
        found["unknown_refused"] = float((_sureness(strange, T) < threshold).double().mean())
    return found


def calibrate_like(run: Path, others: Sequence[Path], *, threshold: float | None = None) -> dict[str, Any]:
    """Give `run` the temperature (geometric mean) and the threshold (mean) that `calibrate_run` found for other runs.

    threshold: instead of theirs.

    For a run that was trained on everybody: the others are those of the same recipe that left people out, and were
    calibrated on these. Raises DataError where one of them was not calibrated.
    """
    found = []
    for other in others:
        try:
            values = json.loads((other / "confidence.json").read_text())
            temperature, limit = float(values["temperature"]), float(values["unknown_threshold"])
            if not (0 < temperature < math.inf and 0 <= limit <= 1):
                raise ValueError(f"a temperature of {temperature:g} and a threshold of {limit:g}")
            found.append((temperature, limit))
        except (OSError, ValueError, KeyError, TypeError) as error:
            again = f"gc-model calibrate {shlex.quote(str(other))} --data DATA --subjects OTHERS"
            raise DataError(f"{other} is not calibrated ({error}); type: {again}") from None
    T = float(np.exp(np.mean([np.log(temperature) for temperature, _ in found])))
    if threshold is None:
        threshold = float(np.mean([each for _, each in found]))
    model, recipe = checkpoint.load(run)
    checkpoint.save(run, model, replace(recipe, temperature=T, unknown_threshold=threshold))
    result: dict[str, Any] = {"source": "other runs", "runs": [other.name for other in others]}
    result |= {"temperature": T, "unknown_threshold": threshold}
    write_atomically(run / "confidence.json", json.dumps(result, indent=1))
    return result


@torch.no_grad()
def settle_idle(run: Path, unknown: Path, share: float, *, progress: bool = True) -> dict[str, Any]:
    """Lower the idle classes of a calibrated `run` until `share` of the windows of `unknown` clips carry a label.

    Of what strangers do, a network that learned idle from much takes more for idle than it should. A lower bias of idle
    (logit adjustment, Menon et al., ICLR 2021) gives that back, at the price of labels for what is none of the classes:
    `share`, from 0 to 1, is what of this price is to be paid. Accuracies that the run had noted before are forgotten.
    Raises DataError for a run without an idle class, or where more than `share` of them carry a label as it is.
    """
    model, recipe = checkpoint.load(run)
    _idle(run, recipe)  # before anything is computed
    demand_place(run)
    model.to(accelerator())
    logits = _windows(model, recipe, index("clips", unknown), progress, labelled=False)[0]
    if not len(logits):
        raise DataError(f"{unknown}: no clip gives a window; give some that decode")
    return _settle(run, model, recipe, unknown, logits, share)


@torch.no_grad()
def _settle(
    run: Path, model: Network, recipe: checkpoint.Recipe, unknown: Path, logits: Tensor, share: float
) -> dict[str, Any]:
    """`settle_idle` by the logits of the windows of `unknown`. Where it is refused, nothing is written."""
    idle = _idle(run, recipe)
    lower = idle_offset(logits, idle, recipe.temperature, recipe.unknown_threshold, share)
    if lower is None:
        as_it_is = _labelled(logits, idle, recipe.temperature, recipe.unknown_threshold)
        raise DataError(
            f"{100 * as_it_is:.1f} % of the windows of {unknown} carry a label as it is, more than {100 * share:g} %: "
            "train idle on more clips, or allow more"
        )
    if lower >= _LOWEST:
        without = _labelled(logits, idle, recipe.temperature, recipe.unknown_threshold, _LOWEST)
        raise DataError(
            f"without idle at all {100 * without:.1f} % of the windows of {unknown} carry a label: ask for less than "
            f"that, or idle would never be said"
        )
    for name, parameter in model.named_parameters():
        if name.startswith(CLASSIFIERS) and name.endswith("bias"):
            parameter[..., idle] -= lower
    if lower:
        told = checkpoint.without_figures(recipe.provenance, looks_alike=True)
        recipe = replace(recipe, provenance=told)
    checkpoint.save(run, model, recipe)
    labelled = _labelled(logits, idle, recipe.temperature, recipe.unknown_threshold, lower)
    return {"idle_lowered": lower, "unknown_windows": len(logits), "unknown_labelled": labelled}


def _idle(run: Path, recipe: checkpoint.Recipe) -> list[int]:
    """The classes that count as idle. Raises DataError where none does."""
    idle = [k for k, label in enumerate(recipe.labels) if label in IDLE_LABELS]
    if not idle:
        raise DataError(f"{run} has no class that counts as idle ({', '.join(IDLE_LABELS)}): train with one")
    return idle


def idle_offset(
    logits: Tensor, idle: Sequence[int], T: float, threshold: float, share: float
) -> float | None:
    """The most that the `idle` classes can be lowered by so that at most `share` of the windows carry a label.

    None where more than that carry one as it is, `_LOWEST` where no more than that would without idle. logits:
    (n, classes) of windows of none of the classes.
    """
    if _labelled(logits, idle, T, threshold) > share:
        return None
    if _labelled(logits, idle, T, threshold, _LOWEST) <= share:
        return _LOWEST
    lower, upper = 0.0, _LOWEST
    for _ in range(20):
        middle = (lower + upper) / 2
        too_many = _labelled(logits, idle, T, threshold, middle) > share
        lower, upper = (lower, middle) if too_many else (middle, upper)
    return lower


def _labelled(logits: Tensor, idle: Sequence[int], T: float, threshold: float, lower: float = 0.0) -> float:
    """Share of windows whose best class is sure enough and none of `idle`, where these are lowered."""
    shift = torch.zeros(logits.shape[1])
    shift[list(idle)] = lower
    best, which = torch.softmax((logits - shift) / T, 1).max(1)
    named = ~torch.isin(which, torch.tensor(idle))
    return float((named & (best >= threshold)).double().mean())


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [1/20, 20] that minimises the cross entropy of logits / T; bounded since few windows may all be right.

    logits: (n, classes). labels: (n,).
    """
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], lr=0.5, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # A weak pull to T = 1 keeps the minimum finite where every window is right.
        loss = F.cross_entropy(logits.double() / log_t.exp(), labels) + 1e-3 * log_t.square()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return float(log_t.detach().exp().clamp(1 / 20, 20))


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the best class of (n, classes), in `BINS` bins (low, high] of equal width."""
    best, classes = probabilities.double().max(1)
    bins = (best * BINS).ceil().long() - 1
    gap = (classes == labels).double() - best
    return float(torch.zeros(BINS).double().index_add(0, bins, gap).abs().sum() / len(labels))


def open_set_threshold(known: Tensor, unknown: Tensor | None) -> float:
    """The best probability from which on a window counts as known; see `calibrate_run`.

    known, unknown: (n,) best probabilities of windows of either kind.
    """
    if unknown is None:
        return min(SURE, float(torch.quantile(known.double(), 1 - KEPT, interpolation="lower")))
    scores = torch.cat([known, unknown]).double().numpy()
    target = np.r_[np.ones(len(known), int), np.zeros(len(unknown), int)]
    false, true, thresholds = roc_curve(target, scores, drop_intermediate=False)
    # Youden's J. In single precision, which decided between equally good thresholds in the runs there are.
    # Where the two can hardly be told apart, the best by it refuses nearly everything.
    useful = true >= LEAST
    best = int(np.where(useful, true.astype(np.float32) - false.astype(np.float32), -1).argmax())
    return float(np.clip(thresholds[best], 0, 1))


def _validation(
    run: Path,
    data: Path,
    recipe: checkpoint.Recipe,
    subjects: Sequence[str] | None,
    boxes: Path | None,
) -> tuple[list[LabelledClip], str]:
    trained = recipe.provenance.get("options", {})
    found = index(
        trained.get("layout", "clips"), data, trained.get("protocol", ""), subjects=subjects, boxes=boxes,
        margin=recipe.person_margin,
    )  # fmt: skip
    clips = [c.first_person for c in recipe.own(found) if c.label in recipe.labels]
    if subjects:
        if not clips:
            raise DataError(f"{data}: the people named show none of the run's classes")
        return clips, f"subjects {', '.join(subjects)}"
    try:
        names = set(json.loads((run / "clips.json").read_text())["validation"])
    except (OSError, ValueError, KeyError, TypeError):
        names = set()
    held_out = [c for c in clips if c.name in names]
    if not held_out:
        raise DataError(
            f"{run} held no clips of {data} out from training: name people that it has not seen with --subjects, or "
            "train with --set val_fraction=0.1"
        )
    return held_out, "held out"


@torch.no_grad()
def _windows(
    model: Network,
    recipe: checkpoint.Recipe,
    clips: Sequence[LabelledClip],
    progress: bool,
    *,
    labelled: bool = True,
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Logits (n, classes) and labels (n,) of the five windows of each clip, and {name: reason} of clips that fail."""
    from rich.progress import track

    preprocess = bundle_info(model.config, recipe).preprocess
    logits, labels, failed = [torch.empty(0, len(recipe.labels))], [], {}
    for clip in track(clips, "windows", disable=not progress):
        try:
            parts = sub_sequences(
                decode(clip.path, preprocess, 1e9, clip.read, clip.person).images, model.config
            )
        except DataError as error:
            failed[clip.name] = str(error)
            continue
        logits.append(model(parts).logits.float().cpu())
        labels += [recipe.labels.index(clip.label) if labelled else -1] * len(parts)
    return torch.cat(logits), torch.tensor(labels, dtype=torch.long), failed
