# SPDX-License-Identifier: Apache-2.0
"""What `gc-ros video` says and draws of a video, frame by frame: of the whole picture, or of everybody in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.detector import Finder
from gc_ros.media.images import Picture
from gc_ros.media.kinds import printable
from gc_ros.recognition.activity import Activity, stream_label
from gc_ros.recognition.following import Following, in_order
from gc_ros.recognition.overlay import Banner, draw
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.people_overlay import draw_people
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.sampler import Sampler
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.recognition.telling import (
    by_person,
    ended_json,
    ended_line,
    people_json,
    person_json,
    result_json,
    result_line,
    stream_json,
)
from trt_build.bundle import Bundle
from trt_build.command import counted


def _breaks(info: Bundle, resets: Mapping[str, int], what: str = "images") -> str:
    """What breaks in a video mean, where it gave no result. what: must come often enough."""
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(resets.items()))
    return (
        f" without a break, but there are breaks ({reasons}); give a clip whose {what} are at most "
        f"{Sampler(info.rate_hz).max_frame_gap_s:.2g} s apart, in order and of one size"
    )


class Whole:
    """The activity of the whole picture. results: all so far."""

    def __init__(self, recognizer: Recognizer, zero_ns: int) -> None:
        self._recognizer, self._zero_ns = recognizer, zero_ns
        self._banner = Banner()
        self.results: list[Activity] = []

    def take(self, image: NDArray[np.uint8], stamp_ns: int, as_json: bool) -> list[Any]:
        """What a frame makes known, as lines or as JSON."""
        result = self._recognizer.push(image, stamp_ns, bgr=False)
        if result is None:
            return self._ended(self._recognizer.take_events(), stamp_ns, as_json)
        self.results.append(result)
        self._banner.add(result.events, stamp_ns)
        return [result_json(result, self._zero_ns) if as_json else result_line(result, self._zero_ns)]

    def finish(self, as_json: bool) -> list[Any]:
        """What the end makes known."""
        return self._ended(self._recognizer.reset("end"), 0, as_json) if self.results else []

    def _ended(self, events: Sequence[ActivityEvent], stamp_ns: int, as_json: bool) -> list[Any]:
        self._banner.add(events, stamp_ns)
        say = ended_json if as_json else ended_line
        return [say("", event, self._zero_ns) for event in events]

    def picture(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """The frame with the newest result; that of before a break says nothing of what is seen now."""
        n, T = self._recognizer.warmup
        result = self.results[-1] if self.results and n == T else None
        return draw(
            image, result, event=self._banner.at(stamp_ns), warmup=None if result is not None else (n, T)
        )

    def why_none(self, seconds: float) -> str:
        """Why a video of this length gave no result."""
        info, counts = self._recognizer.info, self._recognizer.counters()
        needed = (
            f"{counted(counts.frames_sampled, 'frame')} sampled in {seconds:.2f} s, a window needs "
            f"{counted(info.T, 'frame')} at {info.rate_hz:g} Hz, {info.window_s:.2g} s"
        )
        return f"{needed}; give a longer clip" if not counts.resets else needed + _breaks(info, counts.resets)

    def as_json(self, source: str, seconds: float, engine: str) -> dict[str, Any]:
        """The whole video."""
        return stream_json(source, self.results, seconds, self._recognizer.counters(), engine)

    def as_text(self, how_long: str) -> list[str]:
        """The whole video, in lines."""
        label, scores = stream_label(self.results)
        return [
            f"stream: {label} {float(scores.max()):.1%} (mean of {counted(len(self.results), 'result')} {how_long})"
        ]

    def close(self) -> None:
        """Take nothing more."""
        self._recognizer.close()


class Everybody:
    """The activity of each person. finder: who says who is where, else it is known beforehand. results: all so far."""

    def __init__(self, following: Following, finder: Finder | None, zero_ns: int) -> None:
        self._following, self._finder, self._zero_ns = following, finder, zero_ns
        self.results: list[PersonActivity] = []
        self._newest: dict[str, PersonActivity] = {}

    def take(self, image: NDArray[np.uint8], stamp_ns: int, as_json: bool) -> list[Any]:
        """What a frame makes known, as lines or as JSON."""
        found = self._following.push(Picture.of(image, False), stamp_ns)
        if self._finder is not None:
            found += self._following.detections(self._finder(image, stamp_ns))
        return self._say(found, as_json)

    def finish(self, as_json: bool) -> list[Any]:
        """What the end makes known."""
        told = self._say(self._following.finish(), as_json)
        if not self.results:
            return told
        ended = self._following.people.reset("end")
        return told + [self._say_ended(who, event, as_json) for who, event in ended]

    def _say(self, found: list[PersonActivity], as_json: bool) -> list[Any]:
        self.results += found
        self._newest |= {result.person_id: result for result in found}
        told = []
        for item in in_order(found, self._following.people.take_events()):
            if not isinstance(item, PersonActivity):
                told.append(self._say_ended(*item, as_json))
            elif as_json:
                told.append(person_json(item, self._zero_ns))
            else:
                told.append(result_line(item.activity, self._zero_ns, f"{printable(item.person_id)}: "))
        return told

    def _say_ended(self, who: str, event: ActivityEvent, as_json: bool) -> Any:
        return (ended_json if as_json else ended_line)(who, event, self._zero_ns)

    def picture(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """The frame with the newest result of each person in it, where the person is now."""
        boxes = self._following.people.boxes(stamp_ns)
        # What was said of an id before its window began again may be of somebody else.
        for who in self._newest.keys() - self._following.people.known:
            del self._newest[who]
        shown = [replace(self._newest[who], box=box) for who, box in boxes.items() if who in self._newest]
        return draw_people(image, shown)

    def why_none(self, seconds: float) -> str:
        """Why a video of this length gave no result."""
        counts, info = self._following.people.counters(), self._following.people.info
        left_out = ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.left_out.items()))
        return (
            f"nobody was in {counted(info.T, 'frame')} at {info.rate_hz:g} Hz, {info.window_s:.2g} s, of the "
            f"{counted(counts.frames_sampled, 'frame')} sampled in {seconds:.2f} s"
            + (f" (left out: {left_out})" if left_out else "")
            + (
                _breaks(info, counts.resets, "images, and each person's boxes,")
                if counts.resets
                else "; check the boxes, or give a longer clip"
            )
        )

    def as_json(self, source: str, seconds: float, engine: str) -> dict[str, Any]:
        """The whole video."""
        return people_json(source, self.results, seconds, self._following.people.counters(), engine)

    def as_text(self, how_long: str) -> list[str]:
        """The whole video, in lines."""
        lines = []
        for who, own in by_person(self.results).items():
            label, scores = stream_label(own)
            lines.append(
                f"{printable(who)}: {label} {float(scores.max()):.1%} (mean of {counted(len(own), 'result')})"
            )
        left_out = sorted(self._following.people.counters().left_out.items())
        lines += [f"left out: {reason}: {n}" for reason, n in left_out]
        return [
            *lines,
            f"stream: {counted(len(by_person(self.results)), 'person', 'people')}, "
            f"{counted(len(self.results), 'result')} {how_long}",
        ]

    def close(self) -> None:
        """Take nothing more."""
        self._following.people.close()
