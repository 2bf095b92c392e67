# SPDX-License-Identifier: Apache-2.0
"""What docs/boards.md promises of the benchmark that fills it: commands that parse, and reports as ros2_benchmark's."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gc_ros.node import harness

pytestmark = pytest.mark.ros
ROOT = harness.ROOT
BOARDS = (ROOT / "docs" / "boards.md").read_text()
MS = 1_000_000
# Of ros2_benchmark's basic_performance_calculator.py, in its order.
METRICS = (
    "RECEIVED_DURATION", "MEAN_PLAYBACK_FRAME_RATE", "MEAN_FRAME_RATE", "NUM_MISSED_FRAMES", "NUM_FRAMES_SENT",
    "FIRST_SENT_RECEIVED_LATENCY", "LAST_SENT_RECEIVED_LATENCY", "FIRST_INPUT_LATENCY", "LAST_INPUT_LATENCY",
    "MAX_LATENCY", "MIN_LATENCY", "MEAN_LATENCY", "MAX_JITTER", "MIN_JITTER", "MEAN_JITTER", "STD_DEV_JITTER",
)  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("node_over_dds", None)
    return importlib.import_module("node_over_dds")


def test_each_board_has_a_command_that_the_benchmark_takes(bench: Any) -> None:
    outputs = set()
    for board in BOARDS.split("\n## ")[1:]:
        (command,) = re.findall(r"^    python3? (benchmarks/node_over_dds\.py .*)$", board, re.M)
        script, *words = shlex.split(command)
        options = bench.arguments().parse_args(words)
        assert (ROOT / script).is_file() and options.bundle.is_dir()
        name = board.splitlines()[0]
        assert options.board.split(",")[0].split()[0] == name.split()[0].rstrip(","), (
            "the report names the board"
        )
        gpu = "no GPU" not in name
        assert (options.backend, options.device) == (("tensorrt", "cuda") if gpu else ("auto", "cpu"))
        outputs.add(options.out)
    assert len(outputs) == len(BOARDS.split("\n## ")) - 1, "none overwrites another's report"


def test_the_metrics_are_those_of_ros2_benchmark_by_name_and_by_formula(bench: Any) -> None:
    sent = {stamp: stamp * MS for stamp in (100, 200, 300, 400)}
    received = {100: 130 * MS, 200: 250 * MS, 400: 420 * MS}  # 300 is missed
    found = bench.metrics([100, 200, 300, 400], sent, received)
    assert list(found) == [f"BasicPerformanceMetrics.{name}" for name in METRICS]
    values = dict(zip(METRICS, found.values(), strict=True))
    assert values["RECEIVED_DURATION"] == 290 and values["NUM_MISSED_FRAMES"] == 1
    assert values["MEAN_PLAYBACK_FRAME_RATE"] == round(4 / 0.3, 3)
    assert values["MEAN_FRAME_RATE"] == round(3 / 0.29, 3)
    assert (values["FIRST_INPUT_LATENCY"], values["LAST_INPUT_LATENCY"]) == (30, 20)
    assert (values["MIN_LATENCY"], values["MEAN_LATENCY"], values["MAX_LATENCY"]) == (20, 33.333, 50)
    assert (values["FIRST_SENT_RECEIVED_LATENCY"], values["LAST_SENT_RECEIVED_LATENCY"]) == (30, 20)
    assert values["MEAN_JITTER"] == 50 and values["STD_DEV_JITTER"] == 0
    assert "BasicPerformanceMetrics.MEAN_JITTER" not in bench.metrics([100, 200], sent, {100: 1, 200: 2})


def test_the_report_has_the_form_of_ros2_benchmarks_and_the_table_that_of_the_page(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(
        bundle: Path, width: int, height: int, seconds: float, hz: float, watched: bool, **parameters: Any
    ) -> dict[str, Any]:
        drawn = {"results_drawn": 0.975} if watched else {}
        return {
            **{f"BasicPerformanceMetrics.{name}": float(width) for name in METRICS},
            "latency_ms": {"p50": 12.3, "p99": 45.6},
            "results_a_second": 2.0,
            "engine_ms_last": 8.0,
            "cpu_percent_of_one_core": 20.0,
            "resident_mb": 300.0,
            **drawn,
        }

    monkeypatch.setattr(bench, "measure", measure)
    figures = bench.run(ROOT / "bundles" / "people", 20, 30, "a board", backend="auto")
    bench.report("node_over_dds", figures)
    report = json.loads(capsys.readouterr().out)
    top = {name: value for name, value in report.items() if name.startswith("BasicPerformanceMetrics.")}
    assert list(top) == [f"BasicPerformanceMetrics.{name}" for name in METRICS]
    assert set(top.values()) == {640.0}, "of the smallest size, nobody watching"
    assert set(report["sizes"]) == {"640x480", "1280x720"}
    assert report["metadata"]["BenchmarkMetadata.DEVICE_HOSTNAME"] == "a board"
    assert re.fullmatch(r"[\d-]+T[\d:]+Z", report["metadata"]["BenchmarkMetadata.TEST_DATETIME"])
    rows = bench.table(figures["sizes"]).splitlines()
    assert rows[0] in BOARDS and len(rows) == 2 + 4
    assert rows[3] == "| 640x480 | watched | 12 / 46 | 8.0 | 2.00 | 640 of 640 | 20 % | 300 | 98% |"
