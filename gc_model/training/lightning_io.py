# SPDX-License-Identifier: Apache-2.0
"""Lightning's resume checkpoints as safetensors: tensors as tensors, the rest as JSON. No pickle."""

from __future__ import annotations

from gc_model import torchvision_guard  # noqa: F401 - before lightning

# isort: split
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file

from trt_build.errors import DataError
from trt_build.files import replacing


class SafetensorsIO(CheckpointIO):
    """Reads and writes checkpoints; a kill at any moment leaves the previous one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        tensors: dict[str, torch.Tensor] = {}
        tree = _pack(checkpoint, tensors)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as part:
            save_file(tensors, part, metadata={"tree": json.dumps(tree)})

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        try:
            with safe_open(path, framework="pt") as file:
                tree = json.loads(file.metadata()["tree"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:
            raise DataError(
                f"{path} cannot be resumed from ({error}): delete it to repeat this stage"
            ) from error
        return _unpack(tree, tensors)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"  # whatever their subclasses are called
        return {kind: [_pack(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint holds a {type(value).__name__}, which has no form without pickle")


def _unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value}
    items = [_unpack(v, tensors) for v in value]
    return tuple(items) if kind == "tuple" else items
