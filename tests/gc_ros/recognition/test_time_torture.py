# SPDX-License-Identifier: Apache-2.0
"""No window ever mixes two sides of a break: ten thousand streams in the recogniser, some of them over DDS."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gc_ros.recognition.recognizer import Activity, Recognizer
from tests.gc_ros.recognition.torture import MAX_GAP_S, NS, RATE_HZ, Shot, stream
from tests.toy import number_image, numbers_of
from trt_build.bundle import LoadedBundle
from trt_build.engine import TensorSpec, expected_io

SEEDS = st.binary(min_size=2, max_size=5)
T = 8


class NumberEngine:
    """The `numbers` toy of tests.toy in NumPy, window mode: tens of thousands of runs a second."""

    batch, backend, description = 1, "numpy", "numbers in NumPy, window"
    states: dict[str, TensorSpec] = {}

    def __init__(self, bundle: LoadedBundle) -> None:
        self.inputs, self.outputs = expected_io(bundle.info, "window")
        self._out = {name: np.zeros(spec.sized(1), spec.dtype) for name, spec in self.outputs.items()}

    def run(self, inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
        corner = inputs["frames"][:, :, 0, 0].astype(np.float32)
        self._out["logits"] = corner[..., 0] * 256 + corner[..., 1]
        return self._out

    def reset(self, slots: Any = None) -> None:
        pass

    def close(self) -> None:
        pass


def play(r: Recognizer, shots: list[Shot]) -> list[Activity]:
    results = []
    for shot in shots:
        if shot.reset:
            r.reset("asked")
        image = number_image(shot.number, shot.width)
        result = r.push(image, shot.stamp_ns, bgr=False, encoding=shot.encoding)
        if result is not None:
            results.append(result)
    return results


def check(results: list[Activity], shots: list[Shot]) -> None:
    for result in results:
        window = [shots[number] for number in numbers_of(result)]
        assert len({(shot.stretch, shot.width, shot.encoding) for shot in window}) == 1
        for a, b in pairwise(window):
            assert a.number < b.number and 0 < b.stamp_ns - a.stamp_ns <= (MAX_GAP_S + 1.5 / RATE_HZ) * NS
        assert (result.window_start_ns, result.stamp_ns) == (window[0].stamp_ns, window[-1].stamp_ns)
        assert result.width == window[-1].width


@pytest.mark.parametrize("examples", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_window_mixes_two_sides_of_a_break(numbers: LoadedBundle, examples: int) -> None:
    count = streams = 0
    engine = NumberEngine(numbers)

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(SEEDS)
    def torture(seed: bytes) -> None:
        nonlocal count, streams
        shots = stream(seed)
        r = Recognizer(numbers, engine, max_frame_gap_s=MAX_GAP_S)
        results = play(r, shots)
        check(results, shots)
        counters = r.counters()
        assert counters.frames_received == len(shots) and counters.results == len(results)
        count += len(results)
        streams += 1

    torture()
    assert streams >= examples * 0.99 and count > streams / 2, "streams so broken that they prove nothing"


def test_the_torture_sees_a_window_that_mixes(numbers: LoadedBundle) -> None:
    """A recogniser that knows no gap must fail it, or the check could not fail."""
    shots = stream(bytes([0, 4, 12 * 20]))  # one frame, a gap, many frames
    r = Recognizer(numbers, NumberEngine(numbers), max_frame_gap_s=1e6)
    with pytest.raises(AssertionError):
        check(play(r, shots), shots)


def test_every_unbroken_stretch_of_two_windows_gives_a_result(numbers: LoadedBundle) -> None:
    for rate in range(8):
        for kind in (4, 5, 6, 7, 8, 9, 10):
            shots = stream(bytes([rate, *([12 * 20 + kind] * 4), 12 * 20]))
            results = play(Recognizer(numbers, NumberEngine(numbers), max_frame_gap_s=MAX_GAP_S), shots)
            check(results, shots)
            spans: dict[int, list[int]] = {}
            for shot in shots:
                spans.setdefault(shot.stretch, []).append(shot.stamp_ns)
            long = {s for s, stamps in spans.items() if max(stamps) - min(stamps) > 1.5 * T / RATE_HZ * NS}
            assert len(long) >= 4
            seen = {shots[numbers_of(result)[0]].stretch for result in results}
            assert long <= seen, (rate, kind)


# Every kind of fault and break, and mixtures, at 8, 10, 15, 30 and 60 Hz.
OVER_DDS = [
    bytes([0, 169, 170, 171, 168]),
    bytes([0, 172, 174, 168]),
    bytes([1, 173, 175, 168]),
    bytes([2, 176, 177, 168]),
    bytes([5, 178, 241, 242, 243]),
    bytes([7, 244, 246, 247, 248]),
]


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("seed", OVER_DDS, ids=[seed.hex() for seed in OVER_DDS])
def test_over_dds_the_windows_are_those_of_the_recogniser(seed: bytes, tmp_path: Any) -> None:
    """The scores at a high temperature tell the frame numbers apart: each message is checked against the stream."""
    from std_srvs.srv import Trigger

    from gc_ros.node import ros_messages
    from tests.gc_ros.node.harness import NAME, running, wait_until
    from tests.toy import toy_bundle
    from trt_build.engines.open import open_engine

    temperature = 1000.0
    bundle = toy_bundle(tmp_path / "bundle", temperature=temperature)
    shots = stream(seed)
    offline = play(
        Recognizer(bundle, open_engine(bundle, "window", threads=1), max_frame_gap_s=MAX_GAP_S), shots
    )
    wanted = {(a.window_start_ns, a.stamp_ns, *numbers_of(a)) for a in offline}
    with running(bundle.path, max_frame_gap_s=MAX_GAP_S, top_k=T, stall_timeout_s=60.0) as (_, peer):
        peer.wait_for_camera()
        for shot in shots:
            if shot.reset:
                assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
            peer.publish(number_image(shot.number, shot.width), shot.stamp_ns, shot.encoding)
            time.sleep(0.004)
        last = offline[-1].stamp_ns

        def ended() -> bool:
            return any(ros_messages.to_ns(m.header.stamp) == last for m in peer.activities)

        wait_until(ended, "the last window")
    by_span = {(start, end): numbers for start, end, *numbers in wanted}
    for message in peer.activities:
        span = ros_messages.to_ns(message.window_start), ros_messages.to_ns(message.window_end)
        assert span in by_span, "a window that the recogniser alone does not make"
        score = {entry.class_index: entry.score for entry in message.top_k}
        steps = [temperature * math.log(score[i] / score[0]) for i in range(T)]
        expected = np.array(by_span[span]) - by_span[span][0]
        assert np.allclose(steps, expected, atol=0.02), "frames of another window"
    assert len(peer.activities) > 0.8 * len(offline)
