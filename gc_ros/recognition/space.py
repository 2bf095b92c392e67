# SPDX-License-Identifier: Apache-2.0
"""The space that activities are taught in: features of examples, units, and the covariance that all classes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.classes import WINDOWS_A_CLIP, ClassStatistics

# Weights of the diagonal, which grows with the features since a few clips say little about their scatter, and of the
# covariance of the training clips: between 0.1 and 0.3, the best two on the half of the gestures whose other half is in
# docs/own-activities.md.
DIAGONAL_PER_FEATURE, TRAINING = 1 / 75, 0.2
LEAST_SHOWN = 4  # clips whose variance says something


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

    def clip_means(self) -> NDArray[np.float64]:
        """The mean of each clip's windows (count, F)."""
        _, clip, windows = np.unique(self.clips, return_inverse=True, return_counts=True)
        of_clip = np.arange(len(windows))[:, None] == clip
        return (of_clip / windows[:, None]) @ self.features.astype(np.float64)

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
        self._D = D + TRAINING * space.rest
        self._W = np.sqrt(TRAINING) * space.factor
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
        trace = (self._product * self._inner.T).sum() / TRAINING + (rest / self._D).sum()
        trace -= (self._inner * ((self._part * rest) @ self._part.T)).sum()
        return np.asarray(trace / np.maximum(self._space.counts / WINDOWS_A_CLIP, 1))

    def solve(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """rows (m, F) times the inverse, that of diag(D) + W.T W."""
        scaled = rows / self._D
        return scaled - ((scaled @ self._W.T) @ self._inner) @ self._part
