# SPDX-License-Identifier: Apache-2.0
"""The engine keeps states by the next_X rule, slot by slot, and refuses what does not fit."""

from __future__ import annotations

import builtins
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.conftest import REPOSITORY as ROOT
from tests.toy import assignment_table, glimpse_table, graph, number_image, save
from trt_build.bundle import LoadedBundle, load_bundle, write_bundle
from trt_build.engine import TensorSpec, check_signature, expected_io, split_states
from trt_build.engines import ort
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError, EngineError

# How every backend is opened on a CPU: each obeys the same protocol.
BACKENDS = {
    "onnxruntime": {"backend": "onnxruntime"},
    "openvino": {"backend": "openvino"},
    # Its buffers and copies as on a GPU, which here is the CPU's memory; test_gpu.py has the real one.
    "onnxruntime, device": {"backend": "onnxruntime", "device": "cuda"},
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    module = BACKENDS[request.param]["backend"]
    pytest.importorskip(module, reason=f"pip install -e '.[{module}]'")
    if "device" in BACKENDS[request.param]:
        pretend_gpu(monkeypatch)
    return BACKENDS[request.param]


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's sessions and buffers for `cuda` are the CPU's."""
    open_session = ort._open

    def on_the_cpu(source: Path | bytes, name: Path, batch: int, *_: Any) -> Any:
        return open_session(source, name, batch, 1, "cpu", False)

    def in_its_memory(_: ort.OrtEngine, array: np.ndarray) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy())

    monkeypatch.setattr(ort, "_open", on_the_cpu)
    monkeypatch.setattr(ort.OrtEngine, "_value", in_its_memory)


def frame(number: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"frame": np.stack([number_image(number, 8, 8)] * batch)}


def place(out: dict[str, np.ndarray], slot: int = 0) -> int:
    """Value of the counter state before the run, read off the toy's logits."""
    return int(np.argmax(out["logits"][slot]))


def test_a_window_run_gives_every_promised_tensor(numbers: LoadedBundle, backend: dict[str, str]) -> None:
    engine = open_engine(numbers, "window", threads=1, **backend)
    frames = np.stack([number_image(n, 8, 8) for n in range(300, 308)])[None]
    out = engine.run({"frames": frames})
    assert out["logits"].tolist() == [list(range(300, 308))]
    assert np.allclose(out["glimpses"], glimpse_table(3)[None, None]) and out["glimpses"].shape == (
        1,
        8,
        3,
        4,
    )
    assert np.allclose(out["assignment"], assignment_table(3, 3)) and out["assignment"].shape == (1, 8, 3, 3)
    assert not engine.states and "window" in engine.description


def test_state_is_carried_from_run_to_run_and_reset_to_zero(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    assert list(engine.states) == ["count"] and set(engine.inputs) == {"frame"}
    assert set(engine.outputs) == {"logits", "glimpses", "assignment"}
    assert [place(engine.run(frame(9))) for _ in range(5)] == [0, 1, 2, 3, 4]
    engine.reset()
    assert [place(engine.run(frame(9))) for _ in range(3)] == [0, 1, 2]


def test_inactive_slots_keep_their_state_and_slots_reset_alone(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", batch=3, threads=1, **backend)
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


@pytest.mark.parametrize("mode", ["window", "step"])
def test_on_a_cpu_idle_rows_cost_nothing_and_the_others_are_the_same_to_the_bit(
    numbers: LoadedBundle, mode: str
) -> None:
    some = open_engine(numbers, mode, batch=4, threads=1, backend="onnxruntime")
    whole = open_engine(numbers, mode, batch=4, threads=1, backend="onnxruntime")
    whole._leave_out = False  # type: ignore[attr-defined]
    rows: list[int] = []
    session = some._session  # type: ignore[attr-defined]

    class Watched:
        def run(self, names: Any, feed: dict[str, np.ndarray]) -> Any:
            rows.append(len(next(iter(feed.values()))))
            return session.run(names, feed)

    some._session = Watched()  # type: ignore[attr-defined]
    rng = np.random.default_rng(3)
    spec = some.inputs["frames" if mode == "window" else "frame"]
    for _ in range(10):
        inputs = {spec.name: rng.integers(0, 255, spec.sized(4)).astype(np.uint8)}
        active = [True, *(rng.random(2) < 0.5), False]
        found, expected = some.run(inputs, active), whole.run(inputs, active)
        for name in found:
            assert np.array_equal(found[name][active], expected[name][active])
        assert rows[-1] == sum(active)
    assert some.run(inputs, [False] * 4).keys() == found.keys() and len(rows) == 10


def test_a_graph_of_a_fixed_batch_runs_idle_rows_too(numbers: LoadedBundle) -> None:
    """As that of FP16, which is TensorRT's."""
    engine = open_engine(numbers, "step", batch=3, threads=1, precision="fp16")
    for _ in range(2):
        out = engine.run(frame(5, 3), [True, False, True])
    assert [place(out, slot) for slot in (0, 2)] == [1, 1]
    assert place(engine.run(frame(5, 3)), 1) == 0


def test_the_same_input_array_may_be_refilled_and_other_arrays_given(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    buffer = frame(0)
    for n in (7, 8, 9):
        buffer["frame"][0] = number_image(n, 8, 8)
        assert engine.run(buffer)["logits"].max() == 8 * n
    assert engine.run(frame(55))["logits"].max() == 8 * 55
    strided = np.stack([number_image(3, 16, 8)])[:, :, ::2]
    assert engine.run({"frame": strided})["logits"].max() == 8 * 3
    assert engine.run(buffer)["logits"].max() == 8 * 9


def test_frames_that_cannot_be_written_to_are_read(numbers: LoadedBundle, backend: dict[str, str]) -> None:
    """As those of a message, a file in memory or a broadcast picture."""
    engine = open_engine(numbers, "step", threads=1, **backend)
    frozen, picture = frame(7), number_image(9, 8, 8)
    frozen["frame"].flags.writeable = False
    assert engine.run(frozen)["logits"].max() == 8 * 7
    assert engine.run({"frame": np.broadcast_to(picture, (1, 8, 8, 3))})["logits"].max() == 8 * 9
    message = np.frombuffer(picture.tobytes(), np.uint8).reshape(1, 8, 8, 3)
    assert engine.run({"frame": message})["logits"].max() == 8 * 9
    assert engine.run(frozen)["logits"].max() == 8 * 7


def test_outputs_are_valid_until_the_next_run_and_not_copied(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    first = engine.run(frame(1))["logits"]
    second = engine.run(frame(2))["logits"]
    assert np.shares_memory(first, second)


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"frame": np.zeros((1, 9, 8, 3), np.uint8)}, "(1, 9, 8, 3)"),
        ({"frame": np.zeros((2, 8, 8, 3), np.uint8)}, "(2, 8, 8, 3)"),
        ({"frame": np.zeros((1, 8, 8, 3), np.float32)}, "float32"),
        ({"frames": np.zeros((1, 8, 8, 3), np.uint8)}, "frames"),
        ({}, "frame"),
        ({"frame": np.zeros((1, 8, 8, 3), np.uint8), "count": np.zeros((1, 1), np.float32)}, "count"),
    ],
)
def test_wrong_inputs_are_refused_naming_both_sides(
    numbers: LoadedBundle, inputs: dict[str, Any], word: str, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    with pytest.raises(EngineError) as caught:
        engine.run(inputs)
    assert word in str(caught.value) and "frame" in str(caught.value)
    assert place(engine.run(frame(1))) == 0  # the refused call moved no state


def test_wrong_slots_modes_devices_and_backends_are_refused(numbers: LoadedBundle) -> None:
    engine = open_engine(numbers, "step", threads=1)
    with pytest.raises(EngineError, match="slot"):
        engine.reset([1])
    with pytest.raises(EngineError, match="active"):
        engine.run(frame(1), [True, False])
    for options in (
        {"backend": "magic"},
        {"device": "tpu"},
        {"device": "cuda"},
        {"batch": 0},
        {"threads": 0},
    ):
        with pytest.raises(EngineError, match=next(iter(options.values())).__str__().split(":")[0]):
            open_engine(numbers, "step", **options)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="no mode"):
        open_engine(numbers, "both")


def test_a_cuda_provider_that_falls_back_to_the_cpu_is_an_error(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    # Where CUDA or cuDNN is missing, ONNX Runtime only prints so, and runs on the CPU.
    opened = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, **options: opened(source, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(EngineError, match=r"could not start on cuda:0.*onnxruntime-gpu\[cuda,cudnn\]"):
        open_engine(numbers, "step", device="cuda:0")


def test_a_cuda_provider_that_does_not_start_is_an_error_with_its_reason_and_prints_nothing(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's own way is to print, on the stdout that `--json` and `bench` answer on, and to take the CPU."""
    import onnxruntime

    create = onnxruntime.InferenceSession._create_inference_session

    def as_with_an_old_driver(self: Any, providers: Any, *rest: Any) -> None:
        self._fallback_providers = ["CPUExecutionProvider"]
        if providers[0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient ; GPU=-1")
        create(self, providers, *rest)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", as_with_an_old_driver)
    with pytest.raises(EngineError, match=r"could not start on cuda: CUDA failure 35.*check nvidia-smi"):
        open_engine(numbers, "step", device="cuda")
    assert capfd.readouterr().out == ""


def test_threads_and_the_number_of_the_gpu_reach_onnxruntime(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Any]] = []

    def refuse(source: Any, *, sess_options: Any, providers: list[Any], **_: Any) -> None:
        asked.append((sess_options.intra_op_num_threads, providers[0]))
        raise RuntimeError("seen")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    for device, error in (("cpu", BundleError), ("cuda:1", EngineError)):
        with pytest.raises(error, match="seen"):
            open_engine(numbers, "step", threads=3, device=device)
    gpu = {"device_id": 1}
    assert asked == [
        (3, "CPUExecutionProvider"),
        (3, ("CUDAExecutionProvider", gpu | {"enable_cuda_graph": "1"})),
        (3, ("CUDAExecutionProvider", gpu)),
    ]


def test_threads_reach_openvino(numbers: LoadedBundle) -> None:
    pytest.importorskip("openvino", reason="pip install -e '.[openvino]'")
    engine: Any = open_engine(numbers, "step", backend="openvino", threads=1)
    compiled = engine._requests[0].get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_fp16_on_a_processor_says_that_it_needs_onnx(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match=r"onnx cannot be imported .*pip install .*onnx"):
        open_engine(numbers, "step", precision="fp16")


F32, F16 = np.dtype(np.float32), np.dtype(np.float16)


@pytest.mark.parametrize(
    ("state", "following"),
    [
        (((None, 4), F32), ((None, 4), F16)),
        (((None, 4), F32), ((None, 5), F32)),
        (((None, 4), F32), ((None, 4, 1), F32)),
        (((None, None), F32), ((None, None), F32)),
        (((), F32), ((), F32)),
    ],
)
def test_a_state_and_what_follows_it_must_fit_the_same_buffer(state: Any, following: Any) -> None:
    specs = [TensorSpec(name, *form) for name, form in (("x", state), ("next_x", following))]
    with pytest.raises(BundleError, match=r"state x .* does not match next_x"):
        split_states({"x": specs[0]}, {"next_x": specs[1]})


def test_a_graph_of_other_types_or_with_inputs_that_nobody_gives_is_refused(numbers: LoadedBundle) -> None:
    inputs, outputs = expected_io(numbers.info, "step")
    check_signature(numbers, "step", inputs, outputs | {"more": TensorSpec("more", (None,), F32)})
    half = outputs | {"logits": replace(outputs["logits"], dtype=F16)}
    with pytest.raises(BundleError, match="output logits float16"):
        check_signature(numbers, "step", inputs, half)
    with pytest.raises(BundleError, match=r"asks for unknown inputs \['depth'\]"):
        check_signature(numbers, "step", inputs | {"depth": TensorSpec("depth", (None,), F32)}, outputs)


@pytest.mark.parametrize("slot", [-1, 3])
def test_a_slot_that_does_not_exist_is_not_another_one(numbers: LoadedBundle, slot: int) -> None:
    engine = open_engine(numbers, "step", batch=3, threads=1)
    engine.run(frame(9, 3))
    with pytest.raises(EngineError, match=f"no slot {slot}: the engine has slots 0 to 2"):
        engine.reset([0, slot])
    out = engine.run(frame(9, 3))
    assert [place(out, i) for i in range(3)] == [1, 1, 1]


def test_read_states_gives_a_copy_of_the_carried_state(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    engine.run(frame(9))
    first = engine.read_states()  # type: ignore[attr-defined]
    for _ in range(2):  # the second writes where the first was read from
        engine.run(frame(9))
    assert first["count"].tolist() == [[1.0]]
    assert engine.read_states()["count"].tolist() == [[3.0]]  # type: ignore[attr-defined]


def test_precisions_that_a_backend_or_bundle_lacks_are_refused(
    numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    with pytest.raises(BundleError, match="trt-build quantize"):
        open_engine(numbers, "step", precision="int8", **backend)
    with pytest.raises(EngineError, match="unknown precision 'fp7'"):
        open_engine(numbers, "step", precision="fp7", **backend)
    with pytest.raises(EngineError, match="bf16"):
        open_engine(numbers, "step", backend="onnxruntime", precision="bf16")
    for engine in (open_engine(numbers, "step", precision=p, **backend) for p in ("auto", "fp32")):
        assert "fp32" in engine.description


def test_openvino_runs_on_the_cpu_alone_and_in_bf16_where_the_processor_can(numbers: LoadedBundle) -> None:
    ov = pytest.importorskip("openvino", reason="pip install -e '.[openvino]'")
    with pytest.raises(EngineError, match="device cpu"):
        open_engine(numbers, "step", backend="openvino", device="cuda")
    with pytest.raises(EngineError, match="fp16"):
        open_engine(numbers, "step", backend="openvino", precision="fp16")
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        engine = open_engine(numbers, "step", backend="openvino", precision="bf16", threads=1)
        assert "bf16" in engine.description and engine.run(frame(9))["logits"].max() == 8 * 9
    else:
        with pytest.raises(EngineError, match="no BF16"):
            open_engine(numbers, "step", backend="openvino", precision="bf16")


def test_a_closed_engine_says_so(numbers: LoadedBundle, backend: dict[str, str]) -> None:
    engine = open_engine(numbers, "step", threads=1, **backend)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(frame(1))


def test_a_missing_backend_says_what_to_install(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def fake(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ImportError("no onnxruntime here")
        return real(name, *rest, **options)

    monkeypatch.setattr("importlib.import_module", lambda name: fake(name))
    with pytest.raises(EngineError, match="pip install"):
        open_engine(numbers, "window")


def test_labels_and_graph_that_disagree_are_refused(
    make_bundle: Callable[..., LoadedBundle], backend: dict[str, str]
) -> None:
    bundle = make_bundle(labels=["only", "two"])
    with pytest.raises(BundleError) as caught:
        open_engine(bundle, "window", threads=1, **backend)
    assert "2 labels" in str(caught.value) and "8" in str(caught.value)


@pytest.mark.parametrize("change", [{"glimpses": 2}, {"workers": 1}, {"preprocess": {"size": 9}}])
def test_other_sizes_that_disagree_are_refused(
    make_bundle: Callable[..., LoadedBundle], change: dict[str, Any], backend: dict[str, str]
) -> None:
    with pytest.raises(BundleError, match="export the bundle again"):
        open_engine(make_bundle(**change), "window", threads=1, **backend)


def test_a_state_output_without_its_input_is_refused(
    tmp_path: Path, numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    model = graph("numbers", "step", 8, 8, 3, 3)
    for node in model.graph.node:
        node.output[:] = ["next_other" if name == "next_count" else name for name in node.output]
    model.graph.output[-1].name = "next_other"
    save(tmp_path / "step.onnx", model)
    info = numbers.info.model_copy(update={"modes": ["step"], "default_mode": "step"})
    write_bundle(tmp_path, info, ["step.onnx", "weights.bin"])
    with pytest.raises(BundleError, match="next_other"):
        open_engine(load_bundle(tmp_path), "step", threads=1, **backend)


def test_a_file_that_is_no_graph_is_one_line(
    tmp_path: Path, numbers: LoadedBundle, backend: dict[str, str]
) -> None:
    info = numbers.info.model_copy(update={"modes": ["window"]})
    bundle = write_bundle(tmp_path, info, {"window.onnx": b"\x00 not a graph"})
    with pytest.raises(BundleError, match="cannot load") as caught:
        open_engine(bundle, "window", threads=1, **backend)
    assert "\n" not in str(caught.value)


def test_external_data_is_really_in_the_shared_weights_file(numbers: LoadedBundle) -> None:
    assert (numbers.path / "weights.bin").stat().st_size > 0
    description = json.loads((numbers.path / "bundle.json").read_text())
    assert "weights.bin" in description["sha256"]


def test_on_a_gpu_frames_go_in_and_results_come_out_and_states_stay(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    engine = ort.OrtEngine(numbers, "step", batch=2, device="cuda")
    assert "no CUDA graph" not in engine.description
    for number in range(8):
        assert place(engine.run(frame(number, 2))) == number
    assert engine.transfers == {"h2d": 8, "d2h": 8 * len(engine.outputs)}
    # Each direction of the states has a recorded graph of its own.
    graphs = [options.get_run_config_entry("gpu_graph_id") for _, options in engine._bindings]
    assert sorted(graphs) == ["1", "2"]


@pytest.mark.parametrize(
    "error", [BundleError("it cannot be recorded"), EngineError("it cannot be recorded")]
)
def test_what_cannot_be_recorded_as_a_cuda_graph_runs_without_and_says_why(
    numbers: LoadedBundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pretend_gpu(monkeypatch)
    open_session, asked = ort._open, []

    def refusing(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        if asked[-1]:
            raise error
        return open_session(*arguments)

    monkeypatch.setattr(ort, "_open", refusing)
    engine = ort.OrtEngine(numbers, "step", device="cuda")
    assert asked == [True, False] and "no CUDA graph (it cannot be recorded)" in engine.description
    assert place(engine.run(frame(1))) == 0
    assert (
        "no CUDA graph (not asked for)"
        in ort.OrtEngine(numbers, "step", device="cuda", cuda_graph=False).description
    )


def test_openvino_sends_nothing_when_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="pip install -e '.[openvino]'")
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('asked for')\n")
    code = "from trt_build.engines.ov import OvEngine; import openvino; print(openvino.__version__)"
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_openvino_is_imported_through_this_package_alone() -> None:
    """Whose `__init__` keeps it from sending."""
    importing = re.compile(r"^\s*(import openvino|from openvino)", re.M)
    for path in [p for top in ("gc_ros", "gc_model", "scripts") for p in (ROOT / top).rglob("*.py")]:
        assert not importing.search(path.read_text()), path
