# SPDX-License-Identifier: Apache-2.0
"""One thread for inference, with one slot a camera: what arrives while it works replaces what waits.

So the image callback never waits, the newest window wins, and the age of a result stays bounded by one inference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any


class Worker:
    """Calls `work` with everything that waits, newest item a key, in a thread of its own.

    work: gets {key: item}; an exception of it goes to `failed` and the thread lives on. Where it returns True it
        is not done: it is called again at once, with what has come meanwhile, be that nothing.
    """

    def __init__(
        self,
        work: Callable[[Mapping[Hashable, Any]], bool | None],
        failed: Callable[[Exception], None],
        name: str = "inference",
    ) -> None:
        self._work, self._failed = work, failed
        self._condition = threading.Condition()
        self._waiting: dict[Hashable, Any] = {}
        self._stopping = False
        self._since: float | None = None
        # A daemon: a hanging engine must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, key: Hashable, item: Any) -> None:
        """Hand over an item; a waiting one of the same key is forgotten."""
        with self._condition:
            if not self._stopping:
                self._waiting[key] = item
                self._condition.notify()

    @property
    def busy_s(self) -> float:
        """How long the present call of `work` has been running, seconds; 0 when idle."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, timeout_s: float) -> bool:
        """Forget what waits, let the running call end; False when it has not ended after `timeout_s` seconds."""
        with self._condition:
            self._stopping = True
            self._waiting.clear()
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        more: bool | None = False
        while True:
            with self._condition:
                while not self._waiting and not self._stopping and not more:
                    self._condition.wait()
                if self._stopping:
                    return
                items, self._waiting = self._waiting, {}
            self._since = time.monotonic()
            more = False
            try:
                more = self._work(items)
            except Exception as error:
                self._failed(error)
            finally:
                self._since = None
