# SPDX-License-Identifier: Apache-2.0
"""People in clips: where the person whom a sample shows stands, and the square around that person, as on the robot.

Boxes come from a CSV beside the clip (gc_ros.media.detections), or from the skeletons of a data set. The rest is the
robot's own code: `Tracks` says where somebody is when a frame was taken, `square` which part of it the network sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import JointSource, LabelledClip, PersonSource, ReadFrames, SeenPeople
from gc_ros.media.bag_people import Row, truth_of_people
from gc_ros.media.clips import clean, tables_of
from gc_ros.media.detections import Box, Detection, Detections, about, boxes_of, read_csv
from gc_ros.recognition.region import square
from gc_ros.recognition.tracks import Tracks
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.preprocess import PAD_VALUE, Area

MAX_AGE_S, TIMEOUT_S = 0.5, 1.0  # the robot's defaults
LEAST = 3  # pictures in which somebody must be found
# What a body has beyond its outermost joints, as shares of their longer side: hair, feet, hands.
_ABOVE, _BELOW, _ASIDE = 0.08, 0.03, 0.03
_JOINTS = 4  # of a body, at least: fewer have no size


def with_boxes(found: Sequence[LabelledClip], folder: Path, margin: float) -> list[LabelledClip]:
    """The clips with the people whom their labels are about, from `folder`/class/clip.boxes.csv.

    A clip stays a whole picture where it has no table, or its table shows nobody often enough. One with a truth for
    each person beside it (`truth_of_people`), as scenes have, becomes a clip for each person and activity. Raises
    DataError where there is no table at all, one that cannot be read, or two clips share one.
    """
    tables = tables_of(found, partial(boxes_of, folder), there_only=True)
    if not any(table.is_file() for table in tables):
        raise DataError(
            f"{folder}: no boxes of these clips, {tables[0]} for one; write them with `gc-model joints --boxes`"
        )
    chosen: list[LabelledClip] = []
    for clip, table in zip(found, tables, strict=True):
        if not table.is_file():
            chosen.append(clip)
        elif truth := truth_of_people(clip):
            chosen += [_apart(clip, row, table, margin) for row in truth]
        else:
            who = _ids(read_boxes(table).found)
            chosen.append(
                replace(clip, people=tuple(PersonSource(table, i, margin, read_boxes) for i in who))
            )
    return chosen


def _apart(clip: LabelledClip, row: Row, table: Path, margin: float) -> LabelledClip:
    """What one person does in a scene, as a clip."""
    span = (row.start_ns / NS, row.end_ns / NS)
    source = PersonSource(table, row.id, margin, read_boxes, span)
    name = f"{clip.name}, {row.id} from {span[0]:g} s"
    return replace(clip, name=name, label=clean(row.label), people=(source,), apart=True)


def with_skeletons(found: Sequence[LabelledClip], margin: float) -> list[LabelledClip]:
    """The clips of a data set with the bodies of their skeletons as people. Raises DataError where there are none."""
    if all(clip.joints is None for clip in found):
        raise DataError("--boxes skeletons is for data sets that have skeletons: ntu; give a folder of boxes")
    chosen = []
    for clip in found:
        source = clip.joints
        if source is None or source.file is None:
            chosen.append(clip)
            continue
        # Who is there shows when the file is read, which takes long: whoever is not is left away then.
        people = tuple(PersonSource(source.file, who, margin, _Skeletons(source)) for who in ("1", "2"))
        chosen.append(replace(clip, people=people if clip.together else people[:1]))
    return chosen


def _ids(found: Sequence[Detections]) -> list[str]:
    """Whom the label is about, if they are found often enough."""
    return [
        who for who in about(found) if sum(any(p.id == who for p in now.people) for now in found) >= LEAST
    ]


def read_boxes(table: Path) -> SeenPeople:
    """The people of a CSV, by time, in pixels of the clip's pictures."""
    return SeenPeople(read_csv(table))


class _Skeletons:
    """Reads a skeleton file as people, frame by frame, in pixels of the data set's own pictures."""

    def __init__(self, source: JointSource) -> None:
        self._source = source

    def __call__(self, file: Path) -> SeenPeople:
        joints, size = self._source.read(file)
        width, height = (int(n) for n in size)
        people = boxes_of_joints(joints * size, (width, height))
        found = [
            Detections(number, tuple(Detection(str(body + 1), box) for body, box in bodies))
            for number, bodies in enumerate(people)
        ]
        return SeenPeople(found, numbered=True, size=(width, height))


