# SPDX-License-Identifier: Apache-2.0
"""The truth of a window: what covers how much of it, whatever the rows are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.evaluation.clocks import Pass
from gc_ros.evaluation.judging import Judge
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.truth import IDLE, Span, Truth, truth_of
from gc_ros.stamps import NS

_spans = st.lists(
    st.tuples(st.integers(-5, 45), st.integers(0, 30), st.sampled_from(["a", "b", IDLE])).map(
        lambda s: Span(s[0], s[0] + s[1], s[2])
    ),
    max_size=5,
)


@given(_spans, st.integers(0, 40), st.integers(1, 30), st.sampled_from([0.3, 0.5, 0.9]))
def test_it_is_the_share_of_its_time_counted_moment_by_moment(
    spans: list[Span], start: int, length: int, least: float
) -> None:
    there = [
        {s.label for s in spans if s.start_ns <= t < s.end_ns} - {IDLE} for t in range(start, start + length)
    ]
    share = {label: sum(label in now for now in there) / length for label in "ab"}
    idle = 1 - sum(map(bool, there)) / length
    kind, label = truth_of(start, start + length, spans, least)
    if max(share.values()) >= least:
        assert kind == "label" and share[label] == max(share.values())
    else:
        assert (kind, label) == ("idle" if idle >= least else "mixed", IDLE)


def test_a_window_of_one_frame_has_what_is_true_then() -> None:
    spans = [Span(0, 10, "a"), Span(11, 20, "b")]
    assert [truth_of(t, t, spans, 0.5)[1] for t in (0, 10, 11, 20, 21)] == ["a", "a", "b", "b", IDLE]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        # Idle time that a row names, and time that none covers, are one.
        ([(0, 4, "red"), (4, 6, "idle")], ("idle", None)),
        # So are labels that mean the same.
        ([(0, 3, "Red"), (3, 6, "r-e d")], ("label", "red")),
        ([(0, 3, "scarlet"), (3, 6, "red")], ("label", "red")),
        # Two rows of one label over the same time are no more than one, and of two labels no less idle.
        ([(0, 3, "red"), (0, 3, "red")], ("idle", None)),
        ([(0, 3, "red"), (0, 3, "blue")], ("idle", None)),
        ([(0, 6, "lawn")], ("unmapped", "lawn")),
        ([(0, 4, "red"), (4, 8, "blue")], ("mixed", None)),
    ],
)
def test_rows_count_by_what_they_mean(
    rows: list[tuple[int, int, str]], found: tuple[str, str | None]
) -> None:
    judge = Judge(Truth("csv"), Options(mapping={"scarlet": "red"}), ["red", "blue"])
    assert judge.truth_of(0, 10, [Span(*row) for row in rows]) == found


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([(0, 4, "red"), (4, 8, "red")], [(0, 4), (4, 8)]),  # done twice, one after the other
        ([(0, 4, "red"), (3, 8, "red")], [(0, 8)]),
        ([(0, 8, "red"), (2, 4, "red"), (6, 9, "red")], [(0, 9)]),
    ],
)
def test_rows_that_overlap_and_say_the_same_are_one_activity(
    rows: list[tuple[int, int, str]], found: list[tuple[int, int]]
) -> None:
    judge = Judge(Truth("csv"), Options(), ["red", "blue"])
    segments = judge.recorded_segments(
        [Span(a * NS, b * NS, label) for a, b, label in rows], [Pass(0, 10 * NS, 0)], 0
    )
    assert [(s["start_s"], s["end_s"]) for s in segments] == found
