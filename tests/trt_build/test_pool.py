# SPDX-License-Identifier: Apache-2.0
"""Pools of processes: what a script of one's own is told that starts them where it is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until
from trt_build.pool import processes

TASK = "with processes(2, 2) as pool:\n    print(sum(pool.map(abs, [-1, -2])))\n"
GUARD = 'if __name__ == "__main__":\n'


def run(script: Path, text: str) -> subprocess.CompletedProcess[str]:
    script.write_text("from trt_build.pool import processes\n" + text)
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


@pytest.mark.timeout(120)
def test_a_script_that_starts_processes_where_it_is_imported_is_told_what_it_lacks(tmp_path: Path) -> None:
    wrong = run(tmp_path / "wrong.py", TASK)
    assert wrong.returncode != 0
    assert wrong.stderr.splitlines()[-1].startswith(
        "trt_build.errors.DataError: no process can be started"
    ), wrong
    assert GUARD.strip() in wrong.stderr.splitlines()[-1]
    right = run(tmp_path / "right.py", GUARD + indented(TASK))
    assert (right.returncode, right.stdout) == (0, "3\n"), right


@pytest.mark.timeout(120)
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    task = "with processes(2, 2) as pool:\n    for n in pool.map(waits, [0, 1]):\n        pass\n"
    job = "def waits(n):\n    import os, time\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
    (tmp_path / "waits.py").write_text(
        "from trt_build.pool import processes\n" + job + GUARD + indented(task)
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "waits.py"], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(runs(worker) for worker in workers), "the end of the workers")


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # One that nobody waits for is a zombie.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.timeout(120)
def test_no_more_processes_are_started_than_there_is_work_for() -> None:
    for workers, jobs, most in ((8, 2, 2), (1, 9, 1), (3, 0, 1)):
        with processes(workers, jobs) as pool:
            assert pool._max_workers == most  # type: ignore[attr-defined]
