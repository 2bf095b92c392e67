# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its subscription, its recogniser, its publishers and its counts.

The image callback decodes, resizes and stores; `publish` runs in the node's worker thread, after the engine.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_sensor_data,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

from gc_ros.media.images import Refusal, picture_of
from gc_ros.node import foxglove, ros_messages
from gc_ros.node.diagnostics import CameraFacts, Latencies, Status, judge_camera
from gc_ros.node.ros_messages import gc_msg
from gc_ros.recognition import overlay
from gc_ros.recognition.recognizer import Activity, Recognizer, Window
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from trt_build.errors import ImageError

LATCHED = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_WATCHED = 16  # images kept for the overlay, while somebody watches


@dataclass(frozen=True)
class Job:
    """Work for the inference thread."""

    window: Window
    decode_s: float
    began: float  # time.perf_counter at the image callback


class Camera:
    """name: "" for a single camera, else the namespace of its topics (`front` -> front/image, ~/front/activity).

    submit: hands a Job to the worker. The recogniser must not own a shared engine.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        recognizer: Recognizer,
        submit: Callable[[str, Job], None],
        setting: Callable[[str], Any],
    ) -> None:
        self._node, self.name, self.recognizer = node, name, recognizer
        self._submit, self._setting = submit, setting
        prefix = f"{name}/" if name else ""
        self._compressed = setting("image_transport") == "compressed"
        self._type: Any = CompressedImage if self._compressed else Image
        self._relative = f"{prefix}image/compressed" if self._compressed else f"{prefix}image"
        self.topic = node.resolve_topic_name(self._relative)
        self._activity = node.create_publisher(gc_msg.Activity, f"~/{prefix}activity", 10)
        self._events = node.create_publisher(gc_msg.ActivityEvent, f"~/{prefix}events", LATCHED)
        self._debug = node.create_publisher(Image, f"~/{prefix}debug/image", 1)
        self._debug_jpeg = node.create_publisher(CompressedImage, f"~/{prefix}debug/image/compressed", 1)
        self._publishers = [self._activity, self._events, self._debug, self._debug_jpeg]
        self._classification = None
        classification = _classification_type()
        if classification is not None:
            self._classification = node.create_publisher(classification, f"~/{prefix}classification", 10)
            self._publishers.append(self._classification)
        self._annotations = None
        annotations = foxglove.annotations_type()
        if annotations is not None:
            self._annotations = node.create_publisher(annotations, f"~/{prefix}annotations", 10)
            self._publishers.append(self._annotations)
        self._subscription: Any = None
        self.enabled = True
        self._running = False
        self._frame_id = ""
        self._arrival: float | None = None
        self._stalled = False
        self._incompatible: str | None = None
        self._image_bytes = 0
        self._received = self._refused = self._zero_stamps = 0
        self._reported = (0, 0)
        self._first_refusal: str | None = None
        self._refusal_lately: str | None = None  # the first since the last report
        self._epoch = recognizer.epoch
        self._stamps: deque[int] = deque(maxlen=60)
        self.failures_in_row = 0  # engine runs with this camera, touched by the worker
        self._watched: OrderedDict[int, tuple[np.ndarray, bool]] = OrderedDict()
        self._latencies = Latencies()
        self._banner = overlay.Banner()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take images from now on."""
        self._running = True
        if self.enabled:
            self._subscribe()

    def stop(self, reason: str) -> None:
        """Take no more images; forget window and state; an activity that is on ends."""
        self._running = False
        self._unsubscribe()
        self.reset(reason)

    def enable(self, on: bool) -> None:
        """Switch the subscription on or off; off forgets window and state."""
        if on == self.enabled:
            return
        self.enabled = on
        if on and self._running:
            self._subscribe()
        elif not on:
            self._unsubscribe()
            self.reset("disabled")

    def reset(self, reason: str) -> None:
        """Forget window and state: warm up again."""
        events = self.recognizer.reset(reason)
        self._epoch = self.recognizer.epoch
        self._watched.clear()
        self._publish_events(events, None)

    def destroy(self) -> None:
        """Remove all that is visible of it from the graph."""
        self._unsubscribe()
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _subscribe(self) -> None:
        self._arrival = time.monotonic()
        self._stalled, self._incompatible = False, None
        self._subscription = self._node.create_subscription(
            self._type,
            self._relative,
            self._on_image,
            # rclpy writes overrides into the profile it is given: without a copy one camera's would be every other's.
            copy.copy(qos_profile_sensor_data),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _on_incompatible_qos(self, event: Any) -> None:
        self._incompatible = qos_policy_name_from_kind(event.last_policy_kind)

    # -- the image callback ----------------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        # An exception here would end the node's spin: whatever it is, it costs this image only.
        try:
            self._take(message)
        except Exception as error:
            self._refuse(f"unexpected {type(error).__name__}: {error}")

    def _take(self, message: Any) -> None:
        if self._subscription is None:  # taken by the executor before the subscription went
            return
        began = time.perf_counter()
        self._arrival = time.monotonic()
        self._received += 1
        self._image_bytes = len(message.data)
        if self._stalled:
            self._stalled = False
            self._node.get_logger().info(f"images on {self.topic} again")
        picture = picture_of(message, compressed=self._compressed)
        if isinstance(picture, Refusal):
            self._refuse(picture.reason)
            return
        stamp_ns = self._stamp(message)
        encoding = message.format if self._compressed else message.encoding
        decode_s = time.perf_counter() - began
        try:
            window = self.recognizer.offer(picture, stamp_ns, encoding=encoding)
        except ImageError as error:
            self._refuse(str(error))
            return
        decode_s += picture.decode_s
        self._frame_id = message.header.frame_id
        if self.recognizer.epoch != self._epoch:
            self._after_reset(stamp_ns)
        self._stamps.append(stamp_ns)
        if picture.ready and self._debug_wanted():  # every frame that a result can be about is
            self._watched[stamp_ns] = (picture.pixels(), picture.bgr)
            while len(self._watched) > _WATCHED:
                self._watched.popitem(last=False)
        if window is not None:
            self._submit(self.name, Job(window, decode_s, began))

    def _stamp(self, message: Any) -> int:
        stamp_ns = ros_messages.to_ns(message.header.stamp)
        if stamp_ns != 0:
            return stamp_ns
        if not self._zero_stamps:
            self._node.get_logger().warning(
                f"images on {self.topic} have no stamp; their arrival time is used"
            )
        self._zero_stamps += 1
        # Under simulated time without /clock the node's clock stands at zero.
        return int(self._node.get_clock().now().nanoseconds) or time.time_ns()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._first_refusal = self._first_refusal or reason
        self._refusal_lately = self._refusal_lately or reason
        self._node.get_logger().warning(
            f"image on {self.topic} dropped: {reason}", throttle_duration_sec=10.0
        )

    def _after_reset(self, stamp_ns: int) -> None:
        """The recogniser found a break: say so, and let an activity that was on end."""
        self._epoch = self.recognizer.epoch
        self._stamps.clear()
        self._node.get_logger().info(
            f"break in {self.topic}, window starts again; resets so far: {dict(self.recognizer.counters().resets)}",
            throttle_duration_sec=1.0,
        )
        self._publish_events(self.recognizer.take_events(), stamp_ns)

    # -- the worker's side -----------------------------------------------------------------------------------

    def publish(self, activity: Activity, job: Job, began: float) -> None:
        """All messages of a result. began: time.perf_counter before its first engine call."""
        queue_s = began - job.began
        now_ns = int(self._node.get_clock().now().nanoseconds)
        age_s = (now_ns - activity.stamp_ns) / NS if now_ns else math.nan
        max_age_s = self._setting("max_age_s")
        self._activity.publish(
            ros_messages.to_activity(
                activity,
                self._frame_id,
                late=bool(max_age_s) and age_s > max_age_s,
                age_s=age_s,
                decode_s=job.decode_s,
                queue_s=queue_s,
                refused=self._refused,
            )
        )
        self._publish_events(activity.events, activity.stamp_ns)
        if self._classification is not None:
            self._classification.publish(ros_messages.to_classification(activity, self._frame_id))
        self._latencies.add(
            age=age_s,
            decode=job.decode_s,
            preprocess=activity.preprocess_s,
            queue=queue_s,
            inference=activity.inference_s,
        )
        if self._annotations is not None and self._annotations.get_subscription_count():
            event = self._banner.at(activity.stamp_ns)
            stamp = ros_messages.to_time(activity.stamp_ns)
            self._annotations.publish(foxglove.to_annotations(activity, stamp, event))
        self._draw(activity)

    def _publish_events(self, events: list[ActivityEvent], decided_ns: int | None) -> None:
        if not self._node.context.ok():  # the process ends: nobody can be told
            return
        for event in events:
            decided = event.stamp_ns if decided_ns is None else decided_ns
            model_id = self.recognizer.info.model_id
            self._events.publish(ros_messages.to_event(event, decided, self._frame_id, model_id))
        if events:
            self._banner.add(events, decided)

    def _debug_wanted(self) -> bool:
        return bool(self._debug.get_subscription_count() or self._debug_jpeg.get_subscription_count())

    def _draw(self, activity: Activity) -> None:
        watched = self._watched.pop(activity.stamp_ns, None)
        if watched is None:
            return
        image, bgr = watched
        picture = overlay.draw(
            np.ascontiguousarray(image[..., ::-1] if bgr else image),
            activity,
            activity.assignment,
            event=self._banner.at(activity.stamp_ns),
        )
        header = ros_messages.to_header(activity.stamp_ns, self._frame_id)
        if self._debug.get_subscription_count():
            self._debug.publish(ros_messages.to_image(picture, header, "rgb8"))
        if self._debug_jpeg.get_subscription_count():
            self._debug_jpeg.publish(ros_messages.to_compressed(picture, header))

    # -- watchdog and diagnostics ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Called often by a steady timer: a camera that has stopped clears its window."""
        silent = self._silent_s()
        if self._stalled or silent is None or silent <= self._setting("stall_timeout_s"):
            return
        self._stalled = True
        if self.recognizer.warmup[0]:
            self._node.get_logger().warning(f"no image on {self.topic} for {silent:.1f} s, window cleared")
            self.reset("stall")

    def _silent_s(self) -> float | None:
        if self._subscription is None or self._arrival is None:
            return None
        return time.monotonic() - self._arrival

    def diagnose(self, waiting_for_clock: bool) -> Status:
        """Level, message and values of this camera, asked once a second."""
        type_name = f"sensor_msgs/msg/{self._type.__name__}"
        silent = self._silent_s()
        publishers, others, elsewhere = 0, [], []
        if silent is not None and silent > self._setting(
            "stall_timeout_s"
        ):  # the graph is asked only when silent
            infos = self._node.get_publishers_info_by_topic(self.topic)
            others = sorted({info.topic_type for info in infos} - {type_name})
            fitting = [info for info in infos if info.topic_type == type_name]
            publishers = len(fitting)
            # The middleware's event tells too, but only once: the graph tells what is so now.
            if self._incompatible is None and fitting and not any(map(self._offers_enough, fitting)):
                self._incompatible = "RELIABILITY"
            if not publishers:
                elsewhere = self._topics_of(type_name)
        counts = self.recognizer.counters()
        received_before, refused_before = self._reported
        self._reported = (self._received, self._refused)
        refusal_lately, self._refusal_lately = self._refusal_lately, None
        period = self.recognizer.camera_period_s
        facts = CameraFacts(
            topic=self.topic,
            remap=self._relative,
            type_name=type_name,
            active=self._running,
            enabled=self.enabled,
            publishers=publishers,
            other_types=others,
            elsewhere=elsewhere,
            incompatible_policy=self._incompatible,
            qos_parameter=f"qos_overrides.{self.topic}.subscription.",
            silent_s=silent,
            stall_timeout_s=self._setting("stall_timeout_s"),
            received=self._received,
            refused=self._refused,
            refused_lately=self._refused - refused_before,
            received_lately=self._received - received_before,
            first_refusal=self._first_refusal,
            refusal_lately=refusal_lately,
            rate_hz=1 / period if period and not self._stalled else None,
            lost_share=lost_share(list(self._stamps)),
            image_bytes=self._image_bytes,
            big_segment=_big_segment(),
            warmup=self.recognizer.warmup,
            zero_stamps=self._zero_stamps,
            waiting_for_clock=waiting_for_clock,
            age_s=self._latencies.last("age"),
            max_age_s=self._setting("max_age_s"),
            counts={
                "images sampled": counts.frames_sampled,
                **{f"images dropped: {reason}": n for reason, n in counts.dropped.items()},
                **{f"resets: {reason}": n for reason, n in counts.resets.items()},
                "results": counts.results,
                "windows skipped": counts.windows_skipped,
            },
            latency=self._latencies.values("age", "decode", "preprocess", "queue", "inference"),
        )
        return judge_camera(facts)

    def _offers_enough(self, publisher: Any) -> bool:
        reliable = ReliabilityPolicy.RELIABLE
        override = f"qos_overrides.{self.topic}.subscription.reliability"
        wanted = self._node.get_parameter_or(override).value if self._node.has_parameter(override) else None
        return wanted != "reliable" or publisher.qos_profile.reliability == reliable

    def _topics_of(self, type_name: str) -> list[str]:
        """Topics of a type that do have a publisher, and are neither this node's own nor another camera's of it."""
        node, name, space = self._node, self._node.get_name(), self._node.get_namespace()
        own = {t for t, _ in node.get_publisher_names_and_types_by_node(name, space)}
        own |= {t for t, _ in node.get_subscriber_names_and_types_by_node(name, space)}
        topics = node.get_topic_names_and_types()
        return sorted(
            t for t, types in topics if type_name in types and t not in own and node.count_publishers(t)
        )


def lost_share(stamps: list[int]) -> float | None:
    """Share of images that never arrived, judged by steps of more than one and a half of the shortest usual period."""
    steps = [b - a for a, b in pairwise(stamps) if b > a]
    if len(steps) < 10:
        return None
    period = float(np.percentile(steps, 10))
    expected = sum(max(round(step / period), 1) for step in steps)
    return 1 - len(steps) / expected


def _big_segment() -> bool:
    fast_dds = get_rmw_implementation_identifier().startswith("rmw_fastrtps")
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return not fast_dds or any(os.environ.get(name) for name in names)


def _classification_type() -> Any:
    try:
        from vision_msgs.msg import Classification
    except ImportError:
        return None
    return Classification


def to_diagnostic(name: str, hardware_id: str, status: Status) -> DiagnosticStatus:
    """As diagnostic_msgs/DiagnosticStatus."""
    values = [KeyValue(key=key, value=value) for key, value in status.values.items()]
    level = bytes([status.level])
    return DiagnosticStatus(
        level=level, name=name, message=status.message, hardware_id=hardware_id, values=values
    )
