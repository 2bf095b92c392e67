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
    Recent,
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
            "no publisher on /image; no other topic of type sensor_msgs/msg/Image has one either",
        ),
        ({"silent_s": 9.0, "elsewhere": ["/cam/a", "/cam/b"]}, WARN, "remap with -r image:=/cam/a"),
        ({"silent_s": 9.0, "other_types": ["x/msg/Y"]}, ERROR, "is published as x/msg/Y"),
        (
            {"silent_s": 9.0, "incompatible_policy": "RELIABILITY"},
            ERROR,
            "-p qos_overrides./image.subscription.reliability:=best_effort",
        ),
        (
            {"waiting_s": 1.25},
            WARN,
            "waiting for a key frame of the video on /image for 1.2 s; let the encoder send",
        ),
        ({"silent_s": 9.0, "publishers": 1}, WARN, "no image on /image for 9.0 s"),
        ({"silent_s": 9.0, "publishers": 1, "big_segment": False}, WARN, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        (
            {"silent_s": 9.0, "publishers": 1, "big_segment": False, "image_bytes": 6_220_800},
            WARN,
            "FASTRTPS_DEFAULT_PROFILES_FILE",
        ),
        (
            {"refused_lately": 30, "first_refusal": "step 9", "refusal_lately": "step 3", "warmup": (0, 8)},
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
        ({"zero_stamps": 3}, OK, "running"),
        ({"zero_stamps_lately": 3}, WARN, "3 images had no stamp"),
        (
            {"stamped_lately": 52, "repeated_lately": 51},
            WARN,
            "51 of 52 images dropped, their stamp came already",
        ),
        ({"stamped_lately": 52, "repeated_lately": 5}, OK, "running"),
        ({"stamped_lately": 4, "repeated_lately": 2}, OK, "running"),
        ({"breaks_lately": {"gap": 2, "backward": 3}}, OK, "running"),
        (
            {"breaks_lately": {"gap": 2, "backward": 4}},
            WARN,
            "the window started again 6 times in 10 s (gap 2, backward 4)",
        ),
        ({"publishers": 2, "publisher_names": ["/b", "/a"]}, WARN, "2 publishers on /image (/a, /b)"),
        ({"unpublished": "no"}, ERROR, "results cannot be published: no"),
        ({"age_s": 9.0, "max_age_s": 5.0}, WARN, "max_age_s:=0"),
        ({"age_s": 9.0, "max_age_s": 0.0}, OK, "running"),
        ({"age_s": -3600.0, "max_age_s": 5.0}, WARN, "stamped 3600.0 s ahead of this clock"),
        ({"age_s": -3600.0, "max_age_s": 0.0}, OK, "running"),
        ({"age_s": -0.2, "max_age_s": 5.0}, OK, "running"),
    ],
)
def test_a_camera_says_what_is_wrong_and_what_to_type(changes: dict[str, Any], level: int, says: str) -> None:
    status = judge_camera(replace(GOOD, **changes))
    assert (status.level, says in status.message) == (level, True), status.message
    assert "\n" not in status.message
    if "FASTRTPS" in says:
        small = judge_camera(replace(GOOD, **changes | {"image_bytes": 230_400}))
        assert "FASTRTPS" not in small.message, "small images fit"
    assert all(isinstance(value, str) for value in status.values.values())


def test_the_engine_says_why_it_does_not_run() -> None:
    active = judge_engine(EngineFacts("active", node="/robot/activity_recognition"))
    assert (active.level, active.message) == (OK, "active")
    for state, transitions in (("unconfigured", "configure, then activate"), ("inactive", "activate")):
        waiting = judge_engine(EngineFacts(state, node="/robot/activity_recognition"))
        typed = f"ros2 lifecycle set /robot/activity_recognition {transitions}"
        assert (waiting.level, waiting.message) == (OK, f"{state}; {typed}")
    failed = judge_engine(EngineFacts("unconfigured", failure="no bundle given"))
    assert (failed.level, failed.message) == (ERROR, "no bundle given")
    row = judge_engine(EngineFacts("active", failures_in_row=2, last_error="not finite"))
    assert row.level == ERROR and "2 failed runs in a row: not finite" in row.message


def test_the_worst_that_holds_is_the_message_and_the_others_are_said_too() -> None:
    both = replace(
        GOOD, zero_stamps_lately=1, refused_lately=30, refusal_lately="step 3", waiting_for_clock=True
    )
    status = judge_camera(both)
    assert (status.level, status.message) == (ERROR, "every image is refused: step 3")
    assert "1 images had no stamp" in status.values["also"] and "/clock" in status.values["also"]
    assert judge_camera(GOOD).values["also"] == "none"
    # Whatever order they are looked for in; what is all right is no matter to be said.
    status = judge_camera(replace(GOOD, zero_stamps_lately=1, unpublished="no room", warmup=(3, 8)))
    assert (status.level, status.message) == (ERROR, "results cannot be published: no room")
    assert status.values["also"].startswith("1 images had no stamp") and ";" in status.values["also"]
    assert not any(word in status.values["also"] for word in ("warming up", "running"))


def test_what_happened_lately_is_forgotten_after_its_window() -> None:
    now = 0.0
    recent = Recent(5.0, lambda: now)
    assert (recent.count, recent.remark) == (0, None)
    recent.add(remark="first")
    now = 3.0
    recent.add(2, "second")
    assert (recent.count, recent.remark) == (3, "second")
    recent.add(0, "nothing")
    now = 7.0
    assert (recent.count, recent.remark) == (2, "second")
    now = 8.1
    assert (recent.count, recent.remark) == (0, None)


def test_latencies_say_na_before_the_first_and_leave_nan_out() -> None:
    latencies = Latencies()
    assert latencies.values("age")["age ms p50 / p99"] == "n/a"
    latencies.add(age=float("nan"), queue=0.002)
    latencies.add(age=0.010, queue=0.002)
    assert latencies.values("age", "queue") == {
        "age ms p50 / p99": "10.0 / 10.0",
        "queue ms p50 / p99": "2.0 / 2.0",
    }
