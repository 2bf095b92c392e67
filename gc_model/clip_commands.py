# SPDX-License-Identifier: Apache-2.0
"""Commands of `gc-model` that make something of your own clips for training: joints, boxes, empty places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gc_model.commands import People, continued, names
from gc_ros.media.kinds import some
from trt_build.command import Json, counted

Data = Annotated[Path, typer.Argument(help="Folder class/clip, or a CSV with path,class[,subject].")]
Workers = Annotated[int, typer.Option(help="Processes; 0: one for each core.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def joints(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the tables; the same command continues there.")],
    what: Annotated[str, typer.Option(help="hands, or body (one person).")] = "hands",
    subjects: People = "",
    boxes: Annotated[
        Path | None, typer.Option(help="Also boxes of the people, for `train --boxes`; with --what body.")
    ] = None,
    workers: Workers = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Joints of your own clips by MediaPipe, for `train --set joints=`: glimpses learn to look at them."""
    from gc_model.data.estimate import estimate

    shown = not (quiet or as_json)
    people = names(subjects)
    with continued(out):
        result = estimate(
            data, out, what=what, boxes=boxes, subjects=people, workers=workers or None, progress=shown
        )
    _say_tables(result, out, as_json, tables="joints", seen="seen", what=what)
    if boxes is not None and not as_json:
        typer.echo(f"boxes of {counted(result['boxes'], 'clip')} made: {boxes}")


def boxes(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the tables; the same command continues there.")],
    detector: Annotated[
        Path, typer.Option(help="Detector in ONNX, a YOLO or YOLOX; best the one of the robot.")
    ],
    subjects: People = "",
    workers: Workers = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Boxes of the people in your own clips by a detector of yours, for `train --boxes`."""
    from gc_model.data.detect import detect

    shown = not (quiet or as_json)
    people = names(subjects)
    with continued(out):
        result = detect(data, out, detector, subjects=people, workers=workers or None, progress=shown)
    _say_tables(result, out, as_json, tables="boxes", seen="found", what="people")


def empty(
    data: Data,
    boxes: Annotated[Path, typer.Option(help="Folder of the people's boxes, class/clip.boxes.csv.")],
    out: Annotated[Path, typer.Option(help="Folder to write clips of nobody and their table to.")],
    subjects: People = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Clips of the places of your own clips without anybody, as class idle, for `train --set also=`."""
    from gc_model.data.empty import write_empty

    result = write_empty(data, boxes, out, subjects=names(subjects), progress=not (quiet or as_json))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, reason in result["damaged"].items():
        typer.echo(f"nothing of {name}: {reason}", err=True)
    if result["without_boxes"]:
        typer.echo(f"clips without a table of boxes in {boxes}: {result['without_boxes']}", err=True)
    typer.echo(
        f"{counted(result['clips'], 'clip')}: {result['beside']} views beside people, {result['places']} places "
        f"without them: {out}"
    )


def _say_tables(
    result: dict[str, Any], out: Path, as_json: bool, *, tables: str, seen: str, what: str
) -> None:
    """What came of making tables, as `gc_model.data.tables.gather` has it."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, reason in result["damaged"].items():
        typer.echo(f"no {tables} of {name}: {reason}", err=True)
    empty = result["empty"]
    if empty:
        none = "no hands" if what == "hands" else "nobody"
        typer.echo(f"{none} {seen} in {counted(len(empty), 'clip')}: {some(empty, 5)}", err=True)
    share = "" if result["seen"] is None else f"; {what} in {100 * result['seen']:.0f} % of the frames"
    typer.echo(
        f"{counted(result['clips'], 'clip')}: {result['made']} made, {result['kept']} there before, "
        f"{len(result['damaged'])} damaged{share}: {out}"
    )
