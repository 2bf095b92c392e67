# SPDX-License-Identifier: Apache-2.0
"""Files below a folder that somebody else may have filled: opened without following a link, and regular.

A FIFO would hang the reader, a device feed it for ever, a link lead out of the folder, to a file that is read or,
worse, written. So each part of a name is opened relative to the folder before it and without following, and what was
opened is looked at through its descriptor: nothing can be put in its place between the look and the reading. The
folder itself may be a link: it is what the user named.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO


class NotRegular(OSError):
    """A link, a folder, a FIFO, a socket or a device where a file is expected; `strerror` says which."""

    def __init__(self, kind: str, path: Path) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def open_regular(folder: Path, name: str, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open the file `name`, a relative path with slashes, below `folder`. flags: of os.open; may create the file.

    Raises NotRegular, or another OSError that names the path.
    """
    *above, last = PurePosixPath(name).parts
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = folder
    try:
        for part in above:
            path = path / part
            inner = _open_at(descriptor, part, os.O_RDONLY | os.O_DIRECTORY, path)
            os.close(descriptor)
            descriptor = inner
        file = _open_at(descriptor, last, flags, path / last)
    finally:
        os.close(descriptor)
    if kind := _kind(os.fstat(file).st_mode):
        os.close(file)
        raise NotRegular(kind, path / last)
    return os.fdopen(file, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b")


def read_regular(folder: Path, name: str, most: int) -> bytes:
    """The content of the file `name` below `folder`. Raises OSError as `open_regular`, and above `most` bytes.

    A file that grows meanwhile is refused, too: it is read as long as it was when it was opened.
    """
    with open_regular(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most} bytes", os.fspath(folder / name))
        # Not most + 1: `read` takes that much memory first, and an engine may have more than the machine has.
        content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EBUSY, "it grew while it was read", os.fspath(folder / name))
    return content


def sha256_regular(folder: Path, name: str) -> str:
    """Hex sha256 of the file `name` below `folder`. Raises OSError as `open_regular`."""
    digest = hashlib.sha256()
    with open_regular(folder, name) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_at(folder: int, name: str, flags: int, path: Path) -> int:
    # Without O_NONBLOCK the opening of a FIFO waits for a writer. On regular files it has no effect.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o644, dir_fd=folder)
    except OSError as error:
        try:
            kind = _kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except OSError:
            kind = None
        if kind and not (flags & os.O_DIRECTORY and kind == "a folder"):
            raise NotRegular(kind, path) from None
        error.filename = os.fspath(path)
        raise


def _kind(mode: int) -> str | None:
    """What it is in words, None for a regular file."""
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "something else")
