# SPDX-License-Identifier: Apache-2.0
"""One crop and one resize must be what the paper's resize-then-crop is, and boxes must come back to their pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_build.bundle import Preprocess
from trt_build.errors import ImageError
from trt_build.preprocess import PAD_VALUE, glimpse_to_pixels, model_input, region

PAPER = Preprocess()
SIZES = st.integers(1, 700)
FITS = st.sampled_from(["stretch", "square", "pad"])


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(image: np.ndarray, p: Preprocess = PAPER) -> np.ndarray:
    """The textbook form: resize all of the image, then crop the centre."""
    edge = (p.resize - p.size) // 2
    return cv2.resize(image, (p.resize, p.resize))[edge : edge + p.size, edge : edge + p.size]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720)])
def test_one_pass_is_bit_equal_to_resize_then_crop(width: int, height: int) -> None:
    image = noise(width, height)
    assert np.array_equal(model_input(image, PAPER, bgr=False), plain(image))
    assert np.array_equal(model_input(image, PAPER, bgr=True), plain(image)[..., ::-1])


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (341, 257), (180, 320)])
def test_one_pass_is_near_resize_then_crop_where_the_crop_is_rounded(width: int, height: int) -> None:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    image = np.stack([127 + 127 * np.sin(20 * x + k * y) for k in (5, 12, 30)], -1).astype(np.uint8)
    error = np.abs(model_input(image, PAPER, bgr=False).astype(int) - plain(image))
    assert error.mean() < 2


def test_square_is_the_central_square_then_the_same() -> None:
    image = noise(640, 512)
    p = Preprocess(fit="square")
    assert np.array_equal(model_input(image, p, bgr=False), plain(image[:, 64:576]))
    assert region(640, 512, p) == (64 + 32, 32, 640 - 64 - 32, 480)


@pytest.mark.parametrize("turned", [False, True])
def test_pad_is_a_padded_square_then_the_same(turned: bool) -> None:
    image = noise(640, 480)
    square = np.full((640, 640, 3), PAD_VALUE, np.uint8)
    square[80:560] = image
    if turned:
        image, square = image.transpose(1, 0, 2), square.transpose(1, 0, 2)
    got, want = model_input(image, Preprocess(fit="pad"), bgr=False), plain(square)
    if turned:
        got, want = got.transpose(1, 0, 2), want.transpose(1, 0, 2)
    # Only the two rows at the seam may differ: there the plain form blends image and padding.
    assert np.array_equal(got[18:206], want[18:206])
    assert np.array_equal(got[:15], want[:15]) and (got[:15] == PAD_VALUE).all()


@given(SIZES, SIZES, FITS, st.booleans())
def test_any_size_gives_contiguous_rgb_of_its_own(width: int, height: int, fit: str, bgr: bool) -> None:
    image = np.full((height, width, 3), (10, 20, 30), np.uint8)
    before = image.copy()
    out = model_input(image, Preprocess(size=28, resize=32, fit=fit), bgr=bgr)  # type: ignore[arg-type]
    assert out.shape == (28, 28, 3) and out.dtype == np.uint8 and out.flags.c_contiguous and out.flags.owndata
    assert out[14, 14].tolist() == ([30, 20, 10] if bgr else [10, 20, 30])
    assert np.array_equal(image, before)


def test_without_a_border_or_scaling_the_image_passes_through_unshared() -> None:
    image = noise(32, 32)
    out = model_input(image, Preprocess(size=32, resize=32), bgr=False)
    assert np.array_equal(out, image) and not np.shares_memory(out, image)


def test_padded_rows_and_mirrored_views_are_read_right() -> None:
    wide = noise(700, 480)
    view = wide[:, :640]
    assert np.array_equal(model_input(view, PAPER, bgr=True), model_input(view.copy(), PAPER, bgr=True))
    mirrored = wide[:, ::-1]
    assert np.array_equal(
        model_input(mirrored, PAPER, bgr=True), model_input(mirrored.copy(), PAPER, bgr=True)
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        None,
    ],
)
def test_anything_but_a_colour_image_is_an_image_error(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        model_input(image, PAPER, bgr=False)


def test_glimpses_map_to_the_pixels_they_cover() -> None:
    boxes = glimpse_to_pixels([[0, 0, 1, 1], [-0.5, 0.5, 0.25, 0.5], [9, 9, 0.1, 0.1]], 640, 480, PAPER)
    assert boxes[0].tolist() == [40, 30, 600, 450]
    assert boxes[1].tolist() == [110, 240, 250, 450]
    assert boxes[2].tolist() == [640, 480, 640, 480]  # outside: empty, on the border


@given(
    st.integers(64, 700),
    st.integers(64, 700),
    FITS,
    st.floats(-0.7, 0.7),
    st.floats(-0.7, 0.7),
    st.floats(0.1, 0.25),
    st.floats(0.1, 0.25),
)
def test_a_box_in_the_image_is_found_where_its_glimpse_says(
    width: int, height: int, fit: str, x: float, y: float, sx: float, sy: float
) -> None:
    """Paint the box that a glimpse maps to, prepare the image, and find the paint where the glimpse is."""
    p = Preprocess(size=112, resize=128, fit=fit)  # type: ignore[arg-type]
    (x0, y0, x1, y1) = glimpse_to_pixels([x, y, sx, sy], width, height, p)
    image = np.zeros((height, width, 3), np.uint8)
    c0, r0, c1, r1 = (round(v) for v in (x0, y0, x1, y1))
    if c1 - c0 < 3 or r1 - r0 < 3:  # clipped away by a long image's padding
        return
    image[r0:r1, c0:c1] = 255
    seen = np.argwhere(model_input(image, p, bgr=False)[..., 0] > 127)
    full = region(width, height, p)
    if fit == "pad" and (full[0] < 0 or full[1] < 0):
        top = ((y0 - full[1]) / (full[3] - full[1]), (y1 - full[1]) / (full[3] - full[1]))
        left = ((x0 - full[0]) / (full[2] - full[0]), (x1 - full[0]) / (full[2] - full[0]))
    else:
        top, left = ((y - sy + 1) / 2, (y + sy + 1) / 2), ((x - sx + 1) / 2, (x + sx + 1) / 2)
    want = 112 * np.array([top, left])
    # Rounding of the crop and of the painted box: a pixel of each raster at most.
    slack = 1.5 + 112 * 1.5 / min(full[2] - full[0], full[3] - full[1])
    assert np.allclose(seen.min(axis=0), want[:, 0], atol=slack)
    assert np.allclose(seen.max(axis=0) + 1, want[:, 1], atol=slack)


@pytest.mark.parametrize("area", [(0, 0, 20, 30), (5, 5, 5, 5), (9, 9, 3, 3)])
def test_an_area_that_is_no_square_is_an_image_error(area: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageError, match="is no square"):
        model_input(noise(64, 48), PAPER, bgr=False, area=area)
    with pytest.raises(ImageError, match="is no square"):
        glimpse_to_pixels([0, 0, 1, 1], 64, 48, PAPER, area)
