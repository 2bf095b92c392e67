# SPDX-License-Identifier: Apache-2.0
"""Detected people in bags that are made of clips: messages with the images' stamps, ids, scale, the truth a person."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from gc_ros.cli import app
from gc_ros.media.bag_reading import read_bag_messages
from gc_ros.media.bags import START_NS, make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.detections import Box, Detection, Detections, about, boxes_of, write_csv
from gc_ros.media.people_topics import read_vision
from gc_ros.media.recording import Recording
from gc_ros.stamps import NS
from tests.command_line import assert_one_line, call
from tests.videos import flat, write_clip
from trt_build.errors import DataError


def person(who: str, x: float, size: float = 10.0) -> Detection:
    return Detection(who, Box(x, 4, x + size, 4 + size), 0.5)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """wave/a.mp4 of person 1 and a small passer-by; bow/b.mp4 with nobody; walk/c.mp4 without boxes; 10 frames each."""
    root = tmp_path / "clips"
    for name in ("wave/a.mp4", "bow/b.mp4", "walk/c.mp4"):
        (root / name).parent.mkdir(parents=True)
        write_clip(root / name, [flat((90, 90, 90))] * 10, fps=10)
    boxes = root / "boxes"
    for name in ("wave/a", "bow/b"):
        (boxes / name).parent.mkdir(parents=True)
    seen = [Detections(k * NS // 10, (person("1", 5 + k), person("2", 40, 4))) for k in range(10)]
    write_csv(boxes_of(boxes, "wave/a.mp4"), seen)
    write_csv(boxes_of(boxes, "bow/b.mp4"), [Detections(k * NS // 10, ()) for k in range(10)])
    return root


def people_of(bag: Path, topic: str = "/people") -> list[Detections]:
    with Recording(bag) as recording:
        assert recording.topics[topic] == "vision_msgs/msg/Detection2DArray"
        found = [read_vision(item.message) for item in recording.messages([topic])]
    assert not any(f.refused or f.others for f in found)
    return [f.detections for f in found if f.detections is not None]


def test_detections_have_the_stamps_of_their_images_and_ids_by_clip(clips: Path, tmp_path: Path) -> None:
    summary = make_bag(find_clips([clips]), tmp_path / "bag", boxes=clips / "boxes")
    assert (summary.clips, summary.images, summary.people) == (3, 30, 1)
    images = [item.stamp_ns for item in read_bag_messages(tmp_path / "bag")]
    found = people_of(tmp_path / "bag")
    assert [d.stamp_ns for d in found] == images[:10] + images[20:]  # bow, then walk, then wave
    assert [len(d.people) for d in found] == [0] * 10 + [2] * 10
    assert {p.id for d in found for p in d.people} == {"3_1", "3_2"}
    for k, now in enumerate(found[10:]):
        assert now.people[0] == Detection("3_1", person("1", 5 + k).box, 0.5)
    rows = list(csv.DictReader(summary.truth.open()))
    assert [(r["id"], r["label"]) for r in rows] == [("", "bow"), ("", "walk"), ("3_1", "wave")]
    assert float(rows[2]["start_s"]) == pytest.approx((images[20] - START_NS) / NS, abs=1e-9)


def test_a_bag_without_definitions_is_read_all_the_same(clips: Path, tmp_path: Path) -> None:
    make_bag(find_clips([clips]), tmp_path / "bag", boxes=clips / "boxes")
    with (
        Reader(tmp_path / "bag") as reader,
        Writer(tmp_path / "old", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        old = {
            c.topic: writer.add_connection(c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01="none")
            for c in reader.connections
        }
        for connection, stamp, data in reader.messages():
            writer.write(old[connection.topic], stamp, data)
    (file,) = (tmp_path / "old").glob("*.db3")
    with contextlib.closing(sqlite3.connect(file)) as database:  # as Humble writes it
        database.execute("drop table if exists message_definitions")
        database.commit()
    assert people_of(tmp_path / "old") == people_of(tmp_path / "bag")


def test_boxes_are_scaled_as_the_images_are(clips: Path, tmp_path: Path) -> None:
    (clip,) = find_clips([clips], classes=["wave"])
    make_bag([clip], tmp_path / "bag", boxes=clips / "boxes", width=32, people_topic="/seen")
    height, width = next(iter(read_bag_messages(tmp_path / "bag"))).message.height, 32
    box = people_of(tmp_path / "bag", "/seen")[0].people[0].box
    wide, high = flat((0, 0, 0)).shape[1::-1]
    assert box == Box(
        *(v * s for v, s in zip((5, 4, 15, 14), (width / wide, height / high) * 2, strict=True))
    )
    assert people_of(tmp_path / "bag", "/seen")[0].people[0].id == "1"  # a bag of one clip keeps ids


def test_a_scene_brings_its_own_truth(clips: Path, tmp_path: Path) -> None:
    (clips / "wave" / "a.truth.csv").write_text(
        "id,start_s,end_s,label\n1,0,0.4,wave\n2,0,9,bow\n1,0.4,0.8,bow\n1,2,3,late\n"
    )
    (clip,) = find_clips([clips], classes=["wave"])
    summary = make_bag([clip], tmp_path / "bag", boxes=clips / "boxes")
    rows = [tuple(r.values()) for r in csv.DictReader(summary.truth.open())]
    assert [(who, float(a), float(b), label) for who, a, b, label, _ in rows] == [
        ("1", 0.0, 0.4, "wave"), ("2", 0.0, 0.9, "bow"), ("1", 0.4, 0.8, "bow"),
    ]  # fmt: skip  # nobody does anything after the last image
    (clips / "wave" / "a.truth.csv").write_text("id,start_s,end_s,label\n1,now,0.4,wave\n")
    with pytest.raises(DataError, match="row 1"):
        make_bag([clip], tmp_path / "other", boxes=clips / "boxes")
    assert not (tmp_path / "other").exists()


def test_without_boxes_bag_and_truth_are_as_ever(clips: Path, tmp_path: Path) -> None:
    summary = make_bag(find_clips([clips]), tmp_path / "bag")
    with Recording(tmp_path / "bag") as recording:
        assert list(recording.topics) == ["/image"]
    assert list(next(csv.DictReader(summary.truth.open()))) == ["start_s", "end_s", "label", "clip"]
    assert summary.people == 0


def test_the_command_takes_the_boxes_beside_the_clips(clips: Path, tmp_path: Path) -> None:
    result = call(app, "make-bag", clips, "--out", tmp_path / "bag", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["people"] == 1
    other = tmp_path / "more" / "boxes"
    other.mkdir(parents=True)
    write_clip(tmp_path / "more" / "d.mp4", [flat((9, 9, 9))] * 3, fps=10)
    assert_one_line(call(app, "make-bag", clips, tmp_path / "more", "--out", tmp_path / "c"), "--boxes")
    result = call(
        app, "make-bag", clips, tmp_path / "more", "--out", tmp_path / "d", "--boxes", clips / "boxes"
    )
    assert result.exit_code == 0, result.output


def test_a_folder_without_boxes_of_the_clips_is_refused_where_it_was_named(
    clips: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "bag")
    assert_one_line(call(app, "make-bag", clips, *out, "--boxes", clips / "nosuch"), "nosuch: no such folder")
    other = ("--boxes", clips / "wave")
    assert_one_line(
        call(app, "make-bag", clips, *out, *other), "wave: no boxes of these clips", "bow/b.boxes.csv"
    )
    # Boxes that only lie beside the clips, of others, are not asked for: a bag without people.
    result = call(app, "make-bag", clips / "walk" / "c.mp4", *out)
    assert result.exit_code == 0, result.output
    (clips / "walk" / "boxes").mkdir()
    result = call(app, "make-bag", clips / "walk" / "c.mp4", "--out", tmp_path / "beside")
    assert result.exit_code == 0, result.output
    with Recording(tmp_path / "beside") as recording:
        assert list(recording.topics) == ["/image"]


def test_two_clips_that_would_share_their_boxes_are_refused_and_leave_nothing(
    clips: Path, tmp_path: Path
) -> None:
    write_clip(clips / "wave" / "a.avi", [flat((9, 9, 9))] * 10, fps=10)
    result = call(app, "make-bag", clips, "--out", tmp_path / "bag")
    assert_one_line(result, "wave/a.avi and wave/a.mp4 would share the table")
    assert not list(tmp_path.glob("bag*"))


@pytest.mark.parametrize("topic", ["/image", "image", "two words"])
def test_people_need_a_topic_of_their_own_that_ros_can_have(clips: Path, tmp_path: Path, topic: str) -> None:
    result = call(app, "make-bag", clips, "--out", tmp_path / "bag", "--people", topic)
    assert_one_line(result, topic, "topic")
    assert not (tmp_path / "bag").exists()


def test_a_label_is_about_who_is_seen_large_and_long() -> None:
    def seen(*people: Detection) -> Detections:
        return Detections(0, people)

    assert about([]) == () and about([seen()]) == ()
    alone = [seen(person("a", 0), person("b", 30, 5))]
    assert about(alone) == ("a",)
    assert about([*alone, *[seen(person("b", 30, 5))] * 9]) == ("b",)  # small, but there all the time
    assert about([seen(person("b", 0), person("a", 30, 9))]) == ("b", "a")  # two together


def test_what_is_true_of_everybody_stays_so_in_a_bag_of_several_clips(clips: Path, tmp_path: Path) -> None:
    (clips / "wave" / "a.truth.csv").write_text("id;start_s;end_s;label\n;0;0,4;wave\n2;0,4;9;bow\n")
    summary = make_bag(find_clips([clips]), tmp_path / "bag", boxes=clips / "boxes")
    rows = list(csv.DictReader(summary.truth.open()))
    assert [(r["id"], r["label"]) for r in rows] == [("", "bow"), ("", "walk"), ("", "wave"), ("3_2", "bow")]
    assert float(rows[2]["end_s"]) - float(rows[2]["start_s"]) == pytest.approx(0.4)
