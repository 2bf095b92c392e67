# SPDX-License-Identifier: Apache-2.0
"""The ground truth, what was really done when: from a CSV, a topic, or the name of a bag; and that of a window.

A CSV has the columns start_s, end_s, label, `bag` where it is about several, and `id` where it tells people apart.
Times are seconds since the first image, or, from 1e8 upwards, since 1970; by the clock of header stamps, or with
`truth_time` "bag" that of recording (then counted from the first recorded image). Times that no row covers are idle:
nothing of interest is done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gc_ros.evaluation.sources import Source
from gc_ros.media.clips import VIDEO_SUFFIXES
from gc_ros.media.kinds import BAG_SUFFIXES, clean, plain, some
from gc_ros.media.tables import read_rows, times_of
from gc_ros.stamps import NS
from trt_build.errors import DataError

IDLE = ""  # what idle time maps to: no label of a bundle is empty, while one may be called "idle"
_IDLE_NAMES = {"idle", "none", "background", "nothing", "noactivity", "null", ""}
ABSOLUTE_S = 1e8
_MOST_S = 1e20  # more than nanoseconds since 1970, the largest that is taken for seconds by mistake


@dataclass(frozen=True)
class Segment:
    """A label from start to end, seconds. who: the person who does it, "" where the truth tells nobody apart.

    clip: of which `make-bag` made this part of a bag, "" where the table does not say.
    """

    start: float
    end: float
    label: str
    who: str = ""
    clip: str = ""


@dataclass(frozen=True)
class Span:
    """A label from one stamp to another, nanoseconds of one clock. who: as of a `Segment`.

    in_pass: the only pass over the stamps that it is about; None: every one.
    """

    start_ns: int
    end_ns: int
    label: str
    who: str = ""
    in_pass: int | None = None

    def within(self, first_ns: int, last_ns: int) -> tuple[int, int]:
        """Where the part between two stamps begins and ends; it ends no later than it begins where there is none."""
        return max(self.start_ns, first_ns), min(self.end_ns, last_ns)

    def is_about(self, in_pass: int) -> bool:
        """Whether it holds in a pass."""
        return self.in_pass in (None, in_pass)


@dataclass
class Truth:
    """The ground truth of a source. kind: "csv", "topic", "name" or "none". segments: of a CSV, in its own seconds."""

    kind: str
    origin: str = ""
    sha256: str | None = None
    segments: list[Segment] = field(default_factory=list)
    topic: str = ""
    label: str = ""
    remark: str = ""  # why it does not serve, where kind is "none" although there is one


def find_truth(source: Source, how: str, labels: Sequence[str], mapping: Mapping[str, str]) -> Truth:
    """The ground truth of a source as `Options.truth` asks for. Raises DataError."""
    if how == "none":
        return Truth("none")
    if how.startswith("topic:"):
        return Truth("topic", how, topic=how.removeprefix("topic:"))
    names = (source.path.name, source.path.stem)
    if how in ("auto", "name"):
        beside = [source.path.with_name(f"{name}.truth.csv") for name in names]
        inside = [source.path / "truth.csv"] if source.path.is_dir() else []
        table = next((path for path in [*beside, *inside] if path.is_file()), None)
        if how == "auto" and table is not None:
            return _table(table, source)
        if source.tabled:
            return Truth("name", "the table of clips", label=source.label)
        for origin, name in _names_about(source):
            if map_label(name, labels, mapping) is not None and name:
                return Truth("name", origin, label=name)
        if how == "name":
            raise DataError(
                f"{source.path}: neither its folder nor its name is a label of the bundle; use --map"
            )
        return Truth("none")
    path = Path(how)
    if path.is_dir():
        tables = [path / f"{name}{end}" for name in names for end in (".truth.csv", ".csv")]
        table = next((file for file in tables if file.is_file()), None)
        return Truth("none") if table is None else _table(table, source)
    if not path.is_file():
        raise DataError(
            f"{how}: no such truth; give a CSV, a folder of them, topic:/NAME, name, auto or none"
        )
    return _table(path, source)


def _names_about(source: Source) -> Iterator[tuple[str, str]]:
    """The names of folders and files that may be a source's label, nearest to a class first, links before targets."""
    yield "its folder", source.label
    for path in (Path(os.path.abspath(source.path)), source.path.resolve()):
        stem = path.stem if path.suffix.lower() in {*VIDEO_SUFFIXES, *BAG_SUFFIXES} else path.name
        yield "its folder", clean(path.parent.name)
        yield "its name", clean(stem)
        yield "the beginning of its name", clean(re.split(r"[_.\-~ ]", stem)[0])


