# SPDX-License-Identifier: Apache-2.0
"""What `People` says of people: their work, their results, its counts. Plain values, no ROS."""

from __future__ import annotations

from dataclasses import dataclass

from gc_ros.media.detections import Box
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.intake import Window
from gc_ros.recognition.region import Person


@dataclass(frozen=True)
class PersonWork:
    """Work for the `Batch`. key: of the recogniser. person: whom the newest frame shows."""

    key: str
    window: Window
    person: Person


@dataclass(frozen=True)
class PersonActivity:
    """What one person does. box: in the newest frame; the activity's glimpses are in pixels of the image, too."""

    person_id: str
    box: Box
    activity: Activity

    @classmethod
    def of(cls, activity: Activity) -> PersonActivity:
        """The result of a person's work."""
        assert activity.person is not None
        return cls(activity.person.id, activity.person.box, activity)


@dataclass(frozen=True)
class PeopleCounters:
    """Counts since the start, by reason where there are several.

    frames_sampled: chosen frames. dropped: frames of no use. left_out: boxes and messages that were not used, and
    chosen frames for which there were no detections. resets: of all people's windows together.
    """

    frames_received: int
    frames_sampled: int
    dropped: dict[str, int]
    left_out: dict[str, int]
    resets: dict[str, int]
    results: int
    windows_skipped: int
