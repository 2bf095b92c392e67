# SPDX-License-Identifier: Apache-2.0
"""The trunk of the paper: a 2-D ImageNet network inflated in time (section 3; Carreira and Zisserman's I3D rule).

One rule: every k x k convolution but the stem becomes 3 x k x k; everything else stays 2-D, frames lying in
the batch axis. Spatial pooling only: T frames in, T feature maps out.

A convolution 3 x k x k over time is evaluated in three ways that give the same numbers:

* Conv3d over the clip, the form that is trained and whose weights are kept;
* Conv2d over the concatenated channels of the three frames, the form of `window.onnx` (gc_model.export.fold);
* the same Conv2d with the two past frames taken from a cache, one frame at a time: `step`.

A grouped (depthwise) one is three Conv2d instead, one for each tap, whose results are summed. In `step` all three see
the new frame alone, and the cache holds what the past adds: A to this frame's result, B to the next one's. That moves a
third of the memory, and moving memory is what a depthwise convolution costs.
"""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before timm

# isort: split
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gc_model.paper.depthwise import depthwise_clip
from gc_model.paper.modes import evaluating
from gc_model.paper.shapes import merge, split

TAPS = 3  # temporal extent of an inflated kernel


@dataclass
class Pass:
    """What one forward pass tells the inflated convolutions, and what they return beside their result.

    frames: T of a clip pass, 0 in a step pass. past: the caches read by a step, written: those it leaves.
    """

    frames: int = 0
    past: Sequence[Tensor] = ()
    written: list[Tensor] = field(default_factory=list)


