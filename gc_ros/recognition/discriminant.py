# SPDX-License-Identifier: Apache-2.0
"""Old and taught classes in one linear discriminant, on the features of a window (`trt_build.readout.pool`).

A taught class is the mean of its examples. All classes share one covariance: that of the training clips within their
classes, that of the examples within theirs, and the identity, mixed; in units of the training clips' deviations. So a
few examples say where a class lies, and thousands of windows of other people say what varies without meaning anything.

The network's own scores stay what they are among the old classes, and their temperature too. The discriminant decides
what share of the whole they get:

    score of a taught class j   q_j
    score of an old class k     (sum of q over old classes) * the network's own score of k

with q the softmax over all rows. Clips of "none of these" are a row of their own, without a label: where it wins, the
activity is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.classes import WINDOWS_A_CLIP, ClassStatistics

# What the covariance is made of, beside the examples' own scatter: the identity grows with the features, whose scatter
# 75 windows (five clips of five activities) say little about. Tried on interactions with gestures in place of
# the training clips: little of their scatter is best. Tune it by `benchmarks/teaching.py` on a bundle with statistics.
IDENTITY_PER_FEATURE, TRAINING = 1 / 75, 0.3
FOLDS = 8  # of leaving out; with fewer clips each is left out alone
REJECTED = 0.05  # share of left-out examples below the threshold of their class
OLD_LOSS = 0.01  # share of old windows that taught classes may take, all together
TEMPERATURES = np.geomspace(0.5, 64, 22)


@dataclass(frozen=True)
class Examples:
    """Windows of one activity: features (n, F), and the number of the clip of each (n,)."""

    features: NDArray[np.float32]
    clips: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def count(self) -> int:
        """Clips that they come from."""
        return len(np.unique(self.clips))

    def joined(self, other: Examples) -> Examples:
        """Both, the clips of the other with numbers of their own; windows that both have, once."""
        fresh = [i for i, row in enumerate(other.features) if not (self.features == row).all(axis=1).any()]
        first = int(self.clips.max(initial=-1)) + 1
        _, clips = np.unique(other.clips[fresh], return_inverse=True)
        return Examples(
            np.concatenate([self.features, other.features[fresh]]),
            np.concatenate([self.clips, clips.astype(np.int64) + first]),
        )


class Space:
    """The features in units of the training clips' deviations, and the fixed part of the covariance."""

    def __init__(self, old: ClassStatistics) -> None:
        variance = (old.factor.astype(np.float64) ** 2).sum(axis=0) + old.rest
        variance += old.mean.var(axis=0, dtype=np.float64)
        self._unit, self._zero = np.sqrt(variance), old.mean.mean(axis=0, dtype=np.float64)
        self.factor, self.rest = old.factor / self._unit, old.rest / variance
        self._D = IDENTITY_PER_FEATURE * len(variance) + TRAINING * self.rest
        self._W = np.sqrt(TRAINING) * self.factor
        self._inner = np.linalg.inv(np.eye(len(self._W)) + (self._W / self._D) @ self._W.T)
        self.means = self.scaled(old.mean)
        self.solved_means = self.solve(self.means)
        # The middle of a class is known as well as its windows are many, of which those of a clip count as one: a
        # fresh window lies by so much nearer to every other class, on average, than the windows of the training.
        part = self._W / self._D
        inverse = 1 / self._D - np.einsum("ij,ij->j", self._inner @ part, part)
        directions = float((self.factor * self.solve(self.factor)).sum() + self.rest @ inverse)
        self.optimism = directions / np.maximum(old.count / WINDOWS_A_CLIP, 1)

    def scaled(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Features (n, F) in these units, 0 in the middle of the old classes."""
        return (np.asarray(features, np.float64) - self._zero) / self._unit

    def solve(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows (m, F) times the inverse of the fixed part of the covariance, diag(D) + W.T W."""
        scaled = rows / self._D
        return scaled - ((scaled @ self._W.T) @ self._inner @ self._W) / self._D


class Rows:
    """The linear functions of all classes: old ones, then taught ones, then none-of-these if it was shown."""

    def __init__(self, space: Space, taught: Sequence[Examples], none: Examples | None = None) -> None:
        self.space = space
        groups = [space.scaled(e.features) for e in (*taught, *([none] if none is not None else []))]
        self.means = np.concatenate([space.means, *(g.mean(axis=0, keepdims=True) for g in groups)])
        free = max(sum(len(g) - 1 for g in groups), 1)
        # A few examples hardly scatter, and what they scatter says little.
        share = 1 / (free + 10)
        self._R = np.sqrt(share) * np.concatenate(
            [np.zeros((0, len(space.rest))), *(g - g.mean(axis=0) for g in groups)]
        )
        self._solved_R = space.solve(self._R)
        self._inner = np.linalg.inv(np.eye(len(self._R)) + self._R @ self._solved_R.T)
        new = self._add_examples(self.means[len(space.means) :], space.solve(self.means[len(space.means) :]))
        self.weights = np.concatenate([self._add_examples(space.means, space.solved_means), new])
        self.bias = -0.5 * (self.means * self.weights).sum(axis=1)

    def _add_examples(self, rows: NDArray[np.float64], solved: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows times the inverse of the whole covariance, from those times that of its fixed part."""
        return solved - (rows @ self._solved_R.T) @ self._inner @ self._solved_R

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(n, F) -> (n, rows)."""
        return self.space.scaled(features) @ self.weights.T + self.bias

    def chance_against(self, old: int, row: int, lead: float = 0.0) -> float:
        """How often a window of an old class would lie nearer to `row` by more than `lead`, if classes are normal."""
        w = self.weights[row] - self.weights[old]
        margin = float(w @ self.means[old] + self.bias[row] - self.bias[old] + self.space.optimism[old])
        spread = float(np.sqrt(((self.space.factor @ w) ** 2).sum() + (w * w * self.space.rest).sum()))
        return _upper_tail((lead - margin) / max(spread, 1e-9))

    def distance(self, a: int, b: int) -> float:
        """Between two classes, in deviations of a window along the line that tells them apart."""
        squared = (self.means[a] - self.means[b]) @ (self.weights[a] - self.weights[b])
        return float(np.sqrt(max(squared, 0.0)))


class Discriminant:
    """What a recogniser asks: scores and status of a window, from the network's scores and the window's features.

    names: of the J taught classes, in their order behind the K old ones. thresholds: (J,) the least lead of each over
    all that was not taught; below it a window is unknown. won: (J,) share of the left-out examples that each wins.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str],
        taught: Sequence[Examples],
        none: Examples | None = None,
    ) -> None:
        self.names, self.K = tuple(names), len(space.means)
        self.rows = Rows(space, taught, none)
        self.handicaps = np.array([self._handicap(j) for j in range(len(names))])
        values, labels = leave_out(space, taught, none)
        values[:, self._taught] -= self.handicaps
        own = values[np.arange(len(labels)), labels + self.K]
        self.leads = own - np.delete(values, self._taught, axis=1).max(axis=1, initial=-np.inf)
        self.labels, won = labels, values.argmax(axis=1) == labels + self.K
        self.temperature = _temperature(values, labels + self.K) if len(labels) else 8.0
        by_class = [labels == j for j in range(len(names))]
        # Share of a class's left-out examples that it wins; NaN for a class of one clip, which cannot do without it.
        self.won = np.array([won[mine].mean() if mine.any() else np.nan for mine in by_class])
        self.thresholds = np.array([_lowest(self.leads[mine]) if mine.any() else 0.0 for mine in by_class])

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
        lead = d[best] - np.delete(d, self._taught).max()
        return shares, bool(lead < self.thresholds[best - self.K])


def leave_out(
    space: Space, taught: Sequence[Examples], none: Examples | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values (n, rows) of examples that the discriminant has not seen, and their classes (n,): clips in turn.

    A class of one clip has none.
    """
    folds = _folds([e.clips for e in taught])
    values, labels = [np.zeros((0, len(space.means) + len(taught) + (none is not None)))], [np.zeros(0, int)]
    for fold in range(FOLDS):
        held = [f == fold for f in folds]
        if not any(h.any() for h in held):
            continue
        rows = Rows(
            space, [Examples(e.features[~h], e.clips[~h]) for e, h in zip(taught, held, strict=True)], none
        )
        for j, (e, h) in enumerate(zip(taught, held, strict=True)):
            values.append(rows(e.features[h]))
            labels.append(np.full(int(h.sum()), j))
    return np.concatenate(values), np.concatenate(labels)


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


def _lowest(leads: NDArray[np.float64]) -> float:
    """Below it lie `REJECTED` of the leads; of a few, whose smallest is not far down, as far as normal ones would."""
    return float(min(np.quantile(leads, REJECTED), leads.mean() - 2 * leads.std()))


def _upper_tail(z: float) -> float:
    """P(N(0, 1) > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))
