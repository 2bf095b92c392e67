# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name only when they are whole, written to a neighbour and renamed; and their locks."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # errors of writing alone
_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors raises an error of its own, which ends in this


@contextmanager
def replacing(path: Path, *, suffix: str = "", durable: bool = False) -> Iterator[Path]:
    """Give a hidden neighbour of `path` to write to; it takes the name `path` when the block ends.

    After an exception the neighbour is removed, and what `path` held before stays. Its name ends in ".part" and
    `suffix`, for writers that choose the format by the name. durable: on the disk before the rename, for files whose
    loss in a power cut costs work. Raises OSError that names `path`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")
    try:
        # A leftover of a process of the same number, or a link somebody planted: never write through it.
        part.unlink(missing_ok=True)
        yield part
        _as_any_new_file(part)
        if durable:
            _sync(part)
        os.replace(part, path)
        if durable:
            _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the folder is gone or not writable: the error at hand says so
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            if error.filename == os.fspath(part) or (error.filename is None and error.errno in NO_ROOM):
                raise _about(error, path) from error
        elif number := _RUST.search(str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error
        raise


def _as_any_new_file(path: Path) -> None:
    """Give a file the rights that `open` gives: safetensors writes for its owner alone, and others read a run, too."""
    if stat.S_IMODE(path.stat().st_mode) != 0o600:
        return
    # os.umask tells it only by changing it, for all threads.
    status = Path("/proc/self/status")
    found = re.search(r"^Umask:\s*([0-7]+)", status.read_text() if status.exists() else "", re.MULTILINE)
    if found is not None:
        path.chmod(0o666 & ~int(found[1], 8))


def _about(error: OSError, path: Path) -> OSError:
    """The same error of another file. A new one: PyAV's do not let their file be changed."""
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    return kind(error.errno, error.strerror, os.fspath(path))


def demand_place(path: Path) -> None:
    """Raise OSError that names `path` unless a file, or a folder of files, can be written there.

    For who works long before writing: the work would be lost. A folder that is missing is not made.
    """
    if _is_stream(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return
    there = path if path.is_dir() else next(place for place in path.absolute().parents if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # on a disk that is full, files without content can still be made
            file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for files on their way; without room for them, an OSError that names where temporary files go."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except OSError as error:
            inside = error.filename is None or os.fspath(error.filename).startswith(folder)
            if error.errno in NO_ROOM and inside:
                where = f"{os.path.dirname(folder)}, where temporary files go ($TMPDIR)"
                raise OSError(error.errno, error.strerror, where) from None
            raise


def write_atomically(path: Path, data: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Write text (as UTF-8) or bytes; readers see the old content or the new, never a part. Raises OSError."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, durable=durable) as part, part.open("xb") as file:
        file.write(content)


def _is_stream(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def writing_out(path: Path) -> Iterator[Path]:
    """`replacing` for what a user asked for: a pipe or a device, such as /dev/stdout, stays, and is written into."""
    if not _is_stream(path):
        with replacing(path) as part:
            yield part
        return
    with temporary_folder() as folder:
        part = folder / "part"
        yield part
        with part.open("rb") as whole, path.open("wb") as stream:
            shutil.copyfileobj(whole, stream)


def write_out(path: Path, data: str | bytes) -> None:
    """Write text (as UTF-8) or bytes where a user asked for it, see `writing_out`. Raises OSError."""
    with writing_out(path) as part, part.open("xb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_new(target: Path, source: bytes | os.PathLike[str] | str) -> None:
    """Write bytes, or copy a file, to one that is not there yet. Raises OSError that names the file."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as old:
        try:
            with target.open("xb") as new:
                shutil.copyfileobj(old, new)
        except OSError as error:  # writing does not name the file
            raise OSError(error.errno, error.strerror, error.filename or os.fspath(target)) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, on_wait: Callable[[float], None], every_s: float) -> None:
    """Lock an open file for this process alone; the kernel releases it when the file is closed.

    on_wait: called every `every_s` seconds, while another process holds it, with the seconds waited so far; what it
    raises ends the wait. Raises OSError where the disk has no locks.
    """
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        on_wait(time.monotonic() - start)
        time.sleep(every_s)
