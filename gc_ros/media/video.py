# SPDX-License-Identifier: Apache-2.0
"""Video files in and out, and cameras. Frames are RGB uint8 (H, W, 3), stamps int nanoseconds.

Files are decoded through PyAV: its libswscale honours the colour matrix of the stream, and presentation
times are exact, which clips of varying frame rate need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.media.images import Picture
from gc_ros.stamps import NS
from trt_build.errors import DataError

_CLOCK = 90_000  # ticks a second of written files: exact enough for every camera rate

# No log callback into Python: it takes the GIL in a decoder's thread, and a decoder that is freed meanwhile waits for
# that thread with the GIL held, for ever. Silent, too: libav's lines would surround our one line an error.
av.logging.set_level(None)

Frame = tuple[NDArray[np.uint8], int]


def read_video(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Yield (frame, stamp) of a video file in order, upright; see `read_pictures`."""
    for picture, stamp in read_pictures(path):
        yield picture.pixels(), stamp


def read_pictures(path: str | os.PathLike[str]) -> Iterator[tuple[Picture, int]]:
    """Yield (picture, stamp) of a video file in order, upright (rotation of the container applied); RGB.

    Every frame is decoded, since the next one builds on it, but becomes RGB only when asked for its pixels.
    Raises DataError when the file cannot be opened or decoded; of a damaged file everything before the damage has been
    yielded by then.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such video file")
    try:
        container = av.open(str(path))
    except (OSError, ValueError) as error:  # av's errors are OSError or ValueError
        raise DataError(
            f"{path}: not a video that can be opened ({_cause(error)}); record or convert it again"
        ) from None
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: no video in this file; give a file with a video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 25)
        count, stamp, packets = 0, 0, 0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:  # the last piece of a truncated file, which decoders would patch up
                    raise ValueError("truncated")
                packets += packet.size > 0
                for frame in packet.decode():
                    if frame.pts is not None and frame.time_base:
                        stamp = round(frame.pts * Fraction(frame.time_base) * NS)
                    elif count:
                        stamp += round(NS / rate)
                    count += 1
                    yield _upright(frame), stamp
            if packets < stream.frames:  # 0 where the container does not say
                raise ValueError(f"truncated, it should have {stream.frames}")
        except (OSError, ValueError) as error:
            cause = _cause(error)
            raise DataError(
                f"{path}: damaged after {count} frames ({cause}); copy or record it again"
            ) from None
    if not count:
        raise DataError(f"{path}: the video holds no frame that decodes; record or convert it again")


def _upright(frame: av.VideoFrame) -> Picture:
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # degrees counter-clockwise, as np.rot90 counts

    def make() -> NDArray[np.uint8]:
        image = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, turns) if turns else image)

    width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
    return Picture(width, height, False, make)


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_camera(index: int) -> Iterator[Frame]:
    """Yield (frame, stamp) of a camera of this machine until it ends; stamps are arrival times (monotonic
    clock)."""
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(2)  # OpenCV's warnings about backends it tried would surround our one line
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise DataError(f"camera {index} cannot be opened; see which exist with: ls /dev/video*")
        while True:
            ok, image = capture.read()
            if not ok:
                return
            yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), time.monotonic_ns()
    finally:
        capture.release()


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
                f"{path}: cannot write a video here ({_cause(error)}); try a name ending in .mp4"
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
        """Finish the file and give it its name."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
        if self._stream is not None:
            os.replace(self._part, self.path)
        else:
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
