# SPDX-License-Identifier: Apache-2.0
"""`gc-ros evaluate --people`: the truth a person, figures of each, and mAP by frames as AVA has it."""

from __future__ import annotations

import base64
import json
import shutil
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from gc_ros import cli
from gc_ros.evaluation import report
from gc_ros.evaluation.options import Options, result_key
from gc_ros.evaluation.people_scoring import average_precision
from gc_ros.evaluation.people_sources import by_stamps
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.detections import Box, Detection, Detections, write_csv
from gc_ros.media.recording import Recording
from gc_ros.stamps import NS
from tests.command_line import assert_one_line, call
from tests.gc_ros.evaluation.bag_files import START, join_bags, write_bag
from tests.gc_ros.evaluation.runs import need_evaluation, run
from tests.videos import write_clip
from trt_build.bundle import LoadedBundle

ANN, BOB, CID = Box(20, 60, 80, 200), Box(220, 60, 280, 200), Box(420, 60, 480, 200)
COLOURS = ((220, 20, 20), (40, 20, 230), (5, 210, 30))  # red, blue, green
SECONDS = 4


def boxes(names: dict[str, Box], begin: float = 0, end: float = SECONDS) -> list[Detections]:
    """Boxes at 10 Hz; who is named is there from `begin` to `end`."""
    found = []
    for i in range(10 * SECONDS):
        people = [Detection(name, box) for name, box in names.items() if begin <= i / 10 < end]
        found.append(Detections(i * NS // 10, tuple(people)))
    return found


def truth(file: Path, *rows: tuple[str, float, float, str]) -> None:
    lines = ["id,start_s,end_s,label", *(",".join(map(str, row)) for row in rows)]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ann red, Bob blue, Cid green, each in a part of the picture; boxes and truth beside it."""
    image = np.empty((240, 560, 3), np.uint8)
    for k, colour in enumerate(COLOURS):
        image[:, 170 * k :] = colour
    clip = write_clip(tmp_path / "scene.mp4", [image] * (15 * SECONDS), fps=15)
    write_csv(tmp_path / "scene.people.csv", boxes({"ann": ANN, "bob": BOB, "cid": CID}))
    names = (("ann", "red"), ("bob", "blue"), ("cid", "green"))
    truth(tmp_path / "scene.truth.csv", *((name, 0, SECONDS, label) for name, label in names))
    return clip


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "windows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["window", "step"])
def test_each_person_is_scored_by_the_truth_of_that_person(
    clip: Path, colours: LoadedBundle, tmp_path: Path, mode: str
) -> None:
    truth(
        tmp_path / "scene.truth.csv",
        ("ann", 0, SECONDS, "red"),
        ("bob", 0, SECONDS, "blue"),
        ("cid", 0, SECONDS, "red"),  # which is wrong
    )
    found = run(colours, tmp_path / "out", clip, "--people", "auto", "--mode", mode)
    people = found["result"]["people"]
    of = {row["person"]: row["accuracy"] for row in people["persons"]}
    assert of == {"ann": 1.0, "bob": 1.0, "cid": 0.0}
    assert found["result"]["windows"]["accuracy"] == pytest.approx(2 / 3)
    assert people["frame_map"]["per_class"]["blue"]["average_precision"] == pytest.approx(1)
    # Half of who is red is found before everything else, the others are among the last.
    assert 0.5 < people["frame_map"]["per_class"]["red"]["average_precision"] < 0.9
    assert "3 people, frame mAP at overlap 0.5" in found["text"]
    events = found["result"]["events"]
    assert events["segments"] == 3 and events["noticed"] == 2
    assert all(row["truth_person"] == row["person"] for row in rows_of(tmp_path / "out"))


def test_the_margin_of_the_robot_can_be_given_and_is_part_of_the_result(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    scores = []
    for margin in ([], ["--person-margin", "1"]):
        run(colours, tmp_path / "out", clip, "--people", "auto", *margin)
        scores.append([row["score"] for row in rows_of(tmp_path / "out") if row["person"] == "ann"])
    assert max(scores[1]) < min(scores[0])


def test_the_times_of_the_robot_can_be_given_and_are_part_of_the_result(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    every = boxes({"ann": ANN})
    write_csv(tmp_path / "scene.people.csv", [every[0], every[-1]])  # by default known for half a window
    run(colours, tmp_path / "out", clip, "--people", "auto")
    assert not [row for row in rows_of(tmp_path / "out") if not row.get("missed")]
    patient = ("--people", "auto", "--people-max-age-s", 2.0, "--person-timeout-s", 4.0)
    run(colours, tmp_path / "out", clip, *patient)
    assert {row["person"] for row in rows_of(tmp_path / "out")} == {"ann"}
    options = json.loads((tmp_path / "out" / "summary.json").read_text())["provenance"]["options"]
    assert (options["people_max_age_s"], options["person_timeout_s"]) == (2.0, 4.0)
    wrong = call_evaluate("evaluate", clip, "-b", colours.path, "--people", "auto", "--people-max-age-s", 2)
    assert_one_line(wrong, "--person-timeout-s 1")


def test_the_report_has_a_timeline_for_each_person(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    run(colours, tmp_path / "out", clip, "--people", "auto")
    page = (tmp_path / "out" / "report.html").read_text()
    for name in ("ann", "bob", "cid"):
        assert f"scene.mp4: {name}" in page
    assert "mean average precision by frames" in page


def test_the_report_counts_the_bags_that_it_shows_and_not_their_people(
    clip: Path, colours: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "TIMELINES", 1)
    other = shutil.copy(clip, tmp_path / "other.mp4")
    shutil.copy(tmp_path / "scene.people.csv", tmp_path / "other.people.csv")
    run(colours, tmp_path / "out", clip, other, "--people", "auto")
    assert "Of lowest accuracy, and shown: 1 bag; not shown: 1." in (tmp_path / "out/report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
def test_the_worst_windows_show_what_the_network_saw_of_that_person(
    clip: Path, colours: LoadedBundle, tmp_path: Path, mode: str
) -> None:
    truth(
        tmp_path / "scene.truth.csv",
        ("ann", 0, SECONDS, "blue"),  # which is wrong
        ("bob", 0, SECONDS, "blue"),
        ("cid", 0, SECONDS, "red"),  # which is wrong
    )
    run(colours, tmp_path / "out", clip, "--people", "auto", "--mode", mode)
    rows = {row["n"]: row for row in rows_of(tmp_path / "out")}
    worst = json.loads((tmp_path / "out" / "worst.json").read_text())
    # Of windows that overlap one is kept, but of each person: the two are wrong all the time.
    wrong = [rows[strip["n"]] for strip in worst]
    wrong = [row for row in wrong if row["label"] != row["truth"]]
    for who in ("ann", "cid"):
        own = sorted((row["start_s"], row["end_s"]) for row in wrong if row["person"] == who)
        assert len(own) >= 2 and all(a[1] < b[0] for a, b in pairwise(own))
    for strip in worst:
        colour = COLOURS[("ann", "bob", "cid").index(rows[strip["n"]]["person"])]
        assert len(strip["pictures"]) == colours.info.T
        for data in strip["pictures"]:
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
            side = picture.shape[0]
            # Ann's square reaches beyond the image and into Bob's colour: the middle is hers.
            middle = np.median(picture[side // 3 : -side // 3, side // 3 : -side // 3], axis=(0, 1))
            assert np.abs(middle - colour).max() < 40
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<strong>scene.mp4: ann</strong>" in page and "<strong>scene.mp4: cid</strong>" in page


def test_a_ghost_is_among_the_worst_windows(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    write_csv(tmp_path / "found.csv", boxes({"7": ANN, "ghost": Box(400, 10, 440, 50)}))
    true = ("--true-boxes", tmp_path / "scene.people.csv")
    run(colours, tmp_path / "out", clip, "--people", tmp_path / "found.csv", *true)
    rows = {row["n"]: row for row in rows_of(tmp_path / "out")}
    worst = json.loads((tmp_path / "out" / "worst.json").read_text())
    assert rows[worst[0]["n"]]["person"] == "ghost"


@pytest.mark.parametrize("images", ["beside", "merged"])
def test_predictions_say_what_the_node_says_of_people(
    clip: Path, colours: LoadedBundle, tmp_path: Path, images: str
) -> None:
    names = boxes({"ann": ANN, "bob": BOB})
    # Bob leaves.
    names[20:] = boxes({"ann": ANN})[20:]
    bag = tmp_path / "bag"
    (tmp_path / "boxes" / "red").mkdir(parents=True)
    (tmp_path / "clips" / "red").mkdir(parents=True)
    clip.rename(tmp_path / "clips" / "red" / "scene.mp4")
    write_csv(tmp_path / "boxes" / "red" / "scene.boxes.csv", names)
    make_bag(find_clips([tmp_path / "clips"], []), bag, boxes=tmp_path / "boxes", compressed="png")
    out = tmp_path / "out"
    found = run(colours, out, bag, "--people", "auto", "--max-people", 2, "--predictions", images)
    rows = rows_of(out)
    said: dict[str, list[Any]] = {}
    with Recording(out / "predictions.mcap") as recording:
        topics = dict(recording.topics)
        for item in recording.messages(list(topics)):
            said.setdefault(item.topic.removeprefix("/activity_recognition/"), []).append(item.message)
    assert topics["/activity_recognition/people"] == "glimpse_clouds/msg/PersonActivities"
    assert "/activity_recognition/activity" not in topics
    stamps = [message.header.stamp.sec * NS + message.header.stamp.nanosec for message in said["people"]]
    assert stamps == sorted({row["end_ns"] for row in rows})
    told = [{person.person_id: person for person in message.people} for message in said["people"]]
    assert set(told[0]) == {"ann", "bob"} and set(told[-1]) == {"ann"}, "who left is not told of"
    for people in told:
        assert people["ann"].label == "red" and people["ann"].x_max == pytest.approx(ANN.x_max, abs=1)
        assert people.get("bob") is None or people["bob"].label == "blue"
    assert told[-1]["ann"].activity == "red" and len(told[0]["ann"].glimpses) == 3
    onsets = {(e.person_id, e.label) for e in said["events"] if e.kind == 0}
    assert onsets == {("ann", "red"), ("bob", "blue")}
    assert {e.person_id for e in said["events"] if e.kind == 1} == {"ann", "bob"}
    first = said["annotations"][0]
    assert [text.text.split()[:2] for text in first.texts] == [["ann", "red"], ["bob", "blue"]]
    assert len(first.points) == 2 * (3 + 1), "three glimpses and a box"
    topic = found["bags"][0]["topic"]
    assert (topic in topics) == (images == "merged")


@pytest.mark.slow
def test_without_predictions_none_are_left(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(colours, out, clip, "--people", "auto")
    assert (out / "predictions.mcap").stat().st_size > 1000
    run(colours, out, clip, "--people", "auto", "--predictions", "none")
    assert not (out / "predictions.mcap").exists() and (out / "worst.json").is_file()


def test_true_boxes_say_whom_a_result_is_about(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    seen = {"7": Box(24, 64, 84, 204), "8": BOB, "ghost": Box(400, 10, 440, 50)}
    write_csv(tmp_path / "found.csv", boxes(seen))
    # Cid stands there and is not found; a ghost is, where nobody stands.
    out = tmp_path / "out"
    true = ("--true-boxes", tmp_path / "scene.people.csv")
    found = run(colours, out, clip, "--people", tmp_path / "found.csv", *true)
    rows = rows_of(out)
    about = {(row["person"], row["truth_person"], row["truth_kind"]) for row in rows}
    assert about == {("7", "ann", "label"), ("8", "bob", "label"), ("ghost", None, "nobody")}
    people = found["result"]["people"]
    assert {row["person"]: row["accuracy"] for row in people["persons"]} == {"ann": 1.0, "bob": 1.0}
    green = people["frame_map"]["per_class"]["green"]
    frames = len({row["end_ns"] for row in rows})
    assert (
        green["true"] == green["missed"] == pytest.approx(frames, abs=1) and green["average_precision"] == 0
    )
    # What is seen of nobody counts against the class that it is taken for.
    ghost = next(row["label"] for row in rows if row["person"] == "ghost")
    assert ghost == "green" and people["frame_map"]["mean"] == pytest.approx(2 / 3)
    assert found["result"]["truth_kinds"]["nobody"] == len([r for r in rows if r["person"] == "ghost"])


@pytest.mark.parametrize("first_s", [0.0, 12.0, 1000.0, 1.7e9])
def test_times_of_boxes_count_from_the_first_image_or_are_its_stamps(first_s: float) -> None:
    there = boxes({"ann": ANN})
    first = round(first_s * NS)
    stamps = [replace(found, stamp_ns=found.stamp_ns + first) for found in there]
    ends = (first, first + round(SECONDS * NS))
    assert by_stamps(there, first, lambda: ends) == stamps
    assert by_stamps(stamps, first, lambda: ends) == stamps


@pytest.mark.parametrize("first_s", [2, 10])
def test_small_times_of_boxes_are_what_lies_within_the_recording(first_s: int) -> None:
    first = first_s * NS
    late = [replace(found, stamp_ns=found.stamp_ns + round(1.9 * NS)) for found in boxes({"ann": ANN})]
    stamps = [replace(found, stamp_ns=found.stamp_ns + first) for found in late]
    ends = (first, stamps[-1].stamp_ns)
    assert by_stamps(late, first, lambda: ends) == stamps
    assert by_stamps(stamps, first, lambda: ends) == stamps


def looped(bag: Path) -> Path:
    """The messages of a bag twice, the second time later by its recorder, with the same stamps."""
    out = bag.with_name("loop")
    with Reader(bag) as reader, Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        found = [(c, log_ns, data) for c, log_ns, data in reader.messages()]
        to = {
            c.topic: writer.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest, serialization_format="cdr"
            )
            for c in reader.connections
        }
        for again in (0, 100 * NS):
            for connection, log_ns, data in found:
                writer.write(to[connection.topic], log_ns + again, data)
    return out


@pytest.mark.parametrize("told_by", ["topic", "boxes", "true boxes"])
def test_a_bag_in_a_loop_is_scored_as_often_as_it_was_played(
    clip: Path, colours: LoadedBundle, tmp_path: Path, told_by: str
) -> None:
    (tmp_path / "boxes").mkdir()
    table = tmp_path / "scene.people.csv"
    shutil.copy(table, tmp_path / "boxes" / "scene.boxes.csv")
    make_bag(find_clips([clip], []), tmp_path / "bag", boxes=tmp_path / "boxes", compressed="png")
    arguments: tuple[object, ...] = ("--people", table if told_by == "boxes" else "auto")
    if told_by == "true boxes":
        arguments += ("--true-boxes", table)
    found = [
        run(colours, tmp_path / f"of_{bag.name}", bag, *arguments, "--truth", tmp_path / "scene.truth.csv")
        for bag in (tmp_path / "bag", looped(tmp_path / "bag"))
    ]
    once, twice = (each["result"] for each in found)
    assert [len(each["bags"][0]["passes"]) for each in found] == [1, 2]
    assert twice["windows"]["windows"] == 2 * once["windows"]["windows"]
    assert twice["windows"]["accuracy"] == once["windows"]["accuracy"] == 1
    assert twice["people"]["frame_map"]["mean"] == once["people"]["frame_map"]["mean"] == 1
    for figure in ("edit_score", "segment_f1", "false_activations"):
        assert twice["events"][figure] == once["events"][figure], figure
    assert twice["events"]["noticed"] == twice["events"]["segments"] == 6
    assert twice["truth_kinds"] == {"label": twice["windows"]["windows"]}


def test_what_is_true_of_everybody_counts_for_those_of_whom_nothing_is_noticed(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    everybody, named = tmp_path / "everybody.csv", tmp_path / "named.csv"
    truth(everybody, ("", 0, SECONDS, "red"))
    truth(named, *((name, 0, SECONDS, "red") for name in ("ann", "bob", "cid")))
    # No score is ever that high, so that no event is.
    never = ("--people", "auto", "--onset-threshold", 1, "--truth")
    found = [run(colours, tmp_path / t.stem, clip, *never, t)["result"] for t in (everybody, named)]
    assert found[0]["events"] == found[1]["events"] and found[0]["events"]["segments"] == 3


@pytest.mark.parametrize("who", ["ann", ""])
def test_a_box_on_nobody_is_false_whatever_is_true_of_everybody(
    colours: LoadedBundle, tmp_path: Path, who: str
) -> None:
    image = np.full((240, 560, 3), COLOURS[0], np.uint8)
    clip = write_clip(tmp_path / "red.mp4", [image] * (15 * SECONDS), fps=15)
    write_csv(tmp_path / "true.csv", boxes({"ann": ANN}))
    write_csv(tmp_path / "found.csv", boxes({"1": ANN, "2": BOB}))
    truth(tmp_path / "red.truth.csv", (who, 0, SECONDS, "red"))
    asked = ("--people", tmp_path / "found.csv", "--true-boxes", tmp_path / "true.csv")
    events = run(colours, tmp_path / "out", clip, *asked)["result"]["events"]
    assert (events["segments"], events["noticed"], events["false_activations"]) == (1, 1, 1)
    assert events["segment_f1"]["0.5"] == pytest.approx(2 / 3)


def test_a_bag_without_truth_does_not_count_in_the_mean_average_precision(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    for name in ("found", "true", "truth"):
        (tmp_path / name).mkdir()
    other = shutil.copy(clip, tmp_path / "other.mp4")
    for name in ("scene", "other"):
        write_csv(tmp_path / "found" / f"{name}.csv", boxes({"1": ANN, "2": CID}))
    write_csv(tmp_path / "true" / "scene.csv", boxes({"ann": ANN, "cid": CID}))
    write_csv(tmp_path / "true" / "other.csv", boxes({"ann": ANN}))
    truth(tmp_path / "truth" / "scene.csv", ("ann", 0, SECONDS, "red"), ("cid", 0, SECONDS, "green"))
    asked = ("--people", "found", "--true-boxes", "true", "--truth", "truth")
    asked = tuple(word if word[0] == "-" else str(tmp_path / word) for word in asked)
    found = [run(colours, tmp_path / f"of_{len(clips)}", *clips, *asked) for clips in ([clip], [clip, other])]
    one, both = (each["result"] for each in found)
    assert both["bags_with_truth"] == 1 and "nobody" in both["truth_kinds"], "the case that is tested"
    assert both["people"]["frame_map"] == one["people"]["frame_map"]


def test_true_boxes_without_people_are_not_ignored(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    arguments = ("-b", colours.path, "--out", tmp_path / "out", "--true-boxes", tmp_path / "scene.people.csv")
    assert_one_line(call(cli.app, "evaluate", clip, *arguments), "give --people, too")


def test_a_name_is_one_in_every_unicode_form(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD"))
    write_csv(tmp_path / "scene.people.csv", boxes({other: ANN}))
    truth(tmp_path / "scene.truth.csv", (one, 0, SECONDS, "red"))
    found = run(colours, tmp_path / "out", clip, "--people", "auto")["result"]
    assert found["windows"]["accuracy"] == 1 and set(found["truth_kinds"]) == {"label"}


def test_who_finds_no_place_is_missed(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    found = run(colours, tmp_path / "out", clip, "--people", "auto", "--max-people", 2)
    people = found["result"]["people"]
    assert {row["person"] for row in people["persons"]} == {"ann", "bob"}
    assert people["frame_map"]["per_class"]["green"]["missed"] >= 15
    assert people["left_out"]["too many people"] >= 20
    assert "left out: too many people" in found["text"]


def test_who_is_not_in_the_truth_counts_nowhere(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    truth(tmp_path / "scene.truth.csv", ("ann", 0, SECONDS, "red"))
    found = run(colours, tmp_path / "out", clip, "--people", "auto")
    assert found["result"]["windows"]["accuracy"] == 1
    assert found["result"]["people"]["frame_map"]["mean"] == 1
    assert found["result"]["truth_kinds"] == {"label": 25, "none": 50}
    assert found["result"]["events"]["false_activations"] == 0


def test_who_is_in_the_truth_and_nowhere_else_is_remarked_on(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    truth(tmp_path / "scene.truth.csv", ("ann", 0, SECONDS, "red"), ("Bob", 0, 2, "blue"), ("7", 2, 4, "red"))
    found = run(colours, tmp_path / "out", clip, "--people", "auto")
    said = found["bags"][0]["truth_remark"]
    assert said.startswith("2 of 3 rows of scene.truth.csv are about people whom no box names (7, Bob; ")
    assert "the boxes name ann, bob, cid" in said and found["result"]["windows"]["accuracy"] == 1
    assert found["result"]["events"]["segments"] == 3 and found["result"]["events"]["noticed"] == 1


@pytest.mark.slow
def test_a_bag_brings_its_detections(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    (root / "red").mkdir(parents=True)
    (root / "boxes" / "red").mkdir(parents=True)
    clip.rename(root / "red" / "scene.mp4")
    (tmp_path / "scene.truth.csv").rename(root / "red" / "scene.truth.csv")
    (tmp_path / "scene.people.csv").rename(root / "boxes" / "red" / "scene.boxes.csv")
    bag = tmp_path / "bag"
    make_bag(find_clips([root], []), bag, boxes=root / "boxes", compressed="png")
    found = run(colours, tmp_path / "out", bag, "--people", "auto")
    assert {row["person"]: row["accuracy"] for row in found["result"]["people"]["persons"]} == {
        "ann": 1.0,
        "bob": 1.0,
        "cid": 1.0,
    }
    again = run(colours, tmp_path / "again", bag, "--people", "topic:/people")
    assert again["result"]["windows"] == found["result"]["windows"]
    args = ("evaluate", bag, "-b", colours.path, "--out", tmp_path / "x", "--people", "topic:/none")
    assert_one_line(call_evaluate(*args), "/people")


def test_a_data_set_brings_its_boxes(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "scenes").mkdir(parents=True)
    (root / "boxes" / "scenes").mkdir(parents=True)
    for name in ("scene.mp4", "scene.truth.csv"):
        (tmp_path / name).rename(root / "scenes" / name)
    (tmp_path / "scene.people.csv").rename(root / "boxes" / "scenes" / "scene.boxes.csv")
    write_clip(root / "scenes" / "other.mp4", [np.zeros((48, 64, 3), np.uint8)] * 30)
    (root / "boxes" / "scenes" / "other.boxes.csv").write_text("time_s,id,x_min,y_min,x_max,y_max\n0,,,,,\n")
    found = run(colours, tmp_path / "out", root, "--people", "auto")
    assert {row["person"]: row["accuracy"] for row in found["result"]["people"]["persons"]} == {
        "ann": 1.0,
        "bob": 1.0,
        "cid": 1.0,
    }


def test_boxes_that_several_sources_share_are_remarked_on(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    shutil.copy(clip, clip.with_suffix(".avi"))
    arguments = ("evaluate", clip, clip.with_suffix(".avi"), "-b", colours.path, "--people", "auto")
    result = call_evaluate(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "scene.people.csv: the boxes of scene.mp4 and scene.avi, right only where" in " ".join(
        result.stderr.split()
    )
    alone = call_evaluate(*arguments[:2], *arguments[3:], "--out", tmp_path / "alone")
    assert alone.exit_code == 0 and "right only where" not in alone.stderr


def call_evaluate(*arguments: object) -> Any:
    need_evaluation()
    return call(cli.app, *arguments)


def test_other_boxes_are_another_result(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(colours, out, clip, "--people", "auto")
    assert "(1 finished before)" in run(colours, out, clip, "--people", "auto")["text"]
    write_csv(tmp_path / "scene.people.csv", boxes({"ann": ANN}))
    other = run(colours, out, clip, "--people", "auto")
    assert "(0 finished before)" in other["text"]
    assert len(first["result"]["people"]["persons"]) == 3 and len(other["result"]["people"]["persons"]) == 1


def test_without_people_a_result_is_the_one_it_always_was() -> None:
    values = Options().as_json()
    assert not {"people", "true_boxes", "max_people"} & values.keys()
    assert result_key("b", Options(), "t") == result_key("b", Options(max_people=9), "t")
    assert result_key("b", Options(people="auto"), "t") != result_key("b", Options(), "t")
    # With the robot's times, which could not be given once, the results of then still hold.
    assert not {"people_max_age_s", "person_timeout_s"} & Options(people="auto").as_json().keys()
    patient = Options(people="auto", person_timeout_s=2.0)
    assert result_key("b", patient, "t") != result_key("b", Options(people="auto"), "t")
    assert result_key("b", replace(patient, people=None), "t") == result_key("b", Options(), "t")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--people", "none.csv"), "no such boxes"),
        (("--people", "topic:/people"), "video has no topic"),
        (("--people", "auto", "--simulate-latency", "0.1"), "does not go with"),
        (("--people", "auto", "--truth", "topic:/label"), "does not go with"),
    ],
)
def test_mistakes_are_one_line(
    clip: Path, colours: LoadedBundle, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = call_evaluate("evaluate", clip, "-b", colours.path, "--out", tmp_path / "out", *arguments)
    assert_one_line(done, words)


@given(
    right=arrays(bool, st.integers(0, 12)),
    data=st.data(),
    missed=st.integers(0, 4),
)
def test_average_precision_is_the_area_below_the_falling_curve(
    right: np.ndarray, data: Any, missed: int
) -> None:
    scores = np.array(
        data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=len(right), max_size=len(right)))
    )
    total = int(right.sum()) + missed
    points = [(0.0, 1.0)]
    for least in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= least
        points.append((right[chosen].sum() / max(total, 1), right[chosen].mean()))
    area = 0.0
    for i in range(1, len(points)):
        best = max(precision for _, precision in points[i:])
        area += (points[i][0] - points[i - 1][0]) * best
    assert average_precision(right, scores, missed) == pytest.approx(area)


def one_who_is_red_for_a_while(tmp_path: Path) -> Path:
    """Ann, red from 0.6 to 2.4 s and grey else; Bob is grey."""
    red, grey = np.full((240, 560, 3), 100, np.uint8), np.full((240, 560, 3), 100, np.uint8)
    red[:, :170] = COLOURS[0]
    clip = write_clip(tmp_path / "one.mp4", [red if 9 <= i < 36 else grey for i in range(60)], fps=15)
    write_csv(tmp_path / "true.csv", boxes({"ann": ANN, "bob": BOB}))
    truth(tmp_path / "one.truth.csv", ("ann", 0.6, 2.4, "red"))
    return clip


def test_what_ends_is_what_began_whoever_the_box_lies_on_by_then(
    colours: LoadedBundle, tmp_path: Path
) -> None:
    clip = one_who_is_red_for_a_while(tmp_path)
    tall = Box(ANN.x_min, ANN.y_min - 55, ANN.x_max, ANN.y_max + 150)  # nobody's, by overlap
    late = boxes({"7": tall, "8": BOB})
    right = boxes({"7": ANN, "8": BOB})
    write_csv(tmp_path / "found.csv", [*right[:20], *late[20:]])
    arguments = ("--people", tmp_path / "found.csv", "--true-boxes", tmp_path / "true.csv")
    found = run(colours, tmp_path / "out", clip, *arguments)
    bag = json.loads((tmp_path / "out" / "bag.json").read_text())
    assert [(e["kind"], e["label"], e["person"]) for e in bag["events"]] == [
        ("onset", "red", "ann"),
        ("offset", "red", "ann"),
    ]
    assert {row["truth_person"] for row in rows_of(tmp_path / "out")} == {"ann", "bob", None}, (
        "what is tested"
    )
    assert found["result"]["events"]["noticed"] == 1
    assert "F1@0.1/0.25/0.5 1.00/1.00/" in found["text"]


@pytest.mark.parametrize("others", [{"bob": BOB}, {}], ids=["beside somebody", "alone"])
def test_as_many_windows_are_due_of_who_is_lost_as_of_who_is_found(
    colours: LoadedBundle, tmp_path: Path, others: dict[str, Box]
) -> None:
    clip = one_who_is_red_for_a_while(tmp_path)
    write_csv(tmp_path / "true.csv", boxes({"ann": ANN, **others}))
    counts = []
    for name, end in (("all", SECONDS), ("lost", 1.8)):
        bob, both = boxes(others), boxes({"ann": ANN, **others})
        found = [both[i] if i < 10 * end else bob[i] for i in range(len(both))]
        write_csv(tmp_path / f"{name}.csv", found)
        arguments = ("--people", tmp_path / f"{name}.csv", "--true-boxes", tmp_path / "true.csv")
        result = run(colours, tmp_path / name, clip, *arguments)["result"]
        red = result["people"]["frame_map"]["per_class"]["red"]
        counts.append((red["true"], red["missed"] > 0))
    assert counts == [(counts[0][0], False), (counts[0][0], True)]


def test_nobody_is_missed_before_a_window_is_full_behind_a_gap(colours: LoadedBundle, tmp_path: Path) -> None:
    """Who stands there all the while needs a window of new images, as everybody does at the beginning."""
    image = np.full((240, 560, 3), COLOURS[0], np.uint8)
    images = [*range(0, 120, 4), *range(240, 360, 4)]  # at 30 a second: two seconds, a gap of two, two more
    clip = write_clip(tmp_path / "gap.mp4", [image] * len(images), pts=images, fps=30)
    every = [Detections(i * NS // 10, (Detection("ann", ANN),)) for i in range(120)]
    write_csv(tmp_path / "found.csv", every)
    truth(tmp_path / "gap.truth.csv", ("ann", 0, 12, "red"))
    result = run(colours, tmp_path / "out", clip, "--people", tmp_path / "found.csv")["result"]
    red = result["people"]["frame_map"]["per_class"]["red"]
    assert red["missed"] == 0 and red["true"] > 10 and red["average_precision"] == pytest.approx(1)


@pytest.mark.parametrize("again", [False, True], ids=["goes on", "begins again"])
def test_images_of_another_size_are_one_break(colours: LoadedBundle, tmp_path: Path, again: bool) -> None:
    """Nobody is missed while windows fill anew, and stamps that go back in that moment are another pass."""
    write_bag(tmp_path / "a", [("red", 3.0)])
    write_bag(tmp_path / "b", [("red", 3.0)], size=(128, 96), first_ns=START + (0 if again else 3) * NS)
    bag = join_bags(tmp_path / "bag", (tmp_path / "a", 0), (tmp_path / "b", 3))
    there = [
        Detections(i * NS // 16, (Detection("ann", Box(10, 5, 40, 40)),)) for i in range(48 if again else 96)
    ]
    write_csv(tmp_path / "bag.people.csv", there)
    truth(tmp_path / "bag.truth.csv", ("ann", 0, 3 if again else 6, "red"))
    found = run(colours, tmp_path / "out", bag, "--people", "auto")
    red = found["result"]["people"]["frame_map"]["per_class"]["red"]
    assert red["missed"] == 0 and red["true"] == 34 and red["average_precision"] == 1
    (of_bag,) = found["bags"]
    assert len(of_bag["passes"]) == 1 + again
    assert sum(of_bag["counts"]["resets"].values()) == 1


@pytest.mark.parametrize("stamps", ["header", "log"])
def test_boxes_of_a_topic_are_on_the_clock_of_the_images(
    clip: Path, colours: LoadedBundle, tmp_path: Path, stamps: str
) -> None:
    (tmp_path / "boxes").mkdir()
    shutil.copy(tmp_path / "scene.people.csv", tmp_path / "boxes" / "scene.boxes.csv")
    make_bag(find_clips([clip], []), tmp_path / "seen", boxes=tmp_path / "boxes", compressed="png")
    bag = join_bags(tmp_path / "bag", (tmp_path / "seen", 100))  # the camera has a clock of its own
    shutil.copy(tmp_path / "scene.truth.csv", tmp_path / "bag.truth.csv")
    found = run(colours, tmp_path / "out", bag, "--people", "auto", "--stamps", stamps)["result"]
    assert found["windows"]["accuracy"] == 1 and found["windows"]["windows"] > 60
    assert found["people"]["left_out"] == {}


def test_predictions_never_say_of_an_id_what_was_said_before_it_jumped(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    there, gone = boxes({"7": ANN, "bob": BOB}), boxes({"7": CID, "bob": BOB})
    write_csv(tmp_path / "found.csv", [*there[:20], *gone[20:]])
    run(colours, tmp_path / "out", clip, "--people", tmp_path / "found.csv", "--truth", "none")
    with Recording(tmp_path / "out" / "predictions.mcap") as recording:
        told = [item.message for item in recording.messages(["/activity_recognition/people"])]
    warming = [message for message in told if "7" in message.warming_up]
    assert warming, "the case that is tested"
    for message in told:
        ids = [person.person_id for person in message.people]
        assert not {*ids} & {*message.warming_up}
        seven = next((person for person in message.people if person.person_id == "7"), None)
        assert seven is None or seven.label == ("red" if seven.x_min < 200 else "green")
