# SPDX-License-Identifier: Apache-2.0
"""Figures of activities as segments, worked out by hand: edit score, F1, delays, false activations, per hour."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.evaluation.scoring import event_figures, gather, interval, summarise
from gc_ros.evaluation.segments import (
    edit_score,
    false_activations,
    matches,
    onset_delays,
    predicted_segments,
)
from gc_ros.evaluation.truth import Segment
from tests.gc_ros.evaluation.runs import need_evaluation

LABELS = ["red", "green", "blue"]


def event(kind: str, label: str, s: float, decided_s: float | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "label": label,
        "s": s,
        "decided_s": s if decided_s is None else decided_s,
        "pass": 0,
    }


def onset(label: str, s: float, decided_s: float | None = None) -> dict[str, Any]:
    return event("onset", label, s, decided_s)


def distance(a: str, b: str) -> int:
    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_the_edit_score_is_one_less_the_edits_by_the_longer_of_both(truth: str, found: str) -> None:
    wanted = 1 - distance(truth, found) / max(len(truth), len(found), 1)
    assert edit_score([*truth], [*found]) == pytest.approx(wanted)
    assert edit_score([*found], [*truth]) == pytest.approx(wanted)


def test_an_activity_that_was_found_twice_is_found_once_and_falsely_once() -> None:
    truth = [Segment(0, 10, "red"), Segment(20, 30, "green")]
    found = [Segment(0, 5, "red"), Segment(5, 10, "red"), Segment(20, 30, "blue")]
    assert matches(truth, found, 0.5) == (1, 2, 1)
    assert matches(truth, truth, 0.5) == (2, 0, 0)


def test_an_overlap_is_of_both_together_and_just_enough_is_enough() -> None:
    truth = [Segment(0, 10, "red")]
    assert matches(truth, [Segment(5, 10, "red")], 0.5) == (1, 0, 0)
    assert matches(truth, [Segment(5.1, 10, "red")], 0.5) == (0, 1, 1)
    assert matches(truth, [Segment(0, 20, "red")], 0.5) == (1, 0, 0)
    assert matches(truth, [Segment(0, 20.1, "red")], 0.5) == (0, 1, 1)
    assert matches(truth, [Segment(10, 20, "red")], 0.1) == (0, 1, 1)


def test_what_is_found_belongs_to_what_it_overlaps_most() -> None:
    truth = [Segment(0, 10, "red"), Segment(11, 15, "red")]
    assert matches(truth, [Segment(1, 12, "red")], 0.1) == (1, 0, 1)
    assert matches(truth, [Segment(9, 15, "red"), Segment(0, 9, "red")], 0.1) == (2, 0, 0)


def test_a_delay_is_from_the_beginning_to_the_decision_up_to_a_window_behind_the_end() -> None:
    truth = [Segment(1, 3, "red"), Segment(5, 6, "green"), Segment(10, 11, "red")]
    events = [
        event("offset", "red", 1.5),
        onset("green", 2.0),
        onset("red", 0.5, decided_s=2.5),  # what counts is when it was said
        onset("red", 2.75),
        onset("green", 5.0, decided_s=7.0),
        onset("red", 12.25),
    ]
    assert onset_delays(truth, events, late_s=1.0) == [1.5, 2.0, None]
    assert onset_delays(truth, events, late_s=1.25) == [1.5, 2.0, 2.25]
    # One decision is about one activity.
    assert onset_delays([Segment(1, 3, "red"), Segment(3, 5, "red")], [onset("red", 3.0)], 1.0) == [2.0, None]


def test_an_activation_is_false_where_that_is_not_done_nor_was_a_window_ago() -> None:
    truth = [Segment(1, 3, "red")]
    at = lambda label, s: false_activations(truth, [onset(label, s), event("offset", label, 9.0)], 1.0)
    assert [at("red", s) for s in (0.9, 1.0, 3.0, 4.0, 4.1)] == [1, 0, 0, 0, 1]
    assert at("green", 2.0) == 1


def test_activities_are_on_from_onset_to_offset() -> None:
    events = [onset("red", 1), event("offset", "red", 2), event("offset", "green", 3), onset("red", 4)]
    assert predicted_segments(events) == [Segment(1, 2, "red")]
    assert predicted_segments([*events, event("offset", "red", 6)])[1:] == [Segment(4, 6, "red")]


def record(
    seconds: float, segments: list[dict[str, Any]], events: list[dict[str, Any]], passes: int = 1
) -> dict[str, Any]:
    return {
        "passes": [{}] * passes,
        "events": events,
        "seconds_seen": seconds,
        "truth": {"kind": "csv", "segments": segments, "labels": {}},
        "provenance": {"options": {"simulate_latency_s": None}},
    }


def segment(
    start_s: float, end_s: float, label: str, mapped: bool = True, in_pass: int = 0
) -> dict[str, Any]:
    return {"pass": in_pass, "start_s": start_s, "end_s": end_s, "label": label, "mapped": mapped}


def test_what_begins_while_something_unknown_is_done_is_neither_right_nor_wrong() -> None:
    segments = [segment(0, 2, "red"), segment(4, 6, "dance", mapped=False), segment(0, 2, "blue", in_pass=1)]
    events = [onset("green", 4.0), onset("green", 6.0), event("offset", "green", 6.5), onset("green", 8.0)]
    of_bag = event_figures(record(100, segments, events, passes=2), gather([], LABELS), late_s=1.0)
    assert (of_bag["segments"], of_bag["false_activations"]) == (2, 1)
    assert of_bag["onset_delays_s"] == [None, None], "what happens in one pass is not about another"


def test_the_activities_of_all_bags_are_summed_before_they_are_divided() -> None:
    need_evaluation()
    right = [onset("red", 1), event("offset", "red", 3)]
    wrong = [onset("blue", 1), event("offset", "blue", 3), onset("blue", 5), event("offset", "blue", 6)]
    bags = [
        (record(1500, [segment(1, 3, "red")], right), gather([], LABELS)),
        (record(300, [segment(1, 3, "red")], wrong), gather([], LABELS)),
    ]
    figures, _ = summarise(bags, LABELS, window_s=1.0)
    events = figures["events"]
    assert (events["segments"], events["noticed"], events["false_activations"]) == (2, 1, 2)
    assert events["false_activations_per_hour"] == pytest.approx(4) and events["hours"] == 0.5
    assert events["segment_f1"]["0.5"] == pytest.approx(2 / (2 + 2 + 1))  # 1 right, 2 false, 1 missed
    assert events["edit_score"] == pytest.approx((1 + 0) / 2)
    assert events["onset_delay_s"] == {"mean": 0, "median": 0, "p95": 0}


def test_an_interval_holds_nineteen_of_twenty_draws_of_whole_bags() -> None:
    values = np.random.default_rng(0).normal(size=100).tolist()
    low, high = interval(values, lambda drawn: float(np.mean(drawn))) or [0.0, 0.0]
    half = 1.96 * float(np.std(values)) / 10
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.02)
    assert interval([1.0], np.mean) is None and interval(values, lambda drawn: None) is None
