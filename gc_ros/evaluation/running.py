# SPDX-License-Identifier: Apache-2.0
"""Evaluates one bag or video and writes its files: windows.jsonl, bag.json, predictions.mcap, worst.json."""

from __future__ import annotations

import functools
import glob
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.evaluation import results
from gc_ros.evaluation.judging import Judge
from gc_ros.evaluation.options import Options, bundle_digest, result_key
from gc_ros.evaluation.people_reading import PeopleReading
from gc_ros.evaluation.people_scoring import judge_people
from gc_ros.evaluation.people_sources import find_table
from gc_ros.evaluation.reading import Reading
from gc_ros.evaluation.record import bag_record
from gc_ros.evaluation.sources import FrameReader, Source
from gc_ros.evaluation.strips import WatchedEngine, shrunk
from gc_ros.evaluation.truth import Truth, find_truth
from gc_ros.media.images import Picture
from gc_ros.recognition.sampler import Sampler
from trt_build.bundle import Bundle, LoadedBundle, file_sha256, load_bundle
from trt_build.engine import Engine
from trt_build.engines.open import open_engine
from trt_build.errors import DataError
from trt_build.files import replacing, write_atomically


@dataclass(frozen=True)
class Task:
    """One bag to evaluate; plain values, so that it travels to other processes and machines."""

    source: Source
    bundle: str
    options: Options
    folder: str  # of its results
    bundle_sha256: str = ""  # of bundle.json, as the evaluation began with it; "": as it is now
    typed: Options | None = None  # the options as somebody typed them, where `options` has other paths

    @property
    def bundle_digest(self) -> str:
        return self.bundle_sha256 or bundle_digest(Path(self.bundle))


def identity(task: Task, truth: Truth) -> str:
    """A digest of what a result depends on, except for the bag's content."""
    # A name is the truth itself: it may be corrected, and then the bag is as it was.
    tables = [f"name {truth.label}" if truth.kind == "name" else truth.sha256]
    for how in (task.options.people, task.options.true_boxes):
        table = None if how is None or how.startswith("topic:") else find_table(task.source, how)
        tables += [] if table is None else [file_sha256(table)]
    # Of the whole picture it is what it was before there were people.
    said = tables[0] if len(tables) == 1 else " ".join(map(str, tables))
    return result_key(task.bundle_digest, task.typed or task.options, said)


def resume(task: Task, labels: list[str]) -> dict[str, Any] | None:
    """The finished result of this very task, or None."""
    record = results.finished(Path(task.folder))
    if record is None:
        return None
    truth = find_truth(task.source, task.options.truth, labels, task.options.mapping)
    if record["key"] != identity(task, truth) or record["name"] != task.source.name:
        return None
    same = (
        task.source.unchanged(record["files"]) or record["provenance"]["bag_sha256"] == task.source.sha256()
    )
    return record if same else None


def evaluate_bag(task: Task, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Evaluate one bag, write its files, and return bag.json. progress: called with the images read so far.

    Raises GlimpseError when nothing of the bag can be evaluated; an earlier result then remains.
    """
    bundle, inner = _open(task)
    o, info = task.options, bundle.info
    truth = find_truth(task.source, o.truth, o.labels(info), o.mapping)
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in results.OF_A_BAG:  # what a killed run left half written
        for part in folder.glob(f".{glob.escape(name)}.*.part"):
            part.unlink(missing_ok=True)
    files = task.source.quick()
    judge = Judge(truth, o, o.labels(info), info.idle)
    reading: Reading | PeopleReading
    if o.people is None:
        frames = FrameReader(
            task.source,
            o.topic,
            o.stamps,
            (truth.topic,) if truth.topic else (),
            Sampler(info.rate_hz, o.max_frame_gap_s),
            functools.partial(_prepare, info, o.pictures > 0),
        )
        reading = Reading(bundle, WatchedEngine(inner, info.T), frames, judge, o)
    else:
        reading = PeopleReading(bundle, inner, task.source, judge, o)
        frames = reading.frames
    with ExitStack() as stack:
        windows = stack.enter_context(replacing(folder / results.WINDOWS))
        predictions = None
        if o.predictions != "none":
            predictions = stack.enter_context(replacing(folder / results.PREDICTIONS))
        rows = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder))
        # In parallel with reading: the checksum of a bag of raw images takes as long as the engine does.
        stopped = Event()
        bag_sha256 = stack.enter_context(ThreadPoolExecutor(1)).submit(task.source.sha256, stopped)
        stack.callback(stopped.set)
        reading.read(rows, predictions, progress)
        rows.seek(0)
        bag_sha256.exception()
        # The checksum of a bag that still grows is that of its later content, not of what was evaluated. One whose
        # files went away while it was made failed, and that they changed is the reason to give.
        if not task.source.unchanged(files):
            raise DataError(f"{task.source.path}: changed while it was read; evaluate it when it is complete")
        content = bag_sha256.result()
        seen = None if isinstance(reading, Reading) else reading.everybody()
        spans = judge.spans(reading.passes, frames.messages, reading.clocks, bool(frames.damage), seen)
        judged = map(json.loads, rows), windows, task.source.name, reading.passes[0].first_ns, spans
        missed = None
        if isinstance(reading, Reading):
            judge.judge(*judged)
        else:
            missed = judge_people(judge, *judged)
        record = bag_record(
            task.source,
            reading,
            spans,
            key=identity(task, truth),
            windows=windows,
            files=files,
            bag_sha256=content,
            bundle_digest=bundle.sha256,
            engine=inner.description,
            missed=missed,
        )
    if o.predictions == "none":
        (folder / results.PREDICTIONS).unlink(missing_ok=True)
    write_atomically(folder / results.WORST, json.dumps(reading.strips.worst()))
    write_atomically(folder / results.BAG, results.dump(record))
    return record


def _open(task: Task) -> tuple[LoadedBundle, Engine]:
    o = task.options
    batch = 1 if o.people is None else o.max_people
    return _opened(
        task.bundle, task.bundle_digest, o.mode, o.backend, o.precision, o.device, o.threads, batch
    )


@functools.lru_cache(maxsize=2)
def _opened(
    bundle: str,
    digest: str,
    mode: str | None,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    batch: int,
) -> tuple[LoadedBundle, Engine]:
    """The bundle and its engine, kept from bag to bag. digest: the required sha256."""
    loaded = load_bundle(bundle, sha256=digest)
    engine = open_engine(
        loaded,
        mode or loaded.info.default_mode,
        backend=backend,
        batch=batch,
        threads=threads,
        device=device,
        precision=precision,
    )
    return loaded, engine


def _prepare(info: Bundle, pictures: bool, picture: Picture) -> NDArray[np.uint8] | None:
    """Make the network's frame, and return the small picture for the strips; runs in the thread that reads."""
    picture.prepared(info.preprocess)
    return shrunk(picture.pixels()) if pictures else None
