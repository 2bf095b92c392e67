# SPDX-License-Identifier: Apache-2.0
"""Small video files with known content, made through PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

BT709, BT2020 = (0.2126, 0.0722, "bt709"), (0.2627, 0.0593, "bt2020nc")
_IDENTITY = bytes.fromhex("00010000" + "00000000" * 3 + "00010000" + "00000000" * 3 + "40000000")
_CLOCKWISE = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000" * 4 + "40000000")


def patches(seed: int = 0, width: int = 128, height: int = 96) -> np.ndarray:
    """RGB image of 16-pixel patches of random colours: survives chroma subsampling inside the patches."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, 16, 0), 16, 1)


def centres(image: np.ndarray) -> np.ndarray:
    """The colours in the middle of the patches, as integers."""
    return image[8::16, 8::16].astype(int)


def flat(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    """RGB image of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def write_clip(
    path: Path,
    images: list[np.ndarray],
    fps: int = 30,
    colours: tuple[float, float, str] = BT709,
    pts: list[int] | None = None,
) -> Path:
    """H.264 clip of RGB images, converted with the matrix and tagged with its name (kr, kb, name).

    pts: presentation times in frames, default 0, 1, 2, ...
    """
    kr, kb, name = colours
    primaries = "bt2020" if "2020" in name else name
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}
    ) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        stream.options = {
            "crf": "4",
            "preset": "ultrafast",
            "threads": "1",
            "x264-params": f"colormatrix={name}:colorprim={primaries}:range=tv:log-level=none",
        }
        for i, image in enumerate(images):
            frame = _yuv(image, kr, kb)
            frame.pts = i if pts is None else pts[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _yuv(image: np.ndarray, kr: float, kb: float) -> av.VideoFrame:
    """The conversion of ITU-R BT.709/BT.2020 to the letter, independent of libswscale."""
    r, g, b = np.moveaxis(image.astype(float) / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    values = 16 + 219 * y, 128 + 112 * (b - y) / (1 - kb), 128 + 112 * (r - y) / (1 - kr)
    frame = av.VideoFrame(image.shape[1], image.shape[0], "yuv420p")
    for plane, value, every in zip(frame.planes, values, (1, 2, 2), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = np.round(value[::every, ::every])
        plane.update(rows.tobytes())
    return frame


def rotated(source: Path, target: Path) -> Path:
    """The same MP4 file with a display matrix that turns it a quarter clockwise, as phones write it."""
    data = source.read_bytes()
    at = data.index(_IDENTITY, data.index(b"tkhd"))
    target.write_bytes(data[:at] + _CLOCKWISE + data[at + len(_IDENTITY) :])
    return target


def truncated(source: Path, target: Path, part: float) -> Path:
    """The first `part` of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target
