# SPDX-License-Identifier: Apache-2.0
"""The log of events: whoever publishes them, an offset follows its onset, and none is lost."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator

import pytest

from gc_ros.recognition.event_log import Announcer, EventLog
from gc_ros.recognition.smoothing import ActivityEvent, Smoothing

LABELS = ["wave", "drink"]


@pytest.fixture
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switching")
def test_results_and_breaks_in_two_threads_are_published_in_pairs() -> None:
    log, said, lock = EventLog(), [], threading.Lock()
    announcer = Announcer(LABELS, Smoothing(tau_s=0, min_duration_s=0), ())
    announcer.log = log
    over = threading.Event()

    def publish() -> None:
        log.publish(lambda person, event, _: said.append((person, event.kind, event.label)))

    def infer() -> None:
        draw = random.Random(0)
        for stamp in range(5000):
            with lock:  # as the recogniser's
                announcer.update([[1.0, 0.0], [0.0, 1.0], [0.2, 0.2]][draw.randrange(3)], stamp, "7")
            publish()
        over.set()

    thread = threading.Thread(target=infer)
    thread.start()
    while not over.is_set():
        with lock:
            announcer.end()
        publish()
    thread.join()
    with lock:
        announcer.end()
    publish()
    assert len(said) > 1000 and {person for person, _, _ in said} == {"7"}
    kinds = [kind for _, kind, _ in said]
    assert kinds == ["onset", "offset"] * (len(said) // 2)
    assert all(said[i][2] == said[i + 1][2] for i in range(0, len(said), 2))


def test_what_decided_an_event_and_who_did_it_are_kept() -> None:
    log = EventLog()
    announcer = Announcer(LABELS, Smoothing(tau_s=0, min_duration_s=0), ())
    before = announcer.update([1.0, 0.0], 1, "")
    assert [event.kind for event in before] == ["onset"], "nobody had asked for a log"
    announcer.log = log
    assert announcer.update([0.0, 1.0], 2, "anna") == []
    announcer.relabel(["wave", "drink", "taught"])
    found: list[tuple[str, str, str, int | None]] = []
    log.publish(lambda person, event, decided: found.append((person, event.kind, event.label, decided)))
    assert found == [
        ("anna", "offset", "wave", 2), ("anna", "onset", "drink", 2), ("anna", "offset", "drink", None),
    ]  # fmt: skip
    log.publish(lambda *_: pytest.fail("published twice"))
    assert announcer.take() == [], "what is in the log comes once"


def test_other_labels_leave_what_is_idle_and_how_scores_become_events() -> None:
    """As where something is taught."""
    announcer = Announcer(LABELS, Smoothing(tau_s=0, onset=0.9, offset=0.1), ["drink"])
    announcer.relabel([*LABELS, "taught"])
    assert announcer.update([0.05, 0.95, 0.0], 1, "") == [], "idle begins nothing"
    assert announcer.update([0.2, 0.0, 0.8], 2, "") == []
    assert [event.label for event in announcer.update([0.05, 0.0, 0.95], 3, "")] == ["taught"]


def test_of_two_who_publish_one_waits_for_the_other() -> None:
    log, said, second = EventLog(), [], threading.Event()
    announcer = Announcer(LABELS, Smoothing(tau_s=0), ())
    announcer.log = log
    announcer.update([1.0, 0.0], 1, "")

    def publish() -> None:
        log.publish(lambda person, event, _: (said.append(event.kind), second.set()))

    other = threading.Thread(target=publish)

    def first(person: str, event: ActivityEvent, decided_ns: int | None) -> None:
        if not other.ident:
            announcer.end()
            other.start()
            assert not second.wait(0.1), "an offset overtook its onset"
        said.append(event.kind)

    log.publish(first)
    other.join(10)
    assert said == ["onset", "offset"]
