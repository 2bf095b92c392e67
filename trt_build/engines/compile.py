# SPDX-License-Identifier: Apache-2.0
"""`trt-build build`: compiles a bundle's graph into a TensorRT engine with a sidecar.

The precision is that of the ONNX graph that `graphs.precision` writes. TensorRT 10 and later and TensorRT-RTX compile
it as a strongly typed network. TensorRT 8.6 gets the FP16 flag, and each layer the type that the graph gives its
result. `builder` says what else the builder is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from trt_build.bundle import LoadedBundle
from trt_build.engines import nvidia
from trt_build.engines.builder import (
    configure,
    constrain,
    creation_flags,
    sm,
    strongly_typed,
)
from trt_build.engines.capabilities import check_capability, remedy, started
from trt_build.engines.cuda import load_cuda
from trt_build.engines.sidecar import (
    ANY_GPU,
    BUILD_VERSION,
    EngineRefused,
    Io,
    Sidecar,
    Wanted,
    check_plan,
    locked,
    plan_path,
    read_engine_file,
    wanted_sources,
    write_plan,
)
from trt_build.errors import EngineError
from trt_build.files import write_atomically
from trt_build.graphs.precision import engine_graph, half_nodes, tensor_types

Say = Callable[[str], None]
MAX_TIMING_BYTES = 1 << 30
HEARTBEAT_S = 4.0  # between two progress lines: callers are promised one every 5 s


def wanted_engine(
    bundle: LoadedBundle,
    mode: str,
    *,
    backend: str,
    precision: str = "auto",
    batch: int = 1,
    target: str | None = None,
    device: int = 0,
) -> Wanted:
    """The engine that this machine or a named target needs. Raises EngineError without GPU and target."""
    trt = nvidia.load(backend)
    precision = nvidia.built_precision(backend, precision)
    if batch < 1:
        raise EngineError(f"batch is {batch}; it must be at least 1")
    capability = None if target is None else nvidia.parse_target(target)
    if capability is not None and hasattr(trt, "ComputeCapability"):
        _check_target(trt, backend, capability)
        gpu, multiprocessors, memory = ANY_GPU, 0, 0
    else:
        found = _gpu_here(trt, backend, device)
        # Whatever target is named, the engine is of this very GPU: another module of its capability must not take it.
        if capability not in (None, found.compute_capability):
            raise EngineError(
                f"{backend} builds for the GPU it runs on ({found.compute_capability}), not for {capability}; build "
                "on the target, or use tensorrt_rtx"
            )
        gpu, capability = found.name, found.compute_capability
        multiprocessors, memory = found.multiprocessors, found.memory
    sources = wanted_sources(bundle, mode)
    return Wanted(
        backend,
        mode,
        precision,
        batch,
        trt.__version__,
        gpu,
        capability,
        sources,
        multiprocessors,
        memory,
        device,
    )


def _gpu_here(trt: Any, backend: str, device: int) -> nvidia.Gpu:
    """The GPU that is compiled for, made current. Raises EngineError where there is none or it is not supported."""
    try:
        cuda = load_cuda(device)
        found = cuda.gpu()
        cuda.use()  # the builder has no argument for it: it compiles for the current one
    except EngineError as error:
        hint = " or name one: --target sm89" if backend == "tensorrt_rtx" else ""
        raise EngineError(f"an engine is built for a GPU, but there is none: {error}{hint}") from None
    check_capability(trt, backend, found)
    return found


def _check_target(trt: Any, backend: str, capability: str) -> None:
    names = trt.ComputeCapability
    if not hasattr(names, sm(capability)):
        known = ", ".join(sorted(n.lower() for n in dir(names) if n.startswith("SM")))
        raise EngineError(
            f"{backend} {trt.__version__} has no target {sm(capability).lower()}; it has {known}"
        )


def build_engine(
    bundle: LoadedBundle,
    wanted: Wanted,
    *,
    workspace_mb: int = 2048,
    force: bool = False,
    say: Say = lambda line: None,
) -> tuple[Path, Sidecar]:
    """Build the engine, or keep the one that already fits. Returns the plan's path and its sidecar.

    workspace_mb: limit of TensorRT's scratch memory in MiB.
    force: build even if an engine fits.
    say: called with progress lines, at least every 5 s.
    Raises EngineError where the graph does not parse or compile, or the folder cannot be written.
    """
    path = plan_path(bundle, wanted)
    with (
        _Progress(say) as progress,
        locked(path.parent, lambda waited: progress.now("waiting for another builder")),
    ):
        start = time.monotonic()  # of this build, not of the one that was waited for
        if not force and path.exists():
            with contextlib.suppress(EngineRefused):
                return path, check_plan(path, wanted)
        progress.now(f"writing the {wanted.precision} graph of mode {wanted.mode}")
        model = engine_graph(bundle, wanted.mode, precision=wanted.precision, batch=wanted.batch)
        serialized = model.SerializeToString()
        plan, flags, layers = _compile(model, serialized, wanted, path.parent, workspace_mb, progress)
        progress.now(f"writing {len(plan) / 1e6:.0f} MB")
        sidecar = Sidecar(
            **{name: getattr(wanted, name) for name in Wanted.__dataclass_fields__ if name != "device"},
            build_version=BUILD_VERSION,
            onnx_sha256=hashlib.sha256(serialized).hexdigest(),
            flags=flags,
            inputs=[_io(value) for value in model.graph.input],
            outputs=[_io(value) for value in model.graph.output],
            half_layers=half_nodes(model),
            layers=layers,
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            build_seconds=round(time.monotonic() - start, 2),
        )
        write_plan(path, plan, sidecar)
    return path, sidecar


def _compile(
    model: onnx.ModelProto,
    serialized: bytes,
    wanted: Wanted,
    folder: Path,
    workspace_mb: int,
    progress: _Progress,
) -> tuple[memoryview, list[str], int]:
    """(plan, flags it was built with, number of layers after parsing)."""
    trt = nvidia.load(wanted.backend)
    log = nvidia.log_of(trt)
    builder = started(trt.Builder, trt, wanted.backend, log)
    network = builder.create_network(creation_flags(trt))
    parser = trt.OnnxParser(network, log)
    progress.now("parsing")
    if not parser.parse(serialized):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(min(parser.num_errors, 1)))
        raise EngineError(
            f"{wanted.backend} {trt.__version__} cannot parse the graph: {reasons or log.take()}"
        )
    config, flags = configure(trt, builder, wanted, workspace_mb)
    if wanted.precision == "fp16" and not strongly_typed(trt):
        constrain(trt, network, tensor_types(model))
    cache, cache_path = _timing_cache(trt, config, folder, wanted)
    monitor = _monitor(trt, progress)
    if monitor is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = monitor
    progress.now(f"compiling {network.num_layers} layers")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = log.take()
        raise EngineError(
            f"{wanted.backend} {trt.__version__} cannot compile the graph: {why}{remedy(trt, wanted.backend, why)}"
        )
    if cache is not None:
        with contextlib.suppress(OSError, TypeError):  # without it the next build is only slower
            write_atomically(cache_path, memoryview(config.get_timing_cache().serialize()))
    return memoryview(plan), flags, network.num_layers


def _timing_cache(trt: Any, config: Any, folder: Path, wanted: Wanted) -> tuple[Any, Path]:
    """(cache, its file): kernel timings of earlier builds for this GPU and version; TensorRT checks that they fit.

    None where kernels are compiled at load: nothing is timed, and asking for a cache needs a GPU.
    """
    gpu = wanted.stem.split(f"-{wanted.precision}-")[0]
    path = folder / f"{gpu}.timing"
    if nvidia.compiles_at_load(trt):
        return None, path
    try:
        old = read_engine_file(path, MAX_TIMING_BYTES)
    except OSError:
        old = b""
    cache = config.create_timing_cache(old) or config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return None, path
    return cache, path


def _monitor(trt: Any, progress: _Progress) -> Any:
    """An object through which TensorRT reports its phases; None before version 10."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress.phase = f"compiling: {phase_name}"

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.phase = f"compiling: {phase_name} {step + 1}/{self.steps.get(phase_name, 0)}"
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


class _Progress:
    """Progress lines: what is being done, when it begins and every few seconds while it lasts."""

    def __init__(self, say: Say) -> None:
        self._say, self.phase = say, "starting"
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def now(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self._say(f"{phase} ({time.monotonic() - self._start:.0f} s)")

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            self._say(f"{self.phase} ({time.monotonic() - self._start:.0f} s)")

    def __enter__(self) -> _Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _io(value: onnx.ValueInfoProto) -> Io:
    kind = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return Io(name=value.name, shape=[d.dim_value for d in kind.shape.dim], dtype=dtype)
