# SPDX-License-Identifier: Apache-2.0
"""The sidecar: a .json beside each .plan that records what the engine was built from and for.

A plan is only machine code. It runs on one GPU generation, with one version of TensorRT, for one graph, and nothing in
the file says which. All of that and the plan's hash are compared here before a byte reaches the deserialiser; a plan
without a sidecar is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trt_build.bundle import WEIGHTS_NAME, LoadedBundle
from trt_build.errors import EngineError
from trt_build.files import lock, replacing, write_new
from trt_build.untrusted import NotRegular, open_regular, read_regular, sha256_regular

ENGINES = "engines"
SCHEMA_VERSION = 1
# Version of `trt_build.graphs.precision`'s policy: raise it when the graph made from the same bundle changes.
GRAPH_VERSION = 1
# Version of `trt_build.engines.builder`'s settings: raise it when an engine built with the old ones must not be used.
# 2: TF32 cleared, so that FP32 is FP32. Sidecars of version 1 do not name it.
BUILD_VERSION = 2
ANY_GPU = "any"  # built ahead of time for a compute capability
MAX_SIDECAR_BYTES, MAX_PLAN_BYTES = 16 << 20, 16 << 30


class EngineRefused(EngineError):
    """A cached engine must not be run; `engine_policy: rebuild` builds a new one."""


class Io(BaseModel):
    """An input or output of an engine, states included."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    shape: list[int]
    dtype: str  # NumPy's name


@dataclass(frozen=True)
class Wanted:
    """The engine that this machine needs: everything that a sidecar must agree with."""

    backend: str
    mode: str
    precision: str
    batch: int
    trt_version: str
    gpu: str  # name as the driver gives it, or ANY_GPU
    compute_capability: str  # "8.7"
    sources: dict[str, str]  # file in the bundle -> sha256
    multiprocessors: int = 0  # of the GPU; 0 with ANY_GPU
    memory: int = 0  # of the GPU in bytes; 0 with ANY_GPU
    device: int = field(default=0, compare=False)  # number of the GPU in this process

    @property
    def stem(self) -> str:
        """File name without suffix."""
        gpu = re.sub(r"[^A-Za-z0-9]+", "_", self.gpu).strip("_").lower()
        sm = "sm" + self.compute_capability.replace(".", "")
        return f"{gpu}-{sm}-{self.backend}{self.trt_version}-{self.precision}-{self.mode}-b{self.batch}"


class Sidecar(BaseModel):
    """Content of the .json; documented in docs/engines.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    graph_version: int = GRAPH_VERSION
    build_version: int = 1
    backend: str
    mode: str
    precision: str
    batch: int = Field(ge=1)
    trt_version: str
    gpu: str
    compute_capability: str
    sources: dict[str, str]
    multiprocessors: int = 0  # 0: for any GPU, or from before this was recorded
    memory: int = 0
    onnx_sha256: str  # of the graph as handed to the parser
    flags: list[str]
    inputs: list[Io]
    outputs: list[Io]
    half_layers: list[str]  # names of the layers that must run in FP16, see trt_build.engines.layers
    layers: int
    plan_bytes: int
    plan_sha256: str
    build_seconds: float


def wanted_sources(bundle: LoadedBundle, mode: str) -> dict[str, str]:
    """Hashes of the bundle's files that the engine of `mode` is made from."""
    names = {bundle.graph(mode).name, WEIGHTS_NAME} & bundle.info.sha256.keys()
    return {name: bundle.info.sha256[name] for name in sorted(names)}


def plan_path(bundle: LoadedBundle, wanted: Wanted) -> Path:
    return bundle.path / ENGINES / f"{wanted.stem}.plan"


