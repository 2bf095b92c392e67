# SPDX-License-Identifier: Apache-2.0
"""Camera streams with everything that goes wrong in them, for hypothesis. Every frame knows its unbroken stretch."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from gc_ros.stamps import NS


@dataclass(frozen=True)
class CameraFrame:
    """number: unique, rising in the order of arrival. stretch: rises with every break."""

    number: int
    stamp_ns: int
    stretch: int
    width: int = 16


BREAKS = ("gap", "loop", "step back", "size")
FAULTS = ("duplicate", "swap", "drop")


@st.composite
def streams(draw: st.DrawFn, rate_hz: float, max_gap_s: float, breaks: bool = True) -> list[CameraFrame]:
    """A stream of 10 to 60 Hz with jitter up to a fifth of its period, faults, and (with breaks) breaks."""
    camera_hz = draw(st.sampled_from([10.0, 15.0, 25.0, 29.97, 30.0, 60.0]))
    period = NS / camera_hz
    pieces = draw(st.integers(1, 4)) if breaks else 1
    frames: list[CameraFrame] = []
    clock, width, stretch = float(draw(st.integers(0, 10**6)) * NS), 16, 0
    for piece in range(pieces):
        start = clock
        count = draw(st.integers(1, int(camera_hz * 2.5)))
        jitter = draw(st.floats(0, 0.2))
        faults = draw(st.dictionaries(st.integers(1, count), st.sampled_from(FAULTS), max_size=5))
        noise = draw(st.lists(st.floats(-1, 1), min_size=7, max_size=7))
        stamps: list[int] = []
        for i in range(count):
            stamp = int(clock + noise[i % 7] * jitter * period)
            fault = faults.get(i)
            if fault != "drop":
                stamps.append(stamp)
            if fault == "duplicate":
                stamps.append(stamp)
            elif fault == "swap" and len(stamps) > 2:
                stamps[-1], stamps[-2] = stamps[-2], stamps[-1]
            clock += period
        frames += [CameraFrame(len(frames) + i, s, stretch, width) for i, s in enumerate(stamps)]
        if piece == pieces - 1 or not stamps:
            continue
        kind = draw(st.sampled_from(BREAKS))
        stretch += 1
        last = max(stamps)
        if kind == "gap":
            clock = last + (max_gap_s * draw(st.floats(1.3, 20))) * NS
        elif kind == "loop":  # a bag that starts again; one frame long loops are a gap's business
            clock = min(start, last - 1.5 * NS / rate_hz)
        elif kind == "step back":  # by less than a sampling period, and going on from there
            back = max(4 * period, 0.5 * NS / rate_hz)
            clock = last - back if back < NS / rate_hz else last - 1.5 * NS / rate_hz
        else:
            width += 2
    return frames
