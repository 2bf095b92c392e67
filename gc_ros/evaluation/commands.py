# SPDX-License-Identifier: Apache-2.0
"""`gc-ros evaluate` and `gc-ros compare`. Exit codes: 0 done, 1 a check failed, 2 wrong use or nothing evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gc_ros.recognition.smoothing import Smoothing
from trt_build.command import progress_bar
from trt_build.errors import DataError


def evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(metavar="BAG...", help="Bags, videos, folders of them, CSV tables (path,class)."),
    ],
    bundle: Annotated[
        Path, typer.Option("--bundle", "-b", help="Bundle directory made by trt-build export.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("evaluation"),
    topic: Annotated[str | None, typer.Option(help="Image topic; default: the only one.")] = None,
    stamps: Annotated[str, typer.Option(help="header, or log (time of recording).")] = "header",
    truth: Annotated[
        str,
        typer.Option(
            help="CSV file, folder of CSVs, topic:/NAME, name, none; auto: a CSV beside the bag, or its name."
        ),
    ] = "auto",
    truth_time: Annotated[
        str, typer.Option(help="Clock of the CSV: header, or bag (time of recording).")
    ] = "header",
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="TRUTH=LABEL", help="Truth's label as the bundle's, or as idle."),
    ] = None,
    min_overlap: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a window its label covers.")
    ] = 0.5,
    mode: Annotated[str | None, typer.Option(help="window or step; default: the bundle's.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Sampled frames between two results.")] = 1,
    backend: Annotated[str, typer.Option(help="Engine backend; auto: the best installed.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of an engine; default: one with several jobs.")
    ] = None,
    unknown_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the bundle's.")
    ] = None,
    max_frame_gap_s: Annotated[
        float | None, typer.Option(min=0.001, help="A longer step is a break, s.")
    ] = None,
    smoothing_tau_s: Annotated[float, typer.Option(min=0, help="As the node's parameter.")] = 0.5,
    onset_threshold: Annotated[float, typer.Option(min=0, max=1, help="As the node's parameter.")] = 0.6,
    offset_threshold: Annotated[float, typer.Option(min=0, max=1, help="As the node's parameter.")] = 0.4,
    min_duration_s: Annotated[float, typer.Option(min=0, help="As the node's parameter.")] = 0.0,
    simulate_latency: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Drop windows as a robot does whose engine call takes so long."
        ),
    ] = None,
    predictions: Annotated[
        str, typer.Option(help="predictions.mcap: beside, merged (with images), none.")
    ] = "beside",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Evaluate finished bags too.")] = False,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="Exit code 1 below it.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 for unreadable or damaged bags.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
) -> None:
    """Evaluate bags and videos with the robot's recogniser: figures, report, predictions. Needs no ROS."""
    from gc_ros.evaluation.many import evaluate_many
    from gc_ros.evaluation.options import Options
    from gc_ros.evaluation.sources import find_sources

    for name, value, choices in (
        ("stamps", stamps, ("header", "log")),
        ("truth-time", truth_time, ("header", "bag")),
        ("predictions", predictions, ("beside", "merged", "none")),
    ):
        if value not in choices:
            raise DataError(f"unknown --{name} {value!r}; use {', '.join(choices)}")
    pairs = [item.partition("=") for item in mapping or []]
    if wrong := [a for a, equals, b in pairs if not equals or not b]:
        raise DataError(f"--map {wrong[0]!r} is no TRUTH=LABEL")
    try:
        smoothing = Smoothing(smoothing_tau_s, onset_threshold, offset_threshold, min_duration_s)
    except ValueError as error:
        raise DataError(str(error)) from None
    sources = find_sources(bags)
    if threads is None and (dask is not None or (len(sources) > 1 and jobs != 1)):
        threads = 1
    options = Options(
        topic=topic,
        stamps=stamps,
        truth=truth,
        truth_time=truth_time,
        mapping={a: b for a, _, b in pairs},
        min_overlap=min_overlap,
        mode=mode,
        stride=stride,
        backend=backend,
        device=device,
        threads=threads,
        unknown_threshold=unknown_threshold,
        max_frame_gap_s=max_frame_gap_s,
        smoothing=smoothing,
        simulate_latency_s=simulate_latency,
        predictions=predictions,
    )
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(sources))
        found = evaluate_many(
            sources,
            bundle,
            out,
            options,
            jobs=jobs,
            dask=dask,
            again=again,
            said=lambda name, done, _: bar.update(task, completed=done, description=name),
            images=lambda n: bar.update(task, description=f"{n} images"),
        )
    _remarks(found.summary)
    if as_json:
        print(json.dumps(found.summary, ensure_ascii=False))
    else:
        print(_text(found.summary, out, found.resumed))
    _checks(found.summary, min_accuracy, strict)