def boxes_of_joints(joints: NDArray[np.floating], size: tuple[int, int]) -> list[list[tuple[int, Box]]]:
    """For each frame the bodies (number, box) of joints (frames, bodies, joints, 2), pixels, NaN where unknown."""
    limit = np.array([*size, *size], float)
    frames = []
    for bodies in np.asarray(joints, float):
        found = []
        for number, points in enumerate(bodies):
            points = points[np.isfinite(points).all(-1)]
            if len(points) < _JOINTS:
                continue
            low, high = points.min(0), points.max(0)
            side = float((high - low).max())
            aside, above, below = _ASIDE * side, _ABOVE * side, _BELOW * side
            box = np.array([low[0] - aside, low[1] - above, high[0] + aside, high[1] + below])
            x0, y0, x1, y1 = np.clip(box, 0, limit).tolist()
            if x1 - x0 >= 1 and y1 - y0 >= 1:
                found.append((number, Box(x0, y0, x1, y1)))
        frames.append(found)
    return frames


class Whereabouts:
    """Where a person is in the frames of a clip, which come in their order."""

    def __init__(self, person: PersonSource) -> None:
        self._person = person
        seen = person.read(person.file)
        self._found, self._numbered, self._size = seen.found, seen.numbered, seen.size
        self._next = 0
        self._tracks = Tracks(MAX_AGE_S, TIMEOUT_S)

    def see(self, number: int, t_ns: int) -> None:
        """Take note of a frame: its number in the file, and its time since the first."""
        if not self._numbered:
            while self._next < len(self._found):
                newest = self._tracks.newest_ns
                if newest is not None and newest >= t_ns:
                    break
                self._tracks.add(self._found[self._next])
                self._next += 1
        elif number < len(self._found):
            self._tracks.add(replace(self._found[number], stamp_ns=t_ns))

    def area(self, image: NDArray[np.uint8], t_ns: int) -> tuple[NDArray[np.uint8], Area] | None:
        """(image, square in it) of the frame that was seen last; None where the person is not there.

        Pictures that were rescaled without keeping their aspect, as by `gc-model prepare`, get it back first.
        """
        place = self._tracks.at(t_ns).get(self._person.id)
        if place is None:
            return None
        box, height = place.box, image.shape[0]
        if self._size is not None:
            width = round(height * self._size[0] / self._size[1])
            if abs(width - image.shape[1]) > 1:
                image = np.asarray(
                    cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8
                )
            x, y = image.shape[1] / self._size[0], height / self._size[1]
            box = Box(box.x_min * x, box.y_min * y, box.x_max * x, box.y_max * y)
        region = square(box, self._person.margin)
        corners = (int(region.x_min), int(region.y_min), int(region.x_max), int(region.y_max))
        return image, corners


def alone(read: ReadFrames, person: PersonSource) -> ReadFrames:
    """Reads what `read` does as squares cut out around one person, without the frames in which he is not found.

    The reader raises DataError where no frame is left.
    """

    def frames(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
        where, start, some = Whereabouts(person), None, False
        for number, (image, stamp_ns) in enumerate(read(path)):
            start = stamp_ns if start is None else start
            t_ns = stamp_ns - start
            where.see(number, t_ns)
            found = where.area(image, t_ns) if person.shown_at(t_ns / NS) else None
            if found is not None:
                some = True
                yield cut_out(*found), stamp_ns
        if not some:
            raise DataError(f"{path}: person {person.id} of {person.file} is in none of its frames")

    return frames


def cut_out(image: NDArray[np.uint8], area: Area) -> NDArray[np.uint8]:
    """The square of an image, grey where it reaches beyond it: the network sees it as `model_input` shows `area`."""
    x0, y0, x1, y1 = area
    height, width = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    part = image[top:bottom, left:right]
    if (left, top, right, bottom) == area:
        return part
    out = np.full((y1 - y0, x1 - x0, 3), PAD_VALUE, np.uint8)
    if left < right and top < bottom:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = part
    return out
