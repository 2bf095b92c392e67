# SPDX-License-Identifier: Apache-2.0
"""What the recogniser says: plain values, no ROS. Stamps are int nanoseconds, times are seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.region import Person
from gc_ros.recognition.smoothing import ActivityEvent
from trt_build.bundle import Bundle
from trt_build.errors import DataError
from trt_build.preprocess import glimpse_to_pixels


@dataclass(frozen=True)
class Glimpse:
    """Where one glimpse looks, and how much each worker takes from it.

    x0, y0, x1, y1: a box in pixels of the original image, clipped to it. weights: one a worker (C); over the glimpses
    of a frame each worker's weights sum to 1.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Activity:
    """One result: the activity in the window of T sampled frames that ends with the newest one.

    score: calibrated probability of `label`. status: "unknown" where the score is below the open-set threshold, or the
    window is none of what was taught (label and index still name the best class then); a caller that knows the time may
    replace it by "late".
    """

    stamp_ns: int  # of the newest frame; equals window_end_ns
    window_start_ns: int
    window_end_ns: int
    status: Literal["ok", "unknown", "late"]
    label: str
    index: int
    score: float
    top_k: list[tuple[str, int, float]]  # (label, index, score), best first
    # (K,), sums to 1; less where none-of-these was taught and takes a share.
    scores: NDArray[Any] = field(repr=False)
    logits: NDArray[Any] = field(repr=False)  # of the bundle's labels
    labels: list[str] = field(repr=False)  # all K: the bundle's, then those that were taught
    glimpses: list[Glimpse]  # of the newest frame
    preprocess_s: float  # of the newest frame
    inference_s: float  # of the engine calls of this result
    frames_received: int  # all counts are since the recogniser was made
    frames_dropped: int
    windows_skipped: int  # results that were due but overtaken by a newer window
    model_id: str
    width: int  # of the original image, pixels
    height: int
    events: list[ActivityEvent] = field(default_factory=list)
    features: NDArray[Any] | None = field(default=None, repr=False)  # (F,), what new activities are taught by
    person: Person | None = None  # who does it, in the newest frame; None: the whole picture
    taught: tuple[str, ...] = ()  # the labels that were taught, the last ones of `labels`

    def shown(self, label: str) -> str:
        """A label as people read it: one that was taught says so."""
        return f"{label} (taught)" if label in self.taught else label

    @property
    def timings_ms(self) -> dict[str, float]:
        """The times as rows of JSON show them, milliseconds."""
        return {"preprocess": self.preprocess_s * 1e3, "inference": self.inference_s * 1e3}

    @property
    def assignment(self) -> NDArray[np.float64]:
        """Weight of glimpse g for worker c in the newest frame, (C, G)."""
        return np.array([glimpse.weights for glimpse in self.glimpses], np.float64).T

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of all that the workers take which comes from each glimpse, (G,)."""
        weights = self.assignment
        return np.asarray(weights.sum(axis=0) / max(float(weights.sum()), 1e-9))

    @property
    def spoken(self) -> str:
        """The label as it is shown: an unknown activity has none, the best guess would read as a statement."""
        return "unknown" if self.status == "unknown" else self.label


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Calibrated probabilities (K,) of logits (K,)."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def top_k(scores: NDArray[Any], labels: list[str], k: int) -> list[tuple[str, int, float]]:
    """The k best as (label, index, score), best first, equal scores in label order."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [(labels[i], int(i), float(scores[i])) for i in order]


def to_glimpses(
    glimpses: NDArray[Any],
    assignment: NDArray[Any],
    width: int,
    height: int,
    info: Bundle,
    person: Person | None = None,
) -> list[Glimpse]:
    """One frame's glimpses (G, 4) and assignment (C, G) as boxes in pixels of the original image.

    person: whose region the network saw, None for the whole picture.
    """
    area = None if person is None else person.area
    boxes = glimpse_to_pixels(glimpses, width, height, info.preprocess, area)
    result = []
    for g, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        result.append(Glimpse(x0, y0, x1, y1, tuple(assignment[:, g].tolist())))
    return result


def stream_label(activities: Iterable[Activity]) -> tuple[str, NDArray[np.float64]]:
    """One label for a whole stream: the class of the largest mean score over its results.

    Returns (label, mean scores (K,)). Raises DataError when there is no result.
    """
    results = list(activities)
    if not results:
        raise DataError("the stream gave no result; it must cover at least one window of the model")
    mean = np.mean([result.scores for result in results], axis=0)
    return results[0].labels[int(np.argmax(mean))], mean
