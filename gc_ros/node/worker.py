# SPDX-License-Identifier: Apache-2.0
"""A thread for jobs that take longer than the executor's thread may be held up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

# Of the node's threads that the end of the process does not wait for.
NAMES = ("inference", "decoding", "teaching")


class Worker:
    """Does one job after the other, in a thread that starts with the first and ends after `close`.

    A daemon, unlike the threads of `concurrent.futures`: neither a long job nor one that hangs keeps the process alive.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Have a job done after those before it. After `close` nobody does it."""
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        if not self._started:
            self._started = True
            self._thread.start()
        return future

    def close(self) -> None:
        """Let the thread end when the jobs that wait are done."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (waiting := self._jobs.get()) is not None:
            future, job = waiting
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
