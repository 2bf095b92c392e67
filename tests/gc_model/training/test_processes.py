# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: prepared once, the samples shared out, one result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from gc_model.data.samples import EpochSampler
from gc_model.training import checkpoint, processes
from gc_model.training.lightning_io import SafetensorsIO
from gc_model.training.processes import rank, tell_prepared, wait_for, wait_prepared
from tests.gc_model.runs import colours, people

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"}, 3),
        ({"NODE_RANK": "2", "LOCAL_RANK": "1"}, 9),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),
        ({"SLURM_PROCID": "7", "LOCAL_RANK": "3"}, 7),
    ],
)
def test_the_number_of_this_process(monkeypatch, environment, expected):
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank(4) == expected


def test_the_others_wait_for_what_the_first_found(tmp_path):
    with pytest.raises(TimeoutError):
        wait_prepared(tmp_path, timeout_s=0)
    tell_prepared(tmp_path, {"failed": {"a.mp4": "broken"}})
    assert wait_prepared(tmp_path) == {"failed": {"a.mp4": "broken"}}


def test_the_others_end_with_the_first_that_started_them(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_PARENT", -1)  # another has adopted this process
    with pytest.raises(SystemExit) as ended:
        wait_for(tmp_path / "report.json")
    assert ended.value.code == 1
    (tmp_path / "report.json").touch()
    wait_for(tmp_path / "report.json")


def test_every_clip_is_seen_by_some_process_in_every_epoch():
    parts = [[i for _, i in EpochSampler(7, 0, r, 3)] for r in range(3)]
    assert {len(p) for p in parts} == {3} and {i for p in parts for i in p} == set(range(7))


def gc_model(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command line in two processes."""
    program = folder / "gc-model"  # Lightning starts the other process by this file again
    program.write_text('from gc_model.cli import main\n\nif __name__ == "__main__":\n    main()\n')
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, program, *arguments, "--set", "devices=2", "--set", "batch=4"]
    command += [
        "--set",
        "from_scratch=true",
        "--preset",
        "tiny",
        "--epochs",
        "1,1",
        "--quiet",
        "--threads",
        "1",
    ]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_two_processes_train_one_run_and_resume_it(tmp_path):
    out = tmp_path / "run"
    command = ["train", "--data", people(), "--out", out]
    for item in ("val_fraction=0.2", "freeze_stages=4", "views=1"):
        command += ["--set", item]
    for again in ([], ["--resume"]):
        done = gc_model(tmp_path, *command, *again)
        assert done.returncode == 0, done.stderr
        assert "trained on 10 clips" in done.stdout
    steps = SafetensorsIO().load_checkpoint(out / "stage2" / "last.ckpt")["global_step"]
    assert steps == 2  # ten clips are three batches of one process, two of two
    assert checkpoint.load(out)[1].labels == ["bow", "cheer", "jump"]


@pytest.mark.slow
def test_two_processes_train_every_row_of_a_table_and_one_judges_and_tells(tmp_path):
    out = tmp_path / "tables"
    done = gc_model(
        tmp_path, "ablate", "--data", colours(), "--test-subjects", "b", "--rows", "clouds_LD,global_LD",
        "--set", "val_fraction=0", "--out", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [row["row"] for row in table["rows"]] == ["global_LD", "clouds_LD"]
    assert all(row["ours"]["test"]["clips"] == 6 for row in table["rows"])
    assert done.stderr.count("clouds_LD  seed 0") == done.stderr.count("global_LD  seed 0") == 1
    assert len(list(out.glob("*/*/report.json"))) == 2 and not list(out.rglob("*.ckpt"))
