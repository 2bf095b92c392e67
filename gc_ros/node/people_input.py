# SPDX-License-Identifier: Apache-2.0
"""Where the detections of one camera come in: its subscriptions, and what was refused.

In which messages they come is a row of the table in `gc_ros.media.people_topics`. Reading them is cheap, so all of it
happens in the executor's thread.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gc_ros.media.detections import Detections
from gc_ros.media.people_topics import BY_NAME, NO_STAMP, Bodies, Family, Found
from gc_ros.node import graph, ros_messages
from gc_ros.node.diagnostics import REFUSED_S, Recent
from gc_ros.node.input import simulation_begins
from trt_build.errors import GlimpseError

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
OTHER_FRAME = "of another frame_id than the images"


def usable_family(setting: Callable[[str], Any]) -> Family:
    """The family that the parameters name. Raises GlimpseError where its messages are missing or cannot serve."""
    family = BY_NAME[setting("people")]
    ros_messages.message_type(family)
    if family.read is None and list(setting("cameras")) != [""]:
        raise GlimpseError(
            "people hri is for one camera without a name: REP-155 does not say in which camera's image a body is; "
            "use people:=detections, with a topic for each camera"
        )
    return family


class PeopleInput:
    """prefix: of the camera's topics, "" or "front/". setting: the value of a parameter of the node.

    take: gets what was detected in an image. size: width and height of the newest image; frame_id: of the newest image;
    None and "" before the first. Raises GlimpseError as `usable_family`.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        setting: Callable[[str], Any],
        take: Callable[[Detections], None],
        size: Callable[[], tuple[int, int] | None],
        frame_id: Callable[[], str],
    ) -> None:
        self._node, self._setting, self._take = node, setting, take
        self._size, self._frame_id = size, frame_id
        self.family = usable_family(setting)
        self._type = ros_messages.message_type(self.family)
        self._bodies = None if self.family.read is not None else Bodies()
        self.name = f"{prefix}{self.family.topic}"  # as a remapping names it
        self.topic = node.resolve_topic_name(self.name)
        self._subscription: Any = None
        self._rois: dict[str, Any] = {}  # subscriptions by body
        self._arrival: float | None = None
        self.messages = self.detections = self.others = 0
        self.refused: Counter[str] = Counter()
        self.refused_lately: dict[str, Recent] = {}
        self.lately = {name: Recent(REFUSED_S) for name in ("messages", "detections")}
        self.other_frame = ""  # of the newest message that was refused for it

    # -- life ------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """Take detections from now on."""
        self._arrival = time.monotonic()
        self._subscription = self._create(self._type, self.name, self._on_message)

    def unsubscribe(self) -> None:
        """Take no more detections."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)
        self._follow(())

    def _create(self, message_type: Any, name: str, callback: Callable[[Any], None]) -> Any:
        # rclpy writes overrides into the profile it is given: each needs a copy.
        if name != self.name:  # of a topic that comes and goes no parameters are declared
            return self._node.create_subscription(message_type, name, callback, copy.copy(_QOS))
        return self._node.create_subscription(
            message_type, name, callback, copy.copy(_QOS), qos_overriding_options=graph.overridable()
        )

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last message, or since the subscription; None without one."""
        if self._subscription is None or self._arrival is None:
            return None
        return time.monotonic() - self._arrival

    # -- messages --------------------------------------------------------------------------------------------

    def _on_message(self, message: Any) -> None:
        # An exception here would end the node's spin: whatever it is, it costs this message only.
        try:
            if self._subscription is None:  # taken by the executor before the subscription went
                return
            self._arrival = time.monotonic()
            self.messages += 1
            self.lately["messages"].add()
            if self._bodies is not None:
                found = self._bodies.tracked(message)
                self._follow(self._bodies.ids)
            else:
                assert self.family.read is not None
                found = self.family.read(message, self._classes())
            self._take_found(found)
        except Exception as error:
            self._refuse({f"unexpected {type(error).__name__}": 1})

    def _on_roi(self, body: str, message: Any) -> None:
        try:
            if self._bodies is not None and body in self._rois:
                self._take_found(self._bodies.roi(body, message, self._size()))
        except Exception as error:
            self._refuse({f"unexpected {type(error).__name__}": 1})

    def _take_found(self, found: Found) -> None:
        # Zero is a stamp where a simulation begins; people are seen from the next message on.
        self._refuse(
            {r: n for r, n in found.refused.items() if r != NO_STAMP or not simulation_begins(self._node)}
        )
        self.others += found.others
        for detections in found.complete:
            people = len(detections.people)
            self.detections += people
            self.lately["detections"].add(people)
            wanted = self._frame_id()
            if wanted and found.frame_id and found.frame_id != wanted:
                self.other_frame = found.frame_id
                self._refuse({OTHER_FRAME: max(people, 1)})
            else:
                self._take(detections)

    def _refuse(self, reasons: Any) -> None:
        for reason, times in reasons.items():
            self.refused[reason] += times
            self.refused_lately.setdefault(reason, Recent(REFUSED_S)).add(times)
            self._node.get_logger().warning(
                f"{self.topic}: {times} detections refused: {reason}", throttle_duration_sec=10.0
            )

    def refuse(self, reason: str, times: int = 1) -> None:
        """Count detections that cannot be used after all, and say why."""
        self._refuse({reason: times})

    def _classes(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self._setting("person_classes").split(",") if name.strip())

    def _follow(self, bodies: tuple[str, ...]) -> None:
        """Subscribe to the boxes of these bodies, and to no others."""
        for body in set(self._rois) - set(bodies):
            self._node.destroy_subscription(self._rois.pop(body))
        for body in bodies:
            if body not in self._rois:
                roi = ros_messages.message_class(Bodies.ROI_TYPE)
                self._rois[body] = self._create(roi, Bodies.roi_topic(body), partial(self._on_roi, body))
