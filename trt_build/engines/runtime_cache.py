# SPDX-License-Identifier: Apache-2.0
"""Kernels that TensorRT-RTX compiles when it opens an engine, kept beside the plan for the next start.

    <engine>.kernels         TensorRT's own serialized cache, for one plan on one GPU
    <engine>.kernels.json    `KernelRecord`: what it belongs to, and its hash

A cache is machine code, as a plan is: it reaches the deserialiser only after its record agrees with plan, version and
GPU. One that does not is left unread and replaced. A folder that cannot be written costs the next start its time only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trt_build.engines.nvidia import compiles_at_load
from trt_build.engines.sidecar import (
    MAX_PLAN_BYTES,
    MAX_SIDECAR_BYTES,
    Sidecar,
    Wanted,
    locked,
    read_engine_file,
    write_pair,
)
from trt_build.errors import EngineError

_PATIENCE_S = 5.0  # for the lock: a robot does not wait for a builder to keep what it can compile again


class KernelRecord(BaseModel):
    """Content of the .kernels.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    plan_sha256: str
    trt_version: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    kernels_bytes: int = 0
    kernels_sha256: str = ""


def kernels_path(plan: Path, wanted: Wanted) -> Path:
    """The cache of a plan on this GPU; a plan built ahead of time has one for each GPU that runs it."""
    return plan.with_name(f"{wanted.stem}.kernels")


def read_kernels(path: Path, belongs: KernelRecord) -> tuple[bytes, str]:
    """(the cache, "") where its record fits, else (b"", why it is not used)."""
    side = path.with_name(f"{path.name}.json")
    try:
        record = KernelRecord.model_validate_json(read_engine_file(side, MAX_SIDECAR_BYTES))
        kernels = read_engine_file(path, MAX_PLAN_BYTES)
    except FileNotFoundError:
        return b"", "none kept yet"
    except (OSError, ValidationError, ValueError):
        return b"", "the kept ones cannot be read"
    for name, needed in belongs.model_dump(exclude={"kernels_bytes", "kernels_sha256"}).items():
        found = getattr(record, name)
        if found != needed:
            what = name.replace("_", " ")
            return b"", f"{what} of the kept ones is {str(found)[:24]}, not {str(needed)[:24]}"
    if (len(kernels), hashlib.sha256(kernels).hexdigest()) != (record.kernels_bytes, record.kernels_sha256):
        return b"", "the kept ones were changed after they were written"
    return kernels, ""


class KernelCache:
    """The cache of one opened engine, with the runtime config that carries it; keep it while the context lives.

    reason: why kernels are compiled in this process; empty where they came from the file.
    """

    def __init__(self, engine: Any, plan: Path, sidecar: Sidecar, wanted: Wanted) -> None:
        self._path = kernels_path(plan, wanted)
        self._belongs = KernelRecord(
            plan_sha256=sidecar.plan_sha256,
            trt_version=wanted.trt_version,
            gpu=wanted.gpu,
            compute_capability=wanted.compute_capability,
            multiprocessors=wanted.multiprocessors,
        )
        self.config = engine.create_runtime_config()
        self._cache = self.config.create_runtime_cache()
        kernels, self.reason = read_kernels(self._path, self._belongs)
        # TensorRT compares driver, device and compiler itself, and takes nothing where one differs.
        if kernels and not self._cache.deserialize(kernels):
            self.reason = "TensorRT refused the kept ones on this driver or GPU"
        if not self.config.set_runtime_cache(self._cache):
            self.reason = "TensorRT takes no cache"

    @property
    def state(self) -> str:
        """For the engine's description."""
        return f"kernels compiled ({self.reason})" if self.reason else "kernels from the cache"

    def keep(self) -> None:
        """Write what this process compiled; call it when all kernels have run once. Never raises."""
        if not self.reason:
            return
        kernels = self._cache.serialize()
        if kernels is None:
            return
        data = memoryview(kernels)
        record = self._belongs.model_copy(
            update={"kernels_bytes": data.nbytes, "kernels_sha256": hashlib.sha256(data).hexdigest()}
        )
        side = self._path.with_name(f"{self._path.name}.json")
        try:
            with locked(self._path.parent, _not_for_long):
                write_pair(self._path, data, side, record.model_dump_json(indent=2) + "\n")
        except EngineError as error:
            self.reason += f"; not kept: {error}"

    def close(self) -> None:
        """Let go of cache and config, in this order, after the context and before the engine."""
        self._cache = None
        self.config = None


def kernel_cache(trt: Any, engine: Any, plan: Path, sidecar: Sidecar, wanted: Wanted) -> KernelCache | None:
    """The cache of an opened engine; None where kernels are compiled when the engine is built."""
    if not compiles_at_load(trt) or not hasattr(engine, "create_runtime_config"):
        return None
    return KernelCache(engine, plan, sidecar, wanted)


def _not_for_long(waited: float) -> None:
    if waited > _PATIENCE_S:
        raise EngineError("another process builds in the folder")
