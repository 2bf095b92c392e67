# SPDX-License-Identifier: Apache-2.0
"""From the box of a person to the square of the image that the network sees. Training takes the same squares."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from gc_ros.media.detections import Box
from gc_ros.media.images import Picture
from trt_build.bundle import Preprocess
from trt_build.preprocess import Area, model_input

MARGIN = 0.15  # on each side, as a share of the longer side of the box
SMOOTHING_S = 0.1  # time constant by which boxes follow the detector
LARGEST = 2.0  # side of a square, as a multiple of the image's longer side


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
    """The smoothed box after a detection: exponential over time. before: the smoothed box `seconds` ago."""
    if tau_s <= 0:
        return found
    return between(before, found, 1 - math.exp(-max(seconds, 0.0) / tau_s))


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
    """Whom a frame shows. box: where the person is. region: the square of it that the network sees."""

    id: str
    box: Box
    region: Box

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
