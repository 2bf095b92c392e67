# SPDX-License-Identifier: Apache-2.0
"""Two clips in one: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019), alike in all frames of a clip.

With a frozen front it is its maps or features that are mixed, as manifold mixup does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """A batch whose clips carry something of other clips. other: (B,) labels of those; share: of the clips' own."""

    batch: dict[str, Tensor]
    other: Tensor
    share: float

    def cross_entropy(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """L_D towards both labels by their shares."""
        own = F.cross_entropy(logits, self.batch["label"], label_smoothing=label_smoothing)
        if self.share == 1:
            return own
        other = F.cross_entropy(logits, self.other, label_smoothing=label_smoothing)
        return self.share * own + (1 - self.share) * other


def mix(batch: dict[str, Tensor], mixup: float, cutmix: float, rng: np.random.Generator) -> Mixed:
    """The batch with each clip mixed with another one of it.

    mixup, cutmix: parameter of the Beta(a, a) that the share is drawn from, 0 switches one off; where both are on, each
    batch takes one of them. A clip's own share is the larger one: labels, joints and places stay its own. "clip"
    (B, T, 3, S, S), "maps" or "Z" (B, T, D, h, w) are cut or blended, "c" (B, T, context) is blended.
    """
    labels = batch["label"]
    kinds = [kind for kind, a in (("blend", mixup), ("cut", cutmix)) if a > 0]
    if not kinds or len(labels) < 2:
        return Mixed(batch, labels, 1.0)
    kind = kinds[int(rng.integers(len(kinds)))]
    a = mixup if kind == "blend" else cutmix
    share = float(rng.beta(a, a))
    share = max(share, 1 - share)
    order = torch.as_tensor(rng.permutation(len(labels)), device=labels.device)
    mixed = dict(batch)
    if kind == "cut":
        name = next(n for n in ["clip", "maps", "Z"] if n in batch)
        height, width = batch[name].shape[-2:]
        rows, columns, share = _box(height, width, share, rng)
        mixed[name] = batch[name].clone()
        mixed[name][..., rows, columns] = batch[name][order][..., rows, columns]
    blended = ["c"] if kind == "cut" else ["clip", "maps", "Z", "c"]
    for name in blended:
        if name in batch:
            part = batch[name].float()
            mixed[name] = share * part + (1 - share) * part[order]
    return Mixed(mixed, labels[order], share)


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[slice, slice, float]:
    """Rows and columns of a box that leaves about `share` of the picture, and what it leaves."""
    side = np.sqrt(1 - share)
    h, w = round(height * side), round(width * side)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return slice(top, top + h), slice(left, left + w), 1 - h * w / (height * width)
