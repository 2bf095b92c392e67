# SPDX-License-Identifier: Apache-2.0
"""`gc-ros evaluate` from the outside: figures equal an independent recomputation, whatever the truth comes from."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gc_ros import cli
from gc_ros.evaluation import results, sources
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.running import Task, evaluate_bag
from gc_ros.evaluation.sources import FrameReader, Source, find_sources
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.images import Picture
from gc_ros.media.recording import Recording
from gc_ros.recognition.intake import Intake
from gc_ros.recognition.sampler import Sampler
from tests.command_line import assert_one_line, call
from tests.gc_ros.evaluation.bag_files import START, join_bags, write_bag, write_truth
from tests.gc_ros.evaluation.runs import SIMPLE, make, run
from trt_build.bundle import LoadedBundle

pytest.importorskip("sklearn")
NS = 1_000_000_000
PIECES = [
    ("red", 3.0),
    ("grey", 3.0),
    ("green", 3.0),
    ("gap", 2.0),
    ("red", 2.5),
    ("loop", 0.0),
    ("blue", 3.0),
]


def recomputed(folder: Path, labels: list[str]) -> dict[str, Any]:
    """The figures anew, from nothing but windows.jsonl, in plain Python."""
    rows = [json.loads(line) for line in (folder / "windows.jsonl").read_text().splitlines()]
    scored = [row for row in rows if row["truth_kind"] == "label"]
    hits = [
        max(range(len(labels)), key=row["scores"].__getitem__) == labels.index(row["truth"]) for row in scored
    ]
    by_class: dict[str, list[bool]] = defaultdict(list)
    confusion = [[0] * len(labels) for _ in labels]
    for row, hit in zip(scored, hits, strict=True):
        by_class[row["truth"]].append(hit)
        confusion[labels.index(row["truth"])][labels.index(row["label"])] += 1
    precisions = []
    for label in by_class:
        k = labels.index(label)
        positives, precision = len(by_class[label]), 0.0
        values = sorted({row["scores"][k] for row in scored}, reverse=True)
        before = 0
        for value in values:  # sum of (recall step) x precision over thresholds
            above = [row for row in scored if row["scores"][k] >= value]
            right = sum(row["truth"] == label for row in above)
            precision += (right - before) / positives * right / len(above)
            before = right
        precisions.append(precision)
    error = 0.0
    for b in range(15):
        inside = [
            (row["score"], hit)
            for row, hit in zip(scored, hits, strict=True)
            if min(int(row["score"] * 15), 14) == b
        ]
        if inside:
            error += abs(sum(h for _, h in inside) - sum(s for s, _ in inside)) / len(scored)
    smoothed = [row["active"] == row["truth"] for row in rows if row["truth_kind"] in ("label", "idle")]
    return {
        "accuracy": sum(hits) / len(hits),
        "balanced_accuracy": sum(sum(h) / len(h) for h in by_class.values()) / len(by_class),
        "mean_average_precision": sum(precisions) / len(precisions),
        "confusion": confusion,
        "expected_error": error,
        "smoothed": sum(smoothed) / len(smoothed),
    }


def check(folder: Path, labels: list[str]) -> dict[str, Any]:
    """The summary's figures equal the recomputed ones."""
    result = json.loads((folder / "summary.json").read_text())["result"]
    own = recomputed(folder, labels)
    assert result["windows"]["confusion"] == own["confusion"]
    for name in ("accuracy", "balanced_accuracy", "mean_average_precision"):
        assert result["windows"][name] == pytest.approx(own[name], abs=1e-12), name
    assert result["windows"]["calibration"]["expected_error"] == pytest.approx(
        own["expected_error"], abs=1e-9
    )
    assert result["smoothed"]["accuracy"] == pytest.approx(own["smoothed"], abs=1e-12)
    return own


def test_figures_equal_an_independent_recomputation(tmp_path: Path, colours: LoadedBundle) -> None:
    pieces = [*PIECES[:5], ("grey", 2.0)]
    bag = make(tmp_path, pieces=pieces, truth=False)
    # Half of the truth is wrong on purpose, so that no figure is trivially 1.
    write_truth(
        tmp_path / "bag.truth.csv", [(0, 3, "red"), (6, 7.4, "blue"), (7.5, 9, "green"), (11, 13.4, "green")]
    )
    summary = run(colours, tmp_path / "out", bag)
    own = check(tmp_path / "out", colours.info.labels)
    assert 0.3 < own["accuracy"] < 0.9 and summary["result"]["truth_kinds"]["idle"] > 5
    events = summary["result"]["events"]
    assert events["segments"] == 4 and events["noticed"] == 1 and events["false_activations"] >= 1
    assert summary["bags"][0]["counts"]["resets"] == {"gap": 1}


