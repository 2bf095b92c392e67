# SPDX-License-Identifier: Apache-2.0
"""What the pictures of results are drawn with: colours, text, bars, and the camera image at the size of the picture."""

from __future__ import annotations

import unicodedata
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.palette import Colour
from trt_build.preprocess import check_image

Canvas = NDArray[np.uint8]

BACK, LINE, TRACK = (17, 21, 28), (44, 52, 64), (36, 43, 54)
TEXT, MUTED, WARN = (240, 243, 247), (136, 148, 164), (250, 190, 60)
ACCENT, OTHER = (92, 200, 250), (88, 104, 126)
PANEL_W, PANEL_H = 320, 480  # design size of the panel; it is scaled to the height of the picture
FINE = 2  # the panel is drawn this much larger and scaled down, which makes Hershey letters smooth
_FONT = cv2.FONT_HERSHEY_DUPLEX
_WIDEST = 2.4  # widest picture, as a multiple of its height


def scaled(image_rgb: NDArray[np.uint8], height: int | None) -> tuple[Canvas, int]:
    """A copy of the image as large as fits into a picture of this height, and that height.

    height: default: the image's, between 480 and 720; even. Raises ImageError for an unusable image.
    """
    check_image(image_rgb)
    rows, columns = image_rgb.shape[:2]
    height = (height or min(max(rows, 480), 720)) // 2 * 2
    scale = min(height / rows, _WIDEST * height / columns)
    width = max(round(columns * scale) // 2 * 2, 2)
    size = (width, max(min(round(rows * scale), height), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_rgb, size, interpolation=method), np.uint8), height


def filled(view: Canvas, height: int) -> Canvas:
    """The view as high as the picture: a panorama, which is as wide as allowed, gets empty stripes."""
    spare = height - view.shape[0]
    return np.pad(view, ((spare // 2, spare - spare // 2), (0, 0), (0, 0))) if spare > 0 else view


def new_panel(height: int) -> tuple[Canvas, int, int, float]:
    """An empty panel for a picture of this height, its left and right margin, and the unit of its design size."""
    u = height / PANEL_H * FINE
    panel: Canvas = np.empty((height * FINE, panel_width(height) * FINE, 3), np.uint8)
    panel[:] = BACK
    return panel, round(24 * u), panel.shape[1] - round(24 * u), u


def panel_width(height: int) -> int:
    """Pixels of the panel beside a picture of this height."""
    return round(PANEL_W * height / PANEL_H) // 2 * 2


def finished(panel: Canvas, height: int) -> Canvas:
    """The panel as it stands beside the picture."""
    size = (panel_width(height), height)
    return np.asarray(cv2.resize(panel, size, interpolation=cv2.INTER_AREA), np.uint8)


def bar(panel: Canvas, x0: int, x1: int, y: int, thick: int, colour: Colour) -> None:
    """Draw a bar with round ends."""
    r = thick // 2
    cv2.line(panel, (x0 + r, y + r), (max(x1 - r, x0 + r), y + r), colour, thick, cv2.LINE_AA)


def put_text(
    canvas: Canvas,
    text: str,
    x: int,
    y: int,
    pixels: float,
    colour: Colour,
    *,
    align: float = 0.0,
    room: int | None = None,
    bold: bool = False,
) -> None:
    """Write text with its baseline at y, capitals `pixels` high; what exceeds `room` is made smaller, then cut."""
    # Hershey fonts know ASCII only.
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"
    thick = max(1, round(pixels / (9 if bold else 14)))
    scale = pixels / 22.0  # Hershey capitals are 22 units tall
    width = text_width(text, scale, thick)
    if room is not None and width > room:
        shrink = max(room / width, 0.7)
        scale, thick = scale * shrink, max(1, round(thick * shrink))
        while len(text) > 4 and text_width(text, scale, thick) > room:
            text = text[:-4] + "..."
        width = text_width(text, scale, thick)
    cv2.putText(canvas, text, (round(x - align * width), y), _FONT, scale, colour, thick, cv2.LINE_AA)


def text_width(text: str, scale: float, thick: int) -> Any:
    return cv2.getTextSize(text, _FONT, scale, thick)[0][0]
