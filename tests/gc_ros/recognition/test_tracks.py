# SPDX-License-Identifier: Apache-2.0
"""Where people are between detections, and when an id may stand for somebody else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.recognition.region import smooth
from gc_ros.recognition.tracks import MOST_IDS, MOST_IN_MESSAGE, Tracks
from gc_ros.stamps import NS


def box(x: float, size: float = 20) -> Box:
    return Box(x, 0, x + size, 2 * size)


def message(seconds: float, **people: Box) -> Detections:
    found = tuple(Detection(name, place) for name, place in people.items())
    return Detections(round(seconds * NS), found)


def tracks(*messages: Detections) -> Tracks:
    made = Tracks(max_age_s=0.5, timeout_s=1.0)
    for item in messages:
        made.add(item)
    return made


def where(made: Tracks, seconds: float, name: str = "a") -> float | None:
    place = made.at(round(seconds * NS)).get(name)
    return None if place is None else place.box.x_min


@pytest.mark.parametrize(
    ("seconds", "x"),
    [(0.9, 0), (1.0, 0), (1.1, 5), (1.15, 7.5), (1.2, 10), (1.6, 10), (1.7, 10), (1.8, None), (0.4, None)],
)
def test_a_box_lies_between_the_detections_around_it_or_is_the_nearest(
    seconds: float, x: float | None
) -> None:
    made = tracks(message(1.0, a=box(0)), message(1.2, a=box(10)))
    assert where(made, seconds) == (x if x is None else pytest.approx(x))


def test_nothing_is_interpolated_over_a_long_time() -> None:
    made = tracks(message(1.0, a=box(0)), message(1.9, b=box(90)), message(2.2, a=box(12)))
    assert where(made, 1.4) == 0 and where(made, 1.6) is None
    assert where(made, 2.0) == pytest.approx(12)


@given(more=st.lists(st.tuples(st.floats(0.01, 0.4), st.floats(-15, 15)), max_size=5), t=st.floats(1.0, 1.3))
def test_what_is_detected_later_changes_no_answer(more: list[tuple[float, float]], t: float) -> None:
    known = tracks(message(1.0, a=box(0)), message(1.15, b=box(80)), message(1.3, a=box(6)))
    answer, at, x = known.at(round(t * NS)), 1.3, 6.0
    for step, move in more:
        at, x = at + step, x + move
        known.add(message(at, a=box(x), b=box(80)))
    assert known.at(round(t * NS)) == answer


def test_the_size_of_a_box_follows_the_detector_from_message_to_message() -> None:
    found = [Box(0, 0, 20, 40), Box(0, 0, 30, 60), Box(0, 0, 20, 40), Box(0, 0, 24, 48)]
    made, smoothed = Tracks(0.5, 1.0), found[0]
    for i, place in enumerate(found):
        made.add(message(i / 10, a=place))
        smoothed = smooth(smoothed, place, 0.1) if i else place
        assert made.at(i * NS // 10)["a"].box == smoothed
    assert 21 < smoothed.x_max - smoothed.x_min < 24


def stretches(*boxes: Box, other: list[Box | None] | None = None) -> list[int]:
    """How often `a` may have become somebody else, by message of 0.1 s. other: the boxes of `b`."""
    made, found = Tracks(0.5, 1.0), []
    for i, place in enumerate(boxes):
        people = {"a": place}
        if other is not None and (theirs := other[i]) is not None:
            people["b"] = theirs
        made.add(message(i / 10, **people))
        found.append(made.at(i * NS // 10)["a"].stretch)
    return [sum(b != a for a, b in pairwise(found[: i + 1])) for i in range(len(found))]


def test_who_walks_stays_the_same_and_who_jumps_does_not() -> None:
    assert stretches(*(box(8 * i) for i in range(9)))[-1] == 0
    assert stretches(box(0), box(35), box(70))[-1] == 0  # no overlap, but less than a box away
    assert stretches(box(0), box(0), box(60), box(60)) == [0, 0, 1, 1]
    assert stretches(box(0), Box(-200, -200, 300, 400)) == [0, 1]


def test_ids_that_were_exchanged_among_neighbours_are_new_for_both() -> None:
    left, right = box(0), box(25)
    assert stretches(left, left, right, right, other=[right, right, left, left]) == [0, 0, 1, 1]
    # The other is gone: its id was given to somebody.
    assert stretches(left, left, right, other=[right, right, None]) == [0, 0, 1]
    # The other is still there: somebody walked in front of somebody who stands.
    assert stretches(left, box(21), other=[right, right]) == [0, 0]


def test_an_id_that_comes_back_after_the_timeout_is_somebody_new() -> None:
    made = tracks(message(1.0, a=box(0)))
    first = made.at(NS)["a"].stretch
    made.add(message(2.1, a=box(0)))
    assert made.at(round(2.1 * NS))["a"].stretch != first


def test_of_two_boxes_of_one_id_neither_is_used() -> None:
    made = tracks(Detections(NS, (Detection("a", box(0)), Detection("a", box(60)), Detection("b", box(0)))))
    assert set(made.at(NS)) == {"b"}
    assert made.left_out == {"id twice in a message": 2}


def test_old_messages_are_left_out_and_a_jump_back_begins_again() -> None:
    made = tracks(message(5.0, a=box(0)), message(4.5, a=box(50)), message(5.0, a=box(50)))
    assert made.left_out == {"old message": 2} and where(made, 5.0) == 0
    before = made.at(5 * NS)["a"].stretch
    made.add(message(1.0, c=box(0)))
    assert set(made.at(NS)) == {"c"} and made.newest_ns == NS
    assert made.left_out["message from long before"] == 1
    made.add(message(1.1, a=box(0)))
    assert made.at(round(1.1 * NS))["a"].stretch != before, "who has the id now nobody knows"


def test_memory_is_bounded_whatever_a_detector_sends() -> None:
    made = Tracks(0.5, 1.0)
    crowd = tuple(Detection(f"{i}", box(i, 20 + i / 1e4)) for i in range(10_000))
    made.add(Detections(NS, crowd))
    assert {int(name) for name in made.at(NS)} == {*range(10_000 - MOST_IN_MESSAGE, 10_000)}, "the largest"
    assert made.left_out["too many boxes in a message"] == 10_000 - MOST_IN_MESSAGE
    for k in range(20):
        made.add(Detections(NS + k + 1, tuple(Detection(f"{k}-{i}", box(i)) for i in range(MOST_IN_MESSAGE))))
    assert len(made.at(NS + 20)) <= MOST_IDS and made.left_out["too many ids"]
    made.forget_before(4 * NS)
    assert made.at(NS) == {}
