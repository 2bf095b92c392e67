# SPDX-License-Identifier: Apache-2.0
"""One performance of an activity: its times, the person's manner, and the pose that is being written."""

from __future__ import annotations

import numpy as np

from gc_model.synth.body import Pose, Reach, Subject

TAU = 2 * np.pi


def smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def vec(*parts: np.ndarray | float) -> np.ndarray:
    """(T, 3) from three numbers or (T,) arrays."""
    return np.stack(np.broadcast_arrays(*[np.atleast_1d(np.asarray(p, float)) for p in parts]), axis=-1)


class Act:
    """One performance: times, the subject's manner and the pose that is being written."""

    def __init__(self, subject: Subject, t: np.ndarray, rng: np.random.Generator) -> None:
        self.subject, self.t = subject, t
        self.away = False  # not in the picture at all
        self.end = np.inf  # seconds, when what is done once is over
        u = rng.uniform
        self.tempo = subject.speed * u(0.88, 1.14)
        self.phase, self.wobble, self.wobble_rate = u(0, TAU), u(0.1, 0.5), u(0.25, 0.6)
        self.amp = subject.reach * u(0.9, 1.1)
        self.begin = u(-0.9, 0.35)
        self.hand = subject.handed if u() < 0.93 else -subject.handed
        self.high, self.fore, self.wide = u(-0.02, 0.02, 3)
        self.hue = rng.uniform(0.1, 1.0, 3)
        # What everybody does all the time: shift weight, breathe, look about.
        p = pose = Pose(len(t))
        sway, f = subject.sway, u(0.12, 0.3, 4)
        a = u(0, TAU, 4)
        pose.lean = subject.posture + 0.012 * sway * np.sin(TAU * f[0] * t + a[0])
        pose.side = 0.018 * sway * np.sin(TAU * f[1] * t + a[1])
        pose.twist = u(-0.1, 0.1) + 0.05 * sway * np.sin(TAU * f[2] * t + a[2])
        pose.turn = u(-0.15, 0.15) + 0.12 * sway * np.sin(TAU * f[3] * t + a[3])
        pose.nod = u(-0.05, 0.12) + np.zeros_like(t)
        shift = 0.010 * sway * np.sin(TAU * f[1] * t + a[1])
        pose.pelvis = vec(shift, -0.004 - 0.003 * np.cos(TAU * 0.3 * t), 0.0 * t)
        self.pose = p
        self.on = smooth((t - self.begin) / 0.55)

    def angle(self, rate: float) -> np.ndarray:
        """Phase (T,) in radians of a motion of about `rate` Hz in this person's tempo."""
        t = np.maximum(self.t - self.begin, 0.0)
        return TAU * rate * self.tempo * t + self.phase + self.wobble * np.sin(TAU * self.wobble_rate * t)

    def osc(self, rate: float, lag: float = 0.0) -> np.ndarray:
        return np.sin(self.angle(rate) + lag)

    def reach(
        self,
        side: int,
        anchor: str,
        offset: np.ndarray,
        pole: tuple[float, float, float],
        hand: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        self.pose.arms[side] = Reach(anchor, offset, pole, hand, self.on if weight is None else weight)
