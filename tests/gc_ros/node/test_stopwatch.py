# SPDX-License-Identifier: Apache-2.0
"""Seconds on a node's clock, real or simulated."""

from __future__ import annotations

import pytest

from gc_ros.node import stopwatch
from gc_ros.node.stopwatch import Stopwatch
from gc_ros.stamps import NS


class Clock:
    """The node's clock, as far as it is asked; ros_s: 0 before the first message of /clock, None: not simulated."""

    ros_s: float | None = None

    @property
    def ros_time_is_active(self) -> bool:
        return self.ros_s is not None

    @property
    def nanoseconds(self) -> int:
        return round((1e9 if self.ros_s is None else self.ros_s) * NS)

    def now(self) -> Clock:
        return self


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.monotonic says."""
    now = [50.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])
    return now


def test_simulated_seconds_count_however_fast_they_go_and_a_jump_back_does_not(real: list[float]) -> None:
    clock = Clock()
    clock.ros_s = 1000.0
    watch = Stopwatch(clock)
    for ros_s, seconds in ((1000.5, 0.5), (1001.0, 1.0), (1000.0, 1.0), (1000.25, 1.25), (1000.25, 1.25)):
        real[0] += 4
        clock.ros_s = ros_s
        assert watch.seconds() == pytest.approx(seconds)
    assert watch.still_s == 4
    real[0] += 30
    assert watch.still_s == 34


def test_real_seconds_count_before_the_simulation_begins_and_without_one(real: list[float]) -> None:
    clock = Clock()
    clock.ros_s = 0.0
    watch = Stopwatch(clock)
    for ros_s, seconds in ((0.0, 1.0), (1e9, 1.0), (1e9 + 0.5, 1.5), (None, 1.5), (None, 2.5)):
        real[0] += 1
        clock.ros_s = ros_s
        assert watch.seconds() == pytest.approx(seconds)
    assert watch.still_s == 0
