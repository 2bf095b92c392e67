# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy against the ROS graph of the running node."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from gc_ros.node.security import OPTIONAL_RESULTS, Names, names
from tests.gc_ros.node.crowd import carrier
from tests.gc_ros.node.harness import NAME, running, wait_until
from tests.toy import toy_bundle

__all__ = ["carrier"]  # a fixture

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("numbers")).path


def check_graph(bundle: Path, policy: Names, subscribe: tuple[str, ...], **parameters: Any) -> None:
    """The active node has in the graph all that the policy lets it publish and serve, `subscribe`, and no more."""
    assert set(subscribe) <= set(policy.subscribe)
    with running(bundle, **parameters) as (running_node, peer):
        peer.wait_for_diagnostic("engine", "active")
        node, name = running_node.node, NAME.strip("/")

        def found() -> Names:
            kinds = [
                node.get_publisher_names_and_types_by_node(name, "/"),
                node.get_subscriber_names_and_types_by_node(name, "/"),
                node.get_service_names_and_types_by_node(name, "/"),
            ]
            return Names(*(tuple(sorted(topic for topic, _ in kind)) for kind in kinds))

        wanted = dataclasses.replace(policy, subscribe=subscribe)
        # The graph follows with a delay; what differs is said below.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: found() == wanted, "the graph")
        reports = peer.reports
        wait_until(lambda: peer.reports > reports, "a second in which more might appear")
        assert found() == wanted
        assert node.get_client_names_and_types_by_node(name, "/") == [], "the policy allows no request"


def installed(allowed: Names) -> Names:
    """Without the topics whose message package is not installed here."""
    missing = {topic for topic, package in OPTIONAL_RESULTS.items() if not importlib.util.find_spec(package)}
    return dataclasses.replace(
        allowed, publish=tuple(t for t in allowed.publish if t.rsplit("/", 1)[-1] not in missing)
    )


@pytest.mark.slow
def test_the_policy_lists_exactly_what_the_node_publishes_subscribes_to_and_serves(bundle: Path) -> None:
    policy = installed(names())
    # One transport at a time, and the clock only where it is followed: together all that is allowed.
    assert policy.subscribe == ("/clock", "/image", "/image/compressed", "/image/ffmpeg", "/image/foxglove")
    check_graph(bundle, policy, ("/clock", "/image"), use_sim_time=True)
    check_graph(bundle, policy, ("/image/compressed",), image_transport="compressed")


def test_the_policy_of_several_cameras_lists_exactly_theirs(bundle: Path) -> None:
    policy = installed(names(("front", "left")))
    check_graph(bundle, policy, ("/front/image", "/left/image"), cameras=["front", "left"])


@pytest.mark.usefixtures("carrier")
def test_the_policy_of_a_node_that_tells_people_apart_lists_exactly_its_topics(bundle: Path) -> None:
    policy = installed(names(people="detections"))
    assert set(policy.publish) - set(installed(names()).publish) == {f"{NAME}/people"}
    check_graph(bundle, policy, ("/image", "/people"), people="detections")
