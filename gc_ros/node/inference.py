# SPDX-License-Identifier: Apache-2.0
"""The inference thread: one slot a camera and person, and the engine that all of them share.

What arrives while a call runs replaces what waits. So the image callback never waits, the newest window wins, and the
age of a result stays bounded by one inference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from gc_ros.node.camera import Camera
from gc_ros.node.people import Jobs, PersonJob
from gc_ros.recognition.batch import Batch
from gc_ros.recognition.people import PersonActivity
from trt_build.engine import Engine

_FORGOTTEN_S = 30.0


class InferenceThread:
    """A thread that calls `work` with everything that waits, the newest item of each key.

    work: gets {key: item}. Where it returns True it is called again at once, with the items that have arrived
        meanwhile or none.
    failed: gets an exception of `work`; the thread lives on.
    """

    def __init__(
        self,
        work: Callable[[Mapping[Any, Any]], bool | None],
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

    def submit(self, items: Mapping[Any, Any]) -> None:
        """Hand over items by key, which `work` gets in one call; waiting ones of the same keys are forgotten."""
        with self._condition:
            if not self._stopping:
                self._waiting.update(items)
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


class Failures:
    """How often in a row the engine failed: whole calls of it, or the row of one recogniser among others that go well.

    A row that has not run for `_FORGOTTEN_S` seconds counts no longer: its camera is silent, or its person gone.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._rows: dict[str, tuple[int, float]] = {}  # count and when, by the key of the recogniser

    def call(self, failed: bool) -> None:
        """A whole call failed, or it returned."""
        self._calls = self._calls + 1 if failed else 0

    def row(self, key: str, failed: bool) -> None:
        """The row of a recogniser was not finite, or it was."""
        if failed:
            self._rows[key] = self._row(key) + 1, time.monotonic()
        else:
            self._rows.pop(key, None)

    def _row(self, key: str) -> int:
        count, at = self._rows.get(key, (0, 0.0))
        return count if time.monotonic() - at < _FORGOTTEN_S else 0

    @property
    def in_row(self) -> int:
        """The most of all that fail now."""
        return max([self._calls, *map(self._row, list(self._rows))])


class Inference:
    """The engine at work for the cameras, from activation to deactivation.

    failed: called in the inference thread with an error, which is in `failures` then.
    """

    def __init__(
        self,
        engine: Engine,
        cameras: Sequence[Camera],
        failed: Callable[[Exception], None],
    ) -> None:
        self._cameras = list(cameras)
        self._failed = failed
        self.failures = Failures()
        recognizers = {camera.name: camera.recognizer for camera in cameras}
        self._camera_of = {camera.name: camera for camera in cameras}
        for camera in cameras:
            if camera.people is not None:
                theirs = camera.people.people.recognizers
                recognizers |= theirs
                self._camera_of |= dict.fromkeys(theirs, camera)
        self._batch = Batch(engine, recognizers)
        self._stopped = False
        self._thread = InferenceThread(self._infer, self._on_engine_error)

    def submit(self, jobs: Jobs) -> None:
        """Work by the keys of its recognisers, cameras' names or people's; what still waits of them is overtaken."""
        self._thread.submit(jobs)

    @property
    def busy_s(self) -> float:
        """How long the present engine call has been running, seconds; 0 when idle."""
        return self._thread.busy_s

    def stop(self, timeout_s: float) -> bool:
        """Publish nothing more; False when a running call has not ended after `timeout_s` seconds."""
        # A thread that hangs and is abandoned may come back later: nothing it finds counts then.
        self._stopped = True
        return self._thread.stop(timeout_s)

    def _infer(self, jobs: Jobs) -> bool:
        """One engine call and its results; whether it must be called again at once."""
        for key, job in jobs.items():
            self._batch.add(key, job.window, job)
        people: dict[str, list[PersonActivity]] = {}  # by camera
        calls = self._batch.calls
        outcomes = self._batch.run()
        # Work that a failed call made void runs nothing, and says nothing about the engine.
        if self._batch.calls > calls:
            self.failures.call(failed=False)
        for outcome in outcomes:
            if self._stopped:
                return False
            camera = self._camera_of[outcome.key]
            self.failures.row(outcome.key, failed=outcome.error is not None)
            if outcome.error is not None:
                self._failed(outcome.error)
                camera.tell_what_ended()
                continue
            if outcome.activity is None:
                continue
            watching = camera.watching
            if watching is not None:
                watching(outcome.activity)
            if isinstance(outcome.ticket, PersonJob):
                people.setdefault(camera.name, []).append(PersonActivity.of(outcome.activity))
            else:
                camera.results.publish(outcome.activity, outcome.ticket, outcome.began)
        for name, results in people.items():  # everybody of a camera in one message
            their = self._camera_of[name].people
            if their is not None and not self._stopped:
                their.results.publish(results)
        return self._batch.pending

    def _on_engine_error(self, error: Exception) -> None:
        """A whole engine call failed; nothing of it was published."""
        if self._stopped:
            return
        self.failures.call(failed=True)
        self._failed(error)
        for camera in self._cameras:
            camera.tell_what_ended()
