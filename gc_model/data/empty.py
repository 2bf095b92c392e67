# SPDX-License-Identifier: Apache-2.0
"""`gc-model empty`: clips of real places without anybody, made from clips of people and the boxes of these.

A model that has seen real places only behind people takes a place alone for one of its activities. A clip gives up to
two of nobody: the largest part beside everybody in it, mirrored until it fills the picture and, where the camera
stands still and the people step aside, the whole picture with the place itself where they were.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_ros.media.clips import tables_of
from gc_ros.media.detections import Box, boxes_of, check_of_these_pictures, read_csv
from gc_ros.media.tables import read_rows
from gc_ros.media.video_writer import VideoWriter
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.labels import IDLE_LABELS

# A box is widened by this share of its longer side, and counts for so long before and after its picture: detectors miss
# feet and shadows, and look at every third picture.
_WIDER, _LASTS_S = 0.15, 0.4
_LEAST_FRAMES, _MOST_FRAMES = 8, 200
_LEAST_PART = 0.3  # of the picture, beside the people
_STANDS = 3.0  # grey levels by which the pictures of a camera that stands still differ beside the people
# Share of the pictures that must show a point of the place, and share of the points that may be guessed.
_SEEN, _GUESSED = 0.1, 0.1
_DARK = 12.0  # grey levels: black borders show no place


def write_empty(
    data: Path, boxes: Path, out: Path, *, subjects: Sequence[str] | None = None, progress: bool = True
) -> dict[str, Any]:
    """Write clips of nobody and their table, `out`/clips.csv; each keeps the subject of the clip that it comes from.

    boxes: folder of the people's boxes, class/clip.boxes.csv. Returns {"clips", "without_boxes", "beside", "places",
    "damaged": {name: reason}}: how many clips were found, passed over, and written of either kind. Raises DataError
    where no clip has boxes that can be read, two clips share a table of them, or none shows a place without anybody.
    """
    from rich.progress import track

    clips = own.clips(data, subjects=subjects)
    tables = tables_of(clips, partial(boxes_of, boxes), there_only=True)
    there = [(clip, table) for clip, table in zip(clips, tables, strict=True) if table.is_file()]
    if not there:
        raise DataError(
            f"{boxes}: no boxes of these clips, {tables[0]} for one; write them with "
            "`gc-model joints --boxes` or `gc-model boxes`"
        )
    label = IDLE_LABELS[0]
    before = _written_before(out, label)
    (out / label).mkdir(parents=True, exist_ok=True)
    written: dict[str, list[str]] = {}
    counts = {"clips": len(clips), "without_boxes": len(clips) - len(there), "beside": 0, "places": 0}
    damaged: dict[str, str] = {}
    for clip, table in track(there, "people out of the picture", disable=not progress):
        try:
            views = list(_views(clip, table))
        except DataError as error:
            damaged[clip.name] = str(error)
            continue
        for kind, frames, stamps in views:
            name = _name_of(clip, label, kind, written)
            with VideoWriter(out / name) as video:
                for frame, stamp_ns in zip(frames, stamps, strict=True):
                    video.write(frame, stamp_ns)
            written[name] = [name, label, clip.subject]
            counts[kind] += 1
    if not written and damaged:
        raise DataError(f"{data}: nothing of {_first(damaged)}")
    if not written:
        others = f"; {counts['without_boxes']} more have no boxes" if counts["without_boxes"] else ""
        raise DataError(f"{data}: people fill every picture{others}; none shows a place without them")
    own.write_table(out, [row for _, row in sorted((before | written).items())])
    return counts | {"damaged": damaged}


def _first(damaged: Mapping[str, str]) -> str:
    """The first of these clips with what is wrong with it, and how many more there are."""
    name, reason = next(iter(damaged.items()))
    return f"{name}: {reason}" + (f"; and {len(damaged) - 1} more" if len(damaged) > 1 else "")


def _written_before(out: Path, label: str) -> dict[str, list[str]]:
    """The rows of an earlier run into the same folder, by path. Raises DataError for a table that no run wrote."""
    table = out / "clips.csv"
    if not table.is_file():
        return {}
    _, rows = read_rows(table, ("path", "class", "subject"))
    found = {row["path"]: [row["path"], row["class"], row["subject"]] for _, row in rows}
    if any(cls != label or not path.startswith(f"{label}/") for path, cls, _ in found.values()):
        raise DataError(f"{table} lists clips of something else: give --out another folder")
    return {path: row for path, row in found.items() if (out / path).is_file()}


def _name_of(clip: LabelledClip, label: str, kind: str, taken: Container[str]) -> str:
    """A name for what a clip shows of nobody; two clips whose names become one are told apart by a number."""
    stem = f"{label}/{Path(clip.name).with_suffix('').as_posix().replace('/', '_')}"
    numbers = itertools.chain([""], (f"_{n}" for n in itertools.count(2)))
    names = (f"{stem}{number}_{kind}.mp4" for number in numbers)
    return next(name for name in names if name not in taken)


@dataclass(frozen=True)
class Shot:
    """Pictures of one stretch of a clip in which everybody is known.

    frames: (n, H, W, 3) uint8 RGB; stamps: nanoseconds; people: (n, H, W) bool, where somebody may be.
    """

    frames: NDArray[np.uint8]
    stamps: list[int]
    people: NDArray[np.bool_]


def _views(clip: LabelledClip, table: Path) -> Iterator[tuple[str, NDArray[np.uint8], list[int]]]:
    """What a clip shows of nobody: (kind, frames, stamps)."""
    shot = known(clip, table)
    if shot is None:
        return
    for kind, frames in (("beside", beside(shot)), ("places", place(shot))):
        if frames is not None and frames.mean() > _DARK:
            yield kind, frames, shot.stamps


def known(clip: LabelledClip, table: Path) -> Shot | None:
    """The longest stretch of a clip in which somebody was found all the time; None where it is too short.

    A picture in which a detector finds nobody may still show somebody: only where people are known is it known where
    they are not.
    """
    found = [d for d in read_csv(table) if d.people]
    when = np.array([d.stamp_ns for d in found]) / NS
    frames: list[NDArray[np.uint8]] = []
    stamps: list[int] = []
    for image, stamp_ns in clip.read(clip.path):
        # Boxes are in pixels of one size: what follows a change of it, as in a joined film, has other places.
        if len(frames) == _MOST_FRAMES or (frames and image.shape != frames[0].shape):
            break
        frames.append(image)
        stamps.append(stamp_ns)
    near = [
        [found[i] for i in np.flatnonzero(abs(when - (stamp - stamps[0]) / NS) <= _LASTS_S)]
        for stamp in stamps
    ]
    first, length = _longest([bool(n) for n in near])
    if length < _LEAST_FRAMES:
        return None
    height, width = frames[0].shape[:2]
    boxes = [(b.x_min, b.y_min, b.x_max, b.y_max) for d in found for b in (p.box for p in d.people)]
    check_of_these_pictures(boxes, width, height, table, clip.path)
    people = np.zeros((length, height, width), bool)
    for mask, detections in zip(people, near[first : first + length], strict=True):
        for box in (p.box for d in detections for p in d.people):
            x0, y0, x1, y1 = _wider(box, width, height)
            mask[y0:y1, x0:x1] = True
    part = slice(first, first + length)
    return Shot(np.stack(frames[part]), stamps[part], people)


def _longest(there: Sequence[bool]) -> tuple[int, int]:
    """(first, length) of the longest run of true values."""
    best, start = (0, 0), 0
    for i, value in enumerate([*there, False]):
        if not value:
            best, start = max(best, (start, i - start), key=lambda run: run[1]), i + 1
    return best


def _wider(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    by = _WIDER * max(box.x_max - box.x_min, box.y_max - box.y_min)
    low = np.floor([box.x_min - by, box.y_min - by]).astype(int).clip(0, [width, height])
    high = np.ceil([box.x_max + by, box.y_max + by]).astype(int).clip(0, [width, height])
    return (*low.tolist(), *high.tolist())


def beside(shot: Shot) -> NDArray[np.uint8] | None:
    """The pictures (n, H, W, 3) filled with their largest part left of, right of or above everybody, mirrored.

    Their size and scale stay, since a model could tell nobody by the shape of what was cut out. None where all parts
    are too small.
    """
    height, width = shot.people.shape[1:]
    rows, columns = (np.flatnonzero(shot.people.any(axis)) for axis in ((0, 2), (0, 1)))
    if not len(rows):
        return None
    x0, x1, y0 = columns[0], columns[-1] + 1, rows[0]
    left, top, right, bottom = max(
        [(0, 0, x0, height), (x1, 0, width, height), (0, 0, width, y0)],
        key=lambda p: (p[2] - p[0]) * (p[3] - p[1]),
    )
    if (right - left) * (bottom - top) < _LEAST_PART * width * height:
        return None
    mirrored = cv2.BORDER_REFLECT
    return np.stack(
        [
            cv2.copyMakeBorder(
                image[top:bottom, left:right], top, height - bottom, left, width - right, mirrored
            )
            for image in shot.frames
        ]
    )


def place(shot: Shot) -> NDArray[np.uint8] | None:
    """The pictures (n, H, W, 3) with the place itself where people are; None where it is never seen without them.

    The rest of every picture stays as it is, so that camera noise and what moves by itself do.
    """
    some = np.linspace(0, len(shot.frames) - 1, min(len(shot.frames), 60)).round().astype(int)
    frames, people = shot.frames[some], shot.people[some]
    free = ~people.any(0)
    if free.mean() < 0.1 or not people.any():
        return None
    grey = frames[:, free].mean(-1)
    if abs(grey - np.median(grey, 0)).mean() > _STANDS:
        return None
    seen = (~people).sum(0) >= max(3, _SEEN * len(frames))
    if (~seen).mean() > _GUESSED:
        return None
    covered = np.broadcast_to(people[..., None], frames.shape)
    with np.errstate(all="ignore"):
        middle = np.ma.median(np.ma.masked_array(frames, covered), 0).filled(0).astype(np.uint8)
    if not seen.all():
        middle = np.asarray(cv2.inpaint(middle, (~seen).astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)
    return np.stack(
        [_laid(image, middle, mask) for image, mask in zip(shot.frames, shot.people, strict=True)]
    )


def _laid(image: NDArray[np.uint8], middle: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image with another where the mask is set, without a visible seam."""
    share = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)[..., None]
    share = np.maximum(share, mask[..., None])
    return (image + share * (middle.astype(np.float32) - image)).round().astype(np.uint8)
