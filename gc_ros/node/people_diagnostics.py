# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says about the people of one camera: facts in, level and text out. No ROS import.

As in `diagnostics`: each condition holds for a window of its own, the worst is the message, the others are in `also`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gc_ros.media import people_topics
from gc_ros.node.diagnostics import ERROR, OK, REFUSED_S, WARN, Condition, Status, worst_of
from gc_ros.node.people_input import OTHER_FRAME

_NAMED = 5  # ids that a sentence names


@dataclass(frozen=True)
class PeopleFacts:
    """What is known of the people of one camera at this moment. Lately: within REFUSED_S. Seconds; None: never."""

    topic: str  # resolved
    remap: str  # the topic's name in the node, as a remapping names it
    type_name: str  # what the node subscribes to
    active: bool
    enabled: bool
    publishers: int = 0  # of the right type
    other_types: Sequence[str] = ()
    reliable_enough: bool = True  # whether any of them offers the reliability that the node asks for
    elsewhere: Sequence[str] = ()  # topics of the right type that do have publishers
    silent_s: float | None = None  # since the last message, or since activation
    stall_timeout_s: float = 2.0
    messages: int = 0
    detections: int = 0
    others: int = 0  # detections of something else than people
    detections_lately: int = 0
    refused_lately: Mapping[str, int] = field(default_factory=dict)
    other_frame: str = ""  # frame_id of the detections that were refused for it,
    frame_id: str = ""  # and that of the images
    images_lately: int = 0
    without_lately: int = 0  # of these images, with no detections near enough
    max_age_s: float = 0.5
    present: Sequence[str] = ()  # ids that have a place
    warming_up: Sequence[str] = ()  # of these, without a full window
    left_out: Sequence[str] = ()  # ids that have none
    max_people: int = 0
    others_lately: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, str] = field(default_factory=dict)


def judge_people(f: PeopleFacts) -> Status:
    """Level, message and values of the people of one camera."""
    values = {
        "topic": f.topic,
        "messages": str(f.messages),
        "people detected": str(f.detections),
        "detections of other things": str(f.others),
        "people": ", ".join(f.present) or "none",
        "left out": ", ".join(f.left_out[:_NAMED]) or "none",
        **{name: str(count) for name, count in f.counts.items()},
        **f.latency,
    }
    return worst_of(list(_conditions(f)), values)


def _conditions(f: PeopleFacts) -> Iterator[Condition]:
    if not f.active:
        yield OK, "not active"
        return
    if not f.enabled:
        yield OK, "disabled by ~/enable"
        return
    if f.silent_s is not None and f.silent_s > f.stall_timeout_s:
        yield _silence(f)
    else:
        yield from _refusals(f)
        yield from _images(f)
    if f.left_out:
        total = len(f.present) + len(f.left_out)
        yield (
            WARN,
            f"{len(f.left_out)} of {total} people are left out ({_named(f.left_out)}); raise max_people (now "
            f"{f.max_people}), or let the detector report fewer",
        )
    if not f.present:
        yield OK, "nobody is there"
        return
    yield OK, _count(f)


def _count(f: PeopleFacts) -> str:
    if len(f.present) == 1:
        return "1 person, warming up" if f.warming_up else "1 person"
    return f"{len(f.present)} people" + (f", {len(f.warming_up)} of them warming up" if f.warming_up else "")


def _silence(f: PeopleFacts) -> Condition:
    """Why no detections come."""
    if not f.publishers and f.other_types:
        types = ", ".join(f.other_types)
        rows = [people_topics.BY_TYPE[name].name for name in f.other_types if name in people_topics.BY_TYPE]
        fix = f"set people:={rows[0]}" if rows else f"publish {f.type_name}"
        return ERROR, f"{f.topic} is published as {types}, this node needs {f.type_name}; {fix}"
    if not f.reliable_enough:
        return ERROR, (
            f"a publisher on {f.topic} does not offer the QoS reliability this node asks for; "
            f"start the node with -p qos_overrides.{f.topic}.subscription.reliability:=best_effort"
        )
    if f.publishers:
        return WARN, (
            f"no detections on {f.topic} for {f.silent_s:.1f} s, though {f.publishers} publisher(s) are matched; "
            "does the detector get images, and does it publish when nobody is there?"
        )
    return WARN, f"no publisher on {f.topic}; {_hint(f)}"


def _hint(f: PeopleFacts) -> str:
    if f.elsewhere:
        there = ", ".join(f.elsewhere[:_NAMED])
        return f"there is {there}: remap with -r {f.remap}:={f.elsewhere[0]}"
    return "start a detector with a tracker: ros2 launch glimpse_clouds people.launch.py --show-args"


def _refusals(f: PeopleFacts) -> Iterator[Condition]:
    """What is wrong with the detections that come."""
    total = f.detections_lately + sum(f.refused_lately.values()) - f.refused_lately.get(OTHER_FRAME, 0)
    missing = f.refused_lately.get(people_topics.NO_ID, 0)
    if missing:
        yield (
            ERROR if missing >= total else WARN,
            f"{missing} of {total} detections have {people_topics.NO_ID}",
        )
    if f.refused_lately.get(OTHER_FRAME):
        yield (
            ERROR,
            f"detections are in the frame {f.other_frame!r}, the images in {f.frame_id!r}: nobody is taken; let the "
            "detector work on this camera's images, and copy their header",
        )
    for reason, times in f.refused_lately.items():
        if times and reason not in (people_topics.NO_ID, OTHER_FRAME):
            yield WARN, f"{times} detections refused in {REFUSED_S:.0f} s: {reason}"
    if f.others_lately and not f.detections_lately:
        yield (
            WARN,
            f"{f.others_lately} detections in {REFUSED_S:.0f} s, and none is a person; person_classes must name what "
            "the detector calls one",
        )


def _images(f: PeopleFacts) -> Iterator[Condition]:
    if f.images_lately and f.without_lately > f.images_lately / 2:
        yield (
            WARN,
            f"{f.without_lately} of {f.images_lately} images had no detections within {f.max_age_s:g} s by stamps; "
            "the detector must copy the images' stamps, or is slower than people_max_age_s",
        )


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (" ..." if len(ids) > _NAMED else "")
