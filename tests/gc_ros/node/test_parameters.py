# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: code, YAML, documentation and the running node say the same; illegal values are refused."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.node.parameters import BY_NAME, PARAMETERS, as_markdown, as_yaml, refuse_all

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}
AS_YAML = {name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()}


def test_the_yaml_file_is_what_the_table_says() -> None:
    text = (ROOT / "config" / "activity.yaml").read_text()
    assert text == as_yaml(), "write it anew: python -m gc_ros.node.parameters yaml > config/activity.yaml"
    assert yaml.safe_load(text)["/**"]["ros__parameters"] == AS_YAML


def test_the_documentation_is_what_the_table_says() -> None:
    path = ROOT / "docs" / "parameters.md"
    assert path.read_text() == as_markdown(), (
        f"write it anew: python -m gc_ros.node.parameters markdown > {path}"
    )


def test_every_parameter_is_described_bounded_and_legal_by_default() -> None:
    assert refuse_all(DEFAULTS, {}, configured=False) is None
    for parameter in PARAMETERS:
        assert parameter.description.endswith("."), parameter.name
        if type(parameter.default) in (int, float):
            assert parameter.low is not None and parameter.high is not None, parameter.name


def illegal_values() -> list[tuple[str, Any]]:
    cases: list[tuple[str, Any]] = []
    for parameter in PARAMETERS:
        if isinstance(parameter.default, bool):
            cases.append((parameter.name, 1))
        elif isinstance(parameter.default, int | float):
            assert parameter.low is not None and parameter.high is not None
            cases += [(parameter.name, parameter.low - 1), (parameter.name, parameter.high + 1)]
            cases += [(parameter.name, math.nan), (parameter.name, "fast"), (parameter.name, True)]
        else:
            cases.append((parameter.name, 3))
            if parameter.choices:
                cases.append((parameter.name, "other"))
            if parameter.form[0]:
                cases += [
                    (parameter.name, "0" * 63),
                    (parameter.name, "g" * 64),
                    (parameter.name, "0" * 64 + "\n"),
                ]
            if parameter.name == "cameras":
                cases += [
                    ("cameras", v)
                    for v in ([], ["a", "a"], ["a", ""], ["1a"], ["a/"], ["ä"], ["a b"], ["a", 1])
                ]
                cases += [("cameras", [f"camera{i}" for i in range(17)]), ("cameras", "front")]
    return cases


@pytest.mark.parametrize(("name", "value"), illegal_values())
def test_every_illegal_value_is_refused_with_the_parameters_name(name: str, value: Any) -> None:
    kind = type(DEFAULTS[name])
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    reason = refuse_all({name: value}, DEFAULTS, configured=False)
    assert reason is not None and reason.startswith(name) and "\n" not in reason


@given(
    on=st.floats(0, 1),
    off=st.floats(0, 1),
    old_on=st.floats(0, 1),
    old_off=st.floats(0, 1),
    both=st.booleans(),
)
def test_thresholds_are_checked_together(
    on: float, off: float, old_on: float, old_off: float, both: bool
) -> None:
    current = {**DEFAULTS, "onset_threshold": old_on, "offset_threshold": old_off}
    changes = {"onset_threshold": on, "offset_threshold": off} if both else {"onset_threshold": on}
    refused = refuse_all(changes, current, configured=False) is not None
    assert refused == ((off if both else old_off) > on)


@pytest.mark.parametrize("value", [[""], ["front"], ["front", "head/left_2"], ("a", "b")])
def test_legal_camera_names_are_taken(value: Any) -> None:
    assert refuse_all({"cameras": value}, DEFAULTS, configured=False) is None


def test_what_needs_a_new_configuration_is_refused_while_configured() -> None:
    for parameter in PARAMETERS:
        other = {
            str: "/elsewhere",
            int: 2,
            float: max(0.45, parameter.low or 0.0),
            bool: not parameter.default,
            tuple: ["front", "left"],
        }
        value = other[type(parameter.default)]
        if parameter.choices:
            value = parameter.choices[-1]
        refused = refuse_all({parameter.name: value}, DEFAULTS, configured=True)
        assert (refused is not None) == (parameter.change == "unconfigured"), (parameter.name, refused)
        assert refuse_all({parameter.name: parameter.default}, DEFAULTS, configured=True) is None


@pytest.mark.ros
def test_the_running_node_declares_them_all_and_keeps_old_values_on_refusal(tmp_path: Path) -> None:
    from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParametersAtomically
    from rclpy.parameter import Parameter

    from gc_ros.node import ros_messages
    from gc_ros.stamps import NS
    from tests import toy
    from tests.gc_ros.node.harness import NAME, running, wait_until

    bundle = toy.toy_bundle(tmp_path / "bundle").path
    with running(bundle, stride=4) as (_, peer):

        def set_values(**values: Any) -> Any:
            request = SetParametersAtomically.Request()
            request.parameters = [
                Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
            ]
            return peer.call(SetParametersAtomically, f"{NAME}/set_parameters_atomically", request).result

        listed = peer.call(ListParameters, f"{NAME}/list_parameters", ListParameters.Request()).result.names
        own = {name for name in listed if not name.startswith("qos_overrides")}
        known = {"use_sim_time", "start_type_description_service"}
        assert own - known == set(DEFAULTS)
        request = DescribeParameters.Request(names=list(DEFAULTS))
        for found in peer.call(DescribeParameters, f"{NAME}/describe_parameters", request).descriptors:
            parameter = BY_NAME[found.name]
            assert found.description == parameter.description
            if parameter.low is not None:
                ranges = [*found.integer_range, *found.floating_point_range]
                assert (ranges[0].from_value, ranges[0].to_value) == (parameter.low, parameter.high)

        for values, says in [
            ({"top_k": 0}, "top_k"),
            ({"stride": 2}, "only while the node is unconfigured"),
            ({"top_k": 3, "unknown_threshold": 1.5}, "unknown_threshold"),
            ({"bundle": "/elsewhere"}, "only while the node is unconfigured"),
            ({"autostart": False}, "read-only"),
            ({"max_age_s": "soon"}, "max_age_s must be a number"),
        ]:
            result = set_values(**values)
            assert not result.successful and says in result.reason, (values, result.reason)
        kept = peer.call(
            GetParameters, f"{NAME}/get_parameters", GetParameters.Request(names=["top_k", "stride"])
        )
        assert [value.integer_value for value in kept.values] == [5, 4]

        assert set_values(top_k=2, unknown_threshold=1.0, max_age_s=0).successful
        peer.wait_for_camera()
        for number in range(12):
            peer.publish(toy.number_image(number), number * NS // 8 + NS)
            time.sleep(0.01)
        wait_until(lambda: len(peer.activities) == 2, "two messages, four frames apart")
        first, second = peer.activities
        assert len(first.top_k) == 2 and first.status == first.STATUS_UNKNOWN
        stamps = [ros_messages.to_ns(message.header.stamp) for message in (first, second)]
        assert stamps[1] - stamps[0] == 4 * NS // 8
