# SPDX-License-Identifier: Apache-2.0
"""What a configured node holds, from configuration to clean-up: the bundle, its engine, and the cameras on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode

from gc_ros.node import ros_messages
from gc_ros.node.camera import Camera
from gc_ros.node.people import Jobs
from gc_ros.node.people_input import usable_family
from gc_ros.node.ros_messages import gc_msg
from gc_ros.node.settings import Settings
from gc_ros.node.teaching import Teaching
from gc_ros.recognition.people import People
from gc_ros.recognition.recognizer import Recognizer
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engine import Engine, zeros
from trt_build.errors import BundleError

OpenEngine = Callable[..., Engine]


class Model:
    """Loads the bundle that the settings name, opens its engine and runs it once.

    submit: hands work to the inference thread. Raises GlimpseError, or what the engine raises; nothing
    stays open then.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        open_engine: OpenEngine,
        submit: Callable[[Jobs], None],
    ) -> None:
        self._node, self._settings = node, settings
        self.cameras: list[Camera] = []
        self.abandoned = False  # a run of this engine never came back
        if not settings["bundle"]:
            raise BundleError(
                "no bundle given; start with --ros-args -p bundle:=PATH (make one: trt-build export)"
            )
        bundle = load_bundle(settings["bundle"], sha256=settings["bundle_sha256"])
        self.info, self.bundle_sha256 = bundle.info, bundle.sha256
        self._mode = self.info.default_mode if settings["mode"] == "auto" else settings["mode"]
        self._max_people = settings["max_people"] if settings["people"] else 0
        if self._max_people:
            usable_family(settings.__getitem__)  # said now, not after minutes of building an engine
        self.teaching = Teaching(
            bundle, settings["taught"], settings.__getitem__, node.get_clock(), self._publish_labels
        )
        began = time.perf_counter()
        self.engine = open_engine(
            bundle,
            self._mode,
            backend=settings["backend"],
            batch=len(settings["cameras"]) * (1 + self._max_people),
            threads=settings["threads"] or None,
            device=settings["device"],
            precision=settings["precision"],
            engine_policy=settings["engine_policy"],
            # A build takes minutes; a node that is silent for so long looks dead.
            say=lambda line: node.get_logger().info(f"building the engine: {line}"),
        )
        self._taught = node.create_publisher(gc_msg.TaughtActivities, "~/taught", ros_messages.latched(1))
        self._label_info = node.create_publisher(gc_msg.LabelInfo, "~/label_info", ros_messages.latched(1))
        try:
            # The first run allocates and tunes: better now than with the first window.
            self.engine.run(zeros(self.engine.inputs, self.engine.batch))
            self.engine.reset()
            opened_s = time.perf_counter() - began
            # The cameras share the engine as rows of its batch, one slot each; the rows of their people come after.
            for slot, name in enumerate(settings["cameras"]):
                recognizer = Recognizer(bundle, self.engine, slot=slot, owns_engine=False, **self._how())
                people = self._people_of(bundle, slot, name)
                self.cameras.append(Camera(node, name, recognizer, submit, settings.__getitem__, people))
            self._publish_labels()
        except Exception:
            self.close()
            raise
        info = self.info
        node.get_logger().info(
            f"{info.model_id} (bundle sha256 {bundle.sha256[:12]}): {len(info.labels)} activities, mode {self._mode}, "
            f"{info.T} frames at {info.rate_hz:g} Hz ({info.window_s:.2f} s a window); "
            f"{self.engine.description}, ready in {opened_s:.1f} s"
        )

    def _how(self) -> dict[str, Any]:
        """What the recogniser of a picture and those of its people have in common."""
        settings = self._settings
        return {
            "mode": self._mode,
            "stride": settings["stride"],
            "top_k": settings["top_k"],
            "smoothing": settings.smoothing(),
            "max_frame_gap_s": settings["max_frame_gap_s"] or None,
            "unknown_threshold": settings.unknown_threshold(self.info),
            "lessons": self.teaching.lessons,
        }

    def _people_of(self, bundle: LoadedBundle, camera: int, name: str) -> People | None:
        """The recognisers of the people in front of a camera, None where nobody is recognised alone."""
        if not self._max_people:
            return None
        settings = self._settings
        first = len(settings["cameras"]) + camera * self._max_people
        return People(
            bundle,
            self.engine,
            range(first, first + self._max_people),
            name=name,
            **self._how(),
            max_age_s=settings["people_max_age_s"],
            margin=settings["person_margin"] if settings["person_margin"] >= 0 else None,
            timeout_s=settings["person_timeout_s"],
        )

    def apply_settings(self, told: bool) -> None:
        """Parameters have changed. told: one of those that ~/label_info repeats."""
        for camera in self.cameras:
            people = camera.people.people.recognizers.values() if camera.people else ()
            for recognizer in (camera.recognizer, *people):
                recognizer.top_k = self._settings["top_k"]
                recognizer.unknown_threshold = self._settings.unknown_threshold(self.info)
                recognizer.smoothing = self._settings.smoothing()
        if told:
            self._publish_label_info()

    def _publish_labels(self) -> None:
        """What the results may say, and what of it was taught."""
        self._publish_label_info()
        now = int(self._node.get_clock().now().nanoseconds)
        self._taught.publish(ros_messages.to_taught(self.teaching.taught, now))

    def _publish_label_info(self) -> None:
        self._label_info.publish(
            ros_messages.to_label_info(
                self.info,
                list(self.info.labels) if self.teaching.lessons is None else self.teaching.lessons.labels,
                self._mode,
                int(self._node.get_clock().now().nanoseconds),
                self._settings.unknown_threshold(self.info),
                self._settings["onset_threshold"],
                self._settings["offset_threshold"],
            )
        )

    def close(self) -> None:
        """Remove the publishers, close the engine. The cameras must have stopped."""
        self.teaching.close()
        for camera in self.cameras:
            camera.destroy()
        self.cameras = []
        self._node.destroy_publisher(self._label_info)
        self._node.destroy_publisher(self._taught)
        if not self.abandoned:  # closing under a running call would crash or block
            self.engine.close()
