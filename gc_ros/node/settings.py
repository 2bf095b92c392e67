# SPDX-License-Identifier: Apache-2.0
"""The node's parameters at run time: declared from the table in `parameters`, checked, and held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode

from gc_ros.node import overrides, ros_messages
from gc_ros.node.parameter import Parameter
from gc_ros.node.parameters import BY_NAME, PARAMETERS, refuse_all
from gc_ros.recognition.smoothing import Smoothing
from trt_build.bundle import Bundle

# What ~/label_info repeats of the parameters.
_TOLD = ("unknown_threshold", "onset_threshold", "offset_threshold")


class Settings:
    """Declares every parameter on the node and keeps their values.

    configured: whether the node is; some parameters must not change then. changed: called after values have changed,
    with whether ~/label_info repeats one of them.
    """

    def __init__(
        self, node: LifecycleNode, configured: Callable[[], bool], changed: Callable[[bool], None]
    ) -> None:
        self._values: dict[str, Any] = {}
        self._configured, self._changed = configured, changed
        self._declared = False
        node.add_on_set_parameters_callback(self._validate)
        # Humble has no post-set callback; there _validate applies what it has accepted.
        self._has_post_set = hasattr(node, "add_post_set_parameters_callback")
        for parameter in PARAMETERS:
            default = parameter.default
            declared = node.declare_parameter(
                parameter.name,
                list(default) if isinstance(default, tuple) else default,
                ros_messages.to_descriptor(parameter),
            )
            self._values[parameter.name] = _as(parameter, declared.value)
        self._declared = True
        # rclpy takes what nobody declares in silence.
        given = getattr(node, "_parameter_overrides", {})
        self._qos = {name: p.value for name, p in given.items() if overrides.is_qos(name)}
        self._undeclared = [n for n in given if not node.has_parameter(n) and n not in self._qos]
        if self._has_post_set:
            node.add_post_set_parameters_callback(self._apply)

    def judge(self, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
        """Why the node must not start with the parameters it was given, or None; and those to warn about.

        arguments: of the process.
        """
        refused, foreign = overrides.judge(self._undeclared, arguments)
        return refused or overrides.judge_qos(self._qos), foreign

    def judge_topics(self, topics: Sequence[str]) -> list[str]:
        """What to say of values of quality of service for topics that the node does not subscribe to."""
        return overrides.judge_topics(self._qos, topics)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def unknown_threshold(self, info: Bundle) -> float:
        """The score below which the status is unknown: the parameter's, or the bundle's."""
        value = self._values["unknown_threshold"]
        return float(value if value >= 0 else info.calibration.unknown_threshold)

    def smoothing(self) -> Smoothing:
        """How scores become events."""
        names = ("smoothing_tau_s", "onset_threshold", "offset_threshold", "min_duration_s")
        return Smoothing(*(self._values[name] for name in names))

    def _validate(self, parameters: list[Any]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters}
        reason = refuse_all(changes, self._values, configured=self._configured())
        if reason is None and not self._has_post_set:
            self._apply(parameters)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _apply(self, parameters: list[Any]) -> None:
        before = dict(self._values)
        for parameter in parameters:
            if parameter.name in BY_NAME:
                self._values[parameter.name] = _as(BY_NAME[parameter.name], parameter.value)
        if self._declared:
            self._changed(any(before[name] != self._values[name] for name in _TOLD))


def _as(parameter: Parameter, value: Any) -> Any:
    if isinstance(parameter.default, float):
        return float(value)
    return tuple(value) if isinstance(parameter.default, tuple) else value
