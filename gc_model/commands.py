# SPDX-License-Identifier: Apache-2.0
"""Commands of `gc-model` on a run, from finetune to curves, and what they share with `train`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from trt_build.command import Json, counted
from trt_build.errors import DataError
from trt_build.files import demand_place, write_out

People = Annotated[str, typer.Option(help="Only these people, separated by commas.")]


def finetune(
    run: Annotated[Path, typer.Argument(help="Trained run to start from; it stays as it is.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder class/clip, or a CSV; classes may be new.")
    ] = None,
    taught: Annotated[
        Path | None,
        typer.Option(
            help="What a robot was taught, with the clips that gc-ros teach --keep-clips kept: also trains on them."
        ),
    ] = None,
    subjects: People = "",
    boxes: Annotated[Path | None, typer.Option(help="Folder of people's boxes, as for training.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs on windows.")] = 10,
    stream_epochs: Annotated[
        int,
        typer.Option(min=0, help="Epochs on streams; after them the state is carried on (reset_after=0)."),
    ] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="As for training; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the new read-out, the samples and their order.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a trained model further on your own clips; new classes get a new read-out."""
    from gc_model.data.clip import spelled
    from gc_model.training.checkpoint import read_description
    from gc_model.training.options import training_options
    from gc_ros.recognition.kept_clips import kept_clips

    config, recipe = read_description(run)
    shown = None if taught is None else kept_clips(taught)
    if data is None and shown is None:
        raise DataError("nothing to train on; give clips by --data, or what was taught by --taught")
    values: dict[str, Any] = {
        "data": data or shown, "start": run,
        "subjects": names(subjects), "seed": seed, "window_s": recipe.window_s,
        "boxes": boxes, "person_margin": recipe.person_margin,
        "preset": config.preset, "temporal": config.temporal, "fit": config.fit,
        "epochs1": 0, "epochs2": epochs, "epochs3": stream_epochs,
    }  # fmt: skip
    options = training_options(values, option, also=[shown] if data and shown else [])
    if options.preset != config.preset:
        raise DataError(
            f"preset={options.preset}: the network of {run} keeps its own, {config.preset}; leave it away, or train a "
            "new one: gc-model train"
        )
    summary = run_training(options, out, resume, threads, quiet)
    new = [label for label in summary["labels"] if spelled(label, recipe.labels) not in recipe.labels]
    typer.echo(
        f"fine-tuned on {counted(summary['clips'], 'clip')} of "
        f"{counted(len(summary['labels']), 'class', 'classes')} ({len(new)} of them new) in "
        f"{summary['minutes']} min: {out}"
    )
    tell_rest(summary, options.window_s)
    typer.echo(f"next: trt-build export {quote(str(out))} --out BUNDLE")


