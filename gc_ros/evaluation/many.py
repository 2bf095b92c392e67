# SPDX-License-Identifier: Apache-2.0
"""Many bags: local processes or a Dask cluster, resume, and what is said of all of them together."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gc_ros.evaluation import results
from gc_ros.evaluation.options import Options, bundle_digest
from gc_ros.evaluation.running import Task, evaluate_bag, resume
from gc_ros.evaluation.scoring import EXTRA, gather, summarise
from gc_ros.evaluation.sources import Source
from trt_build.bundle import load_bundle
from trt_build.errors import DataError, GlimpseError, need
from trt_build.files import replacing, write_atomically

Outcome = tuple[int, dict[str, Any] | None, str]  # number of the task, bag.json or None, what went wrong
_TRIES = 2  # of a bag whose process was killed


@dataclass(frozen=True)
class Evaluation:
    """What came out. failed: (name, reason) of bags that gave nothing. resumed: how many were finished before."""

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
    said: Callable[[str, int, int], None] | None = None,
    images: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate all sources and write summary.json, windows.jsonl and report.html into `out`.

    jobs: processes, None = one a core but no more than bags. dask: address of a scheduler; its workers must see
    bags, bundle and `out` under the same paths. again: evaluate finished bags too. said(name, done, all): after each
    bag. images(n): images read so far, where a single bag is evaluated in this process.
    Raises GlimpseError when the bundle is no good or no bag can be evaluated.
    """
    info = load_bundle(bundle).info
    if options.mode not in (None, *info.modes):
        raise DataError(f"mode {options.mode!r} is not in this bundle; use one of: {', '.join(info.modes)}")
    out.mkdir(parents=True, exist_ok=True)
    only = len(sources) == 1
    tasks = [
        Task(source, str(bundle), options, str(results.bag_folder(out, source.name, only)))
        for source in sources
    ]
    records: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    for i, task in enumerate(tasks):
        if not again:
            try:
                found = resume(task, info.labels)
            except (GlimpseError, OSError):
                found = None  # it fails for good, and is reported, when it is evaluated
            if found is not None:
                records[i] = found
    resumed, done = len(records), len(records)
    todo = [(i, task) for i, task in enumerate(tasks) if i not in records]
    cores = os.cpu_count() or 1
    jobs = max(1, min(jobs or cores, cores, len(todo) or 1))
    for i, record, problem in _run(todo, jobs, dask, images):
        done += 1
        if record is None:
            failed[i] = problem
        else:
            records[i] = record
        if said is not None:
            said(tasks[i].source.name, done, len(tasks))
    problems = [(tasks[i].source.name, failed[i]) for i in sorted(failed)]
    if not records:
        raise DataError("; ".join(reason for _, reason in problems))
    ordered = [(tasks[i], records[i]) for i in sorted(records)]
    return Evaluation(_conclude(ordered, problems, bundle, out, options, only), problems, resumed)


def _run(
    todo: Sequence[tuple[int, Task]], jobs: int, dask: str | None, images: Callable[[int], None] | None
) -> Iterator[Outcome]:
    if dask is not None:
        yield from _on_dask(todo, dask)
    elif jobs == 1:
        for i, task in todo:
            yield (i, *attempt(task, images))
    else:
        yield from _in_processes(todo, jobs)


def attempt(task: Task, images: Callable[[int], None] | None = None) -> tuple[dict[str, Any] | None, str]:
    """Evaluate a bag; one that cannot be is a reason, not an exception, so that the others go on."""
    try:
        return evaluate_bag(task, images), ""
    except (GlimpseError, OSError) as error:
        return None, " ".join(str(error).split())
    except Exception as error:  # a bag may hold anything; its fault must not cost the other bags
        return None, f"{task.source.path}: {type(error).__name__}: {' '.join(str(error).split())}"


def _in_processes(todo: Sequence[tuple[int, Task]], jobs: int) -> Iterator[Outcome]:
    waiting = dict(todo)
    for tries in range(_TRIES):
        try:
            context = multiprocessing.get_context("spawn")  # engines' threads do not survive a fork
            with ProcessPoolExecutor(jobs if tries == 0 else 1, mp_context=context) as pool:
                futures = {pool.submit(attempt, task): i for i, task in waiting.items()}
                for future in as_completed(futures):
                    record, problem = future.result()
                    del waiting[futures[future]]
                    yield futures[future], record, problem
        except BrokenProcessPool:
            continue
        break
    for i, task in waiting.items():
        yield (
            i,
            None,
            f"{task.source.path}: the process that evaluated it was killed; is there enough memory?",
        )


def _on_dask(todo: Sequence[tuple[int, Task]], address: str) -> Iterator[Outcome]:
    distributed = need("distributed", EXTRA)
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataError(f"no Dask scheduler at {address} ({error}); start one with: dask scheduler") from None
    with client:
        # Absolute, since a worker has a directory of its own. Not pure: a result also is files.
        futures = {client.submit(attempt, _absolute(task), pure=False, retries=2): i for i, task in todo}
        tasks = dict(todo)
        for future in distributed.as_completed(list(futures), loop=client.loop):
            i = futures[future]
            try:
                record, problem = future.result()
            except Exception as error:
                record, problem = None, f"{tasks[i].source.path}: {' '.join(str(error).split())}"
            if record is not None and results.finished(Path(tasks[i].folder)) is None:
                record, problem = (
                    None,
                    f"{tasks[i].folder}: the workers do not write here; share the directory",
                )
            yield i, record, problem


def _absolute(task: Task) -> Task:
    source = Source(task.source.path.resolve(), task.source.name, task.source.label)
    return Task(source, str(Path(task.bundle).resolve()), task.options, str(Path(task.folder).resolve()))


def _conclude(
    ordered: Sequence[tuple[Task, dict[str, Any]]],
    failed: list[tuple[str, str]],
    bundle: Path,
    out: Path,
    options: Options,
    only: bool,
) -> dict[str, Any]:
    info = load_bundle(bundle, verify=False).info
    bags = []
    for task, record in ordered:
        rows = results.read_windows(Path(task.folder) / results.WINDOWS)
        bags.append((record, gather(rows, info.labels)))
    figures, timings = summarise(bags, info.labels, info.window_s)
    per_bag = []
    for (record, windows), (task, _) in zip(bags, ordered, strict=True):
        own, _ = summarise([(record, windows)], info.labels, info.window_s)
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
            "bundle_json_sha256": bundle_digest(bundle),
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
