# SPDX-License-Identifier: Apache-2.0
"""Video files, written."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.media.video import cause, reformat
from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.files import demand_place

_CLOCK = 90_000  # ticks a second of written files: exact enough for every camera rate
# Of libav, by its names. Others refuse the codec, some only when the first frame comes, or are many files (hls, dash).
# What keeps no time of each frame (avi, asf, mpeg, mxf, h264) would play at another pace, or in another order.
_FORMATS = frozenset({
    "3g2", "3gp", "f4v", "flv", "ipod", "matroska", "mov", "mp4", "mpegts", "nut",
})  # fmt: skip
_ERRORS = (av.error.FFmpegError, OSError)


class VideoWriter:
    """Writes RGB frames with their stamps to an H.264 file (MPEG-4 where libav has no x264).

    The size is that of the first frame, cut to even numbers. The file appears under its name when closed
    without an error; use it in a `with` block. Raises DataError where no such file can be written, before the first
    frame, and OSError that names the file where writing fails; nothing is left then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise DataError(
                f"{path}: is a directory; give the name of a video file, such as {self.path / 'out.mp4'}"
            )
        if not self.path.suffix:
            raise DataError(f"{path}: give the video file an extension, such as {path}.mp4")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such directory to write {self.path.name} into")
        demand_place(self.path)
        # Short, whatever the name: what is legal as a name shall not be too long as that of the part. Each process has
        # its own: two that write one file would mix their frames.
        digest = hashlib.sha256(os.fsencode(self.path.name)).hexdigest()[:8]
        begin, end = f".{self.path.stem[:40]}.{digest}.", f".part{self.path.suffix}"
        self._part = self.path.with_name(f"{begin}{os.getpid()}{end}")
        _sweep(self.path.parent, begin, end)
        self._held = -1  # tells others that this process still writes it
        try:
            self._container = av.open(str(self._part), "w")
            self._stream = self._open_stream()
            self._part.touch()  # libav does so at the first frame only
            with suppress(OSError):  # where files cannot be locked, nobody sweeps either
                self._held = os.open(self._part, os.O_RDONLY)
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (*_ERRORS, ValueError) as error:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise DataError(
                f"{path}: cannot write a video here ({cause(error)}); try a name ending in .mp4"
            ) from None
        self._first = 0
        self._last = -1

    def write(self, frame: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append a frame (H, W, 3) RGB; frames whose stamp is not newer than the last one's are left out."""
        stream = self._stream
        if self._last < 0:
            stream.height, stream.width = (side // 2 * 2 for side in frame.shape[:2])
            self._first = stamp_ns
        pts = round((stamp_ns - self._first) * _CLOCK / NS)
        if pts <= self._last:
            return
        self._last = pts
        cut = np.ascontiguousarray(frame[: stream.height, : stream.width])
        if cut.shape[:2] != (stream.height, stream.width):
            size = (stream.width, stream.height)
            cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)
        whole = av.VideoFrame.from_ndarray(cut, format="rgb24")
        picture = reformat(whole, format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = pts, Fraction(1, _CLOCK)
        with self._named():
            self._container.mux(stream.encode(picture))

    def _open_stream(self) -> av.VideoStream:
        if self._container.format.name not in _FORMATS:
            raise ValueError(
                f"H.264 with a time for each frame does not go into {self._container.format.name}"
            )
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = cast("av.VideoStream", self._container.add_stream(codec, rate=30))
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _CLOCK)
        # Written as BT.709 and tagged so, or players would guess the matrix from the size.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        if codec == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = 4_000_000
        return stream

    def close(self) -> None:
        """Finish the file and give it its name. Raises OSError where it cannot be written; nothing is left then."""
        try:
            with self._named():
                if self._last >= 0:
                    self._container.mux(self._stream.encode())
                self._container.close()
                if self._last >= 0:
                    os.replace(self._part, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Throw away what was written, so that what had the file's name before stays; `close` does nothing then."""
        self._last = -1
        with suppress(*_ERRORS):  # the error at hand says more; closed already, this does nothing
            self._container.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What fails inside names the file that was asked for, not the hidden one."""
        try:
            yield
        except _ERRORS as error:
            raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was written before a damaged input ended is worth keeping, as its reader keeps what it read.
        if kind is None or issubclass(kind, DataError):
            self.close()
        else:
            self.discard()


def _sweep(folder: Path, begin: str, end: str) -> None:
    """Remove what killed processes left of the same file: it takes room, and shows people."""
    for part in folder.glob(f"{glob.escape(begin)}*{glob.escape(end)}"):
        number = part.name[len(begin) : -len(end)]
        if not number.isdecimal() or _runs(int(number)):
            continue
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY)
            try:
                # Held by a process of another machine or container, whose numbers mean nothing here.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
