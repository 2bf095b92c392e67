# SPDX-License-Identifier: Apache-2.0
"""Video files and cameras, read. Frames are RGB uint8 (H, W, 3), stamps int nanoseconds.

Files are decoded through PyAV: its libswscale honours the colour matrix of the stream, and presentation times are
exact, which clips of varying frame rate need. An AVI has none: see `_Order`.
"""

from __future__ import annotations

import functools
import heapq
import logging
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from gc_ros.media.images import Picture
from gc_ros.media.kinds import lfs_pointer
from gc_ros.media.truncation import missing_bytes
from gc_ros.stamps import NS
from trt_build.errors import DataError

_ERRORS = (av.error.FFmpegError, OSError, ValueError)
_PICTURE = 0x0400 | 0x0800  # AV_DISPOSITION_ATTACHED_PIC, AV_DISPOSITION_TIMED_THUMBNAILS
_WITHOUT_PTS = ("avi",)  # containers, by libavformat's names
_MOST_B_FRAMES = 16  # in a row, of H.264
_PEEK = 200  # packets that tell which stream moves
_MOST_FAILURES = 64  # of a container in a row
# AVColorSpace of the matrices that are not BT.601's: BT.709, FCC, SMPTE 240M, BT.2020 in both forms.
_OTHER_MATRICES = (1, 4, 7, 9, 10)
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a path has lost the second slash
_LOCAL = threading.local()

# No log callback into Python: it takes the GIL in a decoder's thread, and a decoder that is freed meanwhile waits for
# that thread with the GIL held, for ever. Silent, too: libav's lines would surround our one line an error.
av.logging.set_level(None)

Frame = tuple[NDArray[np.uint8], int]


def read_video(path: str | os.PathLike[str], refused: Callable[[str], None] | None = None) -> Iterator[Frame]:
    """Yield (frame, stamp) of a video file in order, upright; see `read_pictures`."""
    for picture, stamp in read_pictures(path, refused):
        yield picture.pixels(), stamp


