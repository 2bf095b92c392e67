# SPDX-License-Identifier: Apache-2.0
"""Sampling goes by stamps: cameras of any rate give the same windows, and every break is a reset with its reason."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.recognition.sampler import Sampler
from gc_ros.stamps import NS
from tests.gc_ros.node.streams import CameraFrame, streams

RATE = 8.0


def taken(sampler: Sampler, stamps: list[int]) -> list[int]:
    return [stamp for stamp in stamps if sampler.decide(stamp).take]


def camera(hz: float, seconds: float, phase_ns: int = 0) -> list[int]:
    return [phase_ns + round(i * NS / hz) for i in range(int(seconds * hz))]


@pytest.mark.parametrize("rate_hz", [2.0, 4.0, 7.5, 8.0, 10.0])
@pytest.mark.parametrize("hz", [10, 15, 29.97, 30, 60])
def test_every_camera_gives_the_grid_to_within_one_of_its_periods(hz: float, rate_hz: float) -> None:
    samples = taken(Sampler(rate_hz), camera(hz, 20))
    assert abs(len(samples) - 20 * rate_hz) <= 1
    for k, stamp in enumerate(samples):
        assert -0.25 / hz - 1e-6 <= stamp / NS - k / rate_hz < 1 / hz


def test_a_frame_a_little_early_counts_and_one_far_too_early_does_not() -> None:
    sampler = Sampler(5.0)
    assert taken(sampler, camera(10, 0.4)) == [0, 200_000_000]
    assert sampler.decide(376_000_000).take  # due at 400, the camera's quarter period is 25 ms
    sampler = Sampler(5.0)
    taken(sampler, camera(10, 0.4))
    assert not sampler.decide(374_000_000).take


@given(st.floats(0.5, 7.9), st.integers(2, 60))
def test_a_camera_slower_than_the_grid_is_taken_frame_by_frame(hz: float, count: int) -> None:
    stamps = [round(i * NS / hz) for i in range(count)]
    assert taken(Sampler(RATE, max_frame_gap_s=10), stamps) == stamps


@settings(max_examples=40)
@given(st.sampled_from([10.0, 15.0, 30.0, 60.0]), st.data())
def test_jitter_moves_no_sample_by_more_than_a_camera_period(hz: float, data: st.DataObject) -> None:
    n = int(hz * 3)
    noise = [e / 100 for e in data.draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n))]
    stamps = [round((i + e) * NS / hz) for i, e in enumerate(noise)]
    for k, stamp in enumerate(taken(Sampler(RATE), stamps)):
        due = stamps[0] / NS + k / RATE
        # A period, plus the jitter of the frame and of the one before that came too early to count.
        assert -0.4 / hz <= stamp / NS - due <= 1.4 / hz


def test_duplicates_and_swapped_frames_are_dropped_and_break_nothing() -> None:
    sampler = Sampler(RATE)
    a, b, c, d = camera(30, 4 / 30)
    decisions = [sampler.decide(stamp) for stamp in (a, a, c, b, c, d)]
    assert [x.drop for x in decisions] == [None, "duplicate", None, "old", "duplicate", None]
    assert all(x.reset is None for x in decisions)
    assert [x.take for x in decisions] == [True, False, False, False, False, False]


def test_a_gap_is_a_reset_and_its_first_frame_starts_the_grid_anew() -> None:
    sampler = Sampler(RATE, max_frame_gap_s=0.5)
    taken(sampler, camera(30, 1))
    edge = camera(30, 1)[-1]
    assert sampler.decide(edge + NS // 2).reset is None
    decision = sampler.decide(edge + NS // 2 + NS // 2 + 1)
    assert decision.take and decision.reset == "gap"
    again = [s for s in (edge + NS + 1 + t for t in camera(30, 1)[1:]) if sampler.decide(s).take]
    # 133 ms: the grid starts at the frame after the gap.
    assert again[0] - (edge + NS + 1) == round(4 * NS / 30)


def test_the_automatic_gap_follows_the_sampling_rate() -> None:
    assert Sampler(8.0).max_frame_gap_s == 0.5
    assert Sampler(2.0).max_frame_gap_s == 1.5


@pytest.mark.parametrize("back_s", [0.126, 1.0, 1e6])
def test_a_jump_back_by_more_than_a_period_is_a_reset_at_once(back_s: float) -> None:
    sampler = Sampler(RATE)
    base = 2_000_000 * NS
    taken(sampler, camera(30, 1, base))
    decision = sampler.decide(base + camera(30, 1)[-1] - round(back_s * NS))
    assert decision.take and decision.reset == "backward"


def test_a_small_step_back_that_goes_on_from_there_is_a_reset_at_its_third_frame() -> None:
    sampler = Sampler(2.0)
    taken(sampler, camera(30, 1))
    start = camera(30, 1)[-1] - NS // 4
    decisions = [sampler.decide(start + t) for t in camera(30, 0.2)]
    assert [x.reset for x in decisions[:4]] == [None, None, "backward", None]
    assert [x.drop for x in decisions[:4]] == ["old", "old", None, None]


def test_frames_that_come_late_now_and_then_or_in_no_order_are_no_jump_back() -> None:
    sampler = Sampler(2.0)
    a = camera(30, 1)
    late = [a[i + j] for i in range(0, 27, 3) for j in (0, 2, 1)]  # each third is overtaken by one
    assert {decision.reset for decision in map(sampler.decide, late)} == {None}
    sampler.decide(a[-1])
    backwards = [sampler.decide(a[-1] - i * NS // 10) for i in range(1, 5)]
    assert [(x.drop, x.reset) for x in backwards] == [("old", None)] * 4


def test_due_times_that_passed_without_a_frame_are_not_made_up_for() -> None:
    stamps = [s for s in camera(30, 2) if not 0.5 < s / NS < 0.95]
    behind = [s for s in taken(Sampler(RATE), stamps) if s / NS > 0.95]
    assert len(behind) == 9  # due from 7/8 to 15/8 s


def test_a_constant_stamp_is_one_frame_for_ever() -> None:
    sampler = Sampler(RATE)
    assert [sampler.decide(5).drop for _ in range(4)] == [None, "duplicate", "duplicate", "duplicate"]


def test_reset_forgets_the_past() -> None:
    sampler = Sampler(RATE)
    taken(sampler, camera(30, 1))
    assert sampler.camera_period_s == pytest.approx(1 / 30)
    sampler.reset()
    assert sampler.camera_period_s is None
    assert sampler.decide(3).take


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError):
        Sampler(rate)


@pytest.mark.parametrize("gap", [0, -1, math.nan])
def test_impossible_gaps_are_refused(gap: float) -> None:
    with pytest.raises(ValueError):
        Sampler(8.0, gap)


@given(streams(RATE, 0.5))
def test_whatever_arrives_samples_of_a_stretch_rise_and_keep_their_distance(
    frames: list[CameraFrame],
) -> None:
    sampler = Sampler(RATE, 0.5)
    last: int | None = None
    for frame in frames:
        decision = sampler.decide(frame.stamp_ns)
        assert not (decision.drop and (decision.take or decision.reset))
        if decision.reset:
            last = None
        if decision.take:
            assert last is None or frame.stamp_ns > last
            last = frame.stamp_ns


@given(st.lists(st.integers(-(2**62), 2**62), max_size=30), st.floats(0.01, 1000))
def test_no_sequence_of_stamps_makes_it_raise(stamps: list[int], rate: float) -> None:
    sampler = Sampler(rate)
    for stamp in stamps:
        sampler.decide(stamp)


@settings(max_examples=60)
@given(streams(8.0, 0.5))
def test_foreseeing_a_frame_says_what_offering_it_does_and_changes_nothing(frames: list[CameraFrame]) -> None:
    foreseen, plain = Sampler(RATE, 0.5), Sampler(RATE, 0.5)
    for frame in frames:
        expected = plain.decide(frame.stamp_ns)
        assert foreseen.would_take(frame.stamp_ns) == foreseen.would_take(frame.stamp_ns) == expected.take
        assert foreseen.decide(frame.stamp_ns) == expected
