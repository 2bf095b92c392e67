# SPDX-License-Identifier: Apache-2.0
"""The TensorRT runtime: state on the device, two copies a step, graphs, slots, teardown; errors that name the call.

Without a GPU these run on tests.trt_build.engines.gpu_double; test_gpu.py has what needs the real thing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.toy import number_image
from tests.trt_build.engines.gpu_double import GPU, PLAN, FakeCudart, FakeTensorRT, cudaError_t, install_plan
from trt_build.bundle import LoadedBundle
from trt_build.engines import nvidia
from trt_build.engines.cuda import Cuda, load_cuda
from trt_build.engines.open import open_engine
from trt_build.engines.sidecar import Wanted, write_plan
from trt_build.engines.trt import TrtEngine
from trt_build.errors import BundleError, EngineError


class Rig:
    """A bundle with an engine for the double's GPU."""

    def __init__(
        self, bundle: LoadedBundle, monkeypatch: pytest.MonkeyPatch, mode: str = "step", batch: int = 1
    ):
        self.bundle, self.mode, self.batch = bundle, mode, batch
        self.cudart = FakeCudart()
        self.trt = FakeTensorRT(self.cudart, bundle, mode, batch)
        monkeypatch.setattr(nvidia, "load", lambda backend: self.trt)
        monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(self.cudart, device))
        self.path, self.sidecar = install_plan(bundle, self.trt, mode, "Double 9000", "8.9")

    def open(self, **options: Any) -> Any:
        options = {"engine_policy": "refuse", **options}
        if "cuda_graph" in options:
            return TrtEngine(self.bundle, self.mode, batch=self.batch, **options)
        return open_engine(self.bundle, self.mode, backend="tensorrt", batch=self.batch, **options)

    def assert_clean(self) -> None:
        gc.collect()
        assert not self.cudart.leaks and not self.trt.alive


@pytest.fixture
def rig(make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    return lambda **options: Rig(make_bundle(), monkeypatch, **options)


def frame(number: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"frame": np.stack([number_image(number, 8, 8)] * batch)}


def place(out: dict[str, np.ndarray], slot: int = 0) -> int:
    return int(np.argmax(out["logits"][slot]))


@pytest.mark.parametrize("graph", [True, False])
def test_a_long_stream_equals_onnxruntime_with_two_copies_a_step(rig, graph: bool) -> None:
    r = rig()
    engine, reference = r.open(cuda_graph=graph), open_engine(r.bundle, "step", backend="onnxruntime")
    assert engine.precision == "fp16"
    for n in range(1, 40):
        ours, theirs = engine.run(frame(n)), reference.run(frame(n))
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs), n
    assert engine.transfers == {"h2d": 39, "d2h": 39}, "the state visits the host, or a copy is doubled"
    assert ("cudaGraphLaunch" in r.cudart.calls) == graph
    assert ("no CUDA graph" in engine.description) != graph
    engine.close()
    r.assert_clean()


def test_a_step_allocates_nothing_and_is_a_launch_and_one_wait(rig) -> None:
    r = rig()
    engine = r.open()
    engine.run(frame(1))
    r.cudart.calls.clear()
    engine.run(frame(2))
    assert r.cudart.calls == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    engine.close()


def test_a_window_engine_has_one_graph_and_no_state(rig) -> None:
    r = rig(mode="window")
    engine = r.open()
    frames = np.stack([number_image(n, 8, 8) for n in range(300, 308)])[None]
    for _ in range(3):
        assert engine.run({"frames": frames})["logits"].tolist() == [list(range(300, 308))]
    assert len(r.cudart.graphs) == 1
    engine.close()
    r.assert_clean()


def test_inactive_slots_keep_their_state_and_slots_reset_alone(rig) -> None:
    r = rig(batch=3)
    engine = r.open()
    counts = [0, 0, 0]
    rng = np.random.default_rng(3)
    for _ in range(40):
        active = rng.random(3) < 0.6
        out = engine.run(frame(5, 3), active.tolist())
        for slot in np.flatnonzero(active):
            assert place(out, slot) == counts[slot]
            counts[slot] = (counts[slot] + 1) % 8
        if rng.random() < 0.2:
            slot = int(rng.integers(3))
            engine.reset([slot])
            counts[slot] = 0
    assert engine.read_states()["count"].ravel().tolist() == counts
    engine.close()
    r.assert_clean()


