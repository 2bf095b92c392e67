# SPDX-License-Identifier: Apache-2.0
"""`gc-model boxes`: boxes of the people in one's own clips, as one's own detector sees them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_model.data.frames import CacheError
from gc_ros.media.detections import Detections, boxes_of, write_csv
from gc_ros.media.detector import Detector, Finder
from trt_build.errors import DataError


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

    Returns {"clips", "made", "kept", "seen": share of frames with somebody in those made, "empty": clips without
    anybody, "damaged": {name: reason}}. Raises DataError for data or a detector that cannot be used.
    """
    from rich.progress import track

    clips = own.clips(data, subjects=subjects)
    Detector(detector, threads=1)  # its errors once, before the processes start
    missing = [c for c in clips if not boxes_of(out, c.name).is_file()]
    frames = seen = 0
    empty: list[str] = []
    damaged: dict[str, str] = {}
    spawn = multiprocessing.get_context("spawn")
    workers = min(workers or os.cpu_count() or 1, max(len(missing), 1))
    with ProcessPoolExecutor(max_workers=workers, mp_context=spawn) as pool:
        jobs = {pool.submit(find_people, c, boxes_of(out, c.name), detector): c for c in missing}
        for job in track(as_completed(jobs), "finding people", len(jobs), disable=not progress):
            name = jobs[job].name
            try:
                n, found = job.result()
            except DataError as error:
                damaged[name] = str(error)
                continue
            except BrokenProcessPool:
                raise CacheError(
                    f"a process was killed near {jobs[job].path}, often because memory ran out: "
                    "start again with --workers 1"
                ) from None
            frames, seen = frames + n, seen + found
            if not found:
                empty.append(name)
    return {
        "clips": len(clips),
        "made": len(missing) - len(damaged),
        "kept": len(clips) - len(missing),
        "seen": seen / frames if frames else 0.0,
        "empty": sorted(empty),
        "damaged": damaged,
    }


def find_people(clip: LabelledClip, table: Path, detector: Path) -> tuple[int, int]:
    """Write the table of one clip. Returns (frames, those with somebody). Raises DataError."""
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
