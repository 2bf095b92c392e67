# SPDX-License-Identifier: Apache-2.0
"""Scenes of several people, each doing something else: what a robot among people sees, with who does what when.

People stand side by side at different depths. In some scenes one of them walks to and fro across the picture, before
or behind the others, so that people hide each other and leave and enter the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gc_model.synth.act import Act
from gc_model.synth.activities import ALONE, TURNED
from gc_model.synth.body import Solved, Subject, make_subject, solve
from gc_model.synth.camera import Camera
from gc_model.synth.clip import BODY, MOTION, SCENE, SENSOR, VIEW, Clip, Sensor, clothes_of, film
from gc_model.synth.person import Figure
from gc_model.synth.scene import make_scene
from gc_model.synth.whole_body import to_and_fro, walk
from trt_build.errors import DataError

PEOPLE = 7  # stream of random numbers, beside those of `clip`
MOST = 4  # people in a scene
CROSSING = "walk"  # what somebody does who crosses the picture
SPACING = 1.15  # metres between two who stand side by side
# The first three need more room; who is idle may not be there.
STANDING = tuple(name for name in ALONE if name not in ("walk", "run", "fall", "idle"))
_CHANGE_S = 0.4  # that it takes to begin something else


@dataclass(frozen=True)
class SceneSpec:
    """Everything a scene depends on. subjects: who is in it; a subject looks as in the clips of the same seed."""

    number: int = 1
    activities: tuple[str, ...] = STANDING  # each does another one of these, as far as there are enough
    subjects: tuple[int, ...] = (1, 2, 3)
    crossing: bool = False  # whether the last of them crosses the picture
    change_s: float = 0.0  # each does something else after so long; 0: never
    seed: int = 0
    size: tuple[int, int] = (640, 360)  # width, height
    fps: float = 10.0
    duration_s: float = 8.0
    clutter: float = 1.0
    occlusion: float = 0.25
    noise: float = 1.0

    @property
    def frames(self) -> int:
        return max(round(self.fps * self.duration_s), 1)


@dataclass(frozen=True)
class Doing:
    """What a person, counted from 0, does from one time to another, in seconds of the scene."""

    person: int
    start_s: float
    end_s: float
    activity: str


def check_scene(spec: SceneSpec) -> None:
    """Raise DataError for a scene that cannot be drawn; sizes and rates are those of `clip.check`."""
    unknown = [name for name in spec.activities if name not in STANDING]
    if unknown or not spec.activities:
        raise DataError(
            f"{', '.join(unknown) or 'no activity'}: several people side by side can {', '.join(STANDING)}"
        )
    if not 1 <= len(spec.subjects) <= MOST or len(set(spec.subjects)) < len(spec.subjects):
        raise DataError(f"a scene has 1 to {MOST} different people, not {len(spec.subjects)}")
    if spec.change_s and not spec.change_s >= 1:
        raise DataError(
            f"people cannot change what they do every {spec.change_s:g} s: give 1 s or more, or 0"
        )
    if 0 < spec.change_s * spec.fps < 1:
        raise DataError(
            f"people cannot change what they do every {spec.change_s:g} s where a frame lasts {1 / spec.fps:g} s: "
            "give a longer change, or more frames a second"
        )


def render_scene(spec: SceneSpec) -> tuple[Clip, list[Doing]]:
    """The scene, and who does what when; the same spec gives the same pixels."""
    check_scene(spec)
    rng = np.random.default_rng([spec.seed, spec.number, PEOPLE])
    parts = _parts(spec)
    doing = _cast(spec, rng, parts)
    camera = _camera(spec, np.random.default_rng([spec.seed, spec.number, VIEW]))
    bodies = _perform(spec, rng, parts, doing, camera)
    scene = make_scene(
        np.random.default_rng([spec.seed, spec.number, SCENE]), camera, spec.clutter, spec.occlusion
    )
    figures = [
        Figure(subject, clothes_of((spec.seed, number), spec.number), solved, camera, n + 1)
        for n, (number, (subject, solved)) in enumerate(zip(spec.subjects, bodies, strict=True))
    ]
    sensor = Sensor(spec, np.random.default_rng([spec.seed, spec.number, SENSOR]))
    rows = [
        Doing(person, first / spec.fps, last / spec.fps, name)
        for person, names in enumerate(doing)
        for (first, last), name in _merged(parts, names)
    ]
    return film(spec, figures, scene, sensor), rows


def _parts(spec: SceneSpec) -> list[tuple[int, int]]:
    """The frames, from one to before another, in which nobody changes what they do."""
    count = max(int(spec.duration_s / spec.change_s + 1e-6), 1) if spec.change_s else 1
    edges = np.linspace(0, spec.frames, count + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))


def _cast(spec: SceneSpec, rng: np.random.Generator, parts: Sequence[tuple[int, int]]) -> list[list[str]]:
    """For each person what they do in each part: all different at any time, as far as there are enough."""
    people, n = len(spec.subjects), len(spec.activities)
    # One order more than is used: without its draw, the scenes of a seed would be others than they were.
    orders = [rng.permutation(n) for _ in range(-(-people // n) + 1)]
    # The next part moves everybody on by one in their order, so that nobody does the same again.
    doing = [
        [spec.activities[orders[person // n][(person + part) % n]] for part in range(len(parts))]
        for person in range(people)
    ]
    if spec.crossing:
        doing[-1] = [CROSSING] * len(parts)
    return doing


def _merged(parts: Sequence[tuple[int, int]], names: Sequence[str]) -> list[tuple[tuple[int, int], str]]:
    found: list[tuple[tuple[int, int], str]] = []
    for (first, last), name in zip(parts, names, strict=True):
        if found and found[-1][1] == name:
            first = found.pop()[0][0]
        found.append(((first, last), name))
    return found


def _camera(spec: SceneSpec, rng: np.random.Generator) -> Camera:
    """One that sees all who stand: `fill` is the share of the picture's height that a person takes."""
    distance, height, look = rng.uniform([3.6, 1.0, 0.92], [5.0, 1.7, 1.02])
    wide = SPACING * (len(spec.subjects) - spec.crossing - 1) + 1.5
    fill = min(rng.uniform(0.6, 0.78), 1.78 * spec.size[0] / spec.size[1] / wide)
    shift = rng.uniform(-0.1, 0.1)
    return Camera(float(rng.normal(0, 3)), float(distance), float(height), float(look), float(shift),
                  float(fill * distance / 1.78), spec.size)  # fmt: skip


