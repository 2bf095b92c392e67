# SPDX-License-Identifier: Apache-2.0
"""ROS image messages to arrays, by shape alone: no ROS import, so it is tested and fuzzed without ROS.

Everything in a message comes from somebody else's driver. Sizes, steps and lengths are checked as plain integers
before NumPy sees the buffer, and `picture_of` and `decode` return a `Refusal` with the reason instead of raising: an
exception in a subscription callback would end the node's `spin()`.

`picture_of` checks what the message says of itself; decoding is lazy. A 30 Hz camera of which the model samples two
frames a second costs two JPEG decodings a second, not thirty. bgr8 and rgb8 are views into the message, padded rows
included; the other encodings cost one OpenCV conversion.
Sources: sensor_msgs/image_encodings.hpp for names and layouts; OpenCV names a Bayer pattern by its second row and
second column, ROS by its first two pixels, hence the crossed table.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from gc_ros.media import coded
from trt_build.bundle import Preprocess
from trt_build.errors import ImageError, one_line
from trt_build.install import pip
from trt_build.preprocess import check_image, model_input

MAX_PIXELS_PER_BYTE = 2048  # of a compressed image; one flat colour makes 250 to 1000
MAX_PIXELS = coded.MAX_PIXELS
MAX_DECODE_S, MAX_DECODE_BYTES = 0.1, 256 << 20  # of a compressed image, by its upper bounds


@dataclass(frozen=True)
class Decoded:
    """image: uint8 (H, W, 3), possibly a view into the message; bgr: its channel order."""

    image: np.ndarray
    bgr: bool


class Picture:
    """A camera image of known size, decoded lazily and once.

    make: returns uint8 (H, W, 3); its exceptions become ImageError. decode_s, prepare_s: the seconds that making the
    pixels and the network's frame of them took, 0.0 until then. For one thread at a time.
    """

    def __init__(self, width: int, height: int, bgr: bool, make: Callable[[], np.ndarray]) -> None:
        self.width, self.height, self.bgr = width, height, bgr
        self.decode_s = self.prepare_s = 0.0
        self._prepared: tuple[Preprocess, np.ndarray] | None = None
        self._make: Callable[[], np.ndarray] | None = make
        self._pixels: np.ndarray | None = None

    @classmethod
    def of(cls, image: np.ndarray, bgr: bool) -> Picture:
        """An image that is there. Raises ImageError where it is none."""
        check_image(image)
        picture = cls(image.shape[1], image.shape[0], bgr, lambda: image)
        picture._pixels = image
        return picture

    @property
    def ready(self) -> bool:
        """Whether the pixels cost nothing more."""
        return self._pixels is not None

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises ImageError with the reason, each time, where they cannot be made."""
        if self._pixels is None:
            began = time.perf_counter()
            assert self._make is not None
            try:
                image = self._make()
                check_image(image)
                if image.shape[:2] != (self.height, self.width):  # two headers in one file
                    raise _Refused(
                        f"image of {image.shape[1]}x{image.shape[0]} pixels says it has {self.width}x{self.height}"
                    )
            except (_Refused, ImageError) as refused:
                raise ImageError(str(refused)) from None
            except Exception as error:  # OpenCV's, or cv_bridge's
                raise ImageError(f"image cannot be decoded: {one_line(error)[:160]}") from error
            self._pixels, self._make = image, None  # what `make` holds, the message, may go
            self.decode_s = time.perf_counter() - began
        return self._pixels

    def prepared(self, p: Preprocess) -> np.ndarray:
        """uint8 RGB (S, S, 3) as `trt_build.preprocess.model_input` makes it, once. Raises ImageError as `pixels`."""
        if self._prepared is None or self._prepared[0] is not p:
            image, began = self.pixels(), time.perf_counter()
            self._prepared = p, model_input(image, p, bgr=self.bgr)
            self.prepare_s = time.perf_counter() - began
        return self._prepared[1]


@dataclass(frozen=True)
class Refusal:
    """Why a message was not decoded, in one line."""

    reason: str


class Waiting(Refusal):
    """Of a packet of a video stream that is of no use: no key frame has come since the stream began or broke."""


class _Refused(Exception):
    pass


@dataclass(frozen=True)
class _Layout:
    """How many bytes a pixel of the first plane takes, and what makes BGR of the rows."""

    bytes_per_pixel: int
    convert: Callable[[np.ndarray], np.ndarray] | None  # None: already three channels of 8 bit
    bgr: bool = True
    channels: int = 3
    even: bool = False  # a plane of its own for the chroma of four pixels
    planes: int = 2  # rows of data in halves of the image height: 2 = as high as the image, 3 = NV12


