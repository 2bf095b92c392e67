# SPDX-License-Identifier: Apache-2.0
"""Old and taught classes in one linear discriminant, on the features of a window (`trt_build.readout.pool`).

A taught class is the mean of its clips, drawn towards the middle of all that was taught: the fewer the clips, the more
of what sets them apart is chance (`CHANCE`). All classes share one covariance, mixed of that of the training clips
within their classes, that of the shown clips within theirs, and a diagonal (`space.Metric`). So a few examples say
where a class lies, and thousands of windows of other people say what varies without meaning anything.

A shown clip counts as one point, the mean of its windows: what differs from clip to clip of one activity is person and
place, what differs from window to window of one clip is the course of the activity itself. Counted as scatter, that
costs four points of accuracy where activities are shown once.

The network's own scores stay what they are among the old classes, and their temperature too. The share of the whole
that they get depends on one value for all of them, beside one for each taught class:

    score of a taught class j   q_j
    score of an old class k     q_old * the network's own score of k
    q                           softmax of (old, d_1 - lead_1, ..., d_J - lead_J)
    old                         (the largest d_k + sum over k of the network's own score of k * d_k) / 2
    lead_j                      sum over k of the network's own score of k * what j must lead by over k

By the largest d_k alone, one of twenty old classes is always near, whatever the window shows, while the network mostly
knows that it is not this one. By the network's scores alone, a window that it takes for idle, or for the wrong old
class, is as good as lost to a taught one, however near it lies to its own. Where 1 % of the old is lost, 74 % of three
taught activities are recognised by the network's scores alone, 78 % by the largest d_k, and 82 % by both.

The old classes were learned from other people and cameras, so that whatever the robot sees looks more like what was
shown to it; and who stands before another camera than those who showed it looks more like the old. Each old class
therefore counts a second time, moved towards the middle of the taught, and what was shown a second time, moved towards
the old (`Rows.here`); the larger d_k holds. Clips of "none of these" are a row of their own, without a
label: where it wins, the activity is unknown.

A window that a taught class wins is unknown all the same where it is stranger than shown clips are that are left out,
or more like "none of these". Strange is what lies far from the taught classes and near an old one. How strange clips of
other people may be, a clip left out alone does not tell: another clip of the same person is still there. So half of the
clips are left out at a time, the two halves being the sides of what they differ in most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.limits import limit, upper_tail
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
# Deviations of the normal distribution beyond which a clip of a taught activity comes out unknown: 5 % of the clips, by
# their strangeness, or where none-of-these was shown 2.5 % by that and 2.5 % by their likeness to it.
STRANGE_Z, BESIDE_NONE_Z, BEHIND_Z = 1.645, 1.96, 1.96
# Of fewer clips, halves are single clips, mostly of one person: nobody else would be like enough.
LEAST_CLIPS = 3
# A taught class must lead by LEAD + LEAD_MORE * (1 - 1 / J): a trade between two errors. Chosen on drawn people of
# another seed so that 1 % of clips of old activities, in pictures like those shown, are lost to 2, 3, 5 or 8 taught by
# five, and less to one.
LEAD, LEAD_MORE = 0.6, 1.27
FAR = 10.0  # at most so far behind the largest counts an old class, however little it fits
# Of the way from the middle of the old to that of J taught, times J / (J + 1), that classes are moved.
MOVE = 2 / 3
# A taught class leads over an old class by so much that, by the features alone, it takes 5 % of that class's windows.
CLOSE_Z = 1.645
UNTESTED = 1.0  # temperature where nothing can be left out
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
            trust = np.array([len(g) ** 2 / (len(g) ** 2 + CHANCE) for g in groups[: len(taught)]])
            middle = self.means[self._taught].mean(axis=0)
            self.means[self._taught] = middle + trust[:, None] * (self.means[self._taught] - middle)
            # What is drawn to the middle leads by less.
            self.trust = trust if len(taught) > 1 else np.ones(1)
        clips = max(sum(map(len, groups)), 1)
        self._R = np.sqrt(SHOWN / clips) * np.concatenate(
            [np.zeros((0, len(space.rest))), *(g - g.mean(axis=0) for g in groups if len(g) > 1)]
        )
        self._solved_R = metric.solve(self._R)
        self._inner = np.linalg.inv(np.eye(len(self._R)) + self._R @ self._solved_R.T)
        new = self._add_examples(self.means[len(space.means) :], metric.solve(self.means[len(space.means) :]))
        self.weights = np.concatenate([self._add_examples(space.means, metric.solved_means), new])
        self.bias = -0.5 * (self.means * self.weights).sum(axis=1)
        move = np.zeros(len(space.rest))
        if taught:
            share = MOVE * len(taught) / (len(taught) + 1)
            move = share * (self.means[self._taught].mean(axis=0) - space.means.mean(axis=0))
        self._move = self._add_examples(move[None], metric.solve(move[None]))[0]
        # The middle of J taught classes is by one part in J one of them; moved whole, few would lie on the old.
        back = -((1 - 1 / max(len(taught), 1)) ** 2)
        self._by, self._back = np.where(np.arange(len(self.means)) < len(space.means), 1.0, back), back * move
        self._moved_bias = -(self._by * (self.means @ self._move) + self._by**2 * (move @ self._move) / 2)

    def _add_examples(self, rows: NDArray[np.float64], solved: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows times the inverse of the whole covariance, from those times that of its fixed part."""
        return solved - (rows @ self._solved_R.T) @ self._inner @ self._solved_R

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(n, F) -> (n, rows)."""
        return self._values(self.space.scaled(features))

    def _values(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        return scaled @ self.weights.T + self.bias

    def here(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """The same, each class by the larger of its value where it was learned, or shown, and its value when moved."""
        scaled = self.space.scaled(features)
        values = self._values(scaled)
        return np.maximum(values, values + np.outer(scaled @ self._move, self._by) + self._moved_bias)

    def signs(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Two signs (n, 2) of how strange features (n, F) are, each nearly normal.

        The logarithm of the distance from the nearest taught class, where it was shown or moved, by the embedding's
        mean over time alone: its deviation and change are too noisy in a single window. And how far on the way from the
        best taught class to the best old one, as `here` has them: -1 at the one, 1 at the other.
        """
        part = slice(0, features.shape[1] // POOLED)
        shown = self.shown[: self._taught.stop - self._taught.start]
        shown = np.concatenate([shown, shown + self._back])
        apart = self.space.scaled(features)[:, None, part] - shown[None, :, part]
        distance = np.log(np.linalg.norm(apart, axis=-1).min(axis=1, initial=np.inf) + 1e-9)
        values = self.here(features)
        old = values[:, : self._taught.start].argmax(axis=1)
        taught = self._taught.start + values[:, self._taught].argmax(axis=1)
        whole = ((self.means[old] - self.means[taught]) * (self.weights[old] - self.weights[taught])).sum(
            axis=1
        )
        n = np.arange(len(features))
        return np.stack(
            [distance, 2 * (values[n, old] - values[n, taught]) / np.maximum(whole, 1e-9)], axis=1
        )

    def lead_over(self, old: int, row: int) -> tuple[float, float]:
        """Mean and deviation of how much nearer to `row` than to its own class a window of an old class lies."""
        w = self.weights[row] - self.weights[old]
        margin = float(w @ self.means[old] + self.bias[row] - self.bias[old] + self.metric.optimism[old])
        spread = float(np.sqrt(((self.space.factor @ w) ** 2).sum() + (w * w * self.space.rest).sum()))
        return margin, max(spread, 1e-9)

    def least_lead(self, old: int, row: int) -> float:
        """By how much `row` must lead over an old class so that it takes few of its windows, if classes are normal."""
        margin, spread = self.lead_over(old, row)
        return max(margin + CLOSE_Z * spread, 0.0)

    def chance_against(self, old: int, row: int) -> float:
        """How often a window of an old class would lie nearer to `row`, if classes are normal."""
        margin, spread = self.lead_over(old, row)
        return upper_tail(-margin / spread)

    def distance(self, a: int, b: int) -> float:
        """Between two classes, in deviations of a window along the line that tells them apart."""
        squared = (self.means[a] - self.means[b]) @ (self.weights[a] - self.weights[b])
        return float(np.sqrt(max(squared, 0.0)))


class Discriminant:
    """What a recogniser asks: scores and status of a window, from the network's scores and the window's features.

    names: of the J taught classes, in their order behind the K old ones. idle: which old ones are no activity.
    strangest: how strange a window may be. behind_none: by how much the best may be behind none-of-these, where that
    was shown. leads: (J, K) of each over each old class. won: (J,) share of the left-out examples that each wins.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str],
        taught: Sequence[Examples],
        none: Examples | None = None,
        idle: Sequence[int] = (),
    ) -> None:
        self.names, self.K = tuple(names), len(space.means)
        self.rows, self._has_none = Rows(space, taught, none), none is not None
        self._idle = np.isin(np.arange(self.K), idle)
        lead = (LEAD + LEAD_MORE * (1 - 1 / len(names))) * self.rows.trust[:, None]
        over = [[self.rows.least_lead(k, self.K + j) for k in range(self.K)] for j in range(len(names))]
        self.leads = np.where(self._idle, lead, np.maximum(lead, over))
        values, _, labels, clips = leave_out(self.rows, taught, none, _folds(taught))
        old, mine = values[:, : self.K], values[:, self._taught]
        # The network's scores of the shown windows are not kept; idle is what it mostly says of new activities.
        # The leads are left out: they are a prior, and with them scores come out too low.
        named = self._idle if self._idle.any() else np.ones(self.K, bool)
        nearest = old.max(axis=1)
        known = (nearest + np.maximum(old[:, named].max(axis=1), nearest - FAR)) / 2
        self.temperature = (
            _temperature(np.column_stack([known, mine]), labels + 1) if len(labels) else UNTESTED
        )
        leading = mine[np.arange(len(labels)), labels] - self.leads[labels][:, named].mean(axis=1) > known
        won = leading & (mine.argmax(axis=1) == labels)
        # Share of a class's left-out examples that it wins; NaN for a class of one clip, which cannot do without it.
        self.won = np.array([won[labels == j].mean() if j in labels else np.nan for j in range(len(names))])
        # One limit for all classes: a few clips of each say too little.
        by_clip = _by_clip(values, clips)
        behind = by_clip[:, -1] - by_clip[:, self._taught].max(axis=1, initial=-np.inf)
        self.behind_none = limit(behind, BEHIND_Z) if self._has_none else np.inf
        _, signs, _, clips = leave_out(self.rows, taught, none, _sides(space, taught))
        by_clip = _by_clip(signs, clips) if max(e.count for e in taught) >= LEAST_CLIPS else np.zeros((0, 2))
        self._usual = (by_clip.mean(axis=0), by_clip.std(axis=0, ddof=1) + 1e-9) if len(by_clip) > 1 else None
        self.strangest = limit(self._strangeness(by_clip), BESIDE_NONE_Z if self._has_none else STRANGE_Z)

    @property
    def _taught(self) -> slice:
        return slice(self.K, self.K + len(self.names))

    def _strangeness(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The two signs together (n,), in usual deviations, one excusing the other by one; 0: too little was shown."""
        if self._usual is None:
            return np.zeros(len(signs))
        mean, deviation = self._usual
        return np.asarray(np.maximum((signs - mean) / deviation, -1).sum(axis=1))

    def scores(self, scores: NDArray[Any], features: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
        """Scores (K + J,) of a window, and whether it is none of the activities.

        scores: (K,), the network's own, sum 1. Less than 1 is left where none-of-these takes a share.
        """
        own = np.asarray(scores, np.float64)
        d = self.rows.here(features[None])[0]
        nearest = d[: self.K].max()
        # What is none-of-these is no taught activity either; and the network mostly calls it idle.
        none = d[-1] if self._has_none else -np.inf
        by_class = np.maximum(d[: self.K], nearest - FAR)
        by_class[self._idle] = np.maximum(by_class[self._idle], none)
        known = (max(nearest, none) + own @ by_class) / 2
        leads = self.leads @ own
        leading = d[self._taught] - leads
        values = np.concatenate([[known], leading, d[self._taught.stop :] - leads.min()])
        q = np.exp((values - values.max()) / self.temperature)
        q /= q.sum()
        old, taught = q[0], q[1 : 1 + len(leads)]
        # What does not lead over the old must not win because the network shares their part among several.
        most = 0.99 * old * own.max()
        kept = np.where(leading > known, taught, np.minimum(taught, most))
        old += (taught - kept).sum()
        shares = np.concatenate([old * own, kept])
        best = int(shares.argmax())
        if best < self.K:
            return shares, bool(self._has_none and d[-1] > max(nearest, leading.max()))
        strangeness = self._strangeness(self.rows.signs(features[None]))[0]
        return shares, bool(strangeness > self.strangest or d[-1] - d[self._taught].max() > self.behind_none)


def leave_out(
    whole: Rows, taught: Sequence[Examples], none: Examples | None, folds: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """What the discriminant `whole` would say of examples that it had not seen: their clips are left out in turn.

    folds: for each class, at which turn each window is left out; -1: never. Returns values (n, rows), signs of
    strangeness (n, 2), own classes (n,), and clips (n,), numbered through.
    """
    space = whole.space
    values, labels = [np.zeros((0, len(space.means) + len(taught) + (none is not None)))], [np.zeros(0, int)]
    signs, clips = [np.zeros((0, 2))], [np.zeros(0, int)]
    for fold in range(max((int(f.max(initial=-1)) for f in folds), default=-1) + 1):
        held = [f == fold for f in folds]
        if not any(h.any() for h in held):
            continue
        kept = [Examples(e.features[~h], e.clips[~h]) for e, h in zip(taught, held, strict=True)]
        rows = Rows(space, kept, none, whole.metric)
        for j, (e, h) in enumerate(zip(taught, held, strict=True)):
            values.append(rows.here(e.features[h]))
            signs.append(rows.signs(e.features[h]))
            labels.append(np.full(int(h.sum()), j))
            clips.append(e.clips[h] * len(taught) + j)
    return np.concatenate(values), np.concatenate(signs), np.concatenate(labels), np.concatenate(clips)


def _sides(space: Space, taught: Sequence[Examples]) -> list[NDArray[np.int64]]:
    """Folds of two: the sides of the direction in which the clips of all classes, together, differ most.

    By the embedding's mean over time: there, it is mostly people and places. A class that lies on one side has no fold.
    """
    means = [space.scaled(e.clip_means())[:, : len(space.rest) // POOLED] for e in taught]
    differences = np.concatenate([m - m.mean(axis=0) for m in means])
    most = np.linalg.svd(differences, full_matrices=False)[2][0]
    side = (differences @ most > 0).astype(np.int64)
    found = []
    for e, mine in zip(taught, np.split(side, np.cumsum([len(m) for m in means])[:-1]), strict=True):
        both = mine.min() < mine.max()
        found.append(mine[np.unique(e.clips, return_inverse=True)[1]] if both else np.full(len(e), -1))
    return found


def _folds(taught: Sequence[Examples]) -> list[NDArray[np.int64]]:
    """Folds of single clips, or of some where there are more than `FOLDS`; a class of one clip has no fold."""
    found = []
    for numbers in (e.clips for e in taught):
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