def _perform(
    spec: SceneSpec,
    rng: np.random.Generator,
    parts: Sequence[tuple[int, int]],
    doing: Sequence[Sequence[str]],
    camera: Camera,
) -> list[tuple[Subject, Solved]]:
    """The bodies, moving."""
    standing = len(doing) - spec.crossing
    order = rng.permutation(standing)
    bodies = []
    for person, names in enumerate(doing):
        subject = make_subject(np.random.default_rng([spec.seed, spec.subjects[person], BODY]))
        motion = np.random.default_rng([spec.seed, spec.number, person, MOTION])
        if person == standing:
            bodies.append((subject, _cross(spec, motion, subject, camera)))
            continue
        x = SPACING * (order[person] - (standing - 1) / 2) + rng.uniform(-0.12, 0.12)
        z = rng.uniform(-0.55, 0.35)
        turn, flip = rng.normal(0, 14), rng.choice([-1.0, 1.0])
        solved = []
        for (first, last), name in zip(parts, names, strict=True):
            act = Act(subject, np.arange(last - first) / spec.fps, motion)
            ALONE[name](act)
            facing = np.deg2rad(turn + flip * TURNED.get(name, 0.0))
            solved.append(solve(subject, act.pose, facing, (float(x), float(z))))
        bodies.append((subject, _joined(solved, spec)))
    return bodies


def _cross(spec: SceneSpec, rng: np.random.Generator, subject: Subject, camera: Camera) -> Solved:
    """To and fro across the picture and beyond its edges, before or behind those who stand."""
    act = Act(subject, np.arange(spec.frames) / spec.fps, rng)
    walk(act)
    z = float(rng.uniform(0.75, 1.1) if rng.uniform() < 0.6 else rng.uniform(-0.95, -0.75))
    seen = (camera.distance - z) / camera.focal * camera.size[0] / camera.size[1] / 2
    half = (seen + 0.5) / subject.height
    far = act.t * 0.62 * act.tempo + rng.uniform(0.05, 0.6) * 2 * half
    to_and_fro(act, far, half, 0.03)
    return solve(subject, act.pose, float(rng.choice([-1.0, 1.0])) * np.pi / 2, (0.0, z))


def _joined(solved: Sequence[Solved], spec: SceneSpec) -> Solved:
    """One after the other; each begins where the one before it ended, and things are held in their part alone."""
    joints, torso, head = (
        np.concatenate([getattr(s, n) for s in solved]) for n in ("joints", "torso", "head")
    )
    props, first = [], 0
    for number, part in enumerate(solved):
        last = first + len(part.joints)
        for prop, ends in part.props:
            everywhere = np.full((len(joints), *ends.shape[1:]), np.nan)
            everywhere[first:last] = ends
            props.append((prop, everywhere))
        if number:
            for k in range(first, min(first + round(_CHANGE_S * spec.fps), last)):
                weight = (k - first + 1) / (_CHANGE_S * spec.fps + 1)
                for array in (joints, torso, head):
                    array[k] = array[first - 1] + (array[k] - array[first - 1]) * weight
        first = last
    return Solved(joints, torso, head, props)
