# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a trained run on labelled clips.

Three judges: `clips`, the paper's five fixed sub-sequences of a clip, logits averaged; `stream`, where each clip
runs through the robot's own recogniser and is labelled as `gc-ros video` labels it; and `continuous`, all clips as one
stream whose state is carried from clip to clip. Every clip counts: one that does not decode is wrong and is named. A
clip shorter than a window repeats frames; `stream` repeats the last frame of one that gives no result, until the window
is full, and names it in "held".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gc_model.data.clip import LabelledClip, labels_of
from gc_model.data.datasets import index
from gc_model.evaluation.judges import CarriedState, Judge, Robot, five_sub_sequences, stored_sub_sequences
from gc_model.evaluation.report import Groups, Judged, report
from gc_model.export.torch_engine import bundle_info
from gc_model.paper.modes import ELSEWHERE, attending
from gc_model.paper.network import Network
from gc_model.paper.presets import has_glimpses
from gc_model.training import checkpoint
from gc_model.training.options import LAST_STAGE_ONLY
from gc_model.training.processes import accelerator
from gc_ros.media.clips import clean
from trt_build.bundle import Bundle
from trt_build.errors import DataError

JUDGES = ("clips", "stream", "continuous")
GLIMPSES = ("learned", *ELSEWHERE)


@dataclass(frozen=True)
class EvaluateOptions:
    """Which clips to judge, and how.

    data, layout, split: as for training; of a data set with splits the test part is judged. subjects: only these
    people. classes: only clips of these; None: all. judge: one of `JUDGES`. mode: "window" or "step" for judge
    "stream"; None: the model's default. groups: coarser classes, see `report`. cache: a folder that keeps decoded
    frames, and the features of a frozen trunk, for many evaluations of the same clips. glimpses: one of `GLIMPSES`,
    see `gc_model.paper.modes.attending`.
    boxes: of people, as for training; each clip is judged by the person whom it is about most. Not for judge "stream".
    """

    data: Path
    layout: str = "clips"
    split: str = ""
    subjects: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    judge: str = "clips"
    mode: str | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    cache: Path | None = None
    glimpses: str = "learned"
    boxes: Path | None = None


def evaluate(run: Path, options: EvaluateOptions, *, progress: bool = True) -> dict[str, Any]:
    """Judge every clip; return what `report` does.

    Judge "stream" adds "held", the clips without a whole window; "continuous" adds "window_accuracy", that of the
    same frames as windows from zeros. Raises DataError for an unknown judge or a class that the model was not
    trained on.
    """
    if options.judge not in JUDGES:
        raise DataError(f'unknown --judge "{options.judge}": choose {" or ".join(JUDGES)}')
    if options.glimpses not in GLIMPSES:
        raise DataError(f'unknown --glimpses "{options.glimpses}": choose {", ".join(GLIMPSES)}')
    if options.boxes is not None and options.judge == "stream":
        raise DataError(
            "--boxes is for --judge sub-sequences and continuous; for the robot's own way: gc-ros evaluate --people"
        )
    model, recipe = checkpoint.load(run)
    model.to(accelerator())
    if options.glimpses != "learned" and not has_glimpses(model.config):
        raise DataError(
            f"{run} is a {model.config.model} model, which has no glimpses: leave --glimpses away"
        )
    found_clips = clips_to_judge(options, recipe.person_margin)
    clips = [clip.first_person for clip in recipe.own(found_clips)]
    if strange := sorted({c.label for c in clips} - set(recipe.labels)):
        raise DataError(
            f'{options.data} has the class "{strange[0]}", which {run} was not trained on; '
            f"it knows {', '.join(recipe.labels)}"
        )
    Groups(recipe.labels, options.groups)  # its errors before the judging, not after
    info = bundle_info(model.config, recipe)
    if options.mode is not None and options.mode not in info.modes:
        raise DataError(f'mode "{options.mode}" is not one of this model: choose {" or ".join(info.modes)}')
    if options.judge == "continuous":
        clips = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    judge = _judge_for(options, model, info, recipe, clips)
    with attending(model, options.glimpses):
        judged = [_judged(judge, clip) for clip in _track(clips, progress)]
    found: dict[str, Any] = {
        "run": run.name,
        "data": options.data.resolve().name,
        "protocol": options.judge,
        "split": options.split,
        "mode": options.mode or info.default_mode,
        "glimpses": options.glimpses,
        "people": sum(clip.person is not None for clip in clips),
    }
    if isinstance(judge, CarriedState):
        found["mode"] = "carried"
        # Of the same clips as the accuracy beside it, also of those that do not decode.
        windows = [*judge.windows, *(one for one in judged if one.scores is None)]
        found["window_accuracy"] = report(windows, recipe.labels, options.groups)["accuracy"]
    if isinstance(judge, Robot):
        found["held"] = judge.held
    return found | report(judged, recipe.labels, options.groups)


def clips_to_judge(options: EvaluateOptions, margin: float) -> list[LabelledClip]:
    """The clips that the options mean; margin: around boxes of people. Raises DataError where there are none."""
    found = index(
        options.layout, options.data, options.split, part="test", subjects=options.subjects, boxes=options.boxes,
        margin=margin,
    )  # fmt: skip
    if options.classes is None:
        return found
    # Not by `index`: a run may know classes from elsewhere, of which there is no clip here.
    wanted = {clean(name) for name in options.classes}
    chosen = [clip for clip in found if clip.label in wanted]
    if not chosen:
        raise DataError(
            f"{options.data}: no clip to judge is of {', '.join(sorted(wanted))}; there are "
            + ", ".join(labels_of(found))
        )
    return chosen


def _judge_for(
    options: EvaluateOptions,
    model: Network,
    info: Bundle,
    recipe: checkpoint.Recipe,
    clips: Sequence[LabelledClip],
) -> Judge:
    if options.judge == "stream":
        return Robot(model, info, options.mode or info.default_mode)
    if options.judge == "continuous":
        return CarriedState(model, info)
    trained = {"freeze_stages": 0, "freeze_stages2": None} | recipe.provenance.get("options", {})
    first, last = trained["freeze_stages"], trained["freeze_stages2"]
    if options.cache is not None and (first if last is None else last) > LAST_STAGE_ONLY:
        return stored_sub_sequences(model, info, options.cache, clips, first == LAST_STAGE_ONLY)
    return five_sub_sequences(model, info, options.cache)


def _judged(judge: Judge, clip: LabelledClip) -> Judged:
    try:
        return Judged(clip, judge(clip))
    except DataError as error:
        return Judged(clip, None, str(error))


def _track(clips: Sequence[LabelledClip], progress: bool) -> Any:
    from rich.progress import track

    return track(clips, "evaluating", disable=not progress)
