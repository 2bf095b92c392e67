# SPDX-License-Identifier: Apache-2.0
"""The network in the form that runs on the robot: batch norm folded, every convolution a plain Conv2d.

`fold_for_export(model)` returns a copy that computes the same in evaluation mode. The kernel of an inflated
convolution becomes one 2-D kernel over three concatenated frames, that of a grouped one a 2-D kernel for each tap:
the same parameters in the window graph and the step graph, so that both share their weights on disk.

A convolution whose taps at other frames are all zero, as inflation leaves them and a frozen stage keeps them, becomes
the 2-D convolution that it was: a third of the work, the same sums, and no cache in `step`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.inflated import (
    TAPS,
    InflatedConv,
    InflatedTrunk,
    Pass,
    concatenated_weight,
    same_padding,
    sums_of_taps,
)
from gc_model.paper.network import cache_name
from gc_model.paper.shapes import merge, split


class FoldedConv(nn.Module):
    """An inflated convolution and the batch norm after it as one Conv2d over three frames, or one Conv2d for each tap.

    index: place of its first cache among those of the folded network; origin: among those of the trained network.
    """

    def __init__(self, conv: InflatedConv, index: int):
        super().__init__()
        self.alone = conv.sees_one_frame()
        self.now, self.index, self.origin = conv.now, index, conv.index
        self.caches = 0 if self.alone else conv.caches
        self.stride, self.groups, self.kernel = conv.stride, conv.groups, conv.kernel
        self.same, self.padding = conv.same, conv.padding
        weight = conv.weight.detach()
        if self.alone:
            kernels = [weight[:, :, self.now]]
        else:
            kernels = [concatenated_weight(weight)] if conv.groups == 1 else list(weight.unbind(2))
        self.kernels = nn.ParameterList([nn.Parameter(kernel.contiguous().clone()) for kernel in kernels])
        bias = conv.bias.detach() if conv.bias is not None else weight.new_zeros(weight.shape[0])
        self.bias = nn.Parameter(bias.clone())

    def absorb(self, scale: Tensor, shift: Tensor) -> None:
        """Take in y -> scale * y + shift."""
        with torch.no_grad():
            for kernel in self.kernels:
                kernel.mul_(scale.view(-1, 1, 1, 1))
            self.bias.mul_(scale).add_(shift)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        if self.alone:
            return self._conv(self._pad(x), 0)
        if self.groups > 1:
            x = self._pad(x)
            oldest, middle, newest = (self._conv(x, i) for i in range(TAPS))
            if now.frames:
                T, k = now.frames, self.now
                return (
                    self._moved(oldest, k, T) + self._moved(middle, k - 1, T) + self._moved(newest, k - 2, T)
                )
            y, written = sums_of_taps(
                (oldest, middle, newest), now.past[self.index : self.index + self.caches]
            )
            now.written += written
            return y
        if now.frames:
            return self._conv(self._pad(self._neighbours(x, now.frames)), 0)
        frames = torch.cat([merge(now.past[self.index], 1, 2), x], 1)
        now.written.append(split(frames[:, int(x.shape[1]) :], 1, TAPS - 1))
        return self._conv(self._pad(frames), 0)

    def _pad(self, x: Tensor) -> Tensor:
        if not self.same:
            return x
        (top, bottom), (left, right) = same_padding(x.shape[-2:], self.kernel, self.stride)
        return F.pad(x, (left, right, top, bottom))

    def _conv(self, x: Tensor, i: int) -> Tensor:
        bias = self.bias if len(self.kernels) == 1 or i == self.now else None
        return F.conv2d(x, self.kernels[i], bias, self.stride, self.padding, groups=self.groups)

    def _moved(self, y: Tensor, late: int, T: int) -> Tensor:
        """A tap's results (B*T, ...) of all frames, `late` frames later within each clip, with zeros at the ends."""
        if late == 0:
            return y
        clip = split(y, 0, T)
        # Zeros whose batch axis stays open in the graph.
        none = [clip[:, :1] * 0] * min(abs(late), T)
        parts = [*none, clip[:, : max(T - late, 0)]] if late > 0 else [clip[:, -late:], *none]
        return merge(torch.cat(parts, 1), 0, 1)

    def _neighbours(self, x: Tensor, T: int) -> Tensor:
        """(B*T, in, H, W) -> (B*T, 3 * in, H, W): every frame with the two others that it sees, zeros outside."""
        clip = split(x, 0, T)
        none = clip[:, :1] * 0
        if self.now == TAPS - 1:
            padded = torch.cat([none, none, clip], 1)
        else:
            padded = torch.cat([none, clip, none], 1)
        return merge(torch.cat([padded[:, tap : tap + T] for tap in range(TAPS)], 2), 0, 1)


@torch.no_grad()
def fold_for_export(model: GlimpseClouds) -> GlimpseClouds:
    """A copy of `model` in evaluation mode with its trunk folded: the same results, with the caches that it needs.

    A trunk that is not an inflated one stays as it is.
    """
    model = copy.deepcopy(model).eval()
    trunk = model.trunk
    if not isinstance(trunk, InflatedTrunk):
        return model
    pairs = batch_norms(
        trunk, torch.zeros(1, 3, model.config.size, model.config.size, dtype=model.mean.dtype)
    )
    caches = 0
    for i, conv in enumerate(list(trunk.inflated)):
        folded = FoldedConv(conv, caches)
        trunk.replace(i, folded)
        caches += folded.caches
    for conv_name, norm_name in pairs.items():
        _absorb(trunk.net, conv_name, norm_name)
    return model


def cache_names(folded: GlimpseClouds) -> list[str]:
    """The names of a folded network's caches: those of the trained network, which may have more.

    `trt-build verify` compares by name.
    """
    trunk = folded.trunk
    if not isinstance(trunk, InflatedTrunk):
        return [cache_name(i) for i in range(len(trunk.cache_shapes(folded.config.size)))]
    return [cache_name(conv.origin + i) for conv in trunk.inflated for i in range(conv.caches)]


def batch_norms(trunk: InflatedTrunk, frame: Tensor) -> dict[str, str]:
    """Which batch norm reads which convolution's output, by name, found by watching one pass over a frame."""
    produced: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, str] = {}
    hooks = []
    for name, module in trunk.net.named_modules():
        if isinstance(module, (nn.Conv2d, InflatedConv)):

            def made(_: Any, args: Any, output: Tensor, name: str = name) -> None:
                produced[id(output)] = (name, output)

            hooks.append(module.register_forward_hook(made))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):

            def read(_: Any, args: Any, name: str = name) -> None:
                if id(args[0]) in produced:
                    pairs[produced[id(args[0])][0]] = name

            hooks.append(module.register_forward_pre_hook(read))
    trunk.back(trunk.front(frame, 1), 1)
    for hook in hooks:
        hook.remove()
    return pairs


def _absorb(net: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold one batch norm into its convolution; its activation takes its place, if it has one."""
    norm, conv = net.get_submodule(norm_name), net.get_submodule(conv_name)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if isinstance(conv, FoldedConv):
        conv.absorb(scale, shift)
    else:
        assert isinstance(conv, nn.Conv2d)
        conv.weight.mul_(scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias * scale + shift)
    net.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
