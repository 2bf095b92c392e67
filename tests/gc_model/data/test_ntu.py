# SPDX-License-Identifier: Apache-2.0
"""NTU RGB+D: names, protocols with their published sizes, skeleton files."""

import itertools
import math
import re

import numpy as np
import pytest

from gc_model.data import ntu
from gc_model.data.ntu import COLOUR_SIZE, Name, find, read_skeleton
from gc_model.synth import ClipSpec, render
from gc_model.synth.body import JOINTS
from gc_model.synth.skeleton import skeleton_text
from trt_build.errors import DataError

# Performers of each setup of the published set, by the count of its clips: 948 replicated performances of 60
# actions before three cameras. Only the numbers matter here, so the stand-in spreads them evenly.
NTU_PERFORMANCES = 948


def all_names():
    """A stand-in list of the right size: every performer, three cameras, 60 actions; 948 performances in all."""
    # Performances (setup, performer, replication) of the published set by performer: 672 by training subjects.
    from gc_model.data.ntu import TRAINING_SUBJECTS

    training = sorted(TRAINING_SUBJECTS)
    test = sorted(set(range(1, 41)) - TRAINING_SUBJECTS)
    performances = [*itertools.islice(itertools.cycle(training), 672 // 3)]
    performances += [*itertools.islice(itertools.cycle(test), 276 // 3)]
    for i, performer in enumerate(performances):
        for camera, action in itertools.product((1, 2, 3), range(1, 61)):
            yield Name(i % 17 + 1, camera, performer, i // 17 % 2 + 1, action)


def test_the_protocols_have_their_published_sizes():
    names = list(all_names())
    assert len(names) == 56_880
    subject = [n.trains("cross-subject") for n in names]
    view = [n.trains("cross-view") for n in names]
    assert (sum(subject), len(names) - sum(subject)) == (40_320, 16_560)
    assert (sum(view), len(names) - sum(view)) == (37_920, 18_960)


def test_subject_40_is_in_the_test_set():
    assert not Name(17, 1, 40, 1, 1).trains("cross-subject")


def test_names_are_parsed_and_written_back():
    name = Name.parse("nturgb+d_rgb/S001C002P003R001A060_rgb.avi")
    assert name == Name(1, 2, 3, 1, 60) and name.stem == "S001C002P003R001A060"
    with pytest.raises(DataError, match="not a name of NTU"):
        Name.parse("holiday.avi")
    with pytest.raises(DataError, match="cross-view"):
        name.trains("cross-camera")


def test_videos_and_skeletons_find_each_other_in_any_folders(tmp_path):
    for folder, file in (("rgb", "S001C001P001R001A001_rgb.avi"), ("rgb", "S001C001P001R001A002_rgb.avi")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).touch()
    (tmp_path / "bones").mkdir()
    (tmp_path / "bones" / "S001C001P001R001A002.skeleton").touch()
    first, second = find(tmp_path)
    assert first[2] is None and second[2] is not None and second[0].action == 2


@pytest.mark.parametrize("activity", ["wave", "handshake"])
def test_a_skeleton_file_comes_back_as_the_joints_that_were_drawn(tmp_path, activity):
    clip = render(ClipSpec(activity, subject=3, seed=1, size=(160, 120), fps=4.0, duration_s=1.5))
    text = skeleton_text(
        clip.skeleton, clip.space, clip.mask, (160, 120), (72057594037931101, 72057594037931102)
    )
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_text(text)
    read, size = read_skeleton(path)
    drawn = clip.skeleton / np.array([160, 120])
    assert read.shape == drawn.shape and tuple(size) == COLOUR_SIZE
    for t in range(len(drawn)):  # bodies come back in the order of their motion
        ours = sorted(np.nan_to_num(read[t], nan=9.0).round(3).tolist())
        theirs = sorted(np.nan_to_num(drawn[t], nan=9.0).round(3).tolist())
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert seen(read).sum(1).max() == (2 if activity == "handshake" else 1)


def seen(joints):
    """(frames, bodies): whether any joint is known."""
    return np.isfinite(joints).any(axis=(2, 3))


def body(identity, x, y):
    joint = f"0 0 3 256 212 {x} {y} 0 0 0 0 2"
    return [f"{identity} 0 1 1 1 1 0 0 0 2", "25", *[joint] * 25]


def write(path, *frames):
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        lines += itertools.chain.from_iterable(bodies)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_of_three_bodies_the_two_that_move_most_over_the_whole_clip_are_kept(tmp_path):
    chair = [body("chair", 100, 100)] * 4
    walker = [body("walker", 100 * t, 300) for t in range(4)]
    waver = [body("waver", 900 + 10 * t, 300) for t in range(4)]
    path = write(tmp_path / "a.skeleton", *[[chair[t], waver[t], walker[t]] for t in range(4)])
    joints = read_skeleton(path)[0]
    np.testing.assert_allclose(joints[:, 0, 0, 0] * COLOUR_SIZE[0], [0, 100, 200, 300], atol=1e-2)
    np.testing.assert_allclose(joints[:, 1, 0, 0] * COLOUR_SIZE[0], [900, 910, 920, 930], atol=1e-2)


def test_bodies_keep_their_place_by_identity_when_one_leaves_and_nan_stays_nan(tmp_path):
    frames = [[body("a", 0, 0), body("b", 500, 0)], [body("b", 700, "NaN")], []]
    read, _ = read_skeleton(write(tmp_path / "a.skeleton", *frames))
    assert seen(read).tolist() == [[True, True], [True, False], [False, False]]
    assert read[1, 0, 0, 0] == pytest.approx(700 / 1920) and np.isnan(read[1, 0, 0, 1])
    assert np.isnan(read[2]).all()


@pytest.mark.parametrize("frames", [4, 300_000_000, 900_000_000_000])
def test_more_frames_than_lines_are_refused_before_they_need_memory(tmp_path, frames):
    path = write(tmp_path / "a.skeleton", [])
    path.write_text(f"{frames}\n" + path.read_text().partition("\n")[2])
    with pytest.raises(DataError, match=rf"a\.skeleton:1: {frames} frames in \d lines; get the file again"):
        read_skeleton(path)


def test_an_infinite_joint_is_a_missing_one(tmp_path):
    read, _ = read_skeleton(write(tmp_path / "a.skeleton", [body("7", math.inf, 100)], [body("7", 500, 100)]))
    assert np.isnan(read[0, 0, :, 0]).all() and np.isfinite(read[1, 0]).all()


def test_a_file_without_any_body_is_masked_throughout(tmp_path):
    read, _ = read_skeleton(write(tmp_path / "a.skeleton", [], []))
    assert read.shape == (2, 2, 25, 2) and not seen(read).any()


@pytest.mark.parametrize("keep", [0, 5, 30, 56])
def test_a_file_cut_short_names_the_line(tmp_path, keep):
    path = write(tmp_path / "a.skeleton", [body("a", 1, 2)], [body("a", 3, 4)])
    path.write_text("\n".join(path.read_text().split("\n")[:keep]))
    with pytest.raises(DataError, match=r"a\.skeleton.*get the file again"):
        read_skeleton(path)


@pytest.mark.parametrize("text", ["x\n", "-3\n", "1\n1\n1 2 3\n", "1\n1\n" + "1 " * 10 + "\n24\n"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "a.skeleton"
    path.write_text(text)
    with pytest.raises(DataError, match="get the file again"):
        read_skeleton(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unseen", ["NaN", "-inf", "1e39"])
@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_a_joint_that_is_never_seen_does_not_change_which_bodies_are_kept(tmp_path, order, unseen):
    frames = []
    for t in range(4):
        walker = body("walker", 100 * t, 300)
        walker[9] = f"0 0 3 256 212 {unseen} {unseen} 0 0 0 0 2"
        bodies = [body("chair", 100, 100), walker, body("waver", 900 + 10 * t, 300)]
        frames.append([bodies[i] for i in order])
    joints = read_skeleton(write(tmp_path / "a.skeleton", *frames))[0]
    np.testing.assert_allclose(joints[3, :, 0, 0] * COLOUR_SIZE[0], [300, 930], atol=1e-2)


def test_a_mirror_swaps_the_joints_that_bear_the_names_of_the_other_side():
    other = {"Left": "Right", "Right": "Left"}
    swapped = [re.sub("Left|Right", lambda side: other[side[0]], name) for name in JOINTS]
    assert [JOINTS[i] for i in ntu.MIRRORED] == swapped


def test_from_a050_on_two_people_do_it_together(tmp_path):
    for action in (49, 50):
        (tmp_path / f"S001C001P001R001A{action:03}_rgb.avi").touch()
    assert [c.together for c in ntu.clips(tmp_path, "cross-subject")] == [False, True]
