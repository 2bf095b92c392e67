# SPDX-License-Identifier: Apache-2.0
"""Learning curves of runs, read from the logs that training leaves in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trt_build.errors import DataError
from trt_build.files import writing_out

STAGES = {"stage1": "stage 1: trunk", "stage2": "stage 2: all", "stage3": "stage 3: streams"}
LOSSES, ACCURACIES = ("loss", "val_loss"), ("accuracy", "val_accuracy")

Curve = list[tuple[int, float]]  # (epoch from 1, value)


def read_curves(run: Path) -> dict[str, dict[str, Curve]]:
    """The curves of a run by stage and name: "loss", "accuracy", and "val_" of each where clips were held out.

    An epoch that was cut off and run again by a resumed training counts once, as it ended. Raises DataError for a
    folder without logs.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, Curve]] = {}
    for stage in STAGES:
        folder = run / stage / "log"
        if not any(folder.glob("events.out.tfevents.*")):
            continue
        log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        if "epoch" not in (tags := log.Tags()["scalars"]):
            continue
        epoch = {e.step: round(e.value) + 1 for e in log.Scalars("epoch")}
        found[stage] = {}
        for name in (*LOSSES, *ACCURACIES):
            if name in tags:
                # By time: the log's files come by name, in which the tenth writer of a second is before the ninth.
                events = sorted(log.Scalars(name), key=lambda e: e.wall_time)
                found[stage][name] = sorted(
                    {epoch[e.step]: float(e.value) for e in events if e.step in epoch}.items()
                )
    if not found:
        raise DataError(f"{run}: no logs of a training; give the folder that gc-model train wrote")
    return found


def draw_curves(runs: Sequence[Path], path: Path) -> dict[str, dict[str, dict[str, Curve]]]:
    """Draw loss and accuracy over the epochs of each stage, a colour for each run; dashed: held-out clips.

    Returns the curves by run. Raises DataError where a run has no logs or `path` cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot, which would want a display

    curves = {str(run): read_curves(run) for run in runs}
    stages = [s for s in STAGES if any(s in c for c in curves.values())]
    figure = Figure(figsize=(1 + 4.2 * len(stages), 5.6), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        for row, names in enumerate((LOSSES, ACCURACIES)):
            ax = axes[row][column]
            for number, run in enumerate(runs):
                for name, style in zip(names, ("-", "--"), strict=True):
                    points = curves[str(run)].get(stage, {}).get(name, [])
                    ax.plot(*zip(*points, strict=True), style, color=f"C{number % 10}") if points else None
            ax.grid(alpha=0.3)
            ax.set_ylabel(("loss", "accuracy")[row])
        axes[1][column].set_ylim(0, 1)
        axes[1][column].set_xlabel("epoch")
        axes[0][column].set_title(STAGES[stage], fontsize=10)
    for number, run in enumerate(runs):
        axes[0][-1].plot([], [], color=f"C{number % 10}", label=run.resolve().name)
    axes[0][-1].plot([], [], "--", color="grey", label="held-out clips")
    axes[0][-1].legend(fontsize=8)
    try:
        with writing_out(path) as part:
            figure.savefig(part, dpi=110, format="png")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None
    return curves
