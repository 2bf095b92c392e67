# SPDX-License-Identifier: Apache-2.0
"""Figures: the confusion matrix, and where a clip's glimpses were taken (Figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.palette import glimpse_colour
from trt_build.errors import DataError
from trt_build.files import writing_out


def confusion_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw the confusion matrix of `evaluate.report`, each row as shares of its class. Raises DataError."""
    from matplotlib.figure import Figure  # without pyplot, which would want a display

    counts = np.asarray(report["confusion"], float)
    columns = list(report["labels"])
    if not counts[:, -1].any():  # no clip without a result
        counts, columns = counts[:, :-1], columns[:-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(counts)
    side = min(3.0 + 0.32 * n, 24.0)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(n), columns[:n])
    axes.tick_params(labelsize=8 if n <= 30 else 5)
    axes.set(xlabel="recognised", ylabel="shown")
    axes.set_title(f"{100 * report['accuracy']:.1f} % of {report['clips']} clips", fontsize=10)
    if n <= 30:
        for (i, k), count in np.ndenumerate(counts):
            if count:
                dark = "white" if shares[i, k] > 0.5 else "black"
                axes.text(k, i, f"{count:.0f}", ha="center", va="center", fontsize=7, color=dark)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the class")
    try:
        with writing_out(path) as part:
            figure.savefig(part, dpi=120, format="png")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --confusion"
        ) from None


def glimpse_strip(clip: NDArray[np.uint8], l: NDArray[np.floating[Any]], scale: int = 2) -> NDArray[np.uint8]:
    """The frames of a clip side by side, each with its glimpses as rectangles in one colour a glimpse.

    clip: (T, S, S, 3) RGB; l: (T, G, 4) in [-1, 1] of the frame. Returns (scale * S, T * scale * S, 3).
    """
    S = clip.shape[1]
    frames = []
    for image, locations in zip(clip, l, strict=True):
        frame = cv2.resize(image, (scale * S, scale * S), interpolation=cv2.INTER_LINEAR)
        for g, (x, y, sx, sy) in enumerate(np.asarray(locations, float)):
            ends = [((v + 1) / 2 * scale * S) for v in (x - sx, y - sy, x + sx, y + sy)]
            x0, y0, x1, y1 = (round(v) for v in np.clip(ends, 0, scale * S - 1))
            colour = glimpse_colour(g)
            cv2.rectangle(frame, (x0, y0), (x1, y1), colour, scale)
            middle = (round((x + 1) / 2 * scale * S), round((y + 1) / 2 * scale * S))
            cv2.circle(frame, middle, 2 * scale, colour, -1)
        frames.append(np.asarray(frame, np.uint8))
    return np.concatenate(frames, 1)