def unpack(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
) -> None:
    """The trained network of a bundle as a run: to train further, to look at, to judge."""
    from gc_model.export.unfold import unpack as unpacked

    info = unpacked(bundle, out).info
    typer.echo(
        f"{info.model_id}, {counted(len(info.labels), 'class', 'classes')}: {out}; next: gc-model finetune "
        f"{quote(str(out))} --data CLIPS "
        "--out mine"
    )


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run directory; its description is rewritten.")],
    data: Annotated[
        Path | None, typer.Option(help="Its training data, or other labelled clips with --subjects.")
    ] = None,
    subjects: Annotated[
        str, typer.Option(help="People that the run has not seen; default: held-out clips.")
    ] = "",
    unknown: Annotated[
        Path | None, typer.Option(help="Clips of none of the classes, to set the threshold.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Of the people in the clips, as for training: they are shown alone.")
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of --data: a calibrated run of the same recipe that left people out; may be repeated."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --like: unknown below this probability, whatever theirs is."),
    ] = None,
    unknown_labelled: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lower the class idle until this share of the windows of --unknown carry a label.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set the temperature and the threshold of "unknown" from validation clips; the export takes them over."""
    from gc_model.evaluation.confidence import calibrate_like, calibrate_run, settle_idle

    if unknown_labelled is not None and unknown is None:
        raise DataError(
            "--unknown-labelled counts windows of clips of none of the classes: add --unknown CLIPS"
        )
    if (data is None) == (not like) or (
        like and (subjects or boxes or (unknown is not None and unknown_labelled is None))
    ):
        raise DataError("give either --data (with --subjects and --unknown, where wanted) or --like RUN")
    if data is not None and threshold is not None:
        raise DataError("--threshold goes with --like; from --data the threshold is measured")
    if data is None:
        found = calibrate_like(run, like or [], threshold=threshold)
        if unknown_labelled is not None and unknown is not None:
            found |= settle_idle(run, unknown, unknown_labelled, progress=not as_json)
    else:
        found = calibrate_run(
            run, data, subjects=names(subjects), unknown=unknown, unknown_labelled=unknown_labelled, boxes=boxes,
            progress=not as_json,
        )  # fmt: skip
    _tell_calibration(found, as_json)


def _tell_calibration(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    if "idle_lowered" in found:
        typer.echo(
            f"idle lowered by {found['idle_lowered']:.3f}: {100 * found['unknown_labelled']:.1f} % of "
            f"{found['unknown_windows']} unknown windows carry a label"
        )
    if "runs" in found:
        typer.echo(
            f"temperature {found['temperature']:.3f}, unknown below {found['unknown_threshold']:.3f}, "
            f"as of {', '.join(found['runs'])}"
        )
        return
    for name, reason in found["left_out"].items():
        typer.echo(f"left out {name}: {reason}", err=True)
    typer.echo(
        f"temperature {found['temperature']:.3f}, calibration error {100 * found['ece'][0]:.1f} % -> "
        f"{100 * found['ece'][1]:.1f} % on {counted(found['windows'], 'window')} of "
        f"{counted(found['clips'], 'clip')} ({found['source']})"
    )
    refused = found.get("unknown_refused")
    others = "" if refused is None else f", refuses {100 * refused:.1f} % of the unknown"
    typer.echo(
        f"unknown below {found['unknown_threshold']:.3f}: keeps {100 * found['known_kept']:.1f} % of the known{others}"
    )


def glimpses(
    run: Annotated[Path, typer.Argument(help="Trained run.")],
    data: Annotated[Path, typer.Option(help="Clips to look at, or a data set.")],
    out: Annotated[Path, typer.Option(help="PNG: frames of some clips with the glimpses in their colours.")],
    layout: Annotated[str, typer.Option(help="clips (your own), ntu or nucla.")] = "clips",
    split: Annotated[str, typer.Option(help="As for training; clips of its test part are taken.")] = "",
    subjects: People = "",
    joints: Annotated[
        Path | None, typer.Option(help="Joints of your own clips, as `gc-model joints` writes them.")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="Another run, a global model say, to compare the accuracy with.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=50, help="Number of clips in the picture.")] = 4,
    as_json: Json = False,
) -> None:
    """Whether the glimpses are awake, in figures, and Figure 3 of the paper; the export takes the figures over."""
    import cv2

    from gc_model.evaluation.glimpses import keep, look
    from gc_model.training.alive import table

    if not out.parent.is_dir() or out.suffix != ".png":
        raise DataError(f"{out}: give the name of a .png in a folder that exists")
    demand_place(out)
    found, picture = look(
        run, data, layout=layout, split=split, subjects=names(subjects), joints=joints, beside=beside,
        rows=rows, progress=not as_json,
    )  # fmt: skip
    # Not by imwrite, which removes on a full disk what was there before.
    write_out(out, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    try:
        keep(run, found)
    except OSError as error:
        typer.echo(f"{run}: its figures cannot be kept there ({error.strerror or error})", err=True)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, reason in found["left_out"].items():
        typer.echo(f"left out {name}: {reason}", err=True)
    lines = table(found)
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, (*widths, 0), strict=True)]
        typer.echo("  ".join(cells))
    typer.echo(
        f"{counted(found['clips'], 'clip')} of {found['data']}; {out}: {found['rows']} of them, "
        "glimpse 1 red, 2 green, 3 blue, 4 yellow"
    )


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, in one picture.")],
    out: Annotated[Path, typer.Option(help="PNG: loss and accuracy over the epochs of every stage.")],
    as_json: Json = False,
) -> None:
    """Learning curves of runs, finished or not; TensorBoard shows the same logs live."""
    from gc_model.evaluation.curves import draw_curves

    if not out.parent.is_dir() or out.suffix != ".png":
        raise DataError(f"{out}: give the name of a .png in a folder that exists")
    found = draw_curves(runs, out)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for run, stages in found.items():
        for stage, lines in stages.items():
            last = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in lines.items() if points)
            epochs = max((points[-1][0] for points in lines.values() if points), default=0)
            typer.echo(f"{run} {stage}, {counted(epochs, 'epoch')}: {last}")
    typer.echo(f"{out}")


def names(text: str) -> list[str] | None:
    """`a,b` as a list; None for an empty text."""
    return [part.strip() for part in text.split(",") if part.strip()] or None


@contextmanager
def continued(out: Path, by: str = "the same command") -> Iterator[None]:
    """Where Ctrl-C ends the block: exit code 130, and a line that says what goes on with `out`."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {by} continues {out}", err=True)
        raise typer.Exit(130) from None


def run_training(options: Any, out: Path, resume: bool, threads: int, quiet: bool) -> dict[str, Any]:
    """Train; after an interruption end with exit code 130 and the next command."""
    from gc_model.training.train import train

    if threads:
        import torch

        torch.set_num_threads(threads)
    with continued(out, "the same command with --resume"):
        return train(options, out, resume=resume, progress=not quiet)


def tell_rest(summary: dict[str, Any], window_s: float) -> None:
    """Print what a training reports only in some cases: streams, short clips, clips left out."""
    found = summary["stream"]
    if found and found["clips"]:
        typer.echo(
            f"{found['clips']} held-out clips in one stream: {100 * found['carried']:.1f} % by carried state, "
            f"{100 * found['window']:.1f} % by windows"
        )
    if summary["short"]:
        typer.echo(
            f"{summary['short']} of these clips are shorter than the window of {window_s:g} s: on a robot such "
            "an activity gives no result; a smaller --set window_s= covers it"
        )
    if left_out := summary["left_out"]:
        typer.echo(f"left out {counted(len(left_out), 'clip')} that do not decode: {', '.join(left_out)}")
