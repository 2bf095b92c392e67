# SPDX-License-Identifier: Apache-2.0
"""Engines are built with a sidecar, under a lock, atomically; what does not fit is refused by name, unread."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import command_line
from tests.command_line import no_file_above
from tests.trt_build.engines.gpu_double import FakeCudart
from tests.trt_build.engines.test_names import building
from tests.waiting import wait_until
from trt_build.bundle import LoadedBundle, file_sha256, load_bundle
from trt_build.cli import app
from trt_build.engines import compile as build_module
from trt_build.engines import nvidia
from trt_build.engines.compile import wanted_engine
from trt_build.engines.cuda import Cuda
from trt_build.engines.open import open_engine
from trt_build.engines.plan import open_plan
from trt_build.engines.sidecar import (
    ANY_GPU,
    BUILD_VERSION,
    EngineRefused,
    Sidecar,
    Wanted,
    find_plan,
    left_over,
    plan_path,
    wanted_sources,
    write_plan,
)
from trt_build.errors import EngineError

REPOSITORY = Path(__file__).resolve().parents[3]
PEOPLE = REPOSITORY / "bundles" / "people"
PLAN = b"machine code" * 100

call = functools.partial(command_line.call, app)
rtx = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("tensorrt_rtx"),
    reason="tensorrt_rtx is not installed: pip install -e '.[tensorrt_rtx]'",
)


def wanted_of(bundle: LoadedBundle, **changes: Any) -> Wanted:
    fields = {
        "backend": "tensorrt",
        "mode": "step",
        "precision": "fp16",
        "batch": 1,
        "trt_version": "10.3.0",
        "gpu": "Orin (nvgpu)",
        "compute_capability": "8.7",
        "sources": wanted_sources(bundle, "step"),
    }
    return Wanted(**{**fields, **changes})


def sidecar_of(wanted: Wanted, **changes: Any) -> Sidecar:
    fields = {
        **{name: value for name, value in vars(wanted).items() if name in Sidecar.model_fields},
        "build_version": BUILD_VERSION,
        "onnx_sha256": "0",
        "flags": [],
        "inputs": [],
        "outputs": [],
        "half_layers": [],
        "layers": 1,
        "plan_bytes": len(PLAN),
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "build_seconds": 1.0,
    }
    return Sidecar(**{**fields, **changes})


@pytest.fixture
def cached(make_bundle: Callable[..., LoadedBundle]) -> tuple[LoadedBundle, Wanted, Path]:
    """A bundle with an engine in it that fits."""
    bundle = make_bundle()
    wanted = wanted_of(bundle)
    path = plan_path(bundle, wanted)
    path.parent.mkdir()
    write_plan(path, PLAN, sidecar_of(wanted))
    assert find_plan(bundle, wanted)[0] == path
    return bundle, wanted, path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trt_version", "10.4.0"),
        ("precision", "fp32"),
        ("compute_capability", "8.9"),
        ("gpu", "NVIDIA GeForce RTX 4090"),
        ("batch", 2),
        ("backend", "tensorrt_rtx"),
    ],
)
def test_an_engine_for_something_else_is_refused_naming_both_sides(cached, field: str, value: Any) -> None:
    bundle, wanted, _ = cached
    other = wanted_of(bundle, **{field: value})
    with pytest.raises(EngineRefused, match="trt-build build") as caught:
        find_plan(bundle, other)
    assert str(getattr(wanted, field)) in str(caught.value) and str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("multiprocessors", 14, r"number of multiprocessors is 16, but 14 is needed"),
        ("memory", 32 << 30, r"GPU memory is 65\.9 GB, but 34\.4 GB is needed"),
        ("memory", 48 << 30, r"GPU memory is 65\.9 GB, but 51\.5 GB is needed"),
    ],
)
def test_an_engine_of_another_module_with_the_same_name_is_refused(
    make_bundle: Callable[..., LoadedBundle], field: str, value: int, words: str
) -> None:
    """Every AGX Orin is called Orin and has 8.7: the 32 GB module has fewer multiprocessors than that of 64 GB."""
    bundle = make_bundle()
    orin = {"gpu": "Orin", "multiprocessors": 16, "memory": 65_900_000_000}
    wanted = wanted_of(bundle, **orin)
    path = plan_path(bundle, wanted)
    path.parent.mkdir()
    write_plan(path, PLAN, sidecar_of(wanted))
    assert find_plan(bundle, wanted_of(bundle, **orin | {"memory": 64_500_000_000}))[0] == path, "same module"
    with pytest.raises(EngineRefused, match=words):
        find_plan(bundle, wanted_of(bundle, **orin | {field: value}))


def test_a_sidecar_from_before_the_modules_were_told_apart_still_reads(cached) -> None:
    bundle, _, path = cached
    side = path.with_suffix(".json")
    old = json.loads(side.read_text())
    del old["multiprocessors"], old["memory"]
    side.write_text(json.dumps(old))
    assert find_plan(bundle, wanted_of(bundle, multiprocessors=16, memory=1 << 36))[0] == path


def test_an_engine_of_another_graph_is_refused_naming_the_file(cached) -> None:
    bundle, wanted, _ = cached
    sources = {**wanted.sources, "step.onnx": "f" * 64}
    with pytest.raises(EngineRefused, match=r"sha256 of step.onnx.*ffffffffffff"):
        find_plan(bundle, wanted_of(bundle, sources=sources))


@pytest.mark.parametrize("side", ["sidecar", "bundle"])
def test_an_engine_of_more_or_fewer_files_is_refused_naming_the_file(cached, side: str) -> None:
    """A bundle may have its weights within the graph."""
    bundle, wanted, path = cached
    fewer = {name: digest for name, digest in wanted.sources.items() if name != "weights.bin"}
    if side == "sidecar":
        write_plan(path, PLAN, sidecar_of(wanted, sources=fewer))
    else:
        wanted = wanted_of(bundle, sources=fewer)
    with pytest.raises(EngineRefused, match=r"sha256 of weights\.bin is .*none"):
        find_plan(bundle, wanted)


@pytest.mark.parametrize(
    ("field", "what"), [("schema_version", "sidecar schema"), ("graph_version", "graph version")]
)
def test_an_engine_of_another_version_of_ours_is_refused(cached, field: str, what: str) -> None:
    bundle, wanted, path = cached
    write_plan(path, PLAN, sidecar_of(wanted, **{field: 0}))
    with pytest.raises(EngineRefused, match=f"{what} is 0, but 1 is needed"):
        find_plan(bundle, wanted)


def test_a_plan_is_on_the_disk_before_it_has_its_name_and_so_is_its_sidecar(
    cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must leave no record of a plan that is not there."""
    _, wanted, path = cached
    happened: list[tuple[str, str]] = []
    replace, sync = os.replace, os.fsync

    def named(old: Any, new: Any) -> None:
        happened.append(("name", Path(new).name))
        replace(old, new)

    def synced(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        happened.append(("sync", re.sub(r"^\.(.*)\.\d+\.part$", r"\1", name)))
        sync(descriptor)

    monkeypatch.setattr(os, "replace", named)
    monkeypatch.setattr(os, "fsync", synced)
    write_plan(path, PLAN, sidecar_of(wanted))
    side = path.with_suffix(".json").name
    assert happened == [
        (what, name)
        for file in (path.name, side)
        for what, name in (("sync", file), ("name", file), ("sync", "engines"))
    ]


def test_an_engine_built_with_tf32_is_refused_though_its_old_sidecar_reads(cached) -> None:
    bundle, wanted, path = cached
    side = path.with_suffix(".json")
    old = json.loads(side.read_text())
    del old["build_version"]  # no sidecar had it while TF32 was on
    side.write_text(json.dumps(old))
    with pytest.raises(EngineRefused, match=r"build version is 1, but 2 is needed.*trt-build build"):
        find_plan(bundle, wanted)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("truncated", "truncated"),
        ("edited", "changed after it was built"),
        ("no sidecar", "no sidecar"),
        ("no json", "not a sidecar"),
        ("foreign json", "not a sidecar"),
    ],
)
def test_a_damaged_engine_is_refused(cached, damage: str, word: str) -> None:
    bundle, wanted, path = cached
    side = path.with_suffix(".json")
    if damage == "truncated":
        path.write_bytes(PLAN[:-1])
    elif damage == "edited":
        path.write_bytes(b"M" + PLAN[1:])
    elif damage == "no sidecar":
        side.unlink()
    else:
        side.write_text("{" if damage == "no json" else "{}")
    with pytest.raises(EngineRefused, match=word):
        find_plan(bundle, wanted)


