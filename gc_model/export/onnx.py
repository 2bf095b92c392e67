# SPDX-License-Identifier: Apache-2.0
"""`trt-build export`: a trained run becomes a bundle, which is checked against the network it comes from."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from gc_model.data.frames import decode
from gc_model.data.samples import sub_sequences
from gc_model.export.classes import class_statistics, training_clips
from gc_model.export.fold import cache_names, fold_for_export
from gc_model.export.torch_engine import TorchEngine, bundle_info
from gc_model.paper.clouds import GlimpseClouds
from gc_model.paper.network import CACHE, State
from gc_model.paper.presets import Config
from gc_model.paper.variants import for_robot
from gc_model.training import checkpoint
from trt_build.bundle import CLASSES_NAME, INFO_NAME, Bundle, LoadedBundle, load_bundle, write_bundle
from trt_build.engine import Engine
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError
from trt_build.files import demand_place, temporary_folder
from trt_build.graphs.weights import round_weights, rounded, share_weights
from trt_build.tolerances import EXPORT_ROUNDING, EXPORT_TOLERANCE

OPSET = 18
_ALL_BITS, _FEWEST_BITS = 24, 12  # significant bits of float32; with fewer, labels change
STREAM = 64  # frames of `step` in one stream
# Which `Network.embedding` the graphs put out: in the provenance, and increased when it means something else. 1, where
# there is none: without the context of what moves.
EMBEDDING, EMBEDDING_NAME = 2, "embedding"
NETWORK = "network"  # in the provenance: the `Config`, from which `gc_model.export.unfold` finds the way back


class WindowGraph(nn.Module):
    """A window of frames through the forward pass of training: logits, embedding, glimpses, assignment."""

    def __init__(self, model: GlimpseClouds):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        clip = frames.permute(0, 1, 4, 2, 3)
        maps = self.model.maps(clip)
        Z, c = self.model.features_of(maps)
        # Zeros that take N from the data: a traced torch.zeros would fix it.
        zero = c[:, 0, :1] * 0
        start = self.model.initial_state(1).named()
        state = State.from_named({k: zero.reshape(-1, *[1] * (v.dim() - 1)) + v for k, v in start.items()})
        result, _ = self.model.fold(Z, c, state)
        return result.logits, self.model.embedding(clip, maps, Z, c), result.l, result.p


class StepGraph(nn.Module):
    """One frame and the state: logits, embedding, glimpses, assignment, and the next state; `next_X` feeds `X`."""

    def __init__(self, model: GlimpseClouds, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        state = State.from_named(dict(zip(self.names, states, strict=True)))
        result, state, e = self.model.stream_and_embed(frame.permute(0, 3, 1, 2), state)
        following = state.named()
        return (result.logits, e, result.l, result.p, *(following[name] for name in self.names))


def export_bundle(
    run: Path,
    out: Path,
    *,
    videos: Sequence[Path] = (),
    weight_bits: int = 24,
    head_bits: int | None = None,
    data: Path | None = None,
    licences: Sequence[str] = (),
    progress: bool = False,
) -> LoadedBundle:
    """Export the run's model into the bundle directory `out`.

    videos: real clips on which parity is checked in addition to noise. weight_bits: see `round_weights`. head_bits: of
    the weights behind the trunk, rounded before anything is compared, and of the statistics of the classes; None: as
    they are. data: where the clips of the training are now, None: where they were then; without them the bundle cannot
    be taught new activities. licences: of these clips, for the provenance. Raises DataError for a run that is not
    complete or a video that does not decode, BundleError if a graph does not reproduce torch within
    `EXPORT_TOLERANCE`, or `out` is neither new nor empty nor a bundle, and OSError where it cannot be written.
    """
    _check_place(out)
    network, recipe = checkpoint.load(run)
    model = for_robot(network)
    if head_bits is not None:
        if not _FEWEST_BITS <= head_bits <= _ALL_BITS:
            raise BundleError(f"--head-bits {head_bits} is not {_FEWEST_BITS} to {_ALL_BITS}")
        if head_bits > weight_bits:
            raise BundleError(
                f"--head-bits {head_bits} is more than all weights have; give --weight-bits {head_bits}, too"
            )
        _round_head(model, head_bits)
    info = bundle_info(model.config, recipe, model.embedding_size)
    clips = np.stack([_window_of(video, model.config, info) for video in videos]) if videos else None
    with temporary_folder() as folder:
        names = export_graphs(model, folder, weight_bits)
        probe = write_bundle(folder / "probe", info, {name: folder / name for name in names})
        parity = check_parity(model, probe, clips, weight_bits)
        clips_of_training = training_clips(run, recipe.labels, data, recipe.provenance)
        if clips_of_training:
            statistics = class_statistics(probe, clips_of_training, progress=progress)
            if statistics is not None:
                if head_bits is not None:
                    statistics = statistics.rounded(head_bits)
                (folder / CLASSES_NAME).write_bytes(statistics.to_bytes())
                names.append(CLASSES_NAME)
        sha256 = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
        provenance = recipe.provenance | {
            NETWORK: model.config.to_json(),
            EMBEDDING_NAME: EMBEDDING,
            "model.safetensors": sha256,
            "opset": OPSET,
            "onnx": onnx.__version__,
            "weight_bits": weight_bits,
            "head_bits": head_bits,
        }
        if licences:
            provenance["licences"] = list(licences)
        # Named after the weights, so that two bundles of one recipe can be told apart in messages and reports, and
        # after what the embedding is: what was taught by another says nothing in this one.
        named = hashlib.sha256(f"{sha256} {EMBEDDING}".encode()).hexdigest()
        model_id = f"glimpse_clouds-{model.config.preset}-{len(recipe.labels)}-{named[:8]}"
        info = info.model_copy(update={"model_id": model_id, "parity": parity, "provenance": provenance})
        write_bundle(out, info, {name: folder / name for name in names})
    return load_bundle(out)


def _window_of(video: Path, config: Config, info: Bundle) -> np.ndarray:
    """T frames spread over a video, as the graphs take them: uint8 (T, S, S, 3)."""
    images = decode(video, info.preprocess, max_fps=1e9).images
    return sub_sequences(images, config, of=1)[0].permute(0, 2, 3, 1).contiguous().numpy()


def _round_head(model: GlimpseClouds, bits: int) -> None:
    """Round the weights behind the trunk to so many significant bits, in place."""
    for name, value in model.named_parameters():
        if not name.startswith("trunk.") and value.ndim > 1:
            value.data = torch.from_numpy(rounded(value.detach().cpu().numpy(), bits))


def export_graphs(model: GlimpseClouds, folder: Path, weight_bits: int = 24) -> list[str]:
    """Write window.onnx, step.onnx (if the model streams) and weights.bin. Returns the file names."""
    config = model.config
    folded = fold_for_export(model).float()
    S, T = config.size, config.T
    frames = torch.zeros(2, T, S, S, 3, dtype=torch.uint8)
    graphs = {"window.onnx": _to_onnx(WindowGraph(folded), (frames,), ["frames"], [])}
    if config.streams:
        state = folded.initial_state(2, streaming=True).named()
        names = [name for name in state if not name.startswith(CACHE)] + cache_names(folded)
        graphs["step.onnx"] = _to_onnx(
            StepGraph(folded, list(state)), (frames[:, 0], *state.values()), ["frame", *names], names
        )
    for graph in graphs.values():
        round_weights(graph, weight_bits)
    share_weights(graphs, folder / "weights.bin")
    for name, graph in graphs.items():
        onnx.save(graph, folder / name)
        onnx.checker.check_model(folder / name)
    return [*graphs, "weights.bin"]


def _to_onnx(
    module: nn.Module, args: tuple[Tensor, ...], inputs: list[str], states: list[str]
) -> onnx.ModelProto:
    """Trace into a simplified ONNX graph with the batch axis N open."""
    import onnxslim

    outputs = ["logits", "embedding", "glimpses", "assignment", *(f"next_{s}" for s in states)]
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = Path(temporary) / "graph.onnx"
        torch.onnx.export(
            module,
            args,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "N"} for name in inputs + outputs},
            opset_version=OPSET,
            dynamo=False,
        )
        graph = onnx.load(path)
    slim = onnxslim.slim(graph)
    assert isinstance(slim, onnx.ModelProto)
    return slim


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} is a file: choose another --out")
    if (out / checkpoint.DESCRIPTION).is_file():
        raise BundleError(f"{out} is a run, which a bundle in it would hide: choose another --out")
    # What is hidden, an export that was killed has left.
    if out.is_dir() and not (out / INFO_NAME).is_file() and any(p.name[0] != "." for p in out.iterdir()):
        raise BundleError(f"{out} holds something else: choose another --out")
    demand_place(out)


def check_parity(
    model: GlimpseClouds,
    bundle: LoadedBundle,
    clips: np.ndarray | None = None,
    weight_bits: int = _ALL_BITS,
    but: Collection[str] = (),
) -> dict[str, Any]:
    """ONNX Runtime against torch: the largest difference of each output, over windows and `STREAM` frames of `step`.

    clips: uint8 (n, T, S, S, 3), in addition to two of noise. weight_bits: of the graph's weights. but: outputs that
    are not compared. Raises BundleError above `EXPORT_TOLERANCE`, unless torch in float32 is itself about that far from
    torch in float64: a long stream of noise can amplify rounding beyond any fixed bound, and then two orders of
    summation differ by as much. The graph may be `EXPORT_ROUNDING` times as far from the exact result as torch is.
    """
    info = bundle.info
    S, T = info.preprocess.size, info.T
    noise = np.random.default_rng(0).integers(0, 256, (2, T, S, S, 3), np.uint8)
    clips = noise if clips is None else np.concatenate([noise, clips])
    worst: dict[str, float] = {}
    for mode in info.modes:
        engine = open_engine(bundle, mode, backend="onnxruntime")
        ours = _outputs(engine, mode, clips)
        engine.close()
        theirs = _outputs(TorchEngine(model, info, mode), mode, clips)
        theirs = {name: value for name, value in theirs.items() if name not in but}
        found = _differences(ours, theirs)
        worst |= {f"{mode}/{name}": value for name, value in found.items()}
        bad = {name: value for name, value in found.items() if not value <= EXPORT_TOLERANCE}
        if bad:
            exact = _outputs(TorchEngine(copy.deepcopy(model).double(), info, mode), mode, clips)
            allowed = _differences(theirs, exact)
            ours_exact = _differences(ours, exact)
            bad = {k: v for k, v in bad.items() if not ours_exact[k] <= EXPORT_ROUNDING * allowed[k]}
        for name, value in bad.items():
            said = f"{mode}/{name} by {value:.2e}, allowed {EXPORT_TOLERANCE:.0e}"
            if weight_bits < _ALL_BITS:
                raise BundleError(
                    f"with weights of {weight_bits} bits the graph differs too much from torch: {said}; export it with "
                    "a larger --weight-bits"
                )
            raise BundleError(f"the exported graph differs from torch: {said}")
    return {"against": "torch", "clips": len(clips), "frames": STREAM, "max_abs_difference": worst}


def _outputs(engine: Engine, mode: str, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Every output of an engine: for each clip as a window, or for `STREAM` frames of the clips in one stream."""
    if mode == "window":
        inputs = [{"frames": clip[None]} for clip in clips]
    else:
        frames = clips.reshape(-1, *clips.shape[2:])
        inputs = [{"frame": frames[i % len(frames)][None]} for i in range(STREAM)]
    runs = [{name: value.copy() for name, value in engine.run(i).items()} for i in inputs]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.abs(ours[name] - theirs[name]).max()) for name in theirs}  # a NaN stays one
