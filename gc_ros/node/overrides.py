# SPDX-License-Identifier: Apache-2.0
"""Parameters given at the start that the node does not have: a misspelt name must not be silence. No ROS import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from gc_ros.node.parameters import BY_NAME

# What parameters can set of a subscription's quality of service, and to what; a depth is a number.
QOS: dict[str, tuple[str, ...]] = {
    "history": ("keep_last", "keep_all", "system_default"),
    "depth": (),
    "reliability": ("reliable", "best_effort", "best_available", "system_default"),
}


def is_qos(name: str) -> bool:
    """Whether a parameter is one of those that a subscription declares when it is made."""
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "qos_overrides" and parts[2] == "subscription" and parts[3] in QOS


def judge(unknown: Iterable[str], arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Why the node must not start with these parameters, or None; and those to warn about.

    unknown: given names that the node does not have. arguments: of the process, with the parameter files. A file that
    a whole robot shares (`/**`) may hold what is meant for others, unless it is nearly one of ours.
    """
    shared = set(_shared_names(arguments))
    foreign = []
    for name in sorted(unknown):
        near = get_close_matches(name, BY_NAME, 1, 0.75)
        if near or name not in shared:
            hint = f"; did you mean {near[0]}?" if near else "; docs/parameters.md lists those there are"
            if name.startswith("qos_overrides."):
                hint = (
                    f"; there are qos_overrides.TOPIC.subscription.POLICY, of the policies {', '.join(QOS)}"
                )
            return f"there is no parameter {name}{hint}", []
        foreign.append(name)
    return None, foreign


def judge_topics(given: Iterable[str], topics: Sequence[str]) -> list[str]:
    """What to say of given names (`is_qos`) whose topic is none of these."""
    return [
        f"{name} is for no topic of this node: it subscribes to {' and '.join(topics)}"
        for name in sorted(given)
        if name.split(".")[1] not in topics
    ]


def judge_qos(given: Mapping[str, Any]) -> str | None:
    """Why the node must not start with these values of quality of service, by name (`is_qos`), or None."""
    for name, value in sorted(given.items()):
        policy = name.rsplit(".", 1)[-1]
        if policy == "depth":
            keeps_all = given.get(name.removesuffix("depth") + "history") == "keep_all"
            if type(value) is not int or value < (0 if keeps_all else 1):
                return f"{name} is {value!r}; give a whole number from 1 on"
        elif value not in QOS[policy]:
            return f"{name} is {value!r}; give {', '.join(QOS[policy][:-1])} or {QOS[policy][-1]}"
    return None


def missing_file(arguments: Sequence[str]) -> str | None:
    """The first parameter file that does not exist, or None."""
    return next((path for path in _files(arguments) if not Path(path).is_file()), None)


def _files(arguments: Sequence[str]) -> Iterator[str]:
    for i, word in enumerate(arguments[:-1]):
        if word == "--params-file":
            yield arguments[i + 1]


def _shared_names(arguments: Sequence[str]) -> Iterator[str]:
    for path in _files(arguments):
        try:
            # Names alone are wanted: nothing is made of tags, dates and what else only ROS needs to understand.
            for tree in yaml.compose_all(Path(path).read_bytes(), yaml.SafeLoader):
                yield from _under(tree, "")
        except (OSError, ValueError, yaml.YAMLError):
            continue  # ROS took it


def _under(tree: Any, node: str) -> Iterator[str]:
    """Parameters of a file that are given to nodes of any name."""
    for key, value in _pairs(tree):
        if key != "ros__parameters":
            yield from _under(value, key)
        elif node.rsplit("/", 1)[-1] in ("*", "**"):
            yield from _flat(value, "")


def _flat(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in _pairs(tree):
        if isinstance(value, yaml.MappingNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    for key, value in tree.value if isinstance(tree, yaml.MappingNode) else ():
        yield str(key.value), value
