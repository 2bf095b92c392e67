# SPDX-License-Identifier: Apache-2.0
"""The thread for long jobs: one after the other, in order, errors handed on, none that keeps the process alive."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from gc_ros.node.worker import NAMES, Worker


def test_jobs_are_done_in_order_by_one_thread_that_ends_after_close() -> None:
    worker, done = Worker("teaching"), []
    futures = [worker.submit(lambda n=n: done.append((n, threading.current_thread().name))) for n in range(9)]
    worker.close()
    for future in futures:
        future.result(10)
    assert done == [(n, "teaching") for n in range(9)] and "teaching" in NAMES
    for thread in threading.enumerate():
        if thread.name == "teaching":
            thread.join(10)
            assert not thread.is_alive()


def test_what_a_job_raises_comes_out_of_its_result_and_the_next_one_is_done() -> None:
    worker = Worker("teaching")
    try:
        failing, next_one = worker.submit(lambda: 1 // 0), worker.submit(lambda: 7)
        with pytest.raises(ZeroDivisionError):
            failing.result(10)
        assert next_one.result(10) == 7
    finally:
        worker.close()


def test_a_job_that_hangs_does_not_keep_the_process_alive() -> None:
    program = (
        "import time; from gc_ros.node.worker import Worker; "
        "w = Worker('teaching'); w.submit(lambda: time.sleep(600)); w.close()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
