# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check.sh on a stand-in: every step runs, or is skipped with the reason; nothing is lost on the way."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.command_line import no_file_above
from tests.trt_build.engines.gpu_double import FakeCudart, FakeRtx, install_plan
from trt_build.bundle import LoadedBundle
from trt_build.engines import nvidia
from trt_build.engines.cuda import Cuda
from trt_build.verify import Check as One
from trt_build.verify import as_json

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"
VERSIONS = dict.fromkeys(("tensorrt_rtx", "tensorrt", "onnxruntime", "onnx", "torch", "numpy"), "1")
NO_GPU = {"gpu": None, "why": "a processor only", "versions": VERSIONS}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    load("gpu_runner")
    return load("gpu_check")


def check_of(script: ModuleType, out: Path, seconds: float = 60) -> Any:
    return script.Check(dict(NO_GPU), out, seconds, False)


def test_each_step_is_written_at_once_with_what_it_came_to(script: ModuleType, tmp_path: Path) -> None:
    check = check_of(script, tmp_path / "found.json")

    def steps() -> dict[str, dict[str, object]]:
        return json.loads((tmp_path / "found.json").read_text())["steps"]

    check.step("good", lambda: 5)
    assert steps()["good"]["status"] == "ok" and steps()["good"]["result"] == 5
    check.step("needs a gpu", check.need_gpu)
    assert steps()["needs a gpu"]["reason"] == "no GPU: a processor only"
    fails = [sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"]
    check.step("bad", lambda: check.run(fails, 20))
    assert steps()["bad"]["status"] == "failed" and steps()["bad"]["reason"] == "exit code 3: why"
    assert list(steps()) == ["good", "needs a gpu", "bad"]


def test_a_fault_of_a_step_is_its_failure_and_costs_no_other(script: ModuleType, tmp_path: Path) -> None:
    check = check_of(script, tmp_path / "found.json")
    check.step("faulty", lambda: f"{None:.2g}")
    check.step("next", lambda: 5)
    steps = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert steps["faulty"]["status"] == "failed" and steps["faulty"]["reason"].startswith("TypeError: ")
    assert steps["next"]["result"] == 5


def test_an_error_that_is_no_number_is_told_as_such(
    script: ModuleType, numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check = script.Check(dict(NO_GPU), None, 60, True)
    found = [One("tensorrt:fp16", "step", "logits", math.nan, 0.045, math.nan, False, [])]
    monkeypatch.setattr(check, "run", lambda *_, **__: json.dumps(as_json(found, numbers)))
    with pytest.raises(RuntimeError, match="out of tolerance: tensorrt:fp16 step logits nan"):
        script.verify(check, numbers.path, tmp_path, 256, True)


def test_bundles_of_one_name_are_told_apart_by_a_number(script: ModuleType, tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("a/people", "b/people", "c/people-2", "d/paper", "e/other")]
    names = script.names_of(paths, "paper")
    assert names == ["people", "people-2", "people-2-2", "paper-2", "other"]


@pytest.mark.parametrize("place", ["file/found.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(
    script: ModuleType,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(script, "facts", lambda: pytest.fail("began"))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path / place)])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 2 and f"{place}: cannot be written" in capsys.readouterr().err


def test_the_folder_of_the_answer_is_made(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "found.json"
    script.demand_place(out)
    check_of(script, out).step("good", lambda: 5)
    assert (
        json.loads(out.read_text())["steps"]["good"]["result"] == 5 and len(list(out.parent.iterdir())) == 1
    )


def test_an_answer_that_finds_no_room_is_printed_instead_and_the_file_of_before_stays(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    out.write_text("old")

    def work(check: Any, *_: object) -> None:
        with no_file_above(10):
            check.step("good", lambda: 5)
            check.step("another", lambda: 6)

    monkeypatch.setattr(script, "facts", lambda: dict(NO_GPU))
    monkeypatch.setattr(script, "work", work)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(out)])
    assert script.main() == 0
    said = capsys.readouterr()
    assert f"{out}: File too large; raise the limit" in said.err and "the answer follows" in said.err
    assert list(json.loads(said.out[said.out.index("{") :])["steps"]) == ["good", "another"]
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_a_place_without_room_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with no_file_above(1000), pytest.raises(OSError, match="File too large"):
        script.demand_place(tmp_path / "found.json")


def test_a_step_that_hangs_is_stopped_with_its_children_and_the_rest_is_skipped(
    script: ModuleType, tmp_path: Path
) -> None:
    check = check_of(script, tmp_path / "found.json", seconds=7)
    began = time.monotonic()
    check.step("hangs", lambda: check.run(["bash", "-c", "sleep 60 & sleep 60"], 1))
    assert time.monotonic() - began < 5 and check.steps["hangs"]["reason"] == "stopped after 1 s"
    time.sleep(max(0.0, began + 2.5 - time.monotonic()))
    running = check.spawn(["sleep", "60"])
    check.close()
    assert running.wait(5) == -9, "left behind"
    check.step("late", lambda: pytest.fail("ran though the time was up"))
    assert check.steps["late"] == {"status": "skipped", "reason": "no time left", "seconds": 0.0}


def test_recorded_and_launched_steps_are_timed_on_the_doubles(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, cudart, script = make_bundle(), FakeCudart(), load("gpu_timing")
    trt = FakeRtx(cudart, bundle, "step", 1)
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(cudart, device))
    install_plan(bundle, trt, "step", "Double 9000", "8.9")
    order = {"bundle": str(bundle.path), "mode": "step", "precision": "fp16", "batch": 1}
    found = script.time_both_ways(order | {"backend": "tensorrt_rtx"})
    assert found["graph"]["p50_ms"] > 0 and found["launched"]["p99_ms"] >= found["launched"]["p50_ms"]
    assert "CUDA graph" in found["description"] and not cudart.leaks
    launches, runs = cudart.calls.count("cudaGraphLaunch"), script.CALLS + script.CALLS // script.TURN
    opened = script.open_once(order | {"backend": "tensorrt_rtx"})
    assert opened["s"] >= 0 and "kernels from the cache" in opened["description"]
    assert launches == runs and cudart.calls.count("cudaMemcpyAsync") > 2 * runs


def test_engines_are_opened_side_by_side_each_in_a_copy_of_its_own(
    script: ModuleType,
    make_bundle: Callable[..., LoadedBundle],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    check = check_of(script, tmp_path / "found.json")
    check.facts |= {"gpu": {"name": "Double 9000"}}
    made = make_bundle().path
    cases = script.cases_of("toy", made)
    assert {case.batch for case in cases} == {1, 4, 16} and len(cases) == 12
    told: list[dict[str, str]] = []
    echo = "import json, sys; print(json.dumps({'s': 1, 'bundle': json.loads(sys.argv[1])['bundle']}))"

    def spawn(command: list[str]) -> subprocess.Popen[str]:
        told.append(json.loads(command[-1]))
        engines = Path(told[-1]["bundle"]) / "engines"
        engines.mkdir(exist_ok=True)
        (engines / "of-one-camera.plan").write_text("a plan")
        return script.Check.spawn(check, [sys.executable, "-c", echo, command[-1]])

    monkeypatch.setattr(check, "spawn", spawn)
    found = script.open_all(check, cases, tmp_path)
    assert list(found) == [str(case) for case in cases]
    folders = {order["bundle"] for order in told}
    assert (made / "engines" / "of-one-camera.plan").exists(), "bench would build it again"
    assert len(folders) == 12 and all((Path(folder) / "bundle.json").exists() for folder in folders)
    monkeypatch.setattr(check, "finish", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped after 1 s")))
    with pytest.raises(
        RuntimeError, match="toy window fp16 x1: stopped after 1 s; toy step fp16 x1: stopped"
    ):
        script.open_all(check, cases[:2], tmp_path)


def test_on_a_stand_in_a_slow_step_has_the_time_of_the_whole(script: ModuleType, tmp_path: Path) -> None:
    slow = [sys.executable, "-c", "import time; time.sleep(0.5); print('done')"]
    check = script.Check(dict(NO_GPU), tmp_path / "found.json", 60, True)
    assert check.run(slow, 0.1) == "done\n"
    with pytest.raises(RuntimeError, match="stopped after 0 s"):
        check_of(script, tmp_path / "found.json").run(slow, 0.1)
    with pytest.raises(RuntimeError, match="stopped after 1 s"):
        script.Check(dict(NO_GPU), None, 1, True).run(["sleep", "60"], 90)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_script_on_a_stand_in(make_bundle: Callable[..., LoadedBundle], tmp_path: Path) -> None:
    bundle = make_bundle("colours")
    out = tmp_path / "found.json"
    command = [str(SCRIPT), "--stand-in", "--bundle", str(bundle.path), "--preset", "", "--out", str(out)]
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command += ["--calls", "5", "--seconds", "800"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=850)
    found = json.loads(out.read_text())
    steps, name = found["steps"], bundle.path.name
    assert done.returncode == 0, (done.stderr, steps)
    if found["gpu"] is not None:
        pytest.skip("a machine with a GPU runs the real thing: scripts/gpu_check.sh")
    assert found["why"] and found["stand_in"] and found["versions"]["numpy"]
    assert steps["pytest"]["status"] == "ok" and not steps["pytest"]["result"]["failed"]
    assert any("needs an NVIDIA GPU" in reason for reason in steps["pytest"]["result"]["skipped"])
    if found["versions"]["tensorrt_rtx"]:
        assert [s["precision"] for s in steps[f"{name} build"]["result"]] == ["fp16"] * 2 + ["fp32"] * 2
    for turn in ("first", "second"):
        engines = steps[f"{name} bench, {turn}"]["result"]["engines"]
        assert {e["engine"] for e in engines} == {"onnxruntime:fp16", "onnxruntime:fp32"}
    assert steps[f"{name} verify"]["status"] == "ok", steps[f"{name} verify"]
    assert steps["engines"]["status"] == "skipped" and steps["engines"]["reason"].startswith("no GPU: ")
    for batch in (1, 4, 16):
        timed = steps[f"{name} step fp16 x{batch}"]
        assert timed["status"] == "skipped" and timed["reason"].startswith("no GPU: ")
    assert not (bundle.path / "engines").exists(), "the bundle given was touched"


def test_the_script_names_no_path_of_one_machine() -> None:
    for path in SCRIPT.parent.glob("gpu_*"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ("/work", "/tmp", "/home", "../shared")), path
