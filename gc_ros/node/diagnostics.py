# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says: facts in, level and text out. No ROS import, so every sentence has its test without ROS.

A node that is silent must say why, and what to type. Each condition is judged over a window of its own, so that it
ends when its cause does and hides no other. The worst that holds now is the message, the first of several as bad; the
others are in the value `also`, and all figures are in the values whatever the message says.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OK, WARN, ERROR = 0, 1, 2
SHM_SEGMENT = 500_000  # bytes; what Fast DDS's default shared-memory segment of 512 KiB can hold


STAMPS_S = 5.0  # windows of the conditions, seconds: what is wrong with the images' stamps,
REFUSED_S = 5.0  # images that are refused,
RESETS_S = 10.0  # breaks in the stream,
AGE_S = 5.0  # the age of results, and results that cannot be published
# Fewer than these, within their windows, are accidents: images whose stamp came already, their share, and breaks.
_REPEATED, _REPEATED_SHARE = 3, 0.1
_BREAKS = 6


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
    first_refusal: str | None = None
    refused_lately: int = 0  # within REFUSED_S, and
    received_lately: int = 0  # of so many images
    refusal_lately: str | None = None  # the newest reason
    stamped_lately: int = 0  # images that reached the recogniser within STAMPS_S
    repeated_lately: int = 0  # of these, with a stamp that came already
    zero_stamps_lately: int = 0
    breaks_lately: Mapping[str, int] = field(default_factory=dict)  # by reason, within RESETS_S
    publisher_names: Sequence[str] = ()  # nodes, where more than one publishes
    rate_hz: float | None = None  # by the image stamps
    lost_share: float | None = None  # of the images, judged by their stamps
    image_bytes: int = 0
    big_segment: bool = True  # a Fast DDS profile is in force, or another middleware
    warmup: tuple[int, int] = (0, 0)
    waiting_s: float | None = None  # for a key frame of a video stream
    zero_stamps: int = 0
    waiting_for_clock: bool = False
    age_s: float | None = None  # of the newest result within AGE_S
    unpublished: str | None = None  # why a result within AGE_S could not be published
    max_age_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, str] = field(default_factory=dict)


Condition = tuple[int, str]  # level and message


def judge_camera(f: CameraFacts) -> Status:
    """Level, message and values of one camera."""
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
    return worst_of(_conditions(f), values)


def worst_of(holding: Sequence[Condition], values: Mapping[str, str]) -> Status:
    """The worst of the conditions that hold, of which there is one; the others that are bad are in the value `also`."""
    # max takes the first of several as bad.
    worst = max(holding, key=lambda condition: condition[0])
    also = [message for level, message in holding if level > OK and message != worst[1]]
    return Status(*worst, {"also": "; ".join(also) or "none", **values})


def _conditions(f: CameraFacts) -> list[Condition]:
    """All that hold now."""
    if not f.active:
        return [(OK, "not active")]
    if not f.enabled:
        return [(OK, "disabled by ~/enable")]
    stalled = f.silent_s is not None and f.silent_s > f.stall_timeout_s
    holding = [_silence(f)] if stalled else [*_images(f), *_stamps(f), *_results(f)]
    if f.waiting_for_clock:
        holding.append(
            (WARN, "use_sim_time is set but nothing publishes /clock; running on the images' stamps")
        )
    n, T = f.warmup
    if n < T:
        holding.append((OK, f"warming up, {n} of {T}"))
    holding.append((OK, "running" if f.rate_hz is None else f"running at {f.rate_hz:.1f} Hz"))
    return holding


def _silence(f: CameraFacts) -> Condition:
    """Why no image comes."""
    if not f.publishers and f.other_types:
        types = ", ".join(f.other_types)
        return ERROR, f"{f.topic} is published as {types}, this node needs {f.type_name}{_hint(f)}"
    if f.incompatible_policy:
        policy = f.incompatible_policy.lower()
        fix = {"reliability": "best_effort", "durability": "volatile"}.get(policy, "system_default")
        return ERROR, (
            f"a publisher on {f.topic} does not offer the QoS {policy} this node asks for; "
            f"start the node with -p {f.qos_parameter}{policy}:={fix}"
        )
    if not f.publishers:
        return WARN, f"no publisher on {f.topic}{_hint(f)}"
    text = f"no image on {f.topic} for {f.silent_s:.1f} s, though {f.publishers} publisher(s) are matched"
    # Where none came yet, nobody knows how large they are.
    fits = f.big_segment or 0 < f.image_bytes <= SHM_SEGMENT
    return WARN, text + ("" if fits else _segment_hint())


