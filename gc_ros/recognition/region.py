# SPDX-License-Identifier: Apache-2.0
"""From the box of a person to the square of the image that the network sees. Training takes the same squares."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gc_ros.media.detections import Box
from gc_ros.media.images import Picture
from trt_build.bundle import Preprocess
from trt_build.preprocess import Area, model_input

MARGIN = 0.15  # on each side, as a share of the longer side of the box
SMOOTHING_S = 0.2  # time constant by which the size of a box follows the detector
HIDDEN = 0.25  # share of a box that somebody else covers
LARGEST = 2.0  # side of a square, as a multiple of the image's longer side


def margin_of(provenance: Mapping[str, Any]) -> float:
    """Of the squares around people that a network was trained on; the usual one where its provenance does not say."""
    people = provenance.get("people")
    margin: Any = people.get("margin") if isinstance(people, dict) else None
    return float(margin) if type(margin) in (int, float) and 0 <= margin <= 1 else MARGIN


def square(box: Box, margin: float = MARGIN) -> Box:
    """The square of whole pixels about the centre of a box: its longer side, and `margin` of that on each side.

    It may reach beyond the image, where the network sees grey.
    """
    side = max(_whole((1 + 2 * margin) * max(box.x_max - box.x_min, box.y_max - box.y_min)), 1)
    x = _whole((box.x_min + box.x_max - side) / 2)
    y = _whole((box.y_min + box.y_max - side) / 2)
    return Box(x, y, x + side, y + side)


def _whole(value: float) -> int:
    # Not `round`, whose halves go to even numbers: a box that moves by a pixel moves its square by one.
    return math.floor(value + 0.5)


def smooth(before: Box, found: Box, seconds: float, tau_s: float = SMOOTHING_S) -> Box:
    """A detected box with its size smoothed over time. before: the smoothed box `seconds` ago.

    The centre is the detection's: a smoothed one would lag behind who walks. Sizes jitter more, and a person does not
    grow.
    """
    weight = 1 - math.exp(-max(seconds, 0.0) / tau_s) if tau_s > 0 else 1.0
    middle = (found.x_min + found.x_max) / 2, (found.y_min + found.y_max) / 2
    old = before.x_max - before.x_min, before.y_max - before.y_min
    new = found.x_max - found.x_min, found.y_max - found.y_min
    w, h = (a + weight * (b - a) for a, b in zip(old, new, strict=True))
    return Box(middle[0] - w / 2, middle[1] - h / 2, middle[0] + w / 2, middle[1] + h / 2)


def between(a: Box, b: Box, share: float) -> Box:
    """The box on the way from a (share 0) to b (share 1)."""
    if share >= 1:  # exactly b, whatever the rounding
        return b
    mix = lambda x, y: x + share * (y - x)
    return Box(mix(a.x_min, b.x_min), mix(a.y_min, b.y_min), mix(a.x_max, b.x_max), mix(a.y_max, b.y_max))


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (area(a) + area(b) - shared)


def hidden(box: Box, others: Iterable[Box]) -> bool:
    """Whether one of the others covers a good part of the box."""
    for other in others:
        width = min(box.x_max, other.x_max) - max(box.x_min, other.x_min)
        height = min(box.y_max, other.y_max) - max(box.y_min, other.y_min)
        if width > 0 and height > 0 and width * height >= HIDDEN * area(box):
            return True
    return False


def area(box: Box) -> float:
    """Square pixels."""
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def misplaced(box: Box, width: int, height: int, margin: float) -> str:
    """Why a box cannot be of a person in an image of this size; "" where it can."""
    if box.x_max <= 0 or box.y_max <= 0 or box.x_min >= width or box.y_min >= height:
        return "box outside the image"
    side = max(box.x_max - box.x_min, box.y_max - box.y_min)
    return "box larger than the image" if (1 + 2 * margin) * side > LARGEST * max(width, height) else ""


@dataclass(frozen=True)
class Person:
    """Whom a frame shows. box: where the person is. region: the square of it that the network sees.

    stretch: as of `Place`. Two frames show the same person where id and stretch are the same.
    """

    id: str
    box: Box
    region: Box
    stretch: int = 0

    @property
    def area(self) -> Area:
        """The region as whole pixels."""
        r = self.region
        return int(r.x_min), int(r.y_min), int(r.x_max), int(r.y_max)


class PersonPicture(Picture):
    """One person of a camera image: the whole image's size and pixels, of which the network sees the region."""

    def __init__(self, whole: Picture, person: Person) -> None:
        super().__init__(whole.width, whole.height, whole.bgr, whole.pixels)
        self.person = person
        self._whole = whole

    @property
    def ready(self) -> bool:
        """Whether the pixels cost nothing more."""
        return self._whole.ready

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) of the whole image, made once for everybody in it. Raises ImageError."""
        return self._whole.pixels()

    def prepared(self, p: Preprocess) -> np.ndarray:
        """uint8 RGB (S, S, 3) of the region. Raises ImageError."""
        image, began = self.pixels(), time.perf_counter()
        frame = model_input(image, p, bgr=self.bgr, area=self.person.area)
        self.prepare_s = time.perf_counter() - began
        return frame
