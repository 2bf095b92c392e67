# SPDX-License-Identifier: Apache-2.0
"""The way back from a bundle: its graphs' weights as a run, to train further, look at, or judge.

What the graphs do not have starts anew: the pose head, which training alone uses, and the statistics of the batch
norms, which were folded into the convolutions. Each batch norm becomes one that passes on what it gets and adds the
folded bias: the same function wherever these statistics are left alone, as in a training that starts from a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from gc_model.export.fold import batch_norms
from gc_model.export.onnx import EMBEDDING, EMBEDDING_NAME, NETWORK, check_parity
from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.inflated import TAPS, InflatedConv, InflatedTrunk
from gc_model.paper.presets import Config, preset
from gc_model.paper.variants import build, for_robot
from gc_model.training import checkpoint
from gc_model.training.checkpoint import Recipe
from gc_model.training.run_directory import check_unused, new_run
from trt_build.bundle import INT8, LoadedBundle, load_bundle
from trt_build.errors import BundleError, DataError

# Names in the graphs: those of `WindowGraph` and `StepGraph`, which hold the network as `model`.
PREFIX = "model."


def unpack(bundle: Path, out: Path) -> LoadedBundle:
    """Write the network and the recipe of `bundle` as a run into the new directory `out`.

    Raises BundleError for what is no whole bundle, or one whose graphs are not those of a network that this version
    knows; DataError where `out` is taken.
    """
    loaded = load_bundle(bundle)
    check_unused(out)
    model, recipe = unfold(loaded)
    try:
        with new_run(out):
            checkpoint.save(out, model, recipe)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out"
        ) from None
    return loaded


def unfold(bundle: LoadedBundle) -> tuple[GlimpseClouds, Recipe]:
    """The network of a bundle in evaluation mode, compared with its graphs, and its recipe. Raises BundleError."""
    info = bundle.info
    config = _config(bundle)
    # The step graph where there is one: its nodes are those of one frame.
    mode = "step" if "step" in info.modes else "window"
    try:
        model = for_robot(build(config))
        weights = dict(_weights(model, onnx.load(bundle.graph(mode)).graph))
        own = model.state_dict()
        if wrong := [n for n, v in weights.items() if n not in own or own[n].shape != v.shape]:
            raise DataError(f"{wrong[0]} has another shape")
        model.load_state_dict(own | weights)
        model.eval()
        # An embedding of another kind says nothing about the weights.
        same = info.provenance.get(EMBEDDING_NAME, 1) == EMBEDDING
        check_parity(model, bundle, but=() if same else ("embedding",))
    except (DataError, BundleError, KeyError, StopIteration, RuntimeError, ValueError) as error:
        raise BundleError(
            f"{bundle.path}: its graphs are not those of the network that it describes ({error}); train from the run "
            "that it was exported from"
        ) from None
    calibration = info.calibration
    # The next export has no INT8 graphs.
    provenance = {k: v for k, v in info.provenance.items() if k not in (NETWORK, INT8)}
    return model, Recipe(
        list(info.labels),
        info.window_s,
        calibration.temperature,
        calibration.unknown_threshold,
        provenance | {"bundle": info.model_id},
    )


def _config(bundle: LoadedBundle) -> Config:
    """As the export wrote it down; for a bundle of before, what bundle.json says of a preset."""
    info = bundle.info
    try:
        if NETWORK in info.provenance:
            config = Config.from_json(info.provenance[NETWORK])
        else:
            config = preset(info.preset)
        return replace(
            config, classes=len(info.labels), T=info.T, G=info.glimpses, C=info.workers, temporal=info.temporal,
            reset_after=info.reset_after, **info.preprocess.model_dump(),
        )  # fmt: skip
    except (DataError, TypeError, AttributeError) as error:
        raise BundleError(f"{bundle.path}: bundle.json describes no network ({error})") from None


class _Graph:
    """Initializers by name, and by the node that reads them where tracing or simplifying gave them another name."""

    def __init__(self, graph: onnx.GraphProto):
        self._tensors = {t.name: t for t in graph.initializer}
        self.nodes = graph.node
        # Of equal tensors only one is kept, so a bias is found by the weight beside it.
        self._biases: dict[str, list[str]] = {}
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                self._biases.setdefault(node.input[1], []).extend(node.input[2:])

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(self._tensors[name]).copy())

    def biases(self, weight: str) -> list[Tensor]:
        """What each node that has this weight adds to it, in the graph's order."""
        return [self[name] for name in self._biases.get(weight, ())]


