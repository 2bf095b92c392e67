# SPDX-License-Identifier: Apache-2.0
"""Messages of detected people, by their shape: what is read of each family, and what is refused, counted and said."""

from __future__ import annotations

import math
from types import SimpleNamespace as Message
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media import people_topics
from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.media.people_topics import Bodies, Found, read_vision, read_yolo
from gc_ros.stamps import NS


def header(stamp_ns: int = 5 * NS, frame_id: str = "camera") -> Message:
    return Message(stamp=Message(sec=stamp_ns // NS, nanosec=stamp_ns % NS), frame_id=frame_id)


def vision_box(x: float, y: float, width: float, height: float, theta: float = 0.0) -> Message:
    centre = Message(position=Message(x=x, y=y), theta=theta)
    return Message(center=centre, size_x=width, size_y=height)


def vision(*people: Any, stamp_ns: int = 5 * NS) -> Message:
    """people: (id, class_id, score, bbox)."""
    detections = [
        Message(
            id=who, bbox=box, results=[Message(hypothesis=Message(class_id=name, score=score), pose=None)]
        )
        for who, name, score, box in people
    ]
    return Message(header=header(stamp_ns), detections=detections)


def yolo(who: str, name: str = "person", number: int = 0, **box: float) -> Message:
    values = {"x": 50.0, "y": 60.0, "width": 20.0, "height": 40.0, "theta": 0.0, **box}
    centre = Message(position=Message(x=values["x"], y=values["y"]), theta=values["theta"])
    size = Message(x=values["width"], y=values["height"])
    return Message(
        class_id=number, class_name=name, score=0.9, id=who, bbox=Message(center=centre, size=size)
    )


BODY = (50.0, 60.0, 20.0, 40.0)
BOX = Box(40.0, 40.0, 60.0, 80.0)


def test_boxes_ids_and_scores_of_vision_msgs_are_those_of_the_message() -> None:
    found = read_vision(vision(("7", "person", 0.75, vision_box(*BODY)), ("8", "0", 2.0, vision_box(*BODY))))
    assert found == Found(
        Detections(5 * NS, (Detection("7", BOX, 0.75), Detection("8", BOX, 1.0))), "camera", {}, 0
    )


def test_other_releases_of_vision_msgs_are_read_as_well() -> None:
    old = vision_box(*BODY)
    old.center = Message(x=50.0, y=60.0, theta=0.0)
    message = vision(("1", "person", 0.5, old))
    message.detections[0].results = [Message(id="person", score=0.5)]
    assert read_vision(message).detections == Detections(5 * NS, (Detection("1", BOX, 0.5),))
    del message.detections[0].id  # before release 4
    assert read_vision(message).refused == {people_topics.NO_ID: 1}


def test_a_turned_box_is_read_as_the_upright_box_around_it() -> None:
    found = read_vision(vision(("1", "person", 1.0, vision_box(*BODY, math.pi / 2))))
    assert found.detections is not None
    box = found.detections.people[0].box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx((30, 50, 70, 70))
    for theta in (-math.pi / 2, 3 * math.pi / 2, math.pi):  # whichever way it is turned
        found = read_vision(vision(("1", "person", 1.0, vision_box(*BODY, theta))))
        assert found.detections is not None and not found.refused
        box = found.detections.people[0].box
        assert box.x_max - box.x_min == pytest.approx(20 if theta == math.pi else 40)


def test_the_best_hypothesis_says_what_a_detection_is_and_other_things_are_counted_apart() -> None:
    message = vision(
        *((str(i), name, 0.5, vision_box(*BODY)) for i, name in enumerate(("chair", "", "Person")))
    )
    message.detections[0].results.append(Message(hypothesis=Message(class_id="person", score=math.nan)))
    message.detections[0].bbox = vision_box(0, 0, 0, 0)  # nobody cares about the box of a chair
    message.detections[1].results = []  # a detector that knows people alone
    found = read_vision(message)
    assert found.detections is not None and [p.id for p in found.detections.people] == ["1", "2"]
    assert found.others == 1 and not found.refused
    assert read_vision(message, ("chair",)).others == 1
    message.detections[0].bbox = vision_box(*BODY)
    assert read_vision(message, ()).others == 0


def test_yolo_is_read_by_the_name_of_the_class_and_without_one_by_its_number() -> None:
    people = [yolo("3"), yolo("4", "chair", 56), yolo("5", "", 0), yolo("6", "", 56)]
    found = read_yolo(Message(header=header(), detections=people))
    assert found.detections == Detections(5 * NS, (Detection("3", BOX, 0.9), Detection("5", BOX, 0.9)))
    assert found.others == 2


@pytest.mark.parametrize(
    ("who", "box", "reason"),
    [
        ("", BODY, people_topics.NO_ID),
        ("x" * 129, BODY, people_topics.LONG_ID),
        ("1", (math.nan, 1, 1, 1), people_topics.BAD_BOX),
        ("1", (1, 1, math.inf, 1), people_topics.BAD_BOX),
        ("1", (1, 1, 1, -5), people_topics.BAD_BOX),
        ("1", (1, 1, 0, 5), people_topics.BAD_BOX),
        ("1", (1e300, 1, 1, 5), people_topics.BAD_BOX),
        ("1", (1, 1, 1e9, 5), people_topics.BAD_BOX),
        ("1", (1, 1, 1, 5, math.nan), people_topics.BAD_BOX),
        ("1", ("a", 1, 1, 5), "fields that are not those of its type (ValueError)"),
    ],
)
def test_a_malformed_detection_costs_itself_alone_and_is_counted(who: str, box: Any, reason: str) -> None:
    good = ("first", "person", 1.0, vision_box(*BODY))
    found = read_vision(vision(good, (who, "person", 1.0, vision_box(*box))))
    assert found.refused == {reason: 1}
    assert found.detections == Detections(5 * NS, (Detection("first", BOX),))


@pytest.mark.parametrize("read", [read_vision, read_yolo])
def test_messages_without_stamp_or_with_other_fields_are_refused(read: Any) -> None:
    assert read(Message(header=header(0), detections=[])) == Found(
        None, "camera", {people_topics.NO_STAMP: 1}
    )
    bad = header()
    bad.stamp.nanosec = 2 * NS
    assert read(Message(header=bad, detections=[])).refused == {people_topics.NO_STAMP: 1}
    assert read(Message(header=header(), detections=[])).detections == Detections(5 * NS, ())
    for other in (Message(), Message(header=header()), Message(header=None, detections=[]), None):
        found = read(other)
        assert found.detections is None and sum(found.refused.values()) == 1
    assert sum(read(Message(header=header(), detections=[Message(), 7])).refused.values()) == 2


def test_ten_thousand_boxes_are_counted_and_not_looked_at() -> None:
    message = vision(*((str(i), "person", 1.0, vision_box(*BODY)) for i in range(10_000)))
    found = read_vision(message)
    assert found.detections is not None
    assert len(found.detections.people) == people_topics.LOOKED_AT
    assert found.refused == {people_topics.TOO_MANY: 10_000 - people_topics.LOOKED_AT}


_FIELDS = [
    *(
        "header",
        "stamp",
        "sec",
        "nanosec",
        "frame_id",
        "detections",
        "id",
        "ids",
        "bbox",
        "center",
        "position",
        "x",
    ),
    *(
        "y",
        "theta",
        "size_x",
        "size_y",
        "size",
        "results",
        "hypothesis",
        "class_id",
        "class_name",
        "score",
        "xmin",
    ),
    *("ymin", "xmax", "ymax", "c"),
]
_ANY = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_FIELDS),
            inner,
            max_size=6,
        ).map(lambda fields: Message(**fields))
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(found=_ANY, stamped=st.booleans())
def test_nothing_raises_whatever_a_message_holds(found: Any, stamped: bool) -> None:
    message = Message(header=header(), detections=found, ids=found, xmin=found, ymin=0, xmax=1, ymax=1, c=1)
    message = message if stamped else found
    bodies = Bodies()
    for result in (
        read_vision(message),
        read_yolo(message),
        bodies.tracked(message),
        bodies.roi("a", message, (64, 48)),
    ):
        assert isinstance(result, Found) and all(count > 0 for count in result.refused.values())


