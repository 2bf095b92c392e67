# SPDX-License-Identifier: Apache-2.0
"""Processes for work on many clips."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from trt_build.errors import DataError


@contextmanager
def processes(workers: int | None, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `workers` processes, None: one for each core, but no more than jobs.

    After an exception, Ctrl-C too, the jobs that wait are not begun; those that run end by themselves. Raises DataError
    where no process starts.
    """
    # Spawned, not forked: the caller may hold threads, torch's for one, which a fork copies in a locked state.
    spawn = multiprocessing.get_context("spawn")
    count = min(workers or len(os.sched_getaffinity(0)), max(jobs, 1))
    # No `with`: its second call of `shutdown` would take the jobs up again.
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=end_with_parent)
    try:
        check_start(pool)
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def killed(at: object, remedy: str) -> str:
    """What to say of a process of a pool that ended without a word at work on `at`, as the kernel ends one."""
    return f"a process was killed at work on {at}, often because memory ran out: {remedy}"


def end_with_parent() -> None:
    """In a process of a pool: end when the parent ends, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def check_start(pool: ProcessPoolExecutor) -> None:
    """Wait for the first process of a spawned pool. Raises DataError where it does not start.

    A spawned process imports the script that it was started from; one that calls us where it is imported ends there.
    """
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise DataError(
            'no process can be started; a script of one\'s own must call this below `if __name__ == "__main__":`, '
            "since every process imports it"
        ) from None
