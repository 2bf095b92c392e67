# SPDX-License-Identifier: Apache-2.0
"""Somebody shows colours to the camera of a node over DDS, and asks for them to be taught."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.gc_ros.node.harness import NAME, Peer, wait_until  # isort: skip

from glimpse_clouds.srv import Teach

YELLOW, RED = (200, 200, 40), (200, 40, 40)
_stamps = itertools.count(1_000_000_000_000, 62_500_000)


@contextmanager
def seen(
    peer: Peer, rgb: tuple[int, int, int], tell: Callable[[int], object] = lambda stamp_ns: None
) -> Iterator[None]:
    """A camera sees one colour that flickers, faster than real time: 16 Hz by its stamps, which are told before."""
    stop, rng = threading.Event(), np.random.default_rng(sum(rgb))

    def show() -> None:
        while not stop.is_set():
            colour = np.clip(np.array(rgb) + rng.normal(0, 4, 3), 0, 255).astype(np.uint8)
            stamp_ns = next(_stamps)
            tell(stamp_ns)
            peer.publish(np.full((8, 8, 3), colour), stamp_ns)
            time.sleep(0.02)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def teach(peer: Peer, name: str = "yellow", **request: Any) -> Any:
    # A second request while the first is served would be refused.
    return peer.call(Teach, f"{NAME}/teach", Teach.Request(name=name, **request), timeout_s=60, again_s=25)


def next_labels(peer: Peer, count: int) -> list[str]:
    """Of results from now on, without those of windows that were under way."""
    begin = len(peer.activities) + 1
    wait_until(lambda: len(peer.activities) >= begin + count, "results", 30)
    return [activity.label for activity in peer.activities[begin : begin + count]]
