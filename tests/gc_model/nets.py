# SPDX-License-Identifier: Apache-2.0
"""Small networks in float64 whose temporal taps are alive, for exact comparisons."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.network import Network, cache_name
from gc_model.paper.presets import preset
from gc_model.paper.variants import build as assemble


def use_taps(model: Network, caches: set[str] | None = None) -> None:
    """Random weights at the temporal taps, which inflation leaves at zero; caches: only where these named ones are."""
    with torch.no_grad():
        for conv in model.trunk.inflated:
            if caches is None or cache_name(conv.index) in caches:
                conv.weight.add_(torch.randn_like(conv.weight) / conv.weight[0].numel() ** 0.5)


def build(
    name: str = "tiny", *, seed: int = 0, dtype: "torch.dtype" = torch.float64, **changes
) -> GlimpseClouds:
    """A network in evaluation mode with random statistics and all temporal taps in use."""
    torch.manual_seed(seed)
    model = assemble(preset(name, **({"classes": 7} | changes)))
    assert isinstance(model, GlimpseClouds)
    use_taps(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.3, 0.8)  # timm starts the last of a block at zero: a dead branch
        metric = model.assignment.metric
        metric.phi_max.fill_(10.0)  # wide, so that no distance is clamped
        metric.L.weight.add_(torch.randn_like(metric.L.weight) * 0.1)
    return model.to(dtype).eval()


def noise(B: int, T: int, size: int, seed: int = 0) -> "torch.Tensor":
    """uint8 clips (B, T, 3, size, size)."""
    return torch.randint(0, 256, (B, T, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(seed))


def depthwise_conv3d(x, weight, bias, T, now, stride, padding):
    """What `gc_model.paper.depthwise.depthwise_clip` computes, arguments as its, by PyTorch's grouped Conv3d."""
    clip = x.unflatten(0, (-1, T)).transpose(1, 2)
    clip = torch.nn.functional.pad(clip, (0, 0, 0, 0, now, weight.shape[2] - 1 - now))
    y = torch.nn.functional.conv3d(clip, weight, bias, (1, *stride), (0, *padding), groups=len(weight))
    return y.transpose(1, 2).flatten(0, 1)
