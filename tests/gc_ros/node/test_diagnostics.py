# SPDX-License-Identifier: Apache-2.0
"""Every sentence of /diagnostics: its level, and that it says what to type."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gc_ros.node.diagnostics import (
    ERROR,
    OK,
    WARN,
    CameraFacts,
    EngineFacts,
    Latencies,
    judge_camera,
    judge_engine,
)

GOOD = CameraFacts(
    topic="/image",
    remap="image",
    type_name="sensor_msgs/msg/Image",
    active=True,
    enabled=True,
    qos_parameter="qos_overrides./image.subscription.",
    silent_s=0.01,
    received=100,
    received_lately=30,
    rate_hz=30.0,
    warmup=(8, 8),
)


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, OK, "running at 30.0 Hz"),
        ({"rate_hz": None}, OK, "running"),
        ({"active": False}, OK, "not active"),
        ({"enabled": False}, OK, "~/enable"),
        ({"warmup": (3, 8)}, OK, "warming up, 3 of 8"),
        (
            {"silent_s": 9.0},
            WARN,
            "no publisher on /image; no topic of type sensor_msgs/msg/Image has one either",
        ),
        ({"silent_s": 9.0, "elsewhere": ["/cam/a", "/cam/b"]}, WARN, "remap with -r image:=/cam/a"),
        ({"silent_s": 9.0, "other_types": ["x/msg/Y"]}, ERROR, "is published as x/msg/Y"),
        (
            {"silent_s": 9.0, "incompatible_policy": "RELIABILITY"},
            ERROR,
            "-p qos_overrides./image.subscription.reliability:=best_effort",
        ),
        ({"silent_s": 9.0, "publishers": 1}, WARN, "no image on /image for 9.0 s"),
        ({"silent_s": 9.0, "publishers": 1, "big_segment": False}, WARN, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        (
            {"refused_lately": 30, "first_refusal": "step 9", "refusal_lately": "step 3"},
            ERROR,
            "every image is refused: step 3",
        ),
        (
            {"refused_lately": 2, "first_refusal": "step 9", "refusal_lately": "step 3"},
            WARN,
            "2 of 30 images refused: step 3",
        ),
        (
            {"lost_share": 0.8, "image_bytes": 921600, "big_segment": False},
            WARN,
            "80% of the images are lost",
        ),
        ({"lost_share": 0.8, "image_bytes": 921600}, OK, "running"),
        ({"waiting_for_clock": True}, WARN, "/clock"),
        ({"zero_stamps": 3}, WARN, "3 images had no stamp"),
        ({"age_s": 9.0, "max_age_s": 5.0}, WARN, "max_age_s:=0"),
        ({"age_s": 9.0, "max_age_s": 0.0}, OK, "running"),
    ],
)
def test_a_camera_says_what_is_wrong_and_what_to_type(changes: dict[str, Any], level: int, says: str) -> None:
    status = judge_camera(replace(GOOD, **changes))
    assert (status.level, says in status.message) == (level, True), status.message
    assert "\n" not in status.message
    assert all(isinstance(value, str) for value in status.values.values())


def test_the_engine_says_why_it_does_not_run() -> None:
    assert judge_engine(EngineFacts("active")).level == OK
    failed = judge_engine(EngineFacts("unconfigured", failure="no bundle given"))
    assert (failed.level, failed.message) == (ERROR, "no bundle given")
    row = judge_engine(EngineFacts("active", failures_in_row=2, last_error="not finite"))
    assert row.level == ERROR and "2 failed runs in a row: not finite" in row.message


def test_latencies_say_na_before_the_first_and_leave_nan_out() -> None:
    latencies = Latencies()
    assert latencies.values("age")["age ms p50 / p99"] == "n/a" and latencies.last("age") is None
    latencies.add(age=float("nan"), queue=0.002)
    latencies.add(age=0.010, queue=0.002)
    assert latencies.values("age", "queue") == {
        "age ms p50 / p99": "10.0 / 10.0",
        "queue ms p50 / p99": "2.0 / 2.0",
    }
