# SPDX-License-Identifier: Apache-2.0
"""Times engines of one network on this processor, beside eager PyTorch, the processor's peak, and other video models.

    python benchmarks/engines.py bundles/people --threads 2
    python benchmarks/engines.py --preset paper --threads 2     # random weights: times do not depend on them

Prints JSON:

    engines      what `trt-build bench` answers: every engine in a process of its own, in turn
    others       in turn in this process: eager PyTorch and ONNX Runtime on the same window, torchvision's video models
                 where it is installed (random weights, 16 frames of 112 x 112 or 224 x 224 as in their papers), one
                 large float32 product, and a copy of memory
    machine      what this processor could do: GFLOP/s of that product, GB/s of that copy (read and written), and for
                 each mode the milliseconds that its trunk's arithmetic and its weights and states need at these
                 rates, beside the time of ONNX Runtime in FP32
    operators    milliseconds by type of operator, from the own profiles of ONNX Runtime and OpenVINO
    head         its share of a window and its milliseconds of a step, from ONNX Runtime's own profile
    preprocess   one camera image, beside the usual way: convert, resize, crop and normalise to float32
    aims         the project's targets for `paper` on a processor, and whether this run reached them
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import torch

from gc_model.evaluation.sizes import sizes
from gc_model.export.onnx import export_bundle
from gc_model.paper.presets import IMAGENET_MEAN, IMAGENET_STD, Config, preset
from gc_model.paper.variants import build
from gc_model.training import checkpoint
from tests.gc_model.nets import use_taps
from trt_build.bench import as_json, bench
from trt_build.bundle import LoadedBundle, Preprocess, load_bundle
from trt_build.engine import zeros
from trt_build.engines.open import open_engine
from trt_build.engines.ort import OrtEngine
from trt_build.engines.targets import candidates
from trt_build.footage import Footage
from trt_build.graphs.int8 import quantize_bundle
from trt_build.preprocess import model_input

# Prefixes of the names of the trunk's nodes.
_TRUNK = ("/blocks", "/conv", "/bn", "/layer", "/maxpool", "/act", "next_cache")
_PRODUCT = 2048  # side of the square matrices whose product stands for the processor's peak
_COPY = 256 << 20  # bytes that are copied: more than any cache holds


def untrained_bundle(name: str, folder: Path) -> LoadedBundle:
    """A bundle of the preset in folder/bundle with the weights that training starts with, every temporal tap in use."""
    torch.manual_seed(0)
    config = preset(name)
    labels = [f"class{i}" for i in range(config.classes)]
    model = build(config)
    use_taps(model)  # zero taps would be exported as 2-D convolutions
    checkpoint.save(folder / "run", model, checkpoint.Recipe(labels, window_s=4.0))
    return export_bundle(folder / "run", folder / "bundle")


def random_bundle(name: str, folder: Path) -> LoadedBundle:
    """`untrained_bundle` with INT8 graphs, whose ranges are measured on noise."""
    bundle, config = untrained_bundle(name, folder), preset(name)
    shape = (2 * config.T, config.size, config.size, 3)
    noise = Footage(
        "noise", bundle.info.labels[0], np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    )
    return quantize_bundle(bundle, [noise], spare=False)


def peers() -> dict[str, Callable[[], Any]]:
    try:
        from torchvision.models import video
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        print(f"torchvision's video models left out: {error}", file=sys.stderr)
        return {}
    found = {
        "torchvision r3d_18": (video.r3d_18, (16, 112, 112)),
        "torchvision r2plus1d_18": (video.r2plus1d_18, (16, 112, 112)),
        "torchvision s3d": (video.s3d, (16, 224, 224)),
        "torchvision mvit_v2_s": (video.mvit_v2_s, (16, 224, 224)),
    }
    return {name: _call(make(weights=None).eval(), (1, 3, *size)) for name, (make, size) in found.items()}


def _call(model: torch.nn.Module, shape: tuple[int, ...]) -> Callable[[], Any]:
    clip = torch.randn(shape)
    return lambda: model(clip)


@torch.no_grad()
def others(bundle: LoadedBundle, config: Config, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each, measured in turn: medians, but of product and copy the least, which stand for the peak."""
    torch.set_num_threads(threads)
    engine = open_engine(bundle, "window", backend="onnxruntime", threads=threads)
    ours = zeros(engine.inputs, 1)
    model = build(config).eval()
    if "step" in bundle.info.modes:
        step = onnx.load(bundle.path / "step.onnx", load_external_data=False)
        use_taps(model, {value.name for value in step.graph.input})
    clip = torch.zeros(1, config.T, 3, config.size, config.size, dtype=torch.uint8)
    a, b = torch.randn(2, _PRODUCT, _PRODUCT)
    source, target = torch.zeros(2, _COPY, dtype=torch.uint8)
    calls = {
        "onnxruntime window": lambda: engine.run(ours),
        "eager PyTorch window": lambda: model(clip),
        "product": lambda: a @ b,
        "copy": lambda: target.copy_(source),
        **peers(),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:  # the first is the warm-up
                times[name].append((time.perf_counter() - began) * 1e3)
    engine.close()
    found = {name: float(np.median(values)) for name, values in times.items()}
    found |= {name: min(times[name]) for name in ("product", "copy")}
    return found


def machine(
    bundle: LoadedBundle, answer: dict[str, Any], gflop_per_frame: float, T: int
) -> dict[str, dict[str, float] | float]:
    """The processor's rates, and of each mode the time that it takes at least; see the module."""
    gflops = 2 * _PRODUCT**3 / 1e6 / answer["others"]["product"]
    bandwidth = 2 * _COPY / 1e6 / answer["others"]["copy"]  # a copy reads and writes
    found: dict[str, dict[str, float] | float] = {"gflop_per_s": gflops, "gb_per_s": bandwidth}
    for timed in answer["engines"]["engines"]:
        if timed["engine"] != "onnxruntime:fp32":
            continue
        mode = timed["mode"]
        graph = onnx.load(bundle.path / f"{mode}.onnx", load_external_data=False).graph
        values = [v for v in graph.output if v.name.startswith("next_")]  # each is read and written
        states = sum(float(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim[1:]])) for v in values)
        moved = 2 * 4 * states + (bundle.path / "weights.bin").stat().st_size
        arithmetic = gflop_per_frame * (T if mode == "window" else 1) / gflops * 1e3
        memory = moved / bandwidth / 1e6
        found[mode] = {
            "arithmetic_ms": arithmetic,
            "memory_ms": memory,
            "p50_ms": timed["p50_ms"],
            "share_of_limit": max(arithmetic, memory) / timed["p50_ms"],
        }
    return found


