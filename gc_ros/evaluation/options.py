# SPDX-License-Identifier: Apache-2.0
"""The options of an evaluation: each changes results and is part of a result's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gc_ros.recognition.people import MAX_AGE_S, TIMEOUT_S
from gc_ros.recognition.smoothing import Smoothing
from trt_build.bundle import INFO_NAME, Bundle, file_sha256

_TIMES = ("people_max_age_s", "person_timeout_s")
EVALUATOR = 3  # increased when the same input gives other results


@dataclass(frozen=True)
class Options:
    """The options of an evaluation.

    topic: None = the only image topic. stamps: "header", or "log" for the times of recording.
    truth: "auto", "none", "name", "topic:/NAME", a CSV file or a folder of them.
    truth_time: "header" or "bag", the clock of the CSV's times.
    mapping: bundle label (or "idle") by label of the ground truth, where names differ.
    min_overlap: share of a window that a label must cover for the window to be scored with it.
    simulate_latency_s: None = nothing is dropped, else seconds one engine call takes on the robot.
    people: where the boxes of people are, as of `--people`; None = the whole picture. true_boxes: a CSV, or a folder of
        them, of where people really stood; None = in those boxes, under their ids. max_people: how many at once.
        person_margin: of the squares around them; None = the bundle's. people_max_age_s, person_timeout_s: of `People`.
    """

    topic: str | None = None
    stamps: str = "header"
    truth: str = "auto"
    truth_time: str = "header"
    mapping: dict[str, str] = field(default_factory=dict)
    min_overlap: float = 0.5
    mode: str | None = None
    stride: int = 1
    backend: str = "auto"
    precision: str = "auto"  # as `open_engine` takes it
    device: str = "cpu"
    threads: int | None = None
    unknown_threshold: float | None = None
    max_frame_gap_s: float | None = None
    smoothing: Smoothing = field(default_factory=Smoothing)
    simulate_latency_s: float | None = None
    predictions: str = "beside"  # predictions.mcap without images, "merged" with them, or "none"
    pictures: int = 12  # strips of the worst windows of each bag
    people: str | None = None
    true_boxes: str | None = None
    max_people: int = 4
    person_margin: float | None = None
    people_max_age_s: float = MAX_AGE_S
    person_timeout_s: float = TIMEOUT_S
    taught: str = ""  # folder of what the bundle was taught; "": nothing
    taught_sha256: str = ""  # of its taught.json
    taught_labels: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, as records of results hold them."""
        s = self.smoothing
        # Records have always called the thresholds `on` and `off`.
        kept = {"tau_s": s.tau_s, "on": s.onset, "off": s.offset, "min_duration_s": s.min_duration_s}
        values = {**asdict(self), "smoothing": kept}
        # Records without people, or without what was taught, are as they have always been.
        if self.people is None:
            for name in ("people", "true_boxes", "max_people", "person_margin", *_TIMES):
                del values[name]
        elif (self.people_max_age_s, self.person_timeout_s) == (MAX_AGE_S, TIMEOUT_S):
            for name in _TIMES:  # of people, from before the two could be given
                del values[name]
        # What was taught is what it is wherever it lies.
        del values["taught"]
        return values if self.taught else {k: v for k, v in values.items() if not k.startswith("taught")}

    def labels(self, info: Bundle) -> list[str]:
        """The bundle's, then those that were taught."""
        return [*info.labels, *self.taught_labels]


def bundle_digest(bundle: Path) -> str:
    """sha256 of bundle.json, which holds the hashes of all other files."""
    return file_sha256(bundle / INFO_NAME)


def result_key(bundle: str, options: Options, truth_sha256: str | None) -> str:
    """A digest of what a result depends on, except for the bag: bundle, options, truth and EVALUATOR."""
    what = [EVALUATOR, bundle, options.as_json(), truth_sha256]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
