# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: prepared once, the samples shared out, one result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from gc_model.data.samples import EpochSampler
from gc_model.training import checkpoint
from gc_model.training.lightning_io import SafetensorsIO
from gc_model.training.processes import rank, tell_prepared, wait_prepared
from tests.gc_model.runs import people

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


def test_every_clip_is_seen_by_some_process_in_every_epoch():
    parts = [[i for _, i in EpochSampler(7, 0, r, 3)] for r in range(3)]
    assert {len(p) for p in parts} == {3} and {i for p in parts for i in p} == set(range(7))


@pytest.mark.slow
def test_two_processes_train_one_run_and_resume_it(tmp_path):
    out = tmp_path / "run"
    program = tmp_path / "gc-model"  # Lightning starts the other process by this file again
    program.write_text('from gc_model.cli import main\n\nif __name__ == "__main__":\n    main()\n')
    command = [sys.executable, program, "train", "--data", people(), "--out", out, "--preset", "tiny"]
    command += ["--epochs", "1,1", "--quiet", "--threads", "1"]
    for item in (
        "devices=2",
        "batch=4",
        "from_scratch=true",
        "val_fraction=0.2",
        "freeze_stages=4",
        "views=1",
    ):
        command += ["--set", item]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    for again in ([], ["--resume"]):
        done = subprocess.run(
            [*command, *again], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        assert "trained on 10 clips" in done.stdout
    steps = SafetensorsIO().load_checkpoint(out / "stage2" / "last.ckpt")["global_step"]
    assert steps == 2  # ten clips are three batches of one process, two of two
    assert checkpoint.load(out)[1].labels == ["bow", "cheer", "jump"]