def roi(stamp_ns: int = 5 * NS, *values: float) -> Message:
    names = ("xmin", "ymin", "xmax", "ymax", "c")
    given = dict(zip(names, values or (0.25, 0.5, 0.75, 1.0, 0.9), strict=True))
    return Message(header=header(stamp_ns), **given)


def ids(*names: str, stamp_ns: int = 5 * NS) -> Message:
    return Message(header=header(stamp_ns), ids=list(names))


def test_boxes_of_rep_155_are_put_together_by_their_image_and_scaled_to_it() -> None:
    bodies, size = Bodies(), (200, 100)
    assert bodies.tracked(ids("a", "b")).detections is None and bodies.ids == ("a", "b")
    assert bodies.roi("a", roi(), size).detections is None
    found = bodies.roi("b", roi(5 * NS, 0.0, 0.0, 0.5, 0.5, 0.5), size)
    box = Box(50.0, 50.0, 150.0, 100.0)
    assert found.detections == Detections(
        5 * NS, (Detection("a", box, pytest.approx(0.9)), Detection("b", Box(0, 0, 100, 50), 0.5))
    )
    # One of them is not seen in the next image: it is complete once the one after it has begun.
    assert bodies.roi("a", roi(6 * NS), size).detections is None
    late = bodies.roi("b", roi(5 * NS), size)
    assert late.refused == {people_topics.TOO_LATE: 1}
    found = bodies.roi("b", roi(7 * NS), size)
    assert found.detections is not None
    assert found.detections.stamp_ns == 6 * NS and [p.id for p in found.detections.people] == ["a"]


