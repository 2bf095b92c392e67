# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy against the ROS graph of the running node."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from std_srvs.srv import SetBool

from gc_ros.security import OPTIONAL_RESULTS, Names, names
from tests.gc_ros.harness import NAME, running, wait_until
from tests.toy import toy_bundle

pytestmark = pytest.mark.ros
INSTALLED = {topic for topic, package in OPTIONAL_RESULTS.items() if importlib.util.find_spec(package)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("numbers")).path


def graph(bundle: Path, **parameters: Any) -> Names:
    """Everything the node has in the graph while it is active."""
    with running(bundle, **parameters) as (running_node, peer):
        peer.wait_for_diagnostic("engine", "active")
        peer.call(
            SetBool, f"{NAME}/enable", SetBool.Request(data=True)
        )  # all of the services are known by now
        node, name = running_node.node, NAME.strip("/")
        wait_until(lambda: node.get_service_names_and_types_by_node(name, "/"), "the node in its own graph")
        assert node.get_client_names_and_types_by_node(name, "/") == [], "the policy allows no request"
        found = [
            node.get_publisher_names_and_types_by_node(name, "/"),
            node.get_subscriber_names_and_types_by_node(name, "/"),
            node.get_service_names_and_types_by_node(name, "/"),
        ]
    return Names(*(tuple(sorted(topic for topic, _ in kind)) for kind in found))


def expected(cameras: tuple[str, ...] = ()) -> Names:
    allowed = names(cameras)
    missing = {topic for topic in OPTIONAL_RESULTS if topic not in INSTALLED}
    return Names(
        tuple(t for t in allowed.publish if t.rsplit("/", 1)[-1] not in missing),
        allowed.subscribe,
        allowed.reply,
    )


def test_the_policy_lists_exactly_what_the_node_publishes_subscribes_to_and_serves(bundle: Path) -> None:
    raw = graph(bundle, use_sim_time=True)
    compressed = graph(bundle, image_transport="compressed")
    policy = expected()
    assert raw.publish == compressed.publish == policy.publish
    assert raw.reply == compressed.reply == policy.reply
    # One transport at a time, and the clock only where it is followed: together all that is allowed.
    assert tuple(sorted({*raw.subscribe, *compressed.subscribe})) == policy.subscribe
    assert raw.subscribe == ("/clock", "/image") and compressed.subscribe == ("/image/compressed",)


def test_the_policy_of_several_cameras_lists_exactly_theirs(bundle: Path) -> None:
    found, policy = graph(bundle, cameras=["front", "left"]), expected(("front", "left"))
    assert found.publish == policy.publish and found.reply == policy.reply
    assert found.subscribe == ("/front/image", "/left/image")
