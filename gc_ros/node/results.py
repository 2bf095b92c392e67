# SPDX-License-Identifier: Apache-2.0
"""What the node publishes about one camera: activities, events, the overlay, and their times.

`publish` runs in the inference thread after the engine; events of a break come from the image callback.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from gc_ros.media.images import Picture
from gc_ros.node import foxglove, ros_messages, rviz
from gc_ros.node.diagnostics import AGE_S, Latencies, Recent
from gc_ros.node.ros_messages import CompressedImage, Image, gc_msg
from gc_ros.recognition import overlay, people_overlay
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.event_log import EventLog
from gc_ros.recognition.intake import Window
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from trt_build.errors import ImageError

_FRAME_IDS = 256  # changes of a camera's frame_id that are remembered
_WATCHED = 16  # images kept for the overlay, while somebody watches


@dataclass(frozen=True)
class Job:
    """Work for the inference thread."""

    window: Window
    decode_s: float
    began: float  # time.perf_counter at the image callback


class Results:
    """Publishers of one camera.

    prefix: of its topics below the node's name, "" or "front/". setting: the value of a parameter of the node.
    refused: how many images never reached the recogniser. apart_s: from one result to the next. with_people: whether
    people are recognised, too.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        model_id: str,
        setting: Callable[[str], Any],
        refused: Callable[[], int],
        apart_s: float,
        with_people: bool = False,
    ) -> None:
        self._node, self._model_id, self._setting, self._refused = node, model_id, setting, refused
        self._with_people = with_people
        self._publishers: list[Any] = []
        self.log = EventLog()  # of the picture's recogniser
        # While somebody is there, what shows the picture shows the people.
        self.showing_people = False
        self._scene: Activity | None = None  # the newest result of the picture
        self._activity = self._create(gc_msg.Activity, f"~/{prefix}activity", 10)
        self._events = self._create(gc_msg.ActivityEvent, f"~/{prefix}events", ros_messages.latched(10))
        self._debug = self._create(Image, f"~/{prefix}debug/image", 1)
        self._debug_jpeg = self._create(CompressedImage, f"~/{prefix}debug/image/compressed", 1)
        # Published where the package of their message is installed.
        self._classification = self._create(
            ros_messages.classification_type(), f"~/{prefix}classification", 10
        )
        self._annotations = self._create(foxglove.annotations_type(), f"~/{prefix}annotations", 10)
        self._markers = rviz.Shown(self._create(rviz.markers_type(), f"~/{prefix}markers", 10), apart_s)
        self._watched: OrderedDict[int, tuple[np.ndarray, bool]] = OrderedDict()
        self._banner = overlay.Banner()
        self.latencies = Latencies()
        self.age = Recent(AGE_S)  # the newest remark is the age of the newest result, seconds
        self.unpublished = Recent(AGE_S)
        self._frame_ids: deque[tuple[int, str]] = deque(maxlen=_FRAME_IDS)  # each since its stamp

    def _create(self, message_type: Any, topic: str, qos: Any) -> Any:
        if message_type is None:
            return None
        publisher = self._node.create_publisher(message_type, topic, qos)
        self._publishers.append(publisher)
        return publisher

    def destroy(self) -> None:
        """Remove the publishers from the graph."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def saw(self, stamp_ns: int, frame_id: str) -> None:
        """An image came, of which a result may be."""
        # After a jump back, what was so later no longer is.
        while self._frame_ids and self._frame_ids[-1][0] > stamp_ns:
            self._frame_ids.pop()
        if frame_id != self.frame_id:
            self._frame_ids.append((stamp_ns, frame_id))

    @property
    def frame_id(self) -> str:
        """Of the newest image."""
        return self._frame_ids[-1][1] if self._frame_ids else ""

    def frame_id_of(self, stamp_ns: int) -> str:
        """Of the image with this stamp: results come later, and cameras change theirs."""
        changes = list(self._frame_ids)
        return next((name for since, name in reversed(changes) if since <= stamp_ns), self.frame_id)

    def publish(self, activity: Activity, job: Job, began: float) -> None:
        """All messages of a result. began: time.perf_counter before its first engine call."""
        with self.guarded():
            self._publish(activity, job, began)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What cannot be published costs itself alone, and is said."""
        try:
            yield
        except Exception as error:
            if not self._node.context.ok():  # the process ends: nobody can be told
                return
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.unpublished.add(remark=reason)
            self._node.get_logger().error(
                f"a result cannot be published: {reason}", throttle_duration_sec=10.0
            )

    def _publish(self, activity: Activity, job: Job, began: float) -> None:
        queue_s = began - job.began
        now_ns = int(self._node.get_clock().now().nanoseconds)
        age_s = (now_ns - activity.stamp_ns) / NS if now_ns else math.nan
        max_age_s = self._setting("max_age_s")
        frame_id = self.frame_id_of(activity.stamp_ns)
        self._activity.publish(
            ros_messages.to_activity(
                activity,
                frame_id,
                late=bool(max_age_s) and age_s > max_age_s,
                age_s=age_s,
                decode_s=job.decode_s,
                queue_s=queue_s,
                refused=self._refused(),
                scene=self._with_people,
            )
        )
        self.publish_events(activity.stamp_ns)
        if self._classification is not None:
            self._classification.publish(ros_messages.to_classification(activity, frame_id))
        self.age.add(remark=age_s)
        self.latencies.add(
            age=age_s,
            decode=job.decode_s,
            preprocess=activity.preprocess_s,
            queue=queue_s,
            inference=activity.inference_s,
        )
        self._scene = activity
        if self.showing_people:
            return
        if self._annotations is not None and self._annotations.get_subscription_count():
            event = self._banner.at(activity.stamp_ns)
            stamp = ros_messages.to_time(activity.stamp_ns)
            self._annotations.publish(foxglove.to_annotations(activity, stamp, event))
        self._markers.picture(activity, frame_id, float(self._setting("marker_fov_deg")))
        self._draw(activity)

    def show_people(self, people: Sequence[PersonActivity], newest: Activity) -> None:
        """Annotations, markers and overlay of everybody's newest result, where somebody watches. newest: of these."""
        before, self.showing_people = self.showing_people, bool(people)
        if not people:
            if before:
                self._markers.clear()
            return
        size = newest.width, newest.height
        if self._annotations is not None and self._annotations.get_subscription_count():
            stamp = ros_messages.to_time(newest.stamp_ns)
            self._annotations.publish(foxglove.to_people_annotations(people, self._scene, stamp, size[1]))
        fov_deg = float(self._setting("marker_fov_deg"))
        self._markers.people(people, size, newest.stamp_ns, self.frame_id_of(newest.stamp_ns), fov_deg)
        # The frames of the people are chosen apart from those of the picture, which are kept.
        image = self._kept(newest.stamp_ns, NS // 4)
        if image is not None:
            self._publish_drawn(people_overlay.draw_people(image, people, self._scene), newest.stamp_ns)

    def publish_events(self, decided_ns: int | None = None) -> None:
        """Onsets and offsets that were noted in `log`.

        decided_ns: stamp of the frame that decided those of which the log does not say; None: each event's own.
        """

        def publish(person: str, event: ActivityEvent, known_ns: int | None) -> None:
            decided = self.publish_event(person, event, decided_ns if known_ns is None else known_ns)
            self._banner.add([event], decided)

        self.log.publish(publish)

    def publish_event(self, person: str, event: ActivityEvent, decided_ns: int | None) -> int:
        """One onset or offset of a person, "" for the whole picture. Returns the stamp of the frame that decided it."""
        decided = event.stamp_ns if decided_ns is None else decided_ns
        with self.guarded():
            frame_id = self.frame_id_of(decided)
            self._events.publish(ros_messages.to_event(event, decided, frame_id, self._model_id, person))
        return decided

    # -- the overlay -----------------------------------------------------------------------------------------

    @property
    def _debug_wanted(self) -> bool:
        return bool(self._debug.get_subscription_count() or self._debug_jpeg.get_subscription_count())

    def watch(self, picture: Picture, stamp_ns: int) -> None:
        """Keep the image of a result that is due, for the overlay, while somebody subscribes to it."""
        if not self._debug_wanted:
            return
        try:
            self._watched[stamp_ns] = (picture.pixels(), picture.bgr)
        except ImageError:  # said where it is recognised
            return
        while len(self._watched) > _WATCHED:
            self._watched.popitem(last=False)

    def forget(self) -> None:
        """Drop the images kept for the overlay, and who was shown; RViz shows nothing."""
        self._watched.clear()
        with self.guarded():
            self._markers.clear()
        self.showing_people, self._scene = False, None

    def _kept(self, stamp_ns: int, within_ns: int = 0) -> np.ndarray | None:
        """The image of this stamp, or the nearest within so much of it, as RGB; None where none was kept."""
        nearest = min(list(self._watched), key=lambda kept: abs(kept - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > within_ns:
            return None
        kept = self._watched.pop(nearest, None)
        if kept is None:  # forgotten meanwhile
            return None
        image, bgr = kept
        return np.ascontiguousarray(image[..., ::-1] if bgr else image)

    def _draw(self, activity: Activity) -> None:
        image = self._kept(activity.stamp_ns)
        if image is not None:
            event = self._banner.at(activity.stamp_ns)
            picture = overlay.draw(image, activity, activity.assignment, event=event)
            self._publish_drawn(picture, activity.stamp_ns)

    def _publish_drawn(self, picture: np.ndarray, stamp_ns: int) -> None:
        header = ros_messages.to_header(stamp_ns, self.frame_id_of(stamp_ns))
        if self._debug.get_subscription_count():
            self._debug.publish(ros_messages.to_image(picture, header, "rgb8"))
        if self._debug_jpeg.get_subscription_count():
            self._debug_jpeg.publish(ros_messages.to_compressed(picture, header))
