# SPDX-License-Identifier: Apache-2.0
"""Two results on the same bags, window by window: is one model better, where, and is that more than chance?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gc_ros.evaluation import results
from gc_ros.evaluation.scoring import EXTRA, interval
from gc_ros.media.kinds import plain
from trt_build.command import counted
from trt_build.errors import DataError, need

_EXACT = 25  # discordant windows up to which McNemar's test is exact


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Compare two result directories, B against A, over the windows that both scored.

    Windows are paired by bag, pass, end and person. The interval of the difference resamples bags, since McNemar's
    test assumes independent windows and neighbouring ones are not. Raises DataError where nothing can be paired, and
    for what is no result.
    """
    summaries = [results.read_summary(folder) for folder in (a, b)]
    bags = [summary.bags for summary in summaries]
    shared = sorted(name for name, digest in bags[0].items() if bags[1].get(name) == digest)
    if not shared:
        raise DataError(f"{a} and {b} have no bag in common (same name and content); evaluate the same bags")
    left, right = (
        {
            (row.bag, row.in_pass, row.end_ns, row.person): row
            for row in results.scored_windows(folder)
            if row.bag in shared
        }
        for folder in (a, b)
    )
    keys = sorted(left.keys() & right.keys())
    if not keys:
        raise DataError(
            f"{a} and {b} have no scored window in common; is there ground truth, and the same stride?"
        )
    counts: dict[str, list[int]] = {name: [0, 0, 0] for name in shared}  # windows, right in A, right in B
    classes: dict[str, list[int]] = {}
    fixed = broken = 0
    changed = []
    for key in keys:
        p, q = left[key], right[key]
        if plain(p.truth) != plain(q.truth):  # each as its own bundle spells it
            raise DataError(
                f"{p.bag}: the ground truth differs between the results; evaluate both with the same"
            )
        hits = p.label == p.truth, q.label == q.truth
        for count in (counts[p.bag], classes.setdefault(p.truth, [0, 0, 0])):
            for i, n in enumerate((1, *hits)):
                count[i] += n
        fixed += hits[1] and not hits[0]
        broken += hits[0] and not hits[1]
        if plain(p.label) != plain(q.label):
            kind = "fixed" if hits[1] else "broken" if hits[0] else "still wrong"
            where = {"bag": p.bag, "pass": p.in_pass, "start_s": p.start_s, "end_s": p.end_s}
            changed.append({**where, "truth": p.truth, "a": p.label, "b": q.label, "kind": kind})
    n = len(keys)
    used = [count for count in counts.values() if count[0]]
    difference = (fixed - broken) / n
    spread = interval(used, lambda c: sum(x[2] - x[1] for x in c) / sum(x[0] for x in c))
    p_value, test = _mcnemar(fixed, broken)
    return {
        "models": [summary.model_id for summary in summaries],
        "engines": [summary.engines for summary in summaries],
        "bags": len(used),
        "left_out": sorted(
            bags[0].keys() ^ bags[1].keys() | {x for x in bags[0] if x in bags[1] and x not in shared}
        ),
        "windows": n,
        "windows_unpaired": [len(left) - n, len(right) - n],
        "accuracy": [sum(c[1] for c in used) / n, sum(c[2] for c in used) / n],
        "difference": difference,
        "difference_95": spread,
        "mcnemar": {"fixed": fixed, "broken": broken, "p": p_value, "test": test},
        "per_class": {
            label: {"windows": c[0], "recall": [c[1] / c[0], c[2] / c[0]], "difference": (c[2] - c[1]) / c[0]}
            for label, c in sorted(classes.items())
        },
        "changed": changed,
        "verdict": _verdict(difference, p_value, spread),
    }


def _mcnemar(fixed: int, broken: int) -> tuple[float, str]:
    stats = need("scipy.stats", EXTRA)
    if fixed + broken <= _EXACT:
        p = stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
        return float(p), "exact binomial"
    statistic = (abs(fixed - broken) - 1) ** 2 / (fixed + broken)
    return float(stats.chi2.sf(statistic, 1)), "chi-square with continuity correction"


def _verdict(difference: float, p: float, spread: list[float] | None) -> str:
    """The verdict: "better" or "worse" where the test over windows and, with two bags or more, the interval agree."""
    if p >= 0.05 or (spread is not None and spread[0] <= 0 <= spread[1]):
        return "undecided"
    return "better" if difference > 0 else "worse"


def as_text(found: dict[str, Any], changed: int = 20) -> str:
    """The comparison as lines for a terminal, with at most `changed` windows."""
    a, b = found["accuracy"]
    m, spread = found["mcnemar"], found["difference_95"]
    between = f", 95 % over bags {spread[0]:+.1%} to {spread[1]:+.1%}" if spread else ", one bag: no interval"
    names = found["models"]
    if names[0] == names[1]:  # one model run in two ways
        names = [f"{name}, {engine}" for name, engine in zip(names, found["engines"], strict=True)]
    lines = [
        f"A {names[0]}  accuracy {a:.1%}",
        f"B {names[1]}  accuracy {b:.1%}",
        f"B - A {found['difference']:+.1%}{between}; {counted(found['windows'], 'window')} of "
        f"{counted(found['bags'], 'bag')}",
        f"McNemar: {counted(m['fixed'], 'window')} right only in B, {m['broken']} only in A, p = {m['p']:.3g} "
        f"({m['test']})",
    ]
    if found["left_out"]:
        lines.append(f"left out, not the same in both: {', '.join(found['left_out'])}")
    width = max(len(label) for label in found["per_class"])
    for label, c in sorted(found["per_class"].items(), key=lambda item: item[1]["difference"]):
        lines.append(
            f"  {label:<{width}}  {c['recall'][0]:6.1%} -> {c['recall'][1]:6.1%}  {c['difference']:+.1%}"
            f"  ({c['windows']})"
        )
    worst_first = sorted(found["changed"], key=lambda w: ("broken", "still wrong", "fixed").index(w["kind"]))
    for w in worst_first[:changed]:
        lines.append(
            f"  {w['kind']}: {w['bag']} {w['start_s']:.2f}-{w['end_s']:.2f} s, {w['truth']}: {w['a']} -> {w['b']}"
        )
    if len(found["changed"]) > changed:
        lines.append(f"  and {len(found['changed']) - changed} more changed windows (--json lists all)")
    verdicts = {"better": "B is better", "worse": "B is worse", "undecided": "no difference beyond chance"}
    return "\n".join([*lines, f"verdict: {verdicts[found['verdict']]}"])
