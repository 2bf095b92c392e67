# SPDX-License-Identifier: Apache-2.0
"""`gc-model synth`, also `python -m gc_model.synth`: write a data set or scenes of synthetic people."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gc_model.synth.activities import ACTIVITIES
from gc_model.synth.dataset import LAYOUTS, synthesize
from gc_model.synth.scenes import synthesize_scenes
from trt_build.command import counted
from trt_build.errors import DataError, GlimpseError


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise DataError(f"size {text!r}: write it as WIDTHxHEIGHT, e.g. 256x256") from None
    return width, height


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        return int(first), int(last if dash else first)
    except ValueError:
        raise DataError(f"people {text!r}: write a number, or from and to, e.g. 2-4") from None


def _none_of(options: Mapping[str, object], layout: str) -> None:
    """Raises DataError for an option that was given and says nothing to this layout."""
    given = [name for name, value in options.items() if value]
    if given:
        raise DataError(f"{given[0]} does not go with --layout {layout}; leave it away")


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write the data set to.")],
    layout: Annotated[str, typer.Option(help=f"One of {', '.join(LAYOUTS)}, scenes.")] = "folder",
    classes: Annotated[
        str, typer.Option(help="Activities, separated by commas. Default: all the layout takes.")
    ] = "",
    subjects: Annotated[int, typer.Option(help="How many people.")] = 8,
    first_subject: Annotated[
        int, typer.Option(help="Number of the first; other numbers are other people.")
    ] = 1,
    clips_per_class: Annotated[
        int, typer.Option(help="0: two repetitions by everybody before every camera.")
    ] = 0,
    cameras: Annotated[
        int, typer.Option(help="1 to 3 views; 0: one for folder, three for ntu and nucla.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Another seed gives other people, places and motions.")] = 0,
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the pictures. Default: 256x256; scenes 640x360.")
    ] = "",
    fps: Annotated[float | None, typer.Option(help="Frames per second. Default: 4; scenes 10.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds per clip, fewer where what is done is over. Default: 4.5; scenes 8."),
    ] = None,
    clutter: Annotated[float, typer.Option(help="0 empty rooms .. 1 furniture and moving things.")] = 1.0,
    occlusion: Annotated[
        float, typer.Option(help="Share of clips with something in front of the people.")
    ] = 0.25,
    noise: Annotated[float, typer.Option(help="Strength of camera noise, colour cast and shake.")] = 1.0,
    missing_skeletons: Annotated[
        float, typer.Option(help="ntu: share of clips whose bodies were lost.")
    ] = 0.0,
    joints: Annotated[
        bool,
        typer.Option("--joints", help="folder: also tables of joints, as `gc-model joints` writes them."),
    ] = False,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="folder: also tables of boxes, for `gc-model train --boxes`.")
    ] = False,
    scenes: Annotated[int | None, typer.Option(help="scenes: how many. Default: 20.")] = None,
    people: Annotated[
        str | None, typer.Option(help="scenes: people in each, as N or N-M. Default: 2-4.")
    ] = None,
    crossing: Annotated[
        float | None,
        typer.Option(help="scenes: share in which one of them crosses the picture. Default: 0.5."),
    ] = None,
    change: Annotated[
        float | None, typer.Option(help="scenes: seconds after which everybody does something else.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core. Does not change the result.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, show no progress.")
    ] = False,
) -> None:
    """Write video clips of synthetic people, with joints, for training without a data set.

    Example: gc-model synth clips --classes drink,phone_call,wave,salute --subjects 12 --clips-per-class 60

    The same command always gives the same clips, and adds them where there are others. A test set of other people:
    --first-subject 101. Layout scenes: videos of several people who do different things, each with a table of boxes
    and one of who does what when.
    """
    try:
        given: dict[str, Any] = {"fps": fps, "duration_s": duration, "size": _size(size) if size else None}
        how: dict[str, Any] = {
            "classes": classes.split(",") if classes else None, "subjects": subjects,
            "first_subject": first_subject, "seed": seed, "clutter": clutter, "occlusion": occlusion, "noise": noise,
            "workers": workers or None, "progress": not as_json and sys.stderr.isatty(),
            **{k: v for k, v in given.items() if v is not None},
        }  # fmt: skip
        of_scenes = {"--scenes": scenes, "--people": people, "--crossing": crossing, "--change": change}
        if layout == "scenes":
            _none_of({"--clips-per-class": clips_per_class, "--cameras": cameras, "--joints": joints,
                      "--missing-skeletons": missing_skeletons}, layout)  # fmt: skip
            more = {"crossing": crossing, "change_s": change, "people": people and _range(people)}
            how |= {k: v for k, v in more.items() if v is not None}
            summary = synthesize_scenes(out, 20 if scenes is None else scenes, **how)
        else:
            _none_of({name: value is not None for name, value in of_scenes.items()}, layout)
            if layout != "ntu":
                _none_of({"--missing-skeletons": missing_skeletons}, layout)
            summary = synthesize(
                out, layout, clips_per_class=clips_per_class or None, cameras=cameras or None,
                missing_skeletons=missing_skeletons, joints=joints, boxes=boxes, **how,
            )  # fmt: skip
    except GlimpseError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(
        f"{counted(summary['clips'], 'clip')} of {counted(len(summary['classes']), 'activity', 'activities')} "
        f"by {counted(len(summary['subjects']), 'person', 'people')} "
        f"in {summary['out']} ({summary['clips_per_s']:.1f} clips/s)"
    )


synth.__doc__ = f"{inspect.cleandoc(synth.__doc__ or '')}\n\nActivities: {', '.join(ACTIVITIES)}.\n"


def main() -> None:
    typer.run(synth)
