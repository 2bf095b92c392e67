# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: the CUDA calls as the driver takes them, and engines beside ONNX Runtime.

The engine's own buffers, graphs, slots and teardown are tested without TensorRT too: a stand-in for its context copies
the frame's first bytes into the state and the state into the logits, on the GPU, so that every result tells of the
frame before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trt_build.engines.gpu_double import FakeTensorRT, _Context, _Engine, _Runtime, install_plan
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines import nvidia
from trt_build.engines.cuda import Cuda, host_view, load_cuda
from trt_build.engines.layers import not_half
from trt_build.engines.open import open_engine
from trt_build.engines.ort import OrtEngine
from trt_build.engines.trt import TrtEngine
from trt_build.errors import EngineError

pytestmark = pytest.mark.gpu
PEOPLE = Path(__file__).resolve().parents[3] / "bundles" / "people"


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    try:
        found = load_cuda()
        found.gpu()
    except EngineError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    yield found


def free_bytes(cuda: Cuda) -> int:
    return int(cuda.call("cudaMemGetInfo")[0])


class Blocks:
    """A pinned and a device block of 1 kB, and a stream."""

    def __init__(self, cuda: Cuda) -> None:
        cuda.use()
        self.size = 1024
        self.host, self.device, self.stream = cuda.pinned(self.size), cuda.malloc(self.size), cuda.stream()
        self.array = host_view(self.host, (self.size,), np.dtype(np.uint8))

    def close(self, cuda: Cuda) -> None:
        cuda.destroy_stream(self.stream)
        cuda.free(self.device)
        cuda.free_pinned(self.host)


