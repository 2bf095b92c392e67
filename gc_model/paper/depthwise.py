# SPDX-License-Identifier: Apache-2.0
"""A depthwise 3 x k x k convolution with its gradients, in the form that is fastest on a CPU.

PyTorch's own grouped Conv3d takes longer, and so do three grouped Conv2d whose results autograd adds: they copy a
gradient for every shift in time. In the plain memory format the gradient of a 5 x 5 kernel takes eight times its
forward pass, three times as long as with channels last. `python benchmarks/training_step.py` compares.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gc_model.paper.shapes import split


def depthwise_clip(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    T: int,
    now: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """x: (B*T, C, H, W), clips of T frames -> (B*T, C, H', W').

    weight: (C, 1, taps, k, k), oldest first, the tap `now` sees the frame itself; frames beyond a clip's ends count as
    zero. Takes any memory format; channels last is fastest on a CPU.
    """
    # Autocast does not reach into an autograd function, least of all into its backward pass.
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _DepthwiseClip.apply(x, weight, bias, T, now, stride, padding)
    return y


class _DepthwiseClip(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, T: int, now: int,
        stride: tuple[int, int], padding: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.now, ctx.T, ctx.stride, ctx.padding, ctx.biased = now, T, stride, padding, bias is not None
        y = F.conv2d(x, weight[:, :, now], bias, stride, padding, 1, len(weight))
        for i in _others(weight, now):
            add_later(y, F.conv2d(x, weight[:, :, i], None, stride, padding, 1, len(weight)), T, now - i)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        T, now = ctx.T, ctx.now
        # The gradient has the format of whatever made it; a mixture is converted again by every call below.
        layout = (
            torch.channels_last
            if x.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        grad = grads[0].contiguous(memory_format=layout)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]

        def gradients(i: int, of: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                of,
                x,
                weight[:, :, i],
                None,
                ctx.stride,
                ctx.padding,
                (1, 1),
                False,
                (0, 0),
                len(weight),
                mask,
            )
            return found

        of_x, of_now, _ = gradients(now, grad, [wants_x, wants_weight, False])
        of_weight = [of_now] * weight.shape[2]
        for i in _others(weight, now):
            late = now - i  # what tap i made of frame t is part of frame t + late
            shifted = torch.zeros_like(grad)
            add_later(shifted, grad, T, -late)
            more, of_weight[i], _ = gradients(i, shifted, [wants_x, wants_weight, False])
            if wants_x:
                of_x.add_(more)
        return (
            of_x if wants_x else None,
            torch.stack(of_weight, 2) if wants_weight else None,
            grad.sum((0, 2, 3)) if ctx.biased and wants_bias else None,
            None, None, None, None,
        )  # fmt: skip


def add_later(y: Tensor, x: Tensor, T: int, late: int) -> None:
    """y_{t + late} += x_t in place, within each of the clips of T frames that lie in y and x (B*T, ...)."""
    to, of = split(y, 0, T), split(x, 0, T)
    if late > 0:
        to[:, late:].add_(of[:, :-late])
    elif late < 0:
        to[:, :late].add_(of[:, -late:])


def _others(weight: Tensor, now: int) -> list[int]:
    return [i for i in range(weight.shape[2]) if i != now]
