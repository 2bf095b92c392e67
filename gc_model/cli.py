# SPDX-License-Identifier: Apache-2.0
"""`gc-model`: train, adapt, evaluate and describe models, and make synthetic people.

Torch is imported only when needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from gc_model.clip_commands import boxes, empty, joints
from gc_model.commands import (
    People,
    calibrate,
    continued,
    curves,
    finetune,
    glimpses,
    names,
    run_training,
    tell_rest,
    unpack,
)
from gc_model.paper.presets import PRESETS, preset
from gc_model.synth.cli import synth
from gc_ros.media.kinds import some
from trt_build.command import Json, command_line, counted
from trt_build.errors import DataError
from trt_build.files import demand_place, write_out

app = command_line(__doc__)
app.command()(synth)
app.command(epilog="Example: gc-model finetune run --data clips --out mine")(finetune)
app.command(epilog="Example: gc-model unpack bundles/everyday --out everyday")(unpack)
app.command(epilog="Example: gc-model calibrate run --data clips")(calibrate)
app.command(epilog="Example: gc-model joints clips --out joints --what body --boxes boxes")(joints)
app.command(epilog="Example: gc-model boxes clips --detector yolo.onnx --out boxes")(boxes)
app.command(epilog="Example: gc-model empty clips --boxes boxes --out empty")(empty)
app.command(epilog="Example: gc-model glimpses run --data clips --out glimpses.png")(glimpses)
app.command(epilog="Example: gc-model curves run --out curves.png")(curves)

Layout = Annotated[str, typer.Option(help="clips (your own), ntu or nucla.")]
Split = Annotated[
    str, typer.Option("--split", "--protocol", help="ntu: cross_subject or cross_view; nucla: V3, V2 or V1.")
]
# What may be typed for --judge, and the judge of `gc_model.evaluation.evaluate` it stands for, whose name reports bear.
JUDGE_OF = {"sub-sequences": "clips", "stream": "stream", "continuous": "continuous", "clips": "clips"}
Boxes = Annotated[
    Path | None,
    typer.Option(
        help="Folder of people's boxes, class/clip.boxes.csv; skeletons: from those of ntu. Shows people alone."
    ),
]
Classes = Annotated[str, typer.Option(help="Only these classes, separated by commas.")]


@app.command(epilog="Example: gc-model train --data clips --subjects p1,p2 --preset edge --out run")
def train(
    data: Annotated[Path, typer.Option(help="Folder class/clip, or a CSV with path,class[,subject].")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "edge",
    layout: Layout = "clips",
    split: Split = "",
    subjects: People = "",
    classes: Classes = "",
    boxes: Boxes = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another option, such as batch=16 or scale=0.7,1.2; may be repeated. A wrong name lists all.",
        ),
    ] = None,
    epochs: Annotated[str, typer.Option(help="Epochs of the two stages, as N or N1,N2.")] = "",
    weights: Annotated[Path | None, typer.Option(help="2-D ImageNet checkpoint for the trunk.")] = None,
    fit: Annotated[str, typer.Option(help="How frames become squares: stretch, square or pad.")] = "stretch",
    seed: Annotated[int, typer.Option(help="Seed of the weights, the samples and their order.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train both stages, and set the start of the metric D between them."""
    values: dict[str, Any] = {"data": data, "preset": preset, "fit": fit, "weights": weights, "seed": seed}
    values |= {
        "layout": layout,
        "protocol": split,
        "subjects": names(subjects),
        "classes": names(classes),
        "boxes": boxes,
    }
    options = _options(values, epochs, option)
    summary = run_training(options, out, resume, threads, quiet)
    typer.echo(
        f"trained on {counted(summary['clips'], 'clip')} of {counted(len(summary['labels']), 'class', 'classes')} in "
        f"{summary['minutes']} min: {out}"
    )
    tell_rest(summary, options.window_s)
    typer.echo(f"next: trt-build export {quote(str(out))} --out BUNDLE")