def find_plan(bundle: LoadedBundle, wanted: Wanted) -> tuple[Path, Sidecar]:
    """The engine in the bundle that fits `wanted`: one for this very GPU, else one for its compute capability.

    Raises EngineRefused, naming both sides of what does not fit, of the first that exists. Where neither exists, the
    error says why another engine of this mode cannot be used.
    """
    own = plan_path(bundle, wanted)
    _refuse_link(own.parent, wanted)
    ahead = own.with_name(f"{Wanted(**{**vars(wanted), 'gpu': ANY_GPU}).stem}.plan")
    refused: EngineRefused | None = None
    for path in (own, ahead):
        if path.exists():
            try:
                return path, check_plan(path, wanted)
            # The other may fit: an engine of this GPU stays behind when the bundle is exchanged.
            except EngineRefused as error:
                refused = refused or error
    if refused is not None:
        raise refused
    others = sorted((bundle.path / ENGINES).glob(f"*-{wanted.mode}-b*.plan"))
    for path in others:
        check_plan(path, wanted)  # raises with what differs; names alone are not trusted
    raise EngineRefused(
        f"{bundle.path}: no {wanted.backend} engine for {_target(wanted)}; {build_hint(bundle.path, wanted)}"
    )


def left_over(bundle: LoadedBundle) -> list[Path]:
    """Plans in the bundle that were built from other files than it holds now, and are refused ever after."""
    found = []
    for path in sorted((bundle.path / ENGINES).glob("*.plan")):
        try:
            sidecar = Sidecar.model_validate_json(
                read_engine_file(path.with_suffix(".json"), MAX_SIDECAR_BYTES)
            )
            fits = sidecar.mode in bundle.info.modes and sidecar.sources == wanted_sources(
                bundle, sidecar.mode
            )
        except (OSError, ValueError):
            fits = False
        if not fits:
            found.append(path)
    return found


def check_plan(path: Path, wanted: Wanted) -> Sidecar:
    """Compare a plan's sidecar with what is wanted and the plan with its hash. Raises EngineRefused."""
    hint = build_hint(path.parent.parent, wanted)
    side = path.with_suffix(".json")
    try:
        sidecar = Sidecar.model_validate_json(read_engine_file(side, MAX_SIDECAR_BYTES))
    except NotRegular as error:
        raise EngineRefused(f"{side}: {error.strerror or error}; remove it, then {hint}") from None
    except OSError:
        raise EngineRefused(f"{path}: the engine has no sidecar {side.name}; {hint}") from None
    except (ValidationError, ValueError):
        raise EngineRefused(f"{side}: not a sidecar of schema {SCHEMA_VERSION}; {hint}") from None
    pairs: list[tuple[str, object, object]] = [
        ("sidecar schema", sidecar.schema_version, SCHEMA_VERSION),
        ("graph version", sidecar.graph_version, GRAPH_VERSION),
        ("build version", sidecar.build_version, BUILD_VERSION),
        *((name.replace("_", " "), getattr(sidecar, name), getattr(wanted, name)) for name in _COMPARED),
    ]
    if sidecar.gpu != ANY_GPU:
        pairs += _same_gpu(sidecar, wanted)
    for name in sorted({*sidecar.sources, *wanted.sources}):
        have, want = (hashes.get(name, "none") for hashes in (sidecar.sources, wanted.sources))
        pairs.append((f"sha256 of {name}", have[:12], want[:12]))
    for what, found, needed in pairs:
        if found != needed:
            raise EngineRefused(f"{path}: the engine's {what} is {found}, but {needed} is needed; {hint}")
    try:
        with open_regular(path.parent.parent, f"{ENGINES}/{path.name}") as file:
            size = os.fstat(file.fileno()).st_size
        if size != sidecar.plan_bytes:
            raise EngineRefused(
                f"{path}: truncated: {size} bytes, the sidecar says {sidecar.plan_bytes}; {hint}"
            )
        digest = sha256_regular(path.parent.parent, f"{ENGINES}/{path.name}")
    except OSError as error:
        raise EngineRefused(f"{path}: cannot be read ({error.strerror or error}); {hint}") from None
    if digest != sidecar.plan_sha256:
        raise EngineRefused(f"{path}: the engine was changed after it was built; {hint}")
    return sidecar


