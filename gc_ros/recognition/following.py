# SPDX-License-Identifier: Apache-2.0
"""The people of a file: images and detections in the order of time, every result out, nothing skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gc_ros.media.detections import Detections
from gc_ros.media.images import Picture
from gc_ros.recognition.batch import Batch
from gc_ros.recognition.people import People, PersonActivity, PersonWork
from gc_ros.recognition.smoothing import ActivityEvent
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine


def in_order(
    found: Sequence[PersonActivity], ended: Sequence[tuple[str, ActivityEvent]]
) -> list[PersonActivity | tuple[str, ActivityEvent]]:
    """Results, which bring their events, and (person, event) of what ended without one, as they came about.

    Where boxes are rarer than images, one message of theirs makes several frames known at once. found: in the order of
    their stamps, as one call of `Following` gives them. What ended did so after the last window that had it.
    """
    items: list[tuple[int, int, PersonActivity | tuple[str, ActivityEvent]]] = [
        *((result.activity.stamp_ns, 0, result) for result in found),
        *((item[1].stamp_ns, 1, item) for item in ended),
    ]
    return [item for *_, item in sorted(items, key=lambda item: item[:2])]


class Following:
    """`People` and the engine at work for them, call by call. recorded: detections that are known beforehand.

    looked: called with each result and its slot of the engine, before the next engine call. shown: called with the
    stamp of each frame that people were looked for in. The engine's batch says how many people there may be. arguments:
    those of `People`. Raises EngineError as a `Recognizer` does.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        engine: Engine,
        recorded: Iterable[Detections] = (),
        *,
        looked: Callable[[PersonActivity, int], None] = lambda result, slot: None,
        shown: Callable[[int], None] = lambda stamp_ns: None,
        **arguments: Any,
    ) -> None:
        self.people = People(bundle, engine, range(engine.batch), at_once=self._run, **arguments)
        self._batch = Batch(engine, self.people.recognizers)
        self._all_recorded = sorted(recorded, key=lambda found: -found.stamp_ns)
        self._recorded = self._all_recorded.copy()  # the next one is the last
        self._looked, self._shown = looked, shown
        self._results: list[PersonActivity] = []

    def push(self, picture: Picture, stamp_ns: int, *, encoding: str = "") -> list[PersonActivity]:
        """Take an image. Results are of this one or of earlier ones, which waited for detections."""
        while self._recorded and self._recorded[-1].stamp_ns < stamp_ns:
            self.people.detections(self._recorded.pop())
        self.people.offer(picture, stamp_ns, encoding=encoding)
        return self._take()

    def detections(self, found: Detections) -> list[PersonActivity]:
        """Take the boxes of one image."""
        self.people.detections(found)
        return self._take()

    def rewind(self) -> tuple[list[PersonActivity], list[tuple[str, ActivityEvent]]]:
        """The images will begin again, as of a bag that was played in a loop, and what is recorded is about them again.

        Returns the results of the images that still wait, and what ends, with who did it.
        """
        results = self.finish()
        self._recorded = self._all_recorded.copy()
        return results, self.people.reset("backward")

    def finish(self) -> list[PersonActivity]:
        """The results of the images that still wait, at the end of the file."""
        while self._recorded:
            self.people.detections(self._recorded.pop())
        self.people.flush()
        return self._take()

    def _run(self, work: list[PersonWork]) -> None:
        self._shown(self.people.shown_ns)
        for item in work:
            self._batch.add(item.key, item.window)
        while self._batch.pending:
            for outcome in self._batch.run():
                if outcome.error is not None:
                    raise outcome.error
                if outcome.activity is not None:
                    result = PersonActivity.of(outcome.activity)
                    self._looked(result, self.people.recognizers[outcome.key].slot)
                    self._results.append(result)

    def _take(self) -> list[PersonActivity]:
        results, self._results = self._results, []
        return results