def test_rep_155_says_when_nobody_is_there_and_a_person_who_leaves_is_not_waited_for() -> None:
    bodies, size = Bodies(), (200, 100)
    bodies.tracked(ids("a", "b"))
    bodies.roi("a", roi(), size)
    assert bodies.tracked(ids("a")).detections is not None
    assert bodies.tracked(ids(stamp_ns=6 * NS)).detections == Detections(6 * NS, ())
    assert bodies.tracked(ids("a", stamp_ns=NS)).detections is None
    assert bodies.roi("a", roi(NS), size).detections is not None, "a bag that is played twice"


def test_what_was_begun_before_nobody_was_there_or_the_clock_went_back_is_forgotten() -> None:
    bodies, size = Bodies(), (200, 100)
    bodies.tracked(ids("a", "b"))
    bodies.roi("a", roi(5 * NS), size)
    assert bodies.tracked(ids(stamp_ns=6 * NS)).detections == Detections(6 * NS, ())
    assert bodies.tracked(ids(stamp_ns=6 * NS - 1)).detections is None, "older than what was said already"
    bodies.tracked(ids("a", "b", stamp_ns=6 * NS))
    found = bodies.roi("b", roi(7 * NS), size)
    assert found.complete == (), "the box of the one who left belongs to no later image"
    assert bodies.roi("a", roi(7 * NS - 1), size).refused == {people_topics.TOO_LATE: 1}, (
        "another image has begun"
    )
    assert bodies.roi("b", roi(NS), size).complete == (), "the bag begins again"
    assert [p.id for p in bodies.roi("a", roi(NS), size).complete[0].people] == ["b", "a"]


def test_somebody_who_is_tracked_no_more_completes_no_image_but_is_in_it() -> None:
    bodies, size = Bodies(), (200, 100)
    bodies.tracked(ids("a", "b"))
    bodies.roi("b", roi(5 * NS), size)
    found = bodies.tracked(ids("b", stamp_ns=5 * NS))
    assert found.detections is not None and [p.id for p in found.detections.people] == ["b"]
    bodies.tracked(ids("a", "b", "c", stamp_ns=6 * NS))
    bodies.roi("c", roi(6 * NS), size)
    bodies.tracked(ids("a", stamp_ns=6 * NS))
    found = bodies.roi("a", roi(6 * NS), size)
    assert found.detections is not None and [p.id for p in found.detections.people] == ["c", "a"]


def test_names_of_people_are_compared_whatever_their_case_and_an_empty_one_is_of_people() -> None:
    message = vision(("7", "Person", 0.9, vision_box(*BODY)), ("8", "", 0.9, vision_box(*BODY)))
    for classes in (("PERSON",), ("person",)):
        found = read_vision(message, classes)
        assert found.detections is not None and [p.id for p in found.detections.people] == ["7", "8"]


def test_a_box_of_an_image_that_was_told_already_is_late_and_begins_nothing() -> None:
    bodies, size = Bodies(), (200, 100)
    bodies.tracked(ids("a"))
    assert bodies.roi("a", roi(), size).detections is not None
    for stamp_ns in (5 * NS, 5 * NS - NS // 10):
        found = bodies.roi("a", roi(stamp_ns), size)
        assert found.detections is None and found.refused == {people_topics.TOO_LATE: 1}


def test_an_image_that_ends_one_and_is_complete_itself_gives_both() -> None:
    bodies, size = Bodies(), (200, 100)
    bodies.tracked(ids("a", "b"))
    bodies.roi("b", roi(NS), size)
    bodies.tracked(ids("a", stamp_ns=NS))
    stamps = [[d.stamp_ns for d in bodies.roi("a", roi(t * NS), size).complete] for t in (2, 3, 4)]
    assert stamps == [[NS, 2 * NS], [3 * NS], [4 * NS]], "none is an image late"


def test_malformed_bodies_are_counted() -> None:
    bodies, size = Bodies(), (200, 100)
    found = bodies.tracked(ids("a", "", "b/../c", "7a", "x" * 129, *(f"n{i}" for i in range(300))))
    assert sum(found.refused.values()) == 305 - people_topics.MOST_BODIES and "a" in bodies.ids
    assert len(bodies.ids) == people_topics.MOST_BODIES == 64
    bodies.tracked(ids("a"))
    for values in ((math.nan, 0, 1, 1, 1), (0.5, 0, 0.5, 1, 1), (0.5, 0, 0.4, 1, 1), (0, 0, 1e30, 1, 1)):
        assert bodies.roi("a", roi(5 * NS, *values), size).refused == {people_topics.BAD_BOX: 1}
    assert bodies.roi("a", roi(), None).refused == {people_topics.NO_SIZE: 1}
    assert bodies.roi("a", roi(0), size).refused == {people_topics.NO_STAMP: 1}
    assert bodies.roi("a", roi(), size).detections is not None
