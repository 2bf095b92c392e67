# SPDX-License-Identifier: Apache-2.0
"""predictions.mcap of people: what the node says on ~/people, ~/events and ~/annotations, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gc_ros.evaluation.predictions import ANNOTATIONS, NODE, Predictions, spoken
from gc_ros.recognition.palette import glimpse_colour, person_colour
from gc_ros.recognition.people import People, PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent

PEOPLE, PERSON = "glimpse_clouds/msg/PersonActivities", "glimpse_clouds/msg/PersonActivity"


class PeoplePredictions(Predictions):
    """Writes the newest result of everybody who is there, with each frame that has results."""

    RESULTS = ("people", PEOPLE)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._newest: dict[str, PersonActivity] = {}
        self._on: dict[str, ActivityEvent] = {}  # the onset of what each is doing

    def event(
        self, event: ActivityEvent, decided_ns: int, frame_id: str, log_ns: int, person: str = ""
    ) -> None:
        """Write an onset or offset of a person."""
        super().event(event, decided_ns, frame_id, log_ns, person)
        if event.kind == "onset":
            self._on[person] = event
        else:
            self._on.pop(person, None)

    def people(self, results: Sequence[PersonActivity], people: People, frame_id: str, log_ns: int) -> None:
        """Write the results of a frame, and its annotations of the image. Their events come first."""
        self._newest |= {result.person_id: result for result in results}
        present = people.present
        # As the node has it: what was said of an id before its window began again may be of somebody else.
        for who in self._newest.keys() - people.known:
            del self._newest[who]
            self._on.pop(who, None)
        newest = results[0].activity
        told = [self._newest[who] for who in sorted(self._newest)]
        message = self._make(
            PEOPLE,
            header=self._header(newest.stamp_ns, frame_id),
            image_width=newest.width,
            image_height=newest.height,
            people=[self._person(result, newest.stamp_ns) for result in told],
            warming_up=sorted(present.keys() - self._newest.keys()),
            left_out=sorted(people.without_slot),
            model_id=newest.model_id,
        )
        self._write(f"{NODE}/people", PEOPLE, message, log_ns)
        self._write(f"{NODE}/annotations", ANNOTATIONS, self._of_people(told, newest.stamp_ns), log_ns)

    def _person(self, result: PersonActivity, now_ns: int) -> Any:
        on, box, activity = self._on.get(result.person_id), result.box, result.activity
        return self._make(
            PERSON,
            person_id=result.person_id,
            x_min=box.x_min,
            y_min=box.y_min,
            x_max=box.x_max,
            y_max=box.y_max,
            activity="" if on is None else on.label,
            since=self._time(0 if on is None else on.stamp_ns),
            age_s=(now_ns - activity.stamp_ns) / 1e9,
            inference_s=activity.inference_s,
            **self._told(activity),
        )

    def _of_people(self, told: Sequence[PersonActivity], stamp_ns: int) -> Any:
        """Box, id and label of each, and thinner their glimpses."""
        outlines, texts = [], []
        for result in told:
            thick = max(result.activity.height / 160, 1.0)
            box, size = result.box, max(result.activity.height / 24, 8.0)
            outlines += [
                self._outline((g.x0, g.y0, g.x1, g.y1), glimpse_colour(i), thick / 2, stamp_ns)
                for i, g in enumerate(result.activity.glimpses)
            ]
            corners = (box.x_min, box.y_min, box.x_max, box.y_max)
            outlines.append(self._outline(corners, person_colour(result.person_id), thick, stamp_ns))
            place = box.x_min, max(box.y_min - size / 4, size)
            texts.append(self._text(f"{result.person_id} {spoken(result.activity)}", place, size, stamp_ns))
        return self._make(ANNOTATIONS, circles=[], points=outlines, texts=texts)
