# SPDX-License-Identifier: Apache-2.0
"""The picture of people is drawn for every kind of box on every size of image; how it looks was judged by eye."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.detections import Box
from gc_ros.recognition.palette import GLIMPSE_COLOURS, PERSON_COLOURS, person_colour
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.people_overlay import draw_people
from gc_ros.recognition.recognizer import Activity, Glimpse
from tests.gc_ros.recognition.pictures import near, result_of
from trt_build.bundle import LoadedBundle
from trt_build.errors import ImageError


@pytest.fixture(scope="module")
def activity(numbers: LoadedBundle) -> Activity:
    return result_of(numbers)


def test_a_person_is_framed_in_his_colour_and_his_glimpses_in_theirs(activity: Activity) -> None:
    looked = [Glimpse(120, 220, 160, 300, (0.5, 0.5)), Glimpse(170, 120, 190, 180, (0.5, 0.5))]
    person = PersonActivity("7", Box(100, 100, 220, 400), dataclasses.replace(activity, glimpses=looked))
    picture = draw_people(np.zeros((480, 640, 3), np.uint8), [person], activity)
    assert picture.shape == (480, 960, 3) and picture.dtype == np.uint8
    rows, columns = near(picture[104:, :640], person_colour("7")).T  # below the tag
    assert abs(columns.min() - 100) <= 3 and abs(columns.max() - 220) <= 3 and abs(rows.max() - 296) <= 3
    for g, glimpse in enumerate(looked):
        rows, columns = near(picture[:, :640], GLIMPSE_COLOURS[g]).T
        assert abs(columns.min() - glimpse.x0) <= 3 and abs(rows.max() - glimpse.y1) <= 3


def test_colours_of_people_depend_on_the_id_alone_and_none_is_that_of_a_glimpse() -> None:
    assert person_colour("7") == person_colour("7")
    assert len({person_colour(str(i)) for i in range(40)}) == len(PERSON_COLOURS)
    for a in PERSON_COLOURS:
        assert all(np.abs(np.subtract(a, b)).max() >= 50 for b in GLIMPSE_COLOURS)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.floats(-1e7, 1e7, width=32)] * 2, *[st.floats(0.5, 1e6, width=32)] * 2), max_size=12
    ),
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    who=st.text(min_size=1, max_size=128),
)
def test_any_box_any_id_and_any_image_is_drawn(
    activity: Activity, boxes: list[tuple[float, ...]], size: tuple[int, int], who: str
) -> None:
    people = [
        PersonActivity(f"{i}{who}"[:128], Box(x, y, min(x + w, 1e7), min(y + h, 1e7)), activity)
        for i, (x, y, w, h) in enumerate(boxes)
        if x + w <= 1e7 and y + h <= 1e7
    ]
    picture = draw_people(np.full((*size, 3), 90, np.uint8), people)
    assert picture.ndim == 3 and picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0


def test_an_unusable_image_is_refused() -> None:
    with pytest.raises(ImageError):
        draw_people(np.zeros((0, 4, 3), np.uint8), [])
