# SPDX-License-Identifier: Apache-2.0
"""Where people act: rooms and gardens with what moves in them by itself, and what stands before the people."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from gc_model.synth.camera import Camera
from gc_model.synth.draw import Light
from gc_model.synth.furniture import Furniture
from gc_model.synth.stage import Mover
from gc_model.synth.wardrobe import vivid


@dataclass
class Scene:
    background: np.ndarray  # (H, W, 3) uint8
    light: Light
    movers: list[Mover] = field(default_factory=list)
    # What occludes: colour (h, W, 3), cover (h, W, 1) and the rows of the picture it fills.
    front: tuple[np.ndarray, np.ndarray, slice] | None = None


def make_scene(rng: np.random.Generator, camera: Camera, clutter: float, occlusion: float) -> Scene:
    """A place as `camera` sees it. clutter 0..1: furniture and movers; occlusion: chance of something in front."""
    builder = _Place(rng, camera.scenery())
    outdoors = rng.uniform() < 0.25
    (builder.garden if outdoors else builder.room)(clutter)
    image = builder.finish()
    angle = rng.uniform(-1.1, 1.1)
    light = Light((float(np.sin(angle) * 0.75), -0.5, 0.62), rng.uniform(0.55, 0.68), rng.uniform(0.38, 0.55))
    scene = Scene(image, light, builder.movers)
    if rng.uniform() < occlusion:
        scene.front = builder.obstacle()
    return scene


class _Place(Furniture):
    def room(self, clutter: float) -> None:
        rng = self.rng
        back, half = -rng.uniform(1.1, 2.4), 5.0
        wall = vivid(rng, 0.55, 0.92) * 0.4 + rng.uniform(90, 140)
        floor = np.array(
            [(150, 116, 82), (120, 88, 60), (150, 148, 144), (104, 108, 116), (176, 164, 146)][
                rng.integers(5)
            ]
        )
        self.plane(self.tiles(wall, str(rng.choice(["plain", "plain", "stripes", "panels", "bricks"]))),
                   self.at((-half, 3.4, back), (half, 3.4, back), (half, 0, back), (-half, 0, back)))  # fmt: skip
        near = self.camera.distance - 0.6
        self.plane(self.tiles(floor, str(rng.choice(["planks", "planks", "checks", "plain"]))),
                   self.at((-half, 0, back), (half, 0, back), (half, 0, near), (-half, 0, near)))  # fmt: skip
        self.rect(-half, half, 0, 0.09, back + 0.02, wall * 0.65)
        slots = list(rng.permutation([-1.7, -0.85, 0.0, 0.85, 1.7]))
        hang = [self.window, self.picture, self.shelf, self.screen, self.door, self.picture]
        for item in rng.permutation(len(hang))[: round(clutter * rng.uniform(2, 4.4))]:
            hang[item](slots.pop() + rng.uniform(-0.15, 0.15) if slots else 0.0, back + 0.03)
        stand = [self.cabinet, self.plant, self.table, self.lamp, self.sofa]
        for _ in range(round(clutter * rng.uniform(1, 3.4))):
            x = rng.uniform(0.55, 1.7) * rng.choice([-1, 1])
            stand[rng.integers(len(stand))](x, back + rng.uniform(0.3, 0.7))
        if rng.uniform() < 0.4 * clutter:
            self.ball(back)

    def garden(self, clutter: float) -> None:
        rng, w, h = self.rng, self.w, self.h
        horizon = int(np.clip(self.at((0, 0.0, -14))[0, 1], h * 0.1, h * 0.9)) + 2
        high = np.array([96, 150, 214]) * rng.uniform(0.85, 1.1)
        ramp = np.linspace(0, 1, max(horizon, 1))[:, None, None]
        self.image[:] = 120
        self.surfaces.append((1, (250, 250, 252), rng.uniform(4, 14) * rng.choice([-1, 1]), 0.0))
        self.tags[: int(horizon * 0.9)] = 1
        self.image[:horizon] = np.clip(high * (1 - ramp) + np.array([222, 232, 240]) * ramp, 0, 255)
        grass = np.array([(92, 136, 62), (120, 142, 78), (150, 146, 138), (172, 150, 112)][rng.integers(4)])
        self.plane(self.tiles(grass, str(rng.choice(["plain", "checks"], p=[0.75, 0.25]))),
                   self.at((-14, 0, -14), (14, 0, -14), (4, 0, 2.4), (-4, 0, 2.4)))  # fmt: skip
        for _ in range(int(rng.integers(2, 6))):
            x, wide = rng.uniform(0, w), rng.uniform(0.08, 0.22) * w
            if rng.uniform() < 0.35:
                top = horizon - rng.uniform(0.15, 0.4) * h
                colour = vivid(rng, 0.4, 0.8) * 0.4 + 90
                self.block(x - wide, top, x + wide, horizon + 4, colour)
                for wy in np.arange(top + 12, horizon - 14, 26):
                    for wx in np.arange(x - wide + 10, x + wide - 14, 24):
                        cv2.rectangle(
                            self.image, (int(wx), int(wy)), (int(wx + 11), int(wy + 14)), (70, 84, 104), -1
                        )
            else:
                green = np.array([70, 108, 58]) * rng.uniform(0.7, 1.2)
                self.block(x - 5, horizon - 40, x + 5, horizon + 6, (84, 64, 46))
                for _ in range(9):
                    at = (
                        int(x + rng.normal(0, wide * 0.4)),
                        int(horizon - 45 - abs(rng.normal(0, wide * 0.5))),
                    )
                    radius, tone = int(wide * rng.uniform(0.25, 0.5)), green * rng.uniform(0.8, 1.2)
                    cv2.circle(self.image, at, radius, tone.tolist(), -1, cv2.LINE_AA)
                    cv2.circle(self.tags, at, radius, (0,), -1)
        if rng.uniform() < 0.7 * clutter:
            self.bench(rng.uniform(0.7, 1.6) * rng.choice([-1, 1]), -1.3)
        if rng.uniform() < 0.6 * clutter:
            self.ball(-2.0)

    def obstacle(self) -> tuple[np.ndarray, np.ndarray, slice]:
        """Something between the camera and the people: a table edge, a chair's back, a plant, a post."""
        rng, paper = self.rng, self.image
        self.image = np.full_like(paper, 90)
        self.tags[:] = 0
        self.tag = 1
        near = 0.55 * self.camera.distance
        reach = near * 0.35
        kind = rng.integers(4)
        side = float(rng.choice([-1, 1]))
        if kind == 0:
            x = side * rng.uniform(0.2, 0.7) * reach
            self.box(
                x - 0.7,
                x + 0.7,
                0.40,
                0.50,
                near - 0.5,
                near - 0.1,
                np.array([148, 110, 76]) * rng.uniform(0.6, 1.2),
            )
        elif kind == 1:
            x, colour = side * rng.uniform(0.3, 0.8) * reach, vivid(rng, 0.2, 0.8)
            for k in range(4):
                self.box(x - 0.2 + k * 0.12, x - 0.16 + k * 0.12, 0.2, 0.68, near - 0.3, near - 0.26, colour)
            self.box(x - 0.22, x + 0.24, 0.62, 0.70, near - 0.3, near - 0.25, colour * 0.85)
        elif kind == 2:
            self.plant(side * rng.uniform(0.7, 1.0) * reach, near - 0.4)
        else:
            x = side * rng.uniform(0.75, 1.0) * reach
            self.box(x - 0.05, x + 0.05, -1.0, 4.0, near - 0.4, near - 0.3, vivid(rng, 0.3, 0.8) * 0.6 + 60)
        colour, self.image = self.image, paper
        cover = cv2.resize(self.tags * np.float32(1), self.camera.size, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(colour, self.camera.size, interpolation=cv2.INTER_AREA).astype(np.float32)
        seen = np.flatnonzero(cover.any(1))
        rows = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0)
        return colour[rows], cover[rows, :, None], rows
