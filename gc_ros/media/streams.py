# SPDX-License-Identifier: Apache-2.0
"""Video streams, a packet a message: one decoder a camera, which starts, and after a loss starts again, at a key frame.

Every packet has to be decoded, since the next one builds on it; a frame becomes RGB only when asked for its pixels.
What comes from a stream is somebody else's bytes: nothing here raises whatever they are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import av

from gc_ros.media.h264 import Continuity
from gc_ros.media.images import MAX_PIXELS, Picture, Refusal, Waiting
from gc_ros.media.video import cause, upright
from trt_build.errors import one_line

# libav's decoder by the names that messages give: of the format, or of the encoder that made it. The first that this
# libav has.
_DECODERS = {
    **dict.fromkeys(("h264", "avc", "x264", "openh264"), ("h264",)),
    **dict.fromkeys(("h265", "hevc", "x265"), ("hevc",)),
    **dict.fromkeys(("av1", "svtav1", "aom-av1", "rav1e", "dav1d"), ("libdav1d", "libaom-av1", "av1")),
    "vp9": ("vp9",),
    "vpx-vp9": ("vp9",),
    "vp8": ("vp8",),
    "vpx": ("vp8",),
    "mjpeg": ("mjpeg",),
}
_MOST_HELD = 32  # packets; a decoder holds back at most 16 pictures to put them in order
_CORRUPT = 1 << 3  # AV_CODEC_FLAG_OUTPUT_CORRUPT

Found = tuple[Any, "Picture | Refusal"]


class Stream:
    """The decoder of one camera's packets. For one thread, but for `lost` and `waiting`."""

    def __init__(self) -> None:
        self._name = ""  # of the codec, as the messages spell it
        self._decoder: av.VideoCodecContext | None = None
        self._continuity: Continuity | None = None
        self._why = "the stream was joined in the middle"  # or broke
        self._number = 0
        # Packets without an image so far; whether they came while waiting.
        self._held: dict[int, tuple[Any, bool]] = {}
        self._gap = threading.Event()
        self.waiting = True  # for a key frame

    def lost(self) -> None:
        """Packets are missing before the next one."""
        self._gap.set()

    def read(self, data: Any, codec: str, tag: Any) -> list[Found]:
        """Decode a packet: (tag, picture) of the frames that are complete now, each with the tag of its own packet.

        With B-frames that may be an earlier one. (tag, Refusal) of packets that give no image. Never raises.
        """
        found: list[Found] = []
        self._number += 1
        try:
            for item in self._read(bytes(data), _plain(codec), tag):
                found.append(item)  # one by one, so that those before an error are kept
        except Exception as error:  # whatever the bytes make of libav
            self._held.pop(self._number, None)
            self._break("a packet did not decode")
            found.append((tag, Refusal(f"video packet does not decode: {one_line(error)[:160]}")))
        return found

    def finish(self) -> list[Found]:
        """What the decoder holds back at the end of the stream; it then waits for a new one."""
        found: list[Found] = []
        if self._decoder is not None:
            try:
                frames = self._decoder.decode(None)
            except Exception:
                frames = []  # the packets are still held, and refused below
            found += self._pictures(frames)
        found += self._forget(0)
        self._decoder, self._name = None, ""
        self._break("the stream was joined in the middle")
        return found

    def _read(self, packet: bytes, codec: str, tag: Any) -> Iterator[Found]:
        if self._gap.is_set():
            self._gap.clear()
            if self._decoder is not None:
                self._break("packets were lost")
        if not packet:  # to libav the end of the stream
            yield tag, Refusal("empty video packet")
            return
        if self._decoder is None or codec != self._name:
            if codec not in _DECODERS:
                reason = f"video of codec {ascii(codec)[:40]} is not known; encode it as h264 or h265"
                yield tag, Refusal(reason)
                return
            yield from self._forget(0)
            self._open(codec)
        assert self._decoder is not None
        if self._continuity is not None and not self._continuity.follows(packet):
            self._break("packets were lost")
            self._continuity.follows(packet)
        self._held[self._number] = tag, self.waiting
        coded = av.Packet(packet)
        coded.pts = coded.dts = self._number
        try:
            frames = self._decoder.decode(coded)
        except Exception as error:
            self._held.pop(self._number, None)
            if self.waiting:
                yield tag, self._not_yet()
            else:
                self._break("a packet did not decode")
                yield tag, Refusal(f"video packet does not decode ({_said(error)})")
            return
        yield from self._pictures(frames)
        yield from self._forget(_MOST_HELD)

    def _pictures(self, frames: list[av.VideoFrame]) -> Iterator[Found]:
        for frame in frames:
            tag, _ = self._held.pop(frame.pts or 0, (None, False))
            if tag is None:
                continue
            if frame.is_corrupt and not self.waiting:
                self._break("a packet was damaged")
                yield tag, Refusal("video frame is damaged")
                continue
            # libav's H.264 decoder gives no frame before it has recovered, which it may without a key frame.
            if self.waiting and (frame.is_corrupt or not (frame.key_frame or self._continuity)):
                yield tag, self._not_yet()
                continue
            if self.waiting:
                yield from self._forget_before(frame.pts or 0)
            self.waiting = False
            yield tag, upright(frame)

    def _forget_before(self, number: int) -> Iterator[Found]:
        """The packets without an image that came before the key frame."""
        for old in [n for n, (_, waited) in self._held.items() if waited and n < number]:
            yield self._held.pop(old)[0], self._not_yet()

    def _forget(self, kept: int) -> Iterator[Found]:
        """The oldest packets, which will give no image any more."""
        while len(self._held) > kept:
            tag, waited = self._held.pop(next(iter(self._held)))
            yield tag, self._not_yet() if waited else Refusal("video packet without an image")

    def _not_yet(self) -> Waiting:
        return Waiting(f"waiting for a key frame: {self._why}")

    def _break(self, why: str) -> None:
        if not self.waiting or why == "packets were lost":
            self._why = why
        self.waiting = True
        self._held = {number: (tag, True) for number, (tag, _) in self._held.items()}
        if self._decoder is not None:
            self._decoder.flush_buffers()
        if self._continuity is not None:
            self._continuity.restart()

    def _open(self, codec: str) -> None:
        if self._decoder is not None:
            self._break("the codec changed")
        name = next((name for name in _DECODERS[codec] if name in av.codecs_available), _DECODERS[codec][0])
        decoder = cast("av.VideoCodecContext", av.CodecContext.create(name, "r"))
        # More would take other cameras' processors, and add delay.
        decoder.thread_type, decoder.thread_count = "NONE", 1
        decoder.flags &= ~_CORRUPT
        # Parameter sets of a few bytes may ask for pictures of any size. H.265 builds on lost pictures unless told.
        decoder.options = {"max_pixels": str(MAX_PIXELS)} | (
            {"err_detect": "explode"} if name == "hevc" else {}
        )
        self._decoder, self._name = decoder, codec
        self._continuity = Continuity() if name == "h264" else None


def _plain(codec: str) -> str:
    """h264 of "h264;yuv420p;bgr8;bgr8", "H264", "h264_nvenc" or "libx264"."""
    name = codec.split(";")[0].strip().lower().removeprefix("lib")
    return name if name in _DECODERS else name.split("_")[0]


def _said(error: Exception) -> str:
    return " ".join(cause(error).split())[:100]
