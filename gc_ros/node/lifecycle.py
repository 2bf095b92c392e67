# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `activity_recognition`: camera images in, activity messages out.

    executor thread   image callback (decode, resize, store), services, parameters, lifecycle, steady timers
    worker thread     inference, publication of results

Timers run on a steady clock: ROS-clock timers never fire under simulated time without /clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from gc_ros.node import ros_messages
from gc_ros.node.camera import LATCHED, Camera, Job, to_diagnostic
from gc_ros.node.diagnostics import EngineFacts, judge_engine
from gc_ros.node.parameters import BY_NAME, PARAMETERS, Parameter, refuse_all
from gc_ros.node.ros_messages import gc_msg
from gc_ros.node.worker import Worker
from gc_ros.recognition.batch import Batch
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.smoothing import Smoothing
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engine import Engine, zeros
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError, GlimpseError

NODE_NAME = "activity_recognition"
EXIT_FAILURE = 3
_STOP_S = 1.0  # how long a running inference may take to end before it is abandoned

OpenEngine = Callable[..., Engine]


class ActivityRecognition(LifecycleNode):
    """open_engine: as trt_build.engine.open_engine; tests put a slow or failing engine in its place."""

    def __init__(self, *, open_engine: OpenEngine = open_engine, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._open_engine = open_engine
        self.exit_code: int | None = None
        self.state = "unconfigured"
        self._failure: str | None = None
        self._values: dict[str, Any] = {}
        self._bundle: LoadedBundle | None = None
        self._engine: Engine | None = None
        self._cameras: list[Camera] = []
        self._worker: Worker | None = None
        self._batch: Batch | None = None
        self._abandoned = False  # a run of this engine never came back
        self._failures = 0  # engine runs, and rows of them, that failed
        self._last_error: str | None = None
        self._label_info: Any = None

        self.add_on_set_parameters_callback(self._validate)
        # Humble has no post-set callback; there _validate applies what it has accepted.
        self._has_post_set = hasattr(self, "add_post_set_parameters_callback")
        for parameter in PARAMETERS:
            declared = self.declare_parameter(
                parameter.name, _ros(parameter.default), ros_messages.to_descriptor(parameter)
            )
            self._values[parameter.name] = _as(parameter, declared.value)
        if self._has_post_set:
            self.add_post_set_parameters_callback(self._apply)

        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._enable = self.create_service(SetBool, "~/enable", self._on_enable)
        self._reset = self.create_service(Trigger, "~/reset", self._on_reset)
        self._failed = self.create_guard_condition(self._on_failed)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = self.create_timer(1.0, self._report, clock=steady)
        self._watchdog = self.create_timer(0.1, self._watch, clock=steady)
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        self._jumps = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_back)

    # -- lifecycle -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Configure and activate when `autostart` says so; with `build_only` configure and be done."""
        if self._values["build_only"]:
            built = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            self.exit_code = 0 if built else EXIT_FAILURE
            return
        if not self._values["autostart"]:
            return
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if not (configured and self.trigger_activate() == TransitionCallbackReturn.SUCCESS):
            self._exit_if_asked()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and check the bundle, open the engine, run it once."""
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow it without a word
            self._release()
            self._failure = one_line(error)
            self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.FAILURE
        self._failure, self.state = None, "inactive"
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        values = self._values
        if not values["bundle"]:
            raise BundleError(
                "no bundle given; start with --ros-args -p bundle:=PATH (make one: trt-build export)"
            )
        bundle = load_bundle(values["bundle"])
        mode = bundle.info.default_mode if values["mode"] == "auto" else values["mode"]
        began = time.perf_counter()
        engine = self._open_engine(
            bundle,
            mode,
            backend=values["backend"],
            batch=len(values["cameras"]),
            threads=values["threads"] or None,
            device=values["device"],
            precision=values["precision"],
            engine_policy=values["engine_policy"],
            # A build takes minutes; a node that is silent for so long looks dead.
            say=lambda line: self.get_logger().info(f"building the engine: {line}"),
        )
        self._bundle, self._engine, self._abandoned = bundle, engine, False
        self._failures = 0
        # The first run allocates and tunes: better now than with the first window.
        engine.run(zeros(engine.inputs, engine.batch))
        engine.reset()
        opened_s = time.perf_counter() - began
        # The cameras share the engine as rows of its batch, one slot each.
        for slot, name in enumerate(values["cameras"]):
            recognizer = Recognizer(
                bundle,
                engine,
                slot=slot,
                mode=mode,
                stride=values["stride"],
                top_k=values["top_k"],
                smoothing=self._smoothing(),
                max_frame_gap_s=values["max_frame_gap_s"] or None,
                unknown_threshold=self._unknown_threshold(),
                owns_engine=False,
            )
            self._cameras.append(Camera(self, name, recognizer, self._submit, self._values.__getitem__))
        self._label_info = self.create_publisher(gc_msg.LabelInfo, "~/label_info", LATCHED)
        self._publish_label_info()
        info = bundle.info
        self.get_logger().info(
            f"{info.model_id}: {len(info.labels)} activities, mode {mode}, {info.T} frames at {info.rate_hz:g} Hz "
            f"({info.window_s:.2f} s a window); {engine.description}, ready in {opened_s:.1f} s"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, start inference."""
        try:
            if self._abandoned:
                raise GlimpseError("an engine run still hangs; clean up and configure again")
            assert self._engine is not None
            self._failure = None
            self._batch = Batch(self._engine, {camera.name: camera.recognizer for camera in self._cameras})
            for camera in self._cameras:
                camera.failures_in_row = 0
            # Bound to this activation: an abandoned thread that comes back later counts for nothing.
            batch = self._batch
            self._worker = Worker(partial(self._infer, batch), partial(self._on_engine_error, batch))
            for camera in self._cameras:
                camera.start()
        except Exception as error:
            self._stop("failure")
            self._failure = one_line(error)
            self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.FAILURE
        self.state = "active"
        self.get_logger().info(f"active, waiting for images on {', '.join(c.topic for c in self._cameras)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, stop inference, forget windows and states."""
        self.state = "inactive"
        return self._safely(lambda: self._stop("deactivated"))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the engine, remove the publishers."""
        self.state, self._failure = "unconfigured", None
        return self._safely(self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and clean up together."""
        self.state = "finalized"
        return self._safely(self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self.state = "unconfigured"
        return self._safely(self._release)

    def _safely(self, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except Exception as error:
            self._failure = one_line(error)
            self.get_logger().error(self._failure)
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _stop(self, reason: str) -> None:
        for camera in self._cameras:
            camera.stop(reason)
        worker, self._worker, self._batch = self._worker, None, None
        if worker is not None and not worker.stop(_STOP_S):
            self._abandoned = True
            self.get_logger().error("an engine run does not end; its thread is abandoned")

    def _release(self) -> None:
        self._stop("deactivated")
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._label_info is not None:
            self.destroy_publisher(self._label_info)
            self._label_info = None
        engine, self._engine, self._bundle = self._engine, None, None
        if engine is not None and not self._abandoned:  # closing under a running call would crash or block
            engine.close()

    def close(self) -> None:
        """Release everything and leave the graph; for the end of the process, in whatever state."""
        self._safely(self._release)
        self._jumps.unregister()
        self.destroy_node()

    # -- inference -------------------------------------------------------------------------------------------

    def _submit(self, name: str, job: Job) -> None:
        if self._worker is not None:
            self._worker.submit(name, job)

    def _infer(self, batch: Batch, jobs: Mapping[Any, Job]) -> bool:
        """In the worker thread: one engine call and its results. Whether it must be called again at once."""
        for name, job in jobs.items():
            batch.add(name, job.window, job)
        cameras = {camera.name: camera for camera in self._cameras}
        for outcome in batch.run():
            if batch is not self._batch:
                return False
            camera = cameras[outcome.key]
            if outcome.error is not None:
                self._failed_run(outcome.error, [camera])
                continue
            camera.failures_in_row = 0
            if outcome.activity is not None:
                camera.publish(outcome.activity, outcome.ticket, outcome.began)
        return batch.pending

    def _on_engine_error(self, batch: Batch, error: Exception) -> None:
        """In the worker thread: a whole engine call failed. Nothing of it was published."""
        if batch is self._batch:
            self._failed_run(error, self._cameras)

    @property
    def _failures_in_row(self) -> int:
        return max((camera.failures_in_row for camera in self._cameras), default=0)

    def _failed_run(self, error: Exception, cameras: list[Camera]) -> None:
        if not self.context.ok():
            return
        self._failures += 1
        for camera in cameras:
            camera.failures_in_row += 1
        self._last_error = one_line(error)
        self.get_logger().error(f"inference failed: {self._last_error}", throttle_duration_sec=1.0)
        if self._failures_in_row >= self._values["max_failures"]:
            self._failed.trigger()

    def _on_failed(self) -> None:
        if self.state == "active" and self._failures_in_row >= self._values["max_failures"]:
            self._give_up(
                f"{self._failures_in_row} failed engine runs in a row, deactivated: {self._last_error}"
            )

    def _give_up(self, reason: str) -> None:
        self.get_logger().error(reason)
        self.trigger_deactivate()
        self._failure = reason
        self._exit_if_asked()

    def _exit_if_asked(self) -> None:
        if self._values["exit_on_failure"]:
            self.exit_code = EXIT_FAILURE

    # -- timers ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.state != "active" or self._worker is None:
            return
        busy, limit = self._worker.busy_s, self._values["inference_timeout_s"]
        if busy > limit:
            self._give_up(
                f"an engine run has taken {busy:.1f} s (inference_timeout_s {limit:g}), deactivated"
            )
            return
        for camera in self._cameras:
            camera.watch()

    def _report(self) -> None:
        waiting_for_clock = bool(
            self.get_parameter("use_sim_time").value and self.get_clock().now().nanoseconds == 0
        )
        facts = EngineFacts(
            state=self.state,
            failure=self._failure,
            description=self._engine.description if self._engine else "none",
            model_id=self._bundle.info.model_id if self._bundle else "none",
            failures=self._failures,
            failures_in_row=self._failures_in_row,
            last_error=self._last_error,
            busy_s=self._worker.busy_s if self._worker else 0.0,
        )
        name = self.get_name()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [to_diagnostic(f"{name}: engine", facts.model_id, judge_engine(facts))]
        for camera in self._cameras:
            label = f"{name}: camera {camera.name}".rstrip()
            message.status.append(to_diagnostic(label, facts.model_id, camera.diagnose(waiting_for_clock)))
        self._diagnostics.publish(message)

    def _on_clock_back(self, jump: Any) -> None:
        if self.state != "active":
            return
        self.get_logger().info("the clock jumped back, windows start again")
        for camera in self._cameras:
            camera.reset("clock jump")

    # -- services --------------------------------------------------------------------------------------------

    def _on_enable(self, request: Any, response: Any) -> Any:
        if not self._cameras:
            response.success, response.message = False, f"the node is {self.state}; configure it first"
            return response
        for camera in self._cameras:
            camera.enable(request.data)
        response.success, response.message = (
            True,
            "enabled" if request.data else "disabled, images are not taken",
        )
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:
        if not self._cameras:
            response.success, response.message = False, f"the node is {self.state}; configure it first"
            return response
        for camera in self._cameras:
            camera.reset("service")
        response.success, response.message = True, "window and state cleared, warming up again"
        return response

    # -- parameters ------------------------------------------------------------------------------------------

    def _validate(self, parameters: list[Any]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters}
        reason = refuse_all(changes, self._values, configured=bool(self._cameras))
        if reason is None and not self._has_post_set:
            self._apply(parameters)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _apply(self, parameters: list[Any]) -> None:
        before = dict(self._values)
        told = ("unknown_threshold", "onset_threshold", "offset_threshold")
        for parameter in parameters:
            if parameter.name in BY_NAME:
                self._values[parameter.name] = _as(BY_NAME[parameter.name], parameter.value)
        for camera in self._cameras:
            camera.recognizer.top_k = self._values["top_k"]
            camera.recognizer.unknown_threshold = self._unknown_threshold()
            camera.recognizer.smoothing = self._smoothing()
        if self._cameras and any(before[name] != self._values[name] for name in told):
            self._publish_label_info()

    def _unknown_threshold(self) -> float:
        assert self._bundle is not None
        value = self._values["unknown_threshold"]
        return float(value if value >= 0 else self._bundle.info.calibration.unknown_threshold)

    def _smoothing(self) -> Smoothing:
        names = ("smoothing_tau_s", "onset_threshold", "offset_threshold", "min_duration_s")
        return Smoothing(*(self._values[name] for name in names))

    def _publish_label_info(self) -> None:
        assert self._bundle is not None
        self._label_info.publish(
            ros_messages.to_label_info(
                self._bundle.info,
                self._cameras[0].recognizer.mode,
                int(self.get_clock().now().nanoseconds),
                self._unknown_threshold(),
                self._values["onset_threshold"],
                self._values["offset_threshold"],
            )
        )


def _as(parameter: Parameter, value: Any) -> Any:
    if isinstance(parameter.default, float):
        return float(value)
    return tuple(value) if isinstance(parameter.default, tuple) else value


def _ros(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def spin(node: ActivityRecognition, executor: Executor) -> None:
    """Serve the node until its context ends or it has an exit code."""
    while node.context.ok() and node.exit_code is None:
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception as error:
            if not node.context.ok():  # a signal ended it in the midst of whatever failed
                return
            if not isinstance(error, RCLError):
                raise
            node.get_logger().error(one_line(error))  # somebody asked for an impossible lifecycle transition


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GlimpseError) else f"{type(error).__name__}: {text}"
