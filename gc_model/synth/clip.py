# SPDX-License-Identifier: Apache-2.0
"""One clip: from a specification to frames, joints and a mask, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from gc_model.synth.activities import ACTIVITIES, ALONE, DISTANCE, TOGETHER, TURNED, Act
from gc_model.synth.body import Solved, Subject, make_subject, solve
from gc_model.synth.camera import Camera
from gc_model.synth.draw import Canvas
from gc_model.synth.person import Figure
from gc_model.synth.scene import Scene, make_scene
from gc_model.synth.wardrobe import Wardrobe, dress
from trt_build.errors import DataError

# Streams of random numbers, so that one draw more in one place changes nothing elsewhere.
BODY, OUTFIT, MOTION, SCENE, VIEW, SENSOR, PARTNER = range(7)
AFTER_S = 0.5  # how long a clip goes on where its activity is over
LEAST_S = 1.5


@dataclass(frozen=True)
class ClipSpec:
    """Everything a clip depends on. Two specs that differ in `activity` only share all but the local motion."""

    activity: str
    subject: int = 1  # 1.. ; with `seed` it says who this is
    seed: int = 0
    take: int = 0  # which performance: its timing, place and framing
    outfit: int = 0  # what the subject wears
    camera: int = 1  # draws the place and framing too, never the motion
    yaw_deg: float = 0.0  # where the camera stands
    facing_deg: float | None = None  # where the person faces; None draws an angle around 0
    size: tuple[int, int] = (256, 256)  # width, height
    fps: float = 4.0
    duration_s: float = 4.5  # at most
    clutter: float = 1.0  # 0 empty room .. 1 furniture and moving things
    occlusion: float = 0.25  # chance that something stands in front
    noise: float = 1.0  # of the sensor

    @property
    def frames(self) -> int:
        return max(round(self.fps * self.duration_s), 1)


@dataclass(frozen=True)
class Clip:
    """frames (T, H, W, 3) uint8 RGB; skeleton (T, N, 25, 2) pixels and space (T, N, 25, 3) metres in camera space of
    N bodies, 2 at least, NaN where there is no second; mask (T, H, W) uint8: 0 nobody, 1 to N the bodies; boxes
    (T, N, 4) x_min, y_min, x_max, y_max in pixels, not clipped to the picture, and seen (T, N), the share of a body
    that nothing hides, both NaN as above."""

    frames: np.ndarray
    skeleton: np.ndarray
    space: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    seen: np.ndarray


class Filming(Protocol):
    """What drawing asks of a specification: `ClipSpec` here, `SceneSpec` in `several`."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def fps(self) -> float: ...
    @property
    def noise(self) -> float: ...
    @property
    def frames(self) -> int: ...


def check(spec: ClipSpec) -> None:
    """Raise DataError for a specification that cannot be drawn."""
    if spec.activity not in ACTIVITIES:
        raise DataError(f"unknown activity {spec.activity!r}: choose from {', '.join(ACTIVITIES)}")
    if min(spec.size) < 32 or max(spec.size) > 4096 or any(int(n) % 2 for n in spec.size):
        raise DataError(
            f"size {spec.size[0]}x{spec.size[1]}: give even numbers from 32 to 4096, e.g. 256x256"
        )
    if not (0.5 <= spec.fps <= 240 and 0.1 <= spec.duration_s <= 600):
        raise DataError(
            f"{spec.fps:g} frames/s for {spec.duration_s:g} s: give 0.5 to 240 frames/s and 0.1 to 600 s"
        )
    if min(spec.subject, spec.seed, spec.take, spec.outfit, spec.camera) < 0:
        raise DataError("subject, seed, take, outfit and camera are numbers from 0 up: give no negative one")


