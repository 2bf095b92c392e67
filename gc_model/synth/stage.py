# SPDX-License-Identifier: Apache-2.0
"""A stage to build a place on: flat shapes put where a camera sees them, and surfaces on which something moves."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from gc_model.synth.camera import Camera

Mover = Callable[[np.ndarray, float], None]  # draws itself into an RGB float picture at a time in seconds


def fractal(
    rng: np.random.Generator, width: int, height: int, octaves: int = 4, first: int = 3
) -> np.ndarray:
    """Smooth noise (height, width) in about -1..1."""
    total = np.zeros((height, width), np.float32)
    for k in range(octaves):
        cells = first * 2**k
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**k
    return total * 0.6


class Stage:
    """Draws at twice the size; `image` is shrunk in the end, which smooths all edges."""

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self.rng, self.camera = rng, camera
        self.w, self.h = camera.size[0] * 2, camera.size[1] * 2
        self.image = np.zeros((self.h, self.w, 3), np.uint8)
        self.tags = np.zeros((self.h, self.w), np.uint8)  # which moving surface is seen where
        self.tag = 0
        self.surfaces: list[tuple] = []
        self.movers: list[Mover] = []

    def at(self, *points: tuple[float, float, float]) -> np.ndarray:
        return self.camera.project(np.array(points)) * 2

    def poly(self, points: np.ndarray, colour) -> None:
        shape = np.clip(np.round(points * 16), -(2**20), 2**20).astype(np.int32)
        cv2.fillConvexPoly(self.image, shape, tuple(map(float, colour)), cv2.LINE_AA, 4)
        cv2.fillConvexPoly(self.tags, shape, (self.tag,), cv2.LINE_8, 4)

    def box(self, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour) -> None:
        """A cuboid on world axes, z1 its front; sides are shaded by where they face."""
        colour = np.asarray(colour, float)
        if y1 < self.camera.height:
            self.poly(
                self.at((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)),
                np.minimum(colour * 1.18, 255),
            )
        side = x1 if x1 < 0 else x0
        if x1 < 0 or x0 > 0:
            self.poly(self.at((side, y0, z0), (side, y1, z0), (side, y1, z1), (side, y0, z1)), colour * 0.72)
        self.poly(self.at((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)), colour)

    def rect(self, x0: float, x1: float, y0: float, y1: float, z: float, colour) -> None:
        self.poly(self.at((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)), colour)

    def block(self, x0: float, y0: float, x1: float, y1: float, colour) -> None:
        """An upright rectangle in the picture's own (double) pixels."""
        corners = (int(x0), int(y0)), (int(x1), int(y1))
        cv2.rectangle(self.image, *corners, tuple(map(float, colour)), -1)
        cv2.rectangle(self.tags, *corners, 0, -1)

    def plane(self, texture: np.ndarray, corners: np.ndarray) -> None:
        n, m = texture.shape[:2]
        source = np.array([[0, 0], [m, 0], [m, n], [0, n]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
        cv2.warpPerspective(
            texture, matrix, (self.w, self.h), self.image, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT
        )

    def tiles(self, base: np.ndarray, kind: str, n: int = 192) -> np.ndarray:
        rng, grain = self.rng, fractal(self.rng, n, n, 5)
        y, x = np.mgrid[0:n, 0:n]
        texture = np.ones((n, n, 3), np.float32) * base * (1 + 0.13 * grain[..., None])
        if kind == "planks":
            tone = rng.uniform(0.86, 1.12, (16, 4)).astype(np.float32)
            row = y // (n // 16)
            texture *= tone[row, (x + row * 37) // (n // 3) % 4][..., None]
            texture[(y % (n // 16)) == 0] *= 0.8
        elif kind == "checks":
            texture *= np.where((x // (n // 8) + y // (n // 8)) % 2 == 0, 1.0, 0.80)[..., None]
        elif kind == "bricks":
            row = y // (n // 14)
            joint = ((y % (n // 14)) < 2) | (((x + (row % 2) * (n // 14)) % (n // 7)) < 2)
            texture *= rng.uniform(0.9, 1.1, (16, 16)).astype(np.float32)[row % 16, x // (n // 7)][..., None]
            texture[joint] = texture[joint] * 0.4 + 120
        elif kind == "stripes":
            texture *= np.where((x // (n // 20)) % 2 == 0, 1.0, 0.90)[..., None]
        elif kind == "panels":
            texture[(x % (n // 6)) < 2] *= 0.8
            texture[y > int(n * 0.72)] *= 0.82
        return np.clip(texture, 0, 255).astype(np.uint8)

    def surface(self, place: tuple[float, ...], colour, tint, speed: float, more: float) -> None:
        """A rectangle x0, x1, y0, y1, z on which something drifts, where nothing hides it."""
        x0, x1, y0, y1, z = place
        self.surfaces.append((len(self.surfaces) + 1, tint, speed, more))
        self.tag = len(self.surfaces)
        self.rect(x0, x1, y0, y1, z, colour)
        self.tag = 0

    def finish(self) -> np.ndarray:
        """The picture at its real size; adds what moves on surfaces, now that it is known what is seen of them."""
        width, height = self.camera.size
        for tag, tint, speed, more in self.surfaces:
            seen = cv2.resize(
                (self.tags == tag).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
            )
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            if len(rows) < 4 or len(columns) < 4:
                continue
            area = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            strip = np.clip(fractal(self.rng, 192, area[3] - area[1], 4) + more, 0, 1)
            window = seen[area[1] : area[3], area[0] : area[2]]
            self.movers.insert(0, scroll(strip, area, speed * width / 256, tint, window))
        return cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)


def scroll(
    strip: np.ndarray, area: tuple[int, int, int, int], speed: float, colour, window: np.ndarray | None = None
) -> Mover:
    """A mover that lets `strip` (cover, any width) drift through `area` at `speed` pixels/s, seen in `window`."""
    x0, y0, x1, y1 = area
    solid = np.empty((y1 - y0, x1 - x0, 3), np.float32)
    solid[:] = colour
    strip = np.concatenate([strip, strip[:, ::-1]], axis=1)  # mirrored, so that it wraps without a seam
    width = strip.shape[1]
    strip = cv2.resize(strip, (width, y1 - y0)).astype(np.float32)
    columns = np.arange(x1 - x0)

    def draw(image: np.ndarray, t: float) -> None:
        cover = strip[:, (columns + round(speed * t)) % width]
        cover = np.ascontiguousarray(cover) if window is None else cover * window
        roi = image[y0:y1, x0:x1]
        change = cv2.multiply(cv2.subtract(solid, roi), cv2.merge((cover, cover, cover)))
        cv2.add(roi, change, dst=roi)

    return draw
