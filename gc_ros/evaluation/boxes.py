# SPDX-License-Identifier: Apache-2.0
"""The people of bags and videos by a detector of one's own, as tables that `--people` takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gc_ros.evaluation.sources import FrameReader, Source
from gc_ros.media.clips import tables_of
from gc_ros.media.detections import Detections, boxes_of, write_csv
from gc_ros.media.detector import Detector, Finder
from gc_ros.recognition.sampler import Sampler
from trt_build.command import counted
from trt_build.errors import DataError, ImageError

GOES_BACK = "its stamp is not after the one before, as where a bag is in a loop"


@dataclass(frozen=True)
class Boxes:
    """The table of one source: how many images it is about, and in how many somebody is."""

    source: str
    table: Path
    images: int
    with_people: int
    people: int  # ids
    left_out: Counter[str] = field(default_factory=Counter)  # images by the reason
    damage: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """What was wrong with the images, in words."""
        return [f"{counted(n, 'image')} left out: {reason}" for reason, n in self.left_out.items()] + list(
            self.damage
        )

    def as_text(self) -> str:
        """The answer in a line."""
        seen = (
            f"{counted(self.people, 'id')}, somebody in {self.with_people} of {counted(self.images, 'image')}"
        )
        return f"{self.source}: {seen}: {self.table}"

    def as_json(self) -> dict[str, Any]:
        """The answer in plain types."""
        return asdict(self) | {"table": str(self.table)}


def tables(sources: Sequence[Source], out: Path | None) -> list[Path]:
    """Where the boxes of sources go: beside each, or below the folder `out`. `--people` looks for them there.

    Raises DataError where two would share one.
    """
    if out is None:
        return [source.path.with_name(f"{source.path.name}.people.csv") for source in sources]
    return tables_of(sources, partial(boxes_of, out))


def find_people(
    source: Source,
    detector: Detector,
    table: Path,
    *,
    topic: str | None = None,
    stamps: str = "header",
    rate_hz: float | None = None,
) -> Boxes:
    """Write where everybody is in the images of a source; times count from the first image.

    topic, stamps: as of `FrameReader`. rate_hz: images a second that are looked at, chosen by `Sampler`; None = all.
    An image whose stamp does not go on has no row: the table would be about two images at once. Raises DataError where
    no image can be used.
    """
    reader, finder = FrameReader(source, topic, stamps), Finder(detector)
    found: list[Detections] = []
    left_out: Counter[str] = Counter()
    sampler = None if rate_hz is None else Sampler(rate_hz)
    first_ns = last_ns = 0
    for frame in reader:
        if found and frame.stamp_ns <= last_ns:
            left_out[GOES_BACK] += 1
            continue
        if sampler is not None and not sampler.would_take(frame.stamp_ns):
            sampler.decide(frame.stamp_ns)
            continue
        try:
            pixels = frame.picture.pixels()
        except ImageError as error:
            reader.refuse(error)
            continue
        if not found:
            first_ns = frame.stamp_ns
        last_ns = frame.stamp_ns
        if sampler is not None:
            sampler.decide(frame.stamp_ns)
        rgb = np.ascontiguousarray(pixels[..., ::-1]) if frame.picture.bgr else pixels
        found.append(finder(rgb, frame.stamp_ns - first_ns))
    left_out += reader.refused
    if not found:
        why = next(iter(left_out), "it has none")
        raise DataError(f"{source.path}: no image can be used: {why}")
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, found)
    ids = {person.id for now in found for person in now.people}
    return Boxes(
        source.name,
        table,
        len(found),
        sum(bool(now.people) for now in found),
        len(ids),
        left_out,
        tuple(reader.damage),
    )
