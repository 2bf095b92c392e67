# SPDX-License-Identifier: Apache-2.0
"""Processes for work on many clips."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def processes(workers: int | None, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `workers` processes, None: one for each core, but no more than jobs.

    After an exception, Ctrl-C too, the jobs that wait are not begun; those that run end by themselves.
    """
    # Spawned, not forked: the caller may hold threads, torch's for one, which a fork copies in a locked state.
    spawn = multiprocessing.get_context("spawn")
    count = min(workers or len(os.sched_getaffinity(0)), max(jobs, 1))
    # No `with`: its second call of `shutdown` would take the jobs up again.
    pool = ProcessPoolExecutor(count, mp_context=spawn)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
