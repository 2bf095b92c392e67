# SPDX-License-Identifier: Apache-2.0
"""Teaching a running node over DDS: shown to the camera, recognised from then on, kept over a restart."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gc_ros.node.harness import LATCHED, NAME, Peer, load_info, running, wait_until  # isort: skip

from glimpse_clouds.msg import TaughtActivities
from glimpse_clouds.srv import Forget, Teach

from tests.toy import toy_bundle

pytestmark = [pytest.mark.ros, pytest.mark.slow]

YELLOW, RED = (200, 200, 40), (200, 40, 40)
_stamps = itertools.count(1_000_000_000_000, 62_500_000)


@contextmanager
def seen(peer: Peer, rgb: tuple[int, int, int]) -> Iterator[None]:
    """A camera sees one colour that flickers, faster than real time: 16 Hz by its stamps."""
    stop, rng = threading.Event(), np.random.default_rng(sum(rgb))

    def show() -> None:
        while not stop.is_set():
            colour = np.clip(np.array(rgb) + rng.normal(0, 4, 3), 0, 255).astype(np.uint8)
            peer.publish(np.full((8, 8, 3), colour), next(_stamps))
            time.sleep(0.02)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "b", "colours", embedding=True).path


def taught_of(peer: Peer) -> list[TaughtActivities]:
    found: list[TaughtActivities] = []
    peer.node.create_subscription(TaughtActivities, f"{NAME}/taught", found.append, LATCHED)
    return found


def teach(peer: Peer, name: str = "yellow", **request: Any) -> Any:
    return peer.call(Teach, f"{NAME}/teach", Teach.Request(name=name, **request), timeout_s=60)


def next_labels(peer: Peer, count: int) -> list[str]:
    """Of results from now on, without those of windows that were under way."""
    begin = len(peer.activities) + 1
    wait_until(lambda: len(peer.activities) >= begin + count, "results", 30)
    return [activity.label for activity in peer.activities[begin : begin + count]]


def test_what_is_shown_is_recognised_within_two_windows_and_kept_over_a_restart(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        infos, taught = load_info(peer), taught_of(peer)
        with seen(peer, YELLOW):
            assert "yellow" not in next_labels(peer, 2)
            answer = teach(peer, windows=9)
            assert answer.success, answer.message
            assert answer.windows == 9 and answer.clips == 3
            # Sixteen results of a stride of one frame are two windows of eight.
            assert "yellow" in next_labels(peer, 16)
            assert set(next_labels(peer, 5)) == {"yellow"}
        wait_until(lambda: infos and infos[-1].labels == ["red", "green", "blue", "yellow"], "the label")
        wait_until(lambda: taught and list(taught[-1].names) == ["yellow"], "~/taught")
        assert list(taught[-1].windows) == [9] and taught[-1].model_id == "toy-colours"
        with seen(peer, RED):
            next_labels(peer, 10)
            assert set(next_labels(peer, 3)) == {"red"}
    with running(bundle) as (_, peer):
        with seen(peer, YELLOW):
            assert set(next_labels(peer, 3)) == {"yellow"}
            answer = peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow"))
            assert answer.success, answer.message
            assert "yellow" not in next_labels(peer, 3)
        assert not peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow")).success


def test_progress_is_in_the_diagnostics_and_the_other_services_answer_meanwhile(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        answers: list[Any] = []
        # Shorter than the harness waits before it asks again.
        thread = threading.Thread(target=lambda: answers.append(teach(peer, seconds=2.5)))
        with seen(peer, YELLOW):
            thread.start()
            wait_until(
                lambda: any(
                    value.key == "teaching" and value.value.startswith("yellow: ")
                    for status in list(peer.diagnostics.values())
                    for value in status.values
                ),
                "progress in /diagnostics",
                8,
            )
            second = teach(peer, "other", windows=1)
            assert not second.success and '"yellow" is being taught' in second.message
            thread.join(30)
        assert answers and answers[0].success, answers


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"name": "red"}, "activity of toy-colours itself"),
        ({"name": ""}, "needs a name"),
        ({"camera": "left"}, "no camera"),
        ({"seconds": -1.0}, "seconds is -1"),
    ],
)
def test_what_cannot_be_taught_is_answered_with_the_reason(bundle: Path, request_: Any, words: str) -> None:
    with running(bundle) as (_, peer):
        answer = teach(peer, **request_)
        assert not answer.success and words in answer.message


def test_nothing_seen_and_a_bundle_of_before_are_answered_with_the_reason(
    bundle: Path, tmp_path: Path
) -> None:
    with running(bundle) as (_, peer):
        answer = teach(peer, seconds=0.5)
        assert not answer.success and "no window was seen" in answer.message
    old = toy_bundle(tmp_path / "old", "colours").path
    with running(old) as (_, peer):
        answer = teach(peer, seconds=0.5)
        assert not answer.success and "cannot be taught" in answer.message
