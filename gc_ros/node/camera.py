# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its subscription, its recogniser, its counts, and what /diagnostics says about it.

The image callback resizes and stores; compressed images are first decoded in a thread of their camera, see `decoding`.
What comes of it is published by `results`, in the inference thread.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

from gc_ros.media.images import Refusal, picture_of
from gc_ros.node import graph, ros_messages
from gc_ros.node.decoding import Decoding
from gc_ros.node.diagnostics import (
    REFUSED_S,
    RESETS_S,
    STAMPS_S,
    CameraFacts,
    Recent,
    Status,
    judge_camera,
)
from gc_ros.node.results import Job, Results
from gc_ros.node.ros_messages import CompressedImage, Image
from gc_ros.recognition.recognizer import Counters, Recognizer
from trt_build.errors import ImageError

# Resets that the images cause; the others are somebody's wish.
_BREAKS_OF_STREAM = ("gap", "backward", "size change", "encoding change")


@dataclass(frozen=True)
class _Arrived:
    """An image message as the executor took it."""

    message: Any
    stamp_ns: int
    began: float  # time.perf_counter
    asked: int  # resets asked for until then: a later one makes the image void


class Camera:
    """name: "" for a single camera, else the namespace of its topics (`front` -> front/image, ~/front/activity).

    submit: hands a Job to the inference thread. setting: the value of a parameter of the node. The recogniser must not
    own a shared engine.
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
        self._type_name = f"sensor_msgs/msg/{self._type.__name__}"
        raw = f"{prefix}image"
        self._remap = f"{raw}/compressed" if self._compressed else raw  # the topic's name in a remapping
        self._name = graph.compressed_topic(node, raw) if self._compressed else raw
        self.topic = node.resolve_topic_name(self._name)
        self.results = Results(node, prefix, recognizer.info.model_id, setting, lambda: self.refused)
        self._subscription: Any = None
        self._decoding: Decoding | None = None
        if self._compressed:
            self._decoding = Decoding(
                self._take_safely, self._refuse, lambda: float(setting("decode_budget"))
            )
        self._refusing = threading.Lock()
        self.enabled = True
        self._running = False
        self._arrival: float | None = None
        self._stalled = False
        self._incompatible: str | None = None
        self._image_bytes = 0
        self.received = self.refused = self._zero_stamps = 0
        self.first_refusal: str | None = None
        self._lately = {"received": Recent(REFUSED_S), "refused": Recent(REFUSED_S)}
        self._lately |= {name: Recent(STAMPS_S) for name in ("stamped", "repeated", "zero stamp")}
        self._breaks: dict[str, Recent] = {}  # by reason
        self._counts_before = recognizer.counters()
        self._epoch = recognizer.epoch
        self._stamps: deque[int] = deque(maxlen=60)
        self.failures_in_row = 0  # engine runs with this camera, touched by the inference thread

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
        if self._decoding is not None:
            self._decoding.clear()
        events = self.recognizer.reset(reason)
        self._epoch = self.recognizer.epoch
        self.results.forget()
        self.results.publish_events(events, None)

    def destroy(self) -> None:
        """Remove the camera's topics from the graph."""
        self._unsubscribe()
        if self._decoding is not None:
            self._decoding.stop()
        self.results.destroy()

    def _subscribe(self) -> None:
        self._arrival = time.monotonic()
        self._stalled, self._incompatible = False, None
        self._subscription = self._node.create_subscription(
            self._type,
            self._name,
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
            arrived = self._arrived(message)
        except Exception as error:
            self._refuse(f"unexpected {type(error).__name__}: {error}")
            return
        if arrived is None:
            return
        if self._decoding is not None:
            self._decoding.put(arrived)
        else:
            self._take_safely(arrived)

    def _arrived(self, message: Any) -> _Arrived | None:
        """Note that an image has come; None where nobody wants it any more."""
        if self._subscription is None:  # taken by the executor before the subscription went
            return None
        began = time.perf_counter()
        self._arrival = time.monotonic()
        self.received += 1
        self._lately["received"].add()
        self._image_bytes = len(message.data)
        if self._stalled:
            self._stalled = False
            self._node.get_logger().info(f"images on {self.topic} again")
        wrong_stamp = ros_messages.refuse_stamp(message.header.stamp)
        if wrong_stamp:
            self._refuse(wrong_stamp)
            return None
        return _Arrived(message, self._stamp(message), began, self.recognizer.asked)

    def _take_safely(self, arrived: _Arrived) -> None:
        try:
            self._take(arrived)
        except Exception as error:
            if (
                arrived.asked == self.recognizer.asked
            ):  # else it was stopped in the midst, and may be destroyed
                self._refuse(f"unexpected {type(error).__name__}: {error}")

    def _take(self, arrived: _Arrived) -> None:
        message, stamp_ns = arrived.message, arrived.stamp_ns
        began = time.perf_counter()
        picture = picture_of(message, compressed=self._compressed)
        if isinstance(picture, Refusal):
            self._refuse(picture.reason)
            return
        encoding = message.format if self._compressed else message.encoding
        decode_s = time.perf_counter() - began
        try:
            window = self.recognizer.offer(picture, stamp_ns, encoding=encoding, asked=arrived.asked)
        except ImageError as error:
            self._refuse(str(error))
            return
        if arrived.asked != self.recognizer.asked:
            return
        decode_s += picture.decode_s
        self.results.frame_id = message.header.frame_id
        if self.recognizer.epoch != self._epoch:
            self._after_reset(stamp_ns)
        self._stamps.append(stamp_ns)
        if window is not None:
            self.results.watch(picture, stamp_ns)  # a result may be about this very frame, and about no other
            self._submit(self.name, Job(window, decode_s, arrived.began))

    def _stamp(self, message: Any) -> int:
        stamp_ns = ros_messages.to_ns(message.header.stamp)
        if stamp_ns != 0:
            return stamp_ns
        if not self._zero_stamps:
            self._node.get_logger().warning(
                f"images on {self.topic} have no stamp; their arrival time is used"
            )
        self._zero_stamps += 1
        self._lately["zero stamp"].add()
        # Under simulated time without /clock the node's clock stands at zero.
        return int(self._node.get_clock().now().nanoseconds) or time.time_ns()

    def _refuse(self, reason: str) -> None:
        with self._refusing:  # by the executor and by the thread that decodes
            self.refused += 1
            self.first_refusal = self.first_refusal or reason
            self._lately["refused"].add(remark=reason)
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
        self.results.publish_events(self.recognizer.take_events(), stamp_ns)

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
        silent = self._silent_s()
        publishers, elsewhere = graph.Publishers(), []
        stalled = silent is not None and silent > self._setting("stall_timeout_s")
        # Asking who they are costs more than counting them.
        if stalled or (self._running and self._node.count_publishers(self.topic) > 1):
            publishers = graph.publishers_of(self._node, self.topic, self._type_name)
            # The middleware's event tells too, but only once: the graph tells what is so now.
            if stalled and self._incompatible is None and not publishers.reliable_enough:
                self._incompatible = "RELIABILITY"
            if stalled and not publishers.fitting:
                elsewhere = graph.topics_of(self._node, self._type_name)
        counts = self._note_counts()
        lately = self._lately
        period = self.recognizer.camera_period_s
        latencies = self.results.latencies
        facts = CameraFacts(
            topic=self.topic,
            remap=self._remap,
            type_name=self._type_name,
            active=self._running,
            enabled=self.enabled,
            publishers=publishers.fitting,
            other_types=publishers.other_types,
            elsewhere=elsewhere,
            incompatible_policy=self._incompatible,
            qos_parameter=f"qos_overrides.{self.topic}.subscription.",
            silent_s=silent,
            stall_timeout_s=self._setting("stall_timeout_s"),
            received=self.received,
            refused=self.refused,
            first_refusal=self.first_refusal,
            refused_lately=lately["refused"].count,
            received_lately=lately["received"].count,
            refusal_lately=lately["refused"].remark,
            stamped_lately=lately["stamped"].count,
            repeated_lately=lately["repeated"].count,
            zero_stamps_lately=lately["zero stamp"].count,
            breaks_lately={reason: breaks.count for reason, breaks in self._breaks.items()},
            publisher_names=publishers.nodes,
            rate_hz=1 / period if period and not self._stalled else None,
            lost_share=lost_share(list(self._stamps)),
            image_bytes=self._image_bytes,
            big_segment=graph.carries_large_images(),
            warmup=self.recognizer.warmup,
            zero_stamps=self._zero_stamps,
            waiting_for_clock=waiting_for_clock,
            age_s=self.results.age.remark,
            unpublished=self.results.unpublished.remark,
            max_age_s=self._setting("max_age_s"),
            counts={
                "images sampled": counts.frames_sampled,
                **{f"images dropped: {reason}": n for reason, n in counts.dropped.items()},
                **{f"resets: {reason}": n for reason, n in counts.resets.items()},
                "results": counts.results,
                "windows skipped": counts.windows_skipped,
            },
            latency=latencies.values("age", "decode", "preprocess", "queue", "inference"),
        )
        return judge_camera(facts)

    def _note_counts(self) -> Counters:
        """The recogniser's counts; what is new since the last report goes into the windows of the conditions."""
        now = self.recognizer.counters()
        before, self._counts_before = self._counts_before, now
        self._lately["stamped"].add(now.frames_received - before.frames_received)
        self._lately["repeated"].add(now.dropped.get("duplicate", 0) - before.dropped.get("duplicate", 0))
        for reason, n in now.resets.items():
            if reason in _BREAKS_OF_STREAM:
                breaks = self._breaks.setdefault(reason, Recent(RESETS_S))
                breaks.add(n - before.resets.get(reason, 0))
        return now


def lost_share(stamps: list[int]) -> float | None:
    """Share of images that never arrived, judged by steps of more than one and a half of the shortest usual period."""
    steps = [b - a for a, b in pairwise(stamps) if b > a]
    if len(steps) < 10:
        return None
    period = float(np.percentile(steps, 10))
    expected = sum(max(round(step / period), 1) for step in steps)
    return 1 - len(steps) / expected