def _weights(model: GlimpseClouds, graph: onnx.GraphProto) -> Iterator[tuple[str, Tensor]]:
    """What the graph says of the network's parameters and buffers, by their names. Raises KeyError."""
    there = _Graph(graph)
    yield from _trunk(model, there)
    for name, module in model.named_modules():
        if name.split(".")[0] in ("trunk", "pose") or name == "assignment.metric.L":
            continue
        weight = f"{PREFIX}{name}.weight"
        if name == "attention.locate":
            # The graph has a bias for each glimpse: the layer's own and the glimpse's start in one.
            starts = torch.stack(there.biases(weight)[: model.config.G])
            yield f"{name}.weight", there[weight]
            yield f"{name}.bias", torch.zeros_like(starts[0])
            yield "attention.start", starts
        elif isinstance(module, nn.Linear):
            kept = there[weight]
            yield f"{name}.weight", kept
            yield f"{name}.bias", next(iter(there.biases(weight)), kept.new_zeros(len(kept)))
        else:
            for short, mine in module.named_parameters(recurse=False):
                full = f"{name}.{short}"
                if full == "attention.start":
                    continue
                # A simplified graph adds no zeros and multiplies by no ones.
                absent = torch.zeros_like if short.startswith("bias") else torch.ones_like
                yield full, there[PREFIX + full] if PREFIX + full in there else absent(mine)
    yield from _metric(there)


def _metric(there: _Graph) -> Iterator[tuple[str, Tensor]]:
    """L, and the range of distances; a simplified graph subtracts no zero and divides by no one."""
    project = next(n for n in there.nodes if n.name == "/assignment/L/MatMul")
    yield "assignment.metric.L.weight", there[project.input[1]].T.contiguous()
    distance = next(n for n in there.nodes if n.op_type == "Sqrt" and n.name.startswith("/assignment/"))
    found = {"Sub": torch.zeros(()), "Div": torch.ones(())}
    value = distance.output[0]
    for kind in found:
        for node in there.nodes:
            if node.op_type == kind and node.input[0] == value and node.input[1] in there:
                found[kind], value = there[node.input[1]], node.output[0]
    yield "assignment.metric.phi_min", found["Sub"]
    yield "assignment.metric.phi_max", found["Sub"] + found["Div"]


def _trunk(model: GlimpseClouds, there: _Graph) -> Iterator[tuple[str, Tensor]]:
    trunk, size = model.trunk, model.config.size
    assert isinstance(trunk, InflatedTrunk)
    pairs = batch_norms(trunk, torch.zeros(1, 3, size, size))
    for name, conv in trunk.net.named_modules():
        if not isinstance(conv, (nn.Conv2d, InflatedConv)):
            continue
        here = f"trunk.net.{name}"
        if isinstance(conv, InflatedConv):
            weight, biases = _taps(conv, PREFIX + here, there)
        else:
            weight, biases = there[f"{PREFIX}{here}.weight"], there.biases(f"{PREFIX}{here}.weight")
        yield f"{here}.weight", weight
        bias = biases[0] if biases else weight.new_zeros(len(weight))
        if name not in pairs:
            if conv.bias is not None:
                yield f"{here}.bias", bias
            continue
        norm = trunk.net.get_submodule(pairs[name])
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        of = f"trunk.net.{pairs[name]}"
        one = torch.ones_like(bias)
        yield f"{of}.weight", one * (1 + norm.eps) ** 0.5
        yield f"{of}.bias", bias
        yield f"{of}.running_mean", torch.zeros_like(bias)
        yield f"{of}.running_var", one


def _taps(conv: InflatedConv, name: str, there: _Graph) -> tuple[Tensor, list[Tensor]]:
    """The kernel (out, in / groups, 3, k, k) of what `FoldedConv` made of it, and its bias in a list of one."""
    kernels = [f"{name}.kernels.{i}" for i in range(TAPS) if f"{name}.kernels.{i}" in there]
    if not kernels:
        raise KeyError(f"{name}.kernels.0")
    out, channels = conv.weight.shape[:2]
    biases = [bias for kernel in kernels for bias in there.biases(kernel)]
    first = there[kernels[0]]
    if len(kernels) == TAPS:
        return torch.stack([there[kernel] for kernel in kernels], 2), biases
    if first.shape[1] == TAPS * channels:
        return first.unflatten(1, (TAPS, channels)).transpose(1, 2).contiguous(), biases
    # No other frame weighed in.
    weight = first.new_zeros(out, channels, TAPS, *first.shape[2:])
    weight[:, :, conv.now] = first
    return weight, biases
