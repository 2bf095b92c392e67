# SPDX-License-Identifier: Apache-2.0
"""report.html: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from gc_ros.evaluation import results
from gc_ros.evaluation.scoring import EXTRA
from gc_ros.evaluation.segments import predicted_segments
from trt_build.errors import need
from trt_build.files import write_atomically

TIMELINES = 24  # bags shown with their timeline, those of the lowest accuracy
PICTURES = 16  # strips in the page
PEOPLE = 12  # timelines of one bag
_BINS = 32  # of the latency histogram


def write_report(out: Path, summary: dict[str, Any], bags: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Write `out`/report.html. bags: folder and bag.json of each, in the order of summary["bags"]."""
    jinja2 = need("jinja2", EXTRA)
    here = files("gc_ros.evaluation")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.1f} %"
    environment.filters["number"] = lambda v, digits=2: "–" if v is None else f"{v:.{digits}f}"
    template = environment.from_string((here / "report.html.j2").read_text(encoding="utf-8"))
    facts = summary["bags"]
    accuracy = lambda i: facts[i]["accuracy"] if facts[i]["accuracy"] is not None else 2.0
    shown = sorted(sorted(range(len(bags)), key=accuracy)[:TIMELINES])
    latencies: list[float] = []
    timelines, strips = [], []
    for i, (folder, record) in enumerate(bags):
        rows = list(results.read_windows(folder / results.WINDOWS))
        latencies += [sum(row["timings_ms"].values()) for row in rows]
        if i in shown:
            timelines += [_timeline(*part) for part in _parts(record, rows)]
            strips += _strips(folder, record["name"], rows)
    strips.sort(key=lambda strip: -strip["badness"])
    # "<" would let a label end the script element.
    data = json.dumps(timelines).replace("<", "\\u003c")
    page = template.render(
        s=summary,
        r=summary["result"],
        timelines=timelines,
        shown=len(shown),
        hidden=len(bags) - len(shown),
        data=data,
        css=(here / "report.css").read_text(encoding="utf-8"),
        js=(here / "report.js").read_text(encoding="utf-8"),
        histogram=_histogram(latencies),
        strips=strips[:PICTURES],
        confusion=_confusion(summary["result"]),
        provenance=json.dumps(summary["provenance"], indent=2, ensure_ascii=False),
    )
    write_atomically(out / results.REPORT, page.encode(errors="backslashreplace"))


def _parts(
    record: dict[str, Any], rows: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The record and rows of a bag; where people are told apart, those of each person."""
    if "people" not in record:
        return [(record, rows)]
    names = sorted({row["truth_person"] for row in rows} - {None})[:PEOPLE]
    parts = []
    for who in names:
        segments = [s for s in record["truth"]["segments"] if s["person"] in (who, "")]
        own = {
            **record,
            "name": f"{record['name']}: {who}",
            "truth": {**record["truth"], "segments": segments},
            "events": [event for event in record["events"] if event["person"] == who],
        }
        parts.append((own, [row for row in rows if row["truth_person"] == who]))
    return parts


def _timeline(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    passes = []
    for p, bounds in enumerate(record["passes"]):
        events = [event for event in record["events"] if event["pass"] == p]
        truth = [s for s in record["truth"]["segments"] if s["pass"] == p]
        passes.append(
            {
                "start": bounds["start_s"],
                "end": bounds["end_s"],
                "truth": [[s["start_s"], s["end_s"], s["label"]] for s in truth],
                "smoothed": [[s.start, s.end, s.label] for s in predicted_segments(events)],
                "windows": [
                    [round(r["end_s"], 3), r["label"], round(r["score"], 4), _right(r)]
                    for r in rows
                    if r["pass"] == p
                ],
            }
        )
    return {"name": record["name"], "passes": passes}


def _right(row: dict[str, Any]) -> int:
    """1 for a right window, 0 for a wrong one, -1 for one that is not scored."""
    return int(row["label"] == row["truth"]) if row["truth_kind"] == "label" else -1


def _strips(folder: Path, bag: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_number = {row["n"]: row for row in rows}
    found = []
    for entry in results.read_json(folder / results.WORST):
        row = by_number.get(entry["n"])
        if row is None or (row["truth_kind"] == "label" and row["label"] == row["truth"]):
            continue
        found.append({**row, "bag": bag, "pictures": entry["pictures"], "badness": row["score"]})
    return found


def _histogram(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    top = max(float(np.percentile(values, 99.5)), 1e-3)
    counts, edges = np.histogram(np.minimum(values, top), bins=_BINS, range=(0, top))
    p50, p90, p99 = (float(v) for v in np.percentile(values, [50, 90, 99]))
    bars = [
        {"x": 640 * i / _BINS, "h": 150 * int(n) / max(int(counts.max()), 1), "n": int(n), "from": a, "to": b}
        for i, (n, a, b) in enumerate(zip(counts, edges, edges[1:], strict=False))
    ]
    marks = [
        {"name": name, "value": v, "x": 640 * min(v / top, 1)} for name, v in (("median", p50), ("p99", p99))
    ]
    return {
        "bars": bars,
        "top": top,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "marks": marks,
        "w": 640 / _BINS - 2,
    }


def _confusion(result: dict[str, Any]) -> list[dict[str, Any]]:
    table = result["windows"].get("confusion")
    if not table:
        return []
    rows = []
    for k, row in enumerate(table):
        total = sum(row)
        cells = [
            {"n": n, "share": n / total if total else 0.0, "diagonal": j == k} for j, n in enumerate(row)
        ]
        rows.append({"label": result["labels"][k], "cells": cells, "total": total})
    return rows