def _images(f: CameraFacts) -> Iterator[Condition]:
    """What is wrong with the images that come."""
    if f.refused_lately and f.refused_lately >= f.received_lately:
        yield ERROR, f"every image is refused: {f.refusal_lately}"
    elif f.refused_lately:
        yield WARN, f"{f.refused_lately} of {f.received_lately} images refused: {f.refusal_lately}"
    if f.waiting_s is not None:
        yield (
            WARN,
            (
                f"waiting for a key frame of the video on {f.topic} for {f.waiting_s:.1f} s; "
                "let the encoder send one every second (keyint, gop_size, idr_interval); if it does, the packets "
                "are of another codec than they say, or not in Annex B form"
            ),
        )
    if len(f.publisher_names) > 1:
        yield (
            WARN,
            (
                f"{len(f.publisher_names)} publishers on {f.topic} ({', '.join(sorted(f.publisher_names)[:5])}); their "
                "images end up in one window: stop all but one, or remap"
            ),
        )
    if f.lost_share is not None and f.lost_share > 0.3 and f.image_bytes > SHM_SEGMENT and not f.big_segment:
        yield WARN, f"about {f.lost_share:.0%} of the images are lost on the way{_segment_hint()}"


def _stamps(f: CameraFacts) -> Iterator[Condition]:
    """What is wrong with the images' stamps."""
    if f.repeated_lately >= _REPEATED and f.repeated_lately > _REPEATED_SHARE * f.stamped_lately:
        yield (
            WARN,
            (
                f"{f.repeated_lately} of {f.stamped_lately} images dropped, their stamp came already; "
                "let the driver fill header.stamp"
            ),
        )
    if f.zero_stamps_lately:
        yield (
            WARN,
            (
                f"{f.zero_stamps_lately} images had no stamp, their arrival time was used; "
                "let the driver fill header.stamp"
            ),
        )
    breaks = sum(f.breaks_lately.values())
    if breaks >= _BREAKS:
        reasons = ", ".join(f"{reason} {n}" for reason, n in f.breaks_lately.items() if n)
        yield WARN, f"the window started again {breaks} times in {RESETS_S:.0f} s ({reasons})"


def _results(f: CameraFacts) -> Iterator[Condition]:
    """What is wrong with the results."""
    if f.unpublished:
        yield ERROR, f"results cannot be published: {f.unpublished}"
    if f.max_age_s and f.age_s is not None and f.age_s > f.max_age_s:
        yield (
            WARN,
            (
                f"results are {f.age_s:.1f} s old by this clock (max_age_s {f.max_age_s:g}); "
                "for a bag set use_sim_time and play with --clock, or set max_age_s:=0"
            ),
        )
    if f.max_age_s and f.age_s is not None and -f.age_s > f.max_age_s:
        yield (
            WARN,
            (
                f"images are stamped {-f.age_s:.1f} s ahead of this clock, so that no result counts as late; set the "
                "clock of the camera's machine, or set max_age_s:=0"
            ),
        )


def _hint(f: CameraFacts) -> str:
    if not f.elsewhere:
        return f"; no other topic of type {f.type_name} has one either: start the camera driver"
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
    bundle_sha256: str = "none"  # of bundle.json
    failures: int = 0
    failures_in_row: int = 0
    last_error: str | None = None
    busy_s: float = 0.0
    teaching: str = "none"  # how far it has come
    node: str = ""  # its full name


def judge_engine(f: EngineFacts) -> Status:
    """Level, message and values of the node's model and engine."""
    values = {
        "lifecycle state": f.state,
        "model": f.model_id,
        "bundle sha256": f.bundle_sha256,
        "engine": f.description,
        "failed runs": str(f.failures),
        "last error": f.last_error or "none",
        "seconds in the present run": f"{f.busy_s:.1f}",
        "teaching": f.teaching,
    }
    if f.failure:
        return Status(ERROR, f.failure, values)
    if f.failures_in_row:
        return Status(ERROR, f"{f.failures_in_row} failed runs in a row: {f.last_error}", values)
    transitions = {"unconfigured": "configure, then activate", "inactive": "activate"}.get(f.state)
    remedy = f"; ros2 lifecycle set {f.node} {transitions}" if transitions else ""
    return Status(OK, f"{f.state}{remedy}", values)


class Recent:
    """What happened within the last `window_s` seconds of the steady clock: how often, and the newest remark.

    For several threads.
    """

    def __init__(self, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._happened: deque[tuple[float, int, Any]] = deque()
        self._lock = threading.Lock()

    def add(self, times: int = 1, remark: Any = None) -> None:
        """It has happened, so many times."""
        with self._lock:
            if times:
                self._happened.append((self._clock(), times, remark))
            self._forget()

    @property
    def count(self) -> int:
        """How often it has happened."""
        with self._lock:
            self._forget()
            return sum(times for _, times, _ in self._happened)

    @property
    def remark(self) -> Any:
        """What was last said about it, or None."""
        with self._lock:
            self._forget()
            return self._happened[-1][2] if self._happened else None

    def _forget(self) -> None:
        oldest = self._clock() - self._window_s
        while self._happened and self._happened[0][0] < oldest:
            self._happened.popleft()


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
