# SPDX-License-Identifier: Apache-2.0
"""Figures from windows.jsonl and bag.json; the same code serves a single bag, many, and stored results.

Accuracy and all figures per class are over the windows whose truth is a label of the bundle, whatever
their status; smoothed figures compare the activity that is on (after hysteresis) with the truth, idle time included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.evaluation import segments as seg
from gc_ros.evaluation.truth import Segment
from trt_build.errors import need
from trt_build.install import extra

BINS = 15  # of the calibration error
RESAMPLES = 2000
_SEED = 20180618
EXTRA = extra("evaluate")


@dataclass
class BagWindows:
    """The windows of one bag as arrays; truth is -1 where no label of the bundle is the truth."""

    truth: NDArray[np.int64]
    scores: NDArray[np.float64]  # (n, K)
    active_right: NDArray[np.bool_]  # smoothed label equals truth, over windows with truth label or idle
    kinds: Counter[str]
    status: Counter[str]
    timings: dict[str, list[float]]
    published: list[float]
    idle_ok: int  # of windows of idle time, those that carry an activity with status ok
    who: list[str]  # the person of the truth, "" where none is
    truth_kinds: list[str]
    passes: list[int]


def gather(rows: Iterable[dict[str, Any]], labels: Sequence[str]) -> BagWindows:
    """The rows of windows.jsonl as arrays."""
    index = {label: k for k, label in enumerate(labels)}
    truth, scores, right = [], [], []
    kinds: Counter[str] = Counter()
    status: Counter[str] = Counter()
    timings: dict[str, list[float]] = {"preprocess": [], "inference": []}
    published, who, truth_kinds, passes = [], [], [], []
    idle_ok = 0
    for row in rows:
        who.append(row.get("truth_person") or "")
        truth_kinds.append(row["truth_kind"])
        passes.append(row["pass"])
        kinds[row["truth_kind"]] += 1
        status[row["status"]] += 1
        truth.append(index[row["truth"]] if row["truth_kind"] == "label" else -1)
        scores.append(row["scores"])
        idle_ok += row["truth_kind"] == "idle" and row["status"] == "ok"
        if row["truth_kind"] in ("label", "idle"):
            right.append(row["active"] == row["truth"])
        for name, values in timings.items():
            values.append(row["timings_ms"][name])
        published.append(row["published_after_s"])
    shape = np.array(scores, np.float64).reshape(-1, len(labels))
    return BagWindows(
        np.array(truth, np.int64),
        shape,
        np.array(right, bool),
        kinds,
        status,
        timings,
        published,
        idle_ok,
        who,
        truth_kinds,
        passes,
    )


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def window_figures(
    truth: NDArray[np.int64], scores: NDArray[np.float64], labels: Sequence[str]
) -> dict[str, Any]:
    """Figures over windows. truth: (n,) class indices; scores: (n, K)."""
    metrics = need("sklearn.metrics", EXTRA)
    K = len(labels)
    if not len(truth):
        return {"windows": 0, "accuracy": None, "balanced_accuracy": None, "mean_average_precision": None}
    found = scores.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, found, labels=range(K))
    present = [k for k in range(K) if (truth == k).any()]
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, found, labels=range(K), zero_division=0
    )
    ap = {k: float(metrics.average_precision_score(truth == k, scores[:, k])) for k in present}
    return {
        "windows": len(truth),
        "accuracy": float((truth == found).mean()),
        "balanced_accuracy": float(np.mean([recall[k] for k in present])),
        "mean_average_precision": float(np.mean([ap[k] for k in present])),
        "macro_f1": float(np.mean([f1[k] for k in present])),
        "calibration": calibration(truth == found, scores.max(axis=1)),
        "per_class": {
            label: {
                "windows": int(support[k]),
                "predicted": int((found == k).sum()),
                "precision": float(precision[k]) if (found == k).any() else None,
                "recall": float(recall[k]) if k in ap else None,
                "f1": float(f1[k]) if k in ap else None,
                "average_precision": ap.get(k),
            }
            for k, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def calibration(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> dict[str, Any]:
    """The expected calibration error of the best label's score (Guo et al. 2017).

    |accuracy - mean score| in bins of equal width, weighted by the windows in each.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for b in range(BINS):
        chosen = place == b
        n = int(chosen.sum())
        accuracy = float(right[chosen].mean()) if n else None
        score = float(confidence[chosen].mean()) if n else None
        bins.append({"windows": n, "accuracy": accuracy, "score": score})
        if accuracy is not None and score is not None:
            error += n / len(right) * abs(accuracy - score)
    return {"expected_error": error, "bins": bins}