def test_a_recorded_graph_of_copies_runs_as_often_as_it_is_launched(cuda: Cuda) -> None:
    blocks = Blocks(cuda)
    cuda.zero(blocks.device, blocks.size, blocks.stream)
    with cuda.capture(blocks.stream) as made:
        cuda.copy(blocks.device, blocks.host, blocks.size // 2, "HostToDevice", blocks.stream)
        cuda.copy(
            blocks.host + blocks.size // 2, blocks.device, blocks.size // 2, "DeviceToHost", blocks.stream
        )
    for value in (3, 200):
        blocks.array[:] = 7
        blocks.array[: blocks.size // 2] = value
        cuda.launch(made[0], blocks.stream)
        cuda.synchronize(blocks.stream)
        assert (blocks.array == value).all()
    cuda.destroy_graph(made[0])
    blocks.close(cuda)


def test_too_much_memory_is_an_error_with_the_call_and_a_remedy_and_the_device_goes_on(cuda: Cuda) -> None:
    with pytest.raises(EngineError, match=r"cudaMalloc failed: cudaErrorMemoryAllocation.*free GPU memory"):
        cuda.malloc(1 << 50)
    test_a_recorded_graph_of_copies_runs_as_often_as_it_is_launched(cuda)


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Cuda) -> None:
    blocks = Blocks(cuda)
    with pytest.raises(EngineError, match=r"cudaStreamSynchronize failed: .*Capture"):  # noqa: SIM117
        with cuda.capture(blocks.stream):
            cuda.synchronize(blocks.stream)
    blocks.array[:] = 5
    cuda.copy(blocks.device, blocks.host, blocks.size, "HostToDevice", blocks.stream)
    cuda.synchronize(blocks.stream)
    blocks.close(cuda)


def test_a_gpu_that_is_not_there_is_named(cuda: Cuda) -> None:
    with pytest.raises(EngineError, match="no GPU cuda:99"):
        load_cuda(99).gpu()


class _CopyContext(_Context):
    """next_count = the frame's first bytes, logits = count, as copies on the device; everything else stays."""

    def execute_async_v3(self, stream: int) -> bool:
        at, trt = self.addresses, self.trt
        cuda: Cuda = trt.cuda  # type: ignore[attr-defined]
        sizes = {n: int(np.prod(trt.spec(n)[0][1:])) * trt.spec(n)[1].itemsize for n in at}
        for slot in range(trt.batch):
            for target, source in (("next_count", "frame"), ("logits", "count")):
                cuda.copy(
                    at[target] + slot * sizes[target],
                    at[source] + slot * sizes[source],
                    4,
                    "DeviceToDevice",
                    stream,
                )
        return True


class _CopyEngine(_Engine):
    def create_execution_context(self) -> _Context:
        return _CopyContext(self.trt)


class _CopyRuntime(_Runtime):
    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return _CopyEngine(self.trt)


class CopyTensorRT(FakeTensorRT):
    def __init__(self, cuda: Cuda, bundle: LoadedBundle, batch: int) -> None:
        super().__init__(None, bundle, "step", batch)  # type: ignore[arg-type]
        self.cuda = cuda

    def Runtime(self, log: Any) -> _Runtime:
        return _CopyRuntime(self, log)


def copying(
    bundle: LoadedBundle, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, batch: int, graph: bool
) -> TrtEngine:
    trt = CopyTensorRT(cuda, bundle, batch)
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    gpu = cuda.gpu()
    install_plan(bundle, trt, "step", gpu.name, gpu.compute_capability)
    return TrtEngine(bundle, "step", batch=batch, engine_policy="refuse", cuda_graph=graph)


def frames(numbers: list[float]) -> dict[str, np.ndarray]:
    images = np.zeros((len(numbers), 8, 8, 3), np.uint8)
    for image, number in zip(images, numbers, strict=True):
        image.reshape(-1)[:4] = np.frombuffer(np.float32(number).tobytes(), np.uint8)
    return {"frame": images}


@pytest.mark.parametrize("graph", [True, False])
def test_states_change_sides_on_the_device_and_idle_slots_keep_theirs(
    cuda: Cuda, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch, graph: bool
) -> None:
    engine = copying(make_bundle(), cuda, monkeypatch, 3, graph)
    assert ("no CUDA graph" in engine.description) != graph, engine.description
    rng, before = np.random.default_rng(1), [0.0, 0.0, 0.0]
    for n in range(1, 300):
        numbers = [n + 0.25, n + 0.5, n + 0.75]
        active = (rng.random(3) < 0.7).tolist()
        out = engine.run(frames(numbers), active)["logits"][:, 0]
        for slot in range(3):
            if active[slot]:
                assert out[slot] == before[slot], (n, slot)
                before[slot] = numbers[slot]
        if n % 50 == 0:
            engine.reset([1])
            before[1] = 0.0
    assert engine.read_states()["count"].ravel().tolist() == before
    assert engine.transfers["h2d"] == engine.transfers["d2h"] == 299
    engine.close()


def test_engines_opened_and_closed_leave_the_device_as_it_was(
    cuda: Cuda, make_bundle: Callable[..., LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    copying(bundle, cuda, monkeypatch, 2, True).close()
    before = free_bytes(cuda)
    for _ in range(50):
        engine = copying(bundle, cuda, monkeypatch, 2, True)
        engine.run(frames([1.0, 2.0]))
        engine.close()
        engine.close()
    assert before - free_bytes(cuda) < 1 << 20


def real(bundle: LoadedBundle, mode: str, backend: str, **options: Any) -> Any:
    """An engine of the real backend; skips where it is not installed or refuses this GPU for good."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    try:
        return open_engine(bundle, mode, backend=backend, **options)
    except EngineError as error:
        if "does not support the" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize(("mode", "lead"), [("step", (1,)), ("window", (1, 8))])
def test_the_real_engine_follows_onnxruntime(
    cuda: Cuda, backend: str, mode: str, lead: tuple[int, ...]
) -> None:
    bundle = load_bundle(PEOPLE)
    engine, reference = real(bundle, mode, backend), open_engine(bundle, mode)
    rng = np.random.default_rng(0)
    name = next(iter(engine.inputs))
    for _ in range(16):
        image = {name: rng.integers(0, 256, (*lead, 224, 224, 3), np.uint8)}
        a, b = engine.run(image)["logits"].ravel(), reference.run(image)["logits"].ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
    assert set(engine.transfers) <= {"h2d", "d2h"} and engine.transfers["h2d"] == 16
    engine.close()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize(("mode", "lead"), [("step", (1,)), ("window", (1, 8))])
def test_the_real_engine_in_fp32_is_fp32(cuda: Cuda, backend: str, mode: str, lead: tuple[int, ...]) -> None:
    """With TF32 the logits differ ten times as much."""
    bundle = load_bundle(PEOPLE)
    engine, reference = real(bundle, mode, backend, precision="fp32"), open_engine(bundle, mode)
    rng = np.random.default_rng(0)
    name = next(iter(engine.inputs))
    for _ in range(16):
        image = {name: rng.integers(0, 256, (*lead, 224, 224, 3), np.uint8)}
        assert np.abs(engine.run(image)["logits"] - reference.run(image)["logits"]).max() <= 2e-4
    engine.close()


def test_a_second_opening_compiles_no_kernels(cuda: Cuda) -> None:
    bundle = load_bundle(PEOPLE)
    real(bundle, "step", "tensorrt_rtx").close()
    began = time.perf_counter()
    engine = real(bundle, "step", "tensorrt_rtx")
    assert "kernels from the cache" in engine.description
    assert time.perf_counter() - began < 2.0
    engine.close()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_the_real_engine_reports_its_half_layers(cuda: Cuda, backend: str) -> None:
    from trt_build.graphs.precision import half_nodes, mixed_precision

    bundle = load_bundle(PEOPLE)
    engine = real(bundle, "step", backend)
    assert not_half(engine.layers(), half_nodes(mixed_precision(bundle, "step"))) == []
    engine.close()


@pytest.fixture
def cuda_provider(cuda: Cuda) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("mode", "lead"), [("step", (2,)), ("window", (2, 8))])
def test_onnxruntimes_cuda_provider_follows_its_cpu_and_keeps_idle_slots(
    cuda_provider: None, precision: str, mode: str, lead: tuple[int, ...]
) -> None:
    bundle = load_bundle(PEOPLE)
    engine = open_engine(bundle, mode, device="cuda", precision=precision, batch=2)
    reference = open_engine(bundle, mode, batch=2)
    assert " CUDA," in engine.description and "no CUDA graph" not in engine.description
    rng = np.random.default_rng(0)
    name = next(iter(engine.inputs))
    for n in range(24):
        image = {name: rng.integers(0, 256, (*lead, 224, 224, 3), np.uint8)}
        active = [True, bool(n % 3)] if mode == "step" else None
        if n == 12:
            engine.reset([1])
            reference.reset([1])
        for a, b in zip(
            engine.run(image, active)["logits"], reference.run(image, active)["logits"], strict=True
        ):
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
    engine.close()


@pytest.mark.parametrize(("mode", "lead"), [("step", (1,)), ("window", (1, 8))])
def test_onnxruntimes_recorded_graph_gives_what_single_launches_give_and_the_state_stays_on_the_gpu(
    cuda_provider: None, mode: str, lead: tuple[int, ...]
) -> None:
    bundle = load_bundle(PEOPLE)
    recorded, launched = (
        OrtEngine(bundle, mode, device="cuda", cuda_graph=wanted) for wanted in (True, False)
    )
    assert "no CUDA graph (not asked for)" in launched.description
    rng = np.random.default_rng(0)
    name = next(iter(recorded.inputs))
    for _ in range(20):
        image = {name: rng.integers(0, 256, (*lead, 224, 224, 3), np.uint8)}
        a, b = recorded.run(image), launched.run(image)
        for tensor in a:
            assert np.allclose(a[tensor], b[tensor], rtol=1e-3, atol=1e-4), tensor
    assert recorded.transfers == {"h2d": 20, "d2h": 20 * len(recorded.outputs)}


def test_a_graph_recorded_in_one_thread_runs_in_another(cuda_provider: None) -> None:
    engine = open_engine(load_bundle(PEOPLE), "step", device="cuda")
    image = {next(iter(engine.inputs)): np.full((1, 224, 224, 3), 90, np.uint8)}
    here = [engine.run(image)["logits"].copy() for _ in range(4)]
    engine.reset()
    with ThreadPoolExecutor(1) as pool:
        there = [pool.submit(lambda: engine.run(image)["logits"].copy()).result(60) for _ in range(4)]
    assert np.allclose(here, there, rtol=1e-3, atol=1e-4)
