# SPDX-License-Identifier: Apache-2.0
"""The node as a process of its own, and somebody who listens to it: what both ways of `make demo` share."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Both ends, before the first participant: shared memory only, this machine only, a domain of its own.
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds_shm.xml")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(100, 230))

from gc_ros.recognition.activity import Activity, Glimpse  # noqa: E402
from gc_ros.recognition.smoothing import ActivityEvent  # noqa: E402
from trt_build.bundle import Bundle, LoadedBundle  # noqa: E402
from trt_build.errors import GlimpseError  # noqa: E402

WAIT_S = 60.0  # for the node to be found: it may have to build an engine first
SLICE_S = 0.1  # so long does a demo that shall end still wait for a message
_ended = threading.Event()
_in_ros = threading.Event()


def end_demo(*_: object) -> None:
    """Handler of the signals that end a demo.

    Nothing is raised while ROS runs: raised where a message is converted, KeyboardInterrupt becomes another error in
    rclpy's native code, and a callback may swallow it. `Robot.spin` raises it afterwards.
    """
    _ended.set()
    if not _in_ros.is_set():
        raise KeyboardInterrupt


class Robot:
    """The node with a bundle, and a ROS node that gets its messages; use it in a `with` block.

    Raises GlimpseError where ROS is missing and, at the end of the block, where the node failed.
    """

    def __init__(
        self, bundle: LoadedBundle, on_activity: Callable[[Any], None], on_event: Callable[[Any], None]
    ) -> None:
        from gc_ros.node.ros_messages import gc_msg  # says in one line when ROS is missing

        self._bundle, self._gc_msg = bundle, gc_msg
        self._on_activity, self._on_event = on_activity, on_event
        self.messages = 0
        self._found = 0  # publishers of the node

    def __enter__(self) -> Robot:
        import rclpy
        import rclpy.signals
        from rclpy.event_handler import SubscriptionEventCallbacks

        def found(status: Any) -> None:
            self._found += status.current_count_change

        info = self._bundle.info
        command = [sys.executable, str(ROOT / "scripts" / "activity_node"), "--ros-args"]
        command += ["-p", f"bundle:={self._bundle.path}", "-p", f"top_k:={len(info.labels)}"]
        # Ctrl-C is for whoever spins: ROS would shut down under them.
        rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self.node = rclpy.create_node("demo_listener")
        self._executor = rclpy.executors.SingleThreadedExecutor()
        for kind, name, callback in (
            (self._gc_msg.Activity, "activity", self._count),
            (self._gc_msg.ActivityEvent, "events", self._on_event),
        ):
            self.node.create_subscription(
                kind,
                f"/activity_recognition/{name}",
                callback,
                100,
                event_callbacks=SubscriptionEventCallbacks(matched=found),
            )
        self._executor.add_node(self.node)
        # Last, so that nothing that fails before leaves it. The environment's own Python finds the packages.
        self._process = subprocess.Popen(command)
        return self

    @property
    def alive(self) -> bool:
        """Whether the process of the node runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Until DDS has found what the node publishes, which may take seconds longer than its camera's topic does.

        Raises GlimpseError where the node is not there in time; returns at once where its process has ended.
        """
        deadline = time.monotonic() + WAIT_S
        while self._found < 2 and self.alive:
            if time.monotonic() > deadline:
                raise GlimpseError(f"the node published nothing that could be found within {WAIT_S:g} s")
            self.spin(SLICE_S)

    def spin(self, seconds: float, *, ended: bool = False) -> None:
        """Take messages for so long. Raises KeyboardInterrupt where the demo shall end.

        ended: it has, these are the last.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            _in_ros.set()
            try:
                self._executor.spin_once(timeout_sec=min(left, SLICE_S))
            finally:
                _in_ros.clear()
            if _ended.is_set() and not ended:
                raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import rclpy

        if self.alive:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()
        if code and error is None:
            raise GlimpseError(f"the node ended with exit code {code}; its last lines above say why")

    def _count(self, message: Any) -> None:
        self.messages += 1
        self._on_activity(message)


def status_of(message: Any) -> str:
    """The status of a message in a word, "" where it stands."""
    return {message.STATUS_OK: "", message.STATUS_UNKNOWN: "unknown", message.STATUS_LATE: "late"}[
        message.status
    ]


def to_event(message: Any, stamp_ns: int) -> ActivityEvent:
    """A received event as the recogniser's own. stamp_ns: when the activity began or ended, by the demo's clock."""
    kind: Literal["onset", "offset"] = "onset" if message.kind == message.ONSET else "offset"
    return ActivityEvent(kind, message.label, message.class_index, stamp_ns, message.score)


def say_event(seconds: float, event: ActivityEvent) -> None:
    """Print that an activity began or ended. seconds: since the demo began."""
    print(f"{seconds:7.2f} s  {event.label} {'began' if event.kind == 'onset' else 'ended'}", flush=True)


def from_message(message: Any, info: Bundle) -> Activity:
    """A received message as the recogniser's own result, for the overlay. top_k must hold every label."""
    from gc_ros.node.ros_messages import to_ns

    scores = np.zeros(len(info.labels))
    for entry in message.top_k:
        scores[entry.class_index] = entry.score
    return Activity(
        stamp_ns=to_ns(message.header.stamp),
        window_start_ns=to_ns(message.window_start),
        window_end_ns=to_ns(message.window_end),
        status="unknown" if message.status == message.STATUS_UNKNOWN else "ok",
        label=message.label,
        index=message.class_index,
        score=message.score,
        top_k=[(entry.label, entry.class_index, entry.score) for entry in message.top_k[:5]],
        scores=scores,
        logits=np.log(np.maximum(scores, 1e-12)),
        labels=info.labels,
        glimpses=[
            Glimpse(g.x_min, g.y_min, g.x_max, g.y_max, tuple(g.worker_weights)) for g in message.glimpses
        ],
        preprocess_s=message.preprocess_s,
        inference_s=message.inference_s,
        frames_received=message.frames_received,
        frames_dropped=message.frames_dropped,
        windows_skipped=message.windows_skipped,
        model_id=message.model_id,
        width=message.image_width,
        height=message.image_height,
    )
