# SPDX-License-Identifier: Apache-2.0
"""What people do: one function an activity writes its motion into a `Pose`.

Every motion repeats or is held, at rates a 2 Hz sampling over 4 s can tell apart. Random draws of a performance are
made once, in `Act`, before the activity is known: with equal seeds two activities share body, sway, timing
and framing, so the named pairs differ in nothing but their local motion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gc_model.synth.act import TAU, Act, smooth, vec
from gc_model.synth.body import LEFT, RIGHT, Prop
from gc_model.synth.whole_body import fall, idle, pick_up, pour, run, sit_down, stand_up, walk


def drink(a: Act) -> None:
    h, up = a.hand, smooth(0.72 + 0.85 * a.osc(0.34))
    low, mouth = vec(h * 0.075, -0.13 + a.high, 0.19), vec(h * 0.058, 0.040, 0.105)
    a.reach(h, "chest", low + (mouth - low) * up[:, None], (h * 0.8, -0.75, -0.1), vec(-h * 0.75, 0.4, 0.15))
    axis = vec(0.0, 1.0 - 0.45 * up, -0.75 * up - 0.05)
    tint = tuple(float(n) for n in 70 + 180 * a.hue)
    a.pose.props.append(Prop("cup", h, 0.022, axis, 0.072, tint, vec(-h * 0.016, 0.016, 0.014)))


def phone_call(a: Act) -> None:
    h, talk = a.hand, a.osc(0.7)
    offset = vec(h * (0.085 + 0.004 * talk), -0.055 + 0.006 * talk, 0.045)
    a.reach(h, "head", offset, (h * 0.9, -0.8, -0.1), vec(-h * 0.12, 0.9, -0.25))
    axis = vec(-h * 0.05, 1.0, -0.45)
    tint = tuple(float(n) for n in 25 + 50 * a.hue)
    a.pose.props.append(Prop("phone", h, 0.015, axis, 0.075, tint, vec(-h * 0.008, 0.012, 0.0)))


def clap(a: Act) -> None:
    gap = 0.012 + 0.085 * a.amp * (0.5 + 0.5 * a.osc(0.93))
    for side in (LEFT, RIGHT):
        a.reach(side, "chest", vec(side * gap, -0.135 + a.high, 0.20), (side * 1.0, -0.9, -0.3),
                vec(-side * 0.12, 0.65, 0.75))  # fmt: skip


def rub_hands(a: Act) -> None:
    slide = a.amp * a.osc(0.93)
    for side in (LEFT, RIGHT):
        at = vec(side * 0.020, -0.140 + a.high + side * 0.026 * slide, 0.19 + side * 0.022 * slide)
        a.reach(side, "chest", at, (side * 1.0, -0.9, -0.3), vec(-side * 0.35, 0.50, 0.75))


def wave(a: Act) -> None:
    h, swing = a.hand, a.amp * a.osc(0.78)
    offset = vec(h * (0.165 + 0.075 * swing), 0.045 + a.high - 0.012 * swing**2, 0.07)
    a.reach(h, "head", offset, (h * 1.0, -0.9, -0.2), vec(h * (0.1 + 0.55 * swing), 1.0, 0.1))


def salute(a: Act) -> None:
    h, tremor = a.hand, a.osc(0.78)
    offset = vec(h * (0.118 + 0.003 * tremor), -0.005 + 0.004 * tremor, 0.065)
    a.reach(h, "head", offset, (h * 1.0, -0.35, -0.1), vec(-h * 0.85, 0.5, -0.05))


def read(a: Act) -> None:
    tilt = 0.006 * a.osc(0.4)
    for side in (LEFT, RIGHT):
        a.reach(side, "chest", vec(side * 0.085, -0.165 + a.high + tilt, 0.19), (side * 0.9, -0.9, -0.2),
                vec(-side * 0.30, 0.55, 0.5))  # fmt: skip
    a.pose.nod = a.pose.nod + 0.34 * a.on
    a.pose.turn = a.pose.turn * 0.4 + 0.10 * a.osc(0.5) * a.on
    middle = vec(-a.hand * 0.068, 0.035, 0.01)
    a.pose.props.append(
        Prop("paper", a.hand, 0.062, vec(0.0, 1.0, 0.55), 0.13, (238.0, 236.0, 226.0), middle)
    )


def stretch(a: Act) -> None:
    bend = 0.34 * a.amp * a.osc(0.33)
    a.pose.side = a.pose.side + bend * a.on
    for side in (LEFT, RIGHT):
        a.reach(side, "head", vec(side * 0.022 - 0.33 * bend, 0.205, 0.01), (side * 1.0, 0.1, -0.1),
                vec(-side * 0.4 - 0.3 * bend, 1.0, 0.0))  # fmt: skip


def throw(a: Act) -> None:
    h, cycle = a.hand, a.angle(0.52) / TAU % 1.0
    # Wind up, then fling.
    swing = np.where(cycle < 0.62, smooth(cycle / 0.62), 1 - smooth((cycle - 0.62) / 0.2))
    back, front = vec(h * 0.20, 0.10, -0.13), vec(h * 0.05, 0.02 + a.high, 0.31)
    over = vec(0.0, 0.16 * 4 * swing * (1 - swing), 0.0)
    a.reach(h, "chest", front + (back - front) * swing[:, None] + over, (h * 1.0, -0.2, -0.5))
    a.pose.twist = a.pose.twist - h * 0.45 * (swing - 0.35) * a.on
    a.pose.lean = a.pose.lean + 0.20 * (0.5 - swing) * a.on
    a.pose.feet[-h][:, 2] += 0.10 * a.on
    flight = np.clip((cycle - 0.80) / 0.2, 0, 1) * (cycle > 0.80)
    lift = vec(0.0, 0.01 + 0.25 * flight - 0.3 * flight**2, 0.02 + 1.6 * flight)
    tint = tuple(float(n) for n in 50 + 205 * a.hue)
    a.pose.props.append(Prop("ball", h, 0.026, vec(0.0, 1.0, 0.0), 0.002, tint, lift, flat=False))


def kick(a: Act) -> None:
    h, swing = a.hand, np.clip(1.25 * a.osc(0.55) + 0.15, -0.45, 1.0) * a.on
    foot = a.pose.feet[h]
    foot[:, 2] += 0.36 * a.amp * swing
    foot[:, 1] += 0.27 * a.amp * np.maximum(swing, 0) + 0.09 * np.maximum(-swing, 0)
    a.pose.lean = a.pose.lean - 0.20 * np.maximum(swing, 0) + 0.1 * np.maximum(-swing, 0)
    a.pose.pelvis[:, 0] -= h * 0.03 * a.on
    for side in (LEFT, RIGHT):
        away = side * h * swing
        a.reach(side, "chest", vec(side * 0.22, -0.20, 0.06 - 0.12 * away), (side * 0.4, -0.2, -1.0))


def jump(a: Act) -> None:
    wide = 0.5 + 0.5 * a.osc(0.62)
    lift = 0.045 * a.amp * np.abs(np.sin(a.angle(0.62))) * a.on
    a.pose.pelvis[:, 1] += lift - 0.012 * a.on
    sweep = -1.15 + 2.45 * wide
    for side in (LEFT, RIGHT):
        a.pose.feet[side][:, 0] += side * 0.115 * a.amp * wide * a.on
        a.pose.feet[side][:, 1] += lift
        a.reach(side, "chest", vec(side * (0.11 + 0.29 * np.cos(sweep)), 0.29 * np.sin(sweep), 0.03),
                (side * 0.5, -0.5, -0.8))  # fmt: skip


def squat(a: Act) -> None:
    deep = (0.5 + 0.5 * a.osc(0.46)) * a.on * min(a.amp, 1.08)
    a.pose.pelvis[:, 1] -= 0.205 * deep
    a.pose.pelvis[:, 2] -= 0.085 * deep
    a.pose.lean = a.pose.lean + 0.50 * deep
    a.pose.nod = a.pose.nod - 0.2 * deep
    for side in (LEFT, RIGHT):
        a.pose.feet[side][:, 0] += side * 0.035
        a.reach(side, "chest", vec(side * 0.085, -0.03 + a.high, 0.29), (side * 0.6, -0.9, -0.2))


def bow(a: Act) -> None:
    deep = smooth(0.5 + 0.75 * a.osc(0.36)) * a.on
    a.pose.lean = a.pose.lean + (0.95 * min(a.amp, 1.1)) * deep
    a.pose.pelvis[:, 2] -= 0.07 * deep
    a.pose.nod = a.pose.nod + 0.25 * deep
    for side in (LEFT, RIGHT):
        a.reach(
            side, "base", vec(side * 0.125, -0.05 - 0.10 * deep, 0.03 + 0.16 * deep), (side * 0.8, 0.1, -0.6)
        )


def cheer(a: Act) -> None:
    pump = 0.5 + 0.5 * a.osc(0.85)
    a.pose.pelvis[:, 1] += 0.010 * (pump - 0.5) * a.on
    a.pose.nod = a.pose.nod - 0.18 * a.on
    for side in (LEFT, RIGHT):
        a.reach(side, "head", vec(side * (0.17 + 0.03 * a.amp * pump), 0.005 + 0.15 * a.amp * pump, 0.02),
                (side * 1.0, -0.6, -0.2), vec(side * 0.1, 1.0, 0.0))  # fmt: skip


def march(a: Act) -> None:
    swing = a.osc(0.72)
    for side in (LEFT, RIGHT):
        step = np.maximum(side * swing, 0) * a.on
        a.pose.feet[side][:, 1] += 0.175 * a.amp * step
        a.pose.feet[side][:, 2] += 0.055 * step
        a.reach(
            side,
            "chest",
            vec(side * 0.135, -0.235, 0.02 - 0.19 * side * swing * a.amp),
            (side * 0.3, 0.0, -1.0),
        )
    a.pose.pelvis[:, 1] -= 0.008 * (1 - np.abs(swing)) * a.on
    a.pose.twist = a.pose.twist + 0.10 * swing * a.on


def point(a: Act) -> None:
    h, sweep = a.hand, 0.35 + 0.42 * a.amp * a.osc(0.27)
    way = vec(h * np.sin(sweep), 0.10 + a.high, np.cos(sweep))
    a.reach(h, "chest", vec(h * 0.115, 0.0, 0.0) + 0.33 * way, (h * 0.7, -0.8, -0.2), way)
    a.pose.turn = a.pose.turn * 0.3 + h * 0.6 * sweep * a.on


def handshake(a: Act, gap: float, meet: float, first: bool) -> None:
    shake = 0.033 * a.amp * a.osc(0.9)
    a.pose.lean = a.pose.lean + 0.07 * a.on
    a.reach(
        RIGHT,
        "floor",
        vec(0.012, meet + shake, gap / 2 - 0.055),
        (RIGHT * 0.5, -0.9, -0.3),
        vec(0.1, 0.05, 1.0),
    )


def push(a: Act, gap: float, meet: float, first: bool) -> None:
    shove = 0.5 + 0.5 * a.osc(0.5)
    if first:
        a.pose.lean = a.pose.lean + (0.06 + 0.26 * shove) * a.on
        a.pose.pelvis[:, 2] += 0.05 * shove * a.on
        a.pose.feet[a.hand][:, 2] -= 0.13 * a.on
        for side in (LEFT, RIGHT):
            a.reach(side, "chest", vec(side * 0.085, -0.03 + 0.01 * shove, 0.13 + 0.175 * shove),
                    (side * 1.0, -0.7, -0.2), vec(0.0, 0.75, 0.6))  # fmt: skip
    else:
        hit = 0.5 + 0.5 * a.osc(0.5, -0.45)
        a.pose.lean = a.pose.lean + (0.04 - 0.30 * hit) * a.on
        a.pose.pelvis[:, 2] -= 0.07 * hit * a.on
        a.pose.feet[a.hand][:, 2] -= 0.12 * hit * a.on
        for side in (LEFT, RIGHT):
            a.reach(side, "chest", vec(side * (0.17 + 0.06 * hit), -0.19 + 0.08 * hit, 0.04 + 0.10 * hit),
                    (side * 0.5, -0.5, -1.0))  # fmt: skip


def hug(a: Act, gap: float, meet: float, first: bool) -> None:
    rock, pat = 0.05 * a.osc(0.35), a.osc(0.8)
    a.pose.side = a.pose.side + (rock if first else -rock) * a.on
    a.pose.lean = a.pose.lean + 0.10 * a.on
    a.pose.turn = a.pose.turn * 0.3 + 0.55 * a.on
    for side in (LEFT, RIGHT):
        high = 0.02 if side == RIGHT else -0.11
        a.reach(side, "chest", vec(side * 0.055, high + 0.02 * pat * (side == RIGHT), gap * 0.72),
                (side * 1.0, -0.35, 0.0), vec(-side * 0.9, -0.1, 0.1))  # fmt: skip


def point_at(a: Act, gap: float, meet: float, first: bool) -> None:
    if first:
        wag = 0.035 * a.amp * a.osc(0.85)
        way = vec(0.0, -0.02 + 2.0 * wag, 1.0)
        a.reach(a.hand, "chest", vec(a.hand * 0.085, 0.0 + wag, 0.29), (a.hand * 0.7, -0.8, -0.2), way)
        a.pose.lean = a.pose.lean + 0.06 * a.on
    else:
        a.pose.lean = a.pose.lean - 0.05 * a.on
        a.pose.turn = a.pose.turn + 0.15 * a.osc(0.3) * a.on


Solo = Callable[[Act], None]
Duo = Callable[[Act, float, float, bool], None]
ALONE: dict[str, Solo] = {
    f.__name__: f
    for f in (drink, phone_call, clap, rub_hands, wave, salute, read, stretch, throw, kick,
              jump, squat, bow, cheer, march, point, walk, run, fall, sit_down, stand_up, pick_up, pour, idle)
}  # fmt: skip
TOGETHER: dict[str, Duo] = {f.__name__: f for f in (handshake, push, hug, point_at)}
DISTANCE = {"handshake": 0.88, "push": 0.82, "hug": 0.36, "point_at": 1.0}  # metres between the two
# The number of an activity draws its clips: newer ones come last, so that those before keep their pictures.
_LATER = ("walk", "run", "fall", "sit_down", "stand_up", "pick_up", "pour", "idle")
ACTIVITIES: tuple[str, ...] = (*(n for n in (*ALONE, *TOGETHER) if n not in _LATER), *_LATER)
# Degrees from the camera.
TURNED = {"walk": 62.0, "run": 62.0, "fall": 50.0, "sit_down": 35.0, "stand_up": 35.0}
PAIRS = (("drink", "phone_call"), ("clap", "rub_hands"), ("wave", "salute"))  # differ by a small local motion