def test_an_engine_built_ahead_serves_any_gpu_of_its_capability_and_one_for_the_gpu_comes_first(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    bundle = make_bundle()
    ahead, here = wanted_of(bundle, gpu=ANY_GPU), wanted_of(bundle)
    for each in (ahead, here):
        path = plan_path(bundle, each)
        path.parent.mkdir(exist_ok=True)
        write_plan(path, PLAN, sidecar_of(each))
        assert find_plan(bundle, here)[0] == path
    with pytest.raises(EngineRefused, match=r"capability is 8\.7.*8\.9"):
        find_plan(bundle, wanted_of(bundle, compute_capability="8.9", gpu="other"))


def test_a_stale_engine_of_this_gpu_hides_none_that_was_built_ahead_and_fits(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    bundle = make_bundle()
    ahead, here = wanted_of(bundle, gpu=ANY_GPU), wanted_of(bundle)
    path = plan_path(bundle, ahead)
    path.parent.mkdir()
    write_plan(path, PLAN, sidecar_of(ahead))
    of_before = {**here.sources, "step.onnx": "0" * 64}
    write_plan(plan_path(bundle, here), PLAN, sidecar_of(here, sources=of_before))
    assert find_plan(bundle, here)[0] == path
    path.write_bytes(PLAN[:-1])
    with pytest.raises(EngineRefused, match=r"sha256 of step\.onnx is 000000000000"):
        find_plan(bundle, here)


def gpus(*kinds: tuple[str, str, int, int]) -> FakeCudart:
    """CUDA with these GPUs: name, compute capability, multiprocessors, memory."""
    return FakeCudart(
        *(
            SimpleNamespace(
                name=name.encode(),
                major=int(capability.split(".")[0]),
                minor=int(capability.split(".")[1]),
                multiProcessorCount=multiprocessors,
                totalGlobalMem=memory,
            )
            for name, capability, multiprocessors, memory in kinds
        )
    )


TWO = (("RTX 3060", "8.6", 28, 12 << 30), ("RTX 4090", "8.9", 128, 24 << 30))


@pytest.mark.parametrize("version", ["tensorrt 10.3.0", "tensorrt_rtx 1.5.0.114"])
def test_an_engine_is_compiled_on_the_gpu_that_its_sidecar_names(
    version: str, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, trt, cudart = make_bundle("colours"), building(version), gpus(*TWO)
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr(build_module, "load_cuda", lambda device=0: Cuda(cudart, device))
    started_on: list[int] = []
    real = trt._inner.Builder
    trt._inner.Builder = lambda log: (started_on.append(cudart.current), real(log))[1]
    command = ("build", bundle.path, "--backend", version.split()[0], "--mode", "step", "--json")
    for device, name in ((1, "RTX 4090"), (0, "RTX 3060")):
        result = call(*command, "--device", device)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)[0]["gpu"] == name and started_on.pop() == device
    command_line.assert_one_line(call(*command, "--device", 2), "no GPU cuda:2; there are 2")


def test_nothing_is_built_on_a_gpu_that_would_refuse_to_load_it(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, trt = make_bundle("colours"), building("tensorrt_rtx 1.7.1.116")
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    cudart = gpus(("H200", "9.0", 132, 141 << 30))
    monkeypatch.setattr(build_module, "load_cuda", lambda device=0: Cuda(cudart, device))
    result = call("build", bundle.path, "--backend", "tensorrt_rtx")
    command_line.assert_one_line(result, "does not support the H200", "tensorrt-rtx==1.4.*")
    assert not (bundle.path / "engines").exists()


@pytest.fixture
def on_orin(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> tuple[LoadedBundle, Wanted, Any, Any]:
    """(bundle, what is wanted, the double of TensorRT's builder, that of its config)."""
    bundle, trt = make_bundle("colours"), building("tensorrt 10.3.0")
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    builder = trt._inner.Builder.return_value
    return bundle, wanted_of(bundle), builder, builder.create_builder_config.return_value


def test_timings_of_the_last_build_for_this_gpu_and_version_are_used_by_the_next(on_orin) -> None:
    bundle, wanted, _, config = on_orin
    caches = config.create_timing_cache
    build_module.build_engine(bundle, wanted)
    (file,) = (bundle.path / "engines").glob("*.timing")
    assert file.name == "orin_nvgpu-sm87-tensorrt10.3.0.timing" and file.read_bytes() == b"timings"
    for precision in ("fp32", "fp16"):  # they share it
        build_module.build_engine(bundle, wanted_of(bundle, precision=precision), force=True)
    assert [c.args for c in caches.call_args_list] == [(b"",), (b"timings",), (b"timings",)]
    # TensorRT must refuse those of another GPU.
    assert {c.args[1] for c in config.set_timing_cache.call_args_list} == {False}
    build_module.build_engine(bundle, wanted_of(bundle, trt_version="10.4.0"))
    assert caches.call_args.args == (b"",)


def test_timings_that_cannot_be_used_or_kept_cost_nothing_but_time(
    on_orin, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, wanted, _, config = on_orin
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines" / "orin_nvgpu-sm87-tensorrt10.3.0.timing").write_bytes(b"damaged")
    cache = config.create_timing_cache.return_value
    config.create_timing_cache.side_effect = lambda old: None if old else cache

    def full(path: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(build_module, "write_atomically", full)
    path, sidecar = build_module.build_engine(bundle, wanted)
    assert find_plan(bundle, wanted) == (path, sidecar)
    assert [c.args for c in config.create_timing_cache.call_args_list] == [(b"damaged",), (b"",)]


def test_the_seconds_of_a_build_are_its_own_not_those_that_it_waited_for_another(
    on_orin, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, wanted, builder, _ = on_orin
    now = [100.0]

    def takes(seconds: float, result: Any) -> Any:
        now[0] += seconds
        return result

    lock = build_module.locked
    monkeypatch.setattr(build_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(build_module, "locked", lambda *arguments: takes(60, lock(*arguments)))
    builder.build_serialized_network.side_effect = lambda *_: takes(5, b"a plan")
    assert build_module.build_engine(bundle, wanted)[1].build_seconds == 5


def test_a_graph_that_does_not_compile_is_an_error_with_tensorrts_reason_and_leaves_no_engine(
    on_orin,
) -> None:
    bundle, wanted, builder, _ = on_orin
    log = nvidia.log_of(nvidia.load("tensorrt"))

    def fails(*_: Any) -> None:
        log.log(
            nvidia.load("tensorrt").ILogger.Severity.ERROR,
            "Target GPU SM 87 is not supported by this release",
        )

    builder.build_serialized_network.side_effect = fails
    with pytest.raises(
        EngineError, match=r"cannot compile the graph: Target GPU SM 87.*has no code for this GPU"
    ):
        build_module.build_engine(bundle, wanted)
    assert not list((bundle.path / "engines").glob("*.plan"))


def test_a_build_says_how_far_it_is_while_it_lasts_and_is_silent_afterwards(
    on_orin, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, wanted, builder, config = on_orin
    monkeypatch.setattr(build_module, "HEARTBEAT_S", 0.01)
    heard: list[str] = []
    before = threading.active_count()

    def compiled(*_: Any) -> bytes:
        monitor = config.progress_monitor
        monitor.phase_start("Tactics", None, 3)
        wait_until(lambda: any("compiling: Tactics (" in line for line in heard), "a sign of life")
        assert monitor.step_complete("Tactics", 1) is True, "TensorRT gives up where this is False"
        wait_until(
            lambda: any("compiling: Tactics 2/3 (" in line for line in heard), "the second step of three"
        )
        monitor.phase_finish("Tactics")
        return b"a plan"

    builder.build_serialized_network.side_effect = compiled
    build_module.build_engine(bundle, wanted, say=heard.append)
    assert threading.active_count() == before


def test_a_target_is_no_way_around_the_check_of_the_module(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT compiles for the GPU it runs on, whatever target is named."""
    bundle, trt = make_bundle("colours"), building("tensorrt 10.3.0")
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)

    def here(*module: Any) -> None:
        monkeypatch.setattr(build_module, "load_cuda", lambda device=0: Cuda(gpus(module), device))

    here("Orin", "8.7", 16, 64 << 30)
    wanted = wanted_engine(bundle, "step", backend="tensorrt", target="sm87")
    assert wanted == wanted_engine(bundle, "step", backend="tensorrt") and wanted.gpu == "Orin"
    _, sidecar = build_module.build_engine(bundle, wanted)
    assert not any(flag.startswith("target") for flag in sidecar.flags)
    with pytest.raises(EngineError, match=r"builds for the GPU it runs on \(8\.7\), not for 8\.9"):
        wanted_engine(bundle, "step", backend="tensorrt", target="sm89")
    here("Orin", "8.7", 8, 8 << 30)
    with pytest.raises(EngineRefused, match="number of multiprocessors is 16, but 8 is needed"):
        find_plan(bundle, wanted_engine(bundle, "step", backend="tensorrt"))


@pytest.mark.parametrize("device", [0, 1])
def test_the_remedy_of_a_refused_engine_builds_the_one_that_is_missing_when_it_is_typed(
    device: int, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = load_bundle(shutil.copytree(make_bundle("colours").path, tmp_path / "my bundles; all"))
    trt, cudart = building("tensorrt 10.3.0"), gpus(*TWO)
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr(build_module, "load_cuda", lambda device=0: Cuda(cudart, device))

    def opened() -> bytes:
        options = {"backend": "tensorrt", "batch": 2, "precision": "fp32", "policy": "refuse", "say": print}
        return open_plan(bundle, "step", gpu=Cuda(cudart, device).gpu(), trt=trt, **options).data

    with pytest.raises(EngineRefused) as caught:
        opened()
    remedy = re.search(r"build it: trt-build (.*), or set engine_policy", str(caught.value))
    assert remedy is not None
    result = call(*shlex.split(remedy[1]))
    assert result.exit_code == 0, result.output
    assert opened() == b"a plan"


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("policy", ["refuse", "rebuild"])
def test_a_precision_that_no_engine_is_built_in_is_said_before_any_is_looked_for(
    precision: str, policy: str, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = building("tensorrt 10.3.0")
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(gpus(*TWO), device))
    with pytest.raises(EngineError, match=f"built in fp16 or fp32, not {precision}") as caught:
        open_engine(make_bundle(), "step", backend="tensorrt", precision=precision, engine_policy=policy)
    assert "trt-build build" not in str(caught.value)


@pytest.mark.parametrize("renames_done", [0, 1])
def test_a_kill_during_the_write_leaves_the_old_engine_or_none(cached, renames_done: int) -> None:
    """Half of each must not pass for one."""
    bundle, wanted, path = cached
    program = f"""
import os, signal, sys
from pathlib import Path
from trt_build.engines import sidecar
done, replace = [], os.replace
def kill(a, b):
    if len(done) == {renames_done}:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(replace(a, b))
os.replace = kill
path = Path(sys.argv[1])
old = sidecar.Sidecar.model_validate_json(path.with_suffix(".json").read_text())
sidecar.write_plan(path, b"a new plan", old)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == -9, done.stderr
    if renames_done:
        with pytest.raises(EngineRefused, match="truncated: 10 bytes"):
            find_plan(bundle, wanted)
    else:
        assert find_plan(bundle, wanted)[0] == path and path.read_bytes() == PLAN
    write_plan(path, PLAN, sidecar_of(wanted))
    assert find_plan(bundle, wanted)[0] == path
    assert not list(path.parent.glob("*.part")), "what the kill left behind is still there"


def test_a_full_disk_keeps_the_engine_of_before_and_names_the_plan(cached) -> None:
    bundle, wanted, path = cached
    before = sorted(path.parent.iterdir())
    with (
        no_file_above(5000),
        pytest.raises(EngineError, match=rf"{path.name}: cannot be written \(File too large\)"),
    ):
        write_plan(path, bytes(6000), sidecar_of(wanted))
    assert sorted(path.parent.iterdir()) == before
    assert find_plan(bundle, wanted)[0] == path and path.read_bytes() == PLAN


def test_engines_of_other_graphs_or_weights_are_left_over_and_no_others(cached) -> None:
    bundle, wanted, path = cached
    assert left_over(bundle) == []
    other = path.with_name("other.plan")
    write_plan(other, PLAN, sidecar_of(wanted, sources={"step.onnx": "0" * 64}))
    alone = path.with_name("alone.plan")
    alone.write_bytes(PLAN)
    assert left_over(bundle) == [alone, other]


@rtx
def test_the_command_builds_an_engine_whose_sidecar_is_right(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    import tensorrt_rtx

    bundle = make_bundle("colours")
    arguments = (
        "build",
        bundle.path,
        "--backend",
        "tensorrt_rtx",
        "--mode",
        "window",
        "--target",
        "8.9",
        "--batch",
        2,
    )
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    path = Path(told.pop("plan"))
    assert json.loads(path.with_suffix(".json").read_text()) == told
    assert told["trt_version"] == tensorrt_rtx.__version__ and told["compute_capability"] == "8.9"
    assert told["gpu"] == "any" and told["precision"] == "fp16" and "strongly typed" in told["flags"]
    assert "TF32 off" in told["flags"]
    assert not list(path.parent.glob("*.timing")), "TensorRT-RTX times nothing while it builds"
    assert told["sources"] == {n: file_sha256(bundle.path / n) for n in ("window.onnx", "weights.bin")}
    assert told["plan_bytes"] == path.stat().st_size and told["plan_sha256"] == file_sha256(path)
    assert told["inputs"] == [{"name": "frames", "shape": [2, 8, 8, 8, 3], "dtype": "uint8"}]
    assert [o["name"] for o in told["outputs"]] == ["logits", "glimpses", "assignment"]
    stamp = path.stat().st_mtime_ns
    again = call(*arguments)
    assert again.exit_code == 0 and path.stat().st_mtime_ns == stamp, "an engine that fits was built anew"
    assert call(*arguments, "--force").exit_code == 0 and path.stat().st_mtime_ns != stamp


@rtx
@pytest.mark.slow
def test_two_builders_at_once_leave_one_good_engine(make_bundle: Callable[..., LoadedBundle]) -> None:
    bundle = make_bundle("colours")
    command = [sys.executable, "-c", "from trt_build.cli import main; main()", "build", str(bundle.path)]
    command += ["--backend", "tensorrt_rtx", "--mode", "step", "--target", "sm89"]
    running = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    logs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], logs
    assert sum("compiling" in err for _, err in logs) == 1, "the second did not take what the first had built"
    wanted = wanted_engine(bundle, "step", backend="tensorrt_rtx", target="sm89")
    assert find_plan(bundle, wanted)[0] == plan_path(bundle, wanted)
    assert len(list(plan_path(bundle, wanted).parent.glob("*.plan"))) == 1


@rtx
def test_bad_use_is_one_line(make_bundle: Callable[..., LoadedBundle]) -> None:
    path = make_bundle("colours").path
    options = {"--backend": "tensorrt_rtx", "--target": "sm89"}
    for change, words in (
        ({"--target": "sm12"}, ("SM89".lower(),)),
        ({"--target": "orin"}, ("orin", "sm89")),
        ({"--precision": "int8"}, ("fp16 or fp32",)),
        ({"--mode": "both"}, ("both",)),
        ({"--backend": "magic"}, ("magic", "tensorrt_rtx")),
    ):
        arguments = [word for pair in {**options, **change}.items() for word in pair]
        command_line.assert_one_line(call("build", path, *arguments), *words)


@rtx
def test_a_graph_that_does_not_parse_is_one_line_with_the_parsers_reason(
    make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    bundle = make_bundle("colours")
    real = build_module.engine_graph

    def strange(*arguments: Any, **options: Any) -> onnx.ModelProto:
        model = real(*arguments, **options)
        model.graph.node[-1].op_type = "Det"
        return model

    monkeypatch.setattr(build_module, "engine_graph", strange)
    result = call("build", bundle.path, "--backend", "tensorrt_rtx", "--target", "sm89", "--mode", "window")
    assert result.exit_code == 2 and "cannot parse the graph" in result.stderr.splitlines()[-1]
    assert not list((bundle.path / "engines").glob("*.plan"))


def test_old_and_unknown_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("8.5.3", "12.0.1"):
        monkeypatch.setattr(nvidia, "need", lambda *_, v=version: SimpleNamespace(__version__=v))
        with pytest.raises(EngineError, match=f"{version}.*8.6 to 11"):
            nvidia.load("tensorrt")
    for version in ("8.6.2", "10.3.0", "11.0.0"):
        monkeypatch.setattr(nvidia, "need", lambda *_, v=version: SimpleNamespace(__version__=v))
        assert nvidia.load("tensorrt").__version__ == version


@rtx
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["edge", "paper"])
@pytest.mark.timeout(600)
def test_every_graph_of_the_presets_compiles_to_fp16_within_bounds(preset: str, tmp_path: Path) -> None:
    bundle = load_bundle(PEOPLE) if preset == "edge" else _paper(tmp_path)
    if preset == "edge":  # leave the repository's bundle as it is
        bundle = load_bundle(
            shutil.copytree(PEOPLE, tmp_path / "people", ignore=shutil.ignore_patterns("engines"))
        )
    for mode, megabytes in (("window", 180), ("step", 160)):
        wanted = wanted_engine(bundle, mode, backend="tensorrt_rtx", target="sm86")
        path, sidecar = build_module.build_engine(bundle, wanted)
        assert sidecar.plan_bytes <= megabytes * 1e6 and sidecar.layers <= 3000, sidecar
        assert len(sidecar.half_layers) >= (60 if mode == "step" else 150)
        assert find_plan(bundle, wanted)[0] == path


def _paper(folder: Path) -> LoadedBundle:
    """The paper's sizes with random weights as training starts with them, but every temporal tap in use."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
    from gc_model.export.onnx import export_graphs
    from gc_model.paper.presets import preset
    from gc_model.paper.variants import build
    from tests.gc_model.nets import use_taps
    from trt_build.bundle import Bundle, Preprocess, write_bundle

    torch.manual_seed(0)
    config = preset("paper", classes=60)
    model = build(config).eval()
    use_taps(model)
    names = export_graphs(model, folder)
    info = Bundle(
        model_id="random-paper",
        preset="paper",
        labels=[f"class {k}" for k in range(60)],
        T=config.T,
        glimpses=config.G,
        workers=config.C,
        temporal=config.temporal,
        modes=["window", "step"],
        default_mode="step",
        reset_after=config.reset_after,
        preprocess=Preprocess(size=config.size, resize=config.resize),
        rate_hz=8.0,
    )
    return write_bundle(folder, info, names)
