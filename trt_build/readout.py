# SPDX-License-Identifier: Apache-2.0
"""The read-out over time: from the logits y_t of single frames to the logits of a window (Eq 12).

The window graph ends in its own read-out, which the export writes. A step graph puts out y_t; it is exported only for
models that read out by the mean, and what runs it takes the mean here.

Also from the embeddings of single frames to the features that a window is taught by.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def read_out(y: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits (K,) of the window whose frames have the logits y_t (K,)."""
    return np.stack(list(y)).mean(axis=0, dtype=np.float32)


POOLED = 3  # features a window for each of a frame: mean, deviation, change


def pool(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (POOLED * E,) of the window whose T frames have the embeddings (T, E), oldest first.

    Their mean and their deviation over time, and the mean size of the change from frame to frame, which tells a slow
    movement from a quick one.
    """
    e = np.asarray(embeddings, np.float32)
    change = np.abs(np.diff(e, axis=0)).mean(axis=0) if len(e) > 1 else np.zeros_like(e[0])
    return np.concatenate([e.mean(axis=0), e.std(axis=0), change])
