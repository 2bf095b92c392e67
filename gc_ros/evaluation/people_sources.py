# SPDX-License-Identifier: Apache-2.0
"""The people of a source, from topics of the bag or from a CSV, as `--people` asks; and where they really stood."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote

from gc_ros.evaluation.sources import FrameReader, Source
from gc_ros.evaluation.truth import ABSOLUTE_S
from gc_ros.media.detections import Detections, boxes_of, from_first
from gc_ros.media.people_topics import BY_TYPE, PERSON, Bodies, Family, Found
from gc_ros.media.recording import Message
from gc_ros.stamps import NS
from trt_build.errors import DataError

_BODY = re.compile(r"/humans/bodies/(\w+)/roi")
_APART_NS = NS // 1000  # of rounded times
_ENDS = (".people.csv", ".boxes.csv", ".csv")


def find_table(source: Source, how: str) -> Path | None:
    """The CSV of a source. how: a file, a folder of them, or "auto" for one that comes with the source.

    None where none comes with it. Raises DataError where `how` is none of these.
    """
    names = (source.path.name, source.path.stem)
    if how == "auto":
        # Beside the source, or in the folder `boxes` of its data set.
        places = [source.path.with_name(f"{name}.people.csv") for name in names]
        root = source.path.parents[min(len(Path(source.name).parts), len(source.path.parents)) - 1]
        places.append(boxes_of(root / "boxes", source.name))
        return next((place for place in places if place.is_file()), None)
    path = Path(how)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{how}: no such boxes; give a CSV, a folder of them, topic:/NAME or auto")
    within = Path(source.name).with_suffix("")
    places = [path / f"{name}{end}" for name in (within, *names) for end in _ENDS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"{path}: no boxes of {source.name}; there should be {places[0].name}")
    return found


def shared_tables(sources: Sequence[Source], *hows: str | None) -> list[str]:
    """A remark for every table that `find_table` gives to several sources. hows: None where nothing is asked for.

    Right where they show the same, a bag and the video that it was made from; else wrong for all but one.
    """
    remarks = []
    for how in dict.fromkeys(how for how in hows if how is not None and not how.startswith("topic:")):
        users: dict[Path, list[str]] = {}
        for source in sources:
            # What is missing is said when its turn comes.
            with contextlib.suppress(DataError):
                if table := find_table(source, how):
                    users.setdefault(table, []).append(source.name)
        for table, names in users.items():
            if len(names) > 1:
                remarks.append(
                    f"{table}: the boxes of {' and '.join(names[:2])}"
                    f"{f' and {len(names) - 2} more' if len(names) > 2 else ''}, right only where these show the same"
                )
    return remarks


def by_stamps(
    recorded: list[Detections], first_ns: int, ends: Callable[[], tuple[int, int]]
) -> list[Detections]:
    """Detections of a CSV on the clock of images that begin at `first_ns`.

    Times count from the first image, or are stamps already: those from 1e8 s on. Smaller ones are stamps, as of a
    simulation, where more of them lie among those of the images so, or as many and they begin nearer to the first
    image. ends: the least and the largest stamp of the images, asked for where either may be.
    """
    if not recorded or not first_ns or recorded[-1].stamp_ns >= ABSOLUTE_S * NS:
        return recorded
    shifted = from_first(recorded, first_ns)
    if recorded[-1].stamp_ns < first_ns:
        return shifted
    first, last = ends()

    def fit(readings: list[Detections]) -> tuple[int, int]:
        there = sum(first - _APART_NS <= found.stamp_ns <= last + _APART_NS for found in readings)
        return there, -abs(readings[0].stamp_ns - first)

    return max(shifted, recorded, key=fit)


def first_and_last(source: Source, topic: str, stamps: str) -> tuple[int, int]:
    """The least and the largest stamp of a source's images, by reading it once more."""
    found = [frame.stamp_ns for frame in FrameReader(source, topic or None, stamps)]
    return min(found), max(found)


def choose_topic(topics: dict[str, str], how: str, path: Path) -> str:
    """The only topic of detected people in a bag, or the one asked for as topic:/NAME. Raises DataError."""
    there = sorted(name for name, kind in topics.items() if kind in BY_TYPE)
    wanted = how.removeprefix("topic:") if how.startswith("topic:") else None
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted in there:
        return str(wanted)
    types = ", ".join(row.short_type for row in BY_TYPE.values())
    if not there:
        raise DataError(f"{path}: no topic of detected people ({types}); {remedy(path)}")
    raise DataError(f"{path}: choose the people with --people topic:/NAME; there are: {', '.join(there)}")


def remedy(path: Path) -> str:
    """What to type for a source that says nothing of people."""
    return f"give --people FILE.csv, or find them: gc-ros boxes {quote(str(path))} --detector YOLOX.onnx"


class PeopleReader:
    """Makes detections of the messages of a bag. topics: those it needs. refused: counts by reason of unusable ones."""

    def __init__(self, topic: str, topics: dict[str, str]) -> None:
        self._family: Family = BY_TYPE[topics[topic]]
        self._topic, self._bodies = topic, Bodies()
        self.refused: Counter[str] = Counter()
        boxes = [name for name, kind in topics.items() if kind == Bodies.ROI_TYPE and _BODY.fullmatch(name)]
        self.topics = (topic, *([] if self._family.read else sorted(boxes)))

    def read(self, item: Message, size: tuple[int, int] | None) -> Iterator[Detections]:
        """The detections that a message makes known. size: of the images, None before the first."""
        found = self._found(item, size)
        self.refused.update(found.refused)
        yield from found.complete

    def _found(self, item: Message, size: tuple[int, int] | None) -> Found:
        if self._family.read is not None:
            return self._family.read(item.message, PERSON)
        if item.topic == self._topic:
            return self._bodies.tracked(item.message)
        body = _BODY.fullmatch(item.topic)
        assert body is not None
        return self._bodies.roi(body[1], item.message, size)
