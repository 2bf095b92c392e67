# SPDX-License-Identifier: Apache-2.0
"""Whether a ground truth fits a recording, or has times in another unit, of another clock, or of another bag.

And whether its rows fit together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gc_ros.evaluation.truth import ABSOLUTE_S, Segment, Span, Truth
from gc_ros.stamps import NS

_NAMES = 5  # of people, told in a remark
_LATE_S = 2.0  # a row may end this much after the last image before it is remarked on
# Seconds since 1970 have ten digits until the year 2286; each finer unit has three more.
_FINER = ((1e17, "nanoseconds"), (1e14, "microseconds"), (1e11, "milliseconds"))


def misfit(
    truth: Truth, spans: Sequence[Span], first_ns: int, last_ns: int, images: int, damaged: bool
) -> tuple[str, bool]:
    """(remark, serves): what does not fit between a ground truth and a recording, and whether to score with it.

    spans: the truth on the clock of the stamps, those of the images from `first_ns` to `last_ns`. damaged: a recording
    that was cut short, whose truth may well continue after its end.
    """
    outside = sum(_outside(span, first_ns, last_ns) for span in spans)
    if truth.kind == "topic":
        if outside < len(spans):
            return "", True
        return f"no label on {truth.topic} lies within the recording", False
    if truth.kind != "csv" or not spans:
        return "", True
    late = sum(span.start_ns <= last_ns < span.end_ns - _LATE_S * NS for span in spans)
    if not outside and not late:
        return "", True
    length_s = (last_ns - first_ns) / NS
    begin_s = first_ns / NS if truth.segments[0].start >= ABSOLUTE_S else 0.0
    where = f"the recording ({_short(begin_s)} to {_short(begin_s + length_s)} s)"
    rows = f"{outside or late} of {len(spans)} rows of {truth.origin}"
    remark = f"{rows} {'lie outside of' if outside else 'end after'} {where}; times are seconds"
    unit = _other_unit(truth.segments, length_s, images)
    if unit:
        remark += f", these look like {unit}"
    mistaken = bool(unit) and not damaged and 2 * (outside + late) > len(spans)
    return remark, not mistaken and outside < len(spans)


def _outside(span: Span, first_ns: int, last_ns: int) -> bool:
    """Whether a row has no time in common with the recording; one that only touches it has none."""
    begin_ns, end_ns = span.within(first_ns, last_ns)
    touches = begin_ns == end_ns and span.end_ns > span.start_ns and last_ns > first_ns
    return touches or end_ns < begin_ns


def timeless(truth: Truth) -> str:
    """A remark on rows that end when they begin, "" where none does."""
    count = sum(row.start == row.end for row in truth.segments)
    if not count:
        return ""
    return (
        f"{count} of {len(truth.segments)} rows of {truth.origin} end when they begin, and count for nothing"
    )


def overlaps(truth: Truth, apart: bool) -> str:
    """A remark on rows that begin before one of the same person has ended, "" where none does.

    apart: whether people are told apart; else all rows are about the same picture.
    """
    longest: dict[str, Segment] = {}  # by person, the row so far that ends last
    found: list[tuple[Segment, Segment]] = []
    for row in truth.segments:
        who = row.who if apart else ""
        # A row of nobody in particular is about everybody.
        others = [other for name, other in longest.items() if not who or name in (who, "")]
        other = max(others, key=lambda s: s.end, default=None)
        if other is not None and row.start < other.end:
            found.append((other, row))
        if who not in longest or row.end > longest[who].end:
            longest[who] = row
    if not found:
        return ""
    first = " and ".join(
        f"{row.label or 'idle'} {_short(row.start)} to {_short(row.end)} s" for row in found[0]
    )
    told = any(row.who for row in truth.segments) and not apart
    remedy = "--people tells people apart" if told else "let one row end where the next begins"
    rows = f"{len(found)} of {len(truth.segments)} rows of {truth.origin}"
    return f"{rows} overlap one before, first {first}; what covers more of a window counts; {remedy}"


def absent(truth: Truth, seen: Collection[str]) -> str:
    """A remark on people of whom rows tell, but who are nowhere in the recording, "" where all are.

    seen: whom the boxes name.
    """
    named = {row.who for row in truth.segments} - {""}
    missing = sorted(named - {*seen})
    if not missing:
        return ""
    rows = sum(row.who in missing for row in truth.segments)
    there = _some(sorted(seen)) or "nobody"
    return (
        f"{rows} of {len(truth.segments)} rows of {truth.origin} are about people whom no box names "
        f"({_some(missing)}; the boxes name {there}): of them there is no window, and what they do goes unnoticed"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def _short(seconds: float) -> str:
    return f"{seconds:.1f}".removesuffix(".0")


def _other_unit(segments: Sequence[Segment], length_s: float, images: int) -> str:
    """What the times of a table look like if not like seconds, "" where they may be seconds."""
    times = [time for segment in segments for time in (segment.start, segment.end)]
    top = max(times)
    for least, unit in _FINER:
        if top >= least:
            return f"{unit} since 1970"
    if top >= ABSOLUTE_S or any(time != int(time) for time in times):
        return ""
    if top <= images:
        return "frame numbers"
    return "milliseconds" if top <= 1000 * (length_s + _LATE_S) else ""
