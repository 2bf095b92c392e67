# SPDX-License-Identifier: Apache-2.0
"""Every name of TensorRT's API that we use exists in each version in the branch where it is used; no library needed.

`tensorrt_names` says which names a version has. Building and running go through doubles that have those names and no
others, so a name that a version lacks fails as it would there, unless the code asks for it first.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from tests.toy import number_image
from tests.trt_build.engines import tensorrt_names
from tests.trt_build.engines.gpu_double import FakeCudart, FakeRtx, FakeTensorRT, install_plan
from trt_build import engines
from trt_build.bundle import LoadedBundle
from trt_build.engines import compile as build_module
from trt_build.engines import nvidia
from trt_build.engines.cuda import Cuda
from trt_build.engines.sidecar import ANY_GPU, Wanted, wanted_sources
from trt_build.engines.trt import TrtEngine

NAMES = tensorrt_names.read_table()
# What a call returns, so that its result is limited too.
_RESULTS = {
    "Builder": "Builder", "OnnxParser": "OnnxParser", "Runtime": "Runtime",
    "create_network": "INetworkDefinition", "create_builder_config": "IBuilderConfig", "get_layer": "ILayer",
    "get_output": "ITensor", "create_timing_cache": "ITimingCache", "get_timing_cache": "ITimingCache",
    "deserialize_cuda_engine": "ICudaEngine", "create_execution_context": "IExecutionContext",
    "create_engine_inspector": "EngineInspector", "create_runtime_config": "IRuntimeConfig",
    "create_runtime_cache": "IRuntimeCache",
}  # fmt: skip


class Limited:
    """A double with the names that a class, or the module (kind ""), has in one version."""

    def __init__(self, inner: Any, kind: str, names: set[str]) -> None:
        vars(self).update(_inner=inner, _kind=kind, _names=names)

    def _check(self, name: str) -> None:
        full = f"{self._kind}.{name}" if self._kind else name
        if not name.startswith("__") and full not in self._names:
            raise AttributeError(f"{full} does not exist in this version")

    def __getattr__(self, name: str) -> Any:
        self._check(name)
        value = getattr(self._inner, name)
        if name in _RESULTS:

            def result(*arguments: Any) -> Any:
                found = value(*map(_bare, arguments))
                return None if found is None else Limited(found, _RESULTS[name], self._names)

            return result
        if not self._kind and name in tensorrt_names.CLASSES and not isinstance(value, type):
            return Limited(value, name, self._names)  # an enum
        return (lambda *a: value(*map(_bare, a))) if callable(value) and self._kind else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(name)
        setattr(self._inner, name, value)


def _bare(value: Any) -> Any:
    return value._inner if isinstance(value, Limited) else value


def building(version: str) -> Limited:
    """A module that builds a plan of six bytes."""

    class ILogger:
        Severity = MagicMock()

    class IProgressMonitor:
        pass

    inner = MagicMock(ILogger=ILogger, IProgressMonitor=IProgressMonitor)
    inner.__version__ = version.split()[1]
    for name in ("NetworkDefinitionCreationFlag", "BuilderFlag"):
        members = [n.partition(".")[2] for n in sorted(NAMES[version]) if n.startswith(f"{name}.")]
        setattr(inner, name, MagicMock(**{member: place for place, member in enumerate(members)}))
    network = inner.Builder.return_value.create_network.return_value
    network.num_layers = 1
    network.get_layer.return_value.num_outputs = 1
    inner.Builder.return_value.build_serialized_network.return_value = b"a plan"
    config = inner.Builder.return_value.create_builder_config.return_value
    config.get_timing_cache.return_value.serialize.return_value = b"timings"
    return Limited(inner, "", NAMES[version])


@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_building_uses_only_names_that_the_version_has(
    version: str, precision: str, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, trt = make_bundle("colours"), building(version)
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    backend, number = version.split()
    rtx = backend == "tensorrt_rtx"
    gpu = ANY_GPU if rtx else "Orin"
    sources = wanted_sources(bundle, "step")
    wanted = Wanted(backend, "step", precision, 1, number, gpu, "8.9", sources)
    path, sidecar = build_module.build_engine(bundle, wanted)
    assert path.read_bytes() == b"a plan" and "TF32 off" in sidecar.flags
    assert ("strongly typed" in sidecar.flags) == (number != "8.6.1")
    assert bool(list(path.parent.glob("*.timing"))) != rtx
    config = trt._inner.Builder.return_value.create_builder_config.return_value
    assert config.create_timing_cache.called != rtx
    assert config.set_compute_capability.called == rtx
    # Elsewhere the types are the graph's.
    layers = trt._inner.Builder.return_value.create_network.return_value.get_layer
    assert layers.called == (number == "8.6.1" and precision == "fp16")
    (parsed,) = trt._inner.OnnxParser.return_value.parse.call_args.args
    assert sidecar.onnx_sha256 == hashlib.sha256(parsed).hexdigest()


@pytest.mark.parametrize("version", NAMES)
def test_running_uses_only_names_that_the_version_has(
    version: str, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, cudart = make_bundle(), FakeCudart()
    backend, number = version.split()
    inner = (FakeRtx if backend == "tensorrt_rtx" else FakeTensorRT)(cudart, bundle, "step", 1)
    inner.__version__ = number
    install_plan(bundle, inner, "step", "Double 9000", "8.9")
    trt = Limited(inner, "", NAMES[version])
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(cudart, device))
    engine = TrtEngine(bundle, "step", backend=backend, engine_policy="refuse")
    places = [int(np.argmax(engine.run({"frame": number_image(9, 8, 8)[None]})["logits"])) for _ in range(3)]
    assert places == [0, 1, 2] and engine.layers() == [] and engine.device_bytes > 1000
    assert ("kernels compiled" in engine.description) == (backend == "tensorrt_rtx")
    engine.close()


def test_the_doubles_above_notice_a_name_that_is_not_there(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = NAMES["tensorrt 8.6.1"] - {"IBuilderConfig.clear_flag"}
    monkeypatch.setitem(NAMES, "tensorrt 8.6.1", names)
    with pytest.raises(AttributeError, match=r"IBuilderConfig\.clear_flag does not exist"):
        test_building_uses_only_names_that_the_version_has("tensorrt 8.6.1", "fp16", make_bundle, monkeypatch)


def test_every_name_we_write_exists_in_some_version() -> None:
    """Also names that are only asked for, which a typing error would turn into an answer of no."""
    known = set().union(*NAMES.values())
    members = (
        {"__file__"}
        | {name.partition(".")[2] for name in known}
        | {name for name in known if "." not in name}
    )
    written: set[str] = set()
    for path in Path(engines.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and _module(node.value):
                written.add(node.attr)
            inner = node.value if isinstance(node, ast.Attribute) else None
            if isinstance(inner, ast.Attribute) and _module(inner.value):
                written.add(f"{inner.attr}.{node.attr}")  # type: ignore[attr-defined]
            asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ASKS
            if asks and isinstance(node.args[1], ast.Constant) and path.name in _ASKING:  # type: ignore[attr-defined]
                assert node.args[1].value in members, (path.name, node.args[1].value)  # type: ignore[attr-defined]
    written -= {name for name in written if "__" in name}
    assert {"BuilderFlag.TF32", "Runtime", "EngineValidity.INVALID"} <= written
    assert written <= known, sorted(written - known)


_ASKS = ("hasattr", "getattr")
_ASKING = (
    "builder.py",
    "capabilities.py",
    "compile.py",
    "loading.py",
    "nvidia.py",
    "runtime_cache.py",
    "trt.py",
)


def _module(node: ast.AST) -> bool:
    """Whether an expression is the module: `trt` or `self._trt`."""
    return (isinstance(node, ast.Name) and node.id == "trt") or (
        isinstance(node, ast.Attribute) and node.attr == "_trt"
    )


def test_the_table_is_what_the_installed_bindings_have() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    version = f"tensorrt_rtx {trt.__version__}"
    if version not in NAMES:
        pytest.skip(f"the table has no {version}")
    for name in NAMES[version]:
        kind, _, member = name.partition(".")
        assert hasattr(trt, kind) and (not member or hasattr(getattr(trt, kind), member)), name
    assert json.loads(tensorrt_names.TABLE.read_text())["source"].startswith("Python bindings on PyPI")
