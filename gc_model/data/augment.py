# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training clips: drawn once a clip, the same for all its frames; boxes vary frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data.people import MAX_AGE_S
from trt_build.preprocess import PAD_VALUE


@dataclass(frozen=True)
class BoxAugment:
    """How far training varies the boxes of people, as a detector that errs would.

    share: of the samples that show one person, where people are known; the others show the whole picture. scale: the
    largest factor by which the square of a clip grows, or shrinks. jitter: standard deviation of the place and size of
    each frame's square, as a share of its side. drop: chance that a frame's box is missing, so that an older one of up
    to MAX_AGE_S seconds stands in.
    """

    share: float = 0.8
    scale: float = 1.2
    jitter: float = 0.03
    drop: float = 0.1

    def maps(
        self,
        times: NDArray[np.float64],
        regions: NDArray[np.float64],
        chosen: NDArray[np.int64],
        R: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Affine maps (T, 2, 3) from the pixels of the chosen frames, R x R, to those that the erring boxes would show.

        times: (n,) seconds of all frames. regions: (n, 4) what each shows, see `DecodedClip`. chosen: (T,) indices.
        """
        T = len(chosen)
        missing, age = rng.random(T) < self.drop, rng.uniform(0, MAX_AGE_S, T)
        shift, zoom = rng.normal(0, self.jitter, (T, 2)), np.exp(rng.normal(0, self.jitter, T))
        before = np.searchsorted(times, times[chosen] - age)
        now, taken = regions[chosen], regions[np.where(missing, np.minimum(before, chosen), chosen)]
        side = taken[:, 2:] - taken[:, :2]
        # Edges of the taken region, moved and scaled about its middle.
        middle, half = taken[:, :2] + side / 2 + shift * side, side / 2 * zoom[:, None]
        low = middle - half
        grow = (now[:, 2:] - now[:, :2]) / (2 * half)
        offset = (now[:, :2] - low) / (2 * half) * R
        found = np.zeros((T, 2, 3))
        found[:, [0, 1], [0, 1]] = grow
        found[:, :, 2] = offset + 0.5 * grow - 0.5  # pixel centres are integers
        return found


@dataclass(frozen=True)
class Augment:
    """How far training varies clips. The paper's own is `Augment.paper()`: the random crop alone.

    scale: side of the crop relative to the frame, low to high, drawn evenly in its logarithm. rotate: degrees.
    flip: mirror half of the clips, only right where no class says left or right. colour: strength of the changes
    of brightness, contrast, hue and saturation. blur: chance of a soft focus. grey: chance that no colour is
    left, if colours change at all. erase: chance that one box, the same in all frames, becomes grey (random erasing,
    Zhong et al., 2020).
    """

    scale: tuple[float, float] = (0.55, 1.1)
    rotate: float = 10.0
    flip: bool = True
    colour: float = 0.4
    blur: float = 0.2
    grey: float = 0.1
    erase: float = 0.0

    @classmethod
    def paper(cls, size: int = 224, resize: int = 256) -> Augment:
        return cls(
            scale=(size / resize, size / resize), rotate=0.0, flip=False, colour=0.0, blur=0.0, erase=0.0
        )

    def matrix(self, R: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """A random affine map (2, 3) from frame pixels (R x R) to input pixels (size x size)."""
        side = R * np.exp(rng.uniform(*np.log(self.scale)))
        slack = abs(R - side) / 2
        centre = R / 2 + rng.uniform(-slack, slack, size=2)
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate)) if self.rotate else 0.0
        zoom = size / side
        mirror = -1.0 if self.flip and rng.random() < 0.5 else 1.0
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        # cv2 puts pixel centres on integers
        return np.hstack([linear, (size - 1) / 2 - linear @ (centre[:, None] - 0.5)])

    def __call__(self, images: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A clip, varied at random: images (T, R, R, 3) RGB -> (T, size, size, 3)."""
        return self.apply(images, size, self.matrix(images.shape[1], size, rng), rng)

    def apply(
        self, images: NDArray[np.uint8], size: int, matrix: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """As `__call__`, with a map drawn beforehand, since joints go through the same one.

        matrix: (2, 3) for all images, or (T, 2, 3), one for each.
        """
        out = np.empty((len(images), size, size, 3), np.uint8)
        maps = np.broadcast_to(matrix, (len(images), 2, 3))
        for image, place, each in zip(images, out, maps, strict=True):
            cv2.warpAffine(
                np.asarray(image),
                each,
                (size, size),
                dst=place,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(PAD_VALUE, PAD_VALUE, PAD_VALUE),
            )
        if self.blur and rng.random() < self.blur:
            sigma = rng.uniform(0.5, 2.0)
            for image in out:
                image[...] = cv2.GaussianBlur(image, (0, 0), sigma)
        if self.colour:
            out = self._recolour(out, rng)
        if self.erase and rng.random() < self.erase:
            self._erase(out, rng)
        return out

    def _erase(self, images: NDArray[np.uint8], rng: np.random.Generator) -> None:
        """Turn a random box grey: 2 to 20 % of the picture, at most three times as wide as high, or as high as wide."""
        size = images.shape[1]
        area, ratio = rng.uniform(0.02, 0.2), np.exp(rng.uniform(-0.5, 0.5) * np.log(3))
        h, w = (max(1, round(size * side)) for side in (np.sqrt(area) * ratio, np.sqrt(area) / ratio))
        top, left = rng.integers(0, size - h + 1), rng.integers(0, size - w + 1)
        images[:, top : top + h, left : left + w] = PAD_VALUE

    def _recolour(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Change the colours by a random affine map of RGB: gain of each channel, saturation, contrast, brightness."""
        s = self.colour
        gain = np.exp(rng.uniform(-s, s)) * np.exp(rng.uniform(-s / 3, s / 3, size=3))
        saturation = 0.0 if rng.random() < self.grey else np.exp(rng.uniform(-s, s))
        luma = np.array([0.299, 0.587, 0.114])
        # The gains first: what has lost its colour has no tint.
        mix = (saturation * np.eye(3) + (1 - saturation) * luma[None]) * gain[None]
        contrast = np.exp(rng.uniform(-s, s) / 2)
        offset = 127 * (1 - contrast) + rng.uniform(-40, 40) * s
        affine = np.hstack([mix * contrast, np.full((3, 1), offset)])
        flat = images.reshape(1, -1, 3)
        return np.asarray(cv2.transform(flat, affine), np.uint8).reshape(images.shape)


def joined(second: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine map (2, 3) that does `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    return np.hstack([linear, second[:, :2] @ first[:, 2:] + second[:, 2:]])