def _remarks(summary: dict[str, Any]) -> None:
    for failure in summary["failed"]:
        typer.echo(f"error: {failure['reason']}", err=True)
    for bag in summary["bags"]:
        if bag["damage"]:
            more = f" (and {len(bag['damage']) - 1} more places)" if len(bag["damage"]) > 1 else ""
            text = f"{bag['damage'][0]}{more}; evaluated what is readable, {bag['counts']['images']} images"
            typer.echo(f"warning: {bag['name']}: {text}", err=True)
        for reason, n in bag["refused"].items():
            typer.echo(f"warning: {bag['name']}: {n} images left out: {reason}", err=True)
        if n := bag["counts"]["zero_stamps"]:
            typer.echo(
                f"warning: {bag['name']}: {n} images have no stamp, their time of recording is used", err=True
            )
        if bag["truth"] == "none":
            typer.echo(f"warning: {bag['name']}: no ground truth, predictions and statistics only", err=True)
        if not bag["counts"]["windows"]:
            text = f"no result, {bag['counts']['frames_sampled']} frames sampled do not fill a window"
            typer.echo(f"warning: {bag['name']}: {text}", err=True)
    unmapped = sorted(repr(k) for k, v in summary["result"]["mapping"].items() if v is None)
    if unmapped:
        typer.echo(
            f"warning: labels the bundle does not have: {', '.join(unmapped)}; map them with --map", err=True
        )


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _text(summary: dict[str, Any], out: Path, resumed: int) -> str:
    r, windows, events = summary["result"], summary["result"]["windows"], summary["result"]["events"]
    lines = [
        f"{r['bags']} bags ({resumed} finished before), {sum(b['counts']['windows'] for b in summary['bags'])} windows"
    ]
    if windows["windows"]:
        spread = r["intervals_95"]["accuracy"]
        between = f" (95 % over bags {spread[0]:.1%} to {spread[1]:.1%})" if spread else ""
        lines.append(f"accuracy {windows['accuracy']:.1%}{between} of {windows['windows']} scored windows")
        lines.append(
            f"balanced {_percent(windows['balanced_accuracy'])}, mAP {_percent(windows['mean_average_precision'])}, "
            f"calibration error {_percent(windows['calibration']['expected_error'])}"
        )
    if events:
        f1 = "/".join("n/a" if v is None else f"{v:.2f}" for v in events["segment_f1"].values())
        delay, false = events["onset_delay_s"]["median"], events["false_activations_per_hour"]
        lines.append(
            f"smoothed {_percent(r['smoothed']['accuracy'])}, edit {events['edit_score']:.2f}, F1@0.1/0.25/0.5 {f1}, "
            f"{events['noticed']} of {events['segments']} noticed, onset delay "
            f"{'n/a' if delay is None else f'{delay:.2f} s'}, false activations "
            f"{'n/a' if false is None else f'{false:.1f} an hour'}"
        )
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _checks(summary: dict[str, Any], min_accuracy: float | None, strict: bool) -> None:
    accuracy = summary["result"]["windows"]["accuracy"]
    if min_accuracy is not None and (accuracy is None or accuracy < min_accuracy):
        found = "there is no window with a known label" if accuracy is None else f"accuracy is {accuracy:.1%}"
        typer.echo(f"failed: {found}, --min-accuracy {min_accuracy:.1%}", err=True)
        raise typer.Exit(1)
    if strict and (summary["failed"] or any(bag["damage"] for bag in summary["bags"])):
        typer.echo("failed: there are unreadable or damaged bags (--strict)", err=True)
        raise typer.Exit(1)


def compare(
    a: Annotated[
        Path, typer.Argument(metavar="RESULT_A", help="Directory of gc-ros evaluate: what there is.")
    ],
    b: Annotated[
        Path, typer.Argument(metavar="RESULT_B", help="The same of the candidate, on the same bags.")
    ],
    changed: Annotated[int, typer.Option(min=0, help="Changed windows to list.")] = 20,
    not_worse: Annotated[
        bool, typer.Option("--not-worse", help="Exit code 1 when B is worse beyond chance.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two results on the same bags, window by window: ship the new model or not?"""
    from gc_ros.evaluation.compare import as_text
    from gc_ros.evaluation.compare import compare as compared

    found = compared(a, b)
    print(json.dumps(found, ensure_ascii=False) if as_json else as_text(found, changed))
    if not_worse and found["verdict"] == "worse":
        raise typer.Exit(1)