def event_figures(record: dict[str, Any], w: BagWindows, late_s: float) -> dict[str, Any]:
    """Figures over the activities of one bag as segments; counts, so that bags can be summed."""
    hits = {str(overlap): [0, 0, 0] for overlap in seg.OVERLAPS}
    edits, delays, false, count = [], [], 0, 0
    for p, who in _streams(record, w):
        # A box on nobody does nothing, whatever is true of everybody.
        of = () if who.startswith("?") else (who, "")
        segments = [s for s in record["truth"]["segments"] if s["pass"] == p and s.get("person", "") in of]
        truth = [Segment(s["start_s"], s["end_s"], s["label"]) for s in segments if s["mapped"]]
        unmapped = [s for s in segments if not s["mapped"]]
        # What begins during an activity that the model does not know is neither right nor wrong. What ends there does
        # so late, and counts.
        events = [
            e
            for e in record["events"]
            if e["pass"] == p
            and e.get("person", "") == who
            and not (e["kind"] == "onset" and any(s["start_s"] <= e["s"] <= s["end_s"] for s in unmapped))
        ]
        found = seg.predicted_segments(events)
        for overlap in seg.OVERLAPS:
            for i, n in enumerate(seg.matches(truth, found, overlap)):
                hits[str(overlap)][i] += n
        edits.append(seg.edit_score([s.label for s in truth], [s.label for s in found]))
        delays += seg.onset_delays(truth, events, late_s)
        false += seg.false_activations(truth, events, late_s)
        count += len(truth)
    return {
        "segments": count,
        "counts": hits,
        "edit_scores": edits,
        "onset_delays_s": delays,
        "false_activations": false,
        "seconds": record["seconds_seen"],
    }


def _streams(record: dict[str, Any], w: BagWindows) -> list[tuple[int, str]]:
    """The passes of a bag; where people are told apart, those of each person whom the truth is about, or nobody."""
    passes = range(len(record["passes"]))
    if "people" not in record:
        return [(p, "") for p in passes]
    named = {s["person"] for s in record["truth"]["segments"]}
    streams = []
    for p in passes:
        # Of somebody whom the truth does not name nothing is known, but a box on nobody does nothing.
        who = named | {
            e["person"] for e in record["events"] if e["pass"] == p and e["person"].startswith("?")
        }
        if "" in named:  # true of everybody, whether anything was noticed of them or not
            who |= {name for name, of in zip(w.who, w.passes, strict=True) if of == p}
        streams += [(p, name) for name in sorted(who - {""}) or [""]]
    return streams


