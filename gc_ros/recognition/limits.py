# SPDX-License-Identifier: Apache-2.0
"""Limits from few values, as if these were normal."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def limit(values: NDArray[np.float64], z: float) -> float:
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


def upper_tail(z: float) -> float:
    """P(N(0, 1) > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))
