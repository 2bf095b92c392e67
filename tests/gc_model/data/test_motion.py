# SPDX-License-Identifier: Apache-2.0
"""What moves in a clip, by squares whose way is known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gc_model.data.motion import PLACES, moving_places


def clip(positions: list[tuple[int, int]], side: int = 40, R: int = 256, noise: int = 0) -> np.ndarray:
    """A bright square at (x, y) of each frame before a grey wall."""
    rng = np.random.default_rng(0)
    images = np.full((len(positions), R, R, 3), 90, np.uint8)
    for image, (x, y) in zip(images, positions, strict=True):
        image[y : y + side, x : x + side] = 220
    if noise:
        images = np.clip(images + rng.integers(-noise, noise + 1, images.shape), 0, 255).astype(np.uint8)
    return images


def test_nothing_moves_in_a_still_clip_not_even_with_the_noise_of_a_camera():
    assert np.isnan(moving_places(clip([(100, 100)] * 8))).all()
    assert np.isnan(moving_places(clip([(100, 100)] * 8, noise=8))).all()


def test_one_frame_has_no_motion():
    assert np.isnan(moving_places(clip([(100, 100)]))).all()


@given(st.integers(0, 150), st.integers(0, 200), st.integers(6, 14))
def test_the_places_lie_on_the_way_of_what_moves(x: int, y: int, step: int):
    """Within the square's way of two neighbouring steps, half a cell beyond."""
    positions = [(x + step * (t % 5), y) for t in range(5)]
    places = moving_places(clip(positions))
    assert places.shape == (5, PLACES, 2)
    known = places[~np.isnan(places).any(-1)] * 256
    assert len(known)
    assert (known[:, 0] >= x - 12).all() and (known[:, 0] <= x + 4 * step + 40 + 12).all()
    assert (known[:, 1] >= y - 12).all() and (known[:, 1] <= y + 40 + 12).all()


def test_of_two_things_the_one_that_moves_is_found():
    images = clip([(20 + 10 * t, 180) for t in range(6)])
    images[:, 20:70, 180:230] = 250
    known = moving_places(images)
    known = known[~np.isnan(known).any(-1)]
    assert (known[:, 1] > 0.6).all()


def test_light_that_changes_everywhere_is_no_motion():
    images = np.stack([np.full((256, 256, 3), 60 + 15 * t, np.uint8) for t in range(6)])
    assert np.isnan(moving_places(images)).all()


def test_a_change_counts_for_the_frame_before_and_the_frame_after_it():
    known = ~np.isnan(moving_places(clip([(40, 100)] * 3 + [(160, 100)] * 3))).any((1, 2))
    assert known.tolist() == [False, False, True, True, False, False]


def test_what_moves_a_quarter_as_strongly_as_the_strongest_is_no_place():
    images = clip([(16 + 32 * t, 176) for t in range(6)], side=16)  # few cells
    alone = moving_places(images)
    images[:, :64] = 90 + 12 * (np.arange(6) % 2)[:, None, None, None]  # a lamp that flickers
    assert np.isnan(alone).any(-1).sum() > 6
    assert np.array_equal(moving_places(images), alone, equal_nan=True)
    lamp = clip([(20, 180)] * 6)
    lamp[:, :64] = images[:, :64]
    places = moving_places(lamp)  # by itself it is what moves
    assert (places[~np.isnan(places).any(-1)][:, 1] < 0.3).all() and not np.isnan(places).all()
