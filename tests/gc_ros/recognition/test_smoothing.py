# SPDX-License-Identifier: Apache-2.0
"""Events: one onset and one offset an activity, not one a window, and the same whatever the stride."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.recognition.smoothing import EventDetector, Smoothing
from gc_ros.stamps import NS

LABELS = ["a", "b", "c"]
RAW = Smoothing(tau_s=0, onset=0.6, offset=0.4)


def feed(detector: EventDetector, values: list[float], step_s: float = 0.1) -> list[tuple[str, str, float]]:
    """Scores of class a over time, the rest shared by b and c; returns (kind, label, seconds)."""
    events = []
    for i, value in enumerate(values):
        rest = (1 - value) / 2
        for e in detector.update(np.array([value, rest, rest]), round(i * step_s * NS)):
            events.append((e.kind, e.label, e.stamp_ns / NS))
    return events


def test_hysteresis_gives_one_onset_and_one_offset() -> None:
    values = [0.3, 0.65, 0.55, 0.62, 0.45, 0.61, 0.39, 0.5, 0.59]
    assert feed(EventDetector(LABELS, RAW), values) == [("onset", "a", 0.1), ("offset", "a", 0.6)]


def test_a_rival_ends_the_old_activity_and_begins_the_new_one() -> None:
    detector = EventDetector(LABELS, Smoothing(tau_s=0, onset=0.4, offset=0.1))
    assert [e.kind for e in detector.update(np.array([0.5, 0.3, 0.2]), 0)] == ["onset"]
    assert detector.active == "a"
    events = detector.update(np.array([0.3, 0.5, 0.2]), NS)
    assert [(e.kind, e.label, e.index) for e in events] == [("offset", "a", 0), ("onset", "b", 1)]


def test_idle_ends_an_activity_and_never_begins() -> None:
    detector = EventDetector(LABELS, RAW, idle=["b"])
    found = []
    for i, scores in enumerate([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.9, 0.0], [0.1, 0.1, 0.8]]):
        found += [(e.kind, e.label, i) for e in detector.update(np.array(scores), i * NS)]
    assert found == [("onset", "a", 0), ("offset", "a", 1), ("onset", "c", 3)]


def test_what_is_shorter_than_the_minimum_is_never_announced() -> None:
    detector = EventDetector(LABELS, Smoothing(tau_s=0, min_duration_s=0.3))
    assert feed(detector, [0.9, 0.9, 0.2, 0.9, 0.9]) == []
    detector = EventDetector(LABELS, Smoothing(tau_s=0, min_duration_s=0.3))
    assert feed(detector, [0.2, 0.9, 0.9, 0.9, 0.9]) == [("onset", "a", 0.1)]  # stamped where it began


def test_what_is_too_short_to_be_announced_ends_nothing_either() -> None:
    """One window of another activity, or of idle, would cut what is on in two."""
    for idle in ([], ["b"]):
        detector = EventDetector(LABELS, Smoothing(0, 0.55, 0.3, min_duration_s=0.3), idle)
        rows = [[0.9, 0.1, 0.0]] * 6 + [[0.35, 0.6, 0.05]] * 2 + [[0.9, 0.1, 0.0]] * 2
        found = [e for i, row in enumerate(rows) for e in detector.update(np.array(row), i * NS // 10)]
        assert [(e.kind, e.label) for e in found] == [("onset", "a")] and detector.active == "a"


@pytest.mark.parametrize("idle", [[], ["b"]])
def test_what_lasts_ends_the_activity_before_it_where_it_began(idle: list[str]) -> None:
    detector = EventDetector(LABELS, Smoothing(0, 0.55, 0.3, min_duration_s=0.3), idle)
    rows = [[0.9, 0.1, 0.0]] * 4 + [[0.35, 0.6 + i / 100, 0.05] for i in range(5)]
    found = [
        (e.kind, e.label, e.stamp_ns * 10 // NS, i, e.score)
        for i, row in enumerate(rows)
        for e in detector.update(np.array(row), i * NS // 10)
    ]
    onset = [] if idle else [("onset", "b", 4, 7, 0.63)]
    # Scores are those at the decision, as ActivityEvent.msg says.
    assert found == [("onset", "a", 0, 3, 0.9), ("offset", "a", 4, 7, 0.35), *onset]


def test_what_waits_to_be_announced_begins_where_the_activity_before_it_ended() -> None:
    detector = EventDetector(LABELS, Smoothing(0, 0.55, 0.3, min_duration_s=0.3))
    rows = [[0.9, 0.1, 0.0]] * 4 + [[0.35, 0.6, 0.05]] * 2 + [[0.1, 0.8, 0.1]] * 2
    found = [e for i, row in enumerate(rows) for e in detector.update(np.array(row), i * NS // 10)]
    assert [(e.kind, e.label, e.stamp_ns * 10 // NS) for e in found] == [
        ("onset", "a", 0),
        ("offset", "a", 6),
        ("onset", "b", 6),
    ]


def test_smoothing_is_a_first_order_filter_in_time() -> None:
    detector = EventDetector(LABELS, Smoothing(tau_s=1.0))
    detector.update(np.array([0.0, 1.0, 0.0]), 0)
    detector.update(np.array([1.0, 0.0, 0.0]), NS)
    assert detector.scores is not None
    assert detector.scores[0] == pytest.approx(1 - np.exp(-1))


def test_the_stride_does_not_change_a_steady_state() -> None:
    ends = []
    for n in (1, 4, 10):
        detector = EventDetector(LABELS, Smoothing(tau_s=0.7))
        detector.update(np.array([0.0, 0.5, 0.5]), 0)
        for i in range(1, n + 1):
            detector.update(np.array([1.0, 0.0, 0.0]), i * NS // n)
        ends.append(detector.scores)
    assert np.allclose(ends[0], ends[1], atol=1e-6) and np.allclose(ends[0], ends[2], atol=1e-6)


def test_a_break_ends_what_is_on_at_the_last_window_and_forgets() -> None:
    detector = EventDetector(LABELS, RAW)
    feed(detector, [0.9, 0.9])
    (event,) = detector.reset()
    assert (event.kind, event.label, event.stamp_ns) == ("offset", "a", NS // 10)
    assert detector.reset() == [] and detector.scores is None


def test_a_break_forgets_since_when_something_lasts_and_when_something_ended() -> None:
    """What begins behind a gap, or in a loop, has a stamp from there."""
    detector = EventDetector(LABELS, Smoothing(tau_s=0, min_duration_s=0.3))
    assert feed(detector, [0.9, 0.9]) == [] == detector.reset()  # too short to be announced
    assert detector.update(np.array([0.9, 0.1, 0.0]), 10 * NS) == []
    detector = EventDetector(LABELS, RAW)
    assert feed(detector, [0.2] * 50 + [0.9, 0.2])[-1] == ("offset", "a", 5.1)
    detector.reset()
    assert feed(detector, [0.9]) == [("onset", "a", 0.0)]


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3), max_size=60),
    st.floats(0, 2),
    st.floats(0, 1),
    st.sampled_from([[], ["b"]]),
)
def test_onsets_and_offsets_alternate_in_the_order_of_their_stamps(
    rows: list[tuple[float, ...]], tau: float, least: float, idle: list[str]
) -> None:
    detector = EventDetector(LABELS, Smoothing(tau, 0.5, 0.3, least), idle)
    active, last = None, 0
    for i, row in enumerate(rows):
        now = i * NS // 10
        for e in detector.update(np.array(row) / max(sum(row), 1e-9), now):
            assert last <= e.stamp_ns <= now and e.label not in idle
            assert (e.kind == "onset") == (active is None) and (e.kind == "onset" or e.label == active)
            active, last = e.label if e.kind == "onset" else None, e.stamp_ns
    assert detector.active == active


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0, 2), st.floats(0, 1))
def test_of_one_activity_onsets_and_offsets_alternate(values: list[float], tau: float, least: float) -> None:
    detector = EventDetector(LABELS, Smoothing(tau_s=tau, min_duration_s=least))
    active: str | None = None
    for kind, label, _ in feed(detector, values):
        assert (kind == "onset") == (active is None)
        assert kind == "onset" or label == active
        active = label if kind == "onset" else None
    assert detector.active == active


@pytest.mark.parametrize(
    "options",
    [
        {"tau_s": -1},
        {"onset": 0.3, "offset": 0.4},
        {"onset": 1.1},
        {"min_duration_s": -1},
        {"tau_s": float("nan")},
    ],
)
def test_impossible_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Smoothing(**options)
