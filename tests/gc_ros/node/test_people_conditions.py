# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says about people, condition by condition, without ROS."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: make env, or source a ROS 2")

from gc_ros.media.people_topics import NO_ID, NO_STAMP
from gc_ros.node.diagnostics import ERROR, OK, WARN
from gc_ros.node.people_diagnostics import OTHER_FRAME, PeopleFacts, judge_people

FINE = PeopleFacts(
    topic="/people",
    remap="people",
    type_name="vision_msgs/msg/Detection2DArray",
    active=True,
    enabled=True,
    publishers=1,
    silent_s=0.1,
    images_lately=40,
    detections_lately=80,
    present=("1", "2"),
    max_people=4,
)
SILENT = {"silent_s": 9.0, "present": ()}


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, OK, "2 people"),
        ({"warming_up": ("2",)}, OK, "2 people, 1 of them warming up"),
        ({"present": ("1",)}, OK, "1 person"),
        ({"present": ("1",), "warming_up": ("1",)}, OK, "1 person, warming up"),
        ({"present": ()}, OK, "nobody is there"),
        ({"active": False}, OK, "not active"),
        ({"enabled": False}, OK, "disabled by ~/enable"),
        ({**SILENT, "publishers": 0}, WARN, "no publisher on /people; start a detector with a tracker"),
        (
            {**SILENT, "publishers": 0, "elsewhere": ("/det",)},
            WARN,
            "no publisher on /people; there is /det: remap with -r people:=/det",
        ),
        (
            {**SILENT, "publishers": 0, "other_types": ("yolo_msgs/msg/DetectionArray",)},
            ERROR,
            "this node needs vision_msgs/msg/Detection2DArray; set people:=yolo",
        ),
        ({**SILENT, "publishers": 0, "other_types": ("std_msgs/msg/String",)}, ERROR, "publish vision_msgs"),
        (SILENT, WARN, "no detections on /people for 9.0 s, though 1 publisher(s) are matched"),
        ({"left_out": tuple("abcdefg")}, WARN, "7 of 9 people are left out (a, b, c, d, e ...)"),
        ({"refused_lately": {NO_ID: 3}}, WARN, "3 of 83 detections have no id"),
        ({"refused_lately": {NO_ID: 3}, "detections_lately": 0}, ERROR, "3 of 3 detections have no id"),
        ({"refused_lately": {NO_STAMP: 2}}, WARN, "2 detections refused in 5 s: no stamp"),
        (
            {"refused_lately": {OTHER_FRAME: 2}, "other_frame": "map", "frame_id": "camera"},
            ERROR,
            "detections are in the frame 'map', the images in 'camera'",
        ),
        ({"others_lately": 9, "detections_lately": 0}, WARN, "person_classes must name"),
        ({"without_lately": 30}, WARN, "30 of 40 images had no detections within 0.5 s"),
    ],
)
def test_the_worst_condition_is_the_message(changes: dict[str, Any], level: int, words: str) -> None:
    status = judge_people(dataclasses.replace(FINE, **changes))
    assert (status.level, words in status.message) == (level, True), status.message


def test_several_conditions_are_all_named_and_figures_are_in_the_values() -> None:
    facts = dataclasses.replace(
        FINE, refused_lately={NO_ID: 3}, without_lately=30, left_out=("9",), counts={"results": 4}
    )
    status = judge_people(facts)
    assert "images had no detections" in status.values["also"] and "left out" in status.values["also"]
    assert status.values["people"] == "1, 2" and status.values["left out"] == "9"
    assert status.values["results"] == "4"


def test_few_images_without_detections_are_no_matter() -> None:
    assert judge_people(dataclasses.replace(FINE, without_lately=20)).level == OK
