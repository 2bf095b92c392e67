# SPDX-License-Identifier: Apache-2.0
"""`trt-build bench`: every engine and mode is timed in a process of its own, and failures are one line."""

import functools
import json

import pytest

from tests import command_line
from tests.toy import toy_bundle
from trt_build.bench import Timing, as_lines, ratios
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


def test_an_engine_that_is_named_twice_is_timed_once(tmp_path):
    bundle = toy_bundle(tmp_path / "b").path
    twice = ("--engine", "onnxruntime", "--engine", "onnxruntime")
    answer = json.loads(call("bench", bundle, *twice, "--calls", 1, "--json").stdout)
    assert [e["mode"] for e in answer["engines"]] == ["window", "step"]
