# SPDX-License-Identifier: Apache-2.0
"""The overlay draws every kind of result on every size of image; how it looks was judged by eye."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.recognition.overlay import Banner, draw
from gc_ros.recognition.palette import GLIMPSE_COLOURS
from gc_ros.recognition.recognizer import Activity, Glimpse
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from tests.gc_ros.recognition.pictures import near, result_of
from trt_build.bundle import LoadedBundle
from trt_build.errors import ImageError


@pytest.fixture(scope="module")
def activity(numbers: LoadedBundle) -> Activity:
    return result_of(numbers)


def test_each_glimpse_is_framed_in_its_colour_where_it_looks(activity: Activity) -> None:
    picture = draw(np.zeros((480, 640, 3), np.uint8), activity)
    assert picture.shape == (480, 960, 3) and picture.dtype == np.uint8
    for g, glimpse in enumerate(activity.glimpses):
        rows, columns = near(picture[:, :640], GLIMPSE_COLOURS[g]).T
        # Later frames may lie over parts of earlier ones, never over all four sides' middles.
        assert abs(columns.min() - glimpse.x0) <= 3 and abs(rows.min() - glimpse.y0) <= 3
        assert abs(columns.max() - glimpse.x1) <= 3 and abs(rows.max() - glimpse.y1) <= 3


@pytest.mark.parametrize(("x0", "x1"), [(20, 600), (560, 640)])
def test_glimpses_that_lie_on_one_another_keep_their_tags_apart(activity: Activity, x0: int, x1: int) -> None:
    same = [dataclasses.replace(g, x0=x0, y0=100, x1=x1, y1=300) for g in activity.glimpses]
    picture = draw(np.zeros((480, 640, 3), np.uint8), dataclasses.replace(activity, glimpses=same))
    for colour in GLIMPSE_COLOURS[:3]:
        tag = near(picture[100:122, :640], colour)
        assert len(tag) > 0.6 * 22 * 66, "another tag lies over this one"


def test_outside_the_glimpses_the_image_is_dimmed_and_inside_it_is_seen(activity: Activity) -> None:
    picture = draw(np.full((480, 640, 3), 200, np.uint8), activity)
    box = activity.glimpses[0]
    assert picture[470, 10].max() < 150
    assert picture[int(box.y1) - 12, int(box.x0) + 12].mean() > 160


def test_boxes_follow_when_the_image_has_another_size(activity: Activity) -> None:
    large = draw(np.zeros((480, 640, 3), np.uint8), activity)
    small = draw(np.zeros((240, 320, 3), np.uint8), activity)
    assert small.shape == large.shape
    assert np.abs(small[:, :640].astype(int) - large[:, :640]).mean() < 1


@settings(max_examples=15)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_any_image_any_number_of_glimpses_workers_and_labels(
    activity: Activity, width: int, height: int, G: int, C: int, k: int
) -> None:
    result = dataclasses.replace(
        activity,
        width=width,
        height=height,
        glimpses=[Glimpse(0.1 * g * width, 0, width, height / (g + 1), (1 / G,) * C) for g in range(G)],
        top_k=[("labél " * 9, i, 1.2 - 0.2 * i) for i in range(k)],
        label="Ärger 行動",
        status="unknown" if k % 2 else "late",
    )
    event = ActivityEvent("onset", "Ärger 行動 " * 5, 0, 0, 0.7)
    picture = draw(np.full((height, width, 3), 90, np.uint8), result, event=event)
    assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0 and 480 <= picture.shape[0] <= 720


def test_before_the_first_result_it_says_how_far_the_window_is() -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    pictures = [draw(image, None, warmup=(n, 8)) for n in (0, 3, 8)] + [draw(image, None)]
    assert all(np.array_equal(p[:, :640], image) for p in pictures)
    assert all(not np.array_equal(a, b) for a, b in pairwise(pictures))


def test_the_input_image_is_left_alone_and_a_wrong_one_refused(activity: Activity) -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    draw(image, activity)
    assert (image == 90).all()
    with pytest.raises(ImageError):
        draw(np.zeros((4, 4), np.uint8), activity)


def test_a_given_assignment_replaces_the_activities_own(
    activity: Activity, make_bundle: Callable[..., Any]
) -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    other = draw(image, activity, np.eye(3)[::-1])
    assert not np.array_equal(other, draw(image, activity))
    assert np.array_equal(draw(image, activity, activity.assignment), draw(image, activity))


def test_an_event_is_announced_over_the_foot_of_the_picture_and_onset_and_offset_differ(
    activity: Activity,
) -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    plain = draw(image, activity)
    began, ended = (
        draw(image, activity, event=ActivityEvent(kind, "drink", 1, 0, 0.8)) for kind in ("onset", "offset")
    )
    for picture in (began, ended):
        changed = np.argwhere((picture != plain).any(axis=-1))
        assert changed[:, 0].min() > 400 and changed[:, 1].max() < 640  # only there, and not on the panel
        assert len(changed) > 640 * 40
    assert len(near(began, GLIMPSE_COLOURS[1])) > len(near(ended, GLIMPSE_COLOURS[1]))


def test_the_banner_shows_the_newest_event_for_two_seconds_of_the_stream() -> None:
    onset, offset = ActivityEvent("onset", "b", 1, 0, 0.8), ActivityEvent("offset", "a", 0, 0, 0.2)
    banner = Banner()
    assert banner.at(0) is None
    banner.add([offset, onset], 5 * NS)  # one gives way to the other: what began is the news
    banner.add([], 6 * NS)
    assert [banner.at(round(t * NS)) for t in (4.9, 5, 6.9, 7)] == [None, onset, onset, None]
    banner.add([offset], 8 * NS)
    assert banner.at(8 * NS) is offset
    assert banner.at(1 * NS) is None  # a bag that loops


def test_a_glimpse_is_the_more_visible_the_more_the_workers_take_from_it(activity: Activity) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    mostly_first, mostly_last = np.full((3, 3), 0.05), np.full((3, 3), 0.05)
    mostly_first[:, 0] = mostly_last[:, 2] = 0.9
    much = near(draw(image, activity, mostly_first)[:, :640], GLIMPSE_COLOURS[0])
    little = near(draw(image, activity, mostly_last)[:, :640], GLIMPSE_COLOURS[0])
    assert len(much) > 2 * len(little)
