# SPDX-License-Identifier: Apache-2.0
"""Joints follow the pixels of their picture, from files of a data set and tables of one's own; damage is masked."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import ntu
from gc_model.data.augment import Augment
from gc_model.data.datasets import index
from gc_model.data.frames import FrameCache
from gc_model.data.joint_tables import table_of, write_table
from gc_model.data.joints import centre_matrix, joints_of, to_frame, to_input
from gc_model.data.samples import TrainingClips
from gc_model.paper.presets import preset
from gc_model.training.options import TrainOptions
from tests.gc_model.runs import colours, ntu_people
from trt_build.bundle import Preprocess
from trt_build.errors import DataError


def test_joints_go_where_the_pictures_pixels_go():
    """A white dot at a joint stays at the joint through fit, crop, rotation and mirror."""
    rng = np.random.default_rng(0)
    for fit in ("stretch", "square", "pad"):
        p = Preprocess(size=200, resize=200, fit=fit)
        for _ in range(5):
            image = np.zeros((108, 192, 3), np.uint8)
            at = np.array([rng.integers(70, 120), rng.integers(40, 68)])
            image[at[1] - 2 : at[1] + 3, at[0] - 2 : at[0] + 3] = 255
            from trt_build.preprocess import model_input

            frame = model_input(image, p, bgr=False)
            joints = np.full((1, 2, 25, 2), np.nan, np.float32)
            joints[0, :] = (at + 0.5) / [192, 108]
            matrix = Augment(scale=(0.9, 1.0)).matrix(200, 160, rng)
            seen = cv2.warpAffine(frame, matrix, (160, 160))[..., 0].astype(float)
            if seen.max() < 200:
                continue
            y, x = np.mean(np.argwhere(seen > 127), 0)
            found = to_input(to_frame(joints, 192, 108, p), matrix, 200, 160, ntu.MIRRORED)[0, 0, 0]
            assert np.allclose((found + 1) / 2 * 160 - 0.5, [x, y], atol=1.6), fit


def test_a_mirrored_picture_swaps_left_and_right_joints():
    joints = np.random.default_rng(0).uniform(size=(1, 2, 25, 2)).astype(np.float32)
    plain = to_input(joints, centre_matrix(100, 80), 100, 80, ntu.MIRRORED)
    mirror = np.array([[-1.0, 0.0, 89.0], [0.0, 1.0, -10.0]])
    flipped = to_input(joints, mirror, 100, 80, ntu.MIRRORED)
    assert np.allclose(flipped[..., 0], -plain[:, :, list(ntu.MIRRORED), 0], atol=1e-5)
    assert np.allclose(flipped[..., 1], plain[:, :, list(ntu.MIRRORED), 1], atol=1e-5)
    # One a frame.
    np.testing.assert_array_equal(to_input(joints, mirror[None], 100, 80, ntu.MIRRORED), flipped)
    joints_of_a_body = list(range(25))
    assert sorted(ntu.MIRRORED) == joints_of_a_body == [ntu.MIRRORED[i] for i in ntu.MIRRORED]


def test_a_joint_keeps_its_place_to_the_fraction_of_a_pixel():
    joints = np.random.default_rng(0).uniform(size=(2, 2, 25, 2)).astype(np.float32)
    for times in (0.5, 1.0, 3.0):  # edges of pixels stay edges
        grown = np.array([[times, 0.0, (times - 1) / 2], [0.0, times, (times - 1) / 2]])
        for matrix in (grown, np.stack([grown, grown])):
            found = to_input(joints, matrix, 40, round(40 * times), range(25))
            np.testing.assert_allclose(found, 2 * joints - 1, atol=1e-5)


def samples(data: Path, folder: Path) -> TrainingClips:
    config = preset("tiny", classes=2)
    clips = index("ntu", data, part="train")
    cache = FrameCache(folder, Preprocess(size=config.size, resize=config.resize))
    return TrainingClips(clips, ["bow", "jump"], cache, config, 4.0, Augment(), 0)


def test_a_missing_and_a_damaged_skeleton_are_masked_and_the_pictures_stay(tmp_path):
    data = tmp_path / "ntu"
    shutil.copytree(ntu_people(), data)
    skeletons = sorted((data / "nturgb+d_skeletons").glob("*P001*.skeleton"))
    skeletons[0].unlink()
    skeletons[1].write_text(skeletons[1].read_text()[:4000])
    found = samples(data, tmp_path / "cache")
    joints = [found[(0, i)]["joints"] for i in range(len(found))]
    assert len(found) == 8 and all(j.shape == (8, 2, 25, 2) for j in joints)
    assert sum(bool(torch.isnan(j).all()) for j in joints) == 2
    assert all(
        torch.equal(torch.nan_to_num(found.beside((0, i))["joints"]), torch.nan_to_num(j))
        for i, j in enumerate(joints)
    )


OWN = ("nose", "left_wrist", "right_wrist")


def own_joints(folder: Path, clips: Path, shift: float = 0.0) -> Path:
    """Tables for the clips of class red: in frame t the nose at (10 + t + shift, 20) of 64 x 48, wrists beside it."""
    for clip in index("clips", clips):
        if clip.label != "red":
            continue
        rows = [(t, 0, np.array([[10 + t + shift, 20], [40, 30], [5, 30]])) for t in range(10)]
        write_table(table_of(folder, clip.name), OWN, (64, 48), rows)
    return folder


def test_joints_of_ones_own_clips_reach_the_samples_where_the_pixels_are(tmp_path):
    data, folder = colours(), own_joints(tmp_path / "j", colours())
    config = preset("tiny", classes=3, fit="pad")
    p = Preprocess(size=config.size, resize=config.resize, fit="pad")
    augment = Augment(scale=(0.8, 1.0), rotate=5.0, flip=True)
    own = index("clips", data, joints=folder)
    samples = TrainingClips(
        own, ["blue", "green", "red"], FrameCache(tmp_path / "c", p), config, 4.0, augment, 0
    )
    mirrored = set()
    for i, clip in enumerate(own):
        for epoch in range(8):
            joints = samples[epoch, i]["joints"].numpy()
            if clip.label != "red":
                assert np.isnan(joints).all()  # no table: masked, and the pictures stay
                continue
            assert np.isnan(joints[:, 1]).all() and np.isnan(joints[:, 0, 3:]).all()
            known = joints[:, 0, :3][~np.isnan(joints[:, 0, 0, 0])]
            assert 3 <= len(known) < 8  # the table ends with frame 9 of 20
            # The left wrist is on the right; mirrored as well, where it is the one that was the right wrist.
            assert (known[:, 1, 0] > known[:, 2, 0]).all()
            mirrored.add(bool(known[-1, 0, 0] < known[0, 0, 0]))  # the nose walks to the right
    assert mirrored == {False, True}


def test_joints_are_those_of_the_frames_that_were_kept_and_unknown_from_the_tables_end_on(tmp_path):
    (clip,) = [
        c
        for c in index("clips", colours(), joints=own_joints(tmp_path / "j", colours()))
        if c.name.endswith("red0.mp4")
    ]
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72), max_fps=2.0)  # every second of them
    frames = cache.read(clip)
    assert frames.numbers.tolist() == list(range(0, 20, 2))
    found = joints_of(clip, frames, cache)
    assert found is not None
    # In frame t the nose is at (10 + t, 20) of 64 x 48; the table ends with frame 9.
    np.testing.assert_allclose(found[:5, 0, 0] * (64, 48), [(10 + t, 20) for t in range(0, 10, 2)], atol=1e-3)
    assert np.isnan(found[5:]).all()
    every = replace(cache, max_fps=1e9)
    known = ~np.isnan(joints_of(clip, every.read(clip), every)[:, 0, 0, 0])
    assert known.tolist() == [True] * 10 + [False] * 10


def test_the_last_joints_of_a_skeleton_stand_since_recorders_stop_apart(tmp_path):
    clip = index("ntu", ntu_people())[0]
    joints, size = clip.joints.read(clip.joints.file)
    short = replace(clip, joints=replace(clip.joints, read=lambda _: (joints[:5], size)))
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72))
    found = joints_of(short, cache.read(clip), cache)
    assert len(found) > 6 and not np.isnan(found[:, 0]).any()
    np.testing.assert_array_equal(found[5:], np.broadcast_to(found[4], found[5:].shape))


def test_what_moves_stands_for_joints_in_the_clips_that_have_none(tmp_path):
    clips = index("clips", colours(), joints=own_joints(tmp_path / "j", colours()))
    config = preset("tiny", classes=3)
    found = TrainingClips(
        clips, ["blue", "green", "red"], FrameCache(tmp_path / "c", Preprocess(size=64, resize=72)), config, 4.0,
        Augment(), 0, motion=True,
    )  # fmt: skip
    for i, clip in enumerate(clips):
        sample = found[0, i]
        known = ~torch.isnan(sample["moving"]).all()
        assert bool(known) == (clip.label != "red") == bool(torch.isnan(sample["joints"]).all())


def test_other_joints_of_the_same_clips_are_read_anew(tmp_path):
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72, fit="stretch"))
    found = []
    for name, shift in (("one", 0.0), ("two", 16.0)):
        folder = own_joints(tmp_path / name, colours(), shift)
        clip = next(c for c in index("clips", colours(), joints=folder) if c.label == "red")
        found.append(joints_of(clip, cache.read(clip), cache)[0, 0, 0])
    np.testing.assert_allclose(found, [[10 / 64, 20 / 48], [26 / 64, 20 / 48]], atol=1e-4)


def test_joints_that_do_not_fit_the_clips_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no joints of these clips.*gc-model joints"):
        index("clips", colours(), joints=tmp_path)
    folder = own_joints(tmp_path / "j", colours())
    write_table(table_of(folder, "blue/blue0.mp4"), ("nose",), (64, 48), [])
    with pytest.raises(DataError, match="has other joints than"):
        index("clips", colours(), joints=folder)
    with pytest.raises(DataError, match="--layout clips"):
        index("ntu", ntu_people(), joints=folder)


def test_ones_own_joints_switch_the_pose_and_glimpse_losses_on(tmp_path):
    o = TrainOptions(data=colours())
    assert o.loss_weights == (0.0, 0.0, 0.0)
    assert TrainOptions(data=colours(), joints=tmp_path).loss_weights == (
        o.pose_weight,
        o.glimpse_weight,
        1.0,
    )


def test_damaged_tables_of_ones_own_are_named_and_counted_before_anything_is_trained(tmp_path):
    folder = own_joints(tmp_path / "j", colours())
    tables = sorted(folder.rglob("*.joints.csv"))
    for table in tables[:2]:
        table.write_text(table.read_text() + "10,0,64,48,1\n")
    with pytest.raises(
        DataError, match=rf"{tables[0].name}:12: 1 coord.*\(2 of {len(tables)} tables of joints"
    ):
        index("clips", colours(), joints=folder)


def test_a_damaged_skeleton_is_named_in_the_log(tmp_path, caplog):
    data = tmp_path / "ntu"
    shutil.copytree(ntu_people(), data)
    skeleton = sorted((data / "nturgb+d_skeletons").glob("*P001*.skeleton"))[0]
    skeleton.write_text(skeleton.read_text()[:4000])
    found = samples(data, tmp_path / "cache")
    for i in range(2):
        found.beside((i, 0))
    assert caplog.text.count(f"no joints of a clip: {skeleton}") == 1


def test_what_an_earlier_reader_made_of_a_file_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72, fit="stretch"))
    folder = own_joints(tmp_path / "j", colours())
    clip = next(c for c in index("clips", colours(), joints=folder) if c.label == "red")
    monkeypatch.setattr("gc_model.data.joints._READERS", 1)
    nothing = replace(clip, joints=replace(clip.joints, read=lambda _: (np.zeros((0, 2, 25, 2)), np.ones(2))))
    assert np.isnan(joints_of(nothing, cache.read(clip), cache)).all()
    monkeypatch.undo()
    assert not np.isnan(joints_of(clip, cache.read(clip), cache)).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: bytes(len(whole)),
        lambda whole: whole[:600] + bytes([whole[600] ^ 255]) + whole[601:],
        lambda whole: bytes(n ^ 1 if k == whole.rfind(b"PK\1\2") + 8 else n for k, n in enumerate(whole)),
    ],
    ids=["empty", "half", "zeros", "a flipped byte", "as if encrypted"],
)
def test_damaged_joints_in_the_cache_are_read_again(tmp_path, damage):
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72, fit="stretch"))
    folder = own_joints(tmp_path / "j", colours())
    clip = next(c for c in index("clips", colours(), joints=folder) if c.label == "red")
    first = joints_of(clip, cache.read(clip), cache)
    (kept,) = (tmp_path / "c").glob("*.joints.npz")
    kept.write_bytes(damage(kept.read_bytes()))
    np.testing.assert_array_equal(joints_of(clip, cache.read(clip), cache), first)
    with np.load(kept) as stored:
        assert len(stored["joints"]) == 10 and list(stored["size"]) == [64, 48]
