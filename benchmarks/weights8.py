# SPDX-License-Identifier: Apache-2.0
"""Weights of the head's products in 8 bits, activations in FP32, beside INT8: what each gains on a processor.

    python benchmarks/weights8.py bundles/people --clips CLIPS
    python benchmarks/weights8.py --preset paper --mode step [--backend openvino]

Prints JSON: times of FP32, of the 8-bit weights and of INT8 in turn, by the clock and of the processor, which other
load on the machine moves less; with `--clips` the checks of `verify` of the 8-bit weights. Their graphs stand in for
INT8 graphs in a copy of the bundle. ONNX Runtime runs them as MatMulNBits, which turns the activations of a product
into 8 bits as well while it runs. INT8 is that of the bundle, or with --preset that of `trt-build quantize`, its ranges
measured on noise; "as stored" with weights around 128, where this processor would run them around zero
(`trt_build.engines.int8_graph`). OpenVINO has no MatMulNBits: it runs FP32 and INT8.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.engines import random_bundle
from trt_build.bundle import INT8, INT8_WEIGHTS_NAME, LoadedBundle, graph_name, load_bundle, write_bundle
from trt_build.engines import int8_graph
from trt_build.engines.open import open_engine
from trt_build.graphs.weights import share_weights
from trt_build.verify import verify

BLOCK = 128  # weights along a product's sum that share a scale
_LARGE = 1 << 16  # elements of a weight worth it
AS_STORED = "int8, as stored"
_ACCURACY = 4  # MatMulNBits: products of 8-bit integers; 0, of dequantised floats, was slower than FP32


def quantised(weight: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(values around 128 (N, blocks, BLOCK), scales (N * blocks)) of a weight (N, K): symmetric, per block."""
    rows, inner = weight.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :inner] = weight
    padded = padded.reshape(rows, blocks, BLOCK)
    scales = np.abs(padded).max(-1) / 127
    scales[scales == 0] = 1
    values = np.clip(np.rint(padded / scales[..., None]), -127, 127) + 128
    return values.astype(np.uint8), scales.astype(np.float32).reshape(-1)


class _Weights8:
    """Rewrites a graph's large weight products; used once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.weights = {t.name: t for t in model.graph.initializer if int(np.prod(t.dims)) >= _LARGE}
        self.made: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        for node in self.graph.node:
            names = [n for n in node.input if n in self.weights] if node.op_type in ("Gemm", "MatMul") else []
            if not names:
                self.nodes.append(node)
                continue
            weight = numpy_helper.to_array(self.weights[names[0]])
            if node.op_type == "Gemm":  # the exporter's: x W' + b
                out = f"{node.output[0]}_product"
                self._product(node.input[0], names[0], weight, out)
                self.nodes.append(helper.make_node("Add", [out, node.input[2]], list(node.output)))
            elif weight.ndim == 2:
                self._product(node.input[0], names[0], weight.T, node.output[0])
            else:  # one product for each worker
                self._products(node, names[0], weight)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.graph.node for name in node.input}
        kept = [t for t in self.graph.initializer if t.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]
        self.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return self.model

    def _product(self, source: str, name: str, weight: NDArray[Any], target: str) -> None:
        """weight: (N, K)."""
        if name not in self.made:
            self.made.add(name)
            values, scales = quantised(weight)
            self.graph.initializer.append(numpy_helper.from_array(values, f"{name}_values"))
            self.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
        sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
        inputs = [source, f"{name}_values", f"{name}_scales"]
        options: dict[str, Any] = {"domain": "com.microsoft", "accuracy_level": _ACCURACY, **sizes}
        self.nodes.append(helper.make_node("MatMulNBits", inputs, [target], f"{target}_8", **options))

    def _products(self, node: onnx.NodeProto, name: str, weight: NDArray[Any]) -> None:
        parts = [f"{node.output[0]}_in{i}" for i in range(len(weight))]
        outs = [f"{node.output[0]}_out{i}" for i in range(len(weight))]
        split: dict[str, Any] = {"axis": -3, "num_outputs": len(weight)}
        self.nodes.append(helper.make_node("Split", [node.input[0]], parts, **split))
        for i, (part, out) in enumerate(zip(parts, outs, strict=True)):
            self._product(part, f"{name}_{i}", weight[i].T, out)
        self.nodes.append(helper.make_node("Concat", outs, list(node.output), axis=-3))


def weights8(bundle: LoadedBundle, folder: Path) -> LoadedBundle:
    """A copy of the bundle whose INT8 graphs have the head's weights in 8 bits and nothing else."""
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("engines", "*int8*"))
    graphs = {graph_name(m, INT8): _Weights8(onnx.load(bundle.graph(m))).run() for m in bundle.info.modes}
    share_weights(graphs, folder / INT8_WEIGHTS_NAME)
    for name, graph in graphs.items():
        onnx.save(graph, folder / name)
    plain = [name for name in bundle.info.sha256 if "int8" not in name]
    return write_bundle(folder, bundle.info, [*plain, *graphs, INT8_WEIGHTS_NAME])


