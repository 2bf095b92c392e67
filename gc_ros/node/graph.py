# SPDX-License-Identifier: Apache-2.0
"""What the ROS graph says about the topic of one camera: who publishes it, as what, and where images are instead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier

_OVERLAYS = ("/debug/image", "/debug/image/compressed")  # what `results.Results` publishes


@dataclass(frozen=True)
class Publishers:
    """Who publishes a topic.

    fitting: how many do so with the wanted type. nodes: their nodes' names. other_types: types of the others.
    reliable_enough: whether any of the fitting ones offers the reliability that the node asks for, or there is none.
    """

    fitting: int = 0
    nodes: Sequence[str] = ()
    other_types: Sequence[str] = ()
    reliable_enough: bool = True


def topic_of(node: LifecycleNode, name: str, suffix: str) -> str:
    """The name to subscribe to for the images of the topic `name` in a transport with this suffix.

    As image_transport has it: what `name` is after remapping, plus the suffix; a remapping of `name` with the suffix
    itself comes first.
    """
    own = f"{name}{suffix}"
    if not suffix or node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return own
    return f"{node.resolve_topic_name(name)}{suffix}"


def overridable() -> QoSOverridingOptions:
    """Parameters may set history, depth and reliability of a subscription (`overrides.QOS`)."""

    def judge(qos: QoSProfile) -> SetParametersResult:
        # rcl's own words for it are those of an invalid allocator.
        legal = qos.depth > 0 or qos.history == HistoryPolicy.KEEP_ALL
        return SetParametersResult(successful=legal, reason=f"depth must be 1 or more, not {qos.depth}")

    return QoSOverridingOptions.with_default_policies(callback=judge)


def publishers_of(node: LifecycleNode, topic: str, type_name: str) -> Publishers:
    """The publishers of a topic as the node sees them now."""
    infos = node.get_publishers_info_by_topic(topic)
    fitting = [info for info in infos if info.topic_type == type_name]
    return Publishers(
        fitting=len(fitting),
        nodes=[f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in fitting],
        other_types=sorted({info.topic_type for info in infos} - {type_name}),
        reliable_enough=not fitting or any(_offers_enough(node, topic, info) for info in fitting),
    )


def _offers_enough(node: LifecycleNode, topic: str, publisher: Any) -> bool:
    override = f"qos_overrides.{topic}.subscription.reliability"
    wanted = node.get_parameter_or(override).value if node.has_parameter(override) else None
    return wanted != "reliable" or publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def topics_of(node: LifecycleNode, type_name: str) -> list[str]:
    """Topics of a type that have a publisher and are neither this node's own nor the overlay of another one."""
    name, space = node.get_name(), node.get_namespace()
    own = {t for t, _ in node.get_publisher_names_and_types_by_node(name, space)}
    own |= {t for t, _ in node.get_subscriber_names_and_types_by_node(name, space)}
    topics = node.get_topic_names_and_types()
    # What shows somebody what another node has recognised is no camera.
    return sorted(
        t
        for t, types in topics
        if type_name in types and t not in own and not t.endswith(_OVERLAYS) and node.count_publishers(t)
    )


def carries_large_images() -> bool:
    """Whether the middleware is another than Fast DDS, or a profile of Fast DDS is in force."""
    fast_dds = get_rmw_implementation_identifier().startswith("rmw_fastrtps")
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return not fast_dds or any(os.environ.get(name) for name in names)
