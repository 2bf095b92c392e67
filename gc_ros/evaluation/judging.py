# SPDX-License-Identifier: Apache-2.0
"""Judging a bag: the ground truth on the clock of its stamps and in the labels of the bundle, window by window."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gc_ros.evaluation.alignment import absent, misfit, overlaps, timeless
from gc_ros.evaluation.clocks import Clocks, Pass, from_messages, from_recorder
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.truth import IDLE, Span, Truth, map_label, spans_of, truth_of
from gc_ros.media.recording import Message
from gc_ros.stamps import NS


@dataclass
class LabelMap:
    """Maps labels of the ground truth to the bundle's. seen: what was asked for so far, with the answers.

    idle: labels of the bundle that say that nothing is done.
    """

    labels: Sequence[str]
    mapping: Mapping[str, str]
    idle: Collection[str] = ()
    seen: dict[str, str | None] = field(default_factory=dict)

    def __call__(self, label: str) -> str | None:
        """A label of the bundle, IDLE, or None where the bundle has no such label."""
        if label not in self.seen:
            found = map_label(label, self.labels, self.mapping)
            self.seen[label] = IDLE if found in self.idle else found
        return self.seen[label]


class Judge:
    """The ground truth of one bag: while the bag is read as far as it is known then, afterwards whole."""

    def __init__(
        self, truth: Truth, options: Options, labels: Sequence[str], idle: Collection[str] = ()
    ) -> None:
        self.truth, self.labels = truth, labels
        self.map = LabelMap(labels, options.mapping, idle)
        self._options = options

    def label_so_far(
        self,
        start_ns: int,
        end_ns: int,
        first_ns: int,
        messages: Sequence[Message],
        who: str | None = None,
    ) -> str | None:
        """The bundle's label of a window while the bag is still read; None where it has none or it is not known yet.

        first_ns: stamp of the first image. messages: those of the label topic so far. who: whose window it is; None:
        of the whole picture.
        """
        if self.truth.kind == "name":
            label = self.truth.label
        elif self.truth.kind == "csv" and self._options.truth_time == "header":
            spans = spans_of(self.truth.segments, first_ns)
            if who is not None:
                spans = [span for span in spans if span.who in (who, "")]
            kind, found = self.truth_of(start_ns, end_ns, spans)
            return found if kind == "label" else None
        elif self.truth.kind == "topic" and messages:
            newest = messages[-1].message
            label = str(getattr(newest, "label", getattr(newest, "data", "")))
        else:
            return None
        mapped = self.map(label)
        return mapped if mapped in self.labels else None

    def spans(
        self,
        passes: Sequence[Pass],
        messages: Sequence[Message],
        clocks: Sequence[tuple[int, int]],
        damaged: bool,
        seen: Collection[str] | None = None,
    ) -> list[Span]:
        """The ground truth on the clock of the stamps. clocks: (time of recording, stamp) of every image.

        seen: the people whom boxes name, where people are told apart.

        A truth that cannot belong to this recording is dropped: `truth.kind` becomes "none", `truth.remark` says why.
        """
        spans = self._spans(passes, messages, clocks)
        first_ns, last_ns = min(p.first_ns for p in passes), max(p.last_ns for p in passes)
        remark, serves = misfit(self.truth, spans, first_ns, last_ns, len(clocks), damaged)
        if serves:
            lost = "" if seen is None else absent(self.truth, seen)
            said = (remark, timeless(self.truth), overlaps(self.truth, seen is not None), lost)
            remark = "; ".join(filter(None, said))
        if not remark:
            return spans
        self.truth = replace(self.truth, remark=remark, kind=self.truth.kind if serves else "none")
        return spans if serves else []

    def _spans(
        self, passes: Sequence[Pass], messages: Sequence[Message], clocks: Sequence[tuple[int, int]]
    ) -> list[Span]:
        truth = self.truth
        if truth.kind == "name":
            return [Span(min(p.first_ns for p in passes), max(p.last_ns for p in passes), truth.label)]
        if truth.kind == "topic":
            return from_messages(messages, Clocks(passes, clocks), self._options.stamps == "log")
        if truth.kind != "csv":
            return []
        if self._options.truth_time == "header":
            return spans_of(truth.segments, passes[0].first_ns)
        return from_recorder(truth.segments, Clocks(passes, clocks))

    def judge(
        self,
        rows: Iterable[dict[str, Any]],
        windows: Path,
        bag: str,
        zero_ns: int,
        spans: Sequence[Span],
    ) -> None:
        """Write the rows of a reading to `windows` with the truth of each, and with seconds since `zero_ns`."""
        with windows.open("w", encoding="utf-8") as out:
            for row in rows:
                kind, label = self.truth_of(row["start_ns"], row["end_ns"], spans, row["pass"])
                row |= {"bag": bag, "truth": label, "truth_kind": kind}
                row |= {
                    "start_s": (row["start_ns"] - zero_ns) / NS,
                    "end_s": (row["end_ns"] - zero_ns) / NS,
                }
                out.write(json.dumps(row, sort_keys=True) + "\n")

    def truth_of(
        self, start_ns: int, end_ns: int, spans: Sequence[Span], in_pass: int = 0
    ) -> tuple[str, str | None]:
        """(truth_kind, truth) of a window in a pass, as windows.jsonl has them."""
        if self.truth.kind == "none":
            return "none", None
        near = [
            self._mapped(s)
            for s in spans
            if s.start_ns <= end_ns and s.end_ns >= start_ns and s.is_about(in_pass)
        ]
        kind, label = truth_of(start_ns, end_ns, near, self._options.min_overlap)
        if kind != "label":
            return kind, None
        return ("label", label) if label in self.labels else ("unmapped", label)

    def _mapped(self, span: Span) -> Span:
        """With the bundle's label or IDLE; a label that the bundle lacks stays what it is."""
        target = self.map(span.label)
        return span if target is None else replace(span, label=target)

    def recorded_segments(
        self, spans: Sequence[Span], passes: Sequence[Pass], zero_ns: int, people: bool = False
    ) -> list[dict[str, Any]]:
        """The activities of the ground truth within each pass, as bag.json has them. people: with who does them."""
        mapped = [(span, self.map(span.label)) for span in _united(spans)]
        found = []
        for number, each in enumerate(passes):
            for span, target in mapped:
                start_ns, end_ns = span.within(each.first_ns, each.last_ns)
                if target == IDLE or end_ns <= start_ns or not span.is_about(number):
                    continue
                row = {
                    "pass": number,
                    "start_s": (start_ns - zero_ns) / NS,
                    "end_s": (end_ns - zero_ns) / NS,
                    "label": target if target else span.label,
                    "mapped": target is not None,
                }
                found.append(row | ({"person": span.who} if people else {}))
        return found


def _united(spans: Sequence[Span]) -> list[Span]:
    """With rows that overlap and say the same as one: somebody does it once."""
    found: list[Span] = []
    newest: dict[tuple[str, str, int | None], int] = {}  # by label, person and pass, place of the last one
    for span in sorted(spans, key=lambda s: s.start_ns):
        which = span.label, span.who, span.in_pass
        at = newest.get(which)
        if at is not None and span.start_ns < found[at].end_ns:
            found[at] = replace(found[at], end_ns=max(found[at].end_ns, span.end_ns))
        else:
            newest[which] = len(found)
            found.append(span)
    return found
