# SPDX-License-Identifier: Apache-2.0
"""The plan of a TensorRT engine for the GPU at hand: found in the bundle, or built now where the policy allows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_build.bundle import LoadedBundle
from trt_build.engines.nvidia import Gpu, built_precision
from trt_build.engines.sidecar import (
    MAX_PLAN_BYTES,
    EngineRefused,
    Sidecar,
    Wanted,
    find_plan,
    read_engine_file,
    wanted_sources,
)
from trt_build.errors import EngineError, need
from trt_build.install import pip

POLICIES = ("rebuild", "refuse")


@dataclass(frozen=True)
class Plan:
    """A plan whose sidecar fits: its bytes, where it lies, and what this machine wanted."""

    data: bytes
    path: Path
    sidecar: Sidecar
    wanted: Wanted


def open_plan(
    bundle: LoadedBundle,
    mode: str,
    *,
    backend: str,
    batch: int,
    precision: str,
    policy: str,
    gpu: Gpu,
    trt: Any,
    say: Callable[[str], None],
) -> Plan:
    """The plan for this GPU, read only after its sidecar agrees with bundle, version and GPU.

    precision: "fp16", "fp32", or "auto" for FP16. policy: "rebuild" or "refuse" where no plan fits. trt: the module of
    `backend`. say: called with progress lines of a build. Raises EngineError.
    """
    if policy not in POLICIES:
        raise EngineError(f"unknown engine_policy {policy!r}; use {' or '.join(POLICIES)}")
    wanted = Wanted(
        backend,
        mode,
        built_precision(backend, precision),
        batch,
        trt.__version__,
        gpu.name,
        gpu.compute_capability,
        wanted_sources(bundle, mode),
        gpu.multiprocessors,
        gpu.memory,
        gpu.index,
    )
    try:
        path, sidecar = find_plan(bundle, wanted)
    except EngineRefused:
        if policy == "refuse":
            raise
        need("onnx", f"{pip('onnx')}: an engine is built from the bundle's ONNX graph")
        from trt_build.engines.compile import build_engine

        path, sidecar = build_engine(bundle, wanted, say=say)
    try:
        plan = read_engine_file(path, MAX_PLAN_BYTES)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror or error}); build it again") from None
    # What is deserialised is what was checked, whoever has written in between.
    if hashlib.sha256(plan).hexdigest() != sidecar.plan_sha256:
        raise EngineError(f"{path}: the engine was changed while it was opened; build it again")
    return Plan(plan, path, sidecar, wanted)