def _table(path: Path, source: Source) -> Truth:
    from trt_build.bundle import file_sha256

    segments, others = read_segments(path, (source.name, source.path.name, source.path.stem))
    digest = file_sha256(path)
    if others and not segments:
        remark = f"{path.name} has no row for this bag, only for {some(others)}"
        return Truth("none", path.name, digest, remark=remark)
    return Truth("csv", path.name, digest, segments)


def read_segments(path: Path, names: Sequence[str] = ()) -> tuple[list[Segment], list[str]]:
    """(rows, other bags) of a CSV. Raises DataError that names the row.

    Where it has a column `bag`, the rows are those of the first of `names` that stands there.
    """
    columns, found = read_rows(path, ("start_s", "end_s", "label"), hint="; see docs/evaluation.md")
    bags = list(dict.fromkeys(clean(row["bag"]) for _, row in found)) if "bag" in columns else []
    bag = next((name for name in map(clean, names) if name in bags), None)
    segments = []
    for place, row in found:
        if "bag" in columns and clean(row["bag"]) != bag:
            continue
        start, end = map(float, times_of(path, place, row, _MOST_S))
        who, clip = (clean(row.get(name, "")) for name in ("id", "clip"))
        segments.append(Segment(start, end, clean(row["label"]), who, clip))
    return sorted(segments, key=lambda s: s.start), [name for name in bags if name != bag]


def spans_of(segments: Sequence[Segment], first_ns: int) -> list[Span]:
    """Seconds of a CSV as nanoseconds of the clock whose first image is at `first_ns`."""
    absolute = any(segment.start >= ABSOLUTE_S for segment in segments)
    zero = 0 if absolute else first_ns
    return [Span(zero + round(s.start * NS), zero + round(s.end * NS), s.label, s.who) for s in segments]


def map_label(label: str, labels: Sequence[str], mapping: Mapping[str, str]) -> str | None:
    """The bundle's label for one of the ground truth (letter case, spaces and hyphens aside), IDLE, or None.

    IDLE for a name of idle time, unless the bundle has a label of that name; None for a label that it lacks.
    """
    label = clean(label)
    label = {clean(key): value for key, value in mapping.items()}.get(label, label)
    if label in labels:
        return label
    found = [name for name in labels if plain(name) == plain(label)]
    if len(found) == 1:
        return found[0]
    return IDLE if plain(label) in _IDLE_NAMES else None


def truth_of(start_ns: int, end_ns: int, spans: Sequence[Span], min_overlap: float) -> tuple[str, str]:
    """(kind, label) of a window: "label", "idle", or "mixed" where nothing covers `min_overlap` of it.

    spans: on the window's clock, with labels that are one where they mean one, and IDLE for idle time. Time that
    several rows cover counts once for each label, and is idle only where no label covers it.
    """
    if end_ns <= start_ns:  # a window of one frame
        start_ns, end_ns = start_ns, start_ns + 1
        spans = [replace(span, end_ns=span.end_ns + 1) for span in spans]
    length = end_ns - start_ns
    parts: dict[str, list[tuple[int, int]]] = {}
    for span in spans:
        part = span.within(start_ns, end_ns)
        if part[0] < part[1] and span.label != IDLE:
            parts.setdefault(span.label, []).append(part)
    covered = {label: _length(own) / length for label, own in parts.items()}
    label = max(covered, key=lambda name: covered[name], default=IDLE)
    if label and covered[label] >= min_overlap:
        return "label", label
    idle = 1 - _length([part for own in parts.values() for part in own]) / length
    return ("idle", IDLE) if idle >= min_overlap else ("mixed", IDLE)


def _length(parts: Sequence[tuple[int, int]]) -> int:
    """What stretches of time cover together, each part of it once."""
    total, until = 0, -(1 << 63)
    for start, end in sorted(parts):
        total += max(end - max(start, until), 0)
        until = max(until, end)
    return total
