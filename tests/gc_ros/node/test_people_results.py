# SPDX-License-Identifier: Apache-2.0
"""The messages about people, one by one, without a graph: who is in which list, and what their headers say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: make env, or source a ROS 2")

from gc_ros.media.detections import Box
from gc_ros.node import ros_messages
from gc_ros.node.people_results import PeopleResults, Present
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from tests.gc_ros.recognition.pictures import result_of
from tests.toy import toy_bundle
from trt_build.bundle import LoadedBundle

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def activity(tmp_path_factory: pytest.TempPathFactory) -> Activity:
    numbers: LoadedBundle = toy_bundle(tmp_path_factory.mktemp("numbers"))
    return result_of(numbers)


class Told:
    """Everything that stands around the results of people, and what it is told."""

    def __init__(self, activity: Activity) -> None:
        self.messages: list[Any] = []
        self.shown: list[tuple[list[str], int]] = []  # people and stamp of each picture
        self.decided: list[tuple[str, str, int | None]] = []  # person, kind and s of each event
        self.present = Present()
        self._activity = activity
        self.results = PeopleResults(
            self, "", self, {"max_age_s": 0.0}.__getitem__, lambda: self.present, gestures=False
        )

    # What is a node.

    def create_publisher(self, *_: Any) -> Any:
        return SimpleNamespace(publish=self.messages.append)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=100 * NS))

    # What are the results of the picture.

    @contextmanager
    def guarded(self) -> Iterator[None]:
        yield

    def frame_id_of(self, stamp_ns: int) -> str:
        return "camera"

    def show_people(self, people: list[PersonActivity], newest: Activity) -> None:
        self.shown.append(([p.person_id for p in people], newest.stamp_ns // NS))

    def publish_event(self, person: str, event: ActivityEvent, decided_ns: int | None) -> None:
        self.decided.append((person, event.kind, decided_ns and decided_ns // NS))

    # What happens.

    def result(self, **stamps_s: int) -> None:
        self.results.publish(
            [
                PersonActivity(who, Box(1, 2, 3, 4), dataclasses.replace(self._activity, stamp_ns=s * NS))
                for who, s in stamps_s.items()
            ]
        )

    @property
    def last(self) -> tuple[list[str], list[str], int]:
        """People, those warming up, and the stamp of the newest message, s."""
        m = self.messages[-1]
        return [p.person_id for p in m.people], list(m.warming_up), ros_messages.to_ns(m.header.stamp) // NS


def test_nobody_is_in_no_list_between_a_full_window_and_the_first_result(activity: Activity) -> None:
    told = Told(activity)
    told.present = Present(("a", "b"), warming_up=("b",))
    told.result(a=10)
    assert told.last == (["a"], ["b"], 10)
    told.present = Present(("a", "b"))  # the window of b is full, and the engine still runs
    told.result(a=11)
    assert told.last == (["a"], ["b"], 11)
    told.result(b=11)
    assert told.last == (["a", "b"], [], 11)


def test_the_stamp_is_that_of_the_newest_result_in_the_message(activity: Activity) -> None:
    told = Told(activity)
    told.present = Present(("a", "b", "c"))
    told.result(a=12, c=10)
    told.result(b=11)  # computed later, of an image before
    assert told.last == (["a", "b", "c"], [], 12)
    told.present = Present(("b", "c"))
    told.results.settle()
    assert told.last == (["b", "c"], [], 11)
    told.present = Present()
    told.results.settle()
    assert told.last == ([], [], 11)
    assert told.shown == [(["a", "c"], 12), (["a", "b", "c"], 12), (["b", "c"], 11), ([], 11)]


def test_a_result_of_somebody_who_went_meanwhile_is_about_nobody(activity: Activity) -> None:
    told = Told(activity)
    told.result(a=10)
    assert told.last == ([], [], 10)
    told.present = Present(("b",))
    told.result(b=9)
    assert told.last == (["b"], [], 9)
    told.results.forget()
    assert told.last == ([], [], 9)
    count = len(told.messages)
    told.results.forget()
    assert len(told.messages) == count


def test_an_event_is_decided_by_its_result_or_by_the_frame_that_was_looked_at_last(
    activity: Activity,
) -> None:
    told = Told(activity)
    onset, offset = (ActivityEvent(kind, "red", 3, 0.9, 8 * NS) for kind in ("onset", "offset"))
    told.results.log.note([onset], 9 * NS, "a")
    told.results.publish_events()
    told.results.log.note([offset], None, "a")
    told.present = Present(shown_ns=12 * NS)
    told.results.publish_events()
    # Before any frame was looked at, the event's own stamp remains.
    told.results.log.note([offset], None, "b")
    told.present = Present()
    told.results.publish_events()
    assert told.decided == [("a", "onset", 9), ("a", "offset", 12), ("b", "offset", None)]
