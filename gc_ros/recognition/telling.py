# SPDX-License-Identifier: Apache-2.0
"""Results of a video as lines of text and as JSON. Times are seconds since the first frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gc_ros.media.kinds import printable
from gc_ros.recognition.activity import Activity, stream_label
from gc_ros.recognition.intake import Counters
from gc_ros.recognition.people import PeopleCounters, PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS


def result_line(result: Activity, zero_ns: int, who: str = "") -> str:
    """A result for people to read. zero_ns: stamp of the first frame. who: the id of the person, if it is one's."""
    others = ", ".join(f"{label} {score:.1%}" for label, _, score in result.top_k[1:3])
    status = "" if result.status == "ok" else f"  [{result.status}]"
    events = "".join(f"  <{event.kind} {event.label}>" for event in result.events)
    at = (result.stamp_ns - zero_ns) / NS
    return f"{at:9.3f} s  {who}{result.shown(result.label)} {result.score:.1%}{status}  ({others}){events}"


def result_json(result: Activity, zero_ns: int) -> dict[str, Any]:
    """A result for programs to read."""
    return {
        "type": "activity",
        "start_s": (result.window_start_ns - zero_ns) / NS,
        "end_s": (result.window_end_ns - zero_ns) / NS,
        "status": result.status,
        "label": result.label,
        "index": result.index,
        "score": result.score,
        "taught": result.label in result.taught,
        "top_k": [{"label": label, "index": index, "score": score} for label, index, score in result.top_k],
        "glimpses": [{"box": [g.x0, g.y0, g.x1, g.y1], "weights": list(g.weights)} for g in result.glimpses],
        "events": [event_json(event, zero_ns) for event in result.events],
        "timings_ms": result.timings_ms,
    }


def event_json(event: ActivityEvent, zero_ns: int) -> dict[str, Any]:
    """The beginning or end of an activity."""
    at = (event.stamp_ns - zero_ns) / NS
    return {"kind": event.kind, "label": event.label, "s": at, "score": event.score}


def person_json(result: PersonActivity, zero_ns: int) -> dict[str, Any]:
    """A person's result: as of the whole picture, and who and where it is, in pixels of the image."""
    box = result.box
    return {
        **result_json(result.activity, zero_ns),
        "type": "person",
        "person": result.person_id,
        "box": [box.x_min, box.y_min, box.x_max, box.y_max],
    }


def ended_json(who: str, event: ActivityEvent, zero_ns: int) -> dict[str, Any]:
    """An activity that ended without a result: the person left, the window began again, or the video ended.

    who: "" for the whole picture.
    """
    return {"type": "event", **({"person": who} if who else {}), **event_json(event, zero_ns)}


def ended_line(who: str, event: ActivityEvent, zero_ns: int) -> str:
    """The same for people to read."""
    at = (event.stamp_ns - zero_ns) / NS
    return f"{at:9.3f} s  {f'{printable(who)}: ' if who else ''}<{event.kind} {event.label}>"


def breaks(resets: Mapping[str, int]) -> dict[str, int]:
    """Resets by reason, in order, without the end of the file, which is none."""
    return {reason: n for reason, n in sorted(resets.items()) if reason != "end"}


def stream_json(
    source: str, results: Sequence[Activity], seconds: float, counters: Counters, engine: str
) -> dict[str, Any]:
    """The whole video: its label by the mean of all results, and what happened to its frames."""
    label, scores = stream_label(results)
    return {
        "type": "stream",
        "source": source,
        "label": label,
        "score": float(scores.max()),
        "scores": dict(zip(results[-1].labels, scores.tolist(), strict=True)),
        "results": len(results),
        "seconds": seconds,
        "frames_in": counters.frames_received,
        "frames_sampled": counters.frames_sampled,
        "dropped": counters.dropped,
        "resets": breaks(counters.resets),
        "model_id": results[-1].model_id,
        "engine": engine,
    }


def by_person(results: Sequence[PersonActivity]) -> dict[str, list[Activity]]:
    """The results of each person, in the order in which they came into view."""
    found: dict[str, list[Activity]] = {}
    for result in results:
        found.setdefault(result.person_id, []).append(result.activity)
    return found


def people_json(
    source: str, results: Sequence[PersonActivity], seconds: float, counters: PeopleCounters, engine: str
) -> dict[str, Any]:
    """The whole video: a label for each person, and what happened to frames and boxes."""
    people = []
    for who, own in by_person(results).items():
        label, scores = stream_label(own)
        people.append(
            {
                "person": who,
                "label": label,
                "score": float(scores.max()),
                "scores": dict(zip(own[-1].labels, scores.tolist(), strict=True)),
                "results": len(own),
            }
        )
    return {
        "type": "stream",
        "source": source,
        "people": people,
        "results": len(results),
        "seconds": seconds,
        "frames_in": counters.frames_received,
        "frames_sampled": counters.frames_sampled,
        "dropped": counters.dropped,
        "left_out": counters.left_out,
        "resets": breaks(counters.resets),
        "model_id": results[-1].activity.model_id,
        "engine": engine,
    }
