# SPDX-License-Identifier: Apache-2.0
"""The inference thread: newest wins, failures do not end it, stopping is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from gc_ros.node import inference
from gc_ros.node.inference import Failures, InferenceThread


class Bench:
    """A thread whose work waits for the test."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.seen: list[dict[Any, Any]] = []
        self.errors: list[Exception] = []
        self.thread = InferenceThread(self.work, self.fail)

    def work(self, items: Any) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=5)
        self.seen.append(dict(items))
        self.done.release()
        if "bad" in items.values():
            raise ValueError("bad item")

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    for _ in range(10):
        bench.go.release()
    assert bench.thread.stop(5)


def test_what_waits_is_replaced_by_the_newest_of_the_same_camera(bench: Bench) -> None:
    bench.thread.submit({"front": 1})
    assert bench.begun.acquire(timeout=5)
    for number in (2, 3, 4):
        bench.thread.submit({"front": number})
    bench.thread.submit({"left": 9})
    bench.go.release()
    bench.go.release()
    for _ in range(2):
        assert bench.done.acquire(timeout=5)
    assert bench.seen == [{"front": 1}, {"front": 4, "left": 9}]


def test_a_failure_is_reported_and_the_next_item_is_worked_on(bench: Bench) -> None:
    bench.go.release()
    bench.thread.submit({"front": "bad"})
    assert bench.done.acquire(timeout=5)
    bench.go.release()
    bench.thread.submit({"front": "good"})
    assert bench.done.acquire(timeout=5)
    assert [str(error) for error in bench.errors] == ["bad item"]


def test_stopping_does_not_wait_for_a_call_that_hangs(bench: Bench) -> None:
    bench.thread.submit({"front": 1})
    assert bench.begun.acquire(timeout=5)
    assert bench.thread.busy_s >= 0
    assert not bench.thread.stop(0.05)
    bench.thread.submit({"front": 2})
    bench.go.release()
    assert bench.thread.stop(5)
    assert bench.seen == [{"front": 1}], "nothing is taken after stop"


def test_work_that_is_not_done_goes_on_though_nothing_comes_and_ends_where_it_fails() -> None:
    """A backlog of a step model; an engine that fails begins again with what comes next."""
    calls: list[dict[Any, Any]] = []
    failed, again = threading.Event(), threading.Event()

    def work(items: Any) -> bool:
        calls.append(dict(items))
        if len(calls) == 3:
            raise ValueError("out of memory")
        if len(calls) > 3:
            again.set()
        return len(calls) < 4

    thread = InferenceThread(work, lambda error: failed.set())
    thread.submit({"front": 1})
    assert failed.wait(5)
    assert not again.wait(0.1) and calls == [{"front": 1}, {}, {}]
    thread.submit({"front": 2})
    assert again.wait(5) and calls[3:] == [{"front": 2}]
    assert thread.stop(5)


def test_an_idle_thread_is_not_busy() -> None:
    ended: list[Callable[..., Any]] = []
    thread = InferenceThread(lambda items: None, lambda error: None)
    assert thread.busy_s == 0 and ended == []
    assert thread.stop(5)


def test_failures_in_a_row_are_of_whole_calls_or_of_one_row() -> None:
    failures = Failures()
    for _ in range(5):  # one call in three fails
        for failed in (True, False, False):
            failures.call(failed)
            assert failures.in_row == failed
    for number in range(1, 4):  # one row never is finite, another always
        failures.call(False)
        failures.row("front", True)
        failures.row("left", False)
        assert failures.in_row == number
    failures.row("front", False)
    assert failures.in_row == 0


def test_a_row_that_runs_no_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(inference.time, "monotonic", lambda: now[0])
    failures = Failures()
    failures.row("anna", True)
    failures.row("anna", True)
    assert failures.in_row == 2
    now[0] = 31.0
    assert failures.in_row == 0
    failures.row("anna", True)
    assert failures.in_row == 1
