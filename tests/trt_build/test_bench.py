# SPDX-License-Identifier: Apache-2.0
"""`trt-build bench`: every engine and mode is timed in a process of its own, and failures are one line."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command_line
from tests.toy import toy_bundle
from tests.waiting import wait_until
from trt_build.bench import Timing, _EngineProcess, as_lines, ratios
from trt_build.bundle import load_bundle
from trt_build.cli import app

call = functools.partial(command_line.call, app)


def timing(engine: str, mode: str, p50: float) -> Timing:
    return Timing(engine, mode, p50, p50, p50, 1e3 / p50, 0.1, 200.0, 100.0, 50, "")


def test_window_to_step_is_given_for_engines_that_have_both():
    timings = [timing("a:fp32", "window", 80), timing("b:int8", "window", 20), timing("a:fp32", "step", 10)]
    assert ratios(timings) == {"a:fp32": 8.0}
    lines = as_lines(timings)
    assert "4.00" in lines[2] and lines[-1].startswith("a:fp32") and "8.00 : 1" in lines[-1]


def test_every_engine_and_mode_is_timed_by_itself(tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
    bundle = toy_bundle(tmp_path / "b").path
    result = call("bench", bundle, "--engine", "onnxruntime", "--calls", 8, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [(e["engine"], e["mode"]) for e in answer["engines"]] == [
        ("onnxruntime", "window"),
        ("onnxruntime", "step"),
    ]
    for engine in answer["engines"]:
        assert 0 < engine["p50_ms"] <= engine["p90_ms"] <= engine["p99_ms"] and engine["calls"] >= 8
        assert engine["start_s"] > 0 and 0 < engine["own_mb"] < engine["resident_mb"]
        assert engine["calls_per_s"] <= 1e3 / engine["p50_ms"] * 3
    assert answer["window_to_step"]["onnxruntime"] > 0 and answer["threads"] == 1


def test_an_engine_that_dies_between_its_turns_is_named_and_no_other_is_left(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[onnxruntime]'")
    real, asked = _EngineProcess.ask, []

    def killed_before_its_second_turn(self, what):
        asked.append(self)
        if len(asked) == 3:  # two engines: window and step
            self._process.kill()
            self._process.wait()
        return real(self, what)

    monkeypatch.setattr(_EngineProcess, "ask", killed_before_its_second_turn)
    bundle = toy_bundle(tmp_path / "b").path
    result = call("bench", bundle, "--engine", "onnxruntime", "--calls", 10, "--threads", 1)
    command_line.assert_one_line(result, "onnxruntime, window", "exit code -9", "trt-build verify")
    ended = {process: process._process.returncode for process in asked}
    assert len(ended) == 2 and None not in ended.values()


@pytest.mark.slow
def test_engines_that_cannot_be_opened_are_one_line(tmp_path):
    bundle = toy_bundle(tmp_path / "b").path
    command_line.assert_one_line(call("bench", bundle, "--engine", "magic", "--calls", 1), "magic")
    command_line.assert_one_line(call("bench", bundle, "--engine", "onnxruntime:x"), "precision")
    command_line.assert_one_line(
        call("bench", bundle, "--engine", "onnxruntime:int8", "--calls", 1), "trt-build quantize"
    )
    command_line.assert_one_line(
        call("bench", bundle, "--engine", "onnxruntime", "--batch", 10**10), "too little memory", "--batch"
    )
    load_bundle(bundle)


# A shell that runs the tests in the background has its children ignore SIGINT.
INTERRUPTIBLE = """
import signal
from trt_build.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_no_process_outlives_a_bench_that_ends_while_an_engine_opens(tmp_path, number):
    bundle = toy_bundle(tmp_path / "b").path
    opening = tmp_path / "opening"
    # Opening takes a minute, in the process that measures as well as for whoever waits.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time, pathlib, os\n"
        "if 'trt_build.bench' in ' '.join(sys.orig_argv):\n"
        "    def slow(*_, **__):\n"
        f"        pathlib.Path({str(opening)!r}).write_text(str(os.getpid())); time.sleep(60)\n"
        "    import trt_build.engines.open as opened\n"
        "    opened.open_engine = slow\n"
    )
    here = str(Path(__file__).resolve().parents[2])
    command = [
        sys.executable,
        "-c",
        INTERRUPTIBLE,
        "bench",
        bundle,
        "--engine",
        "onnxruntime",
        "--calls",
        "1",
    ]
    process = subprocess.Popen(
        [str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{here}"},
    )  # fmt: skip
    try:
        wait_until(lambda: opening.is_file() and opening.read_text(), "the engine to open", 60)
        process.send_signal(number)
        process.wait(20)
        state = Path("/proc", opening.read_text(), "stat")
        wait_until(lambda: not state.exists() or state.read_text().split()[2] == "Z", "its end", 3)
    finally:
        process.kill()


@pytest.mark.slow
def test_an_engine_that_is_named_twice_is_timed_once(tmp_path):
    bundle = toy_bundle(tmp_path / "b").path
    twice = ("--engine", "onnxruntime", "--engine", "onnxruntime")
    answer = json.loads(call("bench", bundle, *twice, "--calls", 1, "--json").stdout)
    assert [e["mode"] for e in answer["engines"]] == ["window", "step"]
