# SPDX-License-Identifier: Apache-2.0
"""One bag or video through the recogniser: windows.jsonl, bag.json, predictions.mcap and the worst windows."""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.evaluation import results
from gc_ros.evaluation.ahead import read_ahead
from gc_ros.evaluation.latency import AtOnce, SlowRobot
from gc_ros.evaluation.options import Options, bundle_digest, result_key
from gc_ros.evaluation.pictures import Strips, WatchedEngine, shrunk
from gc_ros.evaluation.sources import Frames, Source
from gc_ros.evaluation.truth import (
    IDLE,
    NS,
    Segment,
    Truth,
    find_truth,
    from_messages,
    from_table,
    map_label,
    truth_of,
)
from gc_ros.media.images import Picture
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.sampler import Sampler
from gc_ros.recognition.smoothing import ActivityEvent
from trt_build.bundle import Bundle, LoadedBundle, file_sha256, load_bundle
from trt_build.engine import Engine
from trt_build.engines.open import open_engine
from trt_build.errors import DataError, ImageError


@dataclass(frozen=True)
class Task:
    """One bag to evaluate; plain values, so that it travels to other processes and machines."""

    source: Source
    bundle: str
    options: Options
    folder: str  # of its results


def identity(task: Task, truth: Truth) -> str:
    """What a result depends on, the bag's content aside."""
    return result_key(bundle_digest(Path(task.bundle)), task.options, truth.sha256)


@functools.lru_cache(maxsize=2)
def _opened(bundle: str, digest: str, options: Options) -> tuple[LoadedBundle, Engine]:
    loaded = load_bundle(bundle)
    mode = options.mode or loaded.info.default_mode
    engine = open_engine(
        loaded, mode, backend=options.backend, threads=options.threads, device=options.device
    )
    return loaded, engine


# Options hold a dict, which has no hash: engines are kept by the fields that matter for them.
def _open(task: Task) -> tuple[LoadedBundle, Engine]:
    o = task.options
    plain = Options(mode=o.mode, backend=o.backend, threads=o.threads, device=o.device, mapping=_NO_MAPPING)
    return _opened(task.bundle, bundle_digest(Path(task.bundle)), plain)


class _Frozen(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]
        return 0


_NO_MAPPING = _Frozen()


def resume(task: Task, labels: list[str]) -> dict[str, Any] | None:
    """The finished result of this very task, or None."""
    record = results.finished(Path(task.folder))
    if record is None:
        return None
    truth = find_truth(task.source, task.options.truth, labels, task.options.mapping)
    if record["key"] != identity(task, truth) or record["name"] != task.source.name:
        return None
    same = (
        record["files"] == task.source.quick() or record["provenance"]["bag_sha256"] == task.source.sha256()
    )
    return record if same else None


