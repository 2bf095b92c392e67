# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its recogniser, its counts, and what /diagnostics says about it.

Images come from its `Input`; taking one means to resize and store it. What comes of it is published by `results`, in
the inference thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from gc_ros.media.images import Picture
from gc_ros.node import graph
from gc_ros.node.diagnostics import (
    RESETS_S,
    STAMPS_S,
    CameraFacts,
    Recent,
    Status,
    judge_camera,
)
from gc_ros.node.input import Arrived, Input
from gc_ros.node.people import CameraPeople, Jobs
from gc_ros.node.results import Job, Results
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.people import People
from gc_ros.recognition.recognizer import Counters, Recognizer
from trt_build.errors import ImageError

# Resets that the images cause; the others are somebody's wish.
_BEGINS_WITHIN_S = 1.0  # a video stream
_BREAKS_OF_STREAM = ("gap", "backward", "size change", "encoding change")


class Camera:
    """name: "" for a single camera, else the namespace of its topics (`front` -> front/image, ~/front/activity).

    submit: hands work to the inference thread, by the keys of its recognisers: the camera's name, or people's. setting:
    the value of a parameter of the node. people: recognises the people one by one, None: nobody does. The recognisers
    must not own a shared engine.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        recognizer: Recognizer,
        submit: Callable[[Jobs], None],
        setting: Callable[[str], Any],
        people: People | None = None,
    ) -> None:
        self._node, self.name, self.recognizer = node, name, recognizer
        self._submit, self._setting = submit, setting
        prefix = f"{name}/" if name else ""
        self.input = Input(node, f"{prefix}image", setting, self._offer, lambda: recognizer.asked)
        self.topic = self.input.topic
        useless = lambda: self.input.refused + self.input.unusable
        info = recognizer.info
        # A network that starts again in a step has one result a start.
        frames = max(recognizer.stride, info.reset_after if recognizer.mode == "step" else 0)
        self.results = Results(
            node, prefix, info.model_id, setting, useless, frames / info.rate_hz, people is not None
        )
        recognizer.log_events(self.results.log)
        self._size: tuple[int, int] | None = None  # of the newest image
        self._taken = time.monotonic()  # when it came
        self.people: CameraPeople | None = None
        if people is not None:
            self.people = CameraPeople(
                node, prefix, people, self.results, submit, setting, lambda: self._size
            )
        self.enabled = True
        self._running = False
        self._lately = {name: Recent(STAMPS_S) for name in ("stamped", "repeated")}
        self._breaks: dict[str, Recent] = {}  # by reason
        self._counts_before = recognizer.counters()
        self._epoch = recognizer.epoch
        self._stamps: deque[int] = deque(maxlen=60)
        # Called in the inference thread with each result, the picture's and its people's.
        self.watching: Callable[[Activity], None] | None = None

    @property
    def topics(self) -> list[str]:
        """That it subscribes to, those of single bodies aside."""
        return [self.topic, *([self.people.input.topic] if self.people is not None else [])]

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

    def _subscribe(self) -> None:
        self.input.subscribe()
        if self.people is not None:
            self.people.subscribe()

    def _unsubscribe(self) -> None:
        self.input.unsubscribe()
        if self.people is not None:
            self.people.unsubscribe()

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
        self.input.clear()
        self.recognizer.reset(reason)
        self._epoch = self.recognizer.epoch
        # What comes after a pause is not lost before it.
        self._stamps.clear()
        self.results.publish_events()
        if self.people is not None:
            self.people.reset(reason)
        # Last: while they were there, the inference thread may have shown them once more.
        self.results.forget()

    def destroy(self) -> None:
        """Remove the camera's topics from the graph."""
        self.input.destroy()
        self.results.destroy()
        if self.people is not None:
            self.people.destroy()

    # -- images ----------------------------------------------------------------------------------------------

    def _offer(self, arrived: Arrived, picture: Picture, decode_s: float) -> None:
        """Give the recogniser an image. In the executor's thread, or that which decodes."""
        message, stamp_ns = arrived.message, arrived.stamp_ns
        encoding = self.input.transport.encoding(message)
        self.results.saw(stamp_ns, self.input.transport.frame_id(message))  # before a result may come
        try:
            window = self.recognizer.offer(picture, stamp_ns, encoding=encoding, asked=arrived.asked)
        except ImageError as error:
            self.input.refuse(str(error))
            return
        if arrived.asked != self.recognizer.asked:
            return
        self._taken = time.monotonic()
        decode_s += picture.decode_s
        if self.recognizer.epoch != self._epoch:
            self._after_reset(stamp_ns)
        self._stamps.append(stamp_ns)
        self._size = picture.width, picture.height
        jobs: dict[str, Job] = {}
        # A result may be about this very frame, and about no other.
        if window is not None or (self.people is not None and self.people.people.would_take(stamp_ns)):
            self.results.watch(picture, stamp_ns)
        if window is not None:
            jobs[self.name] = Job(window, decode_s, arrived.began)
        if self.people is not None:
            self.people.offer(picture, stamp_ns, encoding, arrived.asked, jobs)
        elif jobs:
            self._submit(jobs)

    def _after_reset(self, stamp_ns: int) -> None:
        """The recogniser found a break: say so, and let an activity that was on end."""
        self._epoch = self.recognizer.epoch
        self._stamps.clear()
        self._node.get_logger().info(
            f"break in {self.topic}, window starts again; resets so far: {dict(self.recognizer.counters().resets)}",
            throttle_duration_sec=1.0,
        )
        self.results.publish_events(stamp_ns)

    def tell_what_ended(self) -> None:
        """What a failed engine call or other lessons ended is told at once, whether an image comes or not."""
        self.results.publish_events()
        if self.people is not None:
            self.people.results.publish_events()
            self.people.results.settle()

    # -- watchdog and diagnostics ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Called often by a steady timer: a camera that has stopped clears its window."""
        silent, limit = self.input.silent_s, self._setting("stall_timeout_s")
        if self.input.stalled or silent is None:
            return
        if silent <= limit:
            # Messages without a picture, refused or between key frames, tell nothing new either.
            blind = time.monotonic() - self._taken
            if blind > limit:
                self._clear_stale(blind, "no usable image on")
            return
        self.input.stalled = True
        self._clear_stale(silent, "no image on")

    def _clear_stale(self, seconds: float, what: str) -> None:
        # After a failed engine call people may be there whose windows, like the picture's, are empty.
        if self.recognizer.warmup[0] or (self.people is not None and self.people.people.present):
            self._node.get_logger().warning(f"{what} {self.topic} for {seconds:.1f} s, window cleared")
            self.reset("stall")

    def diagnose_people(self) -> Status | None:
        """The same of the people in front of it; None where nobody is recognised alone."""
        return None if self.people is None else self.people.diagnose(self._running, self.enabled)

    def diagnose(self, waiting_for_clock: bool) -> Status:
        """Level, message and values of this camera, asked once a second."""
        silent = self.input.silent_s
        publishers, elsewhere = graph.Publishers(), []
        stalled = silent is not None and silent > self._setting("stall_timeout_s")
        # Asking who they are costs more than counting them.
        if stalled or (self._running and self._node.count_publishers(self.topic) > 1):
            publishers = graph.publishers_of(self._node, self.topic, self.input.transport.type_name)
            if stalled:
                # The middleware's event tells too, but only once: the graph tells what is so now.
                self.input.judge_qos(publishers.fitting, publishers.reliable_enough)
                if not publishers.fitting:
                    elsewhere = graph.topics_of(self._node, self.input.transport.type_name)
        counts = self._note_counts()
        lately = self._lately
        period = self.recognizer.camera_period_s
        latencies = self.results.latencies
        waiting = self.input.waiting_since
        waited_s = 0.0 if waiting is None else time.monotonic() - waiting
        facts = CameraFacts(
            topic=self.topic,
            remap=self.input.remap,
            type_name=self.input.transport.type_name,
            active=self._running,
            enabled=self.enabled,
            publishers=publishers.fitting,
            other_types=publishers.other_types,
            elsewhere=elsewhere,
            incompatible_policy=self.input.incompatible,
            qos_parameter=f"qos_overrides.{self.topic}.subscription.",
            silent_s=silent,
            stall_timeout_s=self._setting("stall_timeout_s"),
            received=self.input.received,
            refused=self.input.refused,
            first_refusal=self.input.first_refusal,
            refused_lately=self.input.lately["refused"].count,
            received_lately=self.input.lately["received"].count,
            refusal_lately=self.input.lately["refused"].remark,
            stamped_lately=lately["stamped"].count,
            repeated_lately=lately["repeated"].count,
            zero_stamps_lately=self.input.lately["zero stamp"].count,
            breaks_lately={reason: breaks.count for reason, breaks in self._breaks.items()},
            publisher_names=publishers.nodes,
            rate_hz=1 / period if period and not self.input.stalled else None,
            lost_share=lost_share(list(self._stamps)),
            image_bytes=self.input.image_bytes,
            big_segment=graph.carries_large_images(),
            warmup=self.recognizer.warmup,
            # A stream with B-frames begins with some packets that have no image yet.
            waiting_s=None if waited_s < _BEGINS_WITHIN_S else waited_s,
            zero_stamps=self.input.zero_stamps,
            waiting_for_clock=waiting_for_clock,
            age_s=self.results.age.remark,
            unpublished=self.results.unpublished.remark,
            max_age_s=self._setting("max_age_s"),
            counts={
                "images sampled": counts.frames_sampled,
                **{f"images dropped: {reason}": n for reason, n in counts.dropped.items()},
                **(
                    {"packets before a key frame": self.input.unusable}
                    if self.input.transport.stateful
                    else {}
                ),
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
