# SPDX-License-Identifier: Apache-2.0
"""Bags spread over this process, local processes, or a Dask cluster; each ends as a record or as a reason."""

from __future__ import annotations

import errno
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from gc_ros.evaluation import results
from gc_ros.evaluation.running import Task, evaluate_bag
from trt_build.command import os_error_line
from trt_build.errors import DataError, GlimpseError, need
from trt_build.files import NO_ROOM
from trt_build.install import extra
from trt_build.pool import check_start, end_with_parent, killed

Outcome = tuple[int, dict[str, Any] | None, str]  # number of the task, bag.json or None, what went wrong
_TRIES = 2  # of a bag whose process was killed
_DISK = NO_ROOM | {errno.EROFS}


class OutputError(DataError):
    """Results cannot be written, which stops the evaluation: the next bag would fail too."""


def run_tasks(
    todo: Sequence[tuple[int, Task]], jobs: int, dask: str | None, images: Callable[[int], None] | None
) -> Iterator[Outcome]:
    """Evaluate the tasks and yield outcomes as they finish; arguments as in `evaluate_many`. Raises OutputError."""
    if dask is not None:
        yield from _on_dask(todo, dask)
    elif jobs == 1:
        for i, task in todo:
            yield (i, *attempt(task, images))
    else:
        yield from _in_processes(todo, jobs)


def attempt(task: Task, images: Callable[[int], None] | None = None) -> tuple[dict[str, Any] | None, str]:
    """Evaluate a bag and return (bag.json, ""), or (None, reason) so that the other bags are still evaluated.

    Raises OutputError where its results cannot be written.
    """
    try:
        return evaluate_bag(task, images), ""
    except GlimpseError as error:
        return None, str(error)
    except OSError as error:
        place = Path(str(error.filename or ""))
        of_output = place.is_relative_to(task.folder) and not place.is_relative_to(task.source.path)
        if error.errno in _DISK or of_output:
            error.filename = error.filename or task.folder
            raise OutputError(os_error_line(error)) from None
        return None, f"{task.source.path}: {os_error_line(error)}"
    except Exception as error:  # a bag may hold anything; the other bags are still evaluated
        return None, f"{task.source.path}: {type(error).__name__}: {' '.join(str(error).split())}"


def _in_processes(todo: Sequence[tuple[int, Task]], jobs: int) -> Iterator[Outcome]:
    waiting = dict(todo)
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # engines' threads do not survive a fork
    for tries in range(_TRIES):
        pool = ProcessPoolExecutor(
            jobs if tries == 0 else 1, mp_context=context, initializer=_leave_ctrl_c_to_parent
        )
        try:
            if tries == 0:
                check_start(pool)
            futures = {pool.submit(attempt, task): i for i, task in waiting.items()}
            for future in as_completed(futures):
                record, problem = future.result()
                del waiting[futures[future]]
                yield futures[future], record, problem
        except BrokenProcessPool:
            continue
        except BaseException:  # Ctrl-C, or no room for results
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        break
    for i, task in waiting.items():
        yield i, None, killed(task.source.path, "the same command with --jobs 1 evaluates what is left")


def _leave_ctrl_c_to_parent() -> None:
    """In a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _on_dask(todo: Sequence[tuple[int, Task]], address: str) -> Iterator[Outcome]:
    distributed = need("distributed", extra("dask"))
    try:
        # What is no address at all would leave a client behind that cannot be closed.
        scheme, place = distributed.comm.parse_address(address)
        if scheme in ("tcp", "tls"):
            distributed.comm.addressing.parse_host_port(place)
        elif scheme not in distributed.comm.registry.backends:
            raise ValueError(f"unknown address scheme {scheme!r}")
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataError(f"no Dask scheduler at {address} ({error}); start one with: dask scheduler") from None
    with client:
        # Absolute, since a worker has its own directory. Not pure, since a result is also files.
        futures = {client.submit(attempt, _absolute(task), pure=False, retries=2): i for i, task in todo}
        tasks = dict(todo)
        for future in distributed.as_completed(list(futures), loop=client.loop):
            i = futures[future]
            try:
                record, problem = future.result()
            except OutputError:
                raise
            except Exception as error:
                record, problem = None, f"{tasks[i].source.path}: {' '.join(str(error).split())}"
            if record is not None and results.finished(Path(tasks[i].folder)) is None:
                record, problem = (
                    None,
                    f"{tasks[i].folder}: the workers do not write here; share the directory",
                )
            yield i, record, problem


def _absolute(task: Task) -> Task:
    """For a process with another directory. Links stay what they are: tables lie beside them."""
    o = task.options
    options = replace(
        o,
        truth=o.truth if o.truth in ("auto", "name", "none") else _place(o.truth),
        people=o.people if o.people in (None, "auto") else _place(o.people),
        true_boxes=o.true_boxes and _place(o.true_boxes),
        taught=o.taught and _place(o.taught),
    )
    pieces = tuple(piece.absolute() for piece in task.source.pieces)
    source = replace(task.source, path=task.source.path.absolute(), pieces=pieces)
    return replace(
        task, source=source, bundle=_place(task.bundle), folder=_place(task.folder), options=options, typed=o
    )


def _place(path: str) -> str:
    return path if path.startswith("topic:") else str(Path(path).absolute())
