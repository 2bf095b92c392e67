# SPDX-License-Identifier: Apache-2.0
"""Seconds on a node's clock: those of a simulation, or of a bag that is played, where there is one."""

from __future__ import annotations

import time
from typing import Any

from gc_ros.stamps import NS


class Stopwatch:
    """Seconds since it was made. clock: the node's, an rclpy.clock.ROSClock.

    Where time is simulated and has begun it goes by that, and a jump back counts for nothing. Else it is real time, and
    a clock that is set meanwhile changes nothing.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._moved_s = time.monotonic()
        self._before = self._now()

    def seconds(self) -> float:
        """To be asked several times a second, so that no jump is missed."""
        now, before = self._now(), self._before
        self._before = now
        if before[0] is now[0] and now[1] > before[1]:
            self._seconds += now[1] - before[1]
            self._moved_s = time.monotonic()
        return self._seconds

    @property
    def still_s(self) -> float:
        """For how long, in real seconds, the time has stood still."""
        return time.monotonic() - self._moved_s

    def _now(self) -> tuple[bool, float]:
        """Whether the time is simulated, and the time, s."""
        simulated = self._clock.now().nanoseconds if self._clock.ros_time_is_active else 0
        return (True, simulated / NS) if simulated else (False, time.monotonic())
