# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX: a second start compiles nothing, what does not fit is left unread, questions come before deeds."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.toy import number_image
from tests.trt_build.engines.gpu_double import GPU, KERNELS, FakeCudart, FakeRtx, install_plan
from tests.trt_build.engines.test_compile import wanted_of
from trt_build.bundle import LoadedBundle
from trt_build.engines import nvidia, runtime_cache
from trt_build.engines.compile import build_engine
from trt_build.engines.cuda import Cuda
from trt_build.engines.sidecar import ANY_GPU
from trt_build.engines.trt import TrtEngine
from trt_build.errors import EngineError


class Rig:
    def __init__(self, bundle: LoadedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle, self.cudart = bundle, FakeCudart()
        self.trt = FakeRtx(self.cudart, bundle, "step", 1)
        monkeypatch.setattr(nvidia, "load", lambda backend: self.trt)
        monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(self.cudart, device))
        self.plan, _ = install_plan(bundle, self.trt, "step", "Double 9000", "8.9")
        self.kernels = self.plan.with_suffix(".kernels")
        self.record = self.plan.with_suffix(".kernels.json")

    def start(self, **options: Any) -> tuple[str, list[str]]:
        """Open, run, close; (description, what was said)."""
        heard: list[str] = []
        options = {"backend": "tensorrt_rtx", "engine_policy": "refuse", "say": heard.append, **options}
        engine = TrtEngine(self.bundle, "step", **options)
        places = [
            int(np.argmax(engine.run({"frame": number_image(9, 8, 8)[None]})["logits"])) for _ in range(3)
        ]
        assert places == [0, 1, 2]
        engine.close()
        told = engine.description
        del engine
        gc.collect()
        assert not self.cudart.leaks and not self.trt.alive
        return told, heard


@pytest.fixture
def rig(make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(make_bundle(), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, False])
def test_a_second_start_takes_the_kernels_of_the_first(rig: Rig, graph: bool) -> None:
    told, heard = rig.start(cuda_graph=graph)
    assert "kernels compiled (none kept yet)" in told and "compiling" in heard[0]
    assert rig.trt.compiled == 1 and rig.kernels.read_bytes() == KERNELS
    stamp = rig.kernels.stat().st_mtime_ns
    told, heard = rig.start(cuda_graph=graph)
    assert "kernels from the cache" in told and heard == []
    assert rig.trt.compiled == 1 and rig.trt.offered == [KERNELS]
    assert rig.kernels.stat().st_mtime_ns == stamp, "written again without need"
    assert ("no CUDA graph" in told) != graph


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("file", ["kernels", "record"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_kept_kernels_are_read_without_following_links_and_no_fifo_stops_a_start(
    rig: Rig, tmp_path: Path, file: str, kind: str
) -> None:
    rig.start()
    path: Path = getattr(rig, file)
    if kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        os.mkfifo(path)
    told, _ = rig.start()
    assert "kernels compiled (the kept ones cannot be read)" in told
    assert rig.trt.compiled == 2 and rig.trt.offered == []
    assert path.is_file() and not path.is_symlink(), "replaced, not written through"
    assert "kernels from the cache" in rig.start()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("truncated", "changed after they were written"),
        ("edited", "changed after they were written"),
        ("no record", "none kept yet"),
        ("foreign record", "cannot be read"),
        ("another plan", "plan sha256 of the kept ones is ffff"),
        ("another version", "trt version of the kept ones is 1.3.0, not 1.4.0.76"),
        ("another gpu", "multiprocessors of the kept ones is 99, not 16"),
    ],
)
def test_kernels_that_do_not_fit_never_reach_the_deserialiser_and_are_replaced(
    rig: Rig, damage: str, word: str
) -> None:
    rig.start()
    record = json.loads(rig.record.read_text())
    changes = {
        "another plan": {"plan_sha256": "f" * 64},
        "another version": {"trt_version": "1.3.0"},
        "another gpu": {"multiprocessors": 99},
        "foreign record": {"who": "knows"},
    }
    if damage == "truncated":
        rig.kernels.write_bytes(KERNELS[:-1])
    elif damage == "edited":
        rig.kernels.write_bytes(b"C" + KERNELS[1:])
    elif damage == "no record":
        rig.record.unlink()
    else:
        rig.record.write_text(json.dumps(record | changes[damage]))
    told, _ = rig.start()
    assert word in told and rig.trt.offered == [] and rig.trt.compiled == 2
    assert json.loads(rig.record.read_text()) == record and rig.kernels.read_bytes() == KERNELS
    assert "kernels from the cache" in rig.start()[0]