def read_pictures(
    path: str | os.PathLike[str], refused: Callable[[str], None] | None = None
) -> Iterator[tuple[Picture, int]]:
    """Yield (picture, stamp) of a video file in order, upright (display matrix of the container applied); RGB.

    Every frame is decoded, since the next one builds on it, but becomes RGB only when asked for its pixels. One that
    does not decode is left out and the next takes its place: refused(reason) is told of each; without it, one line in
    the log counts them. Raises DataError when the file cannot be opened, when nothing in it decodes, and when its end
    is missing: what is before that has been yielded by then.
    """
    given, path = os.fspath(path), Path(path)
    if not path.is_file() and _URL.match(given):
        raise DataError(
            f"{given}: URLs are not read; download it and give the file, or for a stream start a ROS driver and "
            "gc-ros node"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such video file")
    if lfs_pointer(path):
        raise DataError(f"{path}: this is a Git LFS pointer, not the video; get it with: git lfs pull")
    lost: Counter[str] = Counter()
    count, cut = 0, ""
    # With several threads an error takes frames before it along: then again from the start with one.
    for threads in (True, False):
        number, cut, again = 0, "", False
        with closing(_decoded(path, threads)) as items:
            for item in items:
                if isinstance(item, _Cut):
                    cut = item.reason
                elif isinstance(item, _Lost):
                    again = threads
                    if again:
                        break
                    lost[item.reason] += 1
                    if refused is not None:
                        refused(item.reason)
                else:
                    number += 1
                    if number > count:
                        count = number
                        yield upright(item[0]), item[1]
        if not again:
            break
    if cut and count:
        raise DataError(f"{path}: damaged after {count} frames ({cut}); copy or record it again")
    if not count:
        why = cut or next(iter(lost), "")
        raise DataError(
            f"{path}: the video holds no frame that decodes{f' ({why})' if why else ''}; record or convert it again"
        )
    if lost and refused is None:
        reason = lost.most_common(1)[0][0]
        logging.warning("%s: %d of %d frames left out: %s", path, lost.total(), count + lost.total(), reason)


@dataclass(frozen=True)
class _Lost:
    """A frame that does not decode, or a place in the file where no packet is found."""

    reason: str


@dataclass(frozen=True)
class _Cut:
    """The end of the file is missing."""

    reason: str


def _decoded(path: Path, threads: bool) -> Generator[tuple[av.VideoFrame, int] | _Lost | _Cut, None, None]:
    """Frames with their stamps, what is lost between them, and at the end whether more should have come."""
    with _open(path) as container:
        stream = _main_stream(path, container)
        stream.thread_type = "AUTO" if threads else "NONE"
        if not threads:
            stream.codec_context.thread_count = 1
        period = round(NS / float(stream.average_rate or 25))
        order = _Order(stream.codec_context if container.format.name in _WITHOUT_PTS else None)
        stamp: int | None = None
        held: av.Packet | None = (
            None  # with a flaw: the last of a truncated file, which decoders would patch up
        )
        for item in _packets(container, stream):
            if isinstance(item, _Lost):
                yield item
                continue
            flush = item.size == 0 and item.dts is None and item.pts is None
            if item.size == 0 and not flush:
                continue  # a frame that was dropped while recording: the one before it stays
            for packet in [held, item] if held and not flush else [item]:
                try:
                    frames = packet.decode()
                except _ERRORS as error:
                    yield _Lost(f"a frame does not decode ({cause(error)})")
                    continue
                for frame in frames:
                    if frame.pts is not None and frame.time_base:
                        stamp = round(frame.pts * Fraction(frame.time_base) * NS)
                    else:
                        stamp = 0 if stamp is None else stamp + period
                    yield from order.push(frame, stamp)
            held = None
            if item.is_corrupt:
                held = item
        yield from order.rest()
        if held is not None or (missing_bytes(path) and not _all_indexed(path, container, stream)):
            yield _Cut("truncated")


class _Order:
    """Gives frames, which decoders put out as they are shown, their stamps in rising order.

    A container without presentation times stores one frame a period, B-frames as they are decoded, and the times that
    libavformat makes up for them are those of the right moments and of the wrong frames. context: of such a stream,
    else None.
    """

    def __init__(self, context: av.VideoCodecContext | None) -> None:
        self._context = context
        self._frames: deque[av.VideoFrame] = deque()
        self._stamps: list[int] = []  # a heap

    def push(self, frame: av.VideoFrame, stamp_ns: int) -> Iterator[tuple[av.VideoFrame, int]]:
        """The frames whose stamps are known now that this one is."""
        self._frames.append(frame)
        heapq.heappush(self._stamps, stamp_ns)
        reorders = self._context is not None and self._context.has_b_frames
        while len(self._frames) > (_MOST_B_FRAMES if reorders else 0):
            yield self._frames.popleft(), heapq.heappop(self._stamps)

    def rest(self) -> Iterator[tuple[av.VideoFrame, int]]:
        """The frames that still wait, at the end."""
        while self._frames:
            yield self._frames.popleft(), heapq.heappop(self._stamps)


def _open(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path))
    except _ERRORS as error:
        raise DataError(
            f"{path}: not a video that can be opened ({cause(error)}); record or convert it again"
        ) from None


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | _Lost]:
    """The packets of a stream; where the container is damaged, those behind the damage too."""
    failures = 0
    while failures < _MOST_FAILURES:
        try:
            for packet in container.demux(stream):
                yield packet
                failures = 0 if packet.size else failures
            return
        except _ERRORS as error:
            failures += 1
            if failures == 1:
                yield _Lost(f"a place in the file is damaged ({cause(error)})")


def _main_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The first video that moves: a cover or preview, one picture alone, may come before it."""
    streams = list(container.streams.video)
    if not streams:
        raise DataError(f"{path}: no video in this file; give a file with a video stream")
    moving = [s for s in streams if not int(getattr(s, "disposition", 0)) & _PICTURE and s.frames != 1]
    if len(moving) <= 1:
        return (moving or streams)[0]
    seen: Counter[int] = Counter()
    with _open(path) as other, suppress(*_ERRORS):
        for packet in other.demux([other.streams[s.index] for s in moving]):
            seen[packet.stream.index] += packet.size > 0
            if seen.total() >= _PEEK:
                break
    return next((s for s in moving if seen[s.index] > 1), moving[0])


def _all_indexed(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether an MP4's index has no picture behind the end of the file: then only sound or remarks are missing."""
    entries = getattr(stream, "index_entries", ())
    if "mp4" not in container.format.name or not entries:
        return False
    size = path.stat().st_size
    return all(entries[i].pos + entries[i].size <= size for i in range(-min(len(entries), 8), 0))


