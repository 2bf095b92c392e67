# SPDX-License-Identifier: Apache-2.0
"""The two clocks of a bag, its recorder's and that of its stamps, which may begin again where the other goes on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gc_ros.evaluation.truth import Segment, Span, spans_of
from gc_ros.media.recording import Message
from gc_ros.stamps import NS
from trt_build.errors import DataError

_SAME_CLOCK_S = 1.0  # stamps this far from the time of recording may be late, but are of one clock


@dataclass
class Pass:
    """A stretch of the bag in which stamps only go forward."""

    first_ns: int
    last_ns: int
    first_log_ns: int


class Clocks:
    """Stamps by time of recording. images: (time of recording, stamp) of every image, as they were read."""

    def __init__(self, passes: Sequence[Pass], images: Sequence[tuple[int, int]]) -> None:
        self.passes = passes
        of_pass: list[list[tuple[int, int]]] = [[] for _ in passes]
        number = 0
        for image in images:
            if number + 1 < len(passes):
                following = passes[number + 1]
                number += image == (following.first_log_ns, following.first_ns)
            of_pass[number].append(image)
        self._clocks = [np.array(sorted(found), np.int64).T for found in of_pass]  # (2, n)
        self._unrelated = [np.median(np.abs(log - stamp)) > _SAME_CLOCK_S * NS for log, stamp in self._clocks]

    def number(self, log_ns: int) -> int:
        """The pass that is recorded at a time."""
        return max(bisect_right([p.first_log_ns for p in self.passes], log_ns) - 1, 0)

    def stamp_at(self, log_ns: int, number: int) -> int:
        """The stamp in a pass at a time of recording: between images by interpolation, else at the same pace."""
        log, stamp = self._clocks[number]
        zero_log, zero = int(log[0]), int(stamp[0])
        inside = np.interp(log_ns - zero_log, log - zero_log, stamp - zero)
        beyond = max(log_ns - int(log[-1]), 0) + min(log_ns - zero_log, 0)
        return zero + round(float(inside)) + beyond

    def label_at(self, log_ns: int, number: int) -> int:
        """The same for labels: one number on both clocks, unless they are unrelated.

        A camera's own clock has nothing to do with the recorder's.
        """
        return self.stamp_at(log_ns, number) if self._unrelated[number] else log_ns

    def between(self, span: Span, first: int, last: int) -> list[Span]:
        """A span that begins in the pass `first` and ends in `last`, cut where the stamps begin again."""
        if len(self.passes) == 1:
            return [span]
        found = []
        for n in range(first, last + 1):
            start_ns = span.start_ns if n == first else self.passes[n].first_ns
            end_ns = span.end_ns if n == last else self.passes[n].last_ns
            if start_ns < end_ns:
                found.append(replace(span, start_ns=start_ns, end_ns=end_ns, in_pass=n))
        return found


def from_recorder(segments: Sequence[Segment], clocks: Clocks) -> list[Span]:
    """The spans of a CSV whose times are those of recording."""
    found = []
    for span in spans_of(segments, clocks.passes[0].first_log_ns):
        ends = [(clocks.number(log_ns), log_ns) for log_ns in (span.start_ns, span.end_ns)]
        start_ns, end_ns = (clocks.stamp_at(log_ns, number) for number, log_ns in ends)
        found += clocks.between(replace(span, start_ns=start_ns, end_ns=end_ns), ends[0][0], ends[1][0])
    return found


def from_messages(messages: Sequence[Message], clocks: Clocks, recorder: bool) -> list[Span]:
    """The spans of a label topic.

    std_msgs/String: a label holds until the next message (empty: idle). Other messages have `label` and, as our
    ActivityEvent, `kind`, 0 for the beginning and 1 for the end; those with a `person_id` are not about the whole
    picture and left out. recorder: the images count by the time of recording, so that stamps of messages say nothing.
    """
    spans: list[Span] = []
    current: tuple[int, int, str] | None = None  # pass, stamp, label
    for item in messages:
        message: Any = item.message
        if getattr(message, "person_id", ""):  # of one person in the picture
            continue
        label = getattr(message, "label", getattr(message, "data", None))
        if not isinstance(label, str):
            raise DataError(f"{item.topic} is of {item.msgtype} and has no label; use std_msgs/String")
        number = clocks.number(item.log_ns)
        at = clocks.label_at(item.log_ns, number)
        stamp = getattr(message, "stamp", getattr(getattr(message, "header", None), "stamp", None))
        if stamp is not None and not recorder and (int(stamp.sec) or int(stamp.nanosec)):
            at = int(stamp.sec) * NS + int(stamp.nanosec)
            # It may be recorded just before the first image of its pass.
            back = current is not None and number == current[0] and at < current[1]
            number += back and number + 1 < len(clocks.passes)
        if current is not None:
            spans += clocks.between(Span(current[1], at, current[2]), current[0], number)
        ended = getattr(message, "kind", 0) == 1
        current = None if ended else (number, at, label)
    if current is not None:
        last = len(clocks.passes) - 1
        spans += clocks.between(Span(current[1], clocks.passes[last].last_ns, current[2]), current[0], last)
    return [span for span in spans if span.end_ns > span.start_ns]
