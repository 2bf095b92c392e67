# SPDX-License-Identifier: Apache-2.0
"""Tables of joints or boxes made from one's own clips: what came of all clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from gc_model.data.clip import LabelledClip
from gc_model.data.frames import CacheError
from trt_build.errors import DataError
from trt_build.pool import killed


def gather(
    clips: Sequence[LabelledClip],
    jobs: Mapping[Future[tuple[int, int]], LabelledClip],
    what: str,
    progress: bool,
) -> dict[str, Any]:
    """Wait for the jobs, one for each clip that had no table; each returns (frames, frames with somebody in them).

    Returns {"clips", "made", "kept", "seen": share of frames with somebody in those made, None where none was, "empty":
    clips without anybody, "damaged": {name: reason}}. Raises CacheError where a process was killed.
    """
    from rich.progress import track

    frames = seen = 0
    empty: list[str] = []
    damaged: dict[str, str] = {}
    for job in track(as_completed(jobs), what, len(jobs), disable=not progress):
        name = jobs[job].name
        try:
            n, found = job.result()
        except DataError as error:
            damaged[name] = str(error)
            continue
        except BrokenProcessPool:
            remedy = "the same command with --workers 1 continues"
            raise CacheError(killed(jobs[job].path, remedy)) from None
        frames, seen = frames + n, seen + found
        if not found:
            empty.append(name)
    return {
        "clips": len(clips),
        "made": len(jobs) - len(damaged),
        "kept": len(clips) - len(jobs),
        "seen": seen / frames if frames else None,
        "empty": sorted(empty),
        "damaged": damaged,
    }
