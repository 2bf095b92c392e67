# SPDX-License-Identifier: Apache-2.0
"""Augmentation: the geometry of its map, what `paper()` leaves out, one draw a clip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_model.data.augment import Augment, BoxAugment
from trt_build.preprocess import PAD_VALUE

PLAIN = {"rotate": 0.0, "flip": False, "colour": 0.0, "blur": 0.0}
seeds = st.integers(0, 2**32 - 1)


def frames(T: int = 3, R: int = 72, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (T, R, R, 3), dtype=np.uint8)


def ramp(T: int, R: int) -> np.ndarray:
    """Red grows with x, green with y, blue is 200: where a pixel came from can be read off it."""
    image = np.zeros((R, R, 3), np.uint8)
    image[..., 0] = np.arange(R)[None]
    image[..., 1] = np.arange(R)[:, None]
    image[..., 2] = 200
    return np.repeat(image[None], T, 0)


@given(seeds)
def test_the_papers_augmentation_is_a_shifted_crop_and_nothing_else(seed):
    out = Augment.paper(64, 72)(ramp(2, 72), 64, np.random.default_rng(seed)).astype(int)
    x0, y0 = out[0, 0, 0, 0], out[0, 0, 0, 1]
    assert 0 <= x0 <= 8 and 0 <= y0 <= 8
    assert np.abs(out[..., 0] - (x0 + np.arange(64))).max() <= 1
    assert np.abs(out[..., 1] - (y0 + np.arange(64)[:, None])).max() <= 1
    assert (out[..., 2] == 200).all()


def test_the_papers_crop_reaches_every_corner():
    rng = np.random.default_rng(0)
    corners = np.array([Augment.paper(64, 72)(ramp(1, 72), 64, rng)[0, 0, 0, :2] for _ in range(200)])
    assert corners.min(0).max() <= 1 and corners.max(0).min() >= 7


def test_a_crop_of_the_whole_frame_at_its_own_size_is_the_frame():
    clip = frames(R=64)
    assert np.array_equal(Augment(scale=(1, 1), **PLAIN)(clip, 64, np.random.default_rng(0)), clip)


def test_a_mirrored_whole_frame_is_the_frame_mirrored():
    clip = frames(R=64)
    augment = Augment(scale=(1, 1), **(PLAIN | {"flip": True}))
    outs = [augment(clip, 64, np.random.default_rng(seed)) for seed in range(40)]
    mirrored = [np.array_equal(out, clip[:, :, ::-1]) for out in outs]
    assert all(m or np.array_equal(out, clip) for m, out in zip(mirrored, outs, strict=True))
    assert 8 < sum(mirrored) < 32


@given(st.floats(0.5, 1.5), seeds)
def test_the_crops_corners_go_to_the_corners_of_the_input(scale, seed):
    R, size = 72, 64
    matrix = Augment(scale=(scale, scale), **PLAIN).matrix(R, size, np.random.default_rng(seed))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    # Outer edges of the input, in cv2's coordinates, whose pixel centres are integers.
    (x0, y0), (x1, y1) = (inverse @ [-0.5, -0.5, 1])[:2], (inverse @ [size - 0.5, size - 0.5, 1])[:2]
    assert np.allclose([x1 - x0, y1 - y0], R * scale)
    edges = np.sort([[-0.5, x0], [-0.5, y0], [x1, R - 0.5], [y1, R - 0.5]], 1)
    low, high = np.array([x0, y0]), np.array([x1, y1])
    inside, around = (low > -0.5 - 1e-6) & (high < R - 0.5 + 1e-6), (low < 1e-6) & (high > R - 1 - 1e-6)
    assert (inside | around).all(), edges


@given(seeds)
def test_rotation_keeps_sizes_and_its_angle_in_bounds(seed):
    augment = Augment(scale=(0.8, 0.8), **(PLAIN | {"rotate": 10.0}))
    linear = augment.matrix(72, 64, np.random.default_rng(seed))[:, :2]
    zoom = 64 / (72 * 0.8)
    assert np.allclose(linear @ linear.T, np.eye(2) * zoom**2) and np.linalg.det(linear) > 0
    assert abs(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))) <= 10


def test_the_same_draw_gives_the_same_clip_and_another_a_different_one():
    clip = frames()
    one, same, other = (Augment()(clip, 64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@given(seeds)
def test_all_frames_of_a_clip_are_changed_alike(seed):
    still = np.repeat(frames(T=1), 4, 0)
    out = Augment()(still, 64, np.random.default_rng(seed))
    assert out.shape == (4, 64, 64, 3) and out.dtype == np.uint8
    assert (out == out[:1]).all()


@pytest.mark.parametrize("value", [0, 255])
def test_colour_changes_saturate_and_never_wrap_around(value):
    clip = np.full((2, 72, 72, 3), value, np.uint8)
    augment = Augment(scale=(0.8, 0.8), colour=0.4, blur=0.0)
    for seed in range(50):
        out = augment(clip, 64, np.random.default_rng(seed)).astype(int)
        assert np.ptp(out, axis=(0, 1, 2)).max() <= 124 + 131  # at most the border's grey beside the colour
        middle = out[:, 30:34, 30:34]
        assert (np.ptp(middle, axis=(0, 1, 2)) == 0).all()
        assert abs(int(middle[0, 0, 0].mean()) - value) < 130


def test_the_source_frames_are_left_alone():
    clip = frames()
    before = clip.copy()
    clip.flags.writeable = False
    Augment(blur=1.0)(clip, 64, np.random.default_rng(3))
    assert np.array_equal(clip, before)


@given(seeds)
def test_an_erased_box_is_grey_in_all_frames_and_no_larger_than_a_fifth(seed):
    whole = Augment(scale=(1.0, 1.0), **PLAIN)(ramp(3, 72), 64, np.random.default_rng(seed))
    cut = Augment(scale=(1.0, 1.0), erase=1.0, **PLAIN)(ramp(3, 72), 64, np.random.default_rng(seed))
    changed = (whole != cut).any(-1)
    assert (cut[changed] == PAD_VALUE).all() and (changed == changed[:1]).all()
    assert 0.01 < changed[0].mean() < 0.23
    rows, columns = np.nonzero(changed[0])
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert changed[0].sum() >= 0.9 * box  # a pixel that was grey before has not changed


def test_grey_takes_the_colour_of_as_many_clips_as_it_says():
    for chance in (0.0, 0.5, 1.0):
        augment = Augment(scale=(1.0, 1.0), rotate=0.0, flip=False, blur=0.0, colour=0.4, grey=chance)
        without = []
        for seed in range(60):
            out = augment(ramp(1, 72), 64, np.random.default_rng(seed)).astype(int)
            # Not even a tint is left.
            without.append(np.ptp(out, axis=-1).max() == 0)
        assert abs(np.mean(without) - chance) < 0.2


def test_rotation_goes_both_ways_as_far_as_it_may():
    augment, rng = Augment(scale=(0.8, 0.8), **(PLAIN | {"rotate": 10.0})), np.random.default_rng(0)
    linear = [augment.matrix(72, 64, rng)[:, 0] for _ in range(300)]
    angles = np.rad2deg([np.arctan2(y, x) for x, y in linear])
    assert angles.min() < -9 and angles.max() > 9 and abs(angles.mean()) < 1


def test_what_lies_beyond_the_frame_is_as_grey_as_on_the_robot():
    out = Augment(scale=(1.5, 1.5), **PLAIN)(ramp(1, 72), 64, np.random.default_rng(0))[0]
    assert (out[0] == PAD_VALUE).all() or (out[-1] == PAD_VALUE).all()
    assert not ((out == 0).all(-1)).any()


def test_as_many_clips_are_blurred_as_the_chance_says():
    sharp = []
    for seed in range(200):
        augment = Augment(scale=(1.0, 1.0), **(PLAIN | {"blur": 0.3}))
        sharp.append(augment(frames(T=1), 72, np.random.default_rng(seed)).std() > 60)
    assert np.mean(sharp) == pytest.approx(0.7, abs=0.1)


def test_contrast_turns_about_the_middle_grey():
    slopes, offsets = [], []
    for seed in range(300):
        augment = Augment(scale=(1.0, 1.0), **(PLAIN | {"colour": 0.4}))
        low, high = (
            augment(np.full((1, 64, 64, 3), v, np.uint8), 64, np.random.default_rng(seed)).mean()
            for v in (60, 100)
        )
        slopes.append((high - low) / 40)
        offsets.append(low - 60 * slopes[-1])
    # More contrast is darker darks. Gain and brightness, which are drawn apart, hide some of it.
    assert np.corrcoef(slopes, offsets)[0, 1] < -0.2
    assert np.mean(offsets) == pytest.approx(0, abs=5) and np.exp(np.mean(np.log(slopes))) == pytest.approx(
        1, abs=0.05
    )


def test_boxes_err_in_place_and_size_by_the_deviation_and_miss_by_the_chance():
    n, R = 2000, 64
    times, still = np.arange(n) / 4, np.tile([0.2, 0.3, 0.6, 0.7], (n, 1))
    erring = BoxAugment(1.0, 1.0, jitter=0.05, drop=0.0)
    maps = erring.maps(times, still, np.arange(n), R, np.random.default_rng(0))
    zoom = 1 / maps[:, [0, 1], [0, 1]]
    assert (zoom[:, 0] == pytest.approx(zoom[:, 1])) and np.log(zoom[:, 0]).std() == pytest.approx(
        0.05, rel=0.1
    )
    middle = (maps[:, :, :2] @ np.full(2, (R - 1) / 2) + maps[:, :, 2] + 0.5) / R
    shift = (0.5 - middle) * zoom
    assert shift.std(0) == pytest.approx([0.05, 0.05], rel=0.1) and np.abs(shift.mean(0)).max() < 0.01
    walking = still + np.arange(n)[:, None] * 0.01
    missed = BoxAugment(1.0, 1.0, jitter=0.0, drop=0.25).maps(
        times, walking, np.arange(n), R, np.random.default_rng(0)
    )
    # The age is even up to half a second: half of what was missed is less than a picture old, so the same.
    assert (np.abs(missed[:, 0, 2]) > 1e-6).mean() == pytest.approx(0.25 / 2, abs=0.03)


def test_a_box_that_is_missed_keeps_the_corner_that_both_boxes_share():
    times, sides = np.arange(40) / 8, np.linspace(0.2, 0.6, 40)
    growing = np.stack([np.full(40, 0.2), np.full(40, 0.3), 0.2 + sides, 0.3 + sides], 1)
    maps = BoxAugment(1.0, 1.0, jitter=0.0, drop=1.0).maps(
        times, growing, np.arange(40), 64, np.random.default_rng(0)
    )
    assert maps[:, 0, 0].max() > 1.02  # of the smaller box of before
    # The edge of a pixel.
    np.testing.assert_allclose(maps @ [-0.5, -0.5, 1], np.full((40, 2), -0.5), atol=1e-9)
