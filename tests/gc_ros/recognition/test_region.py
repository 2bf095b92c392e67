# SPDX-License-Identifier: Apache-2.0
"""The square of a person: the same pixels as a crop that is given as an image, and glimpses back in the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.media.detections import Box
from gc_ros.media.images import Picture
from gc_ros.recognition.region import (
    Person,
    PersonPicture,
    between,
    hidden,
    misplaced,
    overlap,
    smooth,
    square,
)
from trt_build.bundle import Preprocess
from trt_build.errors import ImageError
from trt_build.preprocess import PAD_VALUE, glimpse_to_pixels, model_input

PIXELS = np.random.default_rng(0).integers(0, 255, (72, 96, 3), np.uint8)
places = st.floats(-200, 200, allow_nan=False)
sizes = st.floats(0.1, 120, allow_nan=False)
boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), places, places, sizes, sizes)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The square cut out, grey beyond the image."""
    x0, y0, x1, y1 = (int(v) for v in (box.x_min, box.y_min, box.x_max, box.y_max))
    out = np.full((y1 - y0, x1 - x0, 3), PAD_VALUE, np.uint8)
    for y in range(max(y0, 0), min(y1, image.shape[0])):
        for x in range(max(x0, 0), min(x1, image.shape[1])):
            out[y - y0, x - x0] = image[y, x]
    return out


@given(box=boxes, fit=st.sampled_from(["stretch", "square", "pad"]), bgr=st.booleans())
def test_the_region_is_the_crop_given_as_an_image_bit_for_bit(box: Box, fit: str, bgr: bool) -> None:
    p = Preprocess(size=28, resize=32, fit=fit)
    person = Person("a", box, square(box))
    found = PersonPicture(Picture.of(PIXELS, bgr), person).prepared(p)
    np.testing.assert_array_equal(found, model_input(cut(PIXELS, person.region), p, bgr=bgr))


@given(box=boxes, margin=st.floats(0, 1))
def test_a_square_holds_its_box_and_margin_to_within_a_pixel(box: Box, margin: float) -> None:
    found = square(box, margin)
    side = found.x_max - found.x_min
    longer = max(box.x_max - box.x_min, box.y_max - box.y_min)
    assert side == found.y_max - found.y_min >= 1
    assert side == pytest.approx((1 + 2 * margin) * longer, abs=1)
    assert (found.x_min + found.x_max) / 2 == pytest.approx((box.x_min + box.x_max) / 2, abs=0.51)
    assert (found.y_min + found.y_max) / 2 == pytest.approx((box.y_min + box.y_max) / 2, abs=0.51)
    assert all(float(v).is_integer() for v in (found.x_min, found.y_min, found.x_max, found.y_max))


@given(box=boxes, x=st.floats(-1, 1), y=st.floats(-1, 1))
def test_a_glimpse_is_where_it_would_be_in_the_crop_shifted_to_its_place(
    box: Box, x: float, y: float
) -> None:
    p, region = Preprocess(size=28, resize=32), square(box)
    side, glimpse = int(region.x_max - region.x_min), [[x, y, 0.2, 0.3]]
    area = Person("a", box, region).area
    alone = glimpse_to_pixels(glimpse, side, side, p) + np.array([region.x_min, region.y_min] * 2)
    # In the crop it is clipped to the crop, in the image to the image.
    there = glimpse_to_pixels(glimpse, 96, 72, p, area)
    low, high = np.zeros(4), np.array([96, 72, 96, 72])
    inside = np.clip(there, [*region_low(region)], [*region_high(region)])
    np.testing.assert_allclose(np.clip(inside, low, high), np.clip(alone, low, high), atol=1e-9)


def region_low(region: Box) -> list[float]:
    return [region.x_min, region.y_min] * 2


def region_high(region: Box) -> list[float]:
    return [region.x_max, region.y_max] * 2


def test_a_picture_is_decoded_once_for_everybody_in_it() -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return PIXELS

    whole = Picture(96, 72, True, make)
    for x in (0, 30):
        box = Box(x, 0, x + 30, 60)
        PersonPicture(whole, Person(str(x), box, square(box))).prepared(Preprocess())
    assert made == [1]


def test_an_area_that_is_no_square_is_refused() -> None:
    with pytest.raises(ImageError, match="no square"):
        model_input(PIXELS, Preprocess(), bgr=True, area=(0, 0, 10, 20))


@pytest.mark.parametrize(
    ("box", "why"),
    [
        (Box(10, 10, 30, 60), ""),
        (Box(-20, 10, 10, 90), ""),
        (Box(97, 0, 120, 50), "box outside the image"),
        (Box(96, 0, 120, 50), "box outside the image"),
        (Box(0, -50, 40, 0), "box outside the image"),
        (Box(-1e6, -1e6, 1e6, 1e6), "box larger than the image"),
        (Box(-40, -40, 120, 120), "box larger than the image"),  # with its margin
        (Box(-30, -30, 110, 110), ""),
    ],
)
def test_boxes_that_cannot_be_of_this_image(box: Box, why: str) -> None:
    assert misplaced(box, 96, 72, 0.15) == why


def test_who_is_hidden_is_so_by_the_share_of_the_own_box() -> None:
    small, large = Box(0, 0, 20, 40), Box(10, -50, 90, 110)
    assert hidden(small, [Box(500, 0, 520, 40), large]) and not hidden(large, [small])
    assert not hidden(small, [Box(16, 0, 90, 110)]) and not hidden(small, [])


@given(a=boxes, b=boxes)
def test_overlap_is_symmetrical_and_one_with_itself(a: Box, b: Box) -> None:
    assert overlap(a, b) == pytest.approx(overlap(b, a))
    assert 0 <= overlap(a, b) <= 1 + 1e-9
    assert overlap(a, a) == pytest.approx(1)


def test_smoothing_goes_by_time_and_keeps_up_with_who_walks() -> None:
    start, end = Box(0, 0, 10, 20), Box(100, 0, 130, 40)
    once = smooth(start, end, 0.2)
    twice = smooth(smooth(start, end, 0.1), end, 0.1)
    assert once.x_min == pytest.approx(twice.x_min) and once.y_max == pytest.approx(twice.y_max)
    assert (once.x_min + once.x_max) / 2 == pytest.approx(115)
    assert 10 < once.x_max - once.x_min < 30 and 20 < once.y_max - once.y_min < 40
    assert smooth(start, end, 0.2, tau_s=0) == end
    assert between(start, end, 0) == start and between(start, end, 1) == end