def test_a_network_that_cannot_be_captured_runs_without_a_graph_and_says_so(rig) -> None:
    r = rig()
    r.trt.refuses.add("capture")
    engine = r.open()
    assert "no CUDA graph (execute_async_v3 failed" in engine.description
    assert [place(engine.run(frame(9))) for _ in range(3)] == [0, 1, 2]
    engine.close()
    r.assert_clean()


def test_a_cuda_call_that_fails_in_a_capture_costs_the_graph_and_nothing_else(rig) -> None:
    r = rig()
    r.cudart.fail_in_capture["cudaMemcpyAsync"] = cudaError_t.cudaErrorLaunchFailure
    engine = r.open()
    assert "no CUDA graph (cudaMemcpyAsync failed" in engine.description
    assert [place(engine.run(frame(n))) for n in range(3)] == [0, 1, 2]
    engine.close()
    r.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "code", "remedy"),
    [
        ("cudaMalloc", cudaError_t.cudaErrorMemoryAllocation, "free GPU memory"),
        ("cudaSetDevice", cudaError_t.cudaErrorInsufficientDriver, "driver"),
        ("cudaHostAlloc", cudaError_t.cudaErrorMemoryAllocation, "free GPU memory"),
        ("cudaStreamCreateWithFlags", cudaError_t.cudaErrorLaunchFailure, "restart"),
        ("cudaMemcpyAsync", cudaError_t.cudaErrorLaunchFailure, "restart"),
    ],
)
def test_a_failing_call_while_opening_names_itself_and_leaks_nothing(rig, call, code, remedy) -> None:
    r = rig()
    r.cudart.fail[call] = code
    with pytest.raises(EngineError, match=f"{call} failed: {code.name}.*{remedy}"):
        r.open()
    r.assert_clean()


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        (
            12060,
            r"driver is for CUDA 12\.6 and cuda-bindings for CUDA 13\.0: "
            r"python3 -m pip install 'cuda-bindings==12\.\*'",
        ),
        (13000, r"install or update the NVIDIA driver"),
        (0, r"install or update the NVIDIA driver"),
    ],
)
def test_cuda_bindings_of_a_newer_major_than_the_driver_are_told_from_a_missing_driver(
    rig, driver: int, remedy: str
) -> None:
    r = rig()
    r.cudart.driver = driver
    r.cudart.fail["cudaSetDevice"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=remedy):
        r.open()


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failing_step_names_its_call_and_the_engine_still_closes(rig, call: str) -> None:
    r = rig()
    engine = r.open()
    r.cudart.fail[call] = cudaError_t.cudaErrorLaunchFailure
    with pytest.raises(EngineError, match=f"{call} failed: cudaErrorLaunchFailure"):
        engine.run(frame(1))
    engine.close()
    engine.close()
    r.assert_clean()
    with pytest.raises(EngineError, match="closed"):
        engine.run(frame(1))


def test_closing_goes_on_after_a_failing_call(rig) -> None:
    r = rig()
    engine = r.open()
    r.cudart.fail["cudaGraphExecDestroy"] = cudaError_t.cudaErrorLaunchFailure
    with pytest.raises(EngineError, match="cudaGraphExecDestroy"):
        engine.close()
    gc.collect()
    assert r.cudart.leaks == ["graph"] and not r.trt.alive


def test_a_plan_that_does_not_deserialise_says_why(rig) -> None:
    r = rig()
    r.trt.refuses.add("deserialize_cuda_engine")
    with pytest.raises(EngineError, match=r"another world.*--force"):
        r.open()
    r.assert_clean()


def test_a_damaged_plan_is_refused_before_it_is_deserialised(rig) -> None:
    r = rig()
    r.path.write_bytes(PLAN[:-1])
    with pytest.raises(EngineError, match="truncated"):
        r.open()
    assert r.trt.deserialised == []
    r.assert_clean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"multiprocessors": 8}, "number of multiprocessors is 8, but 16 is needed"),
        ({"memory": 16 << 30}, r"GPU memory is 17\.2 GB, but 8\.6 GB is needed"),
    ],
)
def test_an_engine_of_another_module_of_the_same_name_is_not_opened(rig, changes: Any, words: str) -> None:
    r = rig()
    write_plan(r.path, PLAN, r.sidecar.model_copy(update=changes))
    with pytest.raises(EngineError, match=words):
        r.open()
    assert r.trt.deserialised == []
    r.assert_clean()


