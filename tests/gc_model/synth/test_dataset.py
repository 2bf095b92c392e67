# SPDX-License-Identifier: Apache-2.0
"""Synthetic data sets on disk: names, videos and skeleton files as the real data sets have them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from gc_model.synth import ACTIVITIES, plan, render, synthesize
from gc_model.synth.dataset import NUCLA_CLASSES
from gc_model.synth.skeleton import PARENT, skeleton_text
from trt_build.errors import DataError

SMALL = {"size": (64, 64), "fps": 4.0, "duration_s": 1.0, "workers": 1, "progress": False}


def decode(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as box:
        rate = float(box.streams.video[0].average_rate)
        return np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)]), rate


def read_skeleton(path: Path) -> list[dict[str, np.ndarray]]:
    """An independent reader of the format: per frame, body id -> (25, 12)."""
    words = iter(path.read_text().split())
    frames = []
    for _ in range(int(next(words))):
        bodies = {}
        for _ in range(int(next(words))):
            head = [next(words) for _ in range(10)]
            joints = int(next(words))
            bodies[head[0]] = np.array([[float(next(words)) for _ in range(12)] for _ in range(joints)])
        frames.append(bodies)
    assert next(words, None) is None
    return frames


def digest(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_folder_layout_has_every_clip_its_table_names(tmp_path):
    summary = synthesize(tmp_path, classes=["wave", "push"], subjects=2, clips_per_class=3, **SMALL)
    rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert summary["clips"] == len(rows) == 6 and summary["frames"] == 24
    assert list(rows[0]) == ["path", "class", "subject", "camera", "width", "height", "fps", "frames"]
    assert {r["class"] for r in rows} == {"wave", "push"} and {r["subject"] for r in rows} == {"1", "2"}
    for row in rows:
        frames, rate = decode(tmp_path / row["path"])
        assert Path(row["path"]).parent.name == row["class"]
        assert frames.shape == (int(row["frames"]), 64, 64, 3) and rate == float(row["fps"])
    assert not list(tmp_path.rglob(".*.part"))


def test_the_table_has_the_frames_of_clips_that_end_with_their_activity(tmp_path):
    asked = {"classes": ["sit_down", "wave"], "subjects": 1, "clips_per_class": 2, "duration_s": 8.0}
    for _ in range(2):  # again, into the same table
        found = synthesize(tmp_path, **{**SMALL, **asked, "clutter": 0.0})
        rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
        counted = [len(decode(tmp_path / row["path"])[0]) for row in rows]
        assert [int(row["frames"]) for row in rows] == counted and found["frames"] == sum(counted)
    assert min(counted) < max(counted) == 32


@pytest.mark.parametrize("layout", ["folder", "ntu"])
def test_decoded_pixels_are_the_drawn_ones(tmp_path, layout):
    options = {**SMALL, "size": (128, 128)}
    synthesize(tmp_path, layout, classes=["kick"], subjects=1, clips_per_class=1, **options)
    for drop in ("workers", "progress"):
        options.pop(drop)
    (job,) = plan(layout, classes=["kick"], subjects=1, clips_per_class=1, **options)
    drawn = render(job.spec).frames.astype(float)
    frames, _ = decode(tmp_path / job.file)
    error = np.mean((frames - drawn) ** 2)
    assert 10 * np.log10(255**2 / error) > 28  # dB; swapped channels or a shifted frame fall far below
    ok, first = cv2.VideoCapture(str(tmp_path / job.file)).read()
    assert ok and np.abs(first[..., ::-1].astype(float) - frames[0]).mean() < 4


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folder", "ntu", "nucla-frames"])
def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path, layout):
    options = {**SMALL, "classes": ["clap", "hug"], "subjects": 2, "clips_per_class": 4}
    for workers in (1, 2):
        synthesize(tmp_path / str(workers), layout, **{**options, "workers": workers})
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_another_seed_gives_other_clips_of_the_same_names(tmp_path):
    options = {**SMALL, "classes": ["clap"], "subjects": 1, "clips_per_class": 1}
    for seed in (0, 1):
        synthesize(tmp_path / str(seed), seed=seed, **options)
    a, b = digest(tmp_path / "0"), digest(tmp_path / "1")
    assert list(a) == list(b) and a["clap/s001_c1_r01.mp4"] != b["clap/s001_c1_r01.mp4"]


def test_ntu_names_videos_and_skeletons_agree(tmp_path):
    synthesize(tmp_path, "ntu", classes=["drink", "handshake"], subjects=2, clips_per_class=6, **SMALL)
    videos = sorted((tmp_path / "nturgb+d_rgb").iterdir())
    assert len(videos) == 12
    for video in videos:
        match = re.fullmatch(r"(S\d{3}C00([123])P(\d{3})R\d{3}A(\d{3}))_rgb\.avi", video.name)
        assert match
        activity = ACTIVITIES[int(match[4]) - 1]
        assert activity in ("drink", "handshake")
        frames, _ = decode(video)
        bodies = read_skeleton(tmp_path / "nturgb+d_skeletons" / f"{match[1]}.skeleton")
        assert len(bodies) == len(frames)
        assert all(len(b) == (2 if activity == "handshake" else 1) for b in bodies)
        assert len({frozenset(b) for b in bodies}) == 1  # ids last over the clip
    numbers = {r["class"]: int(r["number"]) for r in csv.DictReader((tmp_path / "classes.csv").open())}
    assert numbers == {n: ACTIVITIES.index(n) + 1 for n in ("drink", "handshake")}


def test_skeleton_files_hold_the_drawn_joints_in_colour_pixels(tmp_path):
    synthesize(tmp_path, "ntu", classes=["hug"], subjects=1, clips_per_class=1, **SMALL)
    (job,) = plan("ntu", classes=["hug"], subjects=1, clips_per_class=1, size=(64, 64), duration_s=1.0)
    clip = render(job.spec)
    (path,) = (tmp_path / "nturgb+d_skeletons").iterdir()
    for k, frame in enumerate(read_skeleton(path)):
        for b, values in enumerate(frame.values()):
            assert values.shape == (25, 12)
            np.testing.assert_allclose(values[:, :3], clip.space[k, b], atol=1e-5)
            np.testing.assert_allclose(values[:, 5:7] / (1920, 1080), clip.skeleton[k, b] / 64, atol=1e-5)
            np.testing.assert_allclose(values[:, 3:5] / (512, 424), clip.skeleton[k, b] / 64, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(values[:, 7:11], axis=1), 1, atol=1e-4)
            assert set(values[:, 11]) <= {1.0, 2.0}


def test_all_cameras_see_the_same_person_do_it_once_before_the_next_one():
    jobs = [job.spec for job in plan("ntu", classes=["wave"], subjects=2, cameras=3, clips_per_class=12)]
    seen = [(spec.camera, spec.subject, spec.outfit) for spec in jobs]
    assert seen == [(c, s, r) for r in (1, 2) for s in (1, 2) for c in (1, 2, 3)]
    assert all(len({spec.take for spec in jobs[i : i + 3]}) == 1 for i in range(0, 12, 3))


def test_a_joint_is_tracked_where_its_body_is_seen_and_inferred_where_it_is_not():
    points = np.full((1, 2, 25, 2), np.nan)
    points[0, 0] = 2.0, 3.0  # on the body
    # Behind another, behind nobody, beside the picture.
    points[0, 0, 1:4] = [(6.0, 3.0), (2.0, 7.0), (-4.0, 3.0)]
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 3, 2], mask[0, 3, 6] = 1, 2
    text = skeleton_text(points, np.zeros((1, 2, 25, 3)), mask, (8, 8), (1, 2))
    states = [int(line.split()[-1]) for line in text.splitlines() if len(line.split()) == 12]
    assert states == [2, 1, 1, 1, *[2] * 21]


def test_skeleton_text_of_a_clip_without_bodies_keeps_its_frames():
    nothing = np.full((3, 2, 25, 2), np.nan)
    text = skeleton_text(nothing, np.full((3, 2, 25, 3), np.nan), np.zeros((3, 8, 8)), (8, 8), (1, 2))
    assert text.split() == ["3", "0", "0", "0"]
    assert PARENT[0] == 0 and len(PARENT) == 25


def test_lost_skeletons_are_a_share_of_the_clips_and_their_videos_stay(tmp_path):
    jobs = plan("ntu", missing_skeletons=0.25)
    lost = [j for j in jobs if not j.skeleton]
    assert 0.15 < len(lost) / len(jobs) < 0.35
    assert not [j for j in plan("ntu") if not j.skeleton]
    synthesize(tmp_path, "ntu", classes=["bow"], subjects=1, clips_per_class=1, missing_skeletons=1, **SMALL)
    (path,) = (tmp_path / "nturgb+d_skeletons").iterdir()
    assert all(not frame for frame in read_skeleton(path))
    assert len(list((tmp_path / "nturgb+d_rgb").iterdir())) == 1


def test_nucla_videos_and_frames_have_the_data_sets_names(tmp_path):
    options = {**SMALL, "subjects": 1, "clips_per_class": 3}
    synthesize(tmp_path, "nucla", classes=["drink", "wave"], **options)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.avi"))
    assert names == [
        f"multiview_action_videos/a{a}/v0{v}_s01_e01.avi" for a in ("01", "02") for v in (1, 2, 3)
    ]
    synthesize(tmp_path, "nucla-frames", classes=["drink"], **options)
    frames = sorted((tmp_path / "view_2" / "a01_s01_e01").iterdir())
    assert [f.name for f in frames] == [f"frame_{k}_tc_{k * 250}_rgb.jpg" for k in range(4)]
    assert cv2.imread(str(frames[0])).shape == (64, 64, 3)


def test_nucla_takes_its_ten_classes_in_the_data_sets_numbers():
    numbers = {int(j.file.split("/")[1][1:]) for j in plan("nucla", subjects=1)}
    assert numbers == set(NUCLA_CLASSES)


def test_subjects_can_be_disjoint_and_stay_themselves():
    train, test = plan("folder", subjects=6), plan("folder", subjects=3, first_subject=7)
    assert not {j.spec.subject for j in train} & {j.spec.subject for j in test}
    again = plan("folder", subjects=9)
    spec = next(j.spec for j in again if j.file == test[0].file)
    assert spec == test[0].spec  # a subject does not depend on who else is asked for


def test_ntu_side_cameras_see_the_front_and_the_side_and_the_middle_one_45_degrees():
    for job in plan("ntu", classes=["wave"], subjects=1):
        seen = abs(job.spec.facing_deg - job.spec.yaw_deg)
        assert seen == 45 if job.spec.camera == 1 else seen in (0, 90)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "kinetics"}, "choose from"),
        ({"classes": ["fly"]}, "choose from"),
        ({"classes": []}, "choose from"),
        ({"classes": ["wave", "wave"]}, "once"),
        ({"layout": "nucla", "classes": list(ACTIVITIES)}, "fewer"),
        ({"layout": "nucla", "subjects": 200}, "up to 99"),
        ({"subjects": 0}, "start at 1"),
        ({"cameras": 4}, "1 to 3"),
        ({"clips_per_class": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"size": (63, 64)}, "even"),
        ({"occlusion": 2.0}, "0 to 1"),
        ({"seed": -1}, "larger"),
    ],
)
def test_bad_arguments_name_the_remedy_and_write_nothing(tmp_path, options, says):
    with pytest.raises(DataError, match=says):
        synthesize(tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        synthesize(tmp_path / "file", classes=["wave"], subjects=1, clips_per_class=1, **SMALL)


@pytest.mark.slow
def test_command_line(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gc_model.synth", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    small = [
        "--size",
        "64x64",
        "--duration",
        "1",
        "--subjects",
        "1",
        "--clips-per-class",
        "1",
        "--workers",
        "1",
    ]
    good = run(str(tmp_path / "a"), "--classes", "wave,salute", *small, "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["classes"] == ["wave", "salute"]
    bad = run(str(tmp_path / "b"), "--classes", "fly", *small)
    assert (
        bad.returncode == 2
        and bad.stderr.startswith("error: unknown activity")
        and bad.stderr.count("\n") == 1
    )
    assert "Example" in run("--help").stdout


def test_tables_of_joints_are_where_training_finds_them_and_hold_the_drawn_places(tmp_path):
    from gc_model.data.joint_tables import joint_names, mirrored_joints, read_table
    from gc_model.data.own import clips, mixed_in

    synthesize(
        tmp_path / "drawn", classes=["hug", "wave"], subjects=1, clips_per_class=1, size=(96, 64), duration_s=1,
        workers=1, progress=False, joints=True,
    )  # fmt: skip
    table = tmp_path / "drawn" / "joints" / "hug" / "s001_c1_r01.joints.csv"
    names = joint_names(table)
    assert len(names) == 25 and {"head", "left_shoulder", "right_handtip"} <= set(names)
    assert mirrored_joints(names)[names.index("left_knee")] == names.index("right_knee")
    joints, size = read_table(table)
    spec = plan(
        "folder", classes=["hug", "wave"], subjects=1, clips_per_class=1, size=(96, 64), duration_s=1
    )[0].spec
    drawn = render(spec).skeleton / np.array([96, 64], np.float32)
    assert size.tolist() == [96, 64] and joints.shape == drawn.shape
    assert np.nanmax(np.abs(joints - drawn)) < 2e-4 and np.isfinite(joints).all()  # two people, all joints
    found = mixed_in(tmp_path / "drawn")
    assert [c.name for c in found] == ["drawn/hug/s001_c1_r01.mp4", "drawn/wave/s001_c1_r01.mp4"]
    assert all(c.joints is not None and c.joints.file is not None for c in found)
    assert len(clips(tmp_path / "drawn")) == 2  # the tables are no clips and no class
    with pytest.raises(DataError, match="layout folder"):
        plan("ntu", joints=True)


# -- into a folder that holds something --------------------------------------------------------------------------------

ONE = {**SMALL, "subjects": 1, "clips_per_class": 1}


def listed(root: Path) -> list[str]:
    return [row["path"] for row in csv.DictReader((root / "clips.csv").open())]


def test_another_command_adds_to_the_table_and_the_same_one_changes_nothing(tmp_path):
    synthesize(tmp_path, classes=["wave"], **ONE)
    table = (tmp_path / "clips.csv").read_text()
    (tmp_path / "clips.csv").write_text(f"{table}mine/a.mp4,clap,anna,,,,,\n")
    for _ in range(2):
        synthesize(tmp_path, classes=["kick"], **ONE)
        assert listed(tmp_path) == ["wave/s001_c1_r01.mp4", "mine/a.mp4", "kick/s001_c1_r01.mp4"]
    before = digest(tmp_path)
    synthesize(tmp_path, classes=["kick"], **ONE)
    assert digest(tmp_path) == before
    synthesize(tmp_path, classes=["wave"], boxes=True, **ONE)  # the clip as it was, with a table more
    assert {k: v for k, v in digest(tmp_path).items() if k in before} | {"clips.csv": ""} == before | {
        "clips.csv": ""
    }
    assert len(listed(tmp_path)) == 3 and (tmp_path / "boxes/wave/s001_c1_r01.boxes.csv").is_file()


def test_columns_that_somebody_added_to_the_table_stay(tmp_path):
    (tmp_path / "clips.csv").write_text("path;class;room\nmine/a.mp4;clap;kitchen\n")
    synthesize(tmp_path, classes=["wave"], **ONE)
    rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert [(row["path"], row["room"]) for row in rows] == [
        ("mine/a.mp4", "kitchen"),
        ("wave/s001_c1_r01.mp4", ""),
    ]


@pytest.mark.parametrize("layout", ["folder", "nucla-frames"])
def test_a_clip_of_another_command_is_not_replaced(tmp_path, layout):
    synthesize(tmp_path, layout, classes=["wave"], **ONE)
    before = digest(tmp_path)
    with pytest.raises(DataError, match="not drawn by this command"):
        synthesize(tmp_path, layout, classes=["wave"], seed=1, **ONE)
    assert digest(tmp_path) == before


def test_a_video_of_somebody_else_is_neither_replaced_nor_hidden(tmp_path):
    for name, says in (("s001_c1_r01.mp4", "not drawn by this command"), ("mine.mp4", "clips.csv")):
        root = tmp_path / name
        (root / "wave").mkdir(parents=True)
        (root / "wave" / name).write_text("mine")
        with pytest.raises(DataError, match=says):
            synthesize(root, classes=["wave"], **ONE)
        assert list(digest(root)) == [f"wave/{name}"] and (root / "wave" / name).read_text() == "mine"


def test_a_run_that_was_cut_short_can_be_begun_again(tmp_path, monkeypatch):
    from gc_model.synth import dataset

    made = []

    def dies(root: Path, job: dataset.Job) -> int:
        if made:
            raise KeyboardInterrupt
        made.append(job)
        return drawn(root, job)

    drawn = dataset.make
    monkeypatch.setattr(dataset, "make", dies)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "a", classes=["wave", "kick"], **ONE)
    monkeypatch.undo()
    for name in "ab":
        synthesize(tmp_path / name, classes=["wave", "kick"], **ONE)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_number_of_nucla_stands_for_one_class(tmp_path):
    synthesize(tmp_path, "nucla", classes=["drink"], **ONE)
    with pytest.raises(DataError, match="1 is drink, not wave"):
        synthesize(tmp_path, "nucla", classes=["wave"], first_subject=2, **ONE)
    synthesize(tmp_path, "nucla", classes=["drink", "wave"], first_subject=2, **ONE)
    numbers = list(csv.reader((tmp_path / "classes.csv").open()))
    assert numbers == [["number", "class"], ["1", "drink"], ["2", "wave"]] and len(listed(tmp_path)) == 3
