# SPDX-License-Identifier: Apache-2.0
"""Boxes of drawn people as a detector with a tracker would give them: in the picture, without who is hidden."""

from __future__ import annotations

import numpy as np

from gc_model.synth.clip import Clip
from gc_ros.media.detections import Box, Detection, Detections

SEEN = 0.3  # share of a body that must be seen for a detector to find it


def detections(clip: Clip, size: tuple[int, int], fps: float) -> list[Detections]:
    """Who is found in each picture of `size` (width, height). Ids count the bodies from 1, the same in all pictures."""
    found = []
    for k, (boxes, seen) in enumerate(zip(clip.boxes, clip.seen, strict=True)):
        people = []
        for number in np.flatnonzero(seen >= SEEN):  # NaN, of nobody, is not
            x0, y0, x1, y1 = np.clip(boxes[number], 0, (*size, *size)).tolist()
            people.append(Detection(str(number + 1), Box(x0, y0, x1, y1)))
        found.append(Detections(round(k * 1e9 / fps), tuple(people)))
    return found