def test_an_engine_whose_tensors_are_not_those_of_its_sidecar_is_refused(rig) -> None:
    r = rig()
    write_plan(r.path, PLAN, r.sidecar.model_copy(update={"outputs": r.sidecar.outputs[1:]}))
    with pytest.raises(BundleError, match="engine and sidecar name different tensors"):
        r.open()
    r.assert_clean()


def test_an_engine_of_another_batch_is_refused_before_a_buffer_is_made(rig) -> None:
    r = rig()
    r.trt.batch = 2
    with pytest.raises(BundleError, match=r"shape \(2, .*, batch is 1"):
        r.open()
    assert "cudaMalloc" not in r.cudart.calls
    r.assert_clean()


def test_an_address_that_tensorrt_refuses_is_an_error(rig) -> None:
    r = rig()
    r.trt.refuses.add("set_tensor_address")
    with pytest.raises(EngineError, match="set_tensor_address refused frame"):
        r.open()
    r.assert_clean()


def test_a_context_that_does_not_fit_into_memory_is_an_error(rig) -> None:
    r = rig()
    r.trt.refuses.add("create_execution_context")
    with pytest.raises(EngineError, match=r"create_execution_context failed: .*free GPU memory"):
        r.open()
    r.assert_clean()


def test_what_failed_first_is_said_where_closing_fails_too(rig) -> None:
    r = rig()
    r.cudart.fail |= dict.fromkeys(("cudaHostAlloc", "cudaStreamDestroy"), cudaError_t.cudaErrorLaunchFailure)
    with pytest.raises(EngineError, match="cudaHostAlloc failed"):
        r.open()
    assert r.cudart.leaks == ["stream"]


@pytest.mark.parametrize("there", ["cuda.bindings.runtime", "cuda.cudart", ""])
def test_cuda_python_is_found_in_either_layout(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(cudaSetDevice=lambda device: (0,) if device == 1 else (1,))

    def imported(name: str) -> Any:
        if name != there:
            raise ImportError(f"No module named {name!r}")
        return found

    monkeypatch.setattr("trt_build.engines.cuda.importlib", SimpleNamespace(import_module=imported))
    if there:
        load_cuda(1).use()
    else:
        with pytest.raises(EngineError, match=r"cuda-python cannot be imported .*'cuda-bindings==12\.\*'"):
            load_cuda()


def test_the_named_gpu_runs_the_engine_whatever_thread_calls(rig, monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig()
    other = SimpleNamespace(**vars(GPU) | {"name": b"Double 9001"})
    r.cudart.gpus = (GPU, other)
    monkeypatch.setattr("trt_build.engines.trt.load_cuda", lambda device=0: Cuda(r.cudart, device))
    install_plan(r.bundle, r.trt, "step", "Double 9001", "8.9")
    engine = r.open(device="cuda:1")
    assert "Double 9001" in engine.description
    for call in (lambda: engine.run(frame(1)), engine.reset, engine.read_states, engine.close):
        r.cudart.current = 0  # as in a new thread
        call()
        assert r.cudart.current == 1
    r.assert_clean()
    with pytest.raises(EngineError, match=r"unknown device 'cuda:x'"):
        r.open(device="cuda:x")


def test_engine_policy_decides_between_refusing_and_rebuilding(rig, monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig()
    r.path.unlink()
    with pytest.raises(EngineError, match=r"no tensorrt engine.*trt-build build"):
        r.open(engine_policy="refuse")
    built, heard = [], []

    def build(bundle: LoadedBundle, wanted: Wanted, say: Any) -> Any:
        built.append(wanted)
        say("compiling (4 s)")
        write_plan(r.path, PLAN, r.sidecar)
        return r.path, r.sidecar

    monkeypatch.setattr("trt_build.engines.compile.build_engine", build)
    engine = r.open(engine_policy="rebuild", say=heard.append)
    assert heard == ["compiling (4 s)"]  # minutes of silence would look like a hang
    assert len(built) == 1 and built[0].gpu == "Double 9000" and place(engine.run(frame(1))) == 0
    engine.close()
    with pytest.raises(EngineError, match="guess"):
        r.open(engine_policy="guess")


def test_results_outlive_the_engine(rig) -> None:
    r = rig()
    engine = r.open()
    out = engine.run(frame(7))["logits"]
    pinned = engine._buffers._out.arrays["logits"]
    assert not np.shares_memory(out, pinned), "gone with the engine"
    engine.close()
    assert out.max() == 8 * 7
