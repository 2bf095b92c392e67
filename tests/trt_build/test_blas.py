# SPDX-License-Identifier: Apache-2.0
"""NumPy's own threads: one, so that they do not turn in circles beside the engine's; more where the user says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed: make env")

PROGRAM = (
    "import {package}, numpy; from threadpoolctl import threadpool_info; "
    "print(*(pool['num_threads'] for pool in threadpool_info() if pool['internal_api'] == 'openblas'))"
)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["gc_ros.node.process", "gc_ros.cli", "trt_build.cli"])
@pytest.mark.parametrize(("asked", "threads"), [(None, "1"), ("2", "2")])
def test_numpy_has_one_thread_unless_the_user_says_otherwise(
    package: str, asked: str | None, threads: str
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core: NumPy has one thread whatever is asked")
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= {} if asked is None else {"OPENBLAS_NUM_THREADS": asked}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(package=package)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if not done.stdout.strip():
        pytest.skip("NumPy is not linked with OpenBLAS here")
    assert set(done.stdout.split()) == {threads}
