# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: accuracy, recall of every class, confusion matrix, and each clip's prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import LabelledClip
from trt_build.errors import DataError

NONE = "(no result)"


@dataclass(frozen=True)
class Judged:
    """One clip: its scores (K,) over the model's labels, or the reason why there are none."""

    clip: LabelledClip
    scores: NDArray[np.float64] | None
    problem: str = ""


class Groups:
    """Coarser classes: each is a group of labels.

    groups: name -> labels; None: every label is its own group. member: (groups, labels), 1 where a label belongs to a
    group. of: the number of each label's group. Raises DataError where the groups do not partition the labels.
    """

    def __init__(self, labels: Sequence[str], groups: Mapping[str, Sequence[str]] | None):
        self.names, self.member = list(labels), np.eye(len(labels))
        if groups is not None:
            _check_partition(labels, groups)
            self.names = list(groups)
            self.member = np.array(
                [[label in groups[name] for label in labels] for name in self.names], float
            )
        self.of = {label: int(np.argmax(self.member[:, i])) for i, label in enumerate(labels)}

    def predict(self, scores: NDArray[np.float64]) -> int:
        """The group whose members have the highest sum of scores (K,)."""
        return int(np.argmax(self.member @ scores))


def report(
    judged: Sequence[Judged], labels: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Accuracy, mean of the per-class recalls, recall per class, and the confusion matrix.

    Rows of the confusion matrix are the true classes, columns the predicted ones; the last column counts clips without
    a result. groups: coarser classes as of `Groups`, scored by the sums of their members' scores. With them all figures
    are of the groups, and "class_accuracy" is that of the classes themselves. Raises DataError where they do not
    partition the labels.
    """
    coarse = Groups(labels, groups)
    names = coarse.names
    predicted = [len(names) if j.scores is None else coarse.predict(j.scores) for j in judged]
    confusion = np.zeros((len(names), len(names) + 1), int)
    for j, k in zip(judged, predicted, strict=True):
        confusion[coarse.of[j.clip.label], k] += 1
    right, total = np.diag(confusion), confusion.sum(1)
    recall = {name: float(right[i] / total[i]) for i, name in enumerate(names) if total[i]}
    columns = [*names, NONE]
    of_classes = [j.scores is not None and labels[int(np.argmax(j.scores))] == j.clip.label for j in judged]
    return {
        "clips": int(total.sum()),
        "class_accuracy": sum(of_classes) / max(len(judged), 1),
        "accuracy": float(right.sum() / max(total.sum(), 1)),
        "balanced_accuracy": float(np.mean(list(recall.values()))) if recall else 0.0,
        "per_class": recall,
        "labels": columns,
        "confusion": confusion.tolist(),
        "problems": {j.clip.name: j.problem for j in judged if j.scores is None},
        "predictions": {j.clip.name: columns[k] for j, k in zip(judged, predicted, strict=True)},
    }


def _check_partition(labels: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    if not isinstance(groups, Mapping) or not all(isinstance(m, (list, tuple)) for m in groups.values()):
        raise DataError('groups must be an object of lists: {"coarse": ["label", ...], ...}')
    flat = [label for members in groups.values() for label in members]
    wrong = sorted(set(map(str, flat)) ^ set(labels)) or [n for n, k in Counter(flat).items() if k > 1]
    if wrong:
        raise DataError(f'groups must name each label once; look at "{wrong[0]}"')
