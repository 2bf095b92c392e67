# SPDX-License-Identifier: Apache-2.0
"""Decoding beside the executor: a thread for the images of one camera, in order, within a budget of processor time.

Files of a few kilobytes can take seconds to decode. In the executor they would hold up every camera, service and timer;
here they cost their own camera its images and, beyond the budget, nobody anything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

WAITING = 6  # images; one more than the middleware keeps, so that a short stall loses none
PACKETS = 30  # of a video stream: they are small, and a lost one costs all up to the next key frame
BURST_S = 1.0  # by which the budget may be overdrawn
LATE = "decoding the images takes longer than they take to come; publish smaller ones"


class Decoding:
    """A thread that calls `work` with each item, oldest first.

    work: must not raise. dropped: gets the reason for each item that is not worked on, in either thread.
    share: the budget, as the part of one processor that `work` may take on average; 1.0: no limit. most: items that may
    wait.
    """

    def __init__(
        self,
        work: Callable[[Any], None],
        dropped: Callable[[str], None],
        share: Callable[[], float],
        most: int = WAITING,
    ) -> None:
        self._work, self._dropped, self._share, self._most = work, dropped, share, most
        self._condition = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._stopping = False
        self._paid_s = 0.0  # of the steady clock: until then the budget is used up
        self._thread: threading.Thread | None = None

    def put(self, item: Any) -> None:
        """Hand over an item and return at once; where too many wait, the oldest is dropped."""
        with self._condition:
            if self._stopping:
                return
            full = len(self._waiting) >= self._most
            if full:
                self._waiting.popleft()
            self._waiting.append(item)
            self._condition.notify()
            if self._thread is None:
                # A daemon: an image that decodes for seconds must not keep the process alive.
                self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
                self._thread.start()
        if full:
            self._dropped(LATE)

    def clear(self) -> None:
        """Forget what waits."""
        with self._condition:
            self._waiting.clear()

    def stop(self) -> None:
        """Forget what waits and end the thread after its present item; one that takes long is not waited for."""
        with self._condition:
            self._stopping = True
            self._waiting.clear()
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(0.2)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                item = self._waiting.popleft()
            share, now = self._share(), time.monotonic()
            if share < 1 and self._paid_s - now > BURST_S:
                self._dropped(
                    f"decoding this camera's images takes more than {share:.0%} of a processor; publish smaller ones, "
                    "or raise decode_budget"
                )
                continue
            # Processor time: on a busy machine the clock on the wall would blame the images.
            began = time.thread_time()
            self._work(item)
            self._paid_s = max(self._paid_s, now) + (time.thread_time() - began) / share
