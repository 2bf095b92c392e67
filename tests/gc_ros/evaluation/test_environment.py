# SPDX-License-Identifier: Apache-2.0
"""Evaluation runs in an environment made for it alone: the package's wheel, no rclpy, no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gc_ros.media.recording import Recording
from tests.gc_ros.evaluation.bag_files import write_bag, write_truth
from trt_build.bundle import LoadedBundle

ROOT = Path(__file__).resolve().parents[3]


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "AMENT_PREFIX_PATH", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_evaluate_runs_in_a_fresh_environment_without_ros_and_torch(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    python = tmp_path / "venv/bin/python"
    assert call(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path).returncode == 0
    # Built from a copy of what is under version control: a build in the checkout would leave its traces there.
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no git checkout to build the wheel from")
    for name in filter(None, tracked.stdout.split("\0")):
        if name.split("/")[0] in ("gc_model", "gc_ros", "trt_build", "msg", "setup.py", "pyproject.toml"):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    pins = ROOT / "requirements/constraints.txt"
    wanted = f"{tmp_path / 'source'}[onnxruntime]"
    done = call(
        *(
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            pins,
            wanted,
            "jinja2",
            "mcap",
            "scikit-learn",
            "scipy",
        ),
        cwd=tmp_path,
    )
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("no package index to install from")
    assert done.returncode == 0, done.stderr[-2000:]
    found = call(
        python,
        "-c",
        "import importlib.util as u; print([u.find_spec(n) for n in ('rclpy', 'torch')])",
        cwd=tmp_path,
    )
    assert found.stdout.strip() == "[None, None]"
    truth = write_bag(tmp_path / "bag", [("red", 2.0), ("green", 2.0)])
    write_truth(tmp_path / "bag.truth.csv", truth)
    done = call(
        tmp_path / "venv/bin/gc-ros", "evaluate", "bag", "-b", colours.path, "--out", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["result"]["windows"]["accuracy"] == 1
    assert (tmp_path / "out/report.html").stat().st_size > 20_000
    with Recording(tmp_path / "out/predictions.mcap") as recording:
        assert recording.topics["/activity_recognition/activity"] == "glimpse_clouds/msg/Activity"
