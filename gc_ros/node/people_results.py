# SPDX-License-Identifier: Apache-2.0
"""What the node publishes about the people of one camera: each one's newest result, events, gestures, and pictures.

A message holds everybody who is there and has had a full window, so that the newest says it all. What shows the people
(overlay, annotations, markers) takes the place of what shows the picture, while somebody is there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode

from gc_ros.media.people_topics import Bodies
from gc_ros.node import ros_messages
from gc_ros.node.diagnostics import Latencies
from gc_ros.node.results import Results
from gc_ros.node.ros_messages import gc_msg
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.event_log import EventLog
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS

# Labels that mean a gesture of REP-155 under another name than its own.
_GESTURES = {"WAVE": "WAVING", "HAND_WAVING": "WAVING"}
# Constants of hri_msgs/Gesture that are no gesture: of none that it knows, and of the hand.
_NO_GESTURE = ("OTHER", "RIGHT", "LEFT", "INDEPENDENT")


@dataclass(frozen=True)
class Present:
    """Who is there: ids with a place, those of them whose window is not full, and ids for whom there is no place.

    shown_ns: stamp of the frame that was looked at last; 0: none yet.
    """

    ids: Sequence[str] = ()
    warming_up: Sequence[str] = ()
    left_out: Sequence[str] = ()
    shown_ns: int = 0

    @property
    def known(self) -> set[str]:
        """Those whose window is full."""
        return {*self.ids} - {*self.warming_up}


class PeopleResults:
    """Publishers of the people of one camera; results: those of its picture, which own what shows them.

    gestures: whether ids are bodies of REP-155. present: who is there now.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        results: Results,
        setting: Callable[[str], Any],
        present: Callable[[], Present],
        gestures: bool,
    ) -> None:
        self._node, self._results, self._setting, self._present = node, results, setting, present
        self.log = EventLog()  # of everybody's recognisers
        self._publisher = node.create_publisher(gc_msg.PersonActivities, f"~/{prefix}people", 10)
        self._gesture_type: Any = _gesture_type() if gestures else None
        self._gestures: dict[str, Any] = {}  # publishers by body
        self._newest: dict[str, PersonActivity] = {}
        self._on: dict[str, ActivityEvent] = {}  # the onset of what each is doing
        self._said: set[str] = set()  # everybody whom the last message named, in whatever list
        self._last: Activity | None = None  # the newest result that it was about
        self.latencies = Latencies()
        self._lock = threading.RLock()  # results come from the inference thread, goings from the executor's

    def destroy(self) -> None:
        """Remove the publishers from the graph."""
        for publisher in (self._publisher, *self._gestures.values()):
            self._node.destroy_publisher(publisher)
        self._gestures.clear()

    def forget(self) -> None:
        """Drop all results, and say that nobody is there any more."""
        with self._lock, self._results.guarded():
            self._newest.clear()
            self._on.clear()
            if self._last is not None and self._said:
                self._say(self._last, Present())
            self._last = None

    def publish(self, results: Sequence[PersonActivity]) -> None:
        """New results of one or more people, from one engine call."""
        with self._lock, self._results.guarded():
            self.publish_events()
            self._newest |= {result.person_id: result for result in results}
            self._publish(_newest_of(results))
            now_ns = int(self._node.get_clock().now().nanoseconds)
            for result in results:
                self._publish_gesture(result)
                age_s = (now_ns - result.activity.stamp_ns) / NS if now_ns else math.nan
                self.latencies.add(age=age_s, inference=result.activity.inference_s)

    def publish_events(self) -> None:
        """Onsets and offsets that were noted in `log`."""

        def publish(who: str, event: ActivityEvent, decided_ns: int | None) -> None:
            if event.kind == "onset":
                self._on[who] = event
            else:
                self._on.pop(who, None)
            # What ends without a result is decided by a frame all the same.
            self._results.publish_event(who, event, decided_ns or self._present().shown_ns or None)

        with self._lock:
            self.log.publish(publish)

    def settle(self) -> None:
        """Somebody may have come, gone or begun again: say so at once where it changes who is told of."""
        with self._lock, self._results.guarded():
            present = self._present()
            changed = self._said - {*present.ids, *present.left_out} or self._newest.keys() - present.known
            if self._last is not None and changed:
                self._publish(self._last)

    def _publish(self, last: Activity) -> None:
        people, newest = self._say(last, self._present())
        self._results.show_people(people, newest)

    def _say(self, last: Activity, present: Present) -> tuple[list[PersonActivity], Activity]:
        """Publish the message about everybody; returns the people in it, and the newest of their results.

        last: what it is about where nobody has a result any more.
        """
        # What was said of an id before its window began again may be of somebody else.
        for who in self._newest.keys() - present.known:
            del self._newest[who]
            self._on.pop(who, None)
        people = [self._newest[who] for who in sorted(self._newest)]
        newest = _newest_of(people) if people else last
        # A full window is not a result yet: until the engine has run, nobody may be in neither list.
        warming_up = sorted({*present.ids} - {*self._newest})
        now_ns = int(self._node.get_clock().now().nanoseconds)
        max_age_s = self._setting("max_age_s")
        told = []
        for person in people:
            age_s = (now_ns - person.activity.stamp_ns) / NS if now_ns else math.nan
            late = bool(max_age_s) and age_s > max_age_s
            on = self._on.get(person.person_id)
            told.append(
                ros_messages.to_person(
                    person.person_id, person.box, person.activity, on, late=late, age_s=age_s
                )
            )
        self._last = newest
        self._said = {*self._newest, *warming_up, *present.left_out}
        message = gc_msg.PersonActivities(
            header=ros_messages.to_header(newest.stamp_ns, self._results.frame_id_of(newest.stamp_ns)),
            image_width=newest.width,
            image_height=newest.height,
            people=told,
            warming_up=warming_up,
            left_out=sorted(present.left_out),
            model_id=newest.model_id,
        )
        self._publisher.publish(message)
        return people, newest

    def _publish_gesture(self, result: PersonActivity) -> None:
        number = gesture_of(self._gesture_type, result.activity.spoken)
        if number is None:
            return
        body = result.person_id
        for gone in set(self._gestures) - set(self._newest) - {body}:
            self._node.destroy_publisher(self._gestures.pop(gone))
        if body not in self._gestures:
            topic = Bodies.gesture_topic(body)
            self._gestures[body] = self._node.create_publisher(self._gesture_type, topic, 10)
        stamp_ns = result.activity.stamp_ns
        header = ros_messages.to_header(stamp_ns, self._results.frame_id_of(stamp_ns))
        self._gestures[body].publish(self._gesture_type(header=header, gesture=number))


def _newest_of(results: Sequence[PersonActivity]) -> Activity:
    return max((result.activity for result in results), key=lambda activity: activity.stamp_ns)


def _gesture_type() -> Any:
    """The message class hri_msgs/Gesture, or None where its package is missing."""
    try:
        return ros_messages.message_class(Bodies.GESTURE_TYPE)
    except (ImportError, AttributeError):
        return None


def gesture_of(gesture_type: Any, label: str) -> int | None:
    """The constant of hri_msgs/Gesture that a label names, in any usual spelling; None where it names none."""
    name = label.strip().upper().replace(" ", "_").replace("-", "_")
    number = getattr(gesture_type, _GESTURES.get(name, name), None)
    return number if isinstance(number, int) and name not in _NO_GESTURE else None
