# SPDX-License-Identifier: Apache-2.0
"""What people really hand to `gc-ros evaluate`: truths in other units, odd labels, full disks, killed runs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import StoragePlugin

from gc_ros import cli
from gc_ros.media import recording
from tests.command_line import assert_one_line, call
from tests.conftest import REPOSITORY
from tests.gc_ros.evaluation.bag_files import NS, START, write_bag, write_truth
from tests.gc_ros.evaluation.runs import SIMPLE, case, run, spawn, write_clip
from tests.marks import first_fast
from tests.toy import toy_bundle
from trt_build.bundle import LoadedBundle, load_bundle

pytest.importorskip("sklearn")
LABELS = ("idle", "background", "none")


def assert_not_scored(found: dict[str, Any], *words: str) -> None:
    """No figure that the truth had a part in, and a warning with all `words`."""
    assert found["result"]["events"] is None and found["result"]["windows"]["accuracy"] is None
    assert found["result"]["smoothed"]["accuracy"] is None and "false activations" not in found["text"]
    assert found["bags"][0]["counts"]["windows"] > 0 and found["bags"][0]["truth"] == "none"
    lines = [line for line in found["said"].splitlines() if all(word in line for word in words)]
    assert len(lines) == 1 and lines[0].startswith("warning: ") and "not scored" in lines[0], found["said"]


# -- ground truth that does not belong to the recording ------------------------------------------------------------


@pytest.mark.parametrize("table", ["frames.csv", "epoch_ms.csv"])
def test_recorded_truth_in_frames_or_milliseconds(tmp_path: Path, colours: LoadedBundle, table: str) -> None:
    folder = case("19-truth-outside-recording")
    found = run(colours, tmp_path, folder / "rec.mcap", "--truth", folder / table)
    assert_not_scored(found, f"1 of 1 rows of {table} lie outside of the recording", "times are seconds")


@pytest.mark.parametrize(
    ("scale", "zero", "unit"),
    [
        (16.0, 0.0, "frame numbers"),  # the bag has 16 images a second
        (1e3, 0.0, "milliseconds"),
        (1e3, START / NS, "milliseconds since 1970"),
        (1e6, START / NS, "microseconds since 1970"),
        (1e9, START / NS, "nanoseconds since 1970"),
    ],
)
def test_truth_in_another_unit_is_named_and_not_scored(
    tmp_path: Path, colours: LoadedBundle, scale: float, zero: float, unit: str
) -> None:
    write_bag(tmp_path / "bag", SIMPLE)
    rows = [(0.0, 2.5), (3.0, 5.5)]
    table = tmp_path / "t.csv"
    lines = [
        f"{round((a + zero) * scale)},{round((b + zero) * scale)},{c}"
        for (a, b), c in zip(rows, ("red", "green"), strict=True)
    ]
    table.write_text("\n".join(["start_s,end_s,label", *lines]))
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert_not_scored(found, "rows of t.csv", "times are seconds", f"look like {unit}")
    run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table, "--strict", code=1)


@pytest.mark.parametrize("zero", [3600.0, -3600.0, START / NS + 86400])
def test_truth_of_another_clock_is_not_scored(tmp_path: Path, colours: LoadedBundle, zero: float) -> None:
    truth = write_bag(tmp_path / "bag", SIMPLE)
    table = write_truth(tmp_path / "t.csv", truth, zero)
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert_not_scored(found, "2 of 2 rows of t.csv lie outside of the recording")


@pytest.mark.parametrize("absolute", [False, True])
def test_rows_beyond_a_recording_that_ended_early_are_counted_and_the_others_scored(
    tmp_path: Path, colours: LoadedBundle, absolute: bool
) -> None:
    truth = write_bag(tmp_path / "bag", SIMPLE)
    later = [(20.5 + 5 * n, 23.5 + 5 * n, "blue") for n in range(7)]
    table = write_truth(tmp_path / "t.csv", [*truth, *later], START / NS if absolute else 0.0)
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert "7 of 9 rows of t.csv lie outside of the recording" in found["said"]
    assert "not scored" not in found["said"] and found["result"]["windows"]["accuracy"] == 1


def test_a_row_that_ends_long_after_the_recording_is_said(tmp_path: Path, colours: LoadedBundle) -> None:
    write_bag(tmp_path / "bag", [("red", 3.0)])
    table = write_truth(tmp_path / "t.csv", [(0.0, 9999.5, "red")])
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert "1 of 1 rows of t.csv end after the recording (0 to 2.9 s)" in found["said"]
    assert found["result"]["windows"]["accuracy"] == 1


def test_a_table_for_other_bags_is_not_scored_and_one_for_many_gives_each_its_rows(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    write_bag(tmp_path / "bag", [("red", 3.0)])
    table = tmp_path / "t.csv"
    table.write_text("bag,start_s,end_s,label\nmonday,0,3,green\n")
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert_not_scored(found, "t.csv has no row for this bag, only for monday")
    table.write_text("bag,start_s,end_s,label\nmonday,0,3,green\nbag,0,3,red\n")
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert found["result"]["windows"]["accuracy"] == 1 and not found["said"]
    # Without rows at all, nothing of interest is done: everything is idle time.
    table.write_text("start_s,end_s,label\n")
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert found["result"]["truth_kinds"] == {"idle": found["bags"][0]["counts"]["windows"]}


def test_labels_on_a_topic_follow_the_clock_of_the_images(tmp_path: Path, colours: LoadedBundle) -> None:
    # Stamps of a camera's own clock, a year from the recorder's.
    truth = write_bag(tmp_path / "bag", [*SIMPLE, ("grey", 2.0)], labels=True, log_shift_ns=31_536_000 * NS)
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--truth", "topic:/label")
    assert found["result"]["windows"]["accuracy"] == 1 and found["result"]["events"]["segments"] == len(truth)
    write_bag(tmp_path / "silent", SIMPLE, other_topic=True)
    found = run(colours, tmp_path / "out", tmp_path / "silent", "--truth", "topic:/label")
    assert_not_scored(found, "no label on /label lies within the recording")


# -- classes that are called like idle time ------------------------------------------------------------------------


def named(tmp_path: Path, *labels: str, idle: Sequence[str] = ()) -> LoadedBundle:
    """The `colours` toy with other names for red, green, blue."""
    preprocess = {"size": 224, "resize": 256}
    return toy_bundle(
        tmp_path / f"bundle-{labels[1].encode().hex()}",
        "colours",
        S=224,
        preprocess=preprocess,
        labels=list(labels),
        idle=list(idle),
    )


@pytest.mark.slow
def test_recorded_clips_of_classes_called_idle_and_background(tmp_path: Path) -> None:
    clips = case("18-class-named-idle") / "clips"
    figures = []
    for labels in (("idle", "background", "wave"), ("rest", "room", "wave")):
        bundle = named(tmp_path, *labels)
        maps = [
            x for a, b in zip(("idle", "background"), labels, strict=False) for x in ("--map", f"{a}={b}")
        ]
        found = run(bundle, tmp_path / f"out-{labels[0]}", clips, *maps, "--min-overlap", 0.1)
        figures.append([found["result"]["windows"], [bag["scored_windows"] for bag in found["bags"]]])
        figures[-1][0]["per_class"] = [found["result"]["windows"]["per_class"][label] for label in labels]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELS)
def test_a_class_with_a_name_of_idle_time_counts_like_any_other(tmp_path: Path, name: str) -> None:
    truth = write_bag(tmp_path / "bag", [*SIMPLE, ("blue", 2.0), ("grey", 3.0)])
    results_of = {}
    for label in (name, "resting"):
        words = {"red": "red", "green": label, "blue": "blue"}
        table = write_truth(tmp_path / f"{label}.csv", [(a, b, words[c]) for a, b, c in truth])
        found = run(named(tmp_path, *words.values()), tmp_path / label, tmp_path / "bag", "--truth", table)
        # Of the last window of each activity, up to half is the next one's.
        assert found["result"]["windows"]["per_class"][label]["recall"] > 0.9
        assert found["result"]["windows"]["accuracy"] > 0.9 and found["result"]["events"]["segments"] == 3
        results_of[label] = (
            found["result"]["windows"]["confusion"],
            found["result"]["truth_kinds"],
            found["result"]["smoothed"],
            found["result"]["events"],
        )
    assert results_of[name] == results_of["resting"]


@pytest.mark.parametrize(("has", "said"), itertools.permutations(LABELS, 2))
def test_another_name_of_idle_time_is_idle_time_whatever_the_bundle_has(
    tmp_path: Path, has: str, said: str
) -> None:
    write_bag(tmp_path / "bag", [("red", 3.0)])
    table = write_truth(tmp_path / "t.csv", [(0.0, 2.9, said)])
    found = run(named(tmp_path, "red", has, "blue"), tmp_path / "out", tmp_path / "bag", "--truth", table)
    assert set(found["result"]["truth_kinds"]) == {"idle"}
    assert found["result"]["mapping"] == {said: "idle"} and found["result"]["events"]["segments"] == 0


def test_a_class_that_the_bundle_calls_idle_is_idle_time_and_no_activity(tmp_path: Path) -> None:
    truth = write_bag(tmp_path / "bag", [("green", 3.0), ("red", 3.0)])
    table = write_truth(
        tmp_path / "t.csv", [(a, b, {"red": "jump", "green": "idle"}[c]) for a, b, c in truth]
    )
    found = {}
    for idle in ([], ["idle"]):
        bundle = named(tmp_path / str(len(idle)), "jump", "idle", "wave", idle=idle)
        found[len(idle)] = run(bundle, tmp_path / f"out{len(idle)}", tmp_path / "bag", "--truth", table)[
            "result"
        ]
    assert set(found[0]["truth_kinds"]) <= {"label", "mixed"} and found[0]["events"]["segments"] == 2
    assert found[0]["idle"] == {"windows": 0, "labelled": 0}
    kinds, status = found[1]["truth_kinds"], found[1]["status"]
    assert kinds["idle"] > 10 and kinds["label"] > 10 and found[1]["events"]["segments"] == 1
    # Of the windows that reach into what follows, some are named by it already.
    assert status["unknown"] >= 0.75 * kinds["idle"] and found[1]["smoothed"]["accuracy"] > 0.8
    assert found[1]["idle"]["windows"] == kinds["idle"] and found[1]["idle"]["labelled"] <= kinds["idle"] / 4


# -- stamps --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recorded_frozen_stamps_are_said_with_the_remedy(tmp_path: Path) -> None:
    bag, people = case("25-frozen-stamps") / "bag", load_bundle(REPOSITORY / "bundles" / "people")
    found = run(people, tmp_path, bag)
    (line,) = [line for line in found["said"].splitlines() if "--stamps log" in line]
    assert "51 of 52 images dropped because their stamp came already" in line
    found = run(people, tmp_path, bag, "--stamps", "log")
    assert found["bags"][0]["counts"]["windows"] == 6 and "stamp" not in found["said"]


@pytest.mark.parametrize("period_s", [1.0, 1e9], ids=["whole seconds", "frozen"])
def test_stamps_that_come_again_are_counted_aloud(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch, period_s: float
) -> None:
    write_bag(tmp_path / "bag", [("red", 4.0)])
    messages = recording.Recording.messages

    def coarse(self: recording.Recording, topics: list[str]) -> Any:
        for item in messages(self, topics):
            stamp = item.message.header.stamp
            seconds = int(stamp.sec // period_s * period_s)
            yield replace(item, message=replace(item.message, header=header_at(item, seconds)))

    def header_at(item: recording.Message, seconds: int) -> Any:
        header = item.message.header
        return replace(header, stamp=replace(header.stamp, sec=seconds, nanosec=0))

    monkeypatch.setattr(recording.Recording, "messages", coarse)
    found = run(colours, tmp_path / "out", tmp_path / "bag")
    kept = 1 if period_s > 10 else 4
    assert f"{64 - kept} of 64 images dropped because their stamp came already" in found["said"]
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--stamps", "log")
    assert found["bags"][0]["counts"]["windows"] > 20 and "stamp" not in found["said"]


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_clock_that_was_set_back_while_recording_is_said(
    tmp_path: Path, colours: LoadedBundle, plugin: StoragePlugin
) -> None:
    pieces = [("red", 4.0), ("set back", 2.5), ("green", 4.0)]
    write_bag(tmp_path / "bag", pieces, plugin=plugin, compression=None, labels=True)
    found = run(colours, tmp_path / "out", tmp_path / "bag")
    (line,) = found["bags"][0]["damage"]
    assert "times of recording go back by 2.4 s: the clock was set" in line and line in found["said"]
    write_bag(tmp_path / "slowed", [("red", 4.0), ("set back", 0.5), ("red", 4.0)], plugin=plugin)
    assert run(colours, tmp_path / "out", tmp_path / "slowed")["bags"][0]["damage"] == []


# -- options and times that nothing can calculate with ---------------------------------------------------------------


@pytest.mark.parametrize("value", ["inf", "1e300"])
@pytest.mark.parametrize(
    "option", ["--max-frame-gap-s", "--simulate-latency", "--smoothing-tau-s", "--min-duration-s"]
)
def test_a_number_that_nothing_can_calculate_with_is_one_line_with_the_most(
    tmp_path: Path, colours: LoadedBundle, option: str, value: str
) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", frames=4)
    common = (tmp_path / "a.mp4", tmp_path / "b.mp4", "-b", colours.path, "--out", tmp_path / "out")
    found = call(cli.app, "evaluate", *common, option, value)
    assert_one_line(found, option, "the most is", "1e+09")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("people", [False, True])
def test_the_largest_frame_gap_is_never_a_break(tmp_path: Path, colours: LoadedBundle, people: bool) -> None:
    write_bag(tmp_path / "bag", [("red", 2.0), ("gap", 60.0), ("red", 2.0)])
    boxes = tmp_path / "bag.people.csv"
    boxes.write_text("time_s,id,x_min,y_min,x_max,y_max\n0,1,1,1,40,40\n")
    extra = ("--people", "auto") if people else ()
    found = run(colours, tmp_path / "out", tmp_path / "bag", "--max-frame-gap-s", "1e9", *extra)
    assert "gap" not in found["bags"][0]["counts"]["resets"] and not found["failed"]


@pytest.mark.parametrize("time", ["1e300", "1e21", "inf", "nan", "-1e300"])
def test_a_time_that_is_none_is_refused_with_its_row(
    tmp_path: Path, colours: LoadedBundle, time: str
) -> None:
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "t.csv").write_text(f"start_s,end_s,label\n0,1,red\n0,{time},red\n")
    common = (tmp_path / "a.mp4", "-b", colours.path, "--out", tmp_path / "out", "--jobs", 1)
    found = call(cli.app, "evaluate", *common, "--truth", tmp_path / "t.csv")
    assert_one_line(found, "t.csv: row 2", "numbers of seconds")


# -- rows that overlap ---------------------------------------------------------------------------------------------


def overlap_said(bundle: LoadedBundle, folder: Path, table: str, *arguments: object) -> str:
    write_bag(folder / "bag", SIMPLE)
    (folder / "bag.truth.csv").write_text(table)
    found = run(bundle, folder / "out", folder / "bag", *arguments)
    assert found["result"]["windows"]["accuracy"] is not None and found["bags"][0]["truth"] == "csv"
    return str(found["bags"][0]["truth_remark"])


def test_rows_that_overlap_are_remarked_on_and_scored(tmp_path: Path, colours: LoadedBundle) -> None:
    said = overlap_said(colours, tmp_path, "start_s,end_s,label\n0,2,red\n1.5,4,green\n0,5,blue\n5,5.5,red\n")
    assert said.startswith(
        "2 of 4 rows of bag.truth.csv overlap one before, first red 0 to 2 s and blue 0 to 5 s"
    )
    assert said.endswith("let one row end where the next begins")


@pytest.mark.slow
def test_rows_of_people_may_overlap_where_they_are_told_apart(tmp_path: Path, colours: LoadedBundle) -> None:
    boxes = tmp_path / "boxes.csv"
    rows = [f"{t / 10},{who},1,1,40,40" for t in range(60) for who in "ab"]
    boxes.write_text("\n".join(["time_s,id,x_min,y_min,x_max,y_max", *rows]))
    table = "id,start_s,end_s,label\na,0,3,red\nb,0,3,green\na,3,6,red\n"
    assert overlap_said(colours, tmp_path / "apart", table, "--people", boxes) == ""
    said = overlap_said(colours, tmp_path / "both", f"{table},2,4,blue\n", "--people", boxes)
    assert said.startswith("2 of 4 rows") and "first red 0 to 3 s and blue 2 to 4 s" in said
    said = overlap_said(colours, tmp_path / "whole", table)
    assert said.startswith("1 of 3 rows") and said.endswith("--people tells people apart")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", ""),
        ("{end},9,green\n", "1 of 5 rows of bag.truth.csv lie outside of the recording"),
        ("-2,0,green\n", "1 of 5 rows of bag.truth.csv lie outside of the recording"),
        ("1,1,green\n", "1 of 5 rows of bag.truth.csv end when they begin, and count for nothing"),
        ("0,2,red\n", "1 of 5 rows of bag.truth.csv overlap one before"),
        ("1,2,red\n", "1 of 5 rows of bag.truth.csv overlap one before"),
    ],
    ids=["as it is", "from the last image", "to the first", "without time", "twice", "a part twice"],
)
def test_rows_that_add_no_time_add_no_activity(
    tmp_path: Path, colours: LoadedBundle, rows: str, said: str
) -> None:
    write_bag(tmp_path / "bag", SIMPLE)
    run(colours, tmp_path / "plain", tmp_path / "bag")
    (record,) = (tmp_path / "plain").rglob("bag.json")
    end = json.loads(record.read_text())["passes"][0]["end_s"]
    table = f"start_s,end_s,label\n0,2,red\n2,4,green\n4,{end / 2 + 2},blue\n{end / 2 + 2},{end},red\n"
    (tmp_path / "bag.truth.csv").write_text(table + rows.format(end=end))
    found = run(colours, tmp_path / "out", tmp_path / "bag")
    assert found["bags"][0]["truth_remark"].startswith(said)
    assert bool(said) == bool(found["bags"][0]["truth_remark"])
    assert found["result"]["events"]["segments"] == 4


# -- terminals -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_terminal_without_the_letters_of_a_label(tmp_path: Path) -> None:
    bundle = named(tmp_path, "öffnen", "开门", "blue")
    clip = tmp_path / "clip.mp4"
    write_clip(clip, frames=40)
    write_bag(tmp_path / "bag", [("red", 2.0)])
    table = write_truth(tmp_path / "t.csv", [(0.0, 2.0, "öffnen"), (2.0, 2.1, "ü")])
    common = ("-b", bundle.path, "--threads", 1)
    evaluate = ("evaluate", tmp_path / "bag", "--truth", table, "--out", tmp_path / "out", *common)
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    for environment in (ascii_only, plain, {"PYTHONIOENCODING": "latin-1:strict"}):
        children = [
            spawn("video", clip, *common, **environment),
            spawn("video", clip, "--json", *common, **environment),
        ]
        (text, _), (lines, _) = (child.communicate(timeout=120) for child in children)
        assert [child.returncode for child in children] == [0, 0]
        assert text.splitlines()[-1].startswith("stream: ") and len(text.splitlines()) > 5
        values = [json.loads(line) for line in lines.splitlines()]
        assert values[-1]["label"] == "öffnen" and set(values[-1]["scores"]) == set(bundle.info.labels)
    child = spawn(*evaluate, "--json", "--again", **ascii_only)
    answer, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert json.loads(answer)["result"]["windows"]["per_class"]["öffnen"]["recall"] == 1


# -- places that cannot be written ---------------------------------------------------------------------------------

MOUNTS = ("mount --bind ro ro && mount -o remount,ro,bind ro", "mount -t tmpfs -o size=16k none ro")


@pytest.mark.slow
@pytest.mark.parametrize("mount", MOUNTS, ids=["read-only", "full"])
@pytest.mark.parametrize(
    "command", first_fast("evaluate", "make-bag", "evaluate-two", "video", "synth", "prepare", "train")
)
def test_disks_that_are_read_only_or_full(
    tmp_path: Path, colours: LoadedBundle, mount: str, command: str
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk (unshare -rm)")
    clip, place = tmp_path / "red.mp4", tmp_path / "ro"
    write_clip(clip, frames=60)
    shutil.copy(clip, tmp_path / "green.mp4")
    place.mkdir()
    bundle = ["-b", str(colours.path), "--threads", "1"]
    arguments = {
        "evaluate": ["evaluate", "red.mp4", "--out", "ro/results", *bundle],
        "evaluate-two": ["evaluate", "red.mp4", "green.mp4", "--jobs", "2", "--out", "ro/results", *bundle],
        "make-bag": ["make-bag", "red.mp4", "--out", "ro/bag"],
        "video": ["video", "red.mp4", "--out", "ro/out.mp4", *bundle],
        "synth": [
            "synth",
            "ro/clips",
            "--clips-per-class",
            "2",
            "--subjects",
            "2",
            "--classes",
            "wave,drink",
        ],
        "prepare": ["prepare", "clips", "ro/small"],
        "train": ["train", "--data", "clips", "--out", "ro/run", "--preset", "tiny", "--quiet"],
    }[command]
    program = "gc_ros.cli"
    if command in ("synth", "prepare", "train"):
        program = "gc_model.cli"
        if command == "train" and not (find_spec("torch") and find_spec("lightning")):
            pytest.skip("torch is not installed: pip install -e '.[train]'")
        for label in ("red", "green"):
            (tmp_path / "clips" / label).mkdir(parents=True)
            for n in range(3):
                shutil.copy(clip, tmp_path / "clips" / label / f"{n}.mp4")
    if command == "video" and "tmpfs" in mount:
        mount = mount.replace("16k", "4k")
    start = f"from {program} import main; main()"
    script = f'{mount} && exec "$0" -c "{start}" "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and "ro" in errors[0], done.stderr


@pytest.mark.parametrize("out", ["afile", "afile/below"])
def test_a_file_in_the_place_of_results(tmp_path: Path, colours: LoadedBundle, out: str) -> None:
    clip = tmp_path / "red.mp4"
    write_clip(clip, frames=40)
    (tmp_path / "afile").write_text("mine")
    place = tmp_path / out
    assert_one_line(call(cli.app, "evaluate", clip, "-b", colours.path, "--out", place), "afile")
    assert_one_line(call(cli.app, "make-bag", clip, "--out", place), "afile")
    assert_one_line(call(cli.app, "video", clip, "-b", colours.path, "--out", f"{place}/x.mp4"), "afile")
    assert (tmp_path / "afile").read_text() == "mine"
