# SPDX-License-Identifier: Apache-2.0
"""What a robot says of activities that one person, or some, showed: to the same people, and to others.

    python benchmarks/teaching_people.py --bundle B --data gestures/clips.csv --cache features.npz

Each draw teaches some classes at random beside the bundle's own, by so many clips of each of so many people, and tests
on the clips that were not shown: those of the same people, and those of all others. Percent of clips, by what most of
a clip's windows are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from teaching import Clip, answer, embedded, examples, interval

from gc_ros.recognition.discriminant import Discriminant
from gc_ros.recognition.taught import space_of
from trt_build.bundle import LoadedBundle, load_bundle

ANSWERS = ("recognised", "another of the taught", "an activity of the bundle", "unknown")
Shown = list[list[Clip]]  # by class


def draws(
    clips: list[Clip], ways: int, people: int, shots: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[Shown, Shown, Shown]]:
    """(shown, the same people's others, other people's), each by class."""
    labels = sorted({c.label for c in clips})
    everybody = sorted({c.person for c in clips})
    done = 0
    for _ in range(100 * count):
        showing = set(rng.choice(everybody, people, replace=False))
        shown, same, others = [], [], []
        for label in rng.choice(labels, ways, replace=False):
            theirs = [c for c in clips if c.label == label]
            given: list[Clip] = []
            for person in sorted(showing):
                own = [c for c in theirs if c.person == person]
                given += [own[i] for i in rng.permutation(len(own))[:shots]]
            shown.append(given)
            same.append([c for c in theirs if c.person in showing and all(c is not g for g in given)])
            others.append([c for c in theirs if c.person not in showing])
        if all(len(given) == people * shots for given in shown):
            yield shown, same, others
            done += 1
            if done == count:
                return
    raise SystemExit(f"only {done} of {count} draws are possible: more clips or people are needed")


def answers(bundle: LoadedBundle, taught: Discriminant, tested: Shown) -> list[str]:
    """Which of `ANSWERS` each clip gets."""
    found, K = [], len(bundle.info.labels)
    for j, theirs in enumerate(tested):
        for clip in theirs:
            k, unknown = answer(bundle, taught, clip)
            found.append(ANSWERS[3 if unknown else 2 if k < K else 0 if k == K + j else 1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="table path,class,subject of new classes")
    parser.add_argument("--ways", type=int, default=4, help="classes taught")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2], help="who show each class")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2], help="clips of each of them")
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, help="keeps the features of --data")
    a = parser.parse_args()
    bundle = load_bundle(a.bundle)
    space, idle = space_of(bundle), [bundle.info.labels.index(label) for label in bundle.info.idle]
    clips = [c for c in embedded(bundle, a.data, a.cache, a.threads) if c.label not in bundle.info.labels]
    result: dict[str, Any] = {"bundle": bundle.info.model_id, "data": a.data.name, "draws": a.draws}
    for people in a.people:
        for shots in a.shots:
            shares: dict[str, dict[str, list[float]]] = {"the same people": {}, "others": {}}
            rng = np.random.default_rng(10 * people + shots)
            for shown, *tested in draws(clips, a.ways, people, shots, a.draws, rng):
                names = [str(j) for j in range(a.ways)]
                taught = Discriminant(space, names, [examples(c) for c in shown], None, idle)
                for by_answer, theirs in zip(shares.values(), tested, strict=True):
                    if found := answers(bundle, taught, theirs):
                        for answer in ANSWERS:
                            by_answer.setdefault(answer, []).append(found.count(answer) / len(found))
            result[f"{people} people, {shots} clips of each"] = {
                who: {answer: interval(values) for answer, values in by_answer.items()}
                for who, by_answer in shares.items()
            }
    result["load"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
