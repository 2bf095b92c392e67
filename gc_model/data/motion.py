# SPDX-License-Identifier: Apache-2.0
"""Where something moves in a clip: places that training takes for joints where a data set has none.

In most clips of activities people are what moves. The cells that differ most between frames are a weak but free
substitute for a Kinect's joints: L_G2 draws glimpses to them, and nothing is regressed from them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

CELLS = 16  # a side of the grid
PLACES = 8  # the strongest cells of a frame
NOISE = 6.0  # grey levels of a cell's mean difference below which nothing counts as moving


def moving_places(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Centres (T, PLACES, 2) of the cells that change most from or to a neighbouring frame, as fractions of the frame.

    images: (T, R, R, 3) RGB. NaN where fewer cells move. A change that is the same everywhere, as of a camera that
    turns, tells nothing of people: the frame's median difference is subtracted.
    """
    side = 4 * CELLS
    grey = np.stack([_small_grey(image, side) for image in images])
    found = np.full((len(images), PLACES, 2), np.nan, np.float32)
    if len(images) < 2:
        return found
    steps = np.abs(np.diff(grey, axis=0))
    # Each frame by the larger of the changes before and after it.
    change = np.maximum(np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]]))
    cells = change.reshape(-1, CELLS, 4, CELLS, 4).mean((2, 4))
    for t in range(len(images)):
        flat = cells[t].ravel() - np.median(cells[t])
        best = np.argsort(-flat, kind="stable")[:PLACES]
        best = best[flat[best] > max(NOISE, 0.25 * float(flat.max()))]
        y, x = np.divmod(best, CELLS)
        found[t, : len(best)] = (np.stack([x, y], -1) + 0.5) / CELLS
    return found


def _small_grey(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.blur(small, (3, 3)).astype(np.float32)