class _Profiled(ort.SessionOptions):
    """Options of a session that writes its profile into `folder`."""

    folder = ""

    def __init__(self) -> None:
        super().__init__()
        self.enable_profiling = True
        self.profile_file_prefix = f"{self.folder}/profile"


def _profile(bundle: LoadedBundle, mode: str, threads: int, calls: int) -> list[tuple[str, str, float]]:
    """(name, type, median of the milliseconds of a call) of every node that ONNX Runtime's engine runs."""
    with tempfile.TemporaryDirectory() as folder:
        _Profiled.folder = folder
        with mock.patch.object(ort, "SessionOptions", _Profiled):
            engine = OrtEngine(bundle, mode, threads=threads)
        feeds = zeros(engine.inputs, 1)
        for _ in range(calls):
            engine.run(feeds)
        assert engine._session is not None
        events = json.loads(Path(engine._session.end_profiling()).read_text())
        engine.close()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            times[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e3)
    return [(*node, float(np.median(found))) for node, found in times.items()]


def _openvino_profile(
    bundle: LoadedBundle, mode: str, threads: int, calls: int
) -> list[tuple[str, str, float]]:
    """The same of OpenVINO, which names the kernel beside the operator; empty where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return []
    core = ov.Core()
    model = core.read_model(bundle.graph(mode))
    model.reshape({p.get_any_name(): [1, *list(p.get_partial_shape())[1:]] for p in model.inputs})
    config = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(
        model, "CPU", config | {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()
    # What it reports after call k is the mean of k calls.
    sums: list[list[float]] = []
    for call in range(1, calls + 2):
        request.infer()
        nodes = request.get_profiling_info()
        sums.append([call * node.real_time.total_seconds() * 1e3 for node in nodes])
    found = np.median(np.diff(sums, axis=0), axis=0)
    return [(n.node_name, n.node_type, float(ms)) for n, ms in zip(nodes, found, strict=True)]


def operators(bundle: LoadedBundle, mode: str, threads: int, calls: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a call by type of operator, the largest first, of each backend that is installed; medians."""
    found = {}
    for backend, profile in (("onnxruntime", _profile), ("openvino", _openvino_profile)):
        sums: dict[str, float] = defaultdict(float)
        for _, kind, ms in profile(bundle, mode, threads, calls):
            sums[kind] += ms
        if sums:
            ordered = dict(sorted(sums.items(), key=lambda item: -item[1]))
            found[backend] = {"all": sum(sums.values())} | ordered
    return found


def head_share(bundle: LoadedBundle, mode: str, threads: int, calls: int) -> dict[str, float]:
    """Time of a call outside the trunk: {"share": of all nodes' time, "ms": for each call}."""
    nodes = _profile(bundle, mode, threads, calls)
    head = sum(ms for name, _, ms in nodes if not name.startswith((*_TRUNK, "reorder", "Reorder")))
    return {"share": head / sum(ms for _, _, ms in nodes), "ms": head}


