# SPDX-License-Identifier: Apache-2.0
"""Evaluates many bags: keeps the results of finished ones, evaluates the rest, and sums up all of them."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gc_ros.evaluation import results
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.people_scoring import people_figures
from gc_ros.evaluation.people_sources import find_table
from gc_ros.evaluation.processes import OutputError, run_tasks
from gc_ros.evaluation.running import Task, resume
from gc_ros.evaluation.scoring import EXTRA, gather, summarise
from gc_ros.evaluation.sources import FrameReader, Source
from gc_ros.evaluation.truth import find_truth, map_label
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.command import os_error_line
from trt_build.errors import DataError, GlimpseError, need
from trt_build.files import demand_place, replacing, write_atomically
from trt_build.labels import IDLE_LABELS


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation. failed: (name, reason) of bags without result. resumed: number finished before."""

    summary: dict[str, Any]
    failed: list[tuple[str, str]]
    resumed: int


def evaluate_many(
    sources: Sequence[Source],
    bundle: Path,
    out: Path,
    options: Options,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    again: bool = False,
    bundle_sha256: str | None = None,
    said: Callable[[str, int, int], None] | None = None,
    images: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate all sources and write summary.json, windows.jsonl and report.html into `out`.

    jobs: processes, None = one per core but no more than bags. dask: address of a scheduler; its workers must see
    bags, bundle and `out` under the same paths. again: evaluate finished bags too. bundle_sha256: the required sha256
    of bundle.json. said(name, done, all): called after each bag. images(n): called with the number of images read so
    far, where bags are evaluated in this process.
    Raises GlimpseError when the bundle cannot be used, `out` cannot be written, or no bag can be evaluated.
    """
    loaded, labels = _usable(bundle, options, bundle_sha256)
    folders = results.bag_folders(out, [source.name for source in sources])
    _check_places(sources, folders)
    out.mkdir(parents=True, exist_ok=True)
    demand_place(out)
    only = len(sources) == 1
    tasks = [
        Task(source, str(bundle), options, str(folder), loaded.sha256)
        for source, folder in zip(sources, folders, strict=True)
    ]
    records: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    for i, task in enumerate(tasks):
        if not again:
            try:
                found = resume(task, labels)
            except (GlimpseError, OSError):
                found = None  # the evaluation below fails for the same reason and reports it
            if found is not None:
                records[i] = found
    resumed, done = len(records), len(records)
    todo = [(i, task) for i, task in enumerate(tasks) if i not in records]
    cores = os.cpu_count() or 1
    jobs = max(1, min(jobs or cores, cores, len(todo) or 1))
    try:
        for i, record, problem in run_tasks(todo, jobs, dask, images):
            done += 1
            if record is None:
                failed[i] = problem
            else:
                records[i] = record
            if said is not None:
                said(tasks[i].source.name, done, len(tasks))
    except OutputError as error:
        raise DataError(f"{error}; {_kept(records, tasks)}") from None
    problems = [(tasks[i].source.name, failed[i]) for i in sorted(failed)]
    if not records:
        raise DataError("; ".join(dict.fromkeys(reason for _, reason in problems)))
    ordered = [(tasks[i], records[i]) for i in sorted(records)]
    try:
        summary = _conclude(ordered, problems, bundle, out, options, only)
    except Exception as error:  # of any kind: the work on the bags must not be lost
        reason = os_error_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{out}: no summary ({reason}); {_kept(records, tasks)}") from error
    return Evaluation(summary, problems, resumed)


def check_evaluation(
    sources: Sequence[Source], bundle: Path, out: Path, options: Options, bundle_sha256: str | None = None
) -> list[tuple[str, str]]:
    """What `evaluate_many` would refuse, found without evaluating or writing anything.

    Returns (name, reason) of the sources that it would leave out. Raises GlimpseError or OSError for what would end it.
    """
    _, labels = _usable(bundle, options, bundle_sha256)
    _check_places(sources, results.bag_folders(out, [source.name for source in sources]))
    demand_place(out)
    problems = []
    for source in sources:
        try:
            _check_source(source, options, labels)
        except (GlimpseError, OSError) as error:
            reason = os_error_line(error) if isinstance(error, OSError) else str(error)
            problems.append((source.name, reason))
    if len(problems) == len(sources):
        raise DataError("; ".join(dict.fromkeys(reason for _, reason in problems)))
    return problems


def _check_source(source: Source, options: Options, labels: Sequence[str]) -> None:
    truth = find_truth(source, options.truth, labels, options.mapping)
    FrameReader(source, options.topic, options.stamps, (truth.topic,) if truth.topic else ()).close()
    for how in (options.people, options.true_boxes):
        if how is not None and not how.startswith("topic:"):
            find_table(source, how)


def _usable(bundle: Path, options: Options, sha256: str | None) -> tuple[LoadedBundle, list[str]]:
    """The bundle, and its labels with those that it was taught. Raises GlimpseError where the options do not fit it."""
    _check_tools(options)
    if options.people is not None and (
        options.simulate_latency_s is not None or options.truth.startswith("topic:")
    ):
        raise DataError("--people does not go with --simulate-latency, nor with the truth of a topic")
    loaded = load_bundle(bundle, sha256=sha256)
    info = loaded.info
    if options.mode not in (None, *info.modes):
        raise DataError(f"mode {options.mode!r} is not in this bundle; use one of: {', '.join(info.modes)}")
    labels = options.labels(info)
    for label, target in options.mapping.items():
        if map_label(target, labels, {}) is None:
            known = ", ".join(dict.fromkeys([*labels, IDLE_LABELS[0]]))
            raise DataError(f"--map {label}={target}: the bundle has no {target!r}; map to one of: {known}")
    return loaded, labels


def _check_tools(options: Options) -> None:
    """Check that the packages are installed that the end of a run needs. Raises EngineError."""
    for module in ("sklearn.metrics", "jinja2", *(() if options.predictions == "none" else ("mcap.writer",))):
        need(module, EXTRA)


def _check_places(sources: Sequence[Source], folders: Sequence[Path]) -> None:
    """Check that no result is written into a bag. Raises DataError."""
    inputs = {source.path.resolve() for source in sources}
    for folder in folders:
        place = folder.resolve()
        if inside := inputs & {place, *place.parents}:
            raise DataError(f"{folder}: results would lie in {inside.pop()}; choose another --out")


def _kept(records: Mapping[int, Any], tasks: Sequence[Task]) -> str:
    return (
        f"the results of {len(records)} of {len(tasks)} bags are kept, the same command takes it from there"
    )


def _conclude(
    ordered: Sequence[tuple[Task, dict[str, Any]]],
    failed: list[tuple[str, str]],
    bundle: Path,
    out: Path,
    options: Options,
    only: bool,
) -> dict[str, Any]:
    info = load_bundle(bundle, verify=False, sha256=ordered[0][0].bundle_sha256).info
    labels = options.labels(info)
    bags = []
    for task, record in ordered:
        rows = results.read_windows(Path(task.folder) / results.WINDOWS)
        bags.append((record, gather(rows, labels)))
    figures, timings = summarise(bags, labels, info.window_s)
    if options.people is not None:
        figures["people"] = people_figures(bags, labels)
    per_bag = []
    for (record, windows), (task, _) in zip(bags, ordered, strict=True):
        own, _ = summarise([(record, windows)], labels, info.window_s)
        facts = {
            k: record[k] for k in ("name", "topic", "passes", "seconds_seen", "counts", "refused", "damage")
        }
        facts |= {"truth": record["truth"]["kind"], "truth_origin": record["truth"]["origin"]}
        facts |= {"truth_remark": record["truth"]["remark"]}
        facts |= {
            "bag_sha256": record["provenance"]["bag_sha256"],
            "folder": os.path.relpath(task.folder, out),
        }
        facts |= {"accuracy": own["windows"]["accuracy"], "scored_windows": own["windows"]["windows"]}
        facts |= {"events": own["events"], "smoothed_accuracy": own["smoothed"]["accuracy"]}
        per_bag.append(facts)
    summary = {
        "schema": 1,
        "result": figures,
        "bags": per_bag,
        "failed": [{"name": name, "reason": reason} for name, reason in failed],
        "provenance": {
            "bundle": bundle.resolve().name,
            "model_id": info.model_id,
            "bundle_json_sha256": ordered[0][0].bundle_sha256,
            "bundle_files_sha256": dict(sorted(info.sha256.items())),
            "engines": sorted({record["provenance"]["engine"] for _, record in ordered}),
            "options": options.as_json(),
            "mode": options.mode or info.default_mode,
            "versions": _versions(),
        },
        "timings": {
            **timings,
            "wall_s": sum(record["timings"]["wall_s"] for _, record in ordered),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": platform.node(),
        },
    }
    if not only:
        with replacing(out / results.WINDOWS) as part, part.open("wb") as file:
            for task, _ in ordered:
                with (Path(task.folder) / results.WINDOWS).open("rb") as lines:
                    shutil.copyfileobj(lines, file)
    write_atomically(out / results.SUMMARY, results.dump(summary))
    from gc_ros.evaluation.report import write_report

    write_report(out, summary, [(Path(task.folder), record) for task, record in ordered])
    return summary


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("glimpse-clouds-python", "numpy", "opencv-python-headless", "onnxruntime", "rosbags", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
