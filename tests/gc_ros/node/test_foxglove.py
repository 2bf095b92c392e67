# SPDX-License-Identifier: Apache-2.0
"""Image annotations, and the layout that shows them. foxglove_msgs is not on PyPI: its messages are stood in for by
classes with the same fields and nothing else, so a misspelt field is an error."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gc_ros.media.detections import Box
from gc_ros.node import foxglove
from gc_ros.node.security import names
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.palette import GLIMPSE_COLOURS, person_colour
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.smoothing import ActivityEvent
from tests.toy import number_image
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine

ROOT = Path(__file__).resolve().parents[3]
# Of foxglove_msgs 3 for ROS 2; sequences start empty.
FIELDS: dict[str, dict[str, Any]] = {
    "Color": {"r": 0.0, "g": 0.0, "b": 0.0, "a": 0.0},
    "Point2": {"x": 0.0, "y": 0.0},
    "PointsAnnotation": {
        "timestamp": None, "type": 0, "points": list, "outline_color": None, "outline_colors": list,
        "fill_color": None, "thickness": 0.0,
    },
    "TextAnnotation": {
        "timestamp": None, "position": None, "text": "", "font_size": 0.0, "text_color": None,
        "background_color": None,
    },
    "ImageAnnotations": {"circles": list, "points": list, "texts": list},
}  # fmt: skip


@pytest.fixture
def foxglove_msgs(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("foxglove_msgs.msg")
    for name, fields in FIELDS.items():
        made = [
            (key, Any, dataclasses.field(default_factory=list) if value is list else value)
            for key, value in fields.items()
        ]
        setattr(module, name, dataclasses.make_dataclass(name, made, kw_only=True))
    module.PointsAnnotation.LINE_LOOP = 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "foxglove_msgs", types.ModuleType("foxglove_msgs"))
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", module)
    return module


@pytest.fixture
def activity(numbers: LoadedBundle) -> Activity:
    recognizer = Recognizer(numbers, open_engine(numbers, "window", threads=1))
    for i in range(8):
        result = recognizer.push(number_image(i, 640, 480), i * 125_000_000, bgr=False)
    recognizer.close()
    assert result is not None
    return result


def test_without_the_message_package_there_is_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foxglove_msgs", None)
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", None)
    assert foxglove.annotations_type() is None


def test_every_glimpse_is_a_box_of_its_colour_in_pixels_of_the_image(
    foxglove_msgs: Any, activity: Activity
) -> None:
    assert foxglove.annotations_type() is foxglove_msgs.ImageAnnotations
    message = foxglove.to_annotations(activity, "stamp")
    assert len(message.points) == len(activity.glimpses) == 3
    for g, (drawn, glimpse) in enumerate(zip(message.points, activity.glimpses, strict=True)):
        xs, ys = [p.x for p in drawn.points], [p.y for p in drawn.points]
        assert (min(xs), min(ys), max(xs), max(ys)) == (glimpse.x0, glimpse.y0, glimpse.x1, glimpse.y1)
        assert drawn.type == 2 and drawn.timestamp == "stamp"
        c = drawn.outline_color
        assert tuple(round(255 * v) for v in (c.r, c.g, c.b)) == GLIMPSE_COLOURS[g] and c.a == 1.0
    shares = activity.assignment.sum(axis=0) / 3
    thickest = max(range(3), key=lambda g: message.points[g].thickness)
    assert shares[thickest] == shares.max()
    assert [text.text for text in message.texts[:3]] == [f"{g + 1}  {s:.0%}" for g, s in enumerate(shares)]


def test_label_unknown_and_event_are_said_in_words(foxglove_msgs: Any, activity: Activity) -> None:
    event = ActivityEvent("offset", "drink", 1, 0, 0.39)
    texts = [t.text for t in foxglove.to_annotations(activity, "stamp", event).texts]
    assert texts[3:] == [f"{activity.label}  {activity.score:.0%}", "drink ended  39%"]
    unsure = dataclasses.replace(activity, status="unknown")
    assert foxglove.to_annotations(unsure, "stamp").texts[3].text.startswith("unknown  ")


def test_people_are_boxes_with_id_and_label_and_their_glimpses_are_drawn_thinner(
    foxglove_msgs: Any, activity: Activity
) -> None:
    unsure = dataclasses.replace(activity, status="unknown")
    people = [
        PersonActivity("7", Box(100, 50, 200, 450), activity),
        PersonActivity("anna", Box(-20, 2, 90, 300), unsure),
    ]
    message = foxglove.to_people_annotations(people, activity, "stamp", 480)
    assert len(message.points) == 2 * (3 + 1)
    for number, person in enumerate(people):
        drawn = message.points[number * 4 + 3]
        xs, ys = [p.x for p in drawn.points], [p.y for p in drawn.points]
        assert Box(min(xs), min(ys), max(xs), max(ys)) == person.box
        c = drawn.outline_color
        assert tuple(round(255 * v) for v in (c.r, c.g, c.b)) == person_colour(person.person_id)
    texts = [text.text for text in message.texts]
    assert texts[0] == f"7  {activity.label}  {activity.score:.0%}" and texts[1].startswith("anna  unknown  ")
    assert texts[2] == f"whole picture: {activity.label}  {activity.score:.0%}"
    assert message.texts[1].position.y > 0, "above a box at the upper edge nothing would be seen"
    assert len(foxglove.to_people_annotations(people, None, "stamp", 480).texts) == 2


def layout() -> dict[str, Any]:
    return dict(json.loads((ROOT / "config" / "foxglove.json").read_text()))


def test_every_panel_of_the_layout_is_placed_and_every_topic_in_it_is_the_nodes() -> None:
    def placed(node: Any) -> set[str]:
        return {node} if isinstance(node, str) else placed(node["first"]) | placed(node["second"])

    panels = layout()["configById"]
    assert placed(layout()["layout"]) == set(panels)
    text = json.dumps(panels)
    used = names(people="detections")
    topics = {*used.publish, *used.subscribe}
    found = {word.strip('",').split(".")[0] for word in text.split('"') if word.startswith("/")}
    assert found and found <= topics
    assert {"/activity_recognition/annotations", "/activity_recognition/activity", "/diagnostics"} <= found


def fields_of(message: str) -> set[str]:
    lines = (
        line.split("#")[0].split() for line in (ROOT / "msg" / f"{message}.msg").read_text().splitlines()
    )
    return {words[1] for words in lines if len(words) == 2}


def test_every_field_the_layout_plots_is_in_the_message() -> None:
    plots = [p for key, p in layout()["configById"].items() if key.startswith(("Plot", "StateTransitions"))]
    fields = fields_of("Activity")
    paths = [series["value"] for plot in plots for series in plot["paths"]]
    assert len(paths) >= 4
    for path in paths:
        topic, field = path.split(".", 1)
        assert topic == "/activity_recognition/activity" and field.split("[")[0] in fields, path


def test_the_layout_has_a_table_of_the_people() -> None:
    path = layout()["configById"]["Table!people"]["topicPath"]
    topic, field = path.split(".")
    assert topic == "/activity_recognition/people" and field in fields_of("PersonActivities")
