# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says: facts in, level and text out. No ROS import, so every sentence has its test without ROS.

A node that is silent must say why, and what to type. The first sentence that applies is the message; all figures
are in the values whatever the message says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

OK, WARN, ERROR = 0, 1, 2
SHM_SEGMENT = 500_000  # bytes; what Fast DDS's default shared-memory segment of 512 KiB can hold


@dataclass(frozen=True)
class Status:
    """One diagnostic_msgs/DiagnosticStatus without its name."""

    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class CameraFacts:
    """What is known of one camera at this moment. Times in seconds of the steady clock, None: never."""

    topic: str  # resolved
    remap: str  # the topic's name in the node, as a remapping names it
    type_name: str  # what the node subscribes to
    active: bool
    enabled: bool
    publishers: int = 0  # of the right type
    other_types: Sequence[str] = ()  # types that other publishers have on this very topic
    elsewhere: Sequence[str] = ()  # topics of the right type that do have publishers
    incompatible_policy: str | None = None  # QoS policy that a publisher does not offer
    qos_parameter: str = ""  # qos_overrides./image.subscription.
    silent_s: float | None = None  # since the last image, or since activation
    stall_timeout_s: float = 2.0
    received: int = 0
    refused: int = 0
    refused_lately: int = 0  # since the last report
    received_lately: int = 0
    first_refusal: str | None = None
    refusal_lately: str | None = None  # the first reason since the last report
    rate_hz: float | None = None  # by the image stamps
    lost_share: float | None = None  # of the images, judged by their stamps
    image_bytes: int = 0
    big_segment: bool = True  # a Fast DDS profile is in force, or another middleware
    warmup: tuple[int, int] = (0, 0)
    zero_stamps: int = 0
    waiting_for_clock: bool = False
    age_s: float | None = None  # of the newest result
    max_age_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, str] = field(default_factory=dict)


def judge_camera(f: CameraFacts) -> Status:
    """Level, message and values of one camera."""
    level, message = _camera_message(f)
    values = {
        "topic": f.topic,
        "images received": str(f.received),
        "images refused": str(f.refused),
        "first refusal": f.first_refusal or "none",
        "image rate Hz": "n/a" if f.rate_hz is None else f"{f.rate_hz:.1f}",
        "window": f"{f.warmup[0]} of {f.warmup[1]} frames",
        "seconds since the last image": "n/a" if f.silent_s is None else f"{f.silent_s:.1f}",
        "images with zero stamp": str(f.zero_stamps),
        **{name: str(count) for name, count in f.counts.items()},
        **f.latency,
    }
    return Status(level, message, values)


def _camera_message(f: CameraFacts) -> tuple[int, str]:
    if not f.active:
        return OK, "not active"
    if not f.enabled:
        return OK, "disabled by ~/enable"
    stalled = f.silent_s is not None and f.silent_s > f.stall_timeout_s
    if stalled and not f.publishers and f.other_types:
        return (
            ERROR,
            f"{f.topic} is published as {', '.join(f.other_types)}, this node needs {f.type_name}{_hint(f)}",
        )
    if f.incompatible_policy and stalled:
        policy = f.incompatible_policy.lower()
        fix = {"reliability": "best_effort", "durability": "volatile"}.get(policy, "system_default")
        return ERROR, (
            f"a publisher on {f.topic} does not offer the QoS {policy} this node asks for; "
            f"start the node with -p {f.qos_parameter}{policy}:={fix}"
        )
    if stalled and not f.publishers:
        return WARN, f"no publisher on {f.topic}{_hint(f)}"
    if stalled:
        text = f"no image on {f.topic} for {f.silent_s:.1f} s, though {f.publishers} publisher(s) are matched"
        return WARN, text + ("" if f.big_segment else _segment_hint())
    if f.received_lately and f.refused_lately == f.received_lately:
        return ERROR, f"every image is refused: {f.refusal_lately}"
    if f.refused_lately:
        return WARN, f"{f.refused_lately} of {f.received_lately} images refused: {f.refusal_lately}"
    if f.lost_share is not None and f.lost_share > 0.3 and f.image_bytes > SHM_SEGMENT and not f.big_segment:
        return WARN, f"about {f.lost_share:.0%} of the images are lost on the way{_segment_hint()}"
    if f.waiting_for_clock:
        return WARN, "use_sim_time is set but nothing publishes /clock; running on the images' stamps"
    if f.zero_stamps:
        return (
            WARN,
            f"{f.zero_stamps} images had no stamp, their arrival time was used; let the driver fill header.stamp",
        )
    if f.max_age_s and f.age_s is not None and f.age_s > f.max_age_s:
        return WARN, (
            f"results are {f.age_s:.1f} s old by this clock (max_age_s {f.max_age_s:g}); "
            "for a bag set use_sim_time and play with --clock, or set max_age_s:=0"
        )
    n, T = f.warmup
    if n < T:
        return OK, f"warming up, {n} of {T}"
    return OK, "running" if f.rate_hz is None else f"running at {f.rate_hz:.1f} Hz"


def _hint(f: CameraFacts) -> str:
    if not f.elsewhere:
        return f"; no topic of type {f.type_name} has one either: start the camera driver"
    first = f.elsewhere[0]
    return f"; there is {', '.join(f.elsewhere[:5])}: remap with -r {f.remap}:={first}"


def _segment_hint() -> str:
    return (
        "; large images do not fit Fast DDS's default shared memory: on both ends export "
        "FASTRTPS_DEFAULT_PROFILES_FILE=<share of glimpse_clouds>/config/fastdds.xml"
    )


@dataclass(frozen=True)
class EngineFacts:
    """What is known of model and engine."""

    state: str  # lifecycle state
    failure: str | None = None  # why it is not configured, or was deactivated
    description: str = "none"
    model_id: str = "none"
    failures: int = 0
    failures_in_row: int = 0
    last_error: str | None = None
    busy_s: float = 0.0


def judge_engine(f: EngineFacts) -> Status:
    """Level, message and values of the node's model and engine."""
    values = {
        "lifecycle state": f.state,
        "model": f.model_id,
        "engine": f.description,
        "failed runs": str(f.failures),
        "last error": f.last_error or "none",
        "seconds in the present run": f"{f.busy_s:.1f}",
    }
    if f.failure:
        return Status(ERROR, f.failure, values)
    if f.failures_in_row:
        return Status(ERROR, f"{f.failures_in_row} failed runs in a row: {f.last_error}", values)
    return Status(OK, f.state, values)


class Latencies:
    """The last results' times by stage, as percentiles; n/a before the first."""

    def __init__(self, kept: int = 200) -> None:
        self._kept = kept
        self._stages: dict[str, deque[float]] = {}

    def add(self, **seconds: float) -> None:
        """Times of one result in seconds; NaN is left out."""
        for stage, value in seconds.items():
            if value == value:
                self._stages.setdefault(stage, deque(maxlen=self._kept)).append(value)

    def last(self, stage: str) -> float | None:
        """The newest time of a stage in seconds, None before the first."""
        values = self._stages.get(stage)
        return values[-1] if values else None

    def values(self, *stages: str) -> dict[str, str]:
        """`{stage} ms p50/p99` of each stage."""
        out = {}
        for stage in stages:
            kept = list(self._stages.get(stage, ()))
            text = "n/a"
            if kept:
                p50, p99 = np.percentile(kept, [50, 99]) * 1e3
                text = f"{p50:.1f} / {p99:.1f}"
            out[f"{stage} ms p50 / p99"] = text
        return out
