# SPDX-License-Identifier: Apache-2.0
"""What stands and hangs in rooms and gardens. Places are x (right) and z (towards the camera) in metres."""

from __future__ import annotations

import cv2
import numpy as np

from gc_model.synth.stage import Stage
from gc_model.synth.wardrobe import vivid


class Furniture(Stage):
    """A stage that knows how to draw things; every one draws its own sizes and colours at random."""

    def window(self, x: float, z: float) -> None:
        rng = self.rng
        wide, low, high = rng.uniform(0.35, 0.6), 1.0, 2.15
        self.rect(x - wide - 0.05, x + wide + 0.05, low - 0.05, high + 0.05, z, (236, 234, 228))
        self.surface(
            (x - wide, x + wide, low, high, z), (178, 206, 232), (246, 248, 250), rng.uniform(3, 12), 0.2
        )

    def picture(self, x: float, z: float) -> None:
        rng = self.rng
        wide, tall, mid = rng.uniform(0.18, 0.42), rng.uniform(0.18, 0.38), rng.uniform(1.45, 1.8)
        self.rect(
            x - wide - 0.04, x + wide + 0.04, mid - tall - 0.04, mid + tall + 0.04, z, vivid(rng, 0.1, 0.5)
        )
        self.rect(x - wide, x + wide, mid - tall, mid + tall, z, vivid(rng, 0.6, 0.95))
        for _ in range(4):
            cx, cy, r = rng.uniform(-0.6, 0.6) * wide, rng.uniform(-0.6, 0.6) * tall, rng.uniform(0.05, 0.35)
            self.rect(
                x + cx - r * wide, x + cx + r * wide, mid + cy - r * tall, mid + cy + r * tall, z, vivid(rng)
            )

    def shelf(self, x: float, z: float) -> None:
        rng = self.rng
        wood = np.array([134, 98, 66]) * rng.uniform(0.7, 1.25)
        wide, top = rng.uniform(0.35, 0.55), rng.uniform(1.5, 2.0)
        self.box(x - wide, x + wide, 0, top, z, z + 0.28, wood)
        rows = int(rng.integers(3, 6))
        for r in range(rows):
            y0, y1 = 0.08 + r * (top - 0.1) / rows, 0.02 + (r + 1) * (top - 0.1) / rows
            self.rect(x - wide + 0.03, x + wide - 0.03, y0, y1, z + 0.28, wood * 0.45)
            at = x - wide + 0.05
            while at < x + wide - 0.12:
                thick = rng.uniform(0.025, 0.07)
                if rng.uniform() < 0.86:
                    self.rect(
                        at,
                        at + thick,
                        y0,
                        y0 + (y1 - y0) * rng.uniform(0.6, 0.92),
                        z + 0.28,
                        vivid(rng, 0.2, 0.8),
                    )
                at += thick + 0.004

    def screen(self, x: float, z: float) -> None:
        rng = self.rng
        wide, mid = rng.uniform(0.4, 0.6), rng.uniform(1.4, 1.7)
        self.rect(x - wide, x + wide, mid - wide * 0.6, mid + wide * 0.6, z, (22, 22, 26))
        inner = (x - wide * 0.94, x + wide * 0.94, mid - wide * 0.54, mid + wide * 0.54, z)
        self.surface(inner, (30, 30, 40), vivid(rng, 0.6, 1.0), rng.uniform(30, 80), 0.4)

    def door(self, x: float, z: float) -> None:
        colour = vivid(self.rng, 0.5, 0.9) * 0.4 + 90
        self.rect(x - 0.47, x + 0.47, 0, 2.07, z, colour * 0.7)
        self.rect(x - 0.42, x + 0.42, 0, 2.02, z, colour)
        for y0, y1 in ((0.2, 0.9), (1.1, 1.85)):
            self.rect(x - 0.3, x + 0.3, y0, y1, z, colour * 0.92)
        self.rect(x + 0.3, x + 0.37, 0.98, 1.03, z, (210, 200, 160))

    def cabinet(self, x: float, z: float) -> None:
        colour, top, wide = (
            vivid(self.rng, 0.3, 0.85) * 0.6 + 40,
            self.rng.uniform(0.6, 1.1),
            self.rng.uniform(0.25, 0.45),
        )
        self.box(x - wide, x + wide, 0, top, z - 0.2, z + 0.2, colour)
        for k in range(3):
            y0 = 0.06 + k * top / 3
            self.rect(x - wide + 0.03, x + wide - 0.03, y0, y0 + top / 3 - 0.05, z + 0.2, colour * 0.86)
            self.rect(x - 0.05, x + 0.05, y0 + top / 6, y0 + top / 6 + 0.02, z + 0.2, (60, 56, 52))

    def table(self, x: float, z: float) -> None:
        wood = np.array([150, 112, 76]) * self.rng.uniform(0.6, 1.2)
        for dx in (-0.45, 0.4):
            self.box(x + dx, x + dx + 0.05, 0, 0.7, z + 0.15, z + 0.2, wood * 0.8)
        self.box(x - 0.5, x + 0.5, 0.7, 0.75, z - 0.2, z + 0.22, wood)
        for _ in range(3):
            at, tall = x + self.rng.uniform(-0.4, 0.35), self.rng.uniform(0.06, 0.3)
            self.box(at, at + 0.12, 0.75, 0.75 + tall, z, z + 0.1, vivid(self.rng))

    def sofa(self, x: float, z: float) -> None:
        colour = vivid(self.rng, 0.3, 0.8)
        self.box(x - 0.65, x + 0.65, 0.08, 0.82, z - 0.25, z - 0.1, colour)
        self.box(x - 0.65, x + 0.65, 0.08, 0.42, z - 0.1, z + 0.3, colour * 0.92)
        for side in (-0.65, 0.53):
            self.box(x + side, x + side + 0.12, 0.08, 0.58, z - 0.1, z + 0.32, colour * 0.8)

    def bench(self, x: float, z: float) -> None:
        for y in (0.42, 0.62, 0.78):
            self.box(x - 0.6, x + 0.6, y, y + 0.06, z - 0.1, z, (132, 96, 62))

    def plant(self, x: float, z: float) -> None:
        rng = self.rng
        self.poly(
            self.at((x - 0.12, 0, z), (x + 0.12, 0, z), (x + 0.16, 0.3, z), (x - 0.16, 0.3, z)), (176, 96, 66)
        )
        green = np.array([72, 128, 66]) * rng.uniform(0.7, 1.2)
        for _ in range(16):
            angle, length = rng.uniform(-1.2, 1.2), rng.uniform(0.3, 0.65)
            tip = (x + np.sin(angle) * length, 0.3 + np.cos(angle) * length, z)
            side = (x + np.sin(angle + 0.25) * length * 0.6, 0.3 + np.cos(angle + 0.25) * length * 0.6, z)
            other = (x + np.sin(angle - 0.25) * length * 0.6, 0.3 + np.cos(angle - 0.25) * length * 0.6, z)
            self.poly(self.at((x, 0.28, z), side, tip, other), green * rng.uniform(0.7, 1.25))

    def lamp(self, x: float, z: float) -> None:
        self.box(x - 0.015, x + 0.015, 0, 1.4, z, z + 0.03, (70, 66, 62))
        self.poly(
            self.at((x - 0.2, 1.4, z), (x + 0.2, 1.4, z), (x + 0.13, 1.7, z), (x - 0.13, 1.7, z)),
            (252, 236, 190),
        )

    def ball(self, z: float) -> None:
        """A ball that rolls or bounces behind the people."""
        rng, camera = self.rng, self.camera
        colour, speed, radius = (
            vivid(rng, 0.6, 1.0),
            rng.uniform(0.3, 0.9) * rng.choice([-1, 1]),
            rng.uniform(0.07, 0.14),
        )
        start, hop, rate = (
            rng.uniform(-1.2, 1.2),
            rng.choice([0.0, rng.uniform(0.2, 0.6)]),
            rng.uniform(0.6, 1.1),
        )

        def draw(image: np.ndarray, t: float) -> None:
            x = (start + speed * t + 1.6) % 3.2 - 1.6
            seen = camera.to_camera(np.array([x, radius + hop * abs(np.sin(np.pi * rate * t)), z + 0.4]))
            (u, v), r = camera.to_pixels(seen), radius * camera.focal_px / max(seen[2], 0.1)
            for scale, shift, tone in ((1.0, 0.0, 0.75), (0.78, 0.14, 1.0), (0.3, 0.35, 1.3)):
                at = (int((u - shift * r) * 16), int((v - shift * r) * 16))
                cv2.circle(
                    image,
                    at,
                    int(max(r * scale, 1) * 16),
                    np.minimum(colour * tone, 255).tolist(),
                    -1,
                    cv2.LINE_AA,
                    4,
                )

        self.movers.append(draw)
