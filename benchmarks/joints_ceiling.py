# SPDX-License-Identifier: Apache-2.0
"""How well the joints of a hand alone tell activities apart, leaving one person out: a bound on what glimpses can see.

    gc-model joints clips.csv --out joints --what hands
    python benchmarks/joints_ceiling.py --data clips.csv --joints joints [--groups coarse.json]

Every frame is described by the shape of its hand (how far each finger is stretched, where fingers, thumb and hand
point, by wrist and knuckles, a left hand mirrored) and its place; a clip by median, spread, change and range of these.
Extremely randomised trees learn from the other people's clips. Nothing is tuned. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gc_model.data import own
from gc_model.data.clip import labels_of
from gc_model.data.joint_tables import joint_names, read_table, table_of
from gc_model.evaluation.report import Judged, report

FINGERS = [[0, *range(first, first + 4)] for first in (1, 5, 9, 13, 17)]  # from the wrist
WRIST, INDEX, MIDDLE, PINKY, THUMB = 0, 5, 9, 17, (2, 4)


def unit(v: NDArray[Any]) -> NDArray[Any]:
    return v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-6)


def shape_of(hand: NDArray[Any], left: bool) -> NDArray[Any]:
    """hand: (21, 2) with equal units along both axes -> descriptors."""
    q = (hand - hand[WRIST]) * ([-1, 1] if left else [1, 1])
    q = q / (np.linalg.norm(q[MIDDLE]) + 1e-6)
    found: list[Any] = []
    for finger in FINGERS:
        bones = np.diff(q[finger], axis=0)
        found += (unit(bones)[:-1] * unit(bones)[1:]).sum(1).tolist()
        found.append(np.linalg.norm(q[finger[-1]]) / (np.linalg.norm(bones, axis=1).sum() + 1e-6))
        found += unit(bones[-1]).tolist()
    # Its sign: back or palm to the camera.
    palm = float(q[INDEX][0] * q[PINKY][1] - q[INDEX][1] * q[PINKY][0])
    return np.array([*found, palm, *unit(q[MIDDLE]), *unit(q[THUMB[1]] - q[THUMB[0]])])


def describe(table: Path) -> NDArray[Any]:
    joints, size = read_table(table)
    frames: list[NDArray[Any]] = []
    two, seen = 0, 0
    for bodies in joints:
        known = [b for b in (0, 1) if not np.isnan(bodies[b, :21]).any()]
        if not known:
            continue
        seen, two = seen + 1, two + (len(known) == 2)
        here = []
        for b in known:
            hand = bodies[b, :21] * size / size.max()
            here.append(np.r_[shape_of(hand, b == 0), hand[MIDDLE], np.ptp(hand, axis=0)])
        # The hand that goes on from the last frame's.
        last = frames[-1][-4:-2] if frames else None
        frames.append(
            here[0] if last is None else min(here, key=lambda h: float(np.abs(h[-4:-2] - last).sum()))
        )
    if not frames:
        return np.zeros(0)
    F = np.array(frames)
    n = len(F)
    core = F[n // 5 : max(n // 5 + 1, n - n // 5)]  # without raising and lowering the hand
    return np.r_[np.median(core, 0), core.std(0), core[-1] - core[0], np.ptp(F, axis=0), two / seen]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--joints", type=Path, required=True)
    parser.add_argument("--groups", type=Path, help="coarser classes, as for gc-model evaluate")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    clips = own.clips(arguments.data)
    names = joint_names(table_of(arguments.joints, clips[0].name))
    if len(names) != 21:
        parser.error(f"{arguments.joints} has {len(names)} joints; hands have 21")
    labels = labels_of(clips)
    groups = json.loads(arguments.groups.read_text()) if arguments.groups else None
    rows = [describe(table_of(arguments.joints, c.name)) for c in clips]
    width = max(map(len, rows))
    X = np.array([row if len(row) else np.zeros(width) for row in rows])
    y = np.array([labels.index(c.label) for c in clips])
    who = np.array([c.subject for c in clips])
    results = []
    for seed in range(arguments.seeds):
        scores = np.zeros((len(clips), len(labels)))
        for person in sorted(set(who)):
            model = ExtraTreesClassifier(500, random_state=seed).fit(X[who != person], y[who != person])
            scores[np.ix_(who == person, model.classes_)] = model.predict_proba(X[who == person])
        found = report([Judged(c, s) for c, s in zip(clips, scores, strict=True)], labels, groups)
        results.append({"classes": found["class_accuracy"], "groups": found["accuracy"] if groups else None})
    without = sum(not len(row) for row in rows)
    print(json.dumps({"clips": len(clips), "without_a_hand": without, "seeds": results}, indent=2))


if __name__ == "__main__":
    main()
