# SPDX-License-Identifier: Apache-2.0
"""The read-out over time: from the logits y_t of single frames to the logits of a window (Eq 12).

The window graph ends in its own read-out, which the export writes. A step graph puts out y_t; it is exported only for
models that read out by the mean, and what runs it takes the mean here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def read_out(y: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits (K,) of the window whose frames have the logits y_t (K,)."""
    return np.stack(list(y)).mean(axis=0, dtype=np.float32)