def upright(frame: av.VideoFrame) -> Picture:
    """A decoded frame as a picture: turned as its display matrix says, RGB when asked for its pixels."""
    turned, mirrored, upside_down = _orientation(frame)

    def make() -> NDArray[np.uint8]:
        image = _rgb(frame)
        if turned:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if upside_down else 1, :: -1 if mirrored else 1])

    width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    return Picture(width, height, False, make)


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A frame (H, W, 3) by its own colour matrix and range; untagged ones are BT.601 in limited range.

    PyAV before 17 takes them for that whatever their tags say, which is up to 40 of 255 off, unless it is told.
    """
    tagged = frame.colorspace in _OTHER_MATRICES or frame.color_range == _FULL_RANGE
    colours: dict[str, Any] = {}
    if tagged and not frame.format.is_rgb and len(frame.format.components) > 2:
        colours = {
            "src_colorspace": frame.colorspace,
            "dst_colorspace": "ITU601",  # of no meaning for RGB, but PyAV converts by a matrix only if the two differ
            "src_color_range": frame.color_range,
            "dst_color_range": _FULL_RANGE,
        }
    return np.asarray(reformat(frame, format="rgb24", **colours).to_ndarray(), np.uint8)


def reformat(frame: av.VideoFrame, **options: Any) -> av.VideoFrame:
    """`frame.reformat(**options)`, which would start as many threads as there are processors, for each frame."""
    if not hasattr(_LOCAL, "reformatter"):
        _LOCAL.reformatter = VideoReformatter()
    return cast("av.VideoFrame", _LOCAL.reformatter.reformat(frame, **options, **_one_thread()))


@functools.cache
def _one_thread() -> dict[str, int]:
    """The option of `reformat` that keeps it in one thread; older PyAV has none, and one thread."""
    try:
        VideoReformatter().reformat(av.VideoFrame(2, 2, "rgb24"), format="bgr24", threads=1)
    except TypeError:
        return {}
    return {"threads": 1}


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(rows become columns, then left and right swap, then top and bottom) as the display matrix has it, to 90 degrees.

    A point (x, y) of the frame is shown at (a x + c y, b x + d y).
    """
    # The frame keeps what its property makes, which keeps the frame: both would stay until the next garbage collection.
    data: Any = cast(Any, SideDataContainer)(frame).get(Type.DISPLAYMATRIX)
    matrix = np.frombuffer(bytes(data), np.int32).astype(float) if data else np.zeros(0)
    if len(matrix) != 9:
        return False, False, False
    a, b, c, d = matrix[[0, 1, 3, 4]]
    if not a * d - b * c:
        return False, False, False
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    return turned, (c if turned else a) < 0, (b if turned else d) < 0


def cause(error: Exception) -> str:
    """What libav says, without its numbers."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def camera_number(source: str) -> int | None:
    """The number of the camera that a source names, None for a file."""
    return int(source) if source.isascii() and source.isdigit() else None


def open_camera(index: int) -> Iterator[Frame]:
    """Yield (frame, stamp) of a camera of this machine until it ends; stamps are arrival times (monotonic
    clock)."""
    if hasattr(cv2.utils, "logging"):  # OpenCV's warnings about backends it tried would surround our one line
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    capture = cv2.VideoCapture()
    try:
        with suppress(cv2.error):  # of a number that is no C integer
            capture.open(index)
        if not capture.isOpened():
            raise DataError(f"camera {index} cannot be opened; see which exist with: ls /dev/video*")
        while True:
            ok, image = capture.read()
            if not ok:
                return
            yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), time.monotonic_ns()
    finally:
        capture.release()
