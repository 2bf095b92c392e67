# SPDX-License-Identifier: Apache-2.0
"""`gc-ros evaluate`, `boxes` and `compare`. Exit codes: 0 done, 1 a check failed, 2 wrong use or nothing evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gc_ros.evaluation import answer
from gc_ros.evaluation.people_options import PeopleMaxAge, PersonMargin, PersonTimeout, check_times
from gc_ros.recognition.people import MAX_AGE_S, TIMEOUT_S
from gc_ros.recognition.smoothing import Smoothing
from gc_ros.recognition.taught_file import folder_of, load_lessons, taught_digest
from trt_build.bundle import load_bundle
from trt_build.command import (
    Backend,
    BundleOption,
    Device,
    Mode,
    Precision,
    Sha256,
    Stride,
    Threads,
    at_most_cores,
    print_json,
    progress_bar,
)
from trt_build.errors import DataError
from trt_build.files import demand_place

_SMOOTHING = Smoothing()  # the node's defaults
_MOST = 1e9  # of every number; as seconds they never pass


def evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(metavar="BAG...", help="Bags, videos, folders of them, CSV tables (path,class)."),
    ],
    bundle: BundleOption,
    bundle_sha256: Sha256 = None,
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
        typer.Option(
            "--map",
            metavar="TRUTH=LABEL",
            help="Take a label of the truth for one of the bundle, or for idle time.",
        ),
    ] = None,
    min_overlap: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a window that its label must cover.")
    ] = 0.5,
    mode: Mode = None,
    stride: Stride = 1,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most_cores,
            help="CPU threads of an engine, at most one a core; default: one where several jobs run.",
        ),
    ] = None,
    unknown_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Scores below it are unknown; default: the bundle's.")
    ] = None,
    max_frame_gap_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="A longer time between two images is a break, s; 1e9: never."),
    ] = None,
    smoothing_tau_s: Annotated[
        float, typer.Option(min=0, help="As the node's parameter.")
    ] = _SMOOTHING.tau_s,
    onset_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="As the node's parameter.")
    ] = _SMOOTHING.onset,
    offset_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="As the node's parameter.")
    ] = _SMOOTHING.offset,
    min_duration_s: Annotated[
        float, typer.Option(min=0, help="As the node's parameter.")
    ] = _SMOOTHING.min_duration_s,
    simulate_latency: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Drop windows as a robot does whose engine call takes this long."
        ),
    ] = None,
    taught: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|none", help="What was taught to the bundle; default: BUNDLE.taught beside it."
        ),
    ] = None,
    predictions: Annotated[
        str, typer.Option(help="predictions.mcap: beside, merged (with images), none.")
    ] = "beside",
    people: Annotated[
        str | None,
        typer.Option(
            help="Recognise each person alone: boxes from topic:/NAME, a CSV, a folder of CSVs, or auto: "
            "BAG.people.csv beside it, the folder boxes of its data set, or the only topic of detections."
        ),
    ] = None,
    true_boxes: Annotated[
        str | None,
        typer.Option(
            help="Where the people of the truth stood, a CSV or a folder; default: they have the ids of --people."
        ),
    ] = None,
    max_people: Annotated[int, typer.Option(min=1, max=64, help="How many people at once.")] = 4,
    person_margin: PersonMargin = None,
    people_max_age_s: PeopleMaxAge = MAX_AGE_S,
    person_timeout_s: PersonTimeout = TIMEOUT_S,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Evaluate finished bags too.")] = False,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="Exit code 1 below it.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit code 1 for unreadable or damaged bags, or a truth of another bag."
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only check that packages, bundle, bags with their topics and truth, and --out can be used; evaluate "
            "nothing.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
) -> None:
    """Evaluate bags and videos with the robot's recogniser: figures, report, predictions. Needs no ROS."""
    _usable(locals())
    from gc_ros.evaluation.many import check_evaluation, evaluate_many
    from gc_ros.evaluation.options import Options
    from gc_ros.evaluation.people_sources import shared_tables
    from gc_ros.evaluation.sources import find_sources

    _one_of("--stamps", stamps, "header", "log")
    _one_of("--truth-time", truth_time, "header", "bag")
    _one_of("--predictions", predictions, "beside", "merged", "none")
    if true_boxes is not None and people is None:
        raise DataError("--true-boxes says where the people of --people really are: give --people, too")
    check_times(people_max_age_s, person_timeout_s)
    try:
        smoothing = Smoothing(smoothing_tau_s, onset_threshold, offset_threshold, min_duration_s)
    except ValueError as error:
        raise DataError(str(error)) from None
    sources = find_sources(bags)
    for line in [*sources.remarks(), *shared_tables(sources, people, true_boxes)]:
        typer.echo(f"warning: {line}", err=True)
    if threads is None and (dask is not None or (len(sources) > 1 and jobs != 1)):
        threads = 1
    options = Options(
        topic=topic,
        stamps=stamps,
        truth=truth,
        truth_time=truth_time,
        mapping=_mapping(mapping or []),
        min_overlap=min_overlap,
        mode=mode,
        stride=stride,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        unknown_threshold=unknown_threshold,
        max_frame_gap_s=max_frame_gap_s,
        smoothing=smoothing,
        simulate_latency_s=simulate_latency,
        predictions=predictions,
        people=people,
        true_boxes=true_boxes,
        max_people=max_people,
        person_margin=person_margin,
        people_max_age_s=people_max_age_s,
        person_timeout_s=person_timeout_s,
        **_taught(bundle, bundle_sha256, taught),
    )
    if check:
        for name, reason in check_evaluation(sources, bundle, out, options, bundle_sha256):
            typer.echo(f"warning: {name}: {reason}", err=True)
        return
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
            bundle_sha256=bundle_sha256,
            said=lambda name, done, _: bar.update(task, completed=done, description=name),
            images=lambda n: bar.update(task, description=f"{n} images"),
        )
    answer.remarks(found.summary)
    if as_json:
        print_json(found.summary)
    else:
        print(answer.as_text(found.summary, out, found.resumed))
    answer.checks(found.summary, min_accuracy, strict)


