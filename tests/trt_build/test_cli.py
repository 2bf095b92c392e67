# SPDX-License-Identifier: Apache-2.0
"""`trt-build`: answers, exit codes, one line an error, help with an example, no torch where none is needed."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command_line
from tests.toy import toy_bundle
from trt_build.bundle import file_sha256
from trt_build.cli import app
from trt_build.command import at_most_cores

REPOSITORY = Path(__file__).resolve().parents[2]


call = functools.partial(command_line.call, app)


def assert_one_line(result, *words: str) -> None:
    command_line.assert_one_line(result, *words)
    assert not result.stdout


@pytest.mark.parametrize("command", ["export", "info", "build", "quantize", "verify", "bench"])
def test_help_of_every_command_has_an_example(command):
    result = call(command, "--help")
    assert result.exit_code == 0 and f"Example: trt-build {command} " in " ".join(result.output.split())


def test_help_lists_the_commands_and_wrong_use_is_exit_code_2():
    result = call("--help")
    assert result.exit_code == 0 and "export" in result.output and "info" in result.output
    for arguments in ((), ("fly",), ("info",), ("export", "run"), ("info", "b", "--colour")):
        assert call(*arguments).exit_code == 2, arguments


def test_info_says_what_a_bundle_is_in_words_and_as_json(tmp_path):
    toy_bundle(tmp_path / "b")
    text, data = call("info", tmp_path / "b"), call("info", tmp_path / "b", "--json")
    assert text.exit_code == data.exit_code == 0
    assert "toy-numbers" in text.stdout and "frame7" in text.stdout
    assert json.loads(data.stdout)["model_id"] == "toy-numbers"
    digest = file_sha256(tmp_path / "b" / "bundle.json")
    assert digest in text.stdout and json.loads(data.stdout)["bundle_sha256"] == digest


@pytest.mark.parametrize("damage", ["absent", "edited", "missing", "json"])
def test_a_damaged_bundle_is_one_line(tmp_path, damage):
    path = tmp_path / "b"
    if damage != "absent":
        toy_bundle(path)
    if damage == "edited":
        with (path / "weights.bin").open("ab") as file:
            file.write(b"x")
    elif damage == "missing":
        (path / "step.onnx").unlink()
    elif damage == "json":
        (path / "bundle.json").write_text("{")
    word = {"absent": "no such", "edited": "weights.bin", "missing": "step.onnx", "json": "bundle.json"}[
        damage
    ]
    assert_one_line(call("info", path), word, "trt-build export")


def test_info_works_where_torch_and_onnx_are_not_installed(tmp_path):
    toy_bundle(tmp_path / "b")
    program = (
        "import sys\n"
        "for name in ('torch', 'timm', 'lightning', 'onnx', 'onnxslim', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from trt_build.cli import main\n"
        "main()\n"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )
        for arguments in (["info", str(tmp_path / "b")], ["export", "run", "--out", str(tmp_path / "c")])
    ]
    assert done[0].returncode == 0 and "toy-numbers" in done[0].stdout
    assert (
        done[1].returncode == 2 and "pip install" in done[1].stderr and len(done[1].stderr.splitlines()) == 1
    )


def test_an_export_of_no_run_is_one_line(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
    assert_one_line(call("export", tmp_path / "nowhere", "--out", tmp_path / "b"), "gc-model train")
    assert not (tmp_path / "b").exists()


def test_an_export_of_a_corrupted_run_is_one_line(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
    from tests.gc_model.runs import run

    damaged = Path(shutil.copytree(run(), tmp_path / "run"))
    (damaged / "model.safetensors").write_bytes(b"x" * 5000)
    assert_one_line(call("export", damaged, "--out", tmp_path / "b"), "model.safetensors", "train again")
    (tmp_path / "file").touch()
    assert_one_line(call("export", run(), "--out", tmp_path / "file"), "--out")


@pytest.mark.slow
def test_export_prints_what_it_made_and_nothing_else(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
    from tests.gc_model.runs import colours, run

    text = call("export", run(), "--out", tmp_path / "a", "--video", colours() / "red" / "red1.mp4")
    assert text.exit_code == 0 and len(text.stdout.splitlines()) == 1, text.output
    assert "modes window, step" in text.stdout and "of torch" in text.stdout
    plan = tmp_path / "a" / "engines" / "any-sm89-of-before.plan"
    plan.parent.mkdir()
    plan.write_bytes(b"")
    again = call("export", run(), "--out", tmp_path / "a")
    assert f"remove them: rm {plan.with_suffix('')}.*; for new ones: trt-build build " in again.stdout
    data = call("export", run(), "--out", tmp_path / "b", "--json")
    assert json.loads(data.stdout)["parity"]["clips"] == 2


def test_no_more_threads_are_used_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [at_most_cores(n) for n in (None, 1, 4, 400)] == [None, 1, 4, 4]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert at_most_cores(400) == 400
