# SPDX-License-Identifier: Apache-2.0
"""What the tests of the overlays have in common: a result to draw, and where a colour is in a picture."""

from __future__ import annotations

import numpy as np

from gc_ros.recognition.recognizer import Activity, Recognizer
from tests.toy import number_image
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine


def result_of(numbers: LoadedBundle) -> Activity:
    """The result of the first window of a 640 x 480 camera."""
    r = Recognizer(numbers, open_engine(numbers, "window", threads=1))
    for i in range(8):
        result = r.push(number_image(i, 640, 480), i * 125_000_000, bgr=False)
    assert result is not None
    return result


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere(np.abs(picture.astype(int) - colour).max(axis=-1) < 12)
