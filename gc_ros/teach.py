# SPDX-License-Identifier: Apache-2.0
"""`gc-ros teach`, `forget` and `taught`: new activities for a robot by showing them, without training."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.command import (
    Backend,
    BundleOption,
    Device,
    Json,
    Mode,
    Precision,
    Threads,
    counted,
    print_json,
)
from trt_build.errors import DataError

if TYPE_CHECKING:
    from gc_ros.recognition.taught import Taught

Folder = Annotated[
    Path | None, typer.Option("--taught", help="Folder of what was taught; default: BUNDLE.taught beside it.")
]
WHERE = typer.Option(
    metavar="DIR|none", help="What was taught to the bundle; default: BUNDLE.taught beside it."
)


def teach(
    name: Annotated[str, typer.Argument(help="Name of the activity.")],
    clips: Annotated[
        list[Path], typer.Argument(metavar="CLIP...", help="Videos, folders of them or bags that show it.")
    ],
    bundle: BundleOption,
    none: Annotated[
        list[Path] | None,
        typer.Option("--none", help="Clips of other things people do there, to be unknown; may be repeated."),
    ] = None,
    folder: Folder = None,
    topic: Annotated[str | None, typer.Option(help="Image topic of the bags; default: the only one.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what was shown before under this name.")
    ] = False,
    keep_clips: Annotated[
        bool,
        typer.Option(
            "--keep-clips",
            help="Keep small copies of the clips beside what was taught, to train on. They show people.",
        ),
    ] = False,
    mode: Mode = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Teach a new activity by clips of it: five clips, one minute, no training.

    Only features of the clips are kept, no picture, unless --keep-clips says so.
    """
    from gc_ros.media.clips import find_recordings
    from gc_ros.recognition.footage import clip_pictures
    from gc_ros.recognition.kept_clips import check_clips, forget_clips, name_of_clips
    from gc_ros.recognition.kept_clips import keep_clips as keep
    from gc_ros.recognition.showing import examples_from_clips
    from gc_ros.recognition.taught import Lessons, check_name, check_taught, space_of
    from gc_ros.recognition.taught_file import check_place, folder_of, locked, read_taught, write_taught
    from trt_build.engines.open import open_engine

    loaded = load_bundle(bundle)
    name, space, where = check_name(name, loaded), space_of(loaded), folder or folder_of(bundle)
    # What may be refused, before minutes of clips.
    check_place(where)
    check_taught(_before(read_taught(where, loaded.info.model_id), name, replace), loaded, where)
    if replace or keep_clips:
        check_clips(where)
    found, pictures = find_recordings(clips), []
    for line in found.remarks():
        typer.echo(f"warning: {line}", err=True)
    mode = mode or loaded.info.default_mode
    engine = open_engine(loaded, mode, backend=backend, precision=precision, device=device, threads=threads)
    try:
        if keep_clips:
            pictures = [p for clip in found for p in clip_pictures(clip, loaded.info, topic)]
        shown = examples_from_clips(found, loaded, engine, mode, topic)
        others = examples_from_clips(find_recordings(none), loaded, engine, mode, topic) if none else None
    finally:
        engine.close()
    began = time.perf_counter()
    with locked(where):
        taught = _before(read_taught(where, loaded.info.model_id), name, replace)
        check_taught(taught, loaded, where)  # somebody may have changed it since
        if replace or pictures:
            check_clips(where)
        taught = taught.taught(name, shown)
        name = taught.spelled(name)
        if others is not None:
            taught = taught.with_none(others)
        lessons = Lessons(loaded, space, taught, where)
        # Clips go first: a kill may leave an activity without them, never people's pictures without an activity.
        if replace and (kept := name_of_clips(where, name)) is not None:
            forget_clips(where, kept)
        write_taught(where, taught)
        if pictures:
            try:
                keep(where, name, pictures, loaded.info.rate_hz, loaded.info.preprocess.resize)
            except DataError as error:
                raise DataError(f"{name}: taught, but {error}") from None
    examples, remarks = taught.activities[name], lessons.remarks(name, taught)
    discriminant = lessons.discriminant
    assert discriminant is not None
    won = float(discriminant.won[lessons.names.index(name)])
    if as_json:
        print_json(
            {
                "name": name,
                "clips": examples.count,
                "windows": len(examples),
                "recognised_left_out": None if won != won else won,
                "remarks": remarks,
                "seconds": time.perf_counter() - began,
                "folder": str(where),
            }
        )
        return
    told = "" if won != won else f"; of the windows of clips left out in turn, {won:.0%} are recognised"
    typer.echo(
        f"{name}: taught from {counted(examples.count, 'clip')}, {counted(len(examples), 'window')}{told}; kept "
        f"in {where}"
    )
    for remark in remarks:
        typer.echo(f"warning: {remark}", err=True)


