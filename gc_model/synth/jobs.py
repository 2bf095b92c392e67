# SPDX-License-Identifier: Apache-2.0
"""Drawing many clips at once: a process a core, each of which writes its own files.

DATA_SET/.synth.json says which clips of a data set were drawn here and as what, so that the same command may draw them
again, another one adds to them, and none replaces a clip that is not its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2

from trt_build import pool
from trt_build.command import progress_bar
from trt_build.errors import DataError
from trt_build.files import NO_ROOM, write_atomically

_DRAWN = ".synth.json"


class Drawing(Protocol):
    """A clip to draw.

    file: what it becomes, relative to the data set's root. drawn_as: all that its pictures depend on.
    """

    @property
    def file(self) -> str: ...

    @property
    def drawn_as(self) -> str: ...


J = TypeVar("J", bound=Drawing)
R = TypeVar("R")


def processes(workers: int | None) -> int:
    """How many there are to be: one for each core unless said. Raises DataError."""
    workers = workers if workers is not None else len(os.sched_getaffinity(0))
    if workers < 1:
        raise DataError(f"{workers} workers: give at least 1")
    return workers


def run_jobs(
    root: Path, jobs: Sequence[J], make: Callable[[Path, J], int], workers: int, progress: bool
) -> dict[J, int]:
    """Call make(root, job), which writes a clip and returns its number of frames, for each job; these numbers.

    make: a function of a module, for other processes find it by name. Raises DataError where nothing can be written,
    and where a clip of another command, or somebody else's, would be replaced.
    """
    # Small batches: a process is asked seldom, yet the last one does not keep the others waiting.
    step = max(1, min(8, len(jobs) // (workers * 4)))
    batches = [(root, jobs[i : i + step], make) for i in range(0, len(jobs), step)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        _claim(root, jobs)
        frames: dict[J, int] = {}
        for made in _run(batches, min(workers, len(batches)), progress, len(jobs), step):
            frames |= made
        return frames
    except OSError as error:
        raise cannot_write(root, error) from error


def _claim(root: Path, jobs: Sequence[J]) -> None:
    """Note that these clips are drawn here, before the first is: a run that is cut short can then be begun again."""
    ours = {job.file: hashlib.sha256(job.drawn_as.encode()).hexdigest()[:16] for job in jobs}
    noted = root / _DRAWN
    try:
        drawn = dict(json.loads(noted.read_text())) if noted.exists() else {}
    except (TypeError, ValueError):
        raise DataError(f"{noted}: damaged; draw into another folder, or remove this one first") from None
    for file, digest in ours.items():
        if (root / file).exists() and drawn.get(file) != digest:
            raise DataError(
                f"{root / file}: there already, and not drawn by this command; draw into another folder, "
                "or remove it first"
            )
    write_atomically(noted, json.dumps(drawn | ours, indent=0))


def cannot_write(root: Path, error: OSError) -> DataError:
    what = (
        "make room on its disk, or give another folder"
        if error.errno in NO_ROOM
        else "give a folder you may write to"
    )
    return DataError(f"cannot write under {root}: {error.strerror or error}; {what}")


def _make_all(argument: tuple[Path, Sequence[Any], Callable[[Path, Any], int]]) -> dict[Any, int]:
    root, jobs, make = argument
    cv2.setNumThreads(1)  # the processes are the parallelism
    return {job: make(root, job) for job in jobs}


def _run(batches: list, workers: int, progress: bool, total: int, step: int) -> Iterator[dict[Any, int]]:
    """The frames of each job, batch by batch as they finish."""
    if workers == 1:
        yield from _shown(map(_make_all, batches), progress, total, step)
        return
    with pool.processes(workers, len(batches)) as started:
        running = {started.submit(_make_all, batch): batch for batch in batches}
        yield from _shown(map(partial(_result, running), as_completed(running)), progress, total, step)


def _result(running: Mapping[Future[dict[Any, int]], Any], done: Future[dict[Any, int]]) -> dict[Any, int]:
    """Of a batch; drawn here where its process has died: a `multiprocessing.Pool` would wait for it for ever."""
    try:
        return done.result()
    except BrokenProcessPool:
        return _make_all(running[done])


def _shown(results: Iterable[R], progress: bool, total: int, step: int) -> Iterator[R]:
    if not progress:
        yield from results
        return
    with progress_bar() as bar:
        task, done = bar.add_task("clips", total=total), 0
        for result in results:
            done = min(done + step, total)
            bar.update(task, completed=done)
            yield result
