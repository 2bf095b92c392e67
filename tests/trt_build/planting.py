# SPDX-License-Identifier: Apache-2.0
"""Things that are not files, put where files are expected."""

from __future__ import annotations

import os
import socket
from pathlib import Path

LAST_S = 20  # a FIFO that is waited for never ends


def plant(path: Path, kind: str, target: Path) -> None:
    """Put something that is not a file where `path` was."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(target)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to("/dev/zero")


KINDS = ["link", "FIFO", "folder", "socket", "device behind a link"]
