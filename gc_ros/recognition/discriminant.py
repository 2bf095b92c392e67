# SPDX-License-Identifier: Apache-2.0
"""Old and taught classes in one linear discriminant, on the features of a window (`trt_build.readout.pool`).

A taught class is the mean of its clips, drawn towards the middle of all that was taught: the fewer the clips, the more
of what sets them apart is chance (`CHANCE`). All classes share one covariance, mixed of that of the training clips
within their classes, that of the shown clips within theirs, and a diagonal (`space.Metric`). So a few examples say
where a class lies, and thousands of windows of other people say what varies without meaning anything.

A shown clip counts as one point, the mean of its windows: what differs from clip to clip of one activity is person and
place, what differs from window to window of one clip is the course of the activity itself. Counted as scatter, that
costs four points of accuracy where activities are shown once.

The network's own scores stay what they are among the old classes, and their temperature too. The discriminant decides
what share of the whole they get:

    score of a taught class j   q_j
    score of an old class k     (sum of q over old classes) * the network's own score of k

with q the softmax over all rows. Clips of "none of these" are a row of their own, without a label: where it wins, the
activity is unknown.

A window that a taught class wins is unknown all the same where it lies farther from the taught classes than shown clips
do that are left out, or is more like "none of these" than they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.space import Examples, Metric, Space
from trt_build.readout import POOLED

# The shown clips' own scatter counts many times: the few directions in which they differ are left out nearly whole.
SHOWN = 20.0
# The mean of n clips counts n^2 / (n^2 + CHANCE), the middle of all taught classes the rest: a class whose only clip
# lies far out would otherwise win next to nothing. What clips differ in is left out of the comparison too: a mean is
# trusted faster than by n alone. Chosen on drawn people of another seed, depth pictures, the other half of the
# gestures, and other draws of the interactions: better on all of them for 1 to 3 clips, within a point for 5.
CHANCE = 2.0
FOLDS = 8  # of leaving out; with fewer clips each is left out alone
# Deviations of the normal distribution beyond which a clip of a taught activity comes out unknown, by its likeness to
# none-of-these (2.5 % of the clips) and by its distance (0.5 %). Other people lie farther off than who was left out:
# with both, one clip in twenty of theirs is rejected.
BEHIND_Z, FAR_Z = 1.96, 2.576
OLD_LOSS = 0.01  # share of old windows that taught classes may take, all together
TEMPERATURES = np.geomspace(0.5, 64, 22)


class Rows:
    """The linear functions of all classes: old ones, then taught ones, then none-of-these if it was shown."""

    def __init__(
        self,
        space: Space,
        taught: Sequence[Examples],
        none: Examples | None = None,
        metric: Metric | None = None,
    ) -> None:
        self.space = space
        self.metric = metric = metric or Metric(space, [*taught, *([none] if none is not None else [])])
        self._taught = slice(len(space.means), len(space.means) + len(taught))
        groups = [space.scaled(e.clip_means()) for e in (*taught, *([none] if none is not None else []))]
        self.shown = np.array([g.mean(axis=0) for g in groups]).reshape(-1, len(space.rest))
        self.means = np.concatenate([space.means, self.shown])
        if taught:
            trust = np.array([[len(g) ** 2 / (len(g) ** 2 + CHANCE)] for g in groups[: len(taught)]])
            middle = self.means[self._taught].mean(axis=0)
            self.means[self._taught] = middle + trust * (self.means[self._taught] - middle)
        clips = max(sum(map(len, groups)), 1)
        self._R = np.sqrt(SHOWN / clips) * np.concatenate(
            [np.zeros((0, len(space.rest))), *(g - g.mean(axis=0) for g in groups if len(g) > 1)]
        )
        self._solved_R = metric.solve(self._R)
        self._inner = np.linalg.inv(np.eye(len(self._R)) + self._R @ self._solved_R.T)
        new = self._add_examples(self.means[len(space.means) :], metric.solve(self.means[len(space.means) :]))
        self.weights = np.concatenate([self._add_examples(space.means, metric.solved_means), new])
        self.bias = -0.5 * (self.means * self.weights).sum(axis=1)

    def _add_examples(self, rows: NDArray[np.float64], solved: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows times the inverse of the whole covariance, from those times that of its fixed part."""
        return solved - (rows @ self._solved_R.T) @ self._inner @ self._solved_R

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(n, F) -> (n, rows)."""
        return self.space.scaled(features) @ self.weights.T + self.bias

    def nearest(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Logarithm of the distance (n,) of features (n, F) from the nearest taught class, nearly normal.

        By the embedding's mean over time alone: its deviation and change are too noisy in a single window.
        """
        part = slice(0, features.shape[1] // POOLED)
        shown = self.shown[: self._taught.stop - self._taught.start]
        apart = self.space.scaled(features)[:, None, part] - shown[None, :, part]
        return np.log(np.linalg.norm(apart, axis=-1).min(axis=1, initial=np.inf) + 1e-9)

    def chance_against(self, old: int, row: int, lead: float = 0.0) -> float:
        """How often a window of an old class would lie nearer to `row` by more than `lead`, if classes are normal."""
        w = self.weights[row] - self.weights[old]
        margin = float(w @ self.means[old] + self.bias[row] - self.bias[old] + self.metric.optimism[old])
        spread = float(np.sqrt(((self.space.factor @ w) ** 2).sum() + (w * w * self.space.rest).sum()))
        return _upper_tail((lead - margin) / max(spread, 1e-9))

    def distance(self, a: int, b: int) -> float:
        """Between two classes, in deviations of a window along the line that tells them apart."""
        squared = (self.means[a] - self.means[b]) @ (self.weights[a] - self.weights[b])
        return float(np.sqrt(max(squared, 0.0)))


class Discriminant:
    """What a recogniser asks: scores and status of a window, from the network's scores and the window's features.

    names: of the J taught classes, in their order behind the K old ones. farthest: the distance from the nearest
    of them beyond which a window is unknown. behind_none: by how much the best may be behind none-of-these, where that
    was shown. won: (J,) share of the left-out examples that each wins.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str],
        taught: Sequence[Examples],
        none: Examples | None = None,
    ) -> None:
        self.names, self.K = tuple(names), len(space.means)
        self.rows, self._has_none = Rows(space, taught, none), none is not None
        self.handicaps = np.array([self._handicap(j) for j in range(len(names))])
        values, distances, labels, clips = leave_out(self.rows, taught, none)
        values[:, self._taught] -= self.handicaps
        won = values.argmax(axis=1) == labels + self.K
        self.temperature = _temperature(values, labels + self.K) if len(labels) else 8.0
        by_class = [labels == j for j in range(len(names))]
        # Share of a class's left-out examples that it wins; NaN for a class of one clip, which cannot do without it.
        self.won = np.array([won[mine].mean() if mine.any() else np.nan for mine in by_class])
        # One limit for all classes: a few clips of each say too little.
        self.farthest = _limit(_by_clip(distances, clips), FAR_Z)
        by_clip = _by_clip(values, clips)
        behind = by_clip[:, -1] - by_clip[:, self._taught].max(axis=1, initial=-np.inf)
        self.behind_none = _limit(behind, BEHIND_Z) if self._has_none else np.inf

    @property
    def _taught(self) -> slice:
        return slice(self.K, self.K + len(self.names))

    def _handicap(self, j: int) -> float:
        """What a taught class must lead by, so that all of them take `OLD_LOSS` of the old windows at most."""
        allowed, row = OLD_LOSS / len(self.names), self.K + j

        def taken(lead: float) -> float:
            return float(np.mean([self.rows.chance_against(k, row, lead) for k in range(self.K)]))

        if taken(0.0) <= allowed:
            return 0.0
        low, high = 0.0, 1024.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if taken(middle) > allowed else (low, middle)
        return high

    def scores(self, scores: NDArray[Any], features: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
        """Scores (K + J,) of a window, and whether it is none of the activities.

        scores: (K,), the network's own, sum 1. Less than 1 is left where none-of-these takes a share.
        """
        d = self.rows(features[None])[0]
        d[self._taught] -= self.handicaps
        q = np.exp((d - d.max()) / self.temperature)
        q /= q.sum()
        old, taught = q[: self.K].sum(), q[self._taught]
        # What leads over no old class must not win because the network shares the old ones' part among several.
        most = 0.99 * old * float(np.max(scores))
        kept = np.where(d[self._taught] > d[: self.K].max(), taught, np.minimum(taught, most))
        old += (taught - kept).sum()
        shares = np.concatenate([old * np.asarray(scores, np.float64), kept])
        best = int(shares.argmax())
        if best < self.K:
            return shares, int(d.argmax()) >= self.K + len(self.names)
        far = self.rows.nearest(features[None])[0] > self.farthest
        return shares, bool(far or d[-1] - d[self._taught].max() > self.behind_none)


def leave_out(
    whole: Rows, taught: Sequence[Examples], none: Examples | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """What the discriminant `whole` would say of examples that it had not seen: their clips are left out in turn.

    Values (n, rows), distances from the nearest taught class (n,), own classes (n,), and clips (n,), numbered through.
    A class of one clip has none.
    """
    space, folds = whole.space, _folds([e.clips for e in taught])
    values, labels = [np.zeros((0, len(space.means) + len(taught) + (none is not None)))], [np.zeros(0, int)]
    distances, clips = [np.zeros(0)], [np.zeros(0, int)]
    for fold in range(FOLDS):
        held = [f == fold for f in folds]
        if not any(h.any() for h in held):
            continue
        kept = [Examples(e.features[~h], e.clips[~h]) for e, h in zip(taught, held, strict=True)]
        rows = Rows(space, kept, none, whole.metric)
        for j, (e, h) in enumerate(zip(taught, held, strict=True)):
            values.append(rows(e.features[h]))
            distances.append(rows.nearest(e.features[h]))
            labels.append(np.full(int(h.sum()), j))
            clips.append(e.clips[h] * len(taught) + j)
    return np.concatenate(values), np.concatenate(distances), np.concatenate(labels), np.concatenate(clips)


def _folds(clips: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Which fold leaves each window out; -1 for those of a class of one clip, which would be gone."""
    found = []
    for numbers in clips:
        distinct, at = np.unique(numbers, return_inverse=True)
        found.append(at % FOLDS if len(distinct) > 1 else np.full(len(numbers), -1))
    return found


def _temperature(values: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The one of `TEMPERATURES` at which the left-out examples have the largest likelihood."""
    losses = []
    for temperature in TEMPERATURES:
        scaled = values / temperature
        top = scaled.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
        losses.append(float((log_sum - scaled[np.arange(len(truth)), truth]).mean()))
    return float(TEMPERATURES[int(np.argmin(losses))])


def _by_clip(values: NDArray[np.float64], clips: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means of the windows' values (n, ...) over each clip."""
    return np.array([values[clips == c].mean(axis=0) for c in np.unique(clips)]).reshape(
        -1, *values.shape[1:]
    )


def _limit(values: NDArray[np.float64], z: float) -> float:
    """What all but a share of more values lie below, if they are normal; infinite for less than two.

    Few values say little about mean and deviation: the limit is that of Student's t.
    """
    n = len(values)
    if n < 2:
        return np.inf
    return float(values.mean() + _student(z, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n))


def _student(z: float, free: int) -> float:
    """The quantile of Student's t that has the probability of z in the normal distribution (Cornish-Fisher)."""
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def _upper_tail(z: float) -> float:
    """P(N(0, 1) > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))
