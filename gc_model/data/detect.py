# SPDX-License-Identifier: Apache-2.0
"""`gc-model boxes`: boxes of the people in one's own clips, as one's own detector sees them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_model.data.tables import gather
from gc_ros.media.detections import Detections, boxes_of, write_csv
from gc_ros.media.detector import Detector, Finder
from trt_build.files import demand_place
from trt_build.pool import processes


def detect(
    data: Path,
    out: Path,
    detector: Path,
    *,
    subjects: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a table of boxes below `out` for every clip of `data` that has none there yet.

    Returns what `gather` does. Raises DataError for data or a detector that cannot be used, and where two clips would
    share a table.
    """
    clips = own.clips_for_tables(data, subjects, [partial(boxes_of, out)])
    Detector(detector, threads=1)  # its errors once, before the processes start
    missing = [c for c in clips if not boxes_of(out, c.name).is_file()]
    if missing:
        demand_place(out)
    with processes(workers, len(missing)) as pool:
        jobs = {pool.submit(find_people, c, boxes_of(out, c.name), detector): c for c in missing}
        return gather(clips, jobs, "finding people", progress)


def find_people(clip: LabelledClip, table: Path, detector: Path) -> tuple[int, int]:
    """Write the boxes of everybody in a clip. Returns (frames, frames with somebody). Raises DataError."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    finder = Finder(Detector(detector, threads=1))
    found: list[Detections] = []
    start: int | None = None
    for image, stamp_ns in clip.read(clip.path):
        start = stamp_ns if start is None else start
        found.append(finder(image, stamp_ns - start))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, found)
    return len(found), sum(bool(now.people) for now in found)