def in_turn(
    graphs: dict[str, tuple[LoadedBundle, str]], mode: str, calls: int, threads: int, backend: str
) -> dict[str, dict[str, float]]:
    """Milliseconds of a call, by the clock and of the processor: median and least of `calls`, in turn.

    graphs: name -> bundle and precision. Beside each but the first: how many times as fast as that one it is.
    """
    signed, engines = int8_graph.multiplies_signed(), {}
    for name, (bundle, precision) in graphs.items():
        here = signed and name != AS_STORED
        with mock.patch.object(int8_graph, "multiplies_signed", lambda here=here: here):
            engines[name] = open_engine(bundle, mode, backend=backend, precision=precision, threads=threads)
    name, spec = next(iter(next(iter(engines.values())).inputs.items()))
    frames = {name: np.random.default_rng(0).integers(0, 256, spec.sized(1), np.uint8)}
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    times: dict[str, list[list[float]]] = {engine: [] for engine in engines}
    for _ in range(calls):
        for each, engine in engines.items():
            engine.run(frames)  # caches and clocks are as the other left them
            began = [clock() for clock in clocks.values()]
            engine.run(frames)
            times[each].append([(clock() - b) * 1e3 for clock, b in zip(clocks.values(), began, strict=True)])
    found: dict[str, dict[str, float]] = {}
    for each, engine in engines.items():
        engine.close()
        for clock, ms in zip(clocks, np.transpose(times[each]), strict=True):
            row = {"p50_ms": float(np.median(ms)), "least_ms": float(ms.min())}
            first = found.get(f"{next(iter(graphs))}, {clock}", row)
            ratios = {f"times_{key}": first[f"{key}_ms"] / row[f"{key}_ms"] for key in ("p50", "least")}
            found[f"{each}, {clock}"] = row | ratios
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--preset", default="", help="weights of a training's start instead of a bundle")
    parser.add_argument("--clips", type=Path, help="verify on these clips")
    parser.add_argument("--frames", type=int, default=1000, help="length of verify's streams")
    parser.add_argument("--windows", type=int, default=64, help="largest number of verify's windows")
    # More threads spin while they wait for each other, which counts as processor time.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--mode", choices=["window", "step"], help="only this one")
    parser.add_argument("--backend", choices=["onnxruntime", "openvino"], default="onnxruntime")
    options = parser.parse_args()
    if bool(options.bundle) == bool(options.preset):
        parser.error("give a bundle or --preset")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = random_bundle(options.preset, folder) if options.preset else load_bundle(options.bundle)
        # Quantising takes a while; OpenVINO has no use for it.
        wanted = options.backend == "onnxruntime" or options.clips
        made = weights8(source, folder / "weights8") if wanted else source
        answer: dict[str, Any] = {
            "model_id": made.info.model_id,
            "backend": options.backend,
            "threads": options.threads,
        }
        graphs = {"fp32": (source, "fp32")}
        if options.backend == "onnxruntime":
            graphs["8-bit weights"] = made, INT8
        if graph_name("window", INT8) in source.info.sha256:
            graphs[INT8] = source, INT8
            if int8_graph.multiplies_signed():
                graphs[AS_STORED] = source, INT8
        for mode in made.info.modes if options.calls else ():
            if options.mode in (None, mode):
                answer[mode] = in_turn(graphs, mode, options.calls, options.threads, options.backend)
        if options.clips:
            from gc_ros.recognition.footage import read_footage

            pieces = read_footage([options.clips], made.info, subjects=[], topic=None)
            checks = verify(
                made,
                pieces,
                [f"onnxruntime:{INT8}"],
                frames=options.frames,
                most_windows=options.windows,
                threads=options.threads,
            )
            answer["checks"] = [asdict(c) | {"blocks": len(c.blocks)} for c in checks]
        answer["load"] = os.getloadavg()[0]
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
