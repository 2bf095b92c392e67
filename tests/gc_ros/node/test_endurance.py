# SPDX-License-Identifier: Apache-2.0
"""Short runs of the node's benchmarks with bounds that a loaded machine keeps too; the real figures are theirs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gc_ros.node import harness  # noqa: F401  (skips this module where ROS is missing)

pytestmark = [pytest.mark.ros, pytest.mark.slow]
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> Any:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


def test_back_pressure_loses_no_frame_and_keeps_results_young_and_even(load_benchmark: Any) -> None:
    bench = load_benchmark("back_pressure")
    found = bench.scene(bench.toy(rate_hz=8.0), 0.1, {"": 30.0}, 6.0)["camera"]
    assert found["taken_in"] >= 0.9 and found["results"] > 20
    assert found["age_in_engine_times"]["p50"] < 3 and found["spacing_deviation"] < 0.2


def test_dead_and_slow_cameras_take_nothing_from_the_others(load_benchmark: Any) -> None:
    bench = load_benchmark("back_pressure")
    rates = {"front": 15.0, "left": 15.0, "right": 1.0, "rear": 0.0}
    found = bench.scene(bench.toy(rate_hz=8.0), 0.05, rates, 6.0)
    assert found["rear"]["results"] == 0
    for name in ("front", "left"):
        assert found[name]["taken_in"] >= 0.9 and found[name]["results"] > 20
        assert found[name]["age_in_engine_times"]["p50"] < 4


def test_frames_and_activations_leave_memory_and_threads_as_they_were(load_benchmark: Any) -> None:
    bench = load_benchmark("soak")
    found = bench.run(frames=1200, activations=12)
    assert found["unanswered"] < 0.1 * found["frames"]
    assert found["threads"]["last"] == found["threads"]["warm"]
    assert found["resident_mb"]["last"] - found["resident_mb"]["warm"] < 4


def test_the_node_costs_little_beside_the_engine(load_benchmark: Any) -> None:
    bench = load_benchmark("node_overhead")
    found = bench.measure(lambda: bench.NodeProcess(bench.toy(rate_hz=8.0)), 640, 480, 3.0, 30.0)
    assert found["messages"] > 12
    assert found["latency_less_engine_ms"]["p50"] < 50 and found["cpu_ms_per_frame"] < 20


def test_the_overlay_shows_nearly_every_result_and_the_report_has_ros2_benchmarks_names(
    load_benchmark: Any,
) -> None:
    bench = load_benchmark("node_over_dds")
    found = bench.measure(bench.ROOT / "bundles" / "people", 640, 480, 6.0, 30.0, True)
    assert found["results_drawn"] >= 0.95
    sent, missed, latency = (
        found[f"BasicPerformanceMetrics.{name}"]
        for name in ("NUM_FRAMES_SENT", "NUM_MISSED_FRAMES", "MEAN_LATENCY")
    )
    assert sent >= 10 and found["resident_mb"] > 50
    assert missed <= 0.2 * sent
    assert 0 < latency < 2000
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]


def test_an_attack_on_one_camera_takes_nothing_from_the_other_and_leaves_memory_flat(
    load_benchmark: Any,
) -> None:
    found = load_benchmark("attack").run(minutes=0.4)
    assert found["state"] == "active" and found["exit_code"] == 0 and found["tracebacks"] == 0
    assert found["clean"]["images refused"] == 0
    assert 0.9 < found["activities_against_alone"] < 1.2  # more than 1: the pause between the phases
    hostile = found["hostile"]
    assert hostile["images refused"] > 0.2 * hostile["images received"] > 20
    # The heap reaches its highest mark in steps, 160 MB after five minutes and after twice as many images.
    resident = found["attacked"]
    assert resident["resident_mb"]["end"] - resident["resident_mb_at_tenths"][2] < 100
    assert resident["resident_mb"]["most"] < 700