def evaluate_bag(task: Task, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Evaluate one bag and write its files; what bag.json holds. progress: called with the images read so far.

    Raises GlimpseError when nothing of the bag can be evaluated; an earlier result then stays as it was.
    """
    bundle, inner = _open(task)
    o, info = task.options, bundle.info
    truth = find_truth(task.source, o.truth, info.labels, o.mapping)
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    engine = WatchedEngine(inner, info.T)
    run = _Run(
        task,
        bundle,
        engine,
        truth,
        Frames(
            task.source,
            o.topic,
            o.stamps,
            (truth.topic,) if truth.topic else (),
            Sampler(info.rate_hz, o.max_frame_gap_s),
            functools.partial(_prepare, info, o.pictures > 0),
        ),
    )
    with ExitStack() as stack:
        growing = results.part(folder / results.WINDOWS)
        predictions = results.part(folder / results.PREDICTIONS)
        for path in (growing, predictions):
            stack.callback(functools.partial(path.unlink, missing_ok=True))
        raw = results.part(folder / "raw.jsonl")
        stack.callback(functools.partial(raw.unlink, missing_ok=True))
        # Beside the reading: of a bag of raw images it takes as long as the engine does.
        stopped = Event()
        bag_sha256 = stack.enter_context(ThreadPoolExecutor(1)).submit(task.source.sha256, stopped)
        stack.callback(stopped.set)
        run.read(raw, predictions, progress)
        record = run.judge(raw, growing, bag_sha256.result())
        os.replace(growing, folder / results.WINDOWS)
        if predictions.exists():
            os.replace(predictions, folder / results.PREDICTIONS)
        else:
            (folder / results.PREDICTIONS).unlink(missing_ok=True)
        results.put(folder / results.WORST, json.dumps(run.strips.worst()))
        results.put(folder / results.BAG, results.dump(record))
    return record


def _prepare(info: Bundle, pictures: bool, picture: Picture) -> NDArray[np.uint8] | None:
    """In the thread that reads: the network's frame, and the small picture for the strips."""
    picture.prepared(info.preprocess)
    return shrunk(picture.pixels()) if pictures else None


@dataclass
class _Pass:
    """A stretch of the bag in which stamps only go forward."""

    first_ns: int
    last_ns: int
    first_log_ns: int


class _Run:
    def __init__(
        self, task: Task, bundle: LoadedBundle, engine: WatchedEngine, truth: Truth, frames: Frames
    ) -> None:
        self.task, self.bundle, self.engine, self.truth, self.frames = task, bundle, engine, truth, frames
        o = task.options
        self.recognizer = Recognizer(
            bundle,
            engine,  # type: ignore[arg-type]
            mode=o.mode,
            stride=o.stride,
            smoothing=o.smoothing,
            max_frame_gap_s=o.max_frame_gap_s,
            unknown_threshold=o.unknown_threshold,
            owns_engine=False,
        )
        self.strips = Strips(o.pictures, bundle.info)
        self.passes: list[_Pass] = []
        self.events: list[dict[str, Any]] = []
        self.clocks: list[tuple[int, int]] = []  # (log, stamp) of every frame, for truth by the bag's clock
        self.seconds_seen = 0.0
        self.windows = 0
        self._active: str | None = None
        self._labels: dict[str, str | None] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, raw: Path, predictions: Path, progress: Callable[[int], None] | None) -> None:
        """Everything through the recogniser; results line by line into `raw`, still without their truth."""
        o = self.task.options
        began, cpu = time.perf_counter(), time.process_time()
        pace: AtOnce | SlowRobot = AtOnce(self.recognizer)
        if o.simulate_latency_s is not None:
            pace = SlowRobot(self.recognizer, o.simulate_latency_s)
        with ExitStack() as stack:
            file = stack.enter_context(raw.open("w", encoding="utf-8"))
            writer = None
            if o.predictions != "none":
                from gc_ros.evaluation.predictions import Predictions

                writer = stack.enter_context(
                    Predictions(predictions, self.bundle.info, o.predictions == "merged")
                )
            epoch, backward, last, sampled = self.recognizer.epoch, 0, None, 0
            for frame in stack.enter_context(closing(read_ahead(self.frames))):
                if progress is not None and len(self.clocks) % 16 == 0:
                    progress(len(self.clocks))
                results_now = []
                try:
                    for result in pace.push(frame):
                        results_now.append(result)  # one by one: what comes before an error stays
                except ImageError as error:  # of a frame that was not foreseen to be taken
                    self.frames.refuse(error)
                else:
                    if (count := self.recognizer.counters().frames_sampled) != sampled:
                        sampled = count
                        self.strips.see(frame)
                    if self.recognizer.epoch != epoch:
                        epoch = self.recognizer.epoch
                        self._say(self.recognizer.take_events(), frame.stamp_ns, writer, frame.log_ns)
                        jumps = self.recognizer.counters().resets.get("backward", 0)
                        if jumps != backward:
                            backward, last = jumps, None
                    if last is None:
                        self.passes.append(_Pass(frame.stamp_ns, frame.stamp_ns, frame.log_ns))
                    elif 0 < frame.stamp_ns - last <= self.recognizer.max_frame_gap_s * NS:
                        self.seconds_seen += (frame.stamp_ns - last) / NS
                    current = self.passes[-1]
                    current.last_ns = last = max(current.last_ns, frame.stamp_ns)
                    self.clocks.append((frame.log_ns, frame.stamp_ns))
                    if writer is not None:
                        writer.image(frame, self.frames.topic)
                for activity, age_s in results_now:
                    self._result(activity, age_s, file, writer, frame.log_ns)
            for activity, age_s in pace.finish():
                self._result(activity, age_s, file, writer, self.clocks[-1][0] if self.clocks else 0)
            if self.passes:
                self._say(self.recognizer.reset("end"), self.passes[-1].last_ns, writer, self.clocks[-1][0])
        self.spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        if not self.passes:
            why = self.frames.damage or [f"{n} refused: {r}" for r, n in self.frames.refused.most_common(1)]
            raise DataError(
                f"{self.task.source.path}: no image to evaluate ({'; '.join(why) or 'topic is empty'})"
            )

    def _result(self, a: Activity, age_s: float, file: Any, writer: Any, log_ns: int) -> None:
        self._say(a.events, a.stamp_ns, writer, log_ns)
        row = {
            "n": self.windows,
            "pass": len(self.passes) - 1 if self.passes else 0,
            "start_ns": a.window_start_ns,
            "end_ns": a.window_end_ns,
            "label": a.label,
            "index": a.index,
            "score": a.score,
            "status": a.status,
            "scores": a.scores.tolist(),
            "active": self._active,
            "glimpses": [[g.x0, g.y0, g.x1, g.y1] for g in a.glimpses],
            "published_after_s": age_s,
            "timings_ms": a.timings,
        }
        self.windows += 1
        file.write(json.dumps(row) + "\n")
        known = self._known(a)
        badness = a.score if known is None else a.score - float(a.scores[a.labels.index(known)])
        if known is not None or self.truth.kind == "none":
            self.strips.offer(
                badness if known is not None else 1 - a.score,
                row["n"],
                row["pass"],
                a.window_start_ns,
                a.window_end_ns,
                self.engine.glimpses,
            )
        if writer is not None:
            writer.activity(a, age_s, self.frames, log_ns)

    def _known(self, a: Activity) -> str | None:
        """The truth of a window as far as it is known while reading, for the choice of pictures."""
        if self.truth.kind == "name":
            label = self.truth.label
        elif self.truth.kind == "csv" and self.task.options.truth_time == "header":
            segments = from_table(
                self.truth.segments, self.passes[0].first_ns if self.passes else a.window_start_ns
            )
            kind, label = truth_of(
                a.window_start_ns, a.window_end_ns, segments, self.task.options.min_overlap
            )
            if kind != "label":
                return None
        elif self.truth.kind == "topic" and self.frames.messages:
            newest = self.frames.messages[-1].message
            label = str(getattr(newest, "label", getattr(newest, "data", "")))
        else:
            return None
        mapped = self._map(label)
        return mapped if mapped in self.bundle.info.labels else None

    def _say(self, events: list[ActivityEvent], decided_ns: int, writer: Any, log_ns: int) -> None:
        for event in events:
            self._active = event.label if event.kind == "onset" else None
            self.events.append(
                {**asdict(event), "decided_ns": decided_ns, "pass": max(len(self.passes) - 1, 0)}
            )
            if writer is not None:
                writer.event(event, decided_ns, self.frames.frame_id, log_ns)

    # -- judging -----------------------------------------------------------------------------------------------

    def judge(self, raw: Path, windows: Path, bag_sha256: str) -> dict[str, Any]:
        """Give every window its truth and sum up the facts of the bag; what bag.json holds."""
        o, info = self.task.options, self.bundle.info
        segments = self._segments()
        mapped = [(s, self._map(s.label)) for s in segments]
        zero = self.passes[0].first_ns
        with windows.open("w", encoding="utf-8") as out:
            for row in results.read_windows(raw):
                kind, label = "none", None
                if self.truth.kind != "none":
                    kind, found = truth_of(row["start_ns"], row["end_ns"], segments, o.min_overlap)
                    if kind == "label":
                        target = self._map(found)
                        kind = "idle" if target == IDLE else "label" if target else "unmapped"
                        label = target if kind == "label" else found if kind == "unmapped" else None
                row |= {"bag": self.task.source.name, "truth": label, "truth_kind": kind}
                row |= {"start_s": (row["start_ns"] - zero) / NS, "end_s": (row["end_ns"] - zero) / NS}
                out.write(json.dumps(row, sort_keys=True) + "\n")
        counters, frames = self.recognizer.counters(), self.frames
        truth_segments = [
            {
                "pass": p,
                "start_s": (max(s.start, q.first_ns) - zero) / NS,
                "end_s": (min(s.end, q.last_ns) - zero) / NS,
            }
            | {"label": target if target else s.label, "mapped": target in info.labels}
            for p, q in enumerate(self.passes)
            for s, target in mapped
            if target != IDLE and s.start <= q.last_ns and s.end >= q.first_ns
        ]
        return {
            "name": self.task.source.name,
            "key": identity(self.task, self.truth),
            "files": self.task.source.quick(),
            "windows_sha256": file_sha256(windows),
            "labels": info.labels,
            "topic": frames.topic,
            "start_ns": zero,
            "passes": [
                {"start_s": (p.first_ns - zero) / NS, "end_s": (p.last_ns - zero) / NS} for p in self.passes
            ],
            "seconds_seen": self.seconds_seen,
            "counts": {
                "images": frames.images,
                "images_refused": sum(frames.refused.values()),
                "zero_stamps": frames.zero_stamps,
                "frames_sampled": counters.frames_sampled,
                "frames_dropped": dict(sorted(counters.dropped.items())),
                "resets": dict(sorted((k, v) for k, v in counters.resets.items() if k != "end")),
                "windows": self.windows,
                "windows_skipped": counters.windows_skipped,
            },
            "refused": dict(sorted(frames.refused.items())),
            "damage": [line[:300] for line in frames.damage[:50]],
            "truth": {
                "kind": self.truth.kind,
                "origin": self.truth.origin,
                "segments": truth_segments,
                "labels": dict(sorted(self._labels.items())),
            },
            "events": [
                {**e, "s": (e["stamp_ns"] - zero) / NS, "decided_s": (e["decided_ns"] - zero) / NS}
                for e in self.events
            ],
            "provenance": {
                "bag_sha256": bag_sha256,
                "bundle_json_sha256": bundle_digest(Path(self.task.bundle)),
                "model_id": info.model_id,
                "engine": self.engine.description,
                "options": o.as_json(),
            },
            "timings": {
                **self.spent,
                "host": platform.node(),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        }

    def _map(self, label: str) -> str | None:
        if label not in self._labels:
            self._labels[label] = map_label(label, self.bundle.info.labels, self.task.options.mapping)
        return self._labels[label]

    def _segments(self) -> list[Segment]:
        """The ground truth in nanoseconds of the stamps."""
        truth, first = self.truth, self.passes[0]
        last = max(p.last_ns for p in self.passes)
        if truth.kind == "name":
            return [Segment(min(p.first_ns for p in self.passes), last, truth.label)]
        log_clock = self.task.options.stamps == "log"
        if truth.kind == "topic":
            return from_messages(self.frames.messages, last, log_clock)
        if truth.kind != "csv":
            return []
        if self.task.options.truth_time == "header":
            return from_table(truth.segments, first.first_ns)
        found = from_table(truth.segments, first.first_log_ns)
        log, stamp = (np.array(column, np.int64) for column in zip(*sorted(self.clocks), strict=True))
        zero_log, zero = int(log[0]), int(stamp[0])

        def convert(at: float) -> float:
            inside = np.interp(at - zero_log, log - zero_log, stamp - zero)
            beyond = max(at - int(log[-1]), 0) + min(at - zero_log, 0)
            return zero + float(inside) + beyond

        return [Segment(convert(s.start), convert(s.end), s.label) for s in found]
