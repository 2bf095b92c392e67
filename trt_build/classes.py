# SPDX-License-Identifier: Apache-2.0
"""`classes.safetensors`: how the windows of the training clips lie in the space that new activities are taught in.

F features a window, `trt_build.readout.pool` of its T embeddings. Within a class they scatter by the pooled
covariance, which is kept as `factor.T @ factor + diag(rest)`: shrunk towards its diagonal, and a few hundred times
smaller than F x F. With mean and count of each class this is all that a linear discriminant over old and new classes
needs; no clip, and no window of one, can be found in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build import tensors
from trt_build.bundle import CLASSES_NAME, Bundle, LoadedBundle
from trt_build.errors import BundleError
from trt_build.integrity import again, unchanged
from trt_build.readout import POOLED
from trt_build.untrusted import read_regular

WINDOWS_A_CLIP = 2  # that the export takes, at most
# Rows of `factor`: with 32 and with 256 as many clips are recognised (the episodes of docs/own-activities.md).
MAX_RANK = 64
MAX_CLASSES_BYTES = 256 << 20


@dataclass(frozen=True)
class ClassStatistics:
    """Of the K classes of a bundle, in its order.

    count: (K,) windows. mean: (K, F). factor: (r, F) and rest: (F,), the covariance within a class.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float32]
    factor: NDArray[np.float32]
    rest: NDArray[np.float32]

    def rounded(self, significant_bits: int) -> ClassStatistics:
        """The same in shorter floats; the covariance stays one, since it is kept as a factor."""
        mean, factor, rest = (
            tensors.rounded(part, significant_bits) for part in (self.mean, self.factor, self.rest)
        )
        return replace(self, mean=mean, factor=factor, rest=rest)

    @classmethod
    def of(cls, features: NDArray[Any], labels: NDArray[Any], classes: int) -> ClassStatistics:
        """From windows' features (n, F) and class indices (n,) of `classes` classes, each with a window or more.

        The covariance is shrunk by the intensity of Ledoit and Wolf (2004) towards its diagonal, in units of it.
        """
        x = np.asarray(features, np.float64)
        count = np.bincount(labels, minlength=classes).astype(np.int64)
        mean = np.stack([x[labels == k].mean(axis=0) for k in range(classes)])
        residual = x - mean[labels]
        free = max(len(x) - classes, 1)
        variance = (residual**2).sum(axis=0) / free
        # A feature that never varies, as one behind a dead ReLU, must not weigh without bound.
        variance = np.maximum(variance, 1e-4 * variance.mean() + 1e-12)
        units = residual / np.sqrt(variance)
        shrink = _shrinkage(units)
        _, singular, directions = np.linalg.svd(units / np.sqrt(free), full_matrices=False)
        rank = min(MAX_RANK, int((singular > 1e-6).sum()))
        factor = np.sqrt(1 - shrink) * singular[:rank, None] * directions[:rank]
        rest = np.maximum(1 - (factor**2).sum(axis=0), 1e-3)
        factor, rest = factor * np.sqrt(variance), rest * variance
        return cls(count, mean.astype(np.float32), factor.astype(np.float32), rest.astype(np.float32))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return tensors.to_bytes(vars(self))


def read_classes(bundle: LoadedBundle) -> ClassStatistics | None:
    """The statistics of a bundle; None where it has none.

    Raises BundleError where they do not fit the bundle, or are others than when it was loaded.
    """
    if CLASSES_NAME not in bundle.info.sha256:
        return None
    try:
        content = read_regular(bundle.path, CLASSES_NAME, MAX_CLASSES_BYTES)
        # A node may ask hours after it loaded the bundle, whose folder may hold another one by now.
        unchanged(
            bundle.path,
            CLASSES_NAME,
            hashlib.sha256(content).hexdigest(),
            bundle.info.sha256[CLASSES_NAME],
        )
        found = tensors.from_bytes(content)
        _check(found, bundle.info)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{bundle.path}: {CLASSES_NAME} cannot be used ({error}); {again(bundle.path)}"
        ) from None
    return ClassStatistics(**{name: found[name] for name in ("count", "mean", "factor", "rest")})


def _check(found: dict[str, NDArray[Any]], info: Bundle) -> None:
    K, F = len(info.labels), POOLED * info.embedding
    rank = len(found["factor"]) if "factor" in found and found["factor"].ndim == 2 else 0
    wanted = {"count": (K,), "mean": (K, F), "factor": (rank, F), "rest": (F,)}
    for name, shape in wanted.items():
        array = found.get(name)
        kind = np.int64 if name == "count" else np.float32
        if array is None or array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
            raise ValueError(f"{name} is not {np.dtype(kind).name} {shape} of finite numbers")
    if not (found["count"] > 0).all() or not (found["rest"] > 0).all():
        raise ValueError("a count or a variance is not positive")


def _shrinkage(x: NDArray[np.float64]) -> float:
    """Ledoit and Wolf's intensity, 0 to 1, for centred rows (n, F) of unit variance and the identity as target."""
    n, F = x.shape
    if n < 2:
        return 1.0
    product = x.T @ x if n >= F else x @ x.T  # both have the covariance's norm
    size = float((product**2).sum()) / n**2
    squares = (x**2).sum(axis=1)
    noise = float((squares**2).sum()) / n**2 - size / n
    apart = size - 2 * float(squares.sum()) / n + F
    return float(np.clip(noise / max(apart, 1e-12), 0.0, 1.0))
