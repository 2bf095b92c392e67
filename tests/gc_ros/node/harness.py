# SPDX-License-Identifier: Apache-2.0
"""The node on real DDS for tests: node and peer are two participants, over shared memory only, in a domain of
their own. Where ROS is missing, importing this skips the module that does.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toy import FakeEngine
from tests.waiting import wait_until
from trt_build.errors import GlimpseError

ROOT = Path(__file__).resolve().parents[3]
# Before the first participant: both ends must use the same profile. Fast DDS 3 (Kilted) warns where it is given the
# former name of the variable, which Fast DDS 2 alone knows.
_PREFIXES = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
FASTDDS_3 = any(Path(prefix, "share", "fastdds").is_dir() for prefix in _PREFIXES)
os.environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
os.environ[f"{'FASTDDS' if FASTDDS_3 else 'FASTRTPS'}_DEFAULT_PROFILES_FILE"] = str(
    ROOT / "config" / "fastdds_shm.xml"
)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

try:
    from gc_ros.node import ros_messages
except GlimpseError as error:  # the reason is the one line that a user would see
    pytest.skip(f"no ROS 2: {error}", allow_module_level=True)

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from glimpse_clouds.msg import Activity, ActivityEvent, LabelInfo
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image

from gc_ros.node.lifecycle import ActivityRecognition, spin
from trt_build.engines.open import open_engine

NAME = "/activity_recognition"
LATCHED = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
}
AFTER = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
}
ANSWER_S = 3.0  # a service that has not answered by then does not do so any more


_domains = itertools.cycle(range(10, 230))
for _ in range(os.getpid() * 37 % 220):  # runs side by side start apart
    next(_domains)
_held: list[Any] = []  # the lock on the present domain: a run beside this one must not take it


def new_domain() -> None:
    """A domain for what is created from now on: shared-memory ports of a test before are left alone."""
    while _held:
        _held.pop().close()
    for domain in itertools.islice(_domains, 220):
        lock = open(Path(tempfile.gettempdir()) / f"glimpse_clouds_test_domain_{domain}", "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return
    raise RuntimeError("every DDS domain from 10 to 229 is locked by a test run")


new_domain()


class Faulty:
    """An `open_engine` whose engine a test can break."""

    def __init__(self) -> None:
        self.engine: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.engine = FakeEngine(open_engine(*arguments, **options))
        return self.engine


class Peer:
    """A camera, a listener and a lifecycle manager, in a participant of their own."""

    def __init__(self, camera_type: Any = Image, camera_qos: Any = qos_profile_sensor_data) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, args=[])
        self.node = rclpy.create_node("peer", context=self.context)
        self.running: Running | None = None
        self.activities: list[Activity] = []
        self.events: list[ActivityEvent] = []
        self.diagnostics: dict[str, Any] = {}
        self.reports = 0
        self.node.create_subscription(Activity, f"{NAME}/activity", self.activities.append, 100)
        self.node.create_subscription(ActivityEvent, f"{NAME}/events", self.events.append, LATCHED)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.camera = self.node.create_publisher(camera_type, "image", camera_qos)
        self.cameras: dict[str, Any] = {}
        self.activities_of: dict[str, list[Activity]] = {}
        self.events_of: dict[str, list[ActivityEvent]] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_diagnostics(self, message: Any) -> None:
        self.reports += 1
        for status in message.status:
            self.diagnostics[status.name.split(": ", 1)[1]] = status

    def wait_for_camera(self) -> None:
        """Until the node's image subscription is matched on both sides."""
        wait_until(self.camera.get_subscription_count, "the node's image subscription")
        wait_until(lambda: self.node.count_publishers(f"{NAME}/activity"), "the node's publisher")
        if self.running is not None:
            node = self.running.node
            wait_until(lambda: node.count_publishers(self.camera.topic_name), "the camera at the node")
            self._wait_for_listener(f"{NAME}/activity")
            time.sleep(0.1)  # the image reader's half of the match cannot be asked for
        else:
            time.sleep(0.5)  # another process's half of the match cannot be seen from here

    def _wait_for_listener(self, topic: str) -> None:
        """What the node in this process publishes before a reader is matched is lost."""
        assert self.running is not None
        (results,) = [p for p in self.running.node.publishers if p.topic_name == topic]
        wait_until(results.get_subscription_count, f"the listener of {topic} at the node")

    def add_cameras(self, *names: str) -> None:
        """Cameras of a node with the parameter `cameras`, and listeners to what it says about each."""
        for name in names:
            self.cameras[name] = self.node.create_publisher(Image, f"{name}/image", qos_profile_sensor_data)
            activities = self.activities_of.setdefault(name, [])
            events = self.events_of.setdefault(name, [])
            self.node.create_subscription(Activity, f"{NAME}/{name}/activity", activities.append, 100)
            self.node.create_subscription(ActivityEvent, f"{NAME}/{name}/events", events.append, LATCHED)
        for camera in self.cameras.values():
            wait_until(camera.get_subscription_count, f"a subscription of {camera.topic_name}")
            if self.running is not None:
                count = partial(self.running.node.count_publishers, camera.topic_name)
                wait_until(count, f"{camera.topic_name} at the node")
        for name in names if self.running is not None else ():
            self._wait_for_listener(f"{NAME}/{name}/activity")
        time.sleep(0.2)  # the image reader's half of the match cannot be asked for

    def publish(
        self,
        image: np.ndarray,
        stamp_ns: int,
        encoding: str = "rgb8",
        camera: str = "",
        frame_id: str = "camera",
    ) -> None:
        """Publish an image and, where the node is in this process, wait until it has been taken: the queue of a
        best-effort subscription is short, and a loaded machine would lose what a test counts on."""
        message = ros_messages.to_image(image, ros_messages.to_header(stamp_ns, frame_id), encoding)
        cameras = self.running.node._cameras if self.running is not None else []
        cameras = [one for one in cameras if one.name == camera]
        before = cameras[0].input.received if cameras else 0
        publisher = self.cameras[camera] if camera else self.camera
        publisher.publish(message)
        deadline = time.monotonic() + 2
        while cameras and cameras[0].input.received == before and time.monotonic() < deadline:
            # An inactive node takes nothing.
            if not publisher.get_subscription_count():
                break
            time.sleep(0.001)

    def call(
        self,
        client_type: Any,
        name: str,
        request: Any,
        timeout_s: float = 20.0,
        again_s: float = ANSWER_S,
    ) -> Any:
        """Call a service and return its response.

        Asked again every `again_s` while no answer comes: a server that has not yet discovered the client's reader
        drops its answer.
        """
        client = self.node.create_client(client_type, name)
        try:
            assert client.wait_for_service(timeout_s), f"no service {name}"
            futures: list[Any] = []
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                futures.append(client.call_async(request))
                again = time.monotonic() + again_s
                while time.monotonic() < again:
                    for future in futures:
                        if future.done():
                            return future.result()
                    time.sleep(0.005)
            raise AssertionError(f"waited {timeout_s} s in vain for an answer of {name}")
        finally:
            self.node.destroy_client(client)

    def transition(self, name: str) -> bool:
        """Ask for a lifecycle transition; whether it succeeded.

        Asked once, since a second time it would be refused: where the answer is lost, the state tells.
        """
        client = self.node.create_client(ChangeState, f"{NAME}/change_state")
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[name]
        try:
            assert client.wait_for_service(20), "no service change_state"
            before = self.state()
            future = client.call_async(request)
            deadline = time.monotonic() + 20
            while not future.done():
                assert time.monotonic() < deadline, f"waited 20 s in vain for the transition {name}"
                if time.monotonic() > deadline - 20 + ANSWER_S and self.state() != before:
                    return self.state() == AFTER[name]
                time.sleep(0.005)
            return bool(future.result().success)
        finally:
            self.node.destroy_client(client)

    def state(self) -> str:
        """The node's lifecycle state."""
        return str(self.call(GetState, f"{NAME}/get_state", GetState.Request()).current_state.label)

    def wait_for_diagnostic(
        self, name: str, text: str, timeout_s: float = 8.0, *, values: Mapping[str, str] | None = None
    ) -> Any:
        """Until the status `name` says `text` and has these values; the status.

        A status that says `text` may come from before the last of what was sent: counts belong into `values`.
        """
        wanted = set((values or {}).items())

        def says() -> Any:
            status = self.diagnostics.get(name)
            if status is None or text not in status.message:
                return None
            return status if wanted <= {(entry.key, entry.value) for entry in status.values} else None

        try:
            return wait_until(says, text, timeout_s)
        except AssertionError:
            found = {key: status.message for key, status in self.diagnostics.items()}
            last = self.diagnostics.get(name)
            missing = wanted - {(entry.key, entry.value) for entry in (last.values if last else ())}
            raise AssertionError(f"no diagnostic {text!r} with {missing}; there are {found}") from None

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=2)
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