def forget(
    name: Annotated[
        str, typer.Argument(help='Name of the activity; "none" for what was shown as none of them.')
    ],
    bundle: BundleOption,
    folder: Folder = None,
) -> None:
    """Forget a taught activity; its examples are removed, and its clips where they were kept."""
    from gc_ros.recognition.kept_clips import forget_clips, name_of_clips, names_of_clips
    from gc_ros.recognition.taught_file import folder_of, locked, must_hold, read_taught, sweep, write_taught

    loaded, where = load_bundle(bundle), folder or folder_of(bundle)
    if not names_of_clips(where):
        must_hold(where)
    with locked(where):
        sweep(where)
        before = read_taught(where, loaded.info.model_id)
        kept, own = name_of_clips(where, name), before.holds(name)
        if own is None and kept is None:
            before.spelled(name)
        # Clips go first: a kill may leave an activity without them, never people's pictures without an activity.
        if kept is not None:
            forget_clips(where, kept)
        if own is not None:
            before = before.forgotten(own)
            write_taught(where, before)
    if own is None:
        typer.echo(f"{kept}: was not taught; the clips of it that were kept are removed")
    else:
        typer.echo(f"{own}: forgotten")
    _warn_of_clips(before, loaded, where)


def taught(
    bundle: BundleOption,
    folder: Folder = None,
    rename: Annotated[
        str | None, typer.Option(metavar="OLD=NEW", help="Give an activity another name.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option(help="Add what another robot with the same model was taught: its folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what a bundle was taught; rename one, or add what another robot was taught."""
    from gc_ros.recognition.kept_clips import check_clips, forget_clips, rename_clips
    from gc_ros.recognition.taught import space_of
    from gc_ros.recognition.taught_file import folder_of, locked, must_hold, read_taught, write_taught

    loaded, where = load_bundle(bundle), folder or folder_of(bundle)
    found = read_taught(where, loaded.info.model_id)
    if rename is not None or merge is not None:
        must_hold(where if merge is None else merge)
        other = None if merge is None else read_taught(merge, loaded.info.model_id)
        # What is refused must not leave a folder with a lock.
        _changed(found, loaded, where, rename, merge, other)
        with locked(where, make=merge is not None):
            if rename is not None:
                check_clips(where)
            found = read_taught(where, loaded.info.model_id)
            found, names = _changed(found, loaded, where, rename, merge, other)
            # At no time are there clips without their activity: in between they have both names.
            if names:
                rename_clips(where, *names)
            write_taught(where, found)
            if names:
                forget_clips(where, names[0])
    _warn_of_clips(found, loaded, where)
    rows = _rows(loaded, found, where)
    none = None if found.none is None else {"clips": found.none.count, "windows": len(found.none)}
    if as_json:
        print_json({"model_id": found.model_id, "folder": str(where), "activities": rows, "none": none})
        return
    if not rows:
        space_of(loaded)  # else the remedy would be none
        typer.echo(
            f"nothing was taught to {loaded.info.model_id}; teach it: gc-ros teach NAME CLIP... -b {quote(str(bundle))}"
        )
    for row in rows:
        won = row["recognised_left_out"]
        told = "" if won is None else f", {won:.0%} of the windows of clips left out in turn are recognised"
        typer.echo(
            f"{row['name']}: {counted(row['clips'], 'clip')}, {counted(row['windows'], 'window')}{told}"
        )
        for remark in row["remarks"]:
            typer.echo(f"  {remark}")
    if none is not None:
        typer.echo(f"none of these: {counted(none['clips'], 'clip')}, {counted(none['windows'], 'window')}")


def _changed(
    found: Taught,
    loaded: LoadedBundle,
    where: Path,
    rename: str | None,
    merge: Path | None,
    other: Taught | None,
) -> tuple[Taught, tuple[str, str] | None]:
    """With an activity renamed, and what another robot was taught; and both names. Raises DataError."""
    from gc_ros.recognition.taught import check_name, check_taught, check_widths, space_of

    names = None
    if rename is not None:
        old, new = _renaming(rename, found)
        names = found.spelled(old), check_name(new, loaded)
        found = found.renamed(*names)
    space_of(loaded)  # else nothing fits
    found.check(loaded.info.model_id, where)
    check_widths(found, loaded, where)
    if other is None:
        return found, names
    if other.model_id == found.model_id:  # else merging refuses it
        check_taught(other, loaded, merge)
    return found.merged(other), names


def _before(taught: Taught, name: str, replace: bool) -> Taught:
    """What an activity is added to. replace: the activity of that name is left out."""
    return taught.forgotten(name) if replace and taught.like(name) is not None else taught


def _warn_of_clips(found: Taught, loaded: LoadedBundle, where: Path) -> None:
    """Say which clips are kept of what is not taught, as a kill leaves them: they show people."""
    from gc_ros.recognition.kept_clips import names_of_clips
    from gc_ros.recognition.taught import forgetting

    with suppress(DataError):  # a table that cannot be read is said where it is needed
        for name in names_of_clips(where):
            if found.like(name) is None:
                remedy = f"remove them: {forgetting(name, loaded, where)}"
                typer.echo(f"warning: clips of {name!r} are kept, which is not taught; {remedy}", err=True)


def _renaming(text: str, found: Any) -> tuple[str, str]:
    """The two names of OLD=NEW, either of which may hold a "=". Raises DataError."""
    ways = [(text[:i], text[i + 1 :]) for i, character in enumerate(text) if character == "="]
    if not ways:
        raise DataError(f"--rename {text!r} must be OLD=NEW")
    return next((way for way in ways if way[0] in found.activities), ways[0])


def _rows(loaded: LoadedBundle, found: Any, where: Path) -> list[dict[str, Any]]:
    from gc_ros.recognition.taught import Lessons, space_of

    if not found.activities:
        return []
    lessons = Lessons(loaded, space_of(loaded), found, where)
    assert lessons.discriminant is not None
    rows = []
    for j, (name, examples) in enumerate(found.activities.items()):
        won = float(lessons.discriminant.won[j])
        rows.append(
            {
                "name": name,
                "clips": examples.count,
                "windows": len(examples),
                "recognised_left_out": None if won != won else won,
                "remarks": lessons.remarks(name, found),
            }
        )
    return rows


def add_to(app: typer.Typer) -> None:
    """Give a command line these commands."""
    teach_example = "Example: gc-ros teach wave_both_arms a.mp4 b.mp4 c.mp4 --bundle bundles/everyday"
    app.command("teach", epilog=teach_example)(teach)
    app.command("forget", epilog="Example: gc-ros forget wave_both_arms --bundle bundles/everyday")(forget)
    app.command("taught", epilog="Example: gc-ros taught --bundle bundles/everyday")(taught)
