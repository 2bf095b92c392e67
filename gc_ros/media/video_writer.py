# SPDX-License-Identifier: Apache-2.0
"""Video files, written."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.media.video import cause
from gc_ros.stamps import NS
from trt_build.errors import DataError

PART = ".*.part.*"  # names of files that are being written, as a pattern
_CLOCK = 90_000  # ticks a second of written files: exact enough for every camera rate


class VideoWriter:
    """Writes RGB frames with their stamps to an H.264 file (MPEG-4 where libav has no x264).

    The size is that of the first frame, cut to even numbers. The file appears under its name when closed
    without an error; use it in a `with` block. Raises DataError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.suffix:
            raise DataError(f"{path}: give the video file an extension, such as {path}.mp4")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such directory to write {self.path.name} into")
        self._part = self.path.with_name(f".{self.path.stem}.part{self.path.suffix}")
        try:
            self._container = av.open(str(self._part), "w")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot write a video here ({cause(error)}); try a name ending in .mp4"
            ) from None
        self._stream: av.VideoStream | None = None
        self._first = 0
        self._last = -1

    def write(self, frame: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append a frame (H, W, 3) RGB; frames whose stamp is not newer than the last one's are left out."""
        if self._stream is None:
            self._stream = self._open_stream(frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2)
            self._first = stamp_ns
        pts = round((stamp_ns - self._first) * _CLOCK / NS)
        if pts <= self._last:
            return
        self._last = pts
        stream = self._stream
        cut = np.ascontiguousarray(frame[: stream.height, : stream.width])
        if cut.shape[:2] != (stream.height, stream.width):
            size = (stream.width, stream.height)
            cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)
        picture = av.VideoFrame.from_ndarray(cut, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709"
        )
        picture.pts, picture.time_base = pts, Fraction(1, _CLOCK)
        for packet in stream.encode(picture):
            self._container.mux(packet)

    def _open_stream(self, width: int, height: int) -> av.VideoStream:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = cast("av.VideoStream", self._container.add_stream(codec, rate=30))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
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
            if self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
            if self._stream is not None:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was written before a damaged input ended is worth keeping, as its reader keeps what it read.
        if kind is None or issubclass(kind, DataError):
            self.close()
        else:
            self._container.close()
            self._part.unlink(missing_ok=True)
