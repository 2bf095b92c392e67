# SPDX-License-Identifier: Apache-2.0
"""How well an activity that was shown a few times is recognised: episodes on clips of people who were not shown.

    python benchmarks/teaching.py --bundle B --data clips.csv --none none_of_these --cache features.npz

Each draw takes 5 classes at random, for each 1 or 5 clips of some people, and tests on the clips of the others. Our
discriminant stands beside the nearest class mean and ridge regression on the same features; a class that the bundle
knows is left out. The classes of the bundle take no part in the choice, as in all such tables; what they take is
measured by `--old`, clips of the bundle's own classes that it was not trained on, with 3 taught classes beside them.
Such a clip says most where it looks like the taught ones do: the same camera, and people; idle is a class too.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.clips import find_clips
from gc_ros.recognition import discriminant
from gc_ros.recognition.discriminant import Discriminant, Rows
from gc_ros.recognition.footage import clip_frames
from gc_ros.recognition.showing import WINDOWS_A_CLIP
from gc_ros.recognition.space import Examples, Space
from gc_ros.recognition.taught import space_of
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines.open import open_engine
from trt_build.errors import DataError
from trt_build.files import replacing
from trt_build.readout import pool

Values = NDArray[np.float64]
# shown -> (windows (n, F) -> values (n, ways))
Method = Callable[[list[Examples]], Callable[[NDArray[Any]], Values]]


@dataclass(frozen=True)
class Clip:
    label: str
    person: str
    features: NDArray[np.float32]  # (windows, F)
    logits: NDArray[np.float32]


def embedded(bundle: LoadedBundle, data: Path, cache: Path | None, threads: int | None) -> list[Clip]:
    """The clips of a table, as many windows of each as are taught, through the window graph; kept in `cache`."""
    if cache is not None and cache.exists():
        kept = np.load(cache)
        at = np.unique(kept["clip"], return_index=True)[1][1:]
        parts = zip(np.split(kept["features"], at), np.split(kept["logits"], at), strict=True)
        people = zip(kept["label"].tolist(), kept["person"].tolist(), parts, strict=True)
        return [Clip(label, person, *part) for label, person, part in people]
    engine = open_engine(bundle, "window", backend="onnxruntime", threads=threads)
    clips = []
    for found in find_clips([data]):
        try:
            frames = clip_frames(found.path, bundle.info)
        except DataError as error:
            print(f"left out: {error}")
            continue
        last = len(frames) - bundle.info.T
        # Copied before the next run: an engine writes its results into the same arrays again.
        runs = [
            {k: v.copy() for k, v in engine.run({"frames": frames[None, at : at + bundle.info.T]}).items()}
            for at in np.unique(np.linspace(0, last, WINDOWS_A_CLIP).round().astype(int))
        ]
        features = np.stack([pool(run["embedding"][0]) for run in runs])
        clips.append(Clip(found.label, found.subject, features, np.stack([run["logits"][0] for run in runs])))
    engine.close()
    if cache is not None:
        # Whole or not at all: a part of it would be read the next time.
        with replacing(cache, suffix=".npz") as part:
            np.savez(
                part,
                features=np.concatenate([c.features for c in clips]),
                logits=np.concatenate([c.logits for c in clips]),
                clip=np.repeat(np.arange(len(clips)), [len(c.features) for c in clips]),
                label=np.array([c.label for c in clips]),
                person=np.array([c.person for c in clips]),
            )
    return clips


def episodes(
    clips: list[Clip], ways: int, shots: int, draws: int, rng: np.random.Generator
) -> Iterator[tuple[list[list[Clip]], list[list[Clip]]]]:
    """(shown, tested), each a list of clips for each class; nobody is in both."""
    labels = sorted({c.label for c in clips})
    done = 0
    for _ in range(100 * draws):
        chosen = rng.choice(labels, ways, replace=False)
        people = sorted({c.person for c in clips if c.label in chosen})
        shown_people = set(rng.permutation(people)[: max(len(people) // 2, 1)])
        shown, tested = [], []
        for label in chosen:
            theirs = [c for c in clips if c.label == label]
            give = [c for c in theirs if c.person in shown_people]
            if len(give) >= shots:
                shown.append([give[i] for i in rng.choice(len(give), shots, replace=False)])
            tested.append([c for c in theirs if c.person not in shown_people])
        if len(shown) == ways and all(tested):
            yield shown, tested
            done += 1
            if done == draws:
                return
    raise SystemExit(f"only {done} of {draws} draws are possible: more clips or people are needed")


def examples(clips: list[Clip]) -> Examples:
    numbers = np.repeat(np.arange(len(clips)), [len(c.features) for c in clips])
    return Examples(np.concatenate([c.features for c in clips]), numbers)


def ours(space: Space) -> Method:
    def fit(shown: list[Examples]) -> Callable[[Values], Values]:
        rows = Rows(space, shown)
        return lambda x: rows(x)[:, len(space.means) :]

    return fit


def nearest_mean(shown: list[Examples]) -> Callable[[Values], Values]:
    _, _, units = _units(shown)
    means = np.stack([units(e.features).mean(axis=0) for e in shown])
    return lambda x: -((units(x)[:, None] - means) ** 2).sum(axis=-1)


def ridge(shown: list[Examples]) -> Callable[[Values], Values]:
    x, labels, units = _units(shown)
    x = units(x)
    gram = x @ x.T
    targets = np.eye(len(shown))[labels] - 1 / len(shown)
    weights = x.T @ np.linalg.solve(gram + np.trace(gram) / len(gram) * np.eye(len(gram)), targets)
    return lambda x: units(x) @ weights


def _units(shown: list[Examples]) -> tuple[Values, NDArray[np.int64], Callable[[Any], Values]]:
    x = np.concatenate([e.features for e in shown]).astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    labels = np.repeat(np.arange(len(shown)), [len(e) for e in shown])
    return x, labels, lambda v: (np.asarray(v, np.float64) - mean) / deviation


def interval(shares: list[float]) -> dict[str, float]:
    """Mean and half of its 95 % interval, percent."""
    return {
        "percent": round(100 * float(np.mean(shares)), 1),
        "interval": round(196 * float(np.std(shares)) / len(shares) ** 0.5, 1),
    }


def table(clips: list[Clip], methods: dict[str, Method], draws: int) -> dict[str, Any]:
    """Accuracy by clips, 5-way 1-shot and 5-shot."""
    result: dict[str, Any] = {}
    for shots in (1, 5):
        hits: dict[str, list[float]] = {name: [] for name in methods}
        for shown, tested in episodes(clips, 5, shots, draws, np.random.default_rng(shots)):
            for name, method in methods.items():
                values = method([examples(c) for c in shown])
                found = [
                    float(values(c.features).mean(axis=0).argmax() == k)
                    for k, their in enumerate(tested)
                    for c in their
                ]
                hits[name].append(float(np.mean(found)))
        result[f"5-way {shots}-shot"] = {name: interval(shares) for name, shares in hits.items()}
    return result


def own_scores(bundle: LoadedBundle, clip: Clip) -> Values:
    """The network's own scores (windows, K)."""
    z = clip.logits.astype(np.float64) / bundle.info.calibration.temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def answer(
    bundle: LoadedBundle, taught: Discriminant, clip: Clip, own: Values | None = None
) -> tuple[int, bool]:
    """What a robot says of a clip: its class, the taught ones behind the bundle's, and whether it is unknown.

    Idle is, and what is too strange or below the threshold. own: the network's own scores, where they are known.
    """
    info, K = bundle.info, len(bundle.info.labels)
    own = own_scores(bundle, clip) if own is None else own
    results = [taught.scores(p, x) for p, x in zip(own, clip.features, strict=True)]
    s = np.mean([r[0] for r in results], axis=0)
    k = int(s.argmax())
    weak = k < K and (info.labels[k] in info.idle or s[k] < info.calibration.unknown_threshold)
    return k, weak or float(np.mean([r[1] for r in results])) >= 0.5


