# SPDX-License-Identifier: Apache-2.0
"""Which frames make a sample: bins in order, every draw inside its bin, the fixed test formula."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_model.data import sampling

steps = st.lists(st.floats(0.01, 0.5), min_size=0, max_size=60)
windows = st.floats(0.2, 8.0)
seeds = st.integers(0, 2**32 - 1)


def stamps(gaps: list[float], start: float = 0.0) -> np.ndarray:
    return start + np.concatenate([[0.0], np.cumsum(gaps)])


@given(steps, st.integers(1, 16), windows, seeds, st.floats(-5, 5))
def test_training_frames_are_in_order_and_in_range_at_any_frame_rate(gaps, T, window_s, seed, start):
    times = stamps(gaps, start)
    chosen = sampling.train_indices(times, T, window_s, np.random.default_rng(seed))
    assert chosen.shape == (T,) and chosen.dtype == np.int64
    assert (np.diff(chosen) >= 0).all()
    assert chosen[0] >= 0 and chosen[-1] < len(times)


@given(st.integers(2, 400), st.integers(1, 16), windows, seeds)
def test_training_frames_span_no_more_than_the_window(n, T, window_s, seed):
    times = np.arange(n) / 30
    chosen = sampling.train_indices(times, T, window_s, np.random.default_rng(seed))
    assert times[chosen[-1]] - times[chosen[0]] <= min(window_s, n / 30) + 1 / 30


@given(seeds)
def test_each_bin_gives_one_frame_of_its_own(seed):
    # 80 frames in 4 s and 8 bins: ten frames a bin, and the window covers the whole clip.
    chosen = sampling.train_indices(np.arange(80) / 20, 8, 4.0, np.random.default_rng(seed))
    assert (chosen // 10 == np.arange(8)).all()


@given(st.integers(1, 7), seeds)
def test_a_clip_shorter_than_T_frames_repeats_frames(n, seed):
    times = np.arange(n) / 10
    chosen = sampling.train_indices(times, 8, 4.0, np.random.default_rng(seed))
    assert len(chosen) == 8 and set(chosen) <= set(range(n))
    fixed = sampling.test_indices(n, 8, 2)
    assert len(fixed) == 8 and set(fixed) == set(range(n))


def drawn_from(times: np.ndarray, draws: int) -> set[int]:
    rng = np.random.default_rng(0)
    return {int(i) for _ in range(draws) for i in sampling.train_indices(times, 8, 4.0, rng)}


def test_every_frame_can_be_drawn():
    assert drawn_from(np.arange(80) / 20, 200) == set(range(80))


def test_windows_start_anywhere_in_a_longer_clip():
    drawn = drawn_from(np.arange(200) / 20, 200)
    assert min(drawn) < 10 and max(drawn) > 190 and len(drawn) > 180


@given(st.integers(1, 500), st.integers(1, 16), st.integers(1, 7), st.data())
def test_fixed_test_frames_follow_the_formula_exactly(n, T, of, data):
    i = data.draw(st.integers(0, of - 1))
    b = Fraction(n, T)
    expected = [floor((k + (i + Fraction(1, 2)) / of) * b) for k in range(T)]
    assert sampling.test_indices(n, T, i, of).tolist() == expected
    assert expected[0] >= 0 and expected[-1] < n


@pytest.mark.parametrize("i, first", enumerate([1, 3, 5, 7, 9]))
def test_the_five_sub_sequences_of_an_80_frame_clip(i, first):
    assert sampling.test_indices(80, 8, i).tolist() == list(range(first, 80, 10))