@pytest.mark.slow
def test_kernels_that_tensorrt_refuses_are_compiled_and_replaced(rig: Rig) -> None:
    rig.start()
    rig.trt.refuses.add("deserialize")
    told, _ = rig.start()
    assert "TensorRT refused the kept ones" in told and rig.trt.compiled == 2
    rig.trt.refuses.clear()
    assert "kernels from the cache" in rig.start()[0]


def test_a_builder_at_work_costs_the_kernels_not_the_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_cache, "_PATIENCE_S", 0.1)
    with (rig.plan.parent / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        told, _ = rig.start()
    assert "not kept: another process builds" in told and not rig.kernels.exists()


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_disk_without_locks_costs_the_kernels_not_the_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    told, _ = rig.start()
    assert "not kept: " in told and "No locks available" in told and not rig.kernels.exists()
    with pytest.raises(EngineError, match=r"engines: cannot be locked \(No locks.*a disk with locks"):
        build_engine(rig.bundle, wanted_of(rig.bundle))


def test_a_full_disk_costs_the_kernels_not_the_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("trt_build.engines.sidecar.replacing", full)
    told, _ = rig.start()
    assert "not kept: " in told and "No space left" in told and not rig.record.exists()


@pytest.mark.parametrize(
    ("refused", "word"), [("set_runtime_cache", "TensorRT takes no cache"), ("serialize", "none kept yet")]
)
def test_a_tensorrt_that_takes_or_gives_no_cache_starts_all_the_same(
    rig: Rig, refused: str, word: str
) -> None:
    rig.trt.refuses.add(refused)
    told, heard = rig.start()
    assert f"kernels compiled ({word})" in told and word in heard[0]
    assert rig.kernels.exists() == rig.record.exists() == (refused != "serialize")


def test_gpus_that_share_a_plan_built_ahead_do_not_share_its_kernels(rig: Rig) -> None:
    rig.plan.unlink()
    install_plan(rig.bundle, rig.trt, "step", ANY_GPU, "8.9")
    rig.start()
    rig.cudart.gpus = (SimpleNamespace(**vars(GPU) | {"name": b"Double 9001"}),)
    rig.start()
    assert rig.trt.compiled == 2 and rig.trt.offered == []
    for name in (b"Double 9001", b"Double 9000"):
        rig.cudart.gpus = (SimpleNamespace(**vars(GPU) | {"name": name}),)
        assert "kernels from the cache" in rig.start()[0]
    assert rig.trt.compiled == 2


def test_a_network_that_cannot_be_recorded_is_asked_about_and_never_tried(rig: Rig) -> None:
    rig.trt.refuses.add("capture")
    told, _ = rig.start()
    assert "no CUDA graph (TensorRT says that this network cannot be recorded)" in told
    assert "cudaStreamBeginCapture" not in rig.cudart.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (1, r"VERSION_MISMATCH: another version built it; .*--force"),
        (
            2,
            r"UNSUPPORTED_CC: the GPU is not supported; use backend tensorrt",
        ),
        (6, r"UNSUPPORTED_CC: .*; OLD_CUDA_DRIVER: .*update the NVIDIA driver"),
        (1024, r"cannot run it here: code 1024"),
    ],
)
def test_an_invalid_plan_is_refused_with_its_reason_before_it_is_loaded(
    rig: Rig, bits: int, words: str
) -> None:
    rig.trt.invalid = bits
    with pytest.raises(EngineError, match=words):
        rig.start()
    gc.collect()
    assert rig.trt.deserialised == [] and not rig.cudart.leaks and not rig.trt.alive


def test_a_plan_that_is_merely_not_the_best_here_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = (rig.trt.EngineValidity.SUBOPTIMAL, 0)
    monkeypatch.setattr(rig.trt, "get_engine_validity", lambda plan: verdict)
    rig.start()


def test_the_real_runtime_calls_a_plan_of_nothing_malformed() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    from trt_build.engines.loading import check_validity

    runtime = trt.Runtime(nvidia.log_of(trt))
    plan: Any = type("Plan", (), {"data": b"no plan" * 50, "path": Path("step.plan"), "wanted": None})
    plan.wanted = type("Wanted", (), {"backend": "tensorrt_rtx", "compute_capability": "8.9"})
    with pytest.raises(EngineError, match=r"step\.plan: .*MALFORMED_ENGINE: the plan is damaged"):
        check_validity(trt, runtime, plan)


def test_the_gpu_of_the_double_is_the_one_in_the_record(rig: Rig) -> None:
    rig.start()
    record = json.loads(rig.record.read_text())
    assert (record["gpu"], record["compute_capability"]) == ("Double 9000", "8.9")
    assert record["multiprocessors"] == GPU.multiProcessorCount and record["trt_version"] == "1.4.0.76"
