# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy of the node: exactly the topics and services it uses.

    python -m gc_ros.node.security > config/sros2.policy.xml
    python -m gc_ros.node.security --cameras front,left --remap front/image:=/front/image_raw > mine.policy.xml
    python -m gc_ros.node.security --people yolo --remap people:=/yolo/tracking > mine.policy.xml

A policy holds names as they are after remapping, so a robot with other names writes its own. No ROS import; a test
holds these names equal to what a running node shows in the ROS graph.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from gc_ros.media.people_topics import BY_NAME as FAMILIES
from gc_ros.media.people_topics import Bodies
from gc_ros.media.transports import TRANSPORTS
from gc_ros.node.parameters import BY_NAME
from trt_build.errors import DataError

NODE = "activity_recognition"
# Of each camera, below the node's name; the optional ones where the package of their message is installed.
RESULTS = ("activity", "debug/image", "debug/image/compressed", "events")
OPTIONAL_RESULTS = {
    "classification": "vision_msgs",
    "annotations": "foxglove_msgs",
    "markers": "visualization_msgs",
}
_NODE_TOPICS = ("label_info", "taught", "transition_event")
_GLOBAL_TOPICS = ("/diagnostics", "/parameter_events", "/rosout")
_OWN_SERVICES = ("enable", "forget", "reset", "teach")
_ROS_SERVICES = (
    *(
        "change_state",
        "get_available_states",
        "get_available_transitions",
        "get_state",
        "get_transition_graph",
    ),
    *(
        "describe_parameters",
        "get_parameter_types",
        "get_parameters",
        "get_type_description",
        "list_parameters",
    ),
    *("set_parameters", "set_parameters_atomically"),
)


@dataclass(frozen=True)
class Names:
    """Fully qualified names, sorted. The node calls no services and has no actions."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    reply: tuple[str, ...]


def names(
    cameras: Sequence[str] = (),
    *,
    namespace: str = "/",
    remap: Mapping[str, str] | None = None,
    optional: bool = True,
    people: str = "",
) -> Names:
    """What the node may use. cameras, people: as the parameters, () for one without a name. remap: from -> to, as -r.

    optional: with the topics of message packages that need not be installed.
    """
    base = "/" + namespace.strip("/")
    base = base if base.endswith("/") else base + "/"
    rules = dict(remap or {})

    def qualified(name: str) -> str:
        name = rules.get(name, name)
        return name if name.startswith("/") else base + name

    prefixes = [f"{camera}/" for camera in cameras] or [""]
    images = [f"{prefix}image" for prefix in prefixes]
    suffixes = [transport.suffix for transport in TRANSPORTS]
    detections = [f"{prefix}{FAMILIES[people].topic}" for prefix in prefixes] if people else []
    unknown = set(rules) - {f"{image}{suffix}" for image in images for suffix in suffixes} - set(detections)
    if unknown:
        raise DataError(
            f"no image topic {', '.join(sorted(unknown))} to remap; there are: {', '.join([*images, *detections])}"
        )
    for image in images:  # as image_transport has it, the other transports follow the raw one
        for suffix in suffixes:
            rules.setdefault(f"{image}{suffix}", f"{qualified(image)}{suffix}")
    results = [*RESULTS, *(OPTIONAL_RESULTS if optional else ()), *(["people"] if people else [])]
    publish = [f"{base}{NODE}/{prefix}{result}" for prefix in prefixes for result in results]
    publish += [f"{base}{NODE}/{topic}" for topic in _NODE_TOPICS]
    subscribe = [qualified(name) for image in images for name in (f"{image}{s}" for s in suffixes)]
    subscribe += [qualified(name) for name in detections]
    if people and FAMILIES[people].read is None:  # the bodies come and go
        subscribe.append(Bodies.roi_topic("*"))
        publish.append(Bodies.gesture_topic("*"))
    return Names(
        tuple(sorted([*publish, *_GLOBAL_TOPICS])),
        tuple(sorted([*subscribe, "/clock"])),
        tuple(sorted(f"{base}{NODE}/{service}" for service in (*_OWN_SERVICES, *_ROS_SERVICES))),
    )


def as_policy(allowed: Names, *, namespace: str = "/") -> str:
    """The policy file for `ros2 security create_permission`; its enclave is the node's full name."""
    base = "/" + namespace.strip("/")
    enclave = f"{base.rstrip('/')}/{NODE}"
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- SPDX-License-Identifier: Apache-2.0",
        "     What the node activity_recognition may do, and nothing else. Use: SECURITY.md.",
        "     Written by: python -m gc_ros.node.security -->",
        '<policy version="0.2.0">',
        "  <enclaves>",
        f'    <enclave path="{escape(enclave)}">',
        "      <profiles>",
        f'        <profile ns="{escape(base)}" node="{NODE}">',
    ]
    for kind, item, rule, entries in (
        ("topics", "topic", "publish", allowed.publish),
        ("topics", "topic", "subscribe", allowed.subscribe),
        ("services", "service", "reply", allowed.reply),
    ):
        lines.append(f'          <{kind} {rule}="ALLOW">')
        lines += [f"            <{item}>{escape(name)}</{item}>" for name in entries]
        lines.append(f"          </{kind}>")
    lines += ["        </profile>", "      </profiles>", "    </enclave>", "  </enclaves>", "</policy>"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the policy; exit code 2 for impossible names."""
    parser = argparse.ArgumentParser(
        prog="python -m gc_ros.node.security", description="The node's SROS2 policy."
    )
    parser.add_argument("--namespace", default="/", help="namespace of the node")
    parser.add_argument("--people", default="", choices=["", *FAMILIES], help="as the parameter people")
    parser.add_argument("--cameras", default="", help="as the parameter cameras, comma-separated")
    parser.add_argument(
        "--remap",
        action="append",
        default=[],
        metavar="FROM:=TO",
        help="the name of a topic of images or people",
    )
    options = parser.parse_args(arguments)
    cameras = [name for name in options.cameras.split(",") if name]
    reason = BY_NAME["cameras"].refuse(cameras) if cameras else None
    if reason:
        parser.error(reason)
    if not re.fullmatch(r"/?([A-Za-z_][A-Za-z0-9_]*/?)*", options.namespace):
        parser.error(f"{options.namespace!r} is not a ROS namespace; use letters, digits, _ and /")
    pairs = [rule.split(":=", 1) for rule in options.remap]
    if any(len(pair) != 2 for pair in pairs):
        parser.error("give --remap as FROM:=TO, for example image:=/camera/image_raw")
    try:
        allowed = names(cameras, namespace=options.namespace, remap=dict(pairs), people=options.people)
    except DataError as error:
        parser.error(str(error))
    print(as_policy(allowed, namespace=options.namespace), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
