# SPDX-License-Identifier: Apache-2.0
"""Scenes of several drawn people: boxes lie on bodies, ids and truth agree with what is drawn, files are complete."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_model.cli import app
from gc_model.synth import (
    ClipSpec,
    SceneSpec,
    plan,
    plan_scenes,
    render,
    render_scene,
    several,
    synthesize,
    synthesize_scenes,
)
from gc_model.synth.activities import ACTIVITIES, TOGETHER
from gc_model.synth.body import J
from gc_model.synth.boxes import SEEN, detections
from gc_model.synth.camera import Camera
from gc_model.synth.clip import Sensor, film
from gc_model.synth.scene import make_scene
from gc_model.synth.several import CROSSING, STANDING
from gc_ros.media.detections import read_csv
from tests.command_line import assert_one_line, call
from trt_build.errors import DataError

PLAIN = ClipSpec("drink", size=(128, 128), fps=2, duration_s=2, occlusion=0, noise=0, clutter=0)
SCENE = SceneSpec(size=(256, 144), fps=5, duration_s=3, noise=0, clutter=0, occlusion=0)
SMALL = {"size": (128, 72), "fps": 5.0, "duration_s": 1.0, "workers": 1, "progress": False}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes (4,)."""
    extent = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.clip(extent, 0, None)))
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def drawn_box(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_a_box_is_around_the_drawn_body(activity):
    # Subject 3 is not there when idle.
    clip = render(replace(PLAIN, activity=activity, subject=2 if activity == "idle" else 3))
    bodies = 2 if activity in TOGETHER else 1
    found = [
        overlap(np.clip(clip.boxes[k, b], 0, 128), drawn_box(clip.mask[k] == b + 1))
        for k in range(4)
        for b in range(bodies)
    ]
    # What is held counts as drawn, what the other hides does not.
    assert np.mean(found) > (0.88 if bodies == 2 else 0.93) and np.min(found) > 0.7
    assert np.isnan(clip.boxes[:, bodies:]).all() and np.isnan(clip.seen[:, bodies:]).all()


def test_boxes_follow_a_shaking_camera():
    for take in range(40):  # a third of the cameras shakes
        spec = replace(PLAIN, noise=4, take=take)
        still, shaken = render(replace(spec, noise=0)), render(spec)
        moved = shaken.skeleton - still.skeleton
        if np.nanmax(np.abs(moved)) > 1:
            np.testing.assert_allclose(
                shaken.boxes[:, 0, :2] - still.boxes[:, 0, :2], moved[:, 0, 0], atol=1e-4
            )
            return
    raise AssertionError("no camera shook")


def test_what_stands_in_front_lowers_the_share_that_is_seen():
    seen = [render(replace(PLAIN, occlusion=1, take=take)).seen[:, 0].mean() for take in range(12)]
    assert render(PLAIN).seen[:, 0].min() > 0.95 and min(seen) < 0.9


def test_everybody_in_a_scene_does_something_else_and_is_drawn_under_their_number():
    clip, doing = render_scene(replace(SCENE, subjects=(1, 2, 3, 4)))
    assert len({d.activity for d in doing}) == 4 and [d.person for d in doing] == [0, 1, 2, 3]
    assert all(d.start_s == 0 and d.end_s == 3 for d in doing)
    assert set(np.unique(clip.mask)) == {0, 1, 2, 3, 4}
    for k in range(0, SCENE.frames, 5):
        for b in range(4):
            if clip.seen[k, b] > 0.95:
                box = np.clip(clip.boxes[k, b], 0, (256, 144, 256, 144))
                assert overlap(box, drawn_box(clip.mask[k] == b + 1)) > 0.75
    assert clip.seen.mean() > 0.9  # the camera has all of them


def test_a_person_is_in_a_scene_who_they_are_in_the_clips_of_the_same_seed():
    bone = [J["HipLeft"], J["KneeLeft"], J["ShoulderLeft"], J["ElbowLeft"]]

    def lengths(space: np.ndarray) -> np.ndarray:
        places = space[0, bone]
        return np.linalg.norm(places[[0, 2]] - places[[1, 3]], axis=-1)

    scene, _ = render_scene(replace(SCENE, subjects=(5, 2)))
    clips = [lengths(render(replace(PLAIN, subject=who)).space[:, 0]) for who in (5, 2)]
    np.testing.assert_allclose([lengths(scene.space[:, b]) for b in range(2)], clips, atol=1e-5)
    assert not np.allclose(*clips, atol=1e-3)


@pytest.mark.slow
def test_somebody_who_crosses_hides_others_and_leaves_the_picture():
    hidden = left = 0
    for number in range(1, 9):
        spec = replace(SCENE, number=number, subjects=(1, 2, 3), crossing=True, duration_s=10, fps=3)
        clip, doing = render_scene(spec)
        assert doing[-1].activity == CROSSING and doing[-1].person == 2
        x = clip.boxes[:, 2, [0, 2]].mean(-1)
        assert np.ptp(x) > 128  # over half of the picture
        # Before the others, or behind them: one of the two is hidden.
        hidden += int(
            (clip.seen[:, :2] < 0.6).any() or ((clip.seen[:, 2] < 0.6) & (x > 40) & (x < 216)).any()
        )
        left += int((clip.seen[:, 2] < SEEN).any())
    assert hidden >= 6 and left >= 3


def test_what_is_nearer_is_painted_over_what_is_farther_whoever_it_belongs_to():
    painted: list[tuple[int, int]] = []

    def figure(number: int, *depths: float) -> SimpleNamespace:
        joints = np.zeros((1, 25, 3))
        return SimpleNamespace(
            pixels=joints[..., :2], space=joints, scale=np.ones((1, 25)), floor=np.full((1, 2), 16.0),
            boxes=lambda: np.zeros((1, 4)), seen=lambda *_: 1.0,
            parts=lambda k: [(depth, 0, i) for i, depth in enumerate(depths)],
            draw=lambda canvas, k, kind, i, light: painted.append((number, i)),
        )  # fmt: skip

    spec = SceneSpec(size=(32, 32), fps=1.0, duration_s=1.0, noise=0.0)
    rng = np.random.default_rng(0)
    scene = make_scene(rng, Camera(size=spec.size), 0.0, 0.0)
    film(spec, [figure(1, 3.0, 1.0), figure(2, 2.0, 4.0)], scene, Sensor(spec, rng))
    assert painted == [(2, 1), (1, 0), (2, 0), (1, 1)]


def test_who_is_hidden_or_outside_is_not_detected_and_boxes_end_at_the_picture():
    spec = replace(SCENE, number=2, subjects=(1, 2, 3), crossing=True, duration_s=10, fps=3)
    clip, _ = render_scene(spec)
    found = detections(clip, spec.size, spec.fps)
    assert [d.stamp_ns for d in found] == [round(k * 1e9 / 3) for k in range(30)]
    for k, now in enumerate(found):
        assert {p.id for p in now.people} == {str(n + 1) for n in range(3) if clip.seen[k, n] >= SEEN}
        for person in now.people:
            box = person.box
            assert 0 <= box.x_min < box.x_max <= 256 and 0 <= box.y_min < box.y_max <= 144
    assert any(len(now.people) < 3 for now in found)


def test_people_who_change_what_they_do_move_on_without_a_jump():
    spec = replace(SCENE, subjects=(1, 2), fps=10, duration_s=6, change_s=2.0)
    clip, doing = render_scene(spec)
    mine = [d for d in doing if d.person == 0]
    assert [(d.start_s, d.end_s) for d in mine] == [(0, 2), (2, 4), (4, 6)]
    assert all(a.activity != b.activity for a, b in itertools.pairwise(mine))
    step = np.linalg.norm(np.diff(clip.space[:, 0], axis=0), axis=-1).max(-1)  # metres a frame, fastest joint
    assert step[19] < 0.35 and step[39] < 0.35


@given(
    people=st.integers(1, 4),
    activities=st.integers(1, 6),
    parts=st.integers(1, 12),
    crossing=st.booleans(),
    number=st.integers(0, 99),
)
def test_at_any_time_all_do_different_things_and_everybody_changes(
    people, activities, parts, crossing, number
):
    spec = replace(
        SCENE,
        subjects=tuple(range(1, people + 1)),
        activities=tuple(STANDING)[:activities],
        fps=2,
        duration_s=float(parts),
        change_s=1.0,
        crossing=crossing and people > 1,
        number=number,
    )
    cut = several._parts(spec)
    doing = several._cast(spec, np.random.default_rng(number), cut)
    assert len(cut) == parts and all(first < last for first, last in cut)
    standing = doing[: people - spec.crossing]
    if activities >= people:
        assert all(len(set(now)) == len(now) for now in zip(*standing, strict=True))
    if activities > 1:
        assert all(a != b for names in standing for a, b in itertools.pairwise(names))


def test_a_scene_depends_on_its_specification_alone():
    a, b = render_scene(SCENE)[0], render_scene(SCENE)[0]
    np.testing.assert_array_equal(a.frames, b.frames)
    for change in ({"seed": 1}, {"number": 2}, {"subjects": (1, 2, 4)}):
        assert not np.array_equal(a.frames, render_scene(replace(SCENE, **change))[0].frames), change


def test_files_of_scenes_agree_with_what_is_drawn(tmp_path):
    summary = synthesize_scenes(tmp_path, 3, people=(2, 3), subjects=4, crossing=1.0, **SMALL)
    assert summary["clips"] == 3 and summary["frames"] == 15
    jobs = plan_scenes(3, people=(2, 3), subjects=4, crossing=1.0, size=(128, 72), fps=5.0, duration_s=1.0)
    assert summary["people"] == sum(len(job.spec.subjects) for job in jobs)
    for job in jobs:
        clip, doing = render_scene(job.spec)
        stem = Path(job.file).stem
        rows = list(csv.DictReader((tmp_path / f"{stem}.truth.csv").open()))
        assert [(r["id"], float(r["start_s"]), float(r["end_s"]), r["label"]) for r in rows] == [
            (str(d.person + 1), d.start_s, d.end_s, d.activity) for d in doing
        ]
        table = read_csv(tmp_path / "boxes" / f"{stem}.boxes.csv")
        drawn = detections(clip, (128, 72), 5.0)
        assert [[p.id for p in d.people] for d in table] == [[p.id for p in d.people] for d in drawn]
        assert {p.id for d in table for p in d.people} <= {r["id"] for r in rows}
    assert not list(tmp_path.rglob(".*.part"))


def test_boxes_of_clips_lie_beside_their_joints(tmp_path):
    options = {
        "classes": ["hug", "wave"],
        "subjects": 1,
        "clips_per_class": 1,
        "size": (96, 64),
        "duration_s": 1.0,
    }
    synthesize(tmp_path, boxes=True, joints=True, workers=1, progress=False, **options)
    for job in plan("folder", **options):
        clip = render(job.spec)
        found = read_csv((tmp_path / "boxes" / job.file).with_suffix(".boxes.csv"))
        assert len(found) == 4 and (tmp_path / "joints" / job.file).with_suffix(".joints.csv").is_file()
        for k, now in enumerate(found):
            assert len(now.people) == (2 if job.label == "hug" else 1)
            box = now.people[0].box
            wanted = np.clip(clip.boxes[k, 0], 0, (96, 64, 96, 64))
            np.testing.assert_allclose([box.x_min, box.y_min, box.x_max, box.y_max], wanted, atol=0.01)
    with pytest.raises(DataError, match="layout folder"):
        plan("ntu", boxes=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scenes": 0}, "1 scene or more"),
        ({"people": (3, 2)}, "1 to 4 people"),
        ({"people": (2, 9)}, "1 to 4 people"),
        ({"subjects": 3}, "needs as many"),
        ({"crossing": 2.0}, "0 to 1"),
        ({"classes": ["hug"]}, "side by side"),
        ({"change_s": 0.2}, "1 s or more"),
        ({"change_s": 1.0, "fps": 0.5, "duration_s": 8}, "every 1 s where a frame lasts 2 s"),
        ({"size": (63, 64)}, "even"),
    ],
)
def test_scenes_that_cannot_be_made_say_what_to_give(tmp_path, options, says):
    with pytest.raises(DataError, match=says):
        synthesize_scenes(tmp_path / "out", **{"scenes": 2, **SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_the_command_writes_scenes(tmp_path):
    result = call(
        app, "synth", tmp_path / "s", "--layout", "scenes", "--scenes", 2, "--people", 2, "--size", "128x72",
        "--fps", 4, "--duration", 1, "--workers", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["people"] == 4 and set(said["classes"]) == set(STANDING)
    assert len(list((tmp_path / "s" / "boxes").iterdir())) == 2
    assert_one_line(call(app, "synth", tmp_path / "t", "--layout", "scenes", "--people", "few"), "2-4")
    for option, value in (("--scenes", 2), ("--people", "few"), ("--crossing", 0), ("--change", 1)):
        said = call(app, "synth", tmp_path / "t", "--classes", "wave", option, value)
        assert_one_line(said, f"{option} does not go with --layout folder")
    assert not (tmp_path / "t").exists()


def test_a_scene_of_another_command_is_not_replaced(tmp_path):
    synthesize_scenes(tmp_path, 1, **SMALL)
    before = (tmp_path / "scene_0001.mp4").read_bytes()
    with pytest.raises(DataError, match="not drawn by this command"):
        synthesize_scenes(tmp_path, 1, seed=1, **SMALL)
    synthesize_scenes(tmp_path, 2, **SMALL)
    assert (tmp_path / "scene_0001.mp4").read_bytes() == before and (tmp_path / "scene_0002.mp4").is_file()