@app.command(epilog="Example: gc-model evaluate run --data clips --subjects p3")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory of `gc-model train`.")],
    data: Annotated[Path, typer.Option(help="Labelled clips, as for training.")],
    subjects: People = "",
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            "--protocol",
            help="sub-sequences: five fixed ones of each clip; stream: as on the robot; continuous: state carried "
            "from clip to clip. --protocol is its former name, clips that of sub-sequences.",
        ),
    ] = "sub-sequences",
    layout: Layout = "clips",
    split: Annotated[str, typer.Option(help="As for training; its test part is judged.")] = "",
    boxes: Boxes = None,
    mode: Annotated[str, typer.Option(help="window or step, for --judge stream.")] = "",
    glimpses: Annotated[
        str,
        typer.Option(
            help="learned, or whole (all see the whole frame) or random: what the glimpses' places are worth."
        ),
    ] = "learned",
    groups: Annotated[
        Path | None, typer.Option(help='JSON {"coarse": ["label", ...]}; scores are summed.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the whole report there, as JSON.")] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="Also draw the confusion matrix there, as PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy of a run on labelled clips; every clip counts."""
    from gc_model.evaluation.evaluate import EvaluateOptions
    from gc_model.evaluation.evaluate import evaluate as evaluate_run

    if judge not in JUDGE_OF:
        raise DataError(f"--judge {judge}: choose sub-sequences, stream or continuous")
    members = _read_groups(groups) if groups else None
    for file in (out, confusion):
        if file and not file.parent.is_dir():
            raise DataError(f"{file.parent}: no such directory to write {file.name} into")
        if file:
            demand_place(file)
    options = EvaluateOptions(
        data,
        layout=layout,
        split=split,
        subjects=names(subjects),
        judge=JUDGE_OF[judge],
        mode=mode or None,
        groups=members,
        glimpses=glimpses,
        boxes=boxes,
    )
    result = evaluate_run(run, options, progress=not as_json)
    if out:
        write_out(out, json.dumps(result, indent=1))
    if confusion:
        from gc_model.training.drawing import confusion_png

        confusion_png(result, confusion)
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, recall in result["per_class"].items():
        typer.echo(f"{name:24} {100 * recall:6.1f} %")
    for name, reason in result["problems"].items():
        typer.echo(f"no result for {name}: {reason}", err=True)
    if held := result.get("held"):
        typer.echo(
            f"clips without a whole window, whose last frame stood until it was full: {len(held)}", err=True
        )
    typer.echo(
        f"accuracy {100 * result['accuracy']:.1f} % of {counted(result['clips'], 'clip')}, "
        + (f"{100 * result['class_accuracy']:.1f} % by classes, " if groups else "")
        + f"mean over classes {100 * result['balanced_accuracy']:.1f} % ({JUDGE_OF[judge]})"
        + (f"; as windows {100 * result['window_accuracy']:.1f} %" if "window_accuracy" in result else "")
    )


@app.command(epilog="Example: gc-model info run")
def info(
    run: Annotated[Path | None, typer.Argument(help="Run directory; without it, the presets.")] = None,
    as_json: Json = False,
) -> None:
    """Describe a run, or each preset: sizes, parameters, labels, how it was trained."""
    from gc_model.evaluation.sizes import sizes
    from gc_model.training.checkpoint import read_description

    if run is None:
        rows: dict[str, Any] = {name: sizes(preset(name)) for name in PRESETS}
    else:
        config, recipe = read_description(run)
        rows = {"config": config.to_json(), "sizes": sizes(config), "recipe": vars(recipe)}
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for name, values in rows.items():
        typer.echo(name)
        for key, value in values.items():
            typer.echo(f"  {key:20} {value}")


def _read_groups(file: Path) -> Any:
    """The JSON value of a file of groups, checked by `report`. Raises DataError."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f'{file}: not a readable JSON file of groups ({error}); write {{"coarse": ["label"]}}'
        ) from None


def _options(values: dict[str, Any], epochs: str, settings: list[str] | None) -> Any:
    """TrainOptions of the command line. Raises DataError that names the option."""
    from gc_model.training.options import training_options

    if epochs:
        first, _, second = epochs.partition(",")
        values |= {"epochs1": first, "epochs2": second or first}
    return training_options(values, settings)


@app.command(
    epilog="Example: gc-model ablate --data ntu --layout ntu --splits cross_view --seeds 0,1,2 --out tables"
)
def ablate(
    data: Annotated[Path, typer.Option(help="The data set, as for training.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the table; the same command continues there.")
    ],
    layout: Layout = "clips",
    splits: Annotated[
        str, typer.Option("--splits", "--protocols", help="As --split of training, separated by commas.")
    ] = "",
    rows: Annotated[
        str, typer.Option(help="Rows, separated by commas; default: all. A wrong name lists them.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    subjects: People = "",
    test_subjects: Annotated[str, typer.Option(help="The people to test on, for clips of your own.")] = "",
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "edge",
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="As for training, the same in all rows; may be repeated."),
    ] = None,
    epochs: Annotated[str, typer.Option(help="Epochs of the two stages, as N or N1,N2.")] = "",
    weights: Annotated[Path | None, typer.Option(help="2-D ImageNet checkpoint for the trunk.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    as_json: Json = False,
) -> None:
    """The paper's tables on your data: a run for every row, mean and spread over seeds, next to the paper's figures."""
    people = names(test_subjects)
    if layout == "clips" and not people:
        raise DataError(
            f"--test-subjects is missing: {layout} has no --split, so say which people to test on"
        )
    values: dict[str, Any] = {"data": data, "preset": preset, "weights": weights, "layout": layout}
    base = _options(values | {"subjects": names(subjects)}, epochs, option)
    try:
        numbers = [int(s) for s in names(seeds) or ["0"]]
    except ValueError:
        raise DataError(f"--seeds {seeds}: write whole numbers separated by commas") from None

    from gc_model.evaluation.ablate import ablate as run_ablation
    from gc_model.evaluation.ablate import markdown

    if threads:
        import torch

        torch.set_num_threads(threads)
    with continued(out):
        result = run_ablation(
            base,
            out,
            rows=names(rows) or [],
            splits=names(splits) or [""],
            seeds=numbers,
            test_subjects=people,
            progress=not quiet,
            tell=lambda line: typer.echo(line, err=True),
        )
    if result:  # the other processes of a training have none
        typer.echo(json.dumps(result) if as_json else markdown(result))


@app.command(epilog="Example: gc-model prepare ntu_raw ntu --layout ntu")
def prepare(
    data: Annotated[Path, typer.Argument(help="The data set.")],
    out: Annotated[Path, typer.Argument(help="Folder to write it to; the same command continues there.")],
    layout: Layout = "clips",
    size: Annotated[int, typer.Option(help="Side of the square frames in pixels.", min=16, max=2048)] = 256,
    fit: Annotated[
        str, typer.Option(help="How frames become squares: stretch, square or pad; as in training.")
    ] = "stretch",
    workers: Annotated[int, typer.Option(help="Processes; 0: one for each core.", min=0)] = 0,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what was made of clips that are no longer in the data.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Json = False,
) -> None:
    """Rescale a data set once, in parallel. Damaged clips are named, counted and kept as they are."""
    from gc_model.data.prepare import prepare as rescale

    loud = not (quiet or as_json)
    with continued(out):
        how: dict[str, Any] = {"layout": layout, "size": size, "fit": fit, "prune": prune}
        result = rescale(data, out, workers=workers or None, progress=loud, **how)
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, reason in result["damaged"].items():
        typer.echo(f"damaged, copied as it is: {name}: {reason}", err=True)
    if gone := sorted(result["gone"]):
        kept = f"no longer in the data, and kept: {len(gone)} ({some(gone)})"
        typer.echo(f"{kept}; the same command with --prune removes them", err=True)
    typer.echo(
        f"{counted(result['clips'], 'clip')}: {result['made']} made, {result['kept']} there before, "
        f"{len(result['damaged'])} damaged: {out}"
    )


@app.command(epilog="Example: gc-model average run mine --share 0.7 --out both")
def average(
    start: Annotated[Path, typer.Argument(help="Run that a fine-tuning started from.")],
    tuned: Annotated[Path, typer.Argument(help="What came of it, with the same labels.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the fine-tuned weights.")] = 0.5,
) -> None:
    """A run between two: what a fine-tuning forgot comes back, for a part of what it learned."""
    from gc_model.training.average import average as between

    between(start, tuned, share, out)
    typer.echo(
        f"{100 * share:g} % of {tuned}, the rest of {start}: {out}; next: gc-model calibrate {quote(str(out))} "
        "--data CLIPS"
    )


def main() -> None:
    app()