def _same_gpu(sidecar: Sidecar, wanted: Wanted) -> list[tuple[str, object, object]]:
    """Pairs that must be equal; what one side does not know is not compared."""
    pairs: list[tuple[str, object, object]] = [("GPU", sidecar.gpu, wanted.gpu)]
    if sidecar.multiprocessors and wanted.multiprocessors:
        pairs.append(("number of multiprocessors", sidecar.multiprocessors, wanted.multiprocessors))
    # A driver or a boot option moves the memory that a GPU reports a little; a larger module has twice as much.
    if sidecar.memory and wanted.memory and abs(sidecar.memory - wanted.memory) > wanted.memory / 8:
        pairs.append(("GPU memory", f"{sidecar.memory / 1e9:.1f} GB", f"{wanted.memory / 1e9:.1f} GB"))
    return pairs


def read_engine_file(path: Path, most: int) -> bytes:
    """The content of a file in the bundle's folder of engines, no link followed. Raises OSError."""
    return read_regular(path.parent.parent, f"{path.parent.name}/{path.name}", most)


def _refuse_link(folder: Path, wanted: Wanted) -> None:
    if folder.is_symlink():
        raise EngineRefused(
            f"{folder}: it is a link, and engines are neither read nor written outside their bundle; remove it, then "
            f"{build_hint(folder.parent, wanted)}"
        )


_COMPARED = ("backend", "mode", "precision", "batch", "trt_version", "compute_capability")


def write_plan(path: Path, plan: bytes | memoryview, sidecar: Sidecar) -> None:
    """Write a plan and its sidecar as `write_pair` does."""
    write_pair(path, plan, path.with_suffix(".json"), sidecar.model_dump_json(indent=2) + "\n")


def write_pair(path: Path, data: bytes | memoryview, side: Path, record: str) -> None:
    """Write a file and its record so that a kill at any moment leaves no pair that passes the checks but does not fit.

    The record, which holds the file's hash, takes its name last. Both are on the disk before either does: one that is
    full keeps what was there. Call it with the lock held. Raises EngineError.
    """
    try:
        for stale in path.parent.glob("*.part"):
            if stale.is_symlink() or not stale.is_dir():
                stale.unlink(missing_ok=True)
        with (
            replacing(side, durable=True) as new_side,
            replacing(path, durable=True) as new,
            new.open("xb") as file,
        ):
            write_new(new_side, record.encode())
            file.write(data)
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another disk"
        ) from None


@contextlib.contextmanager
def locked(folder: Path, on_wait: Callable[[float], None]) -> Iterator[None]:
    """Hold the folder's lock. The kernel releases it with the process, so a killed builder blocks nobody.

    on_wait: called repeatedly, while another process holds it, with the seconds waited so far. Raises EngineError
    where the folder cannot be written, or lies on a disk without locks.
    """
    try:
        if not folder.is_symlink():
            folder.mkdir(parents=True, exist_ok=True)
        file = open_regular(folder.parent, f"{folder.name}/.lock", os.O_RDWR | os.O_CREAT)
    except NotRegular as error:
        raise EngineError(
            f"{error.filename}: {error.strerror or error}; nothing is written through it: remove it, then build again"
        ) from None
    except OSError as error:
        raise EngineError(
            f"{folder}: cannot be written ({error.strerror or error}); copy the bundle to a writable folder"
        ) from None
    with file:
        try:
            lock(file.fileno(), on_wait, every_s=0.2)
        except OSError as error:  # as on NFS without a lock daemon
            raise EngineError(
                f"{folder}: cannot be locked ({error.strerror or error}); copy the bundle to a disk with locks"
            ) from None
        yield  # closing the file releases it


def build_hint(bundle: Path, wanted: Wanted) -> str:
    batch = f" --batch {wanted.batch}" if wanted.batch != 1 else ""
    device = f" --device {wanted.device}" if wanted.device else ""
    return (
        f"build it: trt-build build {quote(str(bundle))} --backend {wanted.backend} --mode {wanted.mode} "
        f"--precision {wanted.precision}{batch}{device}, or set engine_policy to rebuild"
    )


def _target(wanted: Wanted) -> str:
    return (
        f"mode {wanted.mode}, {wanted.precision}, batch {wanted.batch}, {wanted.gpu} "
        f"(compute capability {wanted.compute_capability}), version {wanted.trt_version}"
    )
