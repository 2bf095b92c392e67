# SPDX-License-Identifier: Apache-2.0
"""One bag through the recogniser, image by image: result rows, events and predictions, still without their truth.

What every reading of a bag finds, whoever recognises in it, is a `BagReading`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gc_ros.evaluation.ahead import read_ahead
from gc_ros.evaluation.judging import Judge, Pass
from gc_ros.evaluation.latency import AtOnce, SlowRobot
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.sources import Frame, FrameReader
from gc_ros.evaluation.strips import Strips, WatchedEngine
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.recognizer import Counters, Recognizer
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.recognition.taught import Lessons
from gc_ros.recognition.taught_file import load_lessons, taught_digest
from gc_ros.stamps import NS
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError, ImageError

if TYPE_CHECKING:
    from gc_ros.evaluation.predictions import Predictions


def lessons_of(bundle: LoadedBundle, options: Options) -> Lessons | None:
    """What the bundle was taught when the evaluation began. Raises DataError where it was taught more since."""
    if not options.taught:
        return None
    if taught_digest(Path(options.taught)) != options.taught_sha256:
        raise DataError(f"{options.taught}: what was taught changed during the evaluation; start it again")
    return load_lessons(bundle, options.taught)


class BagReading:
    """What one reading of a bag finds.

    passes: stretches of forward stamps. events: as dictionaries with "decided_ns" and "pass". clocks: (time of
    recording, stamp) of every image. seconds_seen: without gaps. windows: how many results. spent: wall and CPU time.
    strips: of the worst windows.
    """

    def __init__(self, bundle: LoadedBundle, frames: FrameReader, judge: Judge, options: Options) -> None:
        self.bundle, self.frames, self.judge, self.options = bundle, frames, judge, options
        self.passes: list[Pass] = []
        self.events: list[dict[str, Any]] = []
        self.clocks: list[tuple[int, int]] = []
        self.seconds_seen = 0.0
        self.windows = 0
        self.spent: dict[str, float] = {}
        self.strips = Strips(options.pictures, bundle.info)
        self._rows: IO[str]

    @property
    def in_pass(self) -> int:
        """The number of the present pass, from 0; also before the first."""
        return max(len(self.passes) - 1, 0)

    def row(self, a: Activity, active: str | None, age_s: float = 0.0) -> dict[str, Any]:
        """The row of a result, which is then counted. active: the label that is on. age_s: until it was published."""
        row = {
            "n": self.windows,
            "pass": self.in_pass,
            "start_ns": a.window_start_ns,
            "end_ns": a.window_end_ns,
            "label": a.label,
            "index": a.index,
            "score": a.score,
            "status": a.status,
            "scores": a.scores.tolist(),
            "active": active,
            "glimpses": [[g.x0, g.y0, g.x1, g.y1] for g in a.glimpses],
            "published_after_s": age_s,
            "timings_ms": a.timings_ms,
        }
        self.windows += 1
        return row

    def no_image(self) -> DataError:
        """What to raise where no image was usable."""
        refused = [f"{n} refused: {reason}" for reason, n in self.frames.refused.most_common(1)]
        why = "; ".join(self.frames.damage or refused) or "topic is empty"
        return DataError(f"{self.frames.source.path}: no image to evaluate ({why})")


class Reading(BagReading):
    """Reads one bag once for the activity of the whole picture."""

    def __init__(
        self, bundle: LoadedBundle, engine: WatchedEngine, frames: FrameReader, judge: Judge, options: Options
    ) -> None:
        super().__init__(bundle, frames, judge, options)
        self._engine = engine
        self.recognizer = Recognizer(
            bundle,
            engine,  # type: ignore[arg-type]
            mode=options.mode,
            stride=options.stride,
            smoothing=options.smoothing,
            max_frame_gap_s=options.max_frame_gap_s,
            unknown_threshold=options.unknown_threshold,
            lessons=lessons_of(bundle, options),
            owns_engine=False,
        )
        self._active: str | None = None  # the label that is on, after smoothing
        self._last_ns: int | None = None  # newest stamp of this pass
        self._epoch, self._backward, self._sampled = self.recognizer.epoch, 0, 0
        self._writer: Predictions | None = None

    def counters(self) -> Counters:
        """All counts of the recogniser."""
        return self.recognizer.counters()

    def read(self, rows: IO[str], predictions: Path | None, progress: Callable[[int], None] | None) -> None:
        """Run all images through the recogniser and write results to `rows`, one JSON line each.

        Raises DataError where no image is usable.
        """
        began, cpu = time.perf_counter(), time.process_time()
        pace: AtOnce | SlowRobot = AtOnce(self.recognizer)
        if self.options.simulate_latency_s is not None:
            pace = SlowRobot(self.recognizer, self.options.simulate_latency_s)
        with ExitStack() as stack:
            self._rows = rows
            if predictions is not None:
                from gc_ros.evaluation.predictions import Predictions

                merged = self.options.predictions == "merged"
                self._writer = stack.enter_context(Predictions(predictions, self.bundle.info, merged))
            for frame in stack.enter_context(closing(read_ahead(self.frames))):
                if progress is not None and len(self.clocks) % 16 == 0:
                    progress(len(self.clocks))
                self._take(frame, pace)
            for activity, age_s in pace.finish():
                self._result(activity, age_s, self.clocks[-1][0] if self.clocks else 0)
            if self.passes:
                self._note_events(
                    self.recognizer.reset("end"), self.passes[-1].last_ns, log_ns=self.clocks[-1][0]
                )
        self.spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        if not self.passes:
            raise self.no_image()

    def _take(self, frame: Frame, pace: AtOnce | SlowRobot) -> None:
        """Run one image through the recogniser; its results are written after what it says about the stream."""
        # Published before it came: they do not know of a break that it may bring.
        for activity, age_s in pace.before(frame):
            self._result(activity, age_s, frame.log_ns)
        results = []
        try:
            for result in pace.push(frame):
                results.append(result)  # one by one, so that results before an error are kept
        except ImageError as error:  # of a frame that was not expected to be sampled
            self.frames.refuse(error)
        else:
            self._follow(frame)
        for activity, age_s in results:
            self._result(activity, age_s, frame.log_ns)

    def _follow(self, frame: Frame) -> None:
        """Follow the stream: breaks, passes, seconds, and the sampled frames for the strips."""
        counters = self.recognizer.counters()
        if counters.frames_sampled != self._sampled:
            self._sampled = counters.frames_sampled
            self.strips.see(frame)
        if self.recognizer.epoch != self._epoch:
            self._epoch = self.recognizer.epoch
            self._note_events(self.recognizer.take_events(), frame.stamp_ns, log_ns=frame.log_ns)
            # Images that change begin a stream anew, of which the recogniser does not say how its stamps go on.
            if counters.resets.get("backward", 0) != self._backward or frame.stamp_ns < (self._last_ns or 0):
                self._backward, self._last_ns = counters.resets.get("backward", 0), None
        if self._last_ns is None:
            self.passes.append(Pass(frame.stamp_ns, frame.stamp_ns, frame.log_ns))
        elif 0 < frame.stamp_ns - self._last_ns <= self.recognizer.max_frame_gap_s * NS:
            self.seconds_seen += (frame.stamp_ns - self._last_ns) / NS
        current = self.passes[-1]
        current.last_ns = self._last_ns = max(current.last_ns, frame.stamp_ns)
        self.clocks.append((frame.log_ns, frame.stamp_ns))
        if self._writer is not None:
            self._writer.image(frame, self.frames.topic)

    def _result(self, a: Activity, age_s: float, log_ns: int) -> None:
        self._note_events(a.events, a.stamp_ns, log_ns=log_ns)
        row = self.row(a, self._active, age_s)
        self._rows.write(json.dumps(row) + "\n")
        self._offer_strip(a, row["n"], row["pass"])
        if self._writer is not None:
            self._writer.activity(a, age_s, self.frames, log_ns)

    def _offer_strip(self, a: Activity, number: int, in_pass: int) -> None:
        """Offer the window's pictures to the strips, by how wrong it is or, without truth, how unsure."""
        first_ns = self.passes[0].first_ns if self.passes else a.window_start_ns
        truth = self.judge.label_so_far(a.window_start_ns, a.window_end_ns, first_ns, self.frames.messages)
        if truth is not None:
            badness = a.score - float(a.scores[a.labels.index(truth)])
        elif self.judge.truth.kind == "none":
            badness = 1 - a.score
        else:
            return
        self.strips.consider(
            badness, number, in_pass, a.window_start_ns, a.window_end_ns, self._engine.glimpses
        )

    def _note_events(self, events: list[ActivityEvent], decided_ns: int, *, log_ns: int) -> None:
        """Keep events that were decided at a stamp, and write them to the predictions."""
        for event in events:
            self._active = event.label if event.kind == "onset" else None
            self.events.append({**asdict(event), "decided_ns": decided_ns, "pass": self.in_pass})
            if self._writer is not None:
                self._writer.event(event, decided_ns, self.frames.frame_id, log_ns)
