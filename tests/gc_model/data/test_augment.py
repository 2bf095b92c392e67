# SPDX-License-Identifier: Apache-2.0
"""Augmentation: the geometry of its map, what `paper()` leaves out, one draw a clip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_model.data.augment import Augment
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
        augment = Augment(scale=(1.0, 1.0), rotate=0.0, flip=False, blur=0.0, colour=0.05, grey=chance)
        spread = []
        for seed in range(60):
            out = augment(ramp(1, 72), 64, np.random.default_rng(seed)).astype(int)
            spread.append(np.ptp(out, axis=-1).max() < 12)
        assert abs(np.mean(spread) - chance) < 0.2