class Running:
    """The node in an executor thread of this process, so that a test can put an engine into it."""

    def __init__(self, bundle: Any, engine: Any = open_engine, **parameters: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, args=[])
        values = {"bundle": str(bundle), "threads": 1, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = ActivityRecognition(
            open_engine=engine, context=self.context, parameter_overrides=overrides
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.errors: list[BaseException] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        assert self._started.wait(20)

    def _spin(self) -> None:
        try:
            self.node.start()
            self._started.set()
            spin(self.node, self._executor)
        except ExternalShutdownException:
            pass
        except BaseException as error:
            self.errors.append(error)
            self._started.set()

    def close(self) -> None:
        # rclpy's spin_once returns when the context ends; only then may the node go.
        rclpy.try_shutdown(context=self.context)
        self._thread.join(10)
        self._executor.shutdown(timeout_sec=2)
        self.node.close()
        assert not self.errors, self.errors


@contextlib.contextmanager
def running(
    bundle: Any, engine: Any = open_engine, camera_qos: Any = qos_profile_sensor_data, **parameters: Any
) -> Iterator[tuple[Running, Peer]]:
    """Node and peer in a domain of their own, both closed at the end."""
    new_domain()
    peer = Peer(camera_qos=camera_qos)
    try:
        node = Running(bundle, engine, **parameters)
        peer.running = node
        try:
            yield node, peer
        finally:
            node.close()
    finally:
        peer.close()


class Process:
    """The node as a process of its own, as a robot runs it."""

    def __init__(self, *arguments: str, script: Path | None = None, **environment: str) -> None:
        command = [sys.executable, str(script or ROOT / "scripts" / "activity_node"), *arguments]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        environ = {**os.environ, "PYTHONPATH": path, **environment}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def end(self, signal: int) -> tuple[int, float]:
        """Send a signal; (exit code, seconds until the process was gone)."""
        began = time.monotonic()
        self.process.send_signal(signal)
        code = self.process.wait(20)
        took = time.monotonic() - began
        self._reader.join(5)
        return code, took

    def wait(self, timeout_s: float = 20) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def load_info(peer: Peer) -> list[LabelInfo]:
    """Subscribe to the latched label information now; the list fills."""
    infos: list[LabelInfo] = []
    peer.node.create_subscription(LabelInfo, f"{NAME}/label_info", infos.append, LATCHED)
    return infos
