# SPDX-License-Identifier: Apache-2.0
"""Figures of activities as segments of time: edit score, F1 at an overlap, delays, false activations.

Edit score and F1 as Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection" (CVPR 2017),
over the activities alone: idle time is not a segment. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gc_ros.evaluation.truth import Segment

OVERLAPS = (0.1, 0.25, 0.5)


def predicted_segments(events: Sequence[dict[str, Any]]) -> list[Segment]:
    """The activities that were on, from onset to offset, in order."""
    segments: list[Segment] = []
    begun: dict[str, float] = {}
    for event in events:
        if event["kind"] == "onset":
            begun[event["label"]] = event["s"]
        elif event["label"] in begun:
            segments.append(Segment(begun.pop(event["label"]), event["s"], event["label"]))
    return segments


def edit_score(truth: Sequence[str], found: Sequence[str]) -> float:
    """1 - Levenshtein distance / longer length; 1 for two empty sequences."""
    if not truth and not found:
        return 1.0
    row = list(range(len(found) + 1))
    for i, a in enumerate(truth, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(found, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return 1 - row[-1] / max(len(truth), len(found))


def matches(truth: Sequence[Segment], found: Sequence[Segment], overlap: float) -> tuple[int, int, int]:
    """Count (true positives, false positives, false negatives); a segment of the truth is matched at most once."""
    taken: set[int] = set()
    hits = 0
    for segment in found:
        best, score = -1, 0.0
        for i, other in enumerate(truth):
            if other.label == segment.label:
                union = max(segment.end, other.end) - min(segment.start, other.start)
                shared = min(segment.end, other.end) - max(segment.start, other.start)
                value = shared / union if union > 0 else float(shared == 0)
                if value > score:
                    best, score = i, value
        if best >= 0 and score >= overlap and best not in taken:
            taken.add(best)
            hits += 1
    return hits, len(found) - hits, len(truth) - hits


def onset_delays(
    truth: Sequence[Segment], events: Sequence[dict[str, Any]], late_s: float
) -> list[float | None]:
    """The seconds from each segment's start to the decision for it; None where there was none.

    A decision counts up to `late_s` after the segment's end: a window has to fill first.
    """
    delays: list[float | None] = []
    used: set[int] = set()
    for segment in truth:
        delays.append(None)
        for i, event in enumerate(events):
            inside = segment.start <= event["decided_s"] <= segment.end + late_s
            if i not in used and event["kind"] == "onset" and event["label"] == segment.label and inside:
                used.add(i)
                delays[-1] = event["decided_s"] - segment.start
                break
    return delays


def false_activations(truth: Sequence[Segment], events: Sequence[dict[str, Any]], late_s: float) -> int:
    """Count onsets of a label that is not done then and was not within `late_s` before."""
    return sum(
        event["kind"] == "onset"
        and not any(s.label == event["label"] and s.start <= event["s"] <= s.end + late_s for s in truth)
        for event in events
    )
