# SPDX-License-Identifier: Apache-2.0
"""Writing frames as a video file that decodes everywhere, with the same bytes every time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from trt_build.files import replacing


def write_video(path: Path, frames: np.ndarray, fps: float, quality: int = 4) -> None:
    """Write frames (T, H, W, 3) uint8 RGB to `path`: H.264 for .mp4, MPEG-4 part 2 for .avi.

    One encoder thread, because the number of threads changes the bytes. The file appears under its name only when
    it is complete, so an interrupted run leaves none that looks whole.
    """
    height, width = frames.shape[1:3]
    mp4 = path.suffix.lower() == ".mp4"
    kind = "mp4" if mp4 else "avi"
    with (
        replacing(path) as part,
        av.open(str(part), "w", format=kind, options={"fflags": "+bitexact"}) as box,
    ):
        codec = "libx264" if mp4 and "libx264" in av.codecs_available else "mpeg4"
        stream = cast(VideoStream, box.add_stream(codec, rate=Fraction(fps).limit_denominator(1001)))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        context = stream.codec_context
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": str(19 + quality), "tune": "zerolatency"}
        else:
            context.qmin = context.qmax = quality
            context.gop_size = 12
        context.flags |= 1 << 23  # AV_CODEC_FLAG_BITEXACT: no encoder version in the file
        for frame in frames:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(stream.encode(None))