@pytest.mark.parametrize("foreseen", [True, False])
def test_of_a_compressed_bag_the_sampled_frames_alone_are_decoded(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    make(
        tmp_path,
        pieces=[("red", 2), ("gap", 1.5), ("green", 2), ("loop", 0), ("blue", 2)],
        hz=32.0,
        jpeg=True,
    )
    calls: list[int] = []
    imdecode = cv2.imdecode

    def counted(data: np.ndarray, flags: int) -> np.ndarray:
        calls.append(1)
        image = imdecode(data, flags)
        if len(calls) == 5:
            raise cv2.error("corrupt")
        return image

    monkeypatch.setattr(cv2, "imdecode", counted)
    if not foreseen:  # the frame is decoded by whoever needs it
        monkeypatch.setattr(sources.FrameReader, "_foresee", lambda *_: (True, None))
    task = Task(Source(tmp_path / "bag", "bag"), str(colours.path), Options(threads=1), str(tmp_path / "out"))
    record = evaluate_bag(task)
    counts = record["counts"]
    assert counts["resets"] == {"gap": 1, "backward": 1} and counts["images"] == 3 * 64
    assert len(calls) == counts["frames_sampled"] + 1 and counts["frames_sampled"] in (48, 49)
    assert counts["images_refused"] == 1 and "corrupt" in next(iter(record["refused"]))
    assert json.loads((tmp_path / "out" / "worst.json").read_text())[0]["pictures"]


def test_after_a_change_of_size_or_encoding_the_reader_foresees_what_the_recogniser_takes(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    make(tmp_path, pieces=[("red", 0.5)], truth=False)
    rate = colours.info.rate_hz
    intake = Intake(colours.info, "window", 1, None, lambda: None)
    frames = sources.FrameReader(
        Source(tmp_path / "bag", "bag"), None, "header", (), Sampler(rate), Picture.pixels
    )
    for n, (width, encoding) in enumerate([(64, "jpeg")] * 40 + [(48, "jpeg")] * 40 + [(48, "png")] * 40):
        pixels, made = np.zeros((48, width, 3), np.uint8), []
        picture = Picture(width, 48, True, lambda image=pixels, made=made: made.append(1) or image)
        stamp = round(n * 0.21 / rate * NS)
        _, of_it = frames._foresee(picture, stamp, encoding)
        foreseen = len(made)
        assert (of_it is not None) == bool(foreseen), n
        intake.offer(picture, stamp, encoding)
        assert len(made) == foreseen, n  # the recogniser had nothing left to decode
    assert intake.counters().resets == {"size change": 1, "encoding change": 1}


def test_a_loop_is_scored_pass_by_pass_and_windows_stay_within(tmp_path: Path, colours: LoadedBundle) -> None:
    bag = make(tmp_path, pieces=[("red", 3.0), ("loop", 0.0), ("red", 3.0)], truth=False)
    write_truth(tmp_path / "bag.truth.csv", [(0, 3, "red")])
    result = run(colours, tmp_path / "out", bag)
    assert len(result["bags"][0]["passes"]) == 2 and result["bags"][0]["counts"]["resets"] == {"backward": 1}
    assert result["result"]["windows"]["accuracy"] == 1 and result["result"]["events"]["segments"] == 2
    assert (
        result["result"]["events"]["segment_f1"]["0.5"] == 1 and result["result"]["events"]["edit_score"] == 1
    )
    rows = list(results.read_windows(tmp_path / "out" / "windows.jsonl"))
    assert all(0 < row["end_ns"] - row["start_ns"] < 1.1 * NS for row in rows)


def test_a_loop_in_which_the_images_change_size_is_a_loop(tmp_path: Path, colours: LoadedBundle) -> None:
    write_bag(tmp_path / "red", [("red", 3.0)])
    write_bag(tmp_path / "green", [("green", 3.0)], size=(32, 24), first_ns=START + 3 * NS)
    parts = [(tmp_path / ("green" if n % 2 else "red"), 3.0 * n) for n in range(4)]
    bag = join_bags(tmp_path / "bag", *parts)
    write_truth(tmp_path / "bag.truth.csv", [(0, 3, "red"), (3, 6, "green")])
    result = run(colours, tmp_path / "out", bag)
    (of_bag,), events = result["bags"], result["result"]["events"]
    assert of_bag["counts"]["resets"] == {"size change": 3}, "the case that is tested"
    assert len(of_bag["passes"]) == 2 and of_bag["seconds_seen"] == pytest.approx(2 * 95 / 16, abs=0.01)
    assert events["segments"] == events["noticed"] == 4 and events["segment_f1"]["0.5"] == 1


@pytest.mark.parametrize("told_by", ["a topic", "a table by the recorder's clock"])
@pytest.mark.parametrize("second_s", [3.0, 1.5])
def test_what_is_true_at_a_time_of_recording_is_true_of_the_pass_that_was_recorded_then(
    tmp_path: Path, colours: LoadedBundle, told_by: str, second_s: float
) -> None:
    """A simulator that is reset: the stamps begin again, the recorder's clock goes on."""
    pieces = [("red", 3.0), ("loop", 0.0), ("blue", second_s)]
    bag = make(tmp_path, pieces=pieces, truth=False, labels=told_by == "a topic")
    table = write_truth(tmp_path / "labels.csv", [(0, 3, "red"), (3, 3 + second_s, "blue")])
    truth = ("topic:/label",) if told_by == "a topic" else (table, "--truth-time", "bag")
    result = run(colours, tmp_path / "out", bag, "--truth", *truth)
    assert result["result"]["windows"]["accuracy"] == 1
    rows = list(results.read_windows(tmp_path / "out" / "windows.jsonl"))
    assert {(row["pass"], row["truth"]) for row in rows} == {(0, "red"), (1, "blue")}
    segments = json.loads((tmp_path / "out" / "bag.json").read_text())["truth"]["segments"]
    assert [(s["pass"], s["label"]) for s in segments] == [(0, "red"), (1, "blue")]
    assert [s["end_s"] for s in segments] == pytest.approx([47 / 16, second_s - 1 / 16])


@pytest.mark.parametrize("clock", ["header", "bag"])
@pytest.mark.parametrize("absolute", [False, True])
def test_csv_times_count_from_the_first_image_or_from_1970_on_either_clock(
    tmp_path: Path, colours: LoadedBundle, clock: str, absolute: bool
) -> None:
    shift = 5 * NS  # recorded five seconds after it was seen
    truth = write_bag(tmp_path / "bag", SIMPLE, log_shift_ns=shift)
    zero = (START + (shift if clock == "bag" else 0)) / NS if absolute else 0.0
    table = write_truth(tmp_path / "labels.csv", truth, zero)
    result = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table, "--truth-time", clock)[
        "result"
    ]
    assert result["windows"]["accuracy"] == 1 and result["windows"]["windows"] > 30


def test_truth_comes_from_a_topic_and_from_names(tmp_path: Path, colours: LoadedBundle) -> None:
    bag = make(tmp_path, pieces=PIECES[:3], truth=False, labels=True)
    result = run(colours, tmp_path / "topic", bag, "--truth", "topic:/label")
    assert result["result"]["windows"]["accuracy"] == 1 and result["result"]["events"]["segments"] == 2
    red = (
        make(tmp_path / "red", "b1", [("red", 2.0)], truth=False)
        if (tmp_path / "red").mkdir() is None
        else None
    )
    result = run(colours, tmp_path / "name", red, "--truth", "name")
    assert result["result"]["windows"]["accuracy"] == 1 and result["bags"][0]["truth"] == "name"


def test_labels_that_do_not_map_are_reported_left_out_and_can_be_mapped(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    bag = make(tmp_path, truth=False)
    write_truth(tmp_path / "bag.truth.csv", [(0, 3, "R-E D"), (3, 6, "lawn")])
    first = run(colours, tmp_path / "out", bag)
    assert "'lawn'" in first["said"] and "--map" in first["said"]
    assert first["result"]["mapping"] == {"R-E D": "red", "lawn": None}
    assert first["result"]["truth_kinds"]["unmapped"] > 10 and first["result"]["windows"]["accuracy"] == 1
    second = run(colours, tmp_path / "out", bag, "--map", "lawn=green")
    assert second["result"]["windows"]["windows"] > first["result"]["windows"]["windows"] + 10
    assert second["result"]["windows"]["accuracy"] == 1
    # Red is left after it has ended, when what is not known has begun, and was found all the same.
    events = first["result"]["events"]
    assert events["segments"] == events["noticed"] == 1 and events["false_activations"] == 0
    assert set(events["segment_f1"].values()) == {1.0} and events["edit_score"] == 1


def test_a_label_that_the_bundle_lacks_is_nothing_to_map_to(tmp_path: Path, colours: LoadedBundle) -> None:
    done = call(
        cli.app,
        "evaluate",
        make(tmp_path),
        "-b",
        colours.path,
        "--out",
        tmp_path / "o",
        "--map",
        "red=purple",
    )
    assert_one_line(done, "--map red=purple: the bundle has no 'purple'", "map to one of: red, ")


def test_without_labels_there_are_predictions_and_statistics(tmp_path: Path, colours: LoadedBundle) -> None:
    bag = make(tmp_path, truth=False)
    result = run(colours, tmp_path / "out", bag)
    assert "no ground truth" in result["said"] and result["result"]["windows"]["accuracy"] is None
    assert set(result["result"]["predicted"]) == {"red", "green"}
    assert (tmp_path / "out/report.html").is_file() and (tmp_path / "out/predictions.mcap").is_file()
    run(colours, tmp_path / "out", bag, "--min-accuracy", 0.1, code=1)


def test_a_slow_robot_drops_windows_and_a_fast_one_none(tmp_path: Path, colours: LoadedBundle) -> None:
    bag = make(tmp_path)
    full = run(colours, tmp_path / "full", bag)
    fast = run(colours, tmp_path / "fast", bag, "--simulate-latency", 0.05)
    slow = run(colours, tmp_path / "slow", bag, "--simulate-latency", 0.5)
    count = full["bags"][0]["counts"]["windows"]
    assert fast["bags"][0]["counts"]["windows"] == count
    assert fast["result"]["published_after_s"]["median"] == pytest.approx(0.05)
    counts = slow["bags"][0]["counts"]
    # One result each 0.5 s instead of 0.125 s; skipped and shown add up to all that were due.
    assert counts["windows"] == pytest.approx(count / 4, abs=2)
    assert counts["windows"] + counts["windows_skipped"] == pytest.approx(count, abs=1)
    assert slow["result"]["published_after_s"]["max"] <= 1.0 + 1e-9
    rows = {r["end_ns"]: r["scores"] for r in results.read_windows(tmp_path / "full/windows.jsonl")}
    assert all(
        rows[r["end_ns"]] == r["scores"] for r in results.read_windows(tmp_path / "slow/windows.jsonl")
    )


def test_a_slow_robot_in_step_mode_sees_every_frame_and_is_later_with_each_result(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    bag = make(tmp_path)
    full = run(colours, tmp_path / "full", bag, "--mode", "step")
    slow = run(colours, tmp_path / "slow", bag, "--mode", "step", "--simulate-latency", 0.15)
    ends = [r["end_ns"] for r in results.read_windows(tmp_path / "full/windows.jsonl")]
    rows = list(results.read_windows(tmp_path / "slow/windows.jsonl"))
    # A frame comes each 0.125 s, so that more and more wait, and none is left out.
    assert [row["end_ns"] for row in rows] == ends and len(ends) >= 5
    assert [row["scores"] for row in rows] == [
        row["scores"] for row in results.read_windows(tmp_path / "full/windows.jsonl")
    ]
    for i, row in enumerate(rows, 1):
        newest = 8 * i  # its frame comes at (newest - 1) * 0.125, and its call ends at newest * 0.15
        late = newest * 0.15 - (newest - 1) * 0.125
        assert late - 1e-6 <= row["published_after_s"] <= late + 7 * 0.15 + 1e-6, "a turn has eight calls"
    assert slow["bags"][0]["counts"]["resets"] == full["bags"][0]["counts"]["resets"]


def test_what_a_slow_robot_says_before_a_gap_stands_before_the_gap(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    """Its last results come while nothing is seen: an activity that they begin ends with the gap, not before it."""
    bag = make(tmp_path, pieces=[*[("red", 2.0), ("gap", 3.0)] * 3, ("red", 2.0)])
    result = run(colours, tmp_path / "out", bag, "--simulate-latency", 0.3)
    assert result["result"]["smoothed"]["accuracy"] == 1
    rows = list(results.read_windows(tmp_path / "out" / "windows.jsonl"))
    assert len(rows) > 8 and {row["active"] for row in rows} == {"red"}
    events = json.loads((tmp_path / "out" / "bag.json").read_text())["events"]
    assert [event["kind"] for event in events] == ["onset", "offset"] * 4
    assert result["result"]["events"]["noticed"] == result["result"]["events"]["segments"] == 4


def test_zero_stamps_and_log_time_are_counted_and_used(tmp_path: Path, colours: LoadedBundle) -> None:
    bag = make(tmp_path, zero_stamps=True)
    result = run(colours, tmp_path / "out", bag)
    assert result["bags"][0]["counts"]["zero_stamps"] == 96 and "without a stamp" in result["said"]
    assert result["result"]["windows"]["accuracy"] == 1
    shifted = make(tmp_path, "late", log_shift_ns=NS)
    run(colours, tmp_path / "log", shifted, "--stamps", "log")
    assert next(results.read_windows(tmp_path / "log/windows.jsonl"))["start_ns"] == START + NS


def test_simulated_time_that_begins_at_zero_is_scored(tmp_path: Path, colours: LoadedBundle) -> None:
    result = run(colours, tmp_path / "out", make(tmp_path, first_ns=0))
    (found,) = result["bags"]
    assert (
        found["counts"]["zero_stamps"] == 0
        and found["counts"]["resets"] == {}
        and "stamp" not in result["said"]
    )
    assert found["passes"] == [{"start_s": 0, "end_s": 95 / 16}] and found["truth_remark"] == ""
    assert result["result"]["windows"]["accuracy"] == 1


_LOG = START / NS


@pytest.mark.parametrize(
    ("stamps_s", "used_s"),
    [
        ([0, 0.125, 0.25], [0, 0.125, 0.25]),
        ([0, 0, 0, 0.125], [0, 0, 0, 0.125]),  # the simulation stood before it ran
        ([0.125, 0.25, 0, 0.125], [0.125, 0.25, 0, 0.125]),  # it began again
        ([_LOG + 9, 0, _LOG + 11], [_LOG + 9, _LOG + 1, _LOG + 11]),
        ([0, _LOG - 9], [_LOG, _LOG - 9]),
        ([0.125, 0], [0.125, _LOG + 1]),  # nothing follows that would tell
        ([0] * 20, [_LOG + i for i in range(20)]),
    ],
)
def test_what_a_stamp_of_zero_means_is_said_by_the_next_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamps_s: list[float], used_s: list[float]
) -> None:
    """One image a second by the recorder's clock."""
    write_bag(tmp_path / "bag", [("red", len(stamps_s))], hz=1)
    messages = Recording.messages

    def other(self: Recording, topics: list[str]) -> Any:
        for item, s in zip(messages(self, topics), stamps_s, strict=True):
            header = item.message.header
            stamp = replace(header.stamp, sec=int(s), nanosec=round(s % 1 * NS))
            yield replace(item, message=replace(item.message, header=replace(header, stamp=stamp)))

    monkeypatch.setattr(Recording, "messages", other)
    (source,) = find_sources([tmp_path / "bag"])
    reader = FrameReader(source, None, "header")
    assert [frame.stamp_ns / NS for frame in reader] == used_s
    assert reader.zero_stamps == sum(a != b for a, b in zip(stamps_s, used_s, strict=True))


@pytest.mark.clips
@pytest.mark.slow
def test_real_clips_in_a_row_with_idle_time_between(
    clips: Path, tmp_path: Path, colours: LoadedBundle
) -> None:
    found = find_clips([clips / "gestures" / "clips.csv"], ["p3"])[::6]
    gaps, idle = {}, {}
    for still in (False, True):
        bag, out = tmp_path / f"p3{still}", tmp_path / f"out{still}"
        summary = make_bag(found, bag, compressed="jpeg", gap_s=4.0, width=160, still=still)
        with open(summary.truth, newline="") as file:
            names = {row["label"] for row in csv.DictReader(file)}
        assert len(names) > 5
        # The toy knows colours only: three of the gestures are called one each.
        pairs = [
            f"{name}={label}" for name, label in zip(sorted(names), colours.info.labels * 9, strict=False)
        ]
        result = run(colours, out, bag, *[x for pair in pairs for x in ("--map", pair)])
        own = check(out, colours.info.labels)
        assert np.sum(own["confusion"]) > 2 * len(found)
        # Some of these clips have gaps of their own.
        gaps[still] = result["bags"][0]["counts"]["resets"]["gap"]
        idle[still] = result["result"]["truth_kinds"].get("idle", 0)
    # Without images in between the window starts anew with each clip; with them idle time has results of its own.
    assert gaps[False] - gaps[True] == len(found) - 1
    assert idle[False] == 0 and idle[True] > len(found)


def test_a_record_names_the_smoothing_as_records_of_older_versions_do() -> None:
    kept = {"tau_s": 0.5, "on": 0.6, "off": 0.4, "min_duration_s": 0.0}
    assert Options().as_json()["smoothing"] == kept