class InflatedConv(nn.Module):
    """A k x k convolution as a 3 x k x k one over frames t-1, t, t+1 (centered) or t-2, t-1, t (causal).

    Weights: (out, in / groups, 3, k, k). The tap at the current frame starts as the 2-D kernel and the others
    as zero, so a static video gives the 2-D network's features exactly.
    """

    def __init__(self, conv: nn.Conv2d, temporal: str, index: int):
        super().__init__()
        self.causal = temporal == "causal"
        self.index = index  # place of the first of its caches
        self.groups = conv.groups
        self.stride: tuple[int, int] = (int(conv.stride[0]), int(conv.stride[1]))
        self.caches = 1 if conv.groups == 1 else TAPS - 1  # frames t-2 and t-1 in one, or A and B
        self.kernel: tuple[int, int] = (conv.kernel_size[0], conv.kernel_size[1])
        # timm's Conv2dSame pads as TensorFlow does: by the input's size, the odd pixel at the end.
        self.same = type(conv).__name__ == "Conv2dSame"
        self.padding = (0, 0) if self.same else (int(conv.padding[0]), int(conv.padding[1]))
        self.now = TAPS - 1 if self.causal else TAPS // 2
        weight = torch.zeros(*conv.weight.shape[:2], TAPS, *self.kernel, dtype=conv.weight.dtype)
        weight[:, :, self.now] = conv.weight.detach()
        self.weight = nn.Parameter(weight)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        """x: (B*T, in, H, W) in a clip pass, (B, in, H, W) in a step pass."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        alone = not trains and self.sees_one_frame()
        if not now.frames and self.groups == 1:
            frames = torch.cat([now.past[self.index], x[:, None]], 1)  # (B, 3, in, H, W), oldest first
            now.written.append(frames[:, 1:])
            x = x if alone else merge(frames, 1, 2)
        x, padding = self._pad(x)
        if self.groups > 1 and not now.frames:
            y, written = sums_of_taps(self._taps(x, padding), now.past[self.index : self.index + self.caches])
            now.written += written
            return y
        if alone:
            return F.conv2d(x, self.weight[:, :, self.now], self.bias, self.stride, padding, 1, self.groups)
        if not now.frames:
            return F.conv2d(x, concatenated_weight(self.weight), self.bias, self.stride, padding)
        if trains and self.groups > 1:
            return depthwise_clip(x, self.weight, self.bias, now.frames, self.now, self.stride, padding)
        return self._clip(x, now.frames, padding)

    def sees_one_frame(self) -> bool:
        """Whether no other frame weighs in, as in a trunk that still is the 2-D network: a third of the work."""
        weight = self.weight.detach()
        return not any(bool(weight[:, :, i].any()) for i in range(TAPS) if i != self.now)

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if not self.same:
            return x, self.padding
        (top, bottom), (left, right) = same_padding(x.shape[-2:], self.kernel, self.stride)
        if (top, left) == (bottom, right):
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom)), (0, 0)

    def _clip(self, x: Tensor, T: int, padding: tuple[int, int]) -> Tensor:
        clip = split(x, 0, T).transpose(1, 2)
        clip = F.pad(clip, (0, 0, 0, 0, *self._time_padding()))
        y = F.conv3d(clip, self.weight, self.bias, (1, *self.stride), (0, *padding), groups=self.groups)
        return merge(y.transpose(1, 2), 0, 1)

    def _taps(self, x: Tensor, padding: tuple[int, int]) -> list[Tensor]:
        """Each tap's result of x, oldest first; the current frame's includes the bias."""
        return [
            F.conv2d(
                x, self.weight[:, :, i], self.bias if i == self.now else None, self.stride, padding, 1, self.groups
            )
            for i in range(TAPS)
        ]  # fmt: skip

    def _time_padding(self) -> tuple[int, int]:
        return (TAPS - 1, 0) if self.causal else (TAPS // 2, TAPS // 2)


def same_padding(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """TensorFlow's SAME padding of a (H, W) map: ((top, bottom), (left, right))."""
    pairs = []
    for n, k, s in zip(shape, kernel, stride, strict=True):
        total = max((-(-int(n) // s) - 1) * s + k - int(n), 0)
        pairs.append((total // 2, total - total // 2))
    return pairs[0], pairs[1]


def concatenated_weight(weight: Tensor) -> Tensor:
    """The (out, in, 3, k, k) kernel as (out, 3 * in, k, k), over the concatenated channels of three frames."""
    return weight.transpose(1, 2).flatten(1, 2)


def sums_of_taps(taps: Sequence[Tensor], past: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(y_t, the new A and B) of a causal convolution from its taps' results of x_t, oldest first, and the old A and B.

    y_t = K_2 x_t + A_t, A_{t+1} = K_1 x_t + B_t, B_{t+1} = K_0 x_t; nothing before the first frame, both zero.
    """
    oldest, middle, newest = taps
    A, B = past
    return newest + A, [middle + B, oldest]


class InflatedTrunk(nn.Module):
    """f: a timm network by name as a `Trunk`; temporal: "causal", "centered", or None for a network of single frames.

    Z is the last map (stride 32), c_t the spatial mean of the penultimate resolution's (stride 16).
    """

    def __init__(self, architecture: str, temporal: str | None, **arguments: Any):
        super().__init__()
        self.net: nn.Module = timm.create_model(
            architecture, pretrained=False, features_only=True, **arguments
        )
        info: Any = self.net.feature_info
        self.context_channels, self.channels = (int(n) for n in info.channels()[-2:])
        self.inflated: list[Any] = [] if temporal is None else inflate(self.net, temporal)
        self.depthwise = bool(self.inflated) and all(conv.groups > 1 for conv in self.inflated)
        self._chain, self._context = chain(self.net)
        self._pass = Pass()
        for conv in self.inflated:
            conv.register_forward_pre_hook(self._tell, with_kwargs=True)

    def _tell(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (*args, self._pass), kwargs  # timm's blocks call conv(x): the pass has to be added

    def replace(self, i: int, by: nn.Module) -> None:
        """Put `by` in the place of the i-th inflated convolution; it is called as that was, with x and the pass."""
        name = next(name for name, module in self.net.named_modules() if module is self.inflated[i])
        by.register_forward_pre_hook(self._tell, with_kwargs=True)
        self.net.set_submodule(name, by)
        self.inflated[i] = by

    def front(self, x: Tensor, T: int) -> Tensor:
        """Frames (B*T, 3, H, W) -> the penultimate resolution's maps (B*T, C_c, H/16, W/16)."""
        return self._run(x, Pass(frames=T), self._chain[: self._context])

    def back(self, context: Tensor, T: int) -> Tensor:
        """From those maps to Z (B*T, D, H/32, W/32)."""
        return self._run(context, Pass(frames=T), self._chain[self._context :])

    def step(self, x: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One new frame (B, 3, H, W), with what convolutions keep of the past from `caches`: Z, context map, caches."""
        now = Pass(past=caches)
        context = self._run(x, now, self._chain[: self._context])
        Z = self._run(context, now, self._chain[self._context :])
        return Z, context, now.written

    def back_step(self, context: Tensor, caches: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`back` for one new frame's map; caches as of `step`, the front's unchanged."""
        now = Pass(past=caches)
        Z = self._run(context, now, self._chain[self._context :])
        return Z, [*caches[: len(caches) - len(now.written)], *now.written]

    def cache_shapes(self, size: int) -> list[tuple[int, ...]]:
        """Of every cache for a size x size input, found by a pass over one black frame.

        (2, channels, H, W) of the last two inputs, or twice (channels, H, W) of a grouped convolution's sums.
        """
        shapes: list[tuple[int, ...]] = []
        hooks = []
        for conv in self.inflated:

            def note(module: InflatedConv, args: tuple, y: Tensor) -> None:
                kept = (TAPS - 1, *args[0].shape[1:]) if module.groups == 1 else tuple(y.shape[1:])
                shapes.extend([kept] * module.caches)

            hooks.append(conv.register_forward_hook(note))
        weight = next(self.parameters())
        try:
            with torch.no_grad(), evaluating(self):
                frame = torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device)
                self.back(self.front(frame, 1), 1)
        finally:
            for hook in hooks:
                hook.remove()
        return shapes

    def sees_one_frame(self, whole: bool) -> bool:
        """Whether no temporal tap of the front, or of the whole trunk, weighs in."""
        parts = {id(m) for name in self._names(whole) for m in self.net.get_submodule(name).modules()}
        return all(conv.sees_one_frame() for conv in self.inflated if id(conv) in parts)

    def weights(self, whole: bool) -> dict[str, Tensor]:
        """Parameters and statistics of the whole trunk, or of its front, by timm's names."""
        parts = {
            name: self.net.get_submodule(name).state_dict(prefix=f"{name}.") for name in self._names(whole)
        }
        return {name: value for part in parts.values() for name, value in part.items()}

    def first_parameters(self, resolutions: int) -> list[nn.Parameter]:
        """Those of the stem and the first resolutions, in order of use."""
        info: Any = self.net.feature_info
        last = info.module_name()[resolutions - 1]
        modules = [name for name, _ in self.net.named_modules()]  # in order of use
        # Counted in modules, not in parameters: the first resolution may end in an activation, which has none.
        end = max(i for i, name in enumerate(modules) if f"{name}.".startswith(f"{last}."))
        first = set(modules[: end + 1])
        return [p for name, p in self.net.named_parameters() if name.rpartition(".")[0] in first]

    def _names(self, whole: bool) -> list[str]:
        return self._chain if whole else self._chain[: self._context]

    def _run(self, x: Tensor, now: Pass, names: Sequence[str]) -> Tensor:
        self._pass = now
        if self.depthwise and torch.is_grad_enabled() and x.device.type == "cpu":
            # Depthwise convolutions take less than half the time backwards.
            x = x.contiguous(memory_format=torch.channels_last)
        try:
            for name in names:
                x = self.net.get_submodule(name)(x)
        finally:
            self._pass = Pass()
        return x


def chain(net: nn.Module) -> tuple[list[str], int]:
    """The names of the modules that a frame runs through one after the other, and how many lead to the context map.

    timm's feature networks are such chains: its ResNets by construction, its EfficientNets as stem, batch norm
    and blocks. Raises TypeError for a network that is built in another way.
    """
    info: Any = net.feature_info
    *_, context, last = info.module_name()
    names = [name for name, _ in net.named_children()]
    if "blocks" in names:
        blocks = [f"blocks.{name}" for name, _ in net.get_submodule("blocks").named_children()]
        names = ["conv_stem", "bn1", *blocks]
    if names[-1] != last or context not in names:
        raise TypeError(f"the trunk {type(net).__name__} is not a chain that ends in {last}")
    return names, names.index(context) + 1


def inflate(net: nn.Module, temporal: str) -> list[InflatedConv]:
    """Replace every k x k convolution of `net` but the stem's by its inflated form, in order of use."""
    convs = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    inflated: list[InflatedConv] = []
    for name, conv in convs[1:]:  # the first is the stem, which stays 2-D
        if conv.kernel_size == (1, 1):
            continue
        parent_name, _, child = name.rpartition(".")
        parent = net.get_submodule(parent_name)
        inflated.append(InflatedConv(conv, temporal, sum(c.caches for c in inflated)))
        setattr(parent, child, inflated[-1])
    return inflated