def unknown(
    bundle: LoadedBundle, space: Space, clips: list[Clip], none: list[Clip], shown_none: int, draws: int
) -> dict[str, Any]:
    """Share of none-of-these clips whose windows mostly come out unknown, and of the taught ones, after 5 shots."""
    K, threshold = len(bundle.info.labels), bundle.info.calibration.unknown_threshold
    rejected, wrong = [], []
    rng = np.random.default_rng(7)
    for shown, tested in episodes(clips, 5, 5, draws, rng):
        order = rng.permutation(len(none))
        given = [none[i] for i in order[:shown_none]]
        taught = Discriminant(
            space,
            list("abcde"),
            [examples(c) for c in shown],
            examples(given) if given else None,
            [bundle.info.labels.index(label) for label in bundle.info.idle],
        )

        def is_unknown(clip: Clip, taught: Discriminant = taught) -> bool:
            found = []
            for own, features in zip(own_scores(bundle, clip), clip.features, strict=True):
                scores, strange = taught.scores(own, features)
                found.append(strange or bool(scores.argmax() < K and scores.max() < threshold))
            return float(np.mean(found)) >= 0.5

        rejected.append(float(np.mean([is_unknown(none[i]) for i in order[shown_none:]])))
        wrong.append(float(np.mean([is_unknown(c) for their in tested for c in their])))
    return {"none rejected": interval(rejected), "taught rejected": interval(wrong)}


