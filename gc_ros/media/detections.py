# SPDX-License-Identifier: Apache-2.0
"""Detected people: who stands where in the picture, and when; in memory and as a CSV.

Convention: boxes are (x_min, y_min, x_max, y_max) in pixels of the camera image, x to the right, y down, origin at the
outer corner of the top left pixel. A box may reach beyond the image. Stamps are nanoseconds.

The CSV has the columns time_s, id, x_min, y_min, x_max, y_max and, if known, score: a row for each person of each
detected picture. time_s counts from the first frame of a clip or video; of a bag it is the stamp of the image. A row
without id and box says that nobody was found at that time.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from pathlib import Path

from gc_ros.media.tables import number, read_rows
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.files import replacing

_COLUMNS = ("time_s", "id", "x_min", "y_min", "x_max", "y_max")
MAX_ID_LENGTH = 128
LATEST_S = 9_223_372_036  # what int64 holds as nanoseconds
_LARGEST = 1e7  # pixels: no image is wider, and float32 still tells half pixels apart
_SHARES = 2.0  # a share of the image is hardly more than 1, beyond whose edges a box may reach


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the camera image: finite, and wider and higher than nothing."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def __post_init__(self) -> None:
        values = (self.x_min, self.y_min, self.x_max, self.y_max)
        if not all(math.isfinite(value) and abs(value) <= _LARGEST for value in values):
            raise DataError(f"a box of {values} is no rectangle of a picture")
        if self.x_max <= self.x_min or self.y_max <= self.y_min:
            raise DataError(
                f"a box of {values} is empty: x_max and y_max must be larger than x_min and y_min"
            )


@dataclass(frozen=True)
class Detection:
    """One person in one picture. id: the tracker's, the same in every picture. score: 0 to 1."""

    id: str
    box: Box
    score: float = 1.0

    def __post_init__(self) -> None:
        if not self.id or len(self.id) > MAX_ID_LENGTH:
            raise DataError(
                f"the id of a person has 1 to {MAX_ID_LENGTH} characters, got {len(self.id)}; "
                "a tracker gives ids, a detector alone does not"
            )


@dataclass(frozen=True)
class Detections:
    """Everybody who was found in the picture of this stamp; nobody is an answer, too."""

    stamp_ns: int
    people: tuple[Detection, ...]


def about(found: Sequence[Detections]) -> tuple[str, ...]:
    """The ids of those whom the label of a clip is about: who is seen large and long, or half as much as that.

    Several do something together, while others pass by. Ordered by that measure; () where nobody was found.
    """
    seen: dict[str, float] = {}
    for now in found:
        for person in now.people:
            box = person.box
            area = (box.x_max - box.x_min) * (box.y_max - box.y_min)
            seen[person.id] = seen.get(person.id, 0.0) + area
    most = max(seen.values(), default=0.0)
    return tuple(sorted((who for who in seen if seen[who] >= most / 2), key=lambda who: (-seen[who], who)))


def check_of_these_pictures(
    boxes: Iterable[Sequence[float]], width: float, height: float, table: Path, clip: Path
) -> None:
    """Raise DataError where most boxes (x_min, y_min, x_max, y_max) have their middle outside pictures of this size.

    So have those that were made on larger pictures of the same clip; of somebody who leaves through an edge, few.
    table, clip: the files of both, for the message.
    """
    inside = [0 <= x0 + x1 <= 2 * width and 0 <= y0 + y1 <= 2 * height for x0, y0, x1, y1 in boxes]
    if 2 * sum(inside) < len(inside):
        raise DataError(
            f"{table}: most boxes lie outside the pictures of {clip}, so they were made on pictures of another size; "
            "make them again of these clips"
        )


def boxes_of(folder: Path, name: str) -> Path:
    """Where the CSV of the clip `name` lies below a folder of boxes: class/clip.boxes.csv for class/clip.mp4."""
    return (folder / name).with_suffix(".boxes.csv")


def read_csv(file: Path) -> list[Detections]:
    """The detections of a CSV by time, oldest first.

    Raises DataError with the row that cannot be used, and where the boxes are shares of the image.
    """
    _, rows = read_rows(file, _COLUMNS)
    found: list[tuple[int, Detection | None]] = []
    for place, row in rows:
        try:
            found.append((_stamp_ns(row), _person(row)))
        except DataError as error:
            raise DataError(f"{file}: row {place}: {error}") from None
    boxes = [person.box for _, person in found if person is not None]
    if boxes and all(max(b.x_max - b.x_min, b.y_max - b.y_min) <= _SHARES for b in boxes):
        raise DataError(
            f"{file}: no box is larger than {_SHARES:g} pixels, so they are shares of the image (0 to 1); multiply x "
            "by its width and y by its height, in pixels"
        )
    found.sort(key=lambda item: item[0])
    return [
        Detections(stamp_ns, tuple(person for _, person in group if person is not None))
        for stamp_ns, group in groupby(found, key=lambda item: item[0])
    ]


def _stamp_ns(row: dict[str, str]) -> int:
    time_s = _number(row, "time_s")
    if abs(time_s) >= LATEST_S:
        raise DataError(f"{row['time_s']} s is no time")
    return int((time_s * NS).to_integral_value())


def _person(row: dict[str, str]) -> Detection | None:
    if not any(row[name] for name in _COLUMNS[1:]):
        return None
    box = Box(*(float(_number(row, name)) for name in _COLUMNS[2:]))
    return Detection(row["id"], box, float(_number(row, "score")) if row.get("score") else 1.0)


def _number(row: dict[str, str], column: str) -> Decimal:
    try:
        return number(row[column])
    except ValueError as error:
        raise DataError(f"{column}: {error}") from None


def from_first(recorded: Iterable[Detections], first_ns: int) -> list[Detections]:
    """Detections whose times count from an image, on the clock on which that image has the stamp `first_ns`."""
    return [replace(found, stamp_ns=found.stamp_ns + first_ns) for found in recorded]


def write_csv(file: Path, detections: Iterable[Detections]) -> None:
    """Write the detections as `read_csv` takes them, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, "score"))
    for found in detections:
        time_s = f"{Decimal(found.stamp_ns) / NS:.9f}"
        for person in found.people:
            box = person.box
            places = [f"{value:.2f}" for value in (box.x_min, box.y_min, box.x_max, box.y_max)]
            writer.writerow((time_s, person.id, *places, f"{person.score:.3f}"))
        if not found.people:
            writer.writerow((time_s, *[""] * (len(_COLUMNS))))
    with replacing(file) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
