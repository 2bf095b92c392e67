# SPDX-License-Identifier: Apache-2.0
"""Whose results are missed: windows of 1 s, results every half second, frames every eighth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.evaluation.misses import Misses
from gc_ros.stamps import NS


def ns(seconds: float) -> int:
    return round(seconds * NS)


def missed(*frames: tuple[float, str, str], since: dict[str, float] | None = None) -> list[tuple[str, float]]:
    """frames: stamps with results, who is there, and who of them has one; a letter each."""
    misses, found = Misses(NS, NS // 2, NS // 16), []
    for stamp_s, there, have in frames:
        begun = {who: ns((since or {}).get(who, 0.0)) for who in there}
        found += misses.frame(ns(stamp_s), begun, have)
    return sorted((who, stamp_ns / NS) for who, stamp_ns in found + misses.end())


def every_half(have: dict[float, str], end: float = 4.0) -> list[tuple[float, str, str]]:
    """Both there all the time; `have` at some stamps, both at the others."""
    return [(t, "ab", have.get(t, "ab")) for t in np.arange(1.0, end, 0.5).tolist()]


@pytest.mark.parametrize("gap", [[2.0], [2.0, 2.5], [1.0], [1.0, 1.5], [3.5], [3.0, 3.5], [2.0, 3.0]])
def test_each_result_that_did_not_come_is_missed(gap: list[float]) -> None:
    assert missed(*every_half(dict.fromkeys(gap, "a"))) == [("b", t) for t in gap]


def test_who_has_results_at_other_frames_misses_none() -> None:
    frames = [(1 + i / 4, "ab", "ab"[i % 2]) for i in range(12)]
    assert missed(*frames, since={"b": 0.25}) == []


def test_of_who_has_results_at_other_frames_one_that_did_not_come_is_missed_once() -> None:
    # Those of b are due at 1.25, 1.75 and so on; that of 2.25 does not come.
    frames = [(1 + i / 4, "ab", "ab"[i % 2]) for i in range(12) if i != 5]
    assert missed(*frames, since={"b": 0.25}) == [("b", 2.5)]


@pytest.mark.parametrize("late", [1 / 8, 1 / 4])
def test_a_result_a_frame_or_two_late_is_not_missed(late: float) -> None:
    frames = [(t, "ab", "a") for t in (1.0, 1.5, 2.0, 2.5)]
    frames += [(t + late * (t > 1), "ab", "b") for t in (1.0, 1.5, 2.0, 2.5)]
    assert missed(*sorted(frames), since={"b": 0.0}) == []


def test_before_there_was_time_for_a_window_nothing_is_missed() -> None:
    frames = [(t, "ab", "a") for t in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert missed(*frames, since={"b": 1.25}) == [("b", 2.5), ("b", 3.0)]


def test_who_comes_back_has_time_for_another_window() -> None:
    frames = [(1.0, "ab", "ab"), (1.5, "ab", "ab"), (2.0, "a", "a"), (2.5, "ab", "a"), (3.0, "ab", "a")]
    misses, found = Misses(NS, NS // 2, NS // 16), []
    for stamp_s, there, have in frames:
        found += misses.frame(ns(stamp_s), {who: ns(2.25 if stamp_s > 2 else 0) for who in there}, have)
    assert found + misses.end() == []
    assert missed(*frames, since={}) == [("b", 2.5), ("b", 3.0)]


def test_who_comes_back_and_has_results_at_other_frames_misses_no_more_than_were_due() -> None:
    frames = [(1.0, "ab", "ab"), (6.0, "ab", "a"), (6.5, "ab", "a"), (6.625, "ab", "b")]
    assert missed(*frames, since={"b": 5.0}) == [("b", 6.0)]


def test_where_the_time_begins_again_so_does_who_is_missed() -> None:
    misses = Misses(NS, NS // 2, NS // 16)
    for have, wanted in (("ab", []), ("a", [("b", ns(t)) for t, *_ in every_half({})])):
        for t, there, _ in every_half({}):
            assert misses.frame(ns(t), dict.fromkeys(there, 0), have) == []
        assert misses.end() == wanted


@given(st.lists(st.booleans(), min_size=3, max_size=40))
def test_at_the_usual_frames_exactly_those_without_a_result_are_missed(has: list[bool]) -> None:
    frames = [(1 + i / 2, "ab", "ab" if one else "a") for i, one in enumerate(has)]
    assert missed(*frames) == [("b", 1 + i / 2) for i, one in enumerate(has) if not one]
