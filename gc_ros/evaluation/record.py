# SPDX-License-Identifier: Apache-2.0
"""bag.json: the facts of one bag, its events and truth in seconds since its first image, and what they depend on."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gc_ros.evaluation.people_reading import PeopleReading
from gc_ros.evaluation.reading import Reading
from gc_ros.evaluation.sources import Source
from gc_ros.evaluation.truth import IDLE, Span
from gc_ros.recognition.telling import breaks
from gc_ros.stamps import NS
from trt_build.bundle import file_sha256


def bag_record(
    source: Source,
    reading: Reading | PeopleReading,
    spans: list[Span],
    *,
    key: str,
    windows: Path,
    files: list[list[Any]],
    bag_sha256: str,
    bundle_digest: str,
    engine: str,
    missed: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The content of bag.json. spans: the ground truth on the clock of the stamps. windows: the finished file.

    key: what the result depends on, the bag's content aside. files: as `Source.quick` has them.
    engine: its description. missed: who did what and got no result, by label, where people are told apart.
    """
    judge, frames, info = reading.judge, reading.frames, reading.bundle.info
    zero_ns = reading.passes[0].first_ns
    people = {}
    if isinstance(reading, PeopleReading):
        origin = reading.origin or ", ".join(reading.frames.people_topics)
        left_out = reading.left_out()
        people = {
            "people": {"origin": origin, "left_out": left_out, "missed": dict(sorted((missed or {}).items()))}
        }
    return {
        **people,
        "name": source.name,
        "key": key,
        "files": files,
        "windows_sha256": file_sha256(windows),
        "labels": list(judge.labels),
        "topic": frames.topic,
        "start_ns": zero_ns,
        "passes": [
            {"start_s": (p.first_ns - zero_ns) / NS, "end_s": (p.last_ns - zero_ns) / NS}
            for p in reading.passes
        ],
        "seconds_seen": reading.seconds_seen,
        "counts": _counts(reading),
        "refused": dict(sorted(frames.refused.items())),
        "damage": [line[:300] for line in frames.damage[:50]],
        "truth": {
            "kind": judge.truth.kind,
            "origin": judge.truth.origin,
            "remark": judge.truth.remark,
            "segments": judge.recorded_segments(spans, reading.passes, zero_ns, bool(people)),
            "labels": {k: "idle" if v == IDLE else v for k, v in sorted(judge.map.seen.items())},
        },
        "events": [
            {**e, "s": (e["stamp_ns"] - zero_ns) / NS, "decided_s": (e["decided_ns"] - zero_ns) / NS}
            for e in reading.events
        ],
        "provenance": {
            "bag_sha256": bag_sha256,
            "bundle_json_sha256": bundle_digest,
            "model_id": info.model_id,
            "engine": engine,
            "options": reading.options.as_json(),
        },
        "timings": {
            **reading.spent,
            "host": platform.node(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }


def _counts(reading: Reading | PeopleReading) -> dict[str, Any]:
    counters, frames = reading.counters(), reading.frames
    return {
        "images": frames.images,
        "images_refused": sum(frames.refused.values()),
        "zero_stamps": frames.zero_stamps,
        "frames_sampled": counters.frames_sampled,
        "frames_dropped": dict(sorted(counters.dropped.items())),
        "resets": breaks(counters.resets),
        "windows": reading.windows,
        "windows_skipped": counters.windows_skipped,
    }
