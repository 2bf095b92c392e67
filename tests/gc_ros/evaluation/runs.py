# SPDX-License-Identifier: Apache-2.0
"""`gc-ros evaluate` as its tests call it, the recorded inputs beside the checkout, and clips of one colour."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gc_ros import cli
from gc_ros.media.video_writer import VideoWriter
from tests.command_line import call
from tests.conftest import REPOSITORY
from tests.gc_ros.evaluation.bag_files import COLOURS, NS, write_bag, write_truth
from trt_build.bundle import LoadedBundle

SIMPLE = [("red", 3.0), ("green", 3.0)]
CASES = REPOSITORY.parent / "shared" / "cases"


def case(name: str) -> Path:
    """A folder of the recorded inputs."""
    if not (CASES / name).is_dir():
        pytest.skip(f"the recorded inputs are not beside the checkout (../shared/cases/{name})")
    return CASES / name


def make(folder: Path, name: str = "bag", pieces: Any = SIMPLE, truth: bool = True, **options: Any) -> Path:
    """A bag with BAG.truth.csv beside it; `options` as of `write_bag`."""
    found = write_bag(folder / name, pieces, **options)
    if truth:
        write_truth(folder / f"{name}.truth.csv", found)
    return folder / name


def need_evaluation() -> None:
    """Skips the test that calls it where packages of `gc-ros evaluate` are missing, as `colcon test` may find them."""
    for module in ("sklearn.metrics", "jinja2", "mcap.writer"):
        pytest.importorskip(module, reason=f"{module} is not importable: pip install -e '.[evaluate]'")


def run(bundle: LoadedBundle, out: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    need_evaluation()
    done = call(cli.app, "evaluate", *arguments, "-b", bundle.path, "--out", out, "--threads", 1, "--jobs", 1)
    assert done.exit_code == code, done.output
    return dict(json.loads((out / "summary.json").read_text())) | {"said": done.stderr, "text": done.stdout}


def spawn(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`gc-ros` in a process of its own, which takes SIGINT also where the tests run in a background that ignores it."""
    return subprocess.Popen(
        [sys.executable, "-m", "gc_ros.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="latin-1",  # takes any byte
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def write_clip(path: Path, colour: str = "red", frames: int = 40) -> Path:
    """A video of one colour, 16 frames a second."""
    image = np.empty((48, 64, 3), np.uint8)
    image[:] = COLOURS[colour]
    with VideoWriter(path) as writer:
        for n in range(frames):
            writer.write(image, n * NS // 16)
    return path
