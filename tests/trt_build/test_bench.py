# SPDX-License-Identifier: Apache-2.0
"""`trt-build bench`: every engine and mode is timed in a process of its own, and failures are one line."""

import functools
import io
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import command_line
from tests.toy import toy_bundle
from tests.waiting import wait_until
from trt_build import bench as work
from trt_build.bench import Timing, _EngineProcess, as_lines, ratios
from trt_build.bundle import load_bundle
from trt_build.cli import app
from trt_build.engine import expected_io

call = functools.partial(command_line.call, app)


def timing(engine: str, mode: str, p50: float) -> Timing:
    return Timing(engine, mode, p50, p50, p50, 1e3 / p50, 0.1, 200.0, 100.0, 50, "")


def test_window_to_step_is_given_for_engines_that_have_both():
    timings = [timing("a:fp32", "window", 80), timing("b:int8", "window", 20), timing("a:fp32", "step", 10)]
    assert ratios(timings) == {"a:fp32": 8.0}
    lines = as_lines(timings)
    assert "4.00" in lines[2] and lines[-1].startswith("a:fp32") and "8.00 : 1" in lines[-1]


def test_how_many_times_as_fast_is_said_by_the_first_engine_of_the_same_mode():
    timings = [
        timing("a", "window", 80),
        timing("a", "step", 10),
        timing("b", "window", 20),
        timing("b", "step", 40),
    ]
    assert [line.split()[5] for line in as_lines(timings)[1:5]] == ["1.00", "1.00", "4.00", "0.25"]


def test_times_are_milliseconds_rates_count_the_batch_and_engines_take_turns(monkeypatch, tmp_path):
    asked = []

    class Process:
        def __init__(self, bundle, target, mode, threads, batch):
            self.target, self.mode = target, mode
            self.opened = {"start_s": 2.5, "before": 30_000_000, "description": f"{target} {mode}"}

        def open(self):
            pass

        def ask(self, what):
            asked.append((self.target, self.mode, what))
            at = 10 * len([a for a in asked if a[:2] == (self.target, self.mode)])
            return {"times": [(at + i) / 1e3 for i in range(work.CALLS)], "resident": 50_000_000}

        def close(self):
            pass

    monkeypatch.setattr(work, "_EngineProcess", Process)
    bundle = toy_bundle(tmp_path / "b", modes=("step",))
    timings = work.bench(bundle, ["a", "b", "a"], calls=11, batch=4)
    assert [(t.engine, t.mode) for t in timings] == [("a", "step"), ("b", "step")]
    turns = [(target, what) for target, _, what in asked]
    assert turns == [("a", "run"), ("b", "run")] * 3 + [("a", "end"), ("b", "end")]
    ms = np.array([10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 30, 31, 32, 33, 34])
    for found in timings:
        assert found.calls == 15 and (found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx(
            tuple(np.percentile(ms, (50, 90, 99)))
        )
        assert found.calls_per_s == pytest.approx(4 * 1e3 / ms.mean())
        assert (found.start_s, found.resident_mb, found.own_mb) == (2.5, 50, 20)


def test_a_process_opens_the_engine_that_was_asked_for(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(json.loads(command[-1])))
    bundle = toy_bundle(tmp_path / "b")
    _EngineProcess(bundle, "onnxruntime:int8@cuda:1", "step", 3, 16)
    assert started == [
        {
            "bundle": str(bundle.path), "mode": "step", "backend": "onnxruntime", "precision": "int8", "threads": 3,
            "batch": 16, "device": "cuda:1",
        }
    ]  # fmt: skip


def test_what_is_timed_is_warm_and_the_start_is_with_the_first_call(monkeypatch, tmp_path, capsys):
    """By a clock that an engine moves: 7 s to open, 9 s for the first call, 1 s more for one after others' turns."""
    now, memory = [0.0], [100]
    ends: queue.Queue[str] = queue.Queue()
    for line in ("run\n", "run\n", "end\n", ""):
        ends.put(line)

    def others_take_their_turn():
        now[0] += 1000
        engine.cold = 1.0
        return real_get()

    def opened(bundle, mode, **order):
        assert mode == "step" and order == {"batch": 2, "precision": "int8"}
        now[0] += 7
        memory[0] = 500
        return engine

    def run(inputs):
        assert inputs["frame"].shape == (2, 8, 8, 3) and inputs["frame"].any()
        now[0] += 0.25 + engine.cold
        engine.cold = 0.0

    bundle = toy_bundle(tmp_path / "b")
    spec = expected_io(bundle.info, "step")[0]
    engine = SimpleNamespace(inputs=spec, batch=2, run=run, cold=8.75, description="as told")
    real_get, requests = ends.get, SimpleNamespace(get=others_take_their_turn)
    monkeypatch.setattr(work, "_requests", lambda: requests)
    monkeypatch.setattr(work, "open_engine", opened)
    monkeypatch.setattr(work, "_resident", lambda: memory[0])
    monkeypatch.setattr(work, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    work._work({"bundle": str(bundle.path), "mode": "step", "batch": 2, "precision": "int8"})
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        {"start_s": 16.0, "before": 100, "description": "as told"},
        {"times": [0.25] * work.CALLS},
        {"times": [0.25] * work.CALLS},
        {"resident": 500},
    ]


def test_memory_is_in_bytes(monkeypatch):
    text = "VmPeak:\t   900 kB\nVmRSS:\t   100 kB\n"
    monkeypatch.setattr(work, "open", lambda *_, **__: io.StringIO(text), raising=False)
    assert work._resident() == 102_400


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
