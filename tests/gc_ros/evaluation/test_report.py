# SPDX-License-Identifier: Apache-2.0
"""report.html in a real browser, predictions.mcap in two readers, and the comparison of two results."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gc_ros import cli
from gc_ros.evaluation import results
from gc_ros.media.bag_reading import read_bag_images
from gc_ros.media.recording import Recording
from tests.command_line import assert_one_line, call
from tests.gc_ros.evaluation.bag_files import write_bag, write_truth
from trt_build.bundle import LoadedBundle

pytest.importorskip("sklearn")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    "--window-size=1100,2600",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, colours: LoadedBundle) -> Path:
    """result: red, idle, green (called blue in the truth, with a label that would break out of the page)."""
    root = tmp_path_factory.mktemp("report")
    write_bag(root / "bag", [("red", 3.0), ("grey", 2.0), ("green", 3.0)], jpeg=True)
    write_truth(root / "bag.truth.csv", [(0, 3, "red"), (5, 7, "blue"), (7, 8, "</script><b>x")])
    evaluate(colours, root, "result", "--predictions", "merged")
    return root


def evaluate(bundle: LoadedBundle, root: Path, name: str, *options: object) -> None:
    done = call(
        cli.app, "evaluate", root / "bag", "-b", bundle.path, "--out", root / name, "--threads", 1, *options
    )
    assert done.exit_code == 0, done.output


def browse(page: Path, profile: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_page_needs_nothing_but_itself_and_escapes_labels(folder: Path) -> None:
    page = (folder / "result/report.html").read_text()
    assert "<b>x" not in page and "&lt;/script&gt;" in page
    assert (
        not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
        and "url(" not in page
        and "@import" not in page
    )
    assert page.count("<img") >= 8 and len(page) < 2_000_000
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page)) and '<html lang="en">' in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_in_both_schemes_without_a_request(
    folder: Path, tmp_path: Path, scheme: str
) -> None:
    # The browser itself looks up its maker's hosts: asked is the page, what it has loaded.
    script = """<script>addEventListener("load", () => { document.body.dataset.asked = JSON.stringify(
    performance.getEntriesByType("resource").map(e => e.name)
    .filter(n => !n.startsWith("data:"))); });</script></body>"""
    page = tmp_path / "page.html"
    page.write_text((folder / "result/report.html").read_text().replace("</body>", script))
    setting = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    assert 'data-asked="[]"' in browse(page, tmp_path / "a", setting, "--dump-dom")
    browse(folder / "result/report.html", tmp_path / "b", setting, f"--screenshot={tmp_path / 'shot.png'}")
    shot = cv2.imread(str(tmp_path / "shot.png"))
    assert shot.shape[:2] == (2600, 1100)
    assert (shot[:40, -40:].mean() > 200) == (scheme == "light"), "the background follows the scheme"
    assert np.std(shot.astype(float)) > 15


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_keys_zoom_the_timeline_tables_sort_and_nothing_is_logged_as_an_error(
    folder: Path, tmp_path: Path
) -> None:
    page = (folder / "result/report.html").read_text()
    script = """<script>
    const plot = document.querySelector(".plot");
    const key = k => plot.dispatchEvent(new KeyboardEvent("keydown", {key: k}));
    const span = () => (plot.dataset.to - plot.dataset.from).toFixed(3);
    const found = {focus: plot.tabIndex, all: span()};
    found.rects = plot.querySelectorAll("rect").length;
    key("+"); found.zoomed = span(); key("ArrowRight"); found.from = plot.dataset.from;
    found.said = plot.parentElement.querySelector(".readout").textContent;
    key("0"); found.again = span();
    const button = document.querySelector("#classes th button"); button.click(); button.click();
    found.sorted = button.parentElement.getAttribute("aria-sort");
    found.first = document.querySelector("#classes tbody th").textContent;
    document.body.dataset.found = JSON.stringify(found);
    </script></body>"""
    driven = tmp_path / "driven.html"
    driven.write_text(page.replace("</body>", script))
    dom = browse(driven, tmp_path / "profile", "--dump-dom")
    found = json.loads(re.search(r'data-found="([^"]*)"', dom)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert found["focus"] == 0 and found["rects"] > 20
    assert (
        float(found["zoomed"]) == pytest.approx(float(found["all"]) / 2, abs=0.01)
        and float(found["from"]) > 1
    )
    assert found["again"] == found["all"] and "Truth:" in found["said"]
    assert (found["sorted"], found["first"]) == ("descending", "red")


def test_predictions_are_read_by_rosbags_and_mcap_and_hold_images_where_asked(
    folder: Path, tmp_path: Path, colours: LoadedBundle
) -> None:
    path = folder / "result/predictions.mcap"
    rows = list(results.read_windows(folder / "result/windows.jsonl"))
    with Recording(path) as recording:
        kinds = recording.topics
        activities = list(recording.messages(["/activity_recognition/activity"]))
        notes = list(recording.messages(["/activity_recognition/annotations"]))
        events = list(recording.messages(["/activity_recognition/events"]))
        assert recording.damage == []
    assert kinds["/activity_recognition/annotations"] == "foxglove_msgs/msg/ImageAnnotations"
    assert len(activities) == len(notes) == len(rows)
    for item, note, row in zip(activities, notes, rows, strict=True):
        message: Any = item.message
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert (message.label, stamp, message.model_id) == (row["label"], row["end_ns"], "toy-colours")
        assert message.score == pytest.approx(row["score"], abs=1e-6)
        corner = note.message.points[0].points[0]
        assert (corner.x, corner.y) == pytest.approx(row["glimpses"][0][:2], abs=1e-4)
        assert row["label"] in note.message.texts[0].text
    assert [(e.message.kind, e.message.label) for e in events][:2] == [(0, "red"), (1, "red")]
    assert len(list(read_bag_images(path))) == len(list(read_bag_images(folder / "bag"))) == 128
    reader = pytest.importorskip("mcap.reader")
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
        assert summary.statistics.message_count == 2 * len(rows) + len(events) + 128
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as other:
        decoded = [
            other.deserialize(raw, c.msgtype) for c, _, raw in other.messages() if "annotations" in c.topic
        ]
    assert len(decoded) == len(rows)
    evaluate(colours, folder, "beside")
    with Recording(folder / "beside/predictions.mcap") as beside:
        assert "/camera/compressed" not in beside.topics


@pytest.mark.slow
def test_compare_pairs_windows_and_tells_which_changed(
    folder: Path, colours: LoadedBundle, make_bundle: Any
) -> None:
    swapped = make_bundle("colours", S=224, labels=["red", "blue", "green"], model_id="toy-swapped")
    evaluate(colours, folder, "a")
    evaluate(swapped, folder, "b")
    found = json.loads(call(cli.app, "compare", folder / "a", folder / "b", "--json").stdout)
    rows = [
        [r for r in results.read_windows(folder / n / "windows.jsonl") if r["truth_kind"] == "label"]
        for n in "ab"
    ]
    right = [[r["label"] == r["truth"] for r in side] for side in rows]
    fixed = sum(q and not p for p, q in zip(*right, strict=True))
    assert fixed > 5 and found["mcnemar"]["fixed"] == fixed and found["mcnemar"]["broken"] == 0
    # The exact two-sided binomial test, by hand.
    assert found["mcnemar"]["p"] == pytest.approx(2 * 0.5**fixed)
    assert found["difference"] == pytest.approx((sum(right[1]) - sum(right[0])) / len(right[0]))
    assert found["per_class"]["blue"]["recall"] == [0, 1] and found["per_class"]["red"]["difference"] == 0
    assert {w["kind"] for w in found["changed"]} == {"fixed"} and found["verdict"] == "better"
    assert call(cli.app, "compare", folder / "b", folder / "a", "--not-worse").exit_code == 1
    spelled = make_bundle("colours", S=224, labels=["Red", "Green", "Blue"], model_id="toy-spelled")
    evaluate(spelled, folder, "spelled")
    same = json.loads(call(cli.app, "compare", folder / "a", folder / "spelled", "--json").stdout)
    assert same["windows"] == len(right[0]), "labels match whatever their case"
    assert same["changed"] == [] and same["mcnemar"]["fixed"] == 0, "another spelling is no change"
    text = call(cli.app, "compare", folder / "a", folder / "a", "--not-worse")
    assert text.exit_code == 0 and "no difference beyond chance" in text.stdout
    assert_one_line(call(cli.app, "compare", folder / "a", folder / "none"), "none", "evaluate again")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{}"),
        ("summary.json", "[]"),
        ("summary.json", "null"),
        ("summary.json", '{"bags": [{"name": "bag"}], "provenance": {}}'),
        ("windows.jsonl", "{}\n"),
        ("windows.jsonl", "[]\n"),
        ("windows.jsonl", '{"truth_kind": "label"}\n'),
        ("windows.jsonl", "\n"),
    ],
)
def test_compare_names_a_file_that_is_no_result(
    folder: Path, colours: LoadedBundle, name: str, content: str
) -> None:
    if not (folder / "whole").exists():
        evaluate(colours, folder, "whole")
    shutil.rmtree(folder / "none", ignore_errors=True)
    shutil.copytree(folder / "whole", folder / "none")
    (folder / "none" / name).write_text(content)
    for pair in (("whole", "none"), ("none", "whole")):
        found = call(cli.app, "compare", *(folder / side for side in pair))
        assert_one_line(found, f"none/{name}", "not a readable result", "gc-ros evaluate")
