# SPDX-License-Identifier: Apache-2.0
"""`make demo ARGS="--camera 0"`: who is in front of a camera of this machine, over DDS through the node.

A video file may stand for the camera; it plays at its own pace. Each message is printed as it comes, the overlay goes
to demo_out/camera.mp4 and, where OpenCV can open one, into a window. Ctrl-C, or q in the window, ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from demo_node import WAIT_S, Robot, from_message, say_event, status_of, to_event

from gc_ros.media.video import camera_number, open_camera, read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition import overlay
from gc_ros.recognition.activity import Activity
from gc_ros.stamps import NS
from trt_build.bundle import load_bundle
from trt_build.errors import DataError
from trt_build.files import demand_place

LAST_S = 1.0  # for the last messages, when the camera has ended


class CameraDemo:
    """One run; `options` are those of `make demo`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.source: str = options.camera
        self.camera = camera_number(self.source)
        self.out: Path = options.out
        self.bundle = load_bundle(options.bundle)
        self.newest: Activity | None = None
        self.banner = overlay.Banner()
        # Frames that were published and are still to be drawn; None after the last one.
        self.taken: queue.Queue[tuple[np.ndarray, int] | None] = queue.Queue(maxsize=64)
        self.stopped = threading.Event()
        self.failures: list[Exception] = []
        self.window = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        self.began_ns = self.drawn = 0

    def run(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        demand_place(self.out)
        frames = read_video(self.source) if self.camera is None else open_camera(self.camera)
        first = next(frames, None)
        if first is None:
            raise DataError(f"{self.source}: no frame can be read; check the camera or file")
        with Robot(self.bundle, self.take, self.take_event) as robot:
            camera = threading.Thread(target=self.publish, args=(robot.node, first, frames), daemon=True)
            robot.wait()
            camera.start()
            try:
                # Caught within the video: one that an error leaves is thrown away.
                with VideoWriter(self.out / "camera.mp4") as video, contextlib.suppress(KeyboardInterrupt):
                    self.watch(robot, video)
            finally:
                self.stopped.set()
                camera.join(5)
            if robot.alive:
                robot.spin(LAST_S, ended=True)
        if self.failures:
            raise self.failures[0]
        print(
            f"\n{robot.messages} messages received over DDS, {self.drawn} frames in {self.out / 'camera.mp4'}"
        )
        if robot.messages:
            return 0
        info = self.bundle.info
        print(
            f"demo: no activity: a window needs {info.window_s:.2g} s of frames, at {info.rate_hz:g} Hz or more"
        )
        return 1

    def publish(
        self, node: Any, first: tuple[np.ndarray, int], frames: Iterator[tuple[np.ndarray, int]]
    ) -> None:
        """The camera's driver: every frame as an image message with the time at which it came."""
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        from gc_ros.node.ros_messages import to_image, to_time

        try:
            publisher = node.create_publisher(
                Image, "/image", QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
            )
            deadline = time.monotonic() + WAIT_S
            while not publisher.get_subscription_count():
                if time.monotonic() > deadline or self.stopped.wait(0.02):
                    raise DataError(f"the node did not subscribe within {WAIT_S:g} s")
            began = time.monotonic()
            for image, stamp in chain([first], frames):
                if self.camera is None:  # a file gives frames as fast as they are read
                    self.stopped.wait(max(began + (stamp - first[1]) / NS - time.monotonic(), 0.0))
                if self.stopped.is_set():
                    return
                now = time.time_ns()
                self.began_ns = self.began_ns or now
                header = Header(stamp=to_time(now), frame_id="camera")
                publisher.publish(to_image(image, header, "rgb8"))
                if not self.taken.full():  # drawing may be slower than the camera; the node is not
                    self.taken.put((image, now))
        except Exception as error:
            self.failures.append(error)
        finally:
            with contextlib.suppress(queue.Full):  # nobody draws any more
                self.taken.put(None, timeout=2.0)

    def watch(self, robot: Robot, video: VideoWriter) -> None:
        """Draw and show every frame with the newest result there is."""
        while robot.alive:
            robot.spin(0.005)
            try:
                taken = self.taken.get(timeout=0.02)
            except queue.Empty:
                continue
            if taken is None:
                return
            image, stamp = taken
            picture = overlay.draw(image, self.newest, event=self.banner.at(stamp))
            video.write(picture, stamp)
            self.drawn += 1
            if not self.shown(picture):
                return

    def shown(self, picture: np.ndarray) -> bool:
        """False once the user has closed the window."""
        if not self.window:
            return True
        try:
            cv2.imshow("make demo", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        except cv2.error:  # an OpenCV without windows: the video remains
            self.window = False
            return True

    def take(self, message: Any) -> None:
        """Print a message, and keep it for the pictures."""
        self.newest = result = from_message(message, self.bundle.info)
        seconds = (result.stamp_ns - self.began_ns) / NS
        print(
            f"{seconds:7.2f} s  {message.label:<16} {message.score:4.2f} {status_of(message):<8} "
            f"age {message.age_s * 1e3:4.0f} ms, inference {message.inference_s * 1e3:4.0f} ms",
            flush=True,
        )

    def take_event(self, message: Any) -> None:
        """Print when an activity began or ended, and keep it for the banner of the pictures."""
        from gc_ros.node.ros_messages import to_ns

        decided, event = to_ns(message.header.stamp), to_event(message, to_ns(message.stamp))
        say_event((decided - self.began_ns) / NS, event)
        self.banner.add([event], decided)