def _colour(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: cv2.cvtColor(rows, code)


def _yuv422(code: int, chroma: int) -> Callable[[np.ndarray], np.ndarray]:
    """The conversion of rows whose pixels share their chroma in pairs. chroma: its byte of the two of a pixel."""

    def convert(rows: np.ndarray) -> np.ndarray:
        height, width = rows.shape[:2]
        if width % 2 == 0:
            return cv2.cvtColor(rows, code)
        # Of the last pixel's pair only the first half is there: it has the second chroma of the pair before.
        padded = np.full((height, width + 1, 2), 128, np.uint8)
        padded[:, :width] = rows
        padded[:, width, 1 - chroma] = rows[:, -1, 1 - chroma]
        if width > 1:
            padded[:, width, chroma] = rows[:, -2, chroma]
        return np.ascontiguousarray(cv2.cvtColor(padded, code)[:, :width])

    return convert


def _sixteen_bit(then: int) -> Callable[[np.ndarray], np.ndarray]:
    """The conversion of rows of 16 bit, in the order of this machine, as cv_bridge makes it."""

    def convert(rows: np.ndarray) -> np.ndarray:
        return _mixed(rows.view(np.uint16)[..., 0], then)

    return convert


def _mixed(pixels: np.ndarray, code: int) -> np.ndarray:
    """BGR of 8 bit of pixels (H, W) of 8 or 16 bit."""
    image = cv2.cvtColor(pixels, code)
    # 65535 is 255: colours are mixed at 16 bit, and rounded once.
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
_MOSAICS = {f"{name}{bits}": code for name, code in _BAYER.items() for bits in (8, 16)}
_UYVY = _Layout(2, _yuv422(cv2.COLOR_YUV2BGR_UYVY, chroma=0), channels=2)
_YUYV = _Layout(2, _yuv422(cv2.COLOR_YUV2BGR_YUY2, chroma=1), channels=2)
_LAYOUTS: dict[str, _Layout] = {
    "bgr8": _Layout(3, None),
    "8UC3": _Layout(3, None),
    "rgb8": _Layout(3, None, bgr=False),
    "bgra8": _Layout(4, _colour(cv2.COLOR_BGRA2BGR), channels=4),
    "8UC4": _Layout(4, _colour(cv2.COLOR_BGRA2BGR), channels=4),
    "rgba8": _Layout(4, _colour(cv2.COLOR_RGBA2BGR), channels=4),
    "mono8": _Layout(1, _colour(cv2.COLOR_GRAY2BGR), channels=1),
    "8UC1": _Layout(1, _colour(cv2.COLOR_GRAY2BGR), channels=1),
    "mono16": _Layout(2, _sixteen_bit(cv2.COLOR_GRAY2BGR), channels=2),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Layout(1, _colour(cv2.COLOR_YUV2BGR_NV12), channels=1, even=True, planes=3),
    "nv21": _Layout(1, _colour(cv2.COLOR_YUV2BGR_NV21), channels=1, even=True, planes=3),
    **{f"{name}8": _Layout(1, _colour(code), channels=1) for name, code in _BAYER.items()},
    **{f"{name}16": _Layout(2, _sixteen_bit(code), channels=2) for name, code in _BAYER.items()},
}
_INSTALL = "sudo apt install ros-$ROS_DISTRO-cv-bridge"
_SIXTEEN_BIT = {name for name in _LAYOUTS if name.endswith("16")}
_DEPTH = {"16UC1", "32FC1", "64FC1", "16SC1"}
ENCODINGS = tuple(_LAYOUTS)


def picture_of(message: Any, *, compressed: bool = False, live: bool = True) -> Picture | Refusal:
    """A sensor_msgs/Image or CompressedImage, or anything with its fields, checked. Never raises.

    live: refuse what may take longer than MAX_DECODE_S to decode, or more memory than MAX_DECODE_BYTES.
    """
    try:
        return _compressed_picture(message, live) if compressed else _raw_picture(message)
    except _Refused as refused:
        return Refusal(str(refused))
    except Exception as error:  # a field of the wrong type
        return Refusal(f"image cannot be decoded: {one_line(error)[:160]}")


def decode(message: Any, *, compressed: bool = False, live: bool = True) -> Decoded | Refusal:
    """The same with its pixels: uint8 (H, W, 3); of a compressed image in BGR order. Never raises."""
    found = picture_of(message, compressed=compressed, live=live)
    if isinstance(found, Refusal):
        return found
    try:
        return Decoded(found.pixels(), found.bgr)
    except ImageError as error:
        return Refusal(str(error))


def _raw_picture(message: Any) -> Picture:
    width, height, step = int(message.width), int(message.height), int(message.step)
    encoding = str(message.encoding)
    size = len(message.data)
    _check_size(width, height)
    if encoding in _DEPTH:
        raise _Refused(f"encoding {encoding} is a depth image; remap `image` to the colour camera")
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        return _through_cv_bridge(message, encoding, step, height, size)
    if layout.even and (width % 2 or height % 2):
        raise _Refused(f"{encoding} needs an even size, got {width}x{height}")
    if step < width * layout.bytes_per_pixel:
        raise _Refused(
            f"step {step} is less than a row of {width} {encoding} pixels ({width * layout.bytes_per_pixel})"
        )
    rows = height * layout.planes // 2
    if size != step * rows:
        raise _Refused(f"{size} bytes of data, but {rows} rows of step {step} are {step * rows}")
    shape: tuple[int, ...] = (rows, width) if layout.channels == 1 else (rows, width, layout.channels)
    strides = (step, 1) if layout.channels == 1 else (step, layout.channels, 1)
    pixels: np.ndarray = np.ndarray(shape, np.uint8, buffer=message.data, strides=strides)
    if layout.convert is None:
        return Picture.of(pixels, layout.bgr)
    convert = layout.convert
    swapped = encoding in _SIXTEEN_BIT and bool(message.is_bigendian) != (sys.byteorder == "big")
    # cv2 takes padded rows as they are, except where a plane follows the padding.
    make = lambda: convert(np.ascontiguousarray(pixels[..., ::-1] if swapped else pixels))
    return Picture(width, height, layout.bgr, make)


def _check_size(width: int, height: int) -> None:
    try:
        coded.check_size(width, height)
    except ValueError as error:
        raise _Refused(str(error)) from None


def _through_cv_bridge(message: Any, encoding: str, step: int, height: int, size: int) -> Picture:
    if not encoding.strip():
        raise _Refused("the image names no encoding; let the driver publish bgr8")
    name = encoding if encoding.isprintable() and len(encoding) < 40 else ascii(encoding)[:40]
    if size != step * height:
        raise _Refused(
            f"{size} bytes of data, but {height} rows of step {step} are {step * height} (encoding {name})"
        )
    bridge = _cv_bridge()
    if isinstance(bridge, str):
        raise _Refused(f"encoding {name} is not supported here; {bridge}, or let the driver publish bgr8")
    try:
        image = bridge.imgmsg_to_cv2(message, desired_encoding="bgr8")
    except ImportError as error:  # its compiled half is loaded at its first use
        raise _Refused(f"encoding {name} is not supported here; {_broken(error)}") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise _Refused(f"cv_bridge made {image.dtype} {image.shape} of encoding {name}")
    return Picture.of(np.ascontiguousarray(image), True)


@functools.cache
def _cv_bridge() -> Any:
    """A CvBridge, or what to install. Asked once: an import that fails costs as much every time."""
    try:
        from cv_bridge import CvBridge  # type: ignore[import-not-found]

        return CvBridge()
    except ModuleNotFoundError as error:
        return _INSTALL if (error.name or "").split(".")[0] == "cv_bridge" else _broken(error)
    except Exception as error:
        return _broken(error)


def _broken(error: Exception) -> str:
    """What to do about a cv_bridge that is there and cannot be imported."""
    remedy = "install it again from ROS"
    if int(np.__version__.split(".")[0]) >= 2:
        remedy = (
            f"up to Ubuntu 24.04 it is compiled against NumPy 1, this is {np.__version__}: {pip('numpy<2')}"
        )
    return f"cv_bridge cannot be imported ({one_line(error)[:160]}); {remedy}"


def _compressed_picture(message: Any, live: bool) -> Picture:
    form = str(message.format)
    # image_transport: the encoding of the raw image, "; ", then what was made of it.
    kind = "compressedDepth" if "compressedDepth" in form else form.partition(";")[0].strip()
    if kind in {"compressedDepth", *_DEPTH}:
        raise _Refused(f"{kind} is a depth image; remap `image/compressed` to the colour camera")
    size = len(message.data)
    if size < 12:
        raise _Refused(f"compressed image of {size} bytes")
    data = memoryview(message.data).cast("B")
    try:
        extent = coded.extent(data)
    except ValueError as error:
        raise _Refused(str(error)) from None
    if extent is None:
        raise _Refused(f"compressed image is no JPEG, PNG, TIFF or WebP (format {ascii(form)[:60]})")
    width, height, end = extent[:3]
    _check_size(width, height)
    if width * height > size * MAX_PIXELS_PER_BYTE:  # a few bytes must not cost a buffer of gigabytes
        raise _Refused(f"compressed image of {size} bytes claims {width}x{height} pixels")
    if live and (extent.seconds > MAX_DECODE_S or extent.memory > MAX_DECODE_BYTES):
        raise _Refused(
            f"compressed image of {width}x{height} pixels and {end} bytes may take {extent.seconds:.2f} s and "
            f"{extent.memory >> 20} MB to decode; publish smaller ones"
        )
    # A Bayer pattern is compressed as it is, unless the format names what it was converted to (mono8).
    pattern = _MOSAICS.get(kind) if form.partition(" compressed")[2].strip() in ("", kind) else None
    # Drivers hand over whole buffers: what is behind the end mark is not part of the image.
    return Picture(width, height, True, lambda: _decompress(coded.picture(data[:end]), pattern))


def _decompress(data: memoryview, pattern: int | None) -> np.ndarray:
    """pattern: OpenCV's code for the colours of a Bayer pattern, None where the pixels are colours already."""
    # The orientation tag is ignored: raw and compressed topics of a camera must agree.
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (
        cv2.IMREAD_COLOR if pattern is None else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise _Refused("compressed image is corrupt")
    if pattern is None:
        return image
    return _mixed(image, pattern) if image.ndim == 2 else _decompress(data, None)
