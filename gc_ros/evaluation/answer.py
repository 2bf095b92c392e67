# SPDX-License-Identifier: Apache-2.0
"""The answer of `gc-ros evaluate` on the terminal: warnings, the figures in a few lines, and failed checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from trt_build.command import counted


def remarks(summary: dict[str, Any]) -> None:
    """Print errors for bags without result and warnings for the others on stderr."""
    for failure in summary["failed"]:
        typer.echo(f"error: {failure['reason']}", err=True)
    for bag in summary["bags"]:
        if bag["damage"]:
            more = f" (and {len(bag['damage']) - 1} more places)" if len(bag["damage"]) > 1 else ""
            text = f"{bag['damage'][0]}{more}; evaluated what is readable, {counted(bag['counts']['images'], 'image')}"
            typer.echo(f"warning: {bag['name']}: {text}", err=True)
        for reason, n in bag["refused"].items():
            typer.echo(f"warning: {bag['name']}: {counted(n, 'image')} left out: {reason}", err=True)
        if n := bag["counts"]["zero_stamps"]:
            typer.echo(
                f"warning: {bag['name']}: {counted(n, 'image')} without a stamp, for which the time of "
                f"recording is used",
                err=True,
            )
        if bag["truth_remark"]:
            ending = "; not scored" if bag["truth"] == "none" else ""
            typer.echo(f"warning: {bag['name']}: {bag['truth_remark']}{ending}", err=True)
        elif bag["truth"] == "none":
            typer.echo(f"warning: {bag['name']}: no ground truth, predictions and statistics only", err=True)
        if n := bag["counts"]["frames_dropped"].get("duplicate", 0):
            typer.echo(f"warning: {bag['name']}: {_repeated(n, bag, summary)}", err=True)
        if not bag["counts"]["windows"]:
            text = f"no result, {bag['counts']['frames_sampled']} frames sampled do not fill a window"
            typer.echo(f"warning: {bag['name']}: {text}", err=True)
    unmapped = sorted(repr(k) for k, v in summary["result"]["mapping"].items() if v is None)
    if unmapped:
        typer.echo(
            f"warning: labels the bundle does not have: {', '.join(unmapped)}; map them with --map", err=True
        )


def _repeated(n: int, bag: dict[str, Any], summary: dict[str, Any]) -> str:
    text = f"{n} of {counted(bag['counts']['images'], 'image')} dropped because their stamp came already"
    if bag["topic"] and summary["provenance"]["options"]["stamps"] == "header":
        text += "; --stamps log takes the time of recording instead"
    return text


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def as_text(summary: dict[str, Any], out: Path, resumed: int) -> str:
    """The figures as lines for a terminal; resumed: how many bags were finished before."""
    r, windows, events = summary["result"], summary["result"]["windows"], summary["result"]["events"]
    lines = [
        f"{counted(r['bags'], 'bag')} ({resumed} finished before), "
        f"{counted(sum(b['counts']['windows'] for b in summary['bags']), 'window')}"
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
    if people := r.get("people"):
        found = people["frame_map"]
        lines.append(
            f"{counted(len(people['persons']), 'person', 'people')}, frame mAP at overlap 0.5 "
            f"{_percent(found['mean'])}, "
            f"{sum(c['missed'] for c in found['per_class'].values())} of "
            f"{sum(c['true'] for c in found['per_class'].values())} missed"
        )
        lines += [f"left out: {reason}: {n}" for reason, n in people["left_out"].items()]
    made = summary["provenance"]
    lines.append(f"bundle {made['bundle']}, sha256 {made['bundle_json_sha256']}")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def checks(summary: dict[str, Any], min_accuracy: float | None, strict: bool) -> None:
    """Exit with 1 below `min_accuracy`, and with `strict` for bags that are unreadable, damaged or not scored."""
    accuracy = summary["result"]["windows"]["accuracy"]
    if min_accuracy is not None and (accuracy is None or accuracy < min_accuracy):
        found = "there is no window with a known label" if accuracy is None else f"accuracy is {accuracy:.1%}"
        typer.echo(f"failed: {found}, --min-accuracy {min_accuracy:.1%}", err=True)
        raise typer.Exit(1)
    unfit = [
        bag for bag in summary["bags"] if bag["damage"] or (bag["truth_remark"] and bag["truth"] == "none")
    ]
    if strict and (summary["failed"] or unfit):
        typer.echo(
            "failed: there are unreadable or damaged bags, or a truth of another bag (--strict)", err=True
        )
        raise typer.Exit(1)
