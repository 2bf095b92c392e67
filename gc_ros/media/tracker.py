# SPDX-License-Identifier: Apache-2.0
"""A small tracker: boxes of people, found in one picture after the other, get ids.

As in ByteTrack (Zhang et al., 2022): each track moves on at its speed, sure boxes are given to tracks first, then the
unsure ones to tracks that lack one, since somebody who is half hidden is found with a low score. Boxes and tracks are
paired so that the sum of their overlaps is the largest there is. Nothing but places is compared: two people who change
places behind each other may change ids, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.stamps import NS
from trt_build.errors import need
from trt_build.install import extra

LEAST_SCORE = 0.1  # below it a box is nothing
_SURE_OVERLAP, _UNSURE_OVERLAP = 0.15, 0.4  # IoU that a pair needs at least


@dataclass
class _Track:
    id: str
    box: NDArray[np.float64]  # (4,) corners
    stamp_ns: int
    speed: NDArray[np.float64] | None = None  # (2,) of the centre, pixels a second, once it is known
    found: int = 1

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        if self.speed is None:
            return self.box
        return self.box + np.tile(self.speed * ((stamp_ns - self.stamp_ns) / NS), 2)


class Tracker:
    """Ids for the people of one camera or video.

    confidence: score from which a box is sure, and from which it begins a track. confirm: pictures in which somebody
    must be found before anything is said of him, one where the first picture shows him. lost_s: how long
    somebody may be hidden and still be the same.
    """

    def __init__(self, *, confidence: float = 0.4, confirm: int = 2, lost_s: float = 1.0) -> None:
        self._confidence, self._confirm, self._lost_ns = confidence, confirm, round(lost_s * NS)
        self._tracks: list[_Track] = []
        self._next = 1
        self._began = False
        self._assign = need("scipy.optimize", extra("evaluate")).linear_sum_assignment

    def update(self, found: Sequence[tuple[Box, float]], stamp_ns: int) -> Detections:
        """Take the boxes, with scores, of the next picture; whoever is found in it, by id."""
        self._tracks = [t for t in self._tracks if 0 <= stamp_ns - t.stamp_ns <= self._lost_ns]
        boxes = [np.array([b.x_min, b.y_min, b.x_max, b.y_max]) for b, _ in found]
        sure = [i for i, (_, score) in enumerate(found) if score >= self._confidence]
        unsure = [i for i, (_, score) in enumerate(found) if LEAST_SCORE <= score < self._confidence]
        free = list(range(len(self._tracks)))
        pairs: dict[int, int] = {}  # track -> box
        for chosen, least in ((sure, _SURE_OVERLAP), (unsure, _UNSURE_OVERLAP)):
            pairs |= self._pair(free, chosen, boxes, stamp_ns, least)
            free = [t for t in free if t not in pairs]
        for t, i in pairs.items():
            self._follow(self._tracks[t], boxes[i], stamp_ns)
        for i in sure:
            if i not in pairs.values():
                pairs[len(self._tracks)] = i
                self._tracks.append(_Track(str(self._next), boxes[i], stamp_ns))
                self._next += 1
        if found and not self._began:
            self._began = True
            for track in self._tracks:
                track.found = self._confirm
        people = [
            Detection(self._tracks[t].id, found[i][0], found[i][1])
            for t, i in sorted(pairs.items())
            if self._tracks[t].found >= self._confirm
        ]
        return Detections(stamp_ns, tuple(people))

    def _pair(
        self,
        tracks: Sequence[int],
        chosen: Sequence[int],
        boxes: Sequence[NDArray[np.float64]],
        stamp_ns: int,
        least: float,
    ) -> dict[int, int]:
        if not tracks or not chosen:
            return {}
        expected = np.stack([self._tracks[t].at(stamp_ns) for t in tracks])
        overlaps = overlap(expected, np.stack([boxes[i] for i in chosen]))
        # A pair that must not be is worth nothing, so that it never takes the place of one that may.
        rows, columns = self._assign(np.where(overlaps >= least, overlaps, 0.0), maximize=True)
        return {
            tracks[r]: chosen[c]
            for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
            if overlaps[r, c] >= least
        }

    def _follow(self, track: _Track, box: NDArray[np.float64], stamp_ns: int) -> None:
        seconds = (stamp_ns - track.stamp_ns) / NS
        if seconds > 0:
            moved = (box[:2] + box[2:] - track.box[:2] - track.box[2:]) / 2 / seconds
            # The first speed is all there is; later ones are smoothed, since boxes tremble.
            track.speed = moved if track.speed is None else track.speed + 0.4 * (moved - track.speed)
        track.box, track.stamp_ns, track.found = box, stamp_ns, track.found + 1


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (n, m) of the boxes (n, 4) and (m, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))