def boxes(
    bags: Annotated[
        list[Path],
        typer.Argument(metavar="BAG...", help="Bags, videos, folders of them, CSV tables (path,class)."),
    ],
    detector: Annotated[
        Path,
        typer.Option(metavar="FILE.onnx", help="Detector (YOLO, YOLOX); best the one of the robot."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the tables; default: each beside its bag, BAG.people.csv.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Image topic; default: the only one.")] = None,
    stamps: Annotated[str, typer.Option(help="header, or log (time of recording).")] = "header",
    rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", min=1, max=1000, help="Images a second to look at; default: every one."),
    ] = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Find the people of bags and videos by a detector of yours, for `evaluate --people` and `video --people`.

    A table that is there is kept: the same command continues.
    """
    from gc_ros.evaluation.boxes import find_people, tables
    from gc_ros.evaluation.sources import find_sources
    from gc_ros.media.detector import Detector

    _one_of("--stamps", stamps, "header", "log")
    network = Detector(detector, threads=threads)
    sources = find_sources(bags)
    for line in sources.remarks():
        typer.echo(f"warning: {line}", err=True)
    made: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with progress_bar() as bar:
        task = bar.add_task("finding people", total=len(sources))
        for source, table in zip(sources, tables(sources, out), strict=True):
            bar.update(task, description=source.name)
            if table.is_file():
                typer.echo(f"{table}: is there; delete it to make it again", err=True)
            else:
                try:
                    demand_place(table)
                    found = find_people(source, network, table, topic=topic, stamps=stamps, rate_hz=rate)
                except DataError as error:
                    failed[source.name] = str(error)
                    typer.echo(f"error: {error}", err=True)
                else:
                    for reason in found.remarks():
                        typer.echo(f"warning: {source.name}: {reason}", err=True)
                    made.append(found.as_json())
                    if not as_json:
                        print(found.as_text(), flush=True)
            bar.update(task, advance=1)
    if as_json:
        print_json({"made": made, "failed": failed})
    if failed:
        raise typer.Exit(1 if len(failed) < len(sources) else 2)


def _taught(bundle: Path, sha256: str | None, where: str | None) -> dict[str, Any]:
    """The options that say what the bundle was taught. Raises GlimpseError for what cannot be used."""
    loaded = load_bundle(bundle, sha256=sha256)
    lessons = load_lessons(loaded, where)
    if lessons is None:
        return {}
    folder = Path(where) if where else folder_of(bundle)
    return {"taught": str(folder), "taught_sha256": taught_digest(folder), "taught_labels": lessons.names}


def _usable(options: Mapping[str, Any]) -> None:
    """Check that no option is a number that nothing can calculate with. Raises DataError."""
    for name, value in options.items():
        if isinstance(value, float) and not abs(value) <= _MOST:
            option = f"--{name.replace('_', '-')}"
            raise DataError(f"{option} {value:g} is too much; the most is {option} {_MOST:g}")


def _one_of(option: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise DataError(f"unknown {option} {value!r}; use {', '.join(choices)}")


def _mapping(items: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in items]
    if wrong := [a for a, equals, b in pairs if not equals or not b]:
        raise DataError(f"--map {wrong[0]!r} must be TRUTH=LABEL")
    return {a: b for a, _, b in pairs}


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT_A", help="Results of the present model, a directory of gc-ros evaluate."
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="RESULT_B", help="Results of the candidate on the same bags.")],
    changed: Annotated[int, typer.Option(min=0, help="How many changed windows to list.")] = 20,
    not_worse: Annotated[
        bool, typer.Option("--not-worse", help="Exit code 1 when B is worse, beyond chance.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two results on the same bags, window by window: is the new model better?"""
    from gc_ros.evaluation.compare import as_text
    from gc_ros.evaluation.compare import compare as compared

    found = compared(a, b)
    if as_json:
        print_json(found)
    else:
        print(as_text(found, changed))
    if not_worse and found["verdict"] == "worse":
        raise typer.Exit(1)
