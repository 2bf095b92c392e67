# SPDX-License-Identifier: Apache-2.0
"""When results come: each at once, or as on a robot whose engine takes a given time.

The slow robot is simulated on the clock of the stamps, so a result does not depend on this machine. Its rules are
those of `node.inference`: one inference at a time, and of the windows that arrive meanwhile only the newest waits. In
mode step every sampled frame costs an engine call, and the thread continues until no frame waits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from gc_ros.evaluation.sources import Frame
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.recognizer import Recognizer, Window
from gc_ros.stamps import NS

Result = tuple[Activity, float]  # and seconds from the newest frame's arrival to publication


class AtOnce:
    """Infers every window before it takes the next frame; the time this takes is measured, not simulated."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer

    def before(self, frame: Frame) -> Iterator[Result]:
        """Yield what has been published by the time a frame arrives."""
        return iter(())

    def push(self, frame: Frame) -> Iterator[Result]:
        """Take a frame; yield the result it gives, if any."""
        found = self._recognizer.push(frame.picture, frame.stamp_ns, encoding=frame.encoding)
        if found is not None:
            yield found, found.preprocess_s + found.inference_s

    def finish(self) -> Iterator[Result]:
        """Yield the results that follow the last frame."""
        return iter(())


class SlowRobot:
    """Drops windows as a robot does whose engine call takes `latency_s` seconds."""

    def __init__(self, recognizer: Recognizer, latency_s: float) -> None:
        self._recognizer, self._latency = recognizer, round(latency_s * NS)
        self._now = 0  # arrival clock: keeps counting through loops and jumps back
        self._last: int | None = None
        self._running: Window | None = None
        self._calls: Generator[None, None, Activity | None] | None = None  # of the running window
        self._done: int | None = None  # when the running engine call ends
        self._waiting: Window | None = None
        self._arrived: dict[int, int] = {}  # arrival of windows' newest frames by stamp

    def before(self, frame: Frame) -> Iterator[Result]:
        """Yield what has been published by the time a frame arrives."""
        if self._last is not None:
            self._now += max(frame.stamp_ns - self._last, 0)
        self._last = frame.stamp_ns
        yield from self._until(self._now)

    def push(self, frame: Frame) -> Iterator[Result]:
        """Take a frame, after `before`; it gives no result at once."""
        window = self._recognizer.offer(frame.picture, frame.stamp_ns, encoding=frame.encoding)
        if window is None:
            return iter(())
        self._arrived[frame.stamp_ns] = self._now
        while len(self._arrived) > 1024:
            del self._arrived[next(iter(self._arrived))]
        self._waiting = window
        if self._done is None:
            self._start(self._now)
        return iter(())

    def finish(self) -> Iterator[Result]:
        """Yield the results of the inference that runs and the window that waits when the stream ends."""
        while self._done is not None:
            yield from self._until(self._done)

    def _start(self, at: int) -> None:
        """Begin the work that waits. What a reset has made void takes no engine call."""
        while self._done is None and self._waiting is not None:
            self._running, self._waiting = self._waiting, None
            self._calls = self._recognizer.calls(self._running)
            self._call(at)

    def _call(self, at: int) -> Activity | None:
        """End the running engine call and begin the next; the result where there is none."""
        assert self._calls is not None
        try:
            next(self._calls)
        except StopIteration as ended:
            self._done = None
            return ended.value
        self._done = at + self._latency
        return None

    def _until(self, now: int) -> Iterator[Result]:
        while self._done is not None and self._done <= now:
            done = self._done
            found = self._call(done)
            if self._done is None:
                assert self._running is not None
                if self._waiting is None and self._recognizer.waits(self._running):
                    self._waiting = self._running
                self._start(done)
            if found is not None:
                yield found, (done - self._arrived.get(found.stamp_ns, done)) / NS