def _pool_events(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    f1 = {}
    for overlap in map(str, seg.OVERLAPS):
        tp, fp, fn = (sum(f["counts"][overlap][i] for f in found) for i in range(3))
        f1[overlap] = _ratio(2 * tp, 2 * tp + fp + fn)
    delays = [d for f in found for d in f["onset_delays_s"]]
    noticed = [d for d in delays if d is not None]
    hours = sum(f["seconds"] for f in found) / 3600
    return {
        "segments": sum(f["segments"] for f in found),
        "noticed": len(noticed),
        "edit_score": _mean([e for f in found for e in f["edit_scores"]]),
        "segment_f1": f1,
        "onset_delay_s": {
            "mean": _mean(noticed),
            "median": float(np.median(noticed)) if noticed else None,
            "p95": float(np.percentile(noticed, 95)) if noticed else None,
        },
        "false_activations": sum(f["false_activations"] for f in found),
        "false_activations_per_hour": _ratio(sum(f["false_activations"] for f in found), hours),
        "hours": hours,
    }


def interval(values: Sequence[Any], figure: Callable[[list[Any]], float | None]) -> list[float] | None:
    """The 95 % interval of a figure, by resampling whole bags, since windows of one bag are not independent.

    None for fewer than two bags.
    """
    if len(values) < 2:
        return None
    random = np.random.default_rng(_SEED)
    found = []
    for _ in range(RESAMPLES):
        value = figure([values[i] for i in random.integers(0, len(values), len(values))])
        if value is not None and math.isfinite(value):
            found.append(value)
    return [float(v) for v in np.percentile(found, [2.5, 97.5])] if found else None


def summarise(
    bags: Sequence[tuple[dict[str, Any], BagWindows]], labels: Sequence[str], window_s: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, timings) over bags, in the order given; the figures depend only on the results."""
    labelled = [(record, w) for record, w in bags if record["truth"]["kind"] != "none"]
    truth = np.concatenate([w.truth[w.truth >= 0] for _, w in labelled] or [np.zeros(0, np.int64)])
    scores = np.concatenate([w.scores[w.truth >= 0] for _, w in labelled] or [np.zeros((0, len(labels)))])
    figures = window_figures(truth, scores, labels)
    events = [event_figures(record, w, window_s) for record, w in labelled]
    pooled = _pool_events(events) if labelled else None
    right = np.concatenate([w.active_right for _, w in labelled] or [np.zeros(0, bool)])
    per_bag = []
    for _record, w in labelled:
        chosen = w.truth >= 0
        per_bag.append((int((w.scores[chosen].argmax(axis=1) == w.truth[chosen]).sum()), int(chosen.sum())))
    edits = [(sum(f["edit_scores"]), len(f["edit_scores"])) for f in events]
    hits = [f["counts"]["0.5"] for f in events]
    kinds = sum((w.kinds for _, w in bags), Counter())
    predicted = Counter(labels[k] for _, w in bags for k in w.scores.argmax(axis=1))
    result = {
        "bags": len(bags),
        "bags_with_truth": len(labelled),
        "labels": list(labels),
        "windows": figures,
        "smoothed": {"windows": len(right), "accuracy": float(right.mean()) if len(right) else None},
        "idle": {"windows": kinds["idle"], "labelled": sum(w.idle_ok for _, w in bags)},
        "events": pooled,
        "truth_kinds": dict(sorted(kinds.items())),
        "status": dict(sorted(sum((w.status for _, w in bags), Counter()).items())),
        "predicted": dict(sorted(predicted.items())),
        "intervals_95": {
            "accuracy": interval(per_bag, lambda p: _ratio(sum(a for a, _ in p), sum(b for _, b in p))),
            "edit_score": interval(edits, lambda e: _ratio(sum(x for x, _ in e), sum(n for _, n in e))),
            "segment_f1_0.5": interval(
                hits, lambda h: _ratio(2 * sum(x[0] for x in h), sum(2 * x[0] + x[1] + x[2] for x in h))
            ),
            "false_activations_per_hour": interval(
                events,
                lambda e: _ratio(sum(f["false_activations"] for f in e), sum(f["seconds"] for f in e) / 3600),
            ),
        },
        "mapping": dict(
            sorted({k: v for record, _ in bags for k, v in record["truth"]["labels"].items()}.items())
        ),
        "published_after_s": _percentiles([v for r, w in bags if _simulated(r) for v in w.published]),
        "idle_label": "idle",
    }
    timings = {
        f"{name}_ms": _percentiles([v for _, w in bags for v in w.timings[name]])
        for name in ("preprocess", "inference")
    }
    return result, timings


def _simulated(record: dict[str, Any]) -> bool:
    return record["provenance"]["options"]["simulate_latency_s"] is not None


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p = np.percentile(values, [50, 90, 99])
    return {"median": float(p[0]), "p90": float(p[1]), "p99": float(p[2]), "max": float(np.max(values))}
