# SPDX-License-Identifier: Apache-2.0
"""Activities of the whole body: going, falling, sitting, and what is done with things that lie about.

As in `activities`, a function each writes its motion into the pose. Walking and running go to and fro; falling, sitting
down and standing up happen once. Who fell lies there; of the other two nothing is to be seen soon after.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gc_model.synth.act import TAU, Act, smooth, vec
from gc_model.synth.body import LEFT, RIGHT, Prop


def idle(a: Act) -> None:
    """Nothing: standing about, or somewhere else. The person is out of the picture in about one of three clips."""
    a.away = a.phase < TAU / 3


def walk(a: Act) -> None:
    _gait(a, rate=0.95, speed=0.62, stride=0.17, lift=0.05, bend=0.0, lean=0.04)


def run(a: Act) -> None:
    _gait(a, rate=1.45, speed=1.15, stride=0.24, lift=0.15, bend=0.13, lean=0.16)


def _gait(a: Act, *, rate: float, speed: float, stride: float, lift: float, bend: float, lean: float) -> None:
    """To and fro on a line: steps of `rate` Hz at `speed` body heights a second, feet `lift` off the floor."""
    p, half = a.pose, 0.42
    far = np.maximum(a.t - a.begin, 0.0) * speed * a.tempo + half + half * np.sin(a.phase)
    to_and_fro(a, far, half, 0.1)
    step = a.angle(rate)
    p.lean = p.lean + lean
    p.pelvis[:, 1] += 0.012 * np.cos(2 * step) * (1 + 4 * bend) - 0.012
    p.twist = p.twist + 0.10 * np.sin(step)
    for side in (LEFT, RIGHT):
        swing = side * np.sin(step)
        p.feet[side][:, 2] += stride * a.amp * swing
        p.feet[side][:, 1] += lift * a.amp * np.maximum(side * np.cos(step), 0)
        hand = vec(side * 0.135, -0.235 + bend, 0.02 + bend * 0.6 - 0.16 * swing * a.amp)
        a.reach(side, "chest", hand, (side * 0.3, 0.0, -1.0), weight=np.ones_like(a.t))


def to_and_fro(a: Act, far: np.ndarray, half: float, turn: float) -> None:
    """Where somebody is who has gone `far` (T,) between the ends of a line, `half` body heights to either side.

    They turn round at the ends, within the share `turn` of a lap before and after.
    """
    lap = far / (2 * half)
    back, within = np.floor(lap) % 2, lap % 1.0
    a.pose.path = half * np.where(back > 0, 1 - 2 * within, 2 * within - 1)
    turns = np.floor(lap + turn)
    a.pose.heading = np.pi * (turns - 1 + smooth((lap + turn - turns) / (2 * turn)))


def fall(a: Act) -> None:
    """Once: to the floor, backwards, and stays there."""
    down = smooth((a.t - a.begin - 0.7) / 0.6) ** 1.5
    p = a.pose
    p.pelvis[:, 1] -= 0.36 * down
    p.pelvis[:, 2] -= 0.22 * down
    p.lean = p.lean - 1.25 * down
    p.side = p.side + 0.2 * a.hand * down
    p.nod = p.nod + 0.5 * down
    for side in (LEFT, RIGHT):
        p.feet[side][:, 2] += 0.12 * down
        thrown = vec(side * (0.20 + 0.12 * down), -0.10 + 0.12 * down, 0.08 - 0.05 * down)
        a.reach(side, "chest", thrown, (side * 0.6, -0.3, -0.8), weight=smooth(down * 3))


def sit_down(a: Act) -> None:
    _chair(a, 1.1 / a.tempo, smooth)


def stand_up(a: Act) -> None:
    _chair(a, 1.0 / a.tempo, lambda way: 1 - smooth(way))


def _chair(a: Act, takes: float, how: Callable[[np.ndarray], np.ndarray]) -> None:
    """Once, in `takes` seconds, between standing (0) and sitting (1) on something that is not seen, leaning forward.

    how: how far down somebody is who has done this share of it.
    """
    first = a.begin + 0.6
    a.end = first + takes
    down = how((a.t - first) / takes)
    p, way = a.pose, 4 * down * (1 - down)
    p.pelvis[:, 1] -= 0.215 * down
    p.pelvis[:, 2] -= 0.21 * down
    p.lean = p.lean + 0.62 * way + 0.03 * down
    for side in (LEFT, RIGHT):
        a.reach(side, "base", vec(side * 0.095, 0.02, 0.19), (side * 0.9, -0.2, -0.5), weight=smooth(down))


def pick_up(a: Act) -> None:
    """Again and again: down to the floor with one hand, up with what lay there, and down with it."""
    h, deep = a.hand, smooth(0.5 + 0.8 * a.osc(0.3)) * a.on
    p = a.pose
    p.pelvis[:, 1] -= 0.15 * deep
    p.pelvis[:, 2] -= 0.10 * deep
    p.lean = p.lean + 0.95 * deep
    p.nod = p.nod - 0.15 * deep
    low, up = vec(h * 0.06, 0.09, 0.27), vec(h * 0.075, 0.60, 0.20)
    a.reach(h, "floor", up + (low - up) * deep[:, None], (h * 0.7, -0.3, -0.8), vec(0.0, -0.6, 0.7))
    tint = tuple(float(n) for n in 40 + 200 * a.hue)
    p.props.append(Prop("box", h, 0.030, vec(1.0, 0.0, 0.0), 0.05, tint, vec(0.0, -0.035, 0.01)))


def pour(a: Act) -> None:
    """From a bottle in one hand into a cup in the other."""
    h, tilt = a.hand, smooth(0.5 + 0.8 * a.osc(0.33)) * a.on
    cup, bottle = vec(-h * 0.055, -0.17 + a.high, 0.20), vec(h * 0.065, -0.085 + a.high + 0.05 * tilt, 0.20)
    a.reach(-h, "chest", cup, (-h * 0.9, -0.8, -0.1), vec(h * 0.5, 0.2, 0.5))
    a.reach(h, "chest", bottle, (h * 1.0, -0.3, -0.1), vec(-h * 0.7, 0.1, 0.5))
    light = tuple(float(n) for n in 120 + 130 * a.hue)
    dark = tuple(float(n) for n in 30 + 90 * a.hue[::-1])
    a.pose.props.append(Prop("cup", -h, 0.022, vec(0.0, 1.0, 0.0), 0.06, light, vec(h * 0.012, 0.02, 0.01)))
    axis = vec(-h * (0.15 + 1.6 * tilt), 1.0 - 1.1 * tilt, 0.05)
    a.pose.props.append(Prop("bottle", h, 0.020, axis, 0.13, dark, vec(-h * 0.012, 0.02, 0.01)))
    a.pose.nod = a.pose.nod + 0.2 * a.on
