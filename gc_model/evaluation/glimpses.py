# SPDX-License-Identifier: Apache-2.0
"""Where a trained model looks and what that is worth: a table of figures, and a picture like Figure 3 of the paper.

The paper shows that at test time glimpses follow people without being told to. Here that is a number, beside those of
glimpses that do not look: all at the middle of the frame, and anywhere in it. `gc_model.training.alive` defines the
other figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gc_model.data.clip import LabelledClip
from gc_model.data.datasets import index
from gc_model.data.frames import FrameCache
from gc_model.data.joints import centre_matrix, joints_of, to_input
from gc_model.data.samples import centre, to_tensor
from gc_model.data.sampling import test_indices
from gc_model.export.torch_engine import bundle_info
from gc_model.paper.modes import ELSEWHERE, attending
from gc_model.paper.network import Network
from gc_model.paper.presets import has_glimpses
from gc_model.training import checkpoint
from gc_model.training.alive import figures, worker_distance
from gc_model.training.drawing import glimpse_strip
from gc_model.training.processes import accelerator
from trt_build.errors import DataError


@dataclass
class _Distances:
    """Distances to the nearest joint, as shares of the input's side, of glimpses and of places that do not look."""

    glimpses: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    anywhere: list[float] = field(default_factory=list)

    def add(self, l: NDArray[np.float64], joints: NDArray[np.float32], rng: np.random.Generator) -> None:
        centres = l[..., :2]
        for into, points in (
            (self.glimpses, centres),
            (self.middle, np.zeros_like(centres)),
            (self.anywhere, rng.uniform(-1, 1, centres.shape)),
        ):
            into += nearest_joint(points, joints).tolist()


