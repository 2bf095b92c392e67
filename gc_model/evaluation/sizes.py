# SPDX-License-Identifier: Apache-2.0
"""The size of a model: its parameters, and the multiply-adds of one frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gc_model.paper.inflated import InflatedConv
from gc_model.paper.presets import Config
from gc_model.paper.variants import build


def sizes(config: Config) -> dict[str, Any]:
    """Parameters of trunk and head, and the trunk's multiply-adds a frame (GMAC), counted in a pass over one window."""
    model = build(config).eval()
    macs = 0
    hooks = []

    def count(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal macs
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        macs += output.numel() * weight.numel() // weight.shape[0]

    for module in model.trunk.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, InflatedConv)):
            hooks.append(module.register_forward_hook(count))
    with torch.no_grad():
        model.features(torch.zeros(1, config.T, 3, config.size, config.size, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return {
        "trunk_parameters": sum(p.numel() for p in model.trunk.parameters()),
        "head_parameters": sum(p.numel() for p in model.head_parameters()),
        "trunk_gmac_per_frame": round(macs / config.T / 1e9, 3),
    }
