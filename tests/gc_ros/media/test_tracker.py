# SPDX-License-Identifier: Apache-2.0
"""The tracker: people keep their ids while they walk, tremble, and are hidden for a while."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.detections import Box
from gc_ros.media.tracker import Tracker, overlap

pytest.importorskip("scipy.optimize", reason="scipy is not installed: pip install -e '.[evaluate]'")
STEP = 100_000_000  # ns


def at(x: float, y: float = 50, width: float = 40, height: float = 100) -> Box:
    return Box(x, y, x + width, y + height)


def ids(tracker: Tracker, boxes: list[tuple[Box, float]], k: int) -> list[str]:
    return [person.id for person in tracker.update(boxes, k * STEP).people]


def test_overlap_of_boxes() -> None:
    found = overlap(np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6.0]]))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0]])


def test_two_who_pass_each_other_keep_their_ids() -> None:
    """One before the other: for half a second only one of them is found."""
    tracker, rng = Tracker(), np.random.default_rng(0)
    for k in range(40):
        left, right = at(10 + 12 * k + rng.normal(0, 1)), at(500 - 12 * k + rng.normal(0, 1), 60)
        hidden = abs(left.x_min - right.x_min) < 35
        boxes = [(left, 0.9)] if hidden else [(right, 0.8), (left, 0.9)]
        found = {p.id: p.box for p in tracker.update(boxes, k * STEP).people}
        assert set(found) == ({"2"} if hidden else {"1", "2"}), k
        assert found["2"] is left


def test_somebody_who_comes_is_said_from_the_second_picture_and_a_flicker_never() -> None:
    tracker = Tracker()
    assert ids(tracker, [(at(10), 0.9)], 0) == ["1"]  # there from the beginning
    assert ids(tracker, [(at(11), 0.9), (at(300), 0.9)], 1) == ["1"]
    assert ids(tracker, [(at(12), 0.9), (at(303), 0.9)], 2) == ["1", "2"]
    assert ids(tracker, [(at(13), 0.9), (at(600), 0.9)], 3) == ["1"]
    assert ids(tracker, [(at(14), 0.9)], 4) == ["1"]


def test_who_is_half_hidden_is_followed_and_nobody_begins_so() -> None:
    tracker = Tracker()
    assert ids(tracker, [(at(10), 0.9), (at(300), 0.2)], 0) == ["1"]
    assert ids(tracker, [(at(12), 0.2), (at(300), 0.2)], 1) == ["1"]
    assert ids(tracker, [(at(14), 0.05), (at(300), 0.2)], 2) == []


@pytest.mark.parametrize(("hidden_s", "same"), [(0.5, True), (1.5, False)])
def test_who_comes_back_soon_is_the_same(hidden_s: float, same: bool) -> None:
    tracker = Tracker()
    for k in range(5):
        assert ids(tracker, [(at(10 + 5 * k), 0.9)], k) == ["1"]
    gone = round(hidden_s * 10)
    found = [ids(tracker, [(at(10 + 5 * (5 + gone + k)), 0.9)], 5 + gone + k) for k in range(2)]
    assert found == ([["1"], ["1"]] if same else [[], ["2"]])


def test_who_was_seen_twice_is_expected_where_the_way_leads() -> None:
    tracker = Tracker()
    assert ids(tracker, [(at(600), 0.9)], 0) == ["1"]
    assert [ids(tracker, [(at(10 + 20 * k), 0.9)], k) for k in (1, 2)] == [[], ["2"]]
    assert ids(tracker, [(at(10 + 20 * 7), 0.9)], 7) == ["2"]


def test_whom_the_first_picture_shows_is_expected_where_the_way_leads_too() -> None:
    tracker = Tracker()
    assert [ids(tracker, [(at(10 + 20 * k), 0.9)], k) for k in (0, 1, 6)] == [["1"], ["1"], ["1"]]


def test_a_box_that_trembles_is_no_speed_to_speak_of() -> None:
    tracker = Tracker()
    for k in range(5):
        ids(tracker, [(at(10), 0.9)], k)
    assert ids(tracker, [(at(16), 0.9)], 5) == ["1"]
    assert ids(tracker, [(at(10), 0.9)], 10) == ["1"]  # hidden in between


def test_pairs_that_overlap_too_little_never_take_the_place_of_one_that_does() -> None:
    """Two pairs of 0.14 are more together than one of 0.16, and neither may be."""
    tracker = Tracker()
    assert ids(tracker, [(at(0, width=100), 0.9), (at(147.5, width=100), 0.9)], 0) == ["1", "2"]
    assert ids(tracker, [(at(72, width=100), 0.9), (at(-75.5, width=100), 0.9)], 1) == ["1"]


def test_where_stamps_go_back_everybody_is_new() -> None:
    tracker = Tracker()
    ids(tracker, [(at(10), 0.9)], 50)
    assert ids(tracker, [(at(10), 0.9)], 0) == [] and ids(tracker, [(at(10), 0.9)], 1) == ["2"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.5, 1e5), st.floats(0, 1)),
            max_size=6,
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 2_000_000_000), min_size=12, max_size=12),
)
def test_whatever_comes_ids_are_distinct_and_boxes_are_those_given(pictures, steps) -> None:
    tracker, stamp = Tracker(), 0
    for boxes, step in zip(pictures, steps, strict=False):
        stamp += step
        given_boxes = [(at(x, y, size, size), score) for x, y, size, score in boxes]
        found = tracker.update(given_boxes, stamp)
        assert len({p.id for p in found.people}) == len(found.people)
        assert all(any(p.box is box for box, _ in given_boxes) for p in found.people)
