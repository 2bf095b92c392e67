# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `activity_recognition`: camera images in, activity messages out.

    executor thread    image callback (resize, store), services, parameters, lifecycle, steady timers
    decoding threads   one a camera of compressed images: decode, then as the image callback
    inference thread   inference, publication of results

Timers run on a steady clock: ROS-clock timers never fire under simulated time without /clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from gc_ros.node import ros_messages
from gc_ros.node.camera import Camera
from gc_ros.node.diagnostics import EngineFacts, judge_engine
from gc_ros.node.inference import Inference
from gc_ros.node.model import Model, OpenEngine
from gc_ros.node.people import Jobs
from gc_ros.node.ros_messages import gc_srv, to_diagnostic
from gc_ros.node.settings import Settings
from trt_build.engines.open import open_engine
from trt_build.errors import GlimpseError, one_line

NODE_NAME = "activity_recognition"
EXIT_FAILURE = 3
_STOP_S = 1.0  # how long a running inference may take to end before it is abandoned


class ActivityRecognition(LifecycleNode):
    """The node. open_engine: as `trt_build.engines.open.open_engine`; tests hand in a slow or failing engine."""

    def __init__(self, *, open_engine: OpenEngine = open_engine, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._open_engine = open_engine
        self.exit_code: int | None = None
        self.state = "unconfigured"
        self._failure: str | None = None
        self._model: Model | None = None  # while configured
        self._inference: Inference | None = None  # while active
        self._failures = (
            0  # engine calls that failed since the node was configured, and results that were not finite
        )
        self._last_error: str | None = None
        self._settings = Settings(self, lambda: self._model is not None, self._apply_settings)
        self._answer_impossible_transitions()

        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._enable = self.create_service(SetBool, "~/enable", self._on_enable)
        self._reset = self.create_service(Trigger, "~/reset", self._on_reset)
        # In a group of its own: while an activity is shown, others run, and another request is refused at once.
        shared = ReentrantCallbackGroup()
        self._teach = self.create_service(gc_srv.Teach, "~/teach", self._on_teach, callback_group=shared)
        self._forget = self.create_service(gc_srv.Forget, "~/forget", self._on_forget, callback_group=shared)
        self._failed = self.create_guard_condition(self._on_failed)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = self.create_timer(1.0, self._report, clock=steady)
        self._watchdog = self.create_timer(0.1, self._watch, clock=steady)
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        self._jumps = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_back)

    def judge(self, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
        """Why the node must not go on with the parameters it was given, or None; and those to warn about."""
        return self._settings.judge(arguments)

    # -- lifecycle -------------------------------------------------------------------------------------------

    def _answer_impossible_transitions(self) -> None:
        """Let change_state answer success=False to what a state does not allow; rclpy raises and answers nothing."""
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = partial(self._on_change_state, service.callback)

    def _on_change_state(self, change: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except RCLError as error:
            if not self.context.ok():
                raise
            wanted = request.transition.label or request.transition.id
            self.get_logger().error(f"no transition {wanted} from the state {self.state}: {one_line(error)}")
            response.success = False
            return response

    def start(self) -> None:
        """Configure and activate when `autostart` says so; with `build_only` configure and be done."""
        if self._settings["build_only"]:
            built = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            self.exit_code = 0 if built or not self.context.ok() else EXIT_FAILURE
            return
        if not self._settings["autostart"]:
            return
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if not (configured and self.trigger_activate() == TransitionCallbackReturn.SUCCESS):
            self._exit_if_asked()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and check the bundle, open the engine, run it once."""
        try:
            self._model = Model(self, self._settings, self._open_engine, self._submit)
        except Exception as error:  # rclpy swallows it without a log
            self._failure = one_line(error)
            if self.context.ok():  # else a signal interrupted it
                self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.FAILURE
        for remark in self._settings.judge_topics([t for c in self._cameras for t in c.topics]):
            self.get_logger().warning(remark)
        self._failure, self._last_error, self._failures, self.state = None, None, 0, "inactive"
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, start inference."""
        try:
            assert self._model is not None
            if self._model.abandoned:
                raise GlimpseError("an engine run still hangs; clean up and configure again")
            self._failure = None
            self._inference = Inference(self._model.engine, self._cameras, self._failed_run)
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
        """Deactivate and clean up."""
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
        if self._model is not None:
            self._model.teaching.end("the node was deactivated")
        for camera in self._cameras:
            camera.stop(reason)
        inference, self._inference = self._inference, None
        if inference is not None and not inference.stop(_STOP_S):
            assert self._model is not None
            self._model.abandoned = True
            self.get_logger().error("an engine run does not end; its thread is abandoned")

    def _release(self) -> None:
        self._stop("deactivated")
        model, self._model = self._model, None
        if model is not None:
            model.close()

    def close(self) -> None:
        """Release everything and leave the graph; for the end of the process, in whatever state."""
        self._safely(self._release)
        self._jumps.unregister()
        self.destroy_node()

    @property
    def _cameras(self) -> Sequence[Camera]:
        return self._model.cameras if self._model else ()

    # -- inference -------------------------------------------------------------------------------------------

    def _submit(self, jobs: Jobs) -> None:
        if self._inference is not None:
            self._inference.submit(jobs)

    @property
    def _failures_in_row(self) -> int:
        return self._inference.failures.in_row if self._inference else 0

    def _failed_run(self, error: Exception) -> None:
        """In the inference thread: an engine call failed, or its result is not finite."""
        if not self.context.ok():
            return
        self._failures += 1
        self._last_error = one_line(error)
        self.get_logger().error(f"inference failed: {self._last_error}", throttle_duration_sec=1.0)
        if self._failures_in_row >= self._settings["max_failures"]:
            self._failed.trigger()

    def _on_failed(self) -> None:
        if self.state == "active" and self._failures_in_row >= self._settings["max_failures"]:
            self._give_up(
                f"{self._failures_in_row} failed engine runs in a row, deactivated: {self._last_error}"
            )

    def _give_up(self, reason: str) -> None:
        self.get_logger().error(reason)
        self.trigger_deactivate()
        self._failure = reason
        self._exit_if_asked()

    def _exit_if_asked(self) -> None:
        if self._settings["exit_on_failure"] and self.context.ok():
            self.exit_code = EXIT_FAILURE

    # -- timers ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.state != "active" or self._inference is None:
            return
        busy, limit = self._inference.busy_s, self._settings["inference_timeout_s"]
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
            node=self.get_fully_qualified_name(),
            failure=self._failure,
            description=self._model.engine.description if self._model else "none",
            model_id=self._model.info.model_id if self._model else "none",
            bundle_sha256=self._model.bundle_sha256 if self._model else "none",
            failures=self._failures,
            failures_in_row=self._failures_in_row,
            last_error=self._last_error,
            busy_s=self._inference.busy_s if self._inference else 0.0,
            teaching=self._model.teaching.progress if self._model else "none",
        )
        name = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = ros_messages.to_time(int(self.get_clock().now().nanoseconds))
        message.status = [to_diagnostic(f"{name}: engine", facts.model_id, judge_engine(facts))]
        for camera in self._cameras:
            label = f"{name}: camera {camera.name}".rstrip()
            status = camera.diagnose(waiting_for_clock)
            message.status.append(to_diagnostic(label, camera.name or camera.topic, status))
            people = camera.diagnose_people()
            if people is not None:
                label = f"{name}: people {camera.name}".rstrip()
                message.status.append(to_diagnostic(label, camera.name or camera.topic, people))
        self._diagnostics.publish(message)

    def _on_clock_back(self, jump: Any) -> None:
        if self.state != "active":
            return
        self.get_logger().info("the clock jumped back, windows start again")
        for camera in self._cameras:
            camera.reset("clock jump")

    # -- services --------------------------------------------------------------------------------------------

    def _not_so_far(self, transition: str) -> str:
        """Why a service must wait for a transition."""
        remedy = "start it again" if self.state == "finalized" else f"{transition} it first"
        return f"the node is {self.state}; {remedy}"

    def _on_enable(self, request: Any, response: Any) -> Any:
        if not self._cameras:
            response.success, response.message = False, self._not_so_far("configure")
            return response
        for camera in self._cameras:
            camera.enable(request.data)
        if self._model is not None and not request.data:
            self._model.teaching.end("the node was disabled")
        response.success, response.message = (
            True,
            "enabled" if request.data else "disabled, images are not taken",
        )
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:
        if not self._cameras:
            response.success, response.message = False, self._not_so_far("configure")
            return response
        for camera in self._cameras:
            camera.reset("service")
        response.success, response.message = True, "window and state cleared, warming up again"
        return response

    async def _on_teach(self, request: Any, response: Any) -> Any:
        if self._model is None or self.state != "active":
            response.success, response.message = False, self._not_so_far("activate")
            return response
        return await self._model.teaching.teach(request, response, self._cameras)

    async def _on_forget(self, request: Any, response: Any) -> Any:
        if self._model is None:
            response.success, response.message = False, self._not_so_far("configure")
            return response
        return await self._model.teaching.forget(request, response, self._cameras)

    def _apply_settings(self, told: bool) -> None:
        if self._model is not None:
            self._model.apply_settings(told)


def spin(node: ActivityRecognition, executor: Executor, ends: Callable[[], bool] = lambda: False) -> None:
    """Serve the node until `ends`, asked at least as often as its timers come, or until its context ends."""
    while node.context.ok() and node.exit_code is None and not ends():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception as error:
            if not node.context.ok():  # a signal interrupted it
                return
            if not isinstance(error, RCLError):
                raise
            node.get_logger().error(one_line(error))  # of DDS: a client that went away before its answer came
