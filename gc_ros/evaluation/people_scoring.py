# SPDX-License-Identifier: Apache-2.0
"""The truth of each person, and the figures that only results by person have: of each person, and mAP by frames.

mAP as AVA has it (Gu et al. 2018): over all frames looked at, a result is right for a class if its box overlaps the
true one by half and that person does it; a person who does it and got no result is missed. A class has the area below
its interpolated precision over recall; mAP is the mean over classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.evaluation.judging import Judge
from gc_ros.evaluation.scoring import BagWindows
from gc_ros.evaluation.truth import Span
from gc_ros.stamps import NS

_COUNTS = ("label", "idle", "nobody")  # whose truth is known: the others are neither right nor wrong


def judge_people(
    judge: Judge,
    rows: Iterable[dict[str, Any]],
    windows: Path,
    bag: str,
    zero_ns: int,
    spans: Sequence[Span],
) -> Counter[str]:
    """Write the rows of a reading to `windows` with the truth of each person; return the number missed by label.

    Rows of the truth without id are true of everybody. Of a person whom no row names the truth is not known, and a
    result about nobody has no true box.
    """
    of: dict[str, list[Span]] = {}
    for span in spans:
        of.setdefault(span.who, []).append(span)
    missed: Counter[str] = Counter()
    with windows.open("w", encoding="utf-8") as out:
        for row in rows:
            who = row["truth_person"]
            if who is None:
                kind, label = "nobody", None
            elif who in of or "" in of:
                own = [*of.get(who, ()), *(of.get("", ()) if who else ())]
                kind, label = judge.truth_of(row["start_ns"], row["end_ns"], own, row["pass"])
            else:
                kind, label = "none", None
            if row.get("missed"):
                missed[str(label)] += kind == "label"
                continue
            row |= {"bag": bag, "truth": label, "truth_kind": kind}
            row |= {name: (row[of_name] - zero_ns) / NS for name, of_name in _SECONDS}
            out.write(json.dumps(row, sort_keys=True) + "\n")
    return +missed


_SECONDS = (("start_s", "start_ns"), ("end_s", "end_ns"))


def average_precision(right: NDArray[np.bool_], scores: NDArray[np.float64], missed: int) -> float:
    """The area below precision over recall, with precision made monotonic.

    right, scores: (n,) of the results. missed: number of true ones without a result.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    # Results of one score have one place: only their last counts.
    last = np.append(np.diff(scores[order]) != 0, True) if len(order) else np.zeros(0, bool)
    precision = (hits / np.arange(1, len(order) + 1))[last]
    recall = (hits / max(int(right.sum()) + missed, 1))[last]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


def people_figures(
    bags: Sequence[tuple[dict[str, Any], BagWindows]], labels: Sequence[str]
) -> dict[str, Any]:
    """The figures of each person in each bag, and mAP over all bags with truth."""
    persons, left_out, missed = [], Counter[str](), Counter[str]()
    for record, w in bags:
        left_out.update(record["people"]["left_out"])
        missed.update(record["people"]["missed"])
        found = w.scores.argmax(axis=1)
        for who in sorted(set(w.who) - {""}):
            own = np.array([name == who for name in w.who])
            scored = own & (w.truth >= 0)
            n = int(scored.sum())
            accuracy = float((found == w.truth)[scored].mean()) if n else None
            persons.append(
                {
                    "bag": record["name"],
                    "person": who,
                    "windows": int(own.sum()),
                    "scored": n,
                    "accuracy": accuracy,
                }
            )
    judged = [w for record, w in bags if record["truth"]["kind"] != "none"]
    truth = np.concatenate([w.truth for w in judged] or [np.zeros(0, np.int64)])
    scores = np.concatenate([w.scores for w in judged] or [np.zeros((0, len(labels)))])
    counts = np.array([kind in _COUNTS for w in judged for kind in w.truth_kinds], bool)
    per_class = {}
    for k, label in enumerate(labels):
        right = (truth == k)[counts]
        there = int(right.sum()) + missed[label]
        if there:
            precision = average_precision(right, scores[counts, k], missed[label])
            per_class[label] = {"true": there, "missed": missed[label], "average_precision": precision}
    values = [row["average_precision"] for row in per_class.values()]
    return {
        "persons": persons,
        "frame_map": {
            "overlap": 0.5,
            "mean": float(np.mean(values)) if values else None,
            "per_class": per_class,
        },
        "left_out": dict(sorted(left_out.items())),
    }
