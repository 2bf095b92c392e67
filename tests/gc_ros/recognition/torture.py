# SPDX-License-Identifier: Apache-2.0
"""Thousands of camera streams from a few bytes each: quick to draw, quick to shrink, and everything that happens to
cameras is in them. What a break is stands here in its own words, and not in the sampler's.
"""

from __future__ import annotations

from dataclasses import dataclass

from gc_ros.stamps import NS

RATE_HZ, MAX_GAP_S = 8.0, 0.5
CAMERAS_HZ = (8.0, 10.0, 15.0, 25.0, 29.97, 30.0, 50.0, 60.0)


@dataclass(frozen=True)
class Shot:
    """One image as it arrives. stretch: rises with every break."""

    number: int
    stamp_ns: int
    stretch: int
    width: int
    encoding: str
    reset: bool  # ~/reset is called before it


def stream(seed: bytes) -> list[Shot]:
    """First byte: the camera's rate; then each byte is a burst of ordinary frames and what happens after it."""
    camera_hz = CAMERAS_HZ[seed[0] % len(CAMERAS_HZ)]
    period = NS / camera_hz
    shots: list[Shot] = []
    clock = origin = 1_000_000.0 * NS
    stretch, width, encoding = 0, 16, "rgb8"
    for code in seed[1:]:
        jitter = (code * 37 % 17 - 8) / 40 * period  # up to a fifth of a period
        burst = 1 + round(code // 12 * 0.09 * camera_hz)  # up to 1.9 s
        kind, reset = code % 12, False
        for i in range(burst):
            stamp = int(clock + (jitter if i % 2 else -jitter))
            shots.append(Shot(len(shots), stamp, stretch, width, encoding, reset))
            reset = False
            clock += period
        last = shots[-1]
        if kind == 1:  # sent twice
            shots.append(Shot(len(shots), last.stamp_ns, stretch, width, encoding, False))
        elif kind == 2:  # one frame overtakes another
            late, early = int(clock + period), int(clock)
            shots += [
                Shot(len(shots) + k, t, stretch, width, encoding, False) for k, t in enumerate((late, early))
            ]
            clock += 2 * period
        elif kind == 3:  # lost on the way
            clock += period
        elif kind == 4:
            clock = last.stamp_ns + 1.4 * MAX_GAP_S * NS
            stretch += 1
        elif kind == 5:  # hours
            clock += 3600 * NS
            stretch += 1
        elif kind == 6:  # a bag that loops
            clock = min(origin, last.stamp_ns - 1.5 * NS / RATE_HZ)
            stretch += 1
        elif kind == 7:  # the clock is set back
            clock = last.stamp_ns - 1.6 * NS / RATE_HZ
            stretch += 1
        elif kind == 8:
            width = 16 + (width + 2) % 16
            stretch += 1
        elif kind == 9:
            encoding = "bgr8" if encoding == "rgb8" else "rgb8"
            stretch += 1
        elif kind == 10:
            stretch += 1
            shots.append(Shot(len(shots), int(clock), stretch, width, encoding, True))
            clock += period
    return shots
