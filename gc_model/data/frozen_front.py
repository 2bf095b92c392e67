# SPDX-License-Identifier: Apache-2.0
"""Cached features of the frozen trunk: samples that hold them in place of the clips they were computed from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from gc_model.data.samples import Sample
from gc_model.paper.modes import evaluating
from gc_model.paper.network import Network
from trt_build.errors import DataError


class ClipSamples(Protocol):
    """Samples with a "clip" that features of a frozen trunk can replace: `TrainingClips`, `TestClips`, streams."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Shape of "clip": (n, 3, S, S), or (clips, n, 3, S, S) where a sample holds several."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> Sample: ...

    def beside(self, which: Any) -> Sample:
        """The sample without its pictures."""


class FrozenFront(Dataset[Sample]):
    """Samples of `base` with cached features of the frozen trunk in place of "clip"; each is computed once.

    They are "maps", those of the penultimate stage, or with `whole` the trunk's "Z" and "c"; `base` may itself be a
    `FrozenFront` of maps. views > 0: `base` is indexed by (epoch, clip), and epoch e sees view e mod views of a clip;
    0: `base` is `TestClips`. Features lie beside `path` in float16 and are read back from there even the first time,
    so that a resumed run sees the same numbers. Not for several loading processes, since the network lives in this one.
    Raises DataError where the disk is too small.
    """

    def __init__(
        self, base: ClipSamples | FrozenFront, model: Network, path: Path, views: int, whole: bool = False
    ):
        self.base, self.model, self.path, self.views, self.whole = base, model, path, views, whole
        slots = (max(views, 1), len(base))
        path.parent.mkdir(parents=True, exist_ok=True)
        first = self._front(base.blank if isinstance(base, FrozenFront) else _blank(base))
        self._stored = {
            name: _memmap(self.neighbour(name), np.float16, (*slots, *part.shape))
            for name, part in first.items()
        }
        self._done = _memmap(self.neighbour("done"), np.uint8, slots)

    def neighbour(self, name: str) -> Path:
        """The path of a file beside `path`: a part of these features, or those of other clips of the same run."""
        return self.path.with_name(f"{self.path.name}.{name}")

    def __len__(self) -> int:
        return len(self.base)

    @property
    def blank(self) -> Sample:
        """The features of a sample, as zeros."""
        return {n: torch.zeros(s.shape[2:]) for n, s in self._stored.items()}

    def beside(self, which: Any) -> Sample:
        """The sample `which` without its features."""
        return self.base.beside(self._of_base(which))

    def __getitem__(self, which: tuple[int, int] | int) -> Sample:
        of_base = self._of_base(which)
        view, i = of_base if isinstance(of_base, tuple) else (0, of_base)
        if not self._done[view, i]:
            sample = self.base[of_base]
            for name, part in self._front(sample).items():
                self._stored[name][view, i] = part
                self._stored[name].flush()
            self._done[view, i] = 1
        stored = {n: torch.from_numpy(s[view, i].astype(np.float32)) for n, s in self._stored.items()}
        return stored | self.base.beside(of_base)

    def _of_base(self, which: tuple[int, int] | int) -> tuple[int, int] | int:
        """The index of `base` whose features stand for `which`."""
        if not self.views:
            return which[1] if isinstance(which, tuple) else which
        epoch, i = which if isinstance(which, tuple) else (0, which)
        return epoch % self.views, i

    @torch.no_grad()
    def _front(self, sample: Sample) -> dict[str, np.ndarray]:
        of_maps = "maps" in sample
        x = sample["maps" if of_maps else "clip"]
        many = x if x.dim() == 5 else x[None]
        with evaluating(self.model):
            if self.whole:
                whole = (
                    self.model.features_of(many.to(self.model.mean)) if of_maps else self.model.features(many)
                )
                found = dict(zip(("Z", "c"), whole, strict=True))
            else:
                found = {"maps": self.model.maps(many)}
        parts = {n: part.cpu().numpy().astype(np.float16) for n, part in found.items()}
        return parts if x.dim() == 5 else {n: part[0] for n, part in parts.items()}


def layers(samples: Any) -> Iterator[Any]:
    """The samples, the `base` that they are made of, that one's, and so on down to the clips themselves."""
    while samples is not None:
        yield samples
        samples = getattr(samples, "base", None)


def _blank(base: ClipSamples) -> Sample:
    return {"clip": torch.zeros(base.clip_shape, dtype=torch.uint8)}


def front_key(model: Network, also: Any, whole: bool) -> str:
    """A name for cached features: a digest of all that they depend on.

    whole: the weights of the whole trunk, or those before its last stage. also: the rest, as what JSON can hold.
    """
    digest = hashlib.sha256(json.dumps([also, whole]).encode())
    for name, value in model.trunk.weights(whole).items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _memmap(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A file-backed array, zeros where new; a file of another size is from another run and is replaced.

    Raises DataError where the disk could not hold it: writing to a mapped file on a full disk ends the process.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        path.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise DataError(
                f"{path.parent}: the cached features of the frozen trunk take {size / 1e9:.1f} GB, {free / 1e9:.1f} "
                "are free; choose another --out, with fewer --set views= or on a larger disk"
            )
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