def render_clip(spec: ClipSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frames, skeleton, mask) of `spec`; shapes as in `Clip`. Raises DataError for an impossible spec."""
    clip = render(spec)
    return clip.frames, clip.skeleton, clip.mask


def render(spec: ClipSpec) -> Clip:
    """Draw `spec`; the same spec gives the same pixels.

    A clip is shorter than asked for where its activity is over before: it shows nothing of it from then on.
    """
    check(spec)
    view = np.random.default_rng([spec.seed, spec.subject, spec.take, spec.camera, VIEW])
    people, end = _perform(spec)
    if end + AFTER_S < spec.duration_s:
        spec = replace(spec, duration_s=max(end + AFTER_S, min(LEAST_S, spec.duration_s)))
        people, _ = _perform(spec)
    camera = _camera(spec, view)
    scene_rng = np.random.default_rng([spec.seed, spec.subject, spec.take, spec.camera, SCENE])
    scene = make_scene(scene_rng, camera, spec.clutter, spec.occlusion)
    figures = []
    for number, (subject, solved) in enumerate(people):
        identity = (spec.seed, spec.subject, *[PARTNER] * number)
        clothes = clothes_of(identity, spec.outfit)
        figures.append(Figure(subject, clothes, solved, camera, number + 1))

    sensor = Sensor(spec, np.random.default_rng([spec.seed, spec.subject, spec.take, spec.camera, SENSOR]))
    return film(spec, figures, scene, sensor)


def film(spec: Filming, figures: Sequence[Figure], scene: Scene, sensor: Sensor) -> Clip:
    """Draw the figures, which are numbered from 1, in the scene."""
    width, height = spec.size
    canvas = Canvas(width, height, len(figures))
    background = scene.background.astype(np.float32)
    stamp = _shadow_stamp()
    bodies = max(len(figures), 2)
    frames = np.empty((spec.frames, height, width, 3), np.uint8)
    mask = np.empty((spec.frames, height, width), np.uint8)
    skeleton = np.full((spec.frames, bodies, 25, 2), np.nan, np.float32)
    space = np.full((spec.frames, bodies, 25, 3), np.nan, np.float32)
    boxes = np.full((spec.frames, bodies, 4), np.nan, np.float32)
    seen = np.full((spec.frames, bodies), np.nan, np.float32)
    for number, figure in enumerate(figures):
        skeleton[:, number], space[:, number] = figure.pixels, figure.space
        boxes[:, number] = figure.boxes()
    for k in range(spec.frames):
        canvas.start(background)
        for mover in scene.movers:
            mover(canvas.rgb, k / spec.fps)
        for figure in figures:
            reach = 0.33 * figure.scale[k, 0]
            canvas.shadow(figure.floor[k], (reach * 1.3, reach * 0.42), stamp)
        todo = [(z, n, kind, i) for n, figure in enumerate(figures) for z, kind, i in figure.parts(k)]
        for _, n, kind, i in sorted(todo, reverse=True):
            figures[n].draw(canvas, k, kind, i, scene.light)
        who = canvas.bodies()
        if scene.front is not None:
            colour, cover, rows = scene.front
            canvas.rgb[rows] += (colour - canvas.rgb[rows]) * cover
            who[rows][cover[..., 0] > 0.5] = 0
        seen[k, : len(figures)] = [figure.seen(k, who) for figure in figures]
        frames[k], mask[k], shift = sensor.expose(canvas.rgb, who, k)
        skeleton[k] += shift
        boxes[k] += np.tile(shift, 2)
    return Clip(frames, skeleton, space, mask, boxes, seen)


@lru_cache(maxsize=256)  # a subject wears an outfit in every activity
def clothes_of(who: tuple[int, ...], outfit: int) -> Wardrobe:
    return dress(np.random.default_rng([*who, BODY]), np.random.default_rng([*who, outfit, OUTFIT]))


def _perform(spec: ClipSpec) -> tuple[list[tuple[Subject, Solved]], float]:
    """The bodies of a clip, moving, and the second at which what they do is over; independent of the camera."""
    t = np.arange(spec.frames) / spec.fps
    subject = make_subject(np.random.default_rng([spec.seed, spec.subject, BODY]))
    rng = np.random.default_rng([spec.seed, spec.subject, spec.take, MOTION])
    act = Act(subject, t, rng)
    turn, flip, x, z = rng.normal(0, 14), rng.choice([-1.0, 1.0]), *rng.uniform(-0.12, 0.12, 2)
    if spec.activity in ALONE:
        turn += flip * TURNED.get(spec.activity, 0.0)
        facing = np.deg2rad(turn if spec.facing_deg is None else spec.facing_deg + turn * 0.4)
        ALONE[spec.activity](act)
        if act.away:
            return [], act.end
        return [(subject, solve(subject, act.pose, facing, (x, z)))], act.end
    facing = np.deg2rad((0.0 if spec.facing_deg is None else spec.facing_deg * 0.25) + flip * (90 + turn))
    other = make_subject(np.random.default_rng([spec.seed, spec.subject, PARTNER, BODY]))
    reply = Act(other, t, np.random.default_rng([spec.seed, spec.subject, spec.take, PARTNER, MOTION]))
    for name in ("tempo", "phase", "wobble", "wobble_rate", "begin", "on"):
        setattr(reply, name, getattr(act, name))  # the two keep time with each other
    gap, mean = DISTANCE[spec.activity], (subject.height + other.height) / 2
    way = np.array([np.sin(facing), np.cos(facing)]) * gap / 2
    people = []
    for body, doing, sign in ((subject, act, 1), (other, reply, -1)):
        TOGETHER[spec.activity](doing, gap / body.height, 0.60 * mean / body.height, sign == 1)
        place = (float(x - sign * way[0]), float(z - sign * way[1]))
        people.append((body, solve(body, doing.pose, facing + (0 if sign == 1 else np.pi), place)))
    return people, act.end


def _camera(spec: ClipSpec, rng: np.random.Generator) -> Camera:
    distance, height, fill, look = rng.uniform([2.7, 0.9, 0.68, 0.94], [3.9, 1.65, 0.83, 1.04])
    fill *= min(1.0, spec.size[0] / spec.size[1])
    yaw, shift = spec.yaw_deg + rng.normal(0, 3), rng.uniform(-0.12, 0.12)
    return Camera(float(yaw), float(distance), float(height), float(look), float(shift), float(fill * distance / 1.78),
                  spec.size)  # fmt: skip


def _shadow_stamp() -> np.ndarray:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    return (1 - 0.5 * np.clip(1.05 - x * x - y * y, 0, 1) ** 1.5).astype(np.float32)


class Sensor:
    """What lens, hand and chip do to a picture: shake, softness, colour cast, exposure, noise."""

    def __init__(self, spec: Filming, rng: np.random.Generator) -> None:
        width, height = spec.size
        self.strength = spec.noise
        sigma = spec.noise * rng.uniform(1.0, 6.0)
        pad = 32
        bank = np.empty((height + pad, width + pad, 3), np.uint8)
        cv2.setRNGSeed(int(rng.integers(2**31 - 1)))
        cv2.randn(bank, np.full(3, 128.0), np.full(3, sigma))
        self.bank, self.offsets = bank, rng.integers(0, pad, (spec.frames, 2))
        gain = 1 + spec.noise * rng.uniform(-0.09, 0.09, 3) + spec.noise * rng.uniform(-0.12, 0.10)
        gamma = 1 + spec.noise * rng.uniform(-0.15, 0.15)
        ramp = (np.arange(256) / 255.0)[:, None] ** gamma * gain * 255
        self.table = np.clip(ramp, 0, 255).astype(np.uint8)[:, None, :]
        soft = rng.uniform(0.0, 0.7) * spec.noise
        self.soft = soft if soft > 0.3 else 0.0
        shaky = rng.uniform() < 0.35
        t = np.arange(spec.frames) / spec.fps
        rate, phase = rng.uniform(0.3, 1.3, (2, 2)), rng.uniform(0, 6.28, (2, 2))
        wander = np.sin(2 * np.pi * rate * t[:, None, None] + phase).sum(-1)
        self.shift = wander * (shaky * spec.noise * rng.uniform(0.3, 1.0) * height / 256)

    def expose(self, rgb: np.ndarray, who: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frame (H, W, 3) uint8, mask and the shift (2,) in pixels that shake gave both."""
        image = cv2.convertScaleAbs(rgb)
        height, width = who.shape
        dx, dy = self.shift[k]
        if dx or dy:
            move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
            image = cv2.warpAffine(
                image, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            who = cv2.warpAffine(who, move, (width, height), flags=cv2.INTER_NEAREST)
        if self.soft:
            image = cv2.GaussianBlur(image, (3, 3), self.soft)
        if self.strength:
            image = cv2.LUT(image, self.table)
            y, x = self.offsets[k]
            image = cv2.addWeighted(image, 1.0, self.bank[y : y + height, x : x + width], 1.0, -128.0)
        return image, who, self.shift[k].astype(np.float32)
