# SPDX-License-Identifier: Apache-2.0
"""How far two runs of one network may differ: at export, between engines, and in INT8; and how it is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Export: every output of ONNX Runtime in FP32 against PyTorch in float32, largest absolute difference.
EXPORT_TOLERANCE = 1e-4
# Where PyTorch itself is further from its float64 result, so many times as far as it.
EXPORT_ROUNDING = 3.0

# Engines: largest `error_of` by precision and tensor; "state" stands for every state. FP32 differs by the order of sums
# alone. 0.045 on the logits is a cosine of 0.999.
TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": {"logits": 2e-3, "embedding": 2e-3, "glimpses": 2e-3, "assignment": 2e-3, "state": 5e-3},
    "fp16": {"logits": 0.045, "embedding": 0.045, "glimpses": 0.045, "assignment": 0.045, "state": 0.06},
    "bf16": {"logits": 0.15, "embedding": 0.15, "glimpses": 0.15, "assignment": 0.15, "state": 0.2},
    "int8": {"logits": 0.15, "embedding": 0.2, "glimpses": 0.2, "assignment": 0.2, "state": 0.3},
}
# Engines: least part of equal labels.
AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.99, "int8": 0.99}

# Quantising: a quarter of what verification allows in INT8, so that other clips and longer streams pass as well. Of the
# logits a fiftieth: the error is three times as large on clips unlike those that the ranges come from, and the labels
# of a model that is unsure of them change with every error.
INT8_LIMITS = {name: TOLERANCES["int8"][name] / 4 for name in ("embedding", "glimpses", "assignment")}
INT8_LIMITS["logits"] = TOLERANCES["int8"]["logits"] / 50


def spread(expected: NDArray[Any]) -> float:
    """Standard deviation of a tensor; its root mean square where it does not vary, as a clamped one may not."""
    values = expected.astype(np.float64)
    deviation, size = float(values.std()), float(np.sqrt(np.mean(values**2)))
    return deviation if deviation > 1e-6 * max(size, 1e-12) else max(size, 1e-12)


def relative_error(ours: NDArray[Any], theirs: NDArray[Any], deviation: float) -> float:
    """Root mean square of the difference, in units of `deviation`."""
    return float(np.sqrt(np.mean((ours.astype(np.float64) - theirs) ** 2)) / deviation)


def choice_errors(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.float64]:
    """Error of each entry of axis 0 of an assignment (n, ..., C, G), or of the state that holds those of the past.

    Mean absolute difference, in units of the mean absolute deviation of all of `theirs`: 0 is the same, about 1.5 that
    of another time. Sharp workers choose one glimpse. Where two are nearly as good, the least difference makes an
    engine choose the other, and keep to it for as long as the memory holds it. A root mean square would count these few
    entries by the square of their difference; this counts them by how many they are.
    """
    expected = theirs.astype(np.float64)
    size = float(np.abs(expected).mean())
    deviation = float(np.abs(expected - expected.mean()).mean())
    difference = np.abs(ours - expected).mean(axis=tuple(range(1, expected.ndim)))
    return np.asarray(difference / (deviation if deviation > 1e-6 * max(size, 1e-12) else max(size, 1e-12)))


def error_of(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Error of the tensor called `name`: mean of `choice_errors` of the assignment, `relative_error` of all others."""
    if name == "assignment":
        return float(choice_errors(ours, theirs).mean())
    return relative_error(ours, theirs, spread(theirs))
