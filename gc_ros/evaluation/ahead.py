# SPDX-License-Identifier: Apache-2.0
"""Reading while the engine computes: images are decoded in a thread, a few ahead of the one that is needed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def read_ahead(items: Iterable[Item], depth: int = 8) -> Generator[Item, None, None]:
    """The same items in the same order, `depth` of them at most waiting; an error comes where it would have come.

    Decoders and engines work outside of Python's lock, so that both run at once. Whoever stops early must close the
    iterator (`contextlib.closing`): the thread then ends after the item at hand.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            failure.append(error)
        put(_END)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item  # type: ignore[misc]
        if failure:
            raise failure[0]
    finally:
        stopped.set()
        thread.join()