def preprocess(rounds: int = 200) -> dict[str, dict[str, Any]]:
    """Milliseconds for one image, and for the plain way: convert, resize, crop and normalise all of it.

    Normalising belongs to the plain way because our graphs do it themselves; "bit_equal" compares before it.
    """
    p, mean, std = Preprocess(), np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    border = (p.resize - p.size) // 2
    found = {}
    for width, height in ((640, 480), (1280, 720)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)

        def crop(image: np.ndarray = image) -> np.ndarray:
            resized = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (p.resize, p.resize))
            return resized[border : border + p.size, border : border + p.size]

        def plain() -> np.ndarray:
            return np.ascontiguousarray(((crop() - mean) / std).transpose(2, 0, 1))

        times: dict[str, list[float]] = {"ms": [], "plain_ms": []}
        for _ in range(rounds):
            for name, call in (
                ("ms", lambda image=image: model_input(image, p, bgr=True)),
                ("plain_ms", plain),
            ):
                began = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - began) * 1e3)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        equal = bool(np.array_equal(model_input(image, p, bgr=True), crop()))
        found[f"{width}x{height}"] = medians | {
            "times_as_fast": medians["plain_ms"] / medians["ms"],
            "bit_equal": equal,
        }
    return found


def aims(answer: dict[str, Any], window_gflop: float) -> dict[str, Any]:
    """name -> (figure, aim, reached)."""
    p50 = {(e["engine"], e["mode"]): e["p50_ms"] for e in answer["engines"]["engines"]}
    resident = {(e["engine"], e["mode"]): e["resident_mb"] for e in answer["engines"]["engines"]}
    times, head = answer["others"], answer["head"]
    ours = times["onnxruntime window"]
    peak = 2 * _PRODUCT**3 / 1e9 / (times["product"] / 1e3)
    found: dict[str, tuple[float, float, bool]] = {}

    def at_most(name: str, figure: float, aim: float) -> None:
        found[name] = (round(figure, 4), aim, figure <= aim)

    def at_least(name: str, figure: float, aim: float) -> None:
        found[name] = (round(figure, 4), aim, figure >= aim)

    at_most("window / eager PyTorch", ours / times["eager PyTorch window"], 0.65)
    at_least("window's share of the float32 peak", window_gflop / (ours / 1e3) / peak, 0.7)
    fp32 = {mode: p50.get(("onnxruntime:fp32", mode)) for mode in ("window", "step")}
    if fp32["window"] and fp32["step"]:
        at_least("window / step", fp32["window"] / fp32["step"], 7.5)
    at_most("head's share of a window", head["window"]["share"], 0.12)
    if "step" in head:
        at_most("head's ms of a step", head["step"]["ms"], 5.0)
    for mode, aim in (("window", 2.7), ("step", 2.1)):
        base = fp32[mode]
        if base and ("onnxruntime:int8", mode) in p50:
            at_least(f"INT8 {mode}, times FP32", base / p50["onnxruntime:int8", mode], aim)
            at_most(f"INT8 {mode}, resident MB", resident["onnxruntime:int8", mode], 400.0)
        if base and ("openvino:fp32", mode) in p50:
            at_least(f"OpenVINO {mode}, times ONNX Runtime", base / p50["openvino:fp32", mode], 1.0)
        if base and ("openvino:int8", mode) in p50:
            rest = min(v for (engine, m), v in p50.items() if m == mode and engine != "openvino:int8")
            at_least(f"OpenVINO INT8 {mode}, times the next", rest / p50["openvino:int8", mode], 1.0)
    for size, figures in answer["preprocess"].items():
        at_most(f"preprocess {size}, ms", figures["ms"], 0.2)
        at_least(f"preprocess {size}, times plain", figures["times_as_fast"], 4.0)
    return {name: dict(zip(("figure", "aim", "reached"), row, strict=True)) for name, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--preset", default="", help="random weights of this preset instead of a bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    if bool(options.bundle) == bool(options.preset):
        parser.error("give a bundle or --preset")
    with tempfile.TemporaryDirectory() as folder:
        loaded = (
            random_bundle(options.preset, Path(folder)) if options.preset else load_bundle(options.bundle)
        )
        info, threads = loaded.info, options.threads
        config = preset(info.preset, classes=len(info.labels))
        timed = bench(loaded, candidates(loaded), calls=options.calls, threads=threads)
        answer: dict[str, Any] = {
            "engines": as_json(timed, loaded, threads),
            "others": others(loaded, config, threads, max(options.calls // 4, 5)),
            "head": {mode: head_share(loaded, mode, threads, 10) for mode in info.modes},
            "operators": {mode: operators(loaded, mode, threads, options.calls) for mode in info.modes},
            "preprocess": preprocess(),
        }
    gflop = 2 * sizes(config)["trunk_gmac_per_frame"]
    answer["machine"] = machine(loaded, answer, gflop, config.T)
    answer["aims"] = aims(answer, config.T * gflop)
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
