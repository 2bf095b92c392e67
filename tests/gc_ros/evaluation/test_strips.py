# SPDX-License-Identifier: Apache-2.0
"""Which windows are kept as pictures: the worst, each of another moment."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.evaluation.sources import Frame
from gc_ros.evaluation.strips import Strips
from gc_ros.media.images import Picture
from trt_build.bundle import LoadedBundle

PERIOD = 125_000_000
T = 8
GLIMPSES = [np.zeros((3, 4), np.float32)] * T


class Bag:
    """A window of T frames ends with every frame but the first T - 1 of a pass.

    Grey level: number of the frame, and 100 more in each pass.
    """

    def __init__(self, colours: LoadedBundle, count: int) -> None:
        self.strips, self.number = Strips(count, colours.info), 0
        self.passed: list[tuple[int, int]] = []  # (pass, last frame) of each window
        self.turn = 0

    def play(self, badness: list[float]) -> None:
        for i in range(len(badness) + T - 1):
            image = np.full((48, 64, 3), i + 100 * self.turn, np.uint8)
            self.strips.see(Frame(i * PERIOD, i * PERIOD, Picture.of(image, True), "bgr8"))
            if i >= T - 1:
                start, end = (i - T + 1) * PERIOD, i * PERIOD
                self.strips.consider(badness[i - T + 1], self.number, self.turn, start, end, GLIMPSES)
                self.passed.append((self.turn, i))
                self.number += 1
        self.turn += 1


def level_of(picture: str) -> float:
    """Grey level of a picture of a strip, beside its glimpses."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
    return float(image[1, 1].mean())


def test_of_windows_that_overlap_the_worst_alone_is_kept_and_its_own_frames_are_shown(
    colours: LoadedBundle,
) -> None:
    bag = Bag(colours, 3)
    badness = [0.1] * 40
    badness[10], badness[12], badness[20], badness[33] = 0.7, 0.9, 0.8, 0.3
    bag.play(badness)
    worst = bag.strips.worst()
    assert [strip["n"] for strip in worst] == [12, 20, 33]
    assert len(worst[0]["pictures"]) == T and abs(level_of(worst[0]["pictures"][0]) - 12) < 3


def test_a_second_pass_over_the_same_stamps_is_another_moment(colours: LoadedBundle) -> None:
    bag = Bag(colours, 2)
    bag.play([0.5])
    bag.play([0.6])
    worst = bag.strips.worst()
    assert [strip["n"] for strip in worst] == [1, 0]
    assert [round(level_of(strip["pictures"][0]) / 100) for strip in worst] == [1, 0]


@settings(max_examples=60, deadline=None)
@given(
    passes=st.lists(st.lists(st.floats(0, 1, width=16), min_size=1, max_size=30), min_size=1, max_size=3),
    count=st.integers(0, 4),
)
def test_never_more_than_asked_never_two_of_one_moment_and_always_the_worst(
    colours: LoadedBundle, passes: list[list[float]], count: int
) -> None:
    bag = Bag(colours, count)
    for badness in passes:
        bag.play(badness)
    kept, every = [strip["n"] for strip in bag.strips.worst()], [b for badness in passes for b in badness]
    assert len(kept) <= count and bool(kept) == bool(count)
    assert [every[n] for n in kept] == sorted((every[n] for n in kept), reverse=True)
    if count:
        assert every[kept[0]] == max(every)
    for i, n in enumerate(kept):
        for m in kept[:i]:
            assert bag.passed[n][0] != bag.passed[m][0] or abs(bag.passed[n][1] - bag.passed[m][1]) >= T
