# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips: what is drawn agrees with the joints, and a clip depends on its specification alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_model.synth import ACTIVITIES, PAIRS, ClipSpec, render, render_clip
from gc_model.synth.activities import TOGETHER
from gc_model.synth.body import JOINTS, J, two_bones
from gc_model.synth.draw import Canvas, Light
from trt_build.errors import DataError

PLAIN = ClipSpec("drink", size=(128, 128), fps=2, duration_s=2, occlusion=0, noise=0, clutter=0)


def test_there_are_enough_activities_and_the_named_pairs_among_them():
    assert len(ACTIVITIES) >= 14 and len(set(ACTIVITIES)) == len(ACTIVITIES)
    assert len(TOGETHER) >= 3
    assert all(a in ACTIVITIES and b in ACTIVITIES for a, b in PAIRS)


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_joints_lie_on_the_drawn_body(activity):
    frames, skeleton, mask = render_clip(replace(PLAIN, activity=activity, subject=4))
    bodies = 2 if activity in TOGETHER else 1
    assert frames.shape[1:] == (128, 128, 3) and frames.dtype == np.uint8
    n = len(frames)
    assert n == 4 or (n == 3 and activity in ("sit_down", "stand_up"))  # over before
    assert skeleton.shape == (n, 2, 25, 2) and mask.shape == (n, 128, 128)
    assert np.isfinite(skeleton[:, :bodies]).all() and np.isnan(skeleton[:, bodies:]).all()
    assert set(np.unique(mask)) <= {0, *range(1, bodies + 1)}
    anybody = [cv2.dilate((m > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) for m in mask]
    hits = total = 0
    for k, points in enumerate(skeleton[:, :bodies].reshape(n, -1, 2)):
        for u, v in points:
            if 0 <= u < 128 and 0 <= v < 128:
                total += 1
                hits += int(anybody[k][int(v), int(u)])
    assert total >= n * 20 * bodies  # the picture shows most of everybody
    assert hits >= 0.97 * total


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_heads_and_trunks_stay_inside_what_the_models_crop_keeps(activity):
    keep = [J[n] for n in ("Head", "Neck", "SpineShoulder", "SpineMid", "SpineBase")]
    points = []  # of all takes: who is idle may not be there in one of them
    for take in range(3):
        clip = render(replace(PLAIN, activity=activity, take=take, subject=take + 1, size=(64, 64)))
        points.append(clip.skeleton[:, :, keep] / 64)
    found = np.concatenate(points)
    found = found[np.isfinite(found)]
    assert found.min() > 1 / 16 and found.max() < 15 / 16


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_named_pairs_differ_in_the_arms_and_nothing_else(first, second):
    a, b = (render(replace(PLAIN, activity=name, subject=2, take=5)) for name in (first, second))
    arm = [i for i, name in enumerate(JOINTS) if any(p in name for p in ("Elbow", "Wrist", "Hand", "Thumb"))]
    other = [i for i in range(25) if i not in arm]
    np.testing.assert_array_equal(a.space[:, 0, other], b.space[:, 0, other])
    assert np.abs(a.space[:, 0, arm] - b.space[:, 0, arm]).max() > 0.03
    # Pixels away from both persons' arms are the same too.
    differ = (a.frames != b.frames).any(-1)
    assert 0 < differ.mean() < 0.10


def test_one_arm_of_a_one_handed_pair_is_untouched():
    a, b = (render(replace(PLAIN, activity=name, subject=2, take=5)).space[:, 0] for name in PAIRS[0])
    still = [np.array_equal(a[:, J["Wrist" + s]], b[:, J["Wrist" + s]]) for s in ("Left", "Right")]
    assert sorted(still) == [False, True]


def test_a_clip_depends_on_its_specification_alone():
    spec = replace(PLAIN, activity="hug", noise=1, clutter=1, occlusion=1)
    first, again = render(spec), render(spec)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.skeleton, again.skeleton)
    for change in ({"seed": 1}, {"subject": 2}, {"take": 1}, {"outfit": 1}, {"camera": 2}):
        assert not np.array_equal(first.frames, render(replace(spec, **change)).frames), change


def test_cameras_see_the_same_performance():
    """Distances between joints do not depend on who looks: one motion, filmed twice."""
    a, b = (
        render(replace(PLAIN, activity="throw", camera=c, yaw_deg=y)).space[:, 0]
        for c, y in ((1, 0), (2, 45))
    )
    spread = [np.linalg.norm(s[:, :, None] - s[:, None], axis=-1) for s in (a, b)]
    np.testing.assert_allclose(*spread, atol=1e-5)


def test_a_longer_clip_at_the_same_rate_begins_with_the_shorter():
    short = render(PLAIN).space
    long = render(replace(PLAIN, duration_s=4)).space
    np.testing.assert_allclose(short, long[: len(short)], equal_nan=True)


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (96, 96)])
def test_other_picture_shapes(size):
    clip = render(replace(PLAIN, size=size, duration_s=0.5, noise=1, clutter=1, occlusion=1))
    assert clip.frames.shape == (1, size[1], size[0], 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activity": "fly"}, "choose from"),
        ({"size": (255, 256)}, "even"),
        ({"size": (8, 8)}, "32"),
        ({"fps": 0.0}, "frames/s"),
        ({"duration_s": -1.0}, "frames/s"),
        ({"subject": -1}, "0 up"),
    ],
)
def test_impossible_specifications_say_what_to_give(change, says):
    with pytest.raises(DataError, match=says):
        render(replace(PLAIN, **change))


coordinate = st.floats(-0.5, 0.5, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.tuples(coordinate, coordinate, coordinate), st.tuples(coordinate, coordinate, coordinate))
def test_limbs_keep_their_lengths_wherever_they_reach(goal, pole):
    start = np.zeros((1, 3))
    elbow, wrist = two_bones(start, np.array([goal]), 0.18, 0.15, np.array([pole]))
    bent = np.linalg.norm(np.cross(pole, goal)) > 1e-6
    if bent:  # else nothing says which way to bend
        assert np.linalg.norm(elbow) == pytest.approx(0.18, abs=1e-6)
        assert np.linalg.norm(wrist - elbow) == pytest.approx(0.15, abs=1e-6)


def test_nearer_parts_cover_farther_ones_in_whatever_order_they_are_drawn():
    red, blue = np.array([255, 0, 0], np.float32), np.array([0, 0, 255], np.float32)
    pictures = []
    for order in ((0, 1), (1, 0)):
        canvas = Canvas(40, 40)
        canvas.start(np.zeros((40, 40, 3), np.float32))
        lines = [((5, 20), (35, 20), 2.0, red), ((20, 5), (20, 35), 1.0, blue)]
        for i in order:
            a, b, depth, colour = lines[i]
            canvas.capsule(np.array(a), np.array(b), (4, 4), (depth, depth), 100, colour, Light((0, 0, 1)), 1)
        pictures.append(canvas.rgb.copy())
        assert canvas.rgb[20, 20, 2] > 100 > canvas.rgb[20, 20, 0]
        assert canvas.bodies()[20, 8] == 1 and canvas.bodies()[2, 2] == 0
    np.testing.assert_allclose(pictures[0][20, 20], pictures[1][20, 20])


def test_the_package_needs_no_torch():
    code = "import sys, gc_model.synth, gc_model.synth.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
