# SPDX-License-Identifier: Apache-2.0
"""The hidden folder in which a bag is written until it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_build.errors import DataError


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, for this process alone; it is removed at the end.

    What a killed run left there is removed first. Raises DataError where another process is making `out`, and OSError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.mkdir(exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        _lock(descriptor, part, out)
        for left in part.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, part: Path, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(descriptor), part.stat())
    except (BlockingIOError, FileNotFoundError):
        same = False
    if not same:  # or removed by the other between the two lines
        raise DataError(
            f"{out}: another process is making it; wait for that, or choose another name"
        ) from None