def beside_old(
    bundle: LoadedBundle,
    space: Space,
    clips: list[Clip],
    old: dict[str, list[Clip]],
    ways: int,
    none: list[Clip],
    shown_none: int,
    draws: int,
) -> dict[str, Any]:
    """What a bundle says whose own classes stand beside some taught by five clips each, percent of clips.

    Of clips of the taught: right, an old class, unknown (idle, too strange, or below the threshold), or another of the
    taught. Of clips of activities that nobody taught, and of none-of-these by people who showed nothing: how many come
    out as taught. Of each table of old clips: how many are right before, and how many points teaching costs.
    """
    info, K = bundle.info, len(bundle.info.labels)
    idle = [info.labels.index(label) for label in info.idle]
    scores = {table: [own_scores(bundle, c) for c in theirs] for table, theirs in old.items()}
    truths = {table: np.array([info.labels.index(c.label) for c in theirs]) for table, theirs in old.items()}
    before = {t: np.mean([p.mean(axis=0).argmax() for p in scores[t]] == truths[t]) for t in old}
    found: dict[str, list[float]] = {}

    rng = np.random.default_rng(8)
    for shown, tested in episodes(clips, ways, 5, draws, np.random.default_rng(9)):
        order = rng.permutation(sorted({c.person for c in none})).tolist()
        given = sorted(none, key=lambda c: order.index(c.person))[:shown_none]
        names = [str(j) for j in range(ways)]
        others = examples(given) if given else None
        taught = Discriminant(space, names, [examples(c) for c in shown], others, idle)

        def note(what: str, values: Any) -> None:
            found.setdefault(what, []).append(float(np.mean(values)))

        answers = [(*answer(bundle, taught, c), K + j) for j, their in enumerate(tested) for c in their]
        note("taught: right", [k == j and not unknown for k, unknown, j in answers])
        note("taught: an old class", [k < K and not unknown for k, unknown, _ in answers])
        note("taught: unknown", [unknown for _, unknown, _ in answers])
        note("taught: another", [k >= K and k != j and not unknown for k, unknown, j in answers])
        labels = {c.label for their in shown for c in their}
        people = {c.person for c in given}
        for what, theirs in (
            ("not taught", [c for c in clips if c.label not in labels]),
            ("none", [c for c in none if c.person not in people]),
        ):
            if theirs:
                answers = [(*answer(bundle, taught, c), 0) for c in theirs]
                note(f"{what}: as taught", [k >= K and not unknown for k, unknown, _ in answers])
        for t, theirs in old.items():
            after = np.array(
                [answer(bundle, taught, c, p)[0] for c, p in zip(theirs, scores[t], strict=True)]
            )
            note(f"{t}: points lost", before[t] - np.mean(after == truths[t]))
    result: dict[str, Any] = {what: interval(shares) for what, shares in found.items()}
    return result | {f"{t}: right before": round(100 * float(share), 1) for t, share in before.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="table path,class,subject of new classes")
    parser.add_argument("--none", default="", help="class of clips that are none of them")
    parser.add_argument("--shown-none", type=int, default=10, help="none-of-these clips that are shown")
    parser.add_argument(
        "--old",
        type=Path,
        action="append",
        default=[],
        help="table of the bundle's own classes, not trained on",
    )
    parser.add_argument(
        "--ways", type=int, default=3, help="classes taught beside the bundle's own, with --old"
    )
    parser.add_argument("--lead", type=float, help="of the taught over the old classes, instead of our own")
    parser.add_argument("--only-old", action="store_true", help="only what --old measures")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, help="keeps the features of --data")
    parser.add_argument(
        "--old-cache",
        type=Path,
        action="append",
        default=[],
        help="keeps the features of each --old, in order",
    )
    parser.add_argument("--every-second", type=int, choices=(0, 1), help="only these of the classes, by name")
    a = parser.parse_args()
    if a.lead is not None:
        discriminant.LEAD = a.lead
    bundle = load_bundle(a.bundle)
    space = space_of(bundle)
    clips = embedded(bundle, a.data, a.cache, a.threads)
    none = [c for c in clips if c.label == a.none]
    clips = [c for c in clips if c.label != a.none and c.label not in bundle.info.labels]
    if a.every_second is not None:
        chosen = sorted({c.label for c in clips})[a.every_second :: 2]
        clips = [c for c in clips if c.label in chosen]
    methods: dict[str, Method] = {"nearest mean": nearest_mean, "ridge": ridge, "ours": ours(space)}
    result: dict[str, Any] = {"bundle": bundle.info.model_id, "data": a.data.name, "draws": a.draws}
    if not a.only_old:
        result |= table(clips, methods, a.draws)
    if none and not a.only_old:
        for shown in sorted({0, a.shown_none}):
            result[f"unknown, {shown} none clips shown"] = unknown(
                bundle, space, clips, none, shown, min(a.draws, 50)
            )
    if a.old:
        caches = [*a.old_cache, *[None] * (len(a.old) - len(a.old_cache))]
        old = {
            path.stem: [c for c in embedded(bundle, path, cache, a.threads) if c.label in bundle.info.labels]
            for path, cache in zip(a.old, caches, strict=True)
        }
        for shown in sorted({0, a.shown_none if none else 0}):
            result[f"beside the bundle's own, {a.ways} taught, {shown} none clips shown"] = beside_old(
                bundle, space, clips, old, a.ways, none, shown, min(a.draws, 100)
            )
    result["load"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
