# SPDX-License-Identifier: Apache-2.0
"""From a camera image to the model's input, and from glimpses back to pixels.

Training, bags, videos and the node share these functions. The host only crops and resizes, once and in uint8; scaling
and normalisation are inside the graphs.

Convention: pixel rectangles are (x0, y0, x1, y1) on the edges of pixels, so an image is (0, 0, width, height).

fit="stretch" is the paper's: resize to 256 x 256, ignoring the aspect, and use the central 224 x 224. Here the original
is cropped first and resized once to 224 x 224, which gives the same with less work: equal to the last bit where the
crop falls on whole pixels (640x480, 1280x720), else with the crop rounded to whole pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trt_build.bundle import Preprocess
from trt_build.errors import ImageError

PAD_VALUE = 124  # near the ImageNet mean in every channel, so it is the same in RGB and BGR
Area = tuple[int, int, int, int]  # a square (x0, y0, x1, y1) of whole pixels; it may reach beyond the image


def region(width: int, height: int, p: Preprocess) -> tuple[float, float, float, float]:
    """Rectangle (x0, y0, x1, y1) of the original image, in pixels, that maps to the S x S model input.

    With fit="pad" it exceeds the image along the shorter side. Raises ImageError for an empty image.
    """
    if width < 1 or height < 1:
        raise ImageError(f"image of {width} x {height} pixels is empty; check the camera")
    full_w, full_h = width, height
    if p.fit == "square":
        full_w = full_h = min(width, height)
    elif p.fit == "pad":
        full_w = full_h = max(width, height)
    x0, x1 = _span(width, full_w, p)
    y0, y1 = _span(height, full_h, p)
    return float(x0), float(y0), float(x1), float(y1)


def _span(length: int, full: int, p: Preprocess) -> tuple[int, int]:
    """The central size/resize of an interval of `full` pixels that is centred on `length` pixels."""
    start = (length - full) // 2
    border = (p.resize - p.size) // 2  # the same integer offset that a centre crop of the resized image uses
    first = start + int(full * border / p.resize + 0.5)
    last = start + int(full * (border + p.size) / p.resize + 0.5)
    if last <= first:  # images of a few pixels
        first = min(max(first, 0), length - 1)
        last = first + 1
    return first, last


def _within(area: Area, p: Preprocess) -> tuple[float, float, float, float]:
    """Rectangle of the image that maps to the model input where only `area` is shown, as if it were an image."""
    side = area[2] - area[0]
    if side < 1 or side != area[3] - area[1]:
        raise ImageError(f"an area of {area} is no square; see gc_ros.recognition.region")
    x0, y0, x1, y1 = region(side, side, p)
    return area[0] + x0, area[1] + y0, area[0] + x1, area[1] + y1


def model_input(
    image: NDArray[np.uint8], p: Preprocess, *, bgr: bool, area: Area | None = None
) -> NDArray[np.uint8]:
    """The model's input from an image: uint8 (H, W, 3), RGB or BGR, any stride -> new contiguous uint8 RGB (S, S, 3).

    One crop and one resize. area: the square to show instead of the whole image; the result is that of the square cut
    out and given as an image, where what lies beyond the image is grey (PAD_VALUE). Raises ImageError for anything
    but a non-empty uint8 image of three channels.
    """
    check_image(image)
    height, width = image.shape[:2]
    bounds = region(width, height, p) if area is None else _within(area, p)
    x0, y0, x1, y1 = (int(v) for v in bounds)
    size = p.size
    cx0, cy0, cx1, cy1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    part = image[cy0:cy1, cx0:cx1]
    inside = (cx0, cy0, cx1, cy1) == (x0, y0, x1, y1)
    if area is not None and not inside:
        # Padded before the resize: scaled to its own place, the part inside would be off by part of a pixel.
        padded = np.full((y1 - y0, x1 - x0, 3), PAD_VALUE, np.uint8)
        if cx1 > cx0 and cy1 > cy0:
            padded[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0] = part
        part, inside = padded, True
    if inside:
        out = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        # No padded copy is made: the part inside the image is resized to its place on a grey canvas.
        out = np.full((size, size, 3), PAD_VALUE, np.uint8)
        dx0, dx1 = _place(cx0, cx1, x0, x1, size)
        dy0, dy1 = _place(cy0, cy1, y0, y1, size)
        out[dy0:dy1, dx0:dx1] = cv2.resize(part, (dx1 - dx0, dy1 - dy0), interpolation=cv2.INTER_LINEAR)
    if bgr:
        cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)
    return np.ascontiguousarray(out, dtype=np.uint8)


def _place(first: int, last: int, start: int, stop: int, size: int) -> tuple[int, int]:
    """The output pixels that pixels first..last map to when start..stop is resized to `size` pixels."""
    scale = size / (stop - start)
    a = min(int((first - start) * scale + 0.5), size - 1)
    b = int((last - start) * scale + 0.5)
    return a, max(b, a + 1)


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless `image` is a non-empty uint8 array (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"expected a uint8 image (H, W, 3), got {found}; convert it first")
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"image of {image.shape[1]} x {image.shape[0]} pixels is empty; check the camera")


def glimpse_to_pixels(
    glimpses: ArrayLike, width: int, height: int, p: Preprocess, area: Area | None = None
) -> NDArray[np.float64]:
    """Glimpses l = [x, y, sx, sy] (..., 4) -> boxes (x0, y0, x1, y1) (..., 4) in pixels of the original image.

    x, y in [-1, 1] are the centre and sx, sy in (0, 1) the half extents in normalised coordinates of the model input
    (affine [[sx, 0, x], [0, sy, y]], align_corners=False: -1 and 1 are the outer edges). Boxes are clipped to the
    image; a box outside it becomes an empty box on the border. area: the square that the model input shows.
    """
    values = np.asarray(glimpses, np.float64)
    x0, y0, x1, y1 = region(width, height, p) if area is None else _within(area, p)
    start, extent = np.array([x0, y0]), np.array([x1 - x0, y1 - y0])
    centre = start + (values[..., :2] + 1) / 2 * extent
    half = values[..., 2:] / 2 * extent
    limit = np.array([width, height], np.float64)
    low, high = np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)
    return np.concatenate([low, high], axis=-1)
