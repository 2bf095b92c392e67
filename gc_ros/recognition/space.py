# SPDX-License-Identifier: Apache-2.0
"""The space that activities are taught in: features of examples, units, and the covariance that all classes share."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.classes import WINDOWS_A_CLIP, ClassStatistics

# Weight of the diagonal, which grows with the features since a few clips say little about their scatter; that of the
# covariance of the training clips is 1. Five times as large, the diagonal is worse on drawn people of another seed, the
# half of the gestures whose other half is in docs/own-activities.md, and depth pictures; and where 1 % of the old is
# lost, of three taught beside the bundle's own five points fewer are recognised. Half as large gains no more.
DIAGONAL_PER_FEATURE = 1 / 75
LEAST_SHOWN = 4  # clips whose variance says something
# No feature is larger. They are about 1, and FP16, in which networks run, ends at 65504; far above, sums of squares
# overflow, or cover what all other features say.
LARGEST = 1e6

# What a window is in its clip: how often the clip has had the like before, 0 mostly, and a hash of its features.
_Window = tuple[int, bytes]
_Clip = dict[_Window, NDArray[np.float32]]  # in the order of its windows
_AFTER_ALL: tuple[float, bytes] = (math.inf, b"")


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

    @property
    def sound(self) -> bool:
        """Whether each feature is a number, and no larger than a network's are."""
        return bool((np.abs(self.features) <= LARGEST).all())

    def clip_means(self) -> NDArray[np.float64]:
        """The mean of each clip's windows (count, F)."""
        _, clip, windows = np.unique(self.clips, return_inverse=True, return_counts=True)
        of_clip = np.arange(len(windows))[:, None] == clip
        return (of_clip / windows[:, None]) @ self.features.astype(np.float64)

    def shares(self, other: Examples) -> bool:
        """Whether a window of the other is among these."""
        own = {row.tobytes() for row in self.features}
        return any(row.tobytes() in own for row in other.features)

    def joined(self, other: Examples, most: int) -> Examples:
        """Both, thinned out; a clip that both have, and each of its windows, once.

        In whatever order, and however often, examples are joined: the result is that of joining all of them at once.
        Only clips that begin alike and were never shown together come out as one.
        """
        both = self._named()
        for name, clip in other._named().items():
            both[name] = both.get(name, {}) | clip
        return _thinned(both, most)

    def thinned(self, most: int) -> Examples:
        """At most so many windows, in an order that depends on nothing but the windows.

        Each clip keeps its first windows in the order of their hashes, all clips as many of them, as far as they have
        them. So what remains of a clip, however thinned out, is still known for the same clip by its first window.
        Where there are more clips than windows allowed, a sample of the clips remains, those whose hashes come first:
        a clip that was left out does not come back, and what was shown last counts no more than what was shown before.
        """
        return _thinned(self._named(), most)

    def _named(self) -> dict[tuple[bytes, int], _Clip]:
        """The clips by the hash of their first window, and a number where several begin alike.

        A picture that stands still, drawn or simulated, gives the same windows in clips that were shown apart.
        """
        clips = []
        for number in np.unique(self.clips):
            had: Counter[bytes] = Counter()
            clip: _Clip = {}
            for row in self.features[self.clips == number]:
                digest = hashlib.sha256((row + np.float32(0)).tobytes()).digest()  # -0 is 0
                clip[had[digest], digest] = row
                had[digest] += 1
            clips.append({window: clip[window] for window in sorted(clip)})
        alike: Counter[bytes] = Counter()
        named = {}
        for clip in sorted(clips, key=_place):
            _, digest = next(iter(clip))
            named[digest, alike[digest]] = clip
            alike[digest] += 1
        return named


def _place(clip: _Clip) -> list[tuple[float, bytes]]:
    """What clips are put in order by; one that lost windows from its end keeps its place among those that did too."""
    return [*clip, _AFTER_ALL]


def _thinned(named: dict[tuple[bytes, int], _Clip], most: int) -> Examples:
    ranked = [(rank, w, name) for name, clip in named.items() for rank, w in enumerate(sorted(clip))]
    kept: dict[tuple[bytes, int], _Clip] = {}
    for _, window, name in sorted(ranked)[:most]:
        kept.setdefault(name, {})[window] = named[name][window]
    clips = sorted(kept.values(), key=_place)
    return Examples(
        np.array([row for clip in clips for row in clip.values()], np.float32),
        np.repeat(np.arange(len(clips), dtype=np.int64), [len(clip) for clip in clips]),
    )


class Space:
    """The features in units of the training clips' deviations, and where the old classes lie in them.

    means: (K, F). counts: (K,) windows of each. factor, rest: their covariance, as of `ClassStatistics`.
    """

    def __init__(self, old: ClassStatistics) -> None:
        variance = (old.factor.astype(np.float64) ** 2).sum(axis=0) + old.rest
        variance += old.mean.var(axis=0, dtype=np.float64)
        self._unit, self._zero = np.sqrt(variance), old.mean.mean(axis=0, dtype=np.float64)
        self.factor, self.rest = old.factor / self._unit, old.rest / variance
        self.means, self.counts = self.scaled(old.mean), old.count

    def scaled(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Features (n, F) in these units, 0 in the middle of the old classes."""
        return (np.asarray(features, np.float64) - self._zero) / self._unit


class Metric:
    """The part of the covariance that does not depend on which examples are of which class, and its inverse.

    shown: all examples, whatever they are of. The diagonal is the geometric mean of the units of the training and the
    variance of the examples: with another camera, and people, other features vary than did in the training.
    """

    def __init__(self, space: Space, shown: Sequence[Examples]) -> None:
        D = np.full(len(space.rest), DIAGONAL_PER_FEATURE * len(space.rest))
        if sum(e.count for e in shown) >= LEAST_SHOWN:
            variance = np.concatenate([space.scaled(e.features) for e in shown]).var(axis=0) + 1e-4
            D *= np.sqrt(variance / np.exp(np.log(variance).mean()))
        self._D, self._W = D + space.rest, space.factor
        self._part = self._W / self._D
        self._product = self._part @ self._W.T
        self._inner = np.linalg.inv(np.eye(len(self._W)) + self._product)
        self._space, self.solved_means = space, self.solve(space.means)

    @cached_property
    def optimism(self) -> NDArray[np.float64]:
        """(K,) by how much nearer to every other class a fresh window lies than the windows of the training.

        The middle of a class is known as well as its windows are many, of which those of a clip count as one; each adds
        the trace of the training clips' covariance times the inverse.
        """
        rest = self._space.rest
        trace = (self._product * self._inner.T).sum() + (rest / self._D).sum()
        trace -= (self._inner * ((self._part * rest) @ self._part.T)).sum()
        return np.asarray(trace / np.maximum(self._space.counts / WINDOWS_A_CLIP, 1))

    def solve(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows (m, F) times the inverse, that of diag(D) + W.T W."""
        scaled = rows / self._D
        return scaled - ((scaled @ self._W.T) @ self._inner) @ self._part
