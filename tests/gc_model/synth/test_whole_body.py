# SPDX-License-Identifier: Apache-2.0
"""Activities of the whole body: what makes each of them that activity, read off the joints in metres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gc_model.synth import ACTIVITIES, ClipSpec, render
from gc_model.synth.act import Act
from gc_model.synth.activities import ALONE
from gc_model.synth.body import J, make_subject, solve

FPS = 20


def joints(activity: str, seed: int, seconds: float = 4.0) -> np.ndarray:
    """(T, 25, 3) in metres, y up, of somebody who faces z."""
    subject = make_subject(np.random.default_rng(seed))
    act = Act(subject, np.arange(round(FPS * seconds)) / FPS, np.random.default_rng([seed, 1]))
    ALONE[activity](act)
    return solve(subject, act.pose, 0.0).joints


@pytest.mark.parametrize("seed", range(5))
def test_who_walks_or_runs_goes_to_and_fro_with_a_foot_on_the_floor_and_runs_faster(seed):
    speeds = {}
    for activity in ("walk", "run"):
        found = joints(activity, seed)
        z = found[:, J["SpineBase"], 2]
        assert 0.9 < np.ptp(z) < 1.7 and abs(found[:, J["SpineBase"], 0]).max() < 0.1
        speeds[activity] = np.median(abs(np.diff(z))) * FPS
        # The face looks where the body goes, but for the moments in which it turns.
        ahead = found[:, J["FootLeft"], 2] - found[:, J["AnkleLeft"], 2]
        assert (np.sign(ahead[1:]) == np.sign(np.diff(z))).mean() > 0.75
        ankles = found[:, [J["AnkleLeft"], J["AnkleRight"]], 1]
        assert (ankles.min(1) < 0.16).all() and np.ptp(ankles, axis=0).min() > 0.03
    assert 0.6 < speeds["walk"] < 1.6 and speeds["run"] > 1.4 * speeds["walk"]


@pytest.mark.parametrize("seed", range(5))
def test_who_falls_lies_and_stays_and_nobody_sinks_into_the_floor(seed):
    found = joints("fall", seed)
    head = found[:, J["Head"], 1]
    assert head[:2].min() > 1.2 and head[-20:].max() < 0.5 * head[0] and np.ptp(head[-10:]) < 0.05
    assert found[-1, J["SpineBase"], 1] < 0.4
    assert found[..., 1].min() > -0.12


@pytest.mark.parametrize("seed", range(5))
def test_sitting_down_and_standing_up_are_the_one_after_the_other(seed):
    down, up = (joints(activity, seed)[:, J["SpineBase"], 1] for activity in ("sit_down", "stand_up"))
    assert down[-1] < 0.7 * down[0] and up[0] < 0.7 * up[-1]
    # Once, not again and again.
    assert (np.diff(down) < 1e-3).mean() > 0.9
    assert (np.diff(up) > -1e-3).mean() > 0.9


@pytest.mark.parametrize("activity", ["sit_down", "stand_up", "fall", "wave"])
def test_a_clip_ends_soon_after_what_is_done_once(activity):
    """Else most windows of it show somebody who sits or stands about, under its name."""
    asked = ClipSpec(activity, subject=3, take=2, size=(64, 48), fps=10.0, duration_s=6.0)
    clip = render(asked)
    if activity in ("fall", "wave"):
        assert len(clip.frames) == 60
        return
    assert 15 <= len(clip.frames) < 30
    # The same pictures as long as it lasts.
    assert (clip.frames == render(replace(asked, duration_s=len(clip.frames) / 10)).frames).all()
    height = clip.space[:, 0, J["SpineBase"], 1]
    still = abs(np.diff(height)) < 2e-3
    assert not still[5:-6].all() and still[-3:].all()
    assert len(render(replace(asked, duration_s=1.0)).frames) == 10


@pytest.mark.parametrize("seed", range(5))
def test_what_is_picked_up_comes_from_the_floor_and_what_is_poured_goes_from_hand_to_hand(seed):
    subject = make_subject(np.random.default_rng(seed))
    found = joints("pick_up", seed, 8.0)
    hands = found[:, [J["HandLeft"], J["HandRight"]], 1]
    assert (
        hands.min() < 0.33 * subject.height and hands[:, hands.min(0).argmin()].max() > 0.4 * subject.height
    )
    act = Act(subject, np.arange(8 * FPS) / FPS, np.random.default_rng([seed, 1]))
    ALONE["pour"](act)
    solved = solve(subject, act.pose, 0.0)
    ends = {prop.kind: where for prop, where in solved.props}
    gap = np.linalg.norm(ends["bottle"].mean(1) - ends["cup"].mean(1), axis=-1)
    assert gap[FPS:].max() < 0.4
    upright = (ends["bottle"][:, 1, 1] - ends["bottle"][:, 0, 1]) / 0.13 / subject.height
    assert upright.max() > 0.8 and upright.min() < 0.2


def test_activities_that_came_later_have_later_numbers():
    """The number draws the clips: those of the demo's people must stay what they are."""
    assert ACTIVITIES[:20] == (
        "drink", "phone_call", "clap", "rub_hands", "wave", "salute", "read", "stretch", "throw", "kick", "jump",
        "squat", "bow", "cheer", "march", "point", "handshake", "push", "hug", "point_at",
    )  # fmt: skip


def test_who_is_idle_stands_about_or_is_not_there():
    away = 0
    for subject in range(1, 25):
        clip = render(ClipSpec("idle", subject=subject, take=1, size=(96, 72), fps=4.0, duration_s=3.0))
        there = (clip.mask > 0).any((1, 2))
        away += not there.any()
        assert there.all() or (
            not there.any() and np.isnan(clip.skeleton).all() and np.isnan(clip.boxes).all()
        )
        if there.all():
            wrist = clip.space[:, 0, J["HandRight"]] - clip.space[:, 0, J["SpineBase"]]
            assert np.ptp(wrist, axis=0).max() < 0.15
    assert 3 < away < 14
