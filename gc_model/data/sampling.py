# SPDX-License-Identifier: Apache-2.0
"""Which T frames of a clip make a sample: by time in training, since frame rates vary; by number in the test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUB_SEQUENCES = 5  # fixed test sub-sequences of a clip, logits averaged


def train_indices(
    times: NDArray[np.float64], T: int, window_s: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A random sub-sequence: a random frame in each of T equal bins of at most `window_s` seconds from a random start.

    times: (n,) seconds, ascending. Returns (T,) ascending indices; frames repeat where the clip has too few.
    """
    duration = _duration(times)
    span = min(duration, window_s)
    start = times[0] + rng.uniform(0, max(duration - span, 0))
    due = start + (np.arange(T) + rng.uniform(size=T)) * span / T
    return np.clip(np.searchsorted(times, due, side="right") - 1, 0, len(times) - 1)


def test_indices(n: int, T: int, i: int, of: int = SUB_SEQUENCES) -> NDArray[np.int64]:
    """Sub-sequence i of a clip of n frames: frame floor((k + (i + 1/2)/of) b) of bin k, b = n / T; (T,) indices."""
    # In integers: (k + (i + 1/2)/of) n/T falls on whole numbers, where a rounding error would take the frame before.
    return (np.arange(T, dtype=np.int64) * 2 * of + 2 * i + 1) * n // (2 * of * T)


def _duration(times: NDArray[np.float64]) -> float:
    """Seconds that n frames cover, the last one's own period included."""
    if len(times) < 2:
        return 1e-3
    return float(times[-1] - times[0]) * len(times) / (len(times) - 1)
