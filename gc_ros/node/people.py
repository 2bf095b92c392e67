# SPDX-License-Identifier: Apache-2.0
"""The people in front of one camera of the node: their recognisers, detections, results, and what /diagnostics says.

Images come from the camera, detections from their `PeopleInput`. Either makes work due, which goes to the inference
thread beside that of the whole picture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode

from gc_ros.media.detections import Detections
from gc_ros.media.images import Picture
from gc_ros.node import graph
from gc_ros.node.diagnostics import REFUSED_S, Recent, Status
from gc_ros.node.people_diagnostics import PeopleFacts, judge_people
from gc_ros.node.people_input import PeopleInput
from gc_ros.node.people_results import PeopleResults, Present
from gc_ros.node.results import Job, Results
from gc_ros.recognition.intake import Window
from gc_ros.recognition.people import People, PersonWork

_WITHOUT = ("no detections yet", "detections too old", "detections too new")  # why an image shows nobody


@dataclass(frozen=True)
class PersonJob:
    """Work of one person for the inference thread."""

    window: Window


Jobs = Mapping[str, Job | PersonJob]  # by the keys of the recognisers


class CameraPeople:
    """prefix: of the camera's topics, "" or "front/". setting: the value of a parameter of the node.

    results: those of the picture. submit: hands work to the inference thread. size: width and height of the newest
    image, None before the first.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        people: People,
        results: Results,
        submit: Callable[[Jobs], None],
        setting: Callable[[str], Any],
        size: Callable[[], tuple[int, int] | None],
    ) -> None:
        self._node, self.people, self._submit, self._setting = node, people, submit, setting
        self._picture = results
        self.input = PeopleInput(node, prefix, setting, self._take, size, lambda: results.frame_id)
        gestures = self.input.family.read is None  # ids are bodies of REP-155
        self.results = PeopleResults(node, prefix, results, setting, self._present, gestures)
        # Frames are released by images and by detections: their work must reach the thread in the same order.
        self._ordered = threading.Lock()
        self._shown = 0
        self._held: dict[str, Job] = {}  # the picture's own work, while its people are waited for
        self._lately = {name: Recent(REFUSED_S) for name in ("images", "without", "others")}
        self._before = people.counters()
        people.log_events(self.results.log)
        self._others_before = 0

    # -- life ------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """Take detections from now on."""
        self.input.subscribe()

    def unsubscribe(self) -> None:
        """Take no more detections."""
        self.input.unsubscribe()

    def reset(self, reason: str) -> None:
        """Forget everybody."""
        with self._ordered:
            self._held.clear()
            self.people.reset(reason)
        self.results.publish_events()
        self.results.forget()

    def destroy(self) -> None:
        """Remove the topics from the graph."""
        self.input.unsubscribe()
        self.results.destroy()

    # -- images and detections -------------------------------------------------------------------------------

    def offer(
        self, picture: Picture, stamp_ns: int, encoding: str, asked: int, jobs: Mapping[str, Job]
    ) -> None:
        """Give the recognisers an image. In the executor's thread, or that which decodes. jobs: of the picture."""
        with self._ordered:
            if not self._held.keys().isdisjoint(jobs):
                # Its people are looked for less often than the picture is due; it goes on without them.
                self._submit(dict(self._held))
                self._held.clear()
            self._held.update(jobs)
            self._hand_over(self.people.offer(picture, stamp_ns, encoding=encoding, asked=asked))

    def _take(self, found: Detections) -> None:
        with self._ordered:
            self._hand_over(self.people.detections(found))

    def _hand_over(self, due: Sequence[PersonWork]) -> None:
        self.results.publish_events()
        shown, self._shown = self._shown, self.people.shown
        if shown != self._shown or not self.people.present:
            # In one engine call: apart, the people would wait for the picture's. While somebody is there, it waits.
            jobs: dict[str, Job | PersonJob] = {work.key: PersonJob(work.window) for work in due}
            jobs |= self._held
            self._held.clear()
            if jobs:
                self._submit(jobs)
        self.results.settle()

    def _present(self) -> Present:
        present = self.people.present
        warming_up = tuple(who for who, (n, T) in present.items() if n < T)
        return Present(tuple(present), warming_up, self.people.without_slot, self.people.shown_ns)

    # -- diagnostics -----------------------------------------------------------------------------------------

    def diagnose(self, active: bool, enabled: bool) -> Status:
        """Level, message and values, asked once a second."""
        publishers, elsewhere = graph.Publishers(), []
        silent = self.input.silent_s
        if silent is not None and silent > self._setting("stall_timeout_s"):
            publishers = graph.publishers_of(self._node, self.input.topic, self.input.family.type_name)
            if not publishers.fitting:
                elsewhere = graph.topics_of(self._node, self.input.family.type_name)
        counts = self._note_counts()
        present = self._present()
        behind_s = self.people.behind_s
        facts = PeopleFacts(
            topic=self.input.topic,
            remap=self.input.name,
            type_name=self.input.family.type_name,
            active=active,
            enabled=enabled,
            publishers=publishers.fitting,
            other_types=publishers.other_types,
            reliable_enough=publishers.reliable_enough,
            elsewhere=elsewhere,
            silent_s=silent,
            stall_timeout_s=self._setting("stall_timeout_s"),
            messages=self.input.messages,
            detections=self.input.detections,
            others=self.input.others,
            detections_lately=self.input.lately["detections"].count,
            refused_lately={reason: lately.count for reason, lately in self.input.refused_lately.items()},
            other_frame=self.input.other_frame,
            frame_id=self._picture.frame_id,
            images_lately=self._lately["images"].count,
            without_lately=self._lately["without"].count,
            others_lately=self._lately["others"].count,
            max_age_s=self._setting("people_max_age_s"),
            present=present.ids,
            warming_up=present.warming_up,
            left_out=present.left_out,
            max_people=self._setting("max_people"),
            counts=counts,
            latency={
                "detections behind the images s": "n/a" if behind_s is None else f"{behind_s:.2f}",
                **self.results.latencies.values("age", "inference"),
            },
        )
        return judge_people(facts)

    def _note_counts(self) -> dict[str, int]:
        """All counts; what is new since the last report goes into the windows of the conditions."""
        before, now = self._before, self.people.counters()
        self._before = now
        self._lately["images"].add(now.frames_sampled - before.frames_sampled)
        self._lately["without"].add(
            sum(now.left_out.get(reason, 0) - before.left_out.get(reason, 0) for reason in _WITHOUT)
        )
        self._lately["others"].add(self.input.others - self._others_before)
        self._others_before = self.input.others
        return {
            **{f"detections refused: {reason}": n for reason, n in self.input.refused.items()},
            **{f"left out: {reason}": n for reason, n in now.left_out.items()},
            **{f"images dropped: {reason}": n for reason, n in now.dropped.items()},
            **{f"resets: {reason}": n for reason, n in now.resets.items()},
            "results": now.results,
            "windows skipped": now.windows_skipped,
        }