def nearest_joint(points: NDArray[np.float64], joints: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances from each point to the nearest known joint of its frame, as shares of the input's side: (n,).

    points: (T, G, 2); joints: (T, bodies, J, 2), NaN where unknown; both in [-1, 1] over the input. Frames without
    a known joint are left out.
    """
    found = []
    for p, j in zip(points, joints.reshape(len(joints), -1, 2), strict=True):
        known = j[~np.isnan(j).any(-1)]
        if len(known):
            found.append(np.linalg.norm(p[:, None] - known[None], axis=-1).min(1) / 2)
    return np.concatenate(found) if found else np.zeros(0)


@dataclass
class _Looked:
    """One clip and the network's outputs for it: images (T, S, S, 3), l (T, G, 4), p (T, C, G).

    logits: (classes,) by where the glimpses were. joints: (T, 2, 25, 2) in [-1, 1] over the input, or None. carried:
    assignments (T, C, G) of the same frames with the state after the clip before; None where it is not carried.
    """

    images: NDArray[np.uint8]
    l: torch.Tensor
    p: torch.Tensor
    logits: dict[str, torch.Tensor]
    joints: NDArray[np.float32] | None
    carried: torch.Tensor | None


class _Stream:
    """Clips one after the other through a network whose state is carried on, as on a robot that takes it a step."""

    def __init__(self, model: Network) -> None:
        self._model, self._state = model, model.initial_state(1, streaming=True)

    def __call__(
        self, frames: torch.Tensor, maps: torch.Tensor, Z: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        """Assignments (T, C, G) of the next frames (1, T, 3, S, S).

        maps, Z, c: of these frames alone, see `Network.maps` and `features`. What the trunk computes from one frame
        at a time is the same whatever came before; the rest is computed again, with the frames of the clip before.
        """
        model, trunk = self._model, self._model.trunk
        if trunk.sees_one_frame(whole=True):
            result, self._state = model.fold(Z, c, self._state)
        elif trunk.sees_one_frame(whole=False):
            result, self._state = model.chunk_of_maps(maps, self._state)
        else:
            result, self._state = model.forward_chunk(frames, self._state)
        return result.p[0].cpu()


def look(
    run: Path,
    data: Path,
    *,
    layout: str = "clips",
    split: str = "",
    subjects: Sequence[str] | None = None,
    joints: Path | None = None,
    beside: Path | None = None,
    rows: int = 4,
    progress: bool = True,
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Measure where a run looks in the test clips; return the figures, and an RGB picture of `rows` of the clips.

    T frames spread over a clip stand for it. "figures" are those of `gc_model.training.alive`. "accuracy" has one for
    each place that glimpses are put to, over the clips whose class the run knows, and one of the run `beside`, such as
    a global model. "stream", of a run trained for streams, is the distance of its workers from the second clip on where
    the state is carried from clip to clip. "glimpses", "middle" and "anywhere" are mean distances to the nearest joint,
    as shares of the input's side. joints: of one's own clips, as for training; clips without any count for everything
    else. Clips that do not decode are named in "left_out". Raises DataError if the model has no glimpses or no clip
    decodes.
    """
    from rich.progress import track

    model, recipe = checkpoint.load(run)
    model.to(accelerator())
    if not has_glimpses(model.config):
        raise DataError(f"{run} is a {model.config.model} model, which has no glimpses: choose one that has")
    other = None if beside is None else _Beside(beside)
    people = list(subjects) if subjects is not None else None
    clips = recipe.own(index(layout, data, split, part="test", subjects=people, joints=joints))
    # One clip of every class in turn, so that the picture shows different ones.
    turn = {c.name: i for i, c in enumerate(_different(clips, len(clips)))}
    strips: dict[int, NDArray[np.uint8]] = {}  # by turn
    distances, failed = _Distances(), {}
    l: list[torch.Tensor] = []
    p: list[torch.Tensor] = []
    carried: list[torch.Tensor] = []
    stream = _Stream(model) if model.config.streams and not model.config.reset_after else None
    right: dict[str, list[bool]] = {}
    rng = np.random.default_rng(0)
    squares = bundle_info(model.config, recipe).preprocess
    for clip in track(clips, "looking", disable=not progress):
        try:
            with tempfile.TemporaryDirectory() as folder:  # a clip at a time: a data set's frames fill disks
                seen = _one(model, FrameCache(Path(folder) / "own", squares), clip, stream)
                theirs = None if other is None else other.label(Path(folder) / "beside", clip)
        except DataError as error:
            failed[clip.name] = str(error)
            continue
        l.append(seen.l)
        p.append(seen.p)
        if seen.carried is not None:
            carried.append(seen.carried)
        if clip.label in recipe.labels:
            for name, logits in seen.logits.items():
                right.setdefault(name, []).append(recipe.labels[int(logits.argmax())] == clip.label)
            if theirs is not None:
                right.setdefault("beside", []).append(theirs == clip.label)
        if seen.joints is not None:
            distances.add(seen.l.double().numpy(), seen.joints, rng)
        if len(strips) < rows or turn[clip.name] < max(strips):
            scale = max(1, 160 // seen.images.shape[1])
            strips[turn[clip.name]] = glimpse_strip(seen.images, seen.l.double().numpy(), scale=scale)
            if len(strips) > rows:
                del strips[max(strips)]
    if not strips:
        raise DataError(f"{data}: no clip decodes; the first: {next(iter(failed.values()), 'none chosen')}")
    found: dict[str, Any] = {
        "run": run.name,
        "data": data.resolve().name,
        "clips": len(clips) - len(failed),
        "rows": len(strips),
        "left_out": failed,
        "figures": figures(l, p),
        "accuracy": {name: float(np.mean(hits)) for name, hits in right.items()},
    }
    if len(carried) > 1 and "worker_distance" in found["figures"]:
        found["stream"] = float(worker_distance(torch.cat(carried[1:]).double()).mean())
    if distances.glimpses:
        found |= {
            name: float(np.mean(getattr(distances, name))) for name in ("glimpses", "middle", "anywhere")
        }
        found["samples"] = len(distances.glimpses)
    return found, np.concatenate([strips[i] for i in sorted(strips)], 0)


def keep(run: Path, found: dict[str, Any]) -> None:
    """Write what `look` measured into the run, so that its export carries it. Raises OSError."""
    model, recipe = checkpoint.load(run)
    kept = {name: value for name, value in found.items() if name not in ("run", "rows", "left_out")}
    checkpoint.save(run, model, replace(recipe, provenance=recipe.provenance | {"glimpses": kept}))


class _Beside:
    """Another run, which sees a clip as it was trained to, and calls it by its own labels."""

    def __init__(self, run: Path) -> None:
        model, recipe = checkpoint.load(run)
        self._model, self._labels = model.to(accelerator()), recipe.labels
        self._squares = bundle_info(model.config, recipe).preprocess

    @torch.no_grad()
    def label(self, folder: Path, clip: LabelledClip) -> str:
        """What it takes a clip for. folder: for its frames. Raises DataError if the clip does not decode."""
        images = FrameCache(folder, self._squares).read(clip).images
        at = test_indices(len(images), self._model.config.T, 0, 1)
        pictures = to_tensor(centre(images, self._model.config)[at])[None].to(self._model.mean.device)
        return self._labels[int(self._model(pictures).logits[0].argmax())]


@torch.no_grad()
def _one(model: Network, cache: FrameCache, clip: LabelledClip, stream: _Stream | None) -> _Looked:
    frames, config = cache.read(clip), model.config
    at = test_indices(len(frames.images), config.T, 0, 1)
    images = centre(frames.images, config)[at]
    pictures = to_tensor(images)[None].to(model.mean.device)
    maps = model.maps(pictures)
    Z, c = model.features_of(maps)
    result = model.fold(Z, c)[0]
    logits = {"learned": result.logits[0].cpu()}
    for places in ELSEWHERE:
        with attending(model, places):
            logits[places] = model.fold(Z, c)[0].logits[0].cpu()
    joints = joints_of(clip, frames, cache)
    if clip.joints is not None and joints is not None:
        crop, mirrored = centre_matrix(config.resize, config.size), clip.joints.mirrored
        joints = to_input(joints[at], crop, config.resize, config.size, mirrored)
    carried = stream(pictures, maps, Z, c) if stream else None
    return _Looked(images, result.l[0].cpu(), result.p[0].cpu(), logits, joints, carried)


def _different(clips: Sequence[LabelledClip], n: int) -> list[LabelledClip]:
    """Choose n clips: one of each class in turn, until there are enough."""
    seen: dict[str, int] = {}
    turns = []
    for clip in clips:
        seen[clip.label] = seen.get(clip.label, -1) + 1
        turns.append((seen[clip.label], clip.label, clip))
    return [clip for *_, clip in sorted(turns, key=lambda t: t[:2])[:n]]
