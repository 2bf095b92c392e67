# SPDX-License-Identifier: Apache-2.0
"""f: what a network here asks of the part that turns frames into feature maps.

A new trunk is an `nn.Module` with these methods and a line in `gc_model.paper.variants.trunk_of`. Frames lie in the
batch axis, clip after clip: (B*T, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

RESOLUTIONS = 5  # that a trunk has after its stem; the last map of the one before the last is the context map


class Trunk(Protocol):
    """Maps T normalised frames to T maps Z and T context maps, whole clips at once or one new frame at a time.

    channels: D of Z. context_channels: those of the context map, whose spatial mean is c; 0 where there is no context.
    """

    channels: int
    context_channels: int

    def front(self, x: Tensor, T: int) -> Tensor:
        """Frames (B*T, 3, H, W) of clips of T -> context maps (B*T, C_c, h, w)."""

    def back(self, context: Tensor, T: int) -> Tensor:
        """Context maps -> Z (B*T, D, h, w); where a trunk makes one feature of a clip, (B, D, h, w)."""

    def step(self, x: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One new frame (B, 3, H, W) -> Z (B, D, h, w), its context map and the caches for the next one.

        Equal to the last frame of `back` and `front`. Raises ValueError for a trunk that looks ahead.
        """

    def back_step(self, context: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`back` for one new frame's context map (B, C_c, h, w), with the caches as `step` takes and returns them.

        For a front that sees one frame at a time, whose own caches therefore stay as they are.
        """

    def cache_shapes(self, size: int) -> list[tuple[int, ...]]:
        """Shape of every cache without B, for frames of size x size; zeros are the past of a clip's first frame."""

    def sees_one_frame(self, whole: bool) -> bool:
        """Whether `front`, or the whole trunk, maps each frame by itself: its maps can be stored and streamed."""

    def weights(self, whole: bool) -> dict[str, Tensor]:
        """Parameters and statistics by name that Z follows from, or without `whole` the context map."""

    def first_parameters(self, resolutions: int) -> list[nn.Parameter]:
        """Those of the stem and the first 1 to `RESOLUTIONS` resolutions; of all but one they are the front's."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As `nn.Module`."""

    def modules(self) -> Iterator[nn.Module]:
        """As `nn.Module`."""
