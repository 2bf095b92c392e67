# SPDX-License-Identifier: Apache-2.0
"""One bag through the recogniser of people: a result row for each window of each person, still without its truth.

Whoever has been there for a whole window and got no result in time is noted as missed, see `misses`.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gc_ros.evaluation.ahead import read_ahead
from gc_ros.evaluation.judging import Judge, Pass
from gc_ros.evaluation.misses import Misses
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.people_sources import (
    PeopleReader,
    by_stamps,
    choose_topic,
    find_table,
    first_and_last,
    remedy,
)
from gc_ros.evaluation.reading import BagReading, lessons_of
from gc_ros.evaluation.sources import Frame, FrameReader, Source
from gc_ros.evaluation.strips import Seen, WatchedSlots
from gc_ros.evaluation.whereabouts import StampsOfImages, Whereabouts, match
from gc_ros.media.detections import Detections, from_first, read_csv
from gc_ros.media.kinds import clean
from gc_ros.media.recording import Message
from gc_ros.recognition.following import Following, in_order
from gc_ros.recognition.intake import Signature, signature_of
from gc_ros.recognition.people import PeopleCounters, PersonActivity
from gc_ros.recognition.sampler import Sampler
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.errors import DataError

if TYPE_CHECKING:
    from gc_ros.evaluation.people_predictions import PeoplePredictions


class PeopleReading(BagReading):
    """Reads one bag once for the activities of each person. origin: of the boxes; "" where a topic has them."""

    def __init__(
        self, bundle: LoadedBundle, engine: Engine, source: Source, judge: Judge, options: Options
    ) -> None:
        assert options.people is not None
        self.options, self._path = options, source.path
        self._engine = WatchedSlots(engine, bundle.info.T)
        self._lessons = lessons_of(bundle, options)
        # By person and stamp, of results still to be written.
        self._seen: dict[tuple[str, int], list[Seen]] = {}
        self._table = None if options.people.startswith("topic:") else find_table(source, options.people)
        self.people_reader: PeopleReader | None = None
        sampler = Sampler(bundle.info.rate_hz, options.max_frame_gap_s)
        topics = self._topics if self._table is None else lambda _: ()
        frames = FrameReader(source, options.topic, options.stamps, sampler=sampler, people=topics)
        super().__init__(bundle, frames, judge, options)
        if self._table is None and self.people_reader is None:
            raise DataError(f"{source.path}: a video has no topic of people; {remedy(source.path)}")
        self.origin = "" if self._table is None else self._table.name
        self._by_boxes = options.true_boxes is not None
        self._true_table = find_table(source, options.true_boxes) if options.true_boxes else None
        self._stream = Sampler(bundle.info.rate_hz, options.max_frame_gap_s)
        self._following: Following | None = None
        self._true: list[Detections] = []  # what a table says of where people really are
        self._there = Whereabouts()
        self._stamps = StampsOfImages()
        self._signature: Signature | None = None
        self._active: dict[str, str | None] = {}
        # Person of the truth by id: from the newest result, and from that with which began what is on.
        self._named: dict[str, str] = {}
        self._began: dict[str, str] = {}
        info = bundle.info
        step = (options.mode or info.default_mode) == "step"
        every = max(options.stride, (info.reset_after or 1) if step else 1)
        self._span_ns = round((info.T - 1) / info.rate_hz * NS)  # of a window, first frame to last
        # Stamps of frames that people were looked for in, of whom nothing is noted yet.
        self._shown: list[int] = []
        self._begun_ns = 0  # stamp of the first image since a break: nobody has a full window before
        self._misses = Misses(
            round(info.window_s * NS), round(every / info.rate_hz * NS), round(0.5 / info.rate_hz * NS)
        )
        self._log_ns = 0  # when what is looked at was recorded
        self._writer: PeoplePredictions | None = None

    def _topics(self, topics: dict[str, str]) -> Sequence[str]:
        topic = choose_topic(topics, self.options.people or "", self._path)
        self.people_reader = PeopleReader(topic, topics)
        return self.people_reader.topics

    def counters(self) -> PeopleCounters:
        """All counts of the recogniser."""
        assert self._following is not None
        return self._following.people.counters()

    def read(self, rows: IO[str], predictions: Path | None, progress: Callable[[int], None] | None) -> None:
        """Run all images through the recogniser and write results to `rows`, one JSON line each.

        Raises DataError where no image is usable.
        """
        began, cpu = time.perf_counter(), time.process_time()
        self._rows = rows
        with ExitStack() as stack:
            if predictions is not None:
                from gc_ros.evaluation.people_predictions import PeoplePredictions

                merged = self.options.predictions == "merged"
                self._writer = PeoplePredictions(predictions, self.bundle.info, merged)
                stack.enter_context(self._writer)
            for frame in stack.enter_context(closing(read_ahead(self.frames))):
                if progress is not None and len(self.clocks) % 16 == 0:
                    progress(len(self.clocks))
                self._take(frame)
            if self._following is None:
                raise self.no_image()
            for item in self.frames.rest:
                self._look(item)
            self._results(self._following.finish())
            self._note_missed(self._misses.end())
            self._note_events(self._following.people.reset("end"))
        self.spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}

    def _begin(self, first_ns: int) -> Following:
        o, source = self.options, self.frames.source
        ends = functools.cache(lambda: first_and_last(source, self.frames.topic, o.stamps))

        def placed(table: Path) -> list[Detections]:
            recorded = read_csv(table)
            if source.is_video:
                return from_first(recorded, first_ns)
            return by_stamps(recorded, first_ns, ends)

        recorded = [] if self._table is None else placed(self._table)
        self._true = recorded if self._true_table is None else placed(self._true_table)
        self._there = Whereabouts(self._true)
        return Following(
            self.bundle,
            self._engine,  # type: ignore[arg-type]
            recorded,
            looked=self._looked,
            shown=self._shown.append,
            mode=o.mode,
            stride=o.stride,
            smoothing=o.smoothing,
            max_frame_gap_s=o.max_frame_gap_s,
            unknown_threshold=o.unknown_threshold,
            lessons=self._lessons,
            margin=o.person_margin,
            max_age_s=o.people_max_age_s,
            timeout_s=o.person_timeout_s,
        )

    def _looked(self, result: PersonActivity, slot: int) -> None:
        self._seen[result.person_id, result.activity.stamp_ns] = self._engine.seen(slot)

    def _take(self, frame: Frame) -> None:
        self._following = self._following or self._begin(frame.stamp_ns)
        signature = signature_of(frame.picture, frame.encoding)
        changed = self._signature not in (None, signature)
        if changed:  # a stream of its own, as for `People`
            self._stream.reset()
        broken = self._stream.decide(frame.stamp_ns).reset
        again = broken == "backward" or (changed and frame.stamp_ns < self.passes[-1].last_ns)
        if again and self._table is not None:
            found, ended = self._following.rewind()
            self._results(found)
            self._note_events(ended)
        self._signature = signature
        for item in frame.people:
            self._look(item, frame)
        self._stamps.note(frame)
        self._log_ns = frame.log_ns
        if self._writer is not None:
            self._writer.image(frame, self.frames.topic)
        if broken is not None or changed:
            self._begun_ns = frame.stamp_ns
        found = self._following.push(frame.picture, frame.stamp_ns, encoding=frame.encoding)
        if again:  # what this image ends belongs to the pass before it
            self._note_events(self._following.people.take_events())
        self._follow(frame, again)
        self._results(found)

    def _look(self, item: Message, frame: Frame | None = None) -> None:
        """Take the boxes of a message. frame: the image behind it."""
        assert self._following is not None and self.people_reader is not None
        self._log_ns = item.log_ns
        for said in self.people_reader.read(item, self._signature and self._signature[:2]):
            found = self._stamps.placed(said, frame)
            if not self._by_boxes:
                self._there.add(found)
            self._results(self._following.detections(found))

    def _follow(self, frame: Frame, again: bool) -> None:
        """Follow the stream: passes and seconds. again: the stamps begin again, and so does what a table tells."""
        stamp_ns = frame.stamp_ns
        if again and self._true:
            self._there = Whereabouts(self._true)
        if again:
            self._note_missed(self._misses.end())
        if again or not self.passes:
            self.passes.append(Pass(stamp_ns, stamp_ns, frame.log_ns))
        current = self.passes[-1]
        if 0 < stamp_ns - current.last_ns <= self._stream.max_frame_gap_s * NS:
            self.seconds_seen += (stamp_ns - current.last_ns) / NS
        current.last_ns = max(current.last_ns, stamp_ns)
        self.clocks.append((frame.log_ns, stamp_ns))

    def _results(self, found: Sequence[PersonActivity]) -> None:
        assert self._following is not None
        by_frame: dict[int, list[PersonActivity]] = {stamp_ns: [] for stamp_ns in self._shown}
        self._shown.clear()
        for item in in_order(found, self._following.people.take_events()):
            if isinstance(item, PersonActivity):
                by_frame.setdefault(item.activity.stamp_ns, []).append(item)
            else:
                self._frames(by_frame, item[1].stamp_ns)
                self._note_events([item])
        self._frames(by_frame)

    def _frames(self, by_frame: dict[int, list[PersonActivity]], last_ns: float = math.inf) -> None:
        """Note the results of frames, up to that of a stamp, and who has none; they are taken out."""
        assert self._following is not None
        for stamp_ns in [stamp_ns for stamp_ns in by_frame if stamp_ns <= last_ns]:
            results = by_frame.pop(stamp_ns)
            there = self._there.at(stamp_ns)
            named = (
                match(results, there) if self._by_boxes else [clean(result.person_id) for result in results]
            )
            for result, who in zip(results, named, strict=True):
                self._named[result.person_id] = who or f"?{result.person_id}"
                for event in result.activity.events:
                    self._note_event(result.person_id, event, stamp_ns)
                self._row(result, who)
            since = {who: max(self._there.since_ns(who), self._begun_ns) for who in there}
            self._note_missed(self._misses.frame(stamp_ns, since, {who for who in named if who is not None}))
            if self._writer is not None and results:
                self._writer.people(results, self._following.people, self.frames.frame_id, self._log_ns)

    def _row(self, result: PersonActivity, who: str | None) -> None:
        a, box = result.activity, result.box
        row = self.row(a, self._active.get(result.person_id)) | {
            "person": result.person_id,
            "box": [box.x_min, box.y_min, box.x_max, box.y_max],
            "truth_person": who,
        }
        self._offer_strip(result, who, row["n"])
        self._rows.write(json.dumps(row) + "\n")

    def _offer_strip(self, result: PersonActivity, who: str | None, number: int) -> None:
        """Offer what the network saw of a person, by how wrong the result is or, without truth, how unsure."""
        a = result.activity
        seen = self._seen.pop((result.person_id, a.stamp_ns), [])
        start_ns, end_ns, first_ns = a.window_start_ns, a.window_end_ns, self.passes[0].first_ns
        if who is None:  # nobody stands there: whatever is recognised is wrong
            badness = a.score
        elif truth := self.judge.label_so_far(start_ns, end_ns, first_ns, (), who):
            badness = a.score - float(a.scores[a.labels.index(truth)])
        elif self.judge.truth.kind == "none":
            badness = 1 - a.score
        else:
            return
        self.strips.consider_person(badness, number, self.in_pass, result.person_id, start_ns, end_ns, seen)

    def _note_missed(self, missed: Sequence[tuple[str, int]]) -> None:
        for who, stamp_ns in missed:
            start_ns = stamp_ns - self._span_ns
            row = {
                "missed": True,
                "pass": self.in_pass,
                "start_ns": start_ns,
                "end_ns": stamp_ns,
                "truth_person": who,
            }
            self._rows.write(json.dumps(row) + "\n")

    def _note_events(self, ended: Sequence[tuple[str, ActivityEvent]]) -> None:
        """Note what ended without a result, as the frame decided that was looked at last."""
        assert self._following is not None
        for person, event in ended:
            self._note_event(person, event, self._following.people.shown_ns)

    def _note_event(self, person: str, event: ActivityEvent, decided_ns: int) -> None:
        if event.kind == "onset":
            self._began[person] = self._named.get(person, person)
        # What ends is what began, whoever the box lies on by now.
        name = self._began.get(person, person)
        self._active[person] = event.label if event.kind == "onset" else None
        place = {"decided_ns": decided_ns, "pass": self.in_pass}
        self.events.append({**asdict(event), **place, "person": name})
        if self._writer is not None:
            self._writer.event(event, decided_ns, self.frames.frame_id, self._log_ns, person)

    def everybody(self) -> set[str]:
        """Everybody whom the true boxes name, as a truth may name them."""
        return self._there.names() | {clean(p.id) for found in self._true for p in found.people}

    def left_out(self) -> dict[str, int]:
        """Boxes that were not used, by reason."""
        refused = self.people_reader.refused if self.people_reader is not None else Counter[str]()
        return dict(sorted((Counter(self.counters().left_out) + refused).items()))
