# SPDX-License-Identifier: Apache-2.0
"""`gc-ros boxes`: the people of bags and videos by a detector, in tables that `evaluate --people` finds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from gc_ros import cli
from gc_ros.evaluation.boxes import GOES_BACK
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.detections import read_csv
from gc_ros.stamps import NS
from tests.command_line import assert_one_line, call
from tests.detectors import people_picture, person_detector
from tests.gc_ros.evaluation.bag_files import mcap_of
from tests.gc_ros.evaluation.runs import make, need_evaluation, run
from tests.videos import write_clip
from trt_build.bundle import LoadedBundle


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """It finds whatever is red."""
    need_evaluation()
    pytest.importorskip("scipy.optimize", reason="scipy is not installed: pip install -e '.[evaluate]'")
    return person_detector(tmp_path / "toy.onnx", "columns")


def clip_of_a_walk(path: Path, seconds: float = 3) -> Path:
    pictures = [people_picture((192, 96), [(10 + 2 * k, 20, 30, 60)]) for k in range(round(15 * seconds))]
    return write_clip(path, pictures, fps=15)


@pytest.mark.parametrize("kind", ["bgr8", "jpeg", "video"])
def test_a_bag_without_detections_is_evaluated_by_people_after_it(
    tmp_path: Path, detector: Path, colours: LoadedBundle, kind: str
) -> None:
    source = clip_of_a_walk(tmp_path / "a walk.mp4")
    if kind != "video":
        clips = find_clips([source])
        source = make_bag(clips, tmp_path / "a bag", compressed="jpeg" if kind == "jpeg" else None).bag
    before = call(
        cli.app, "evaluate", source, "-b", colours.path, "--out", tmp_path / "none", "--people", "auto"
    )
    assert before.exit_code == 2, "nothing says who is there"
    _, *command = shlex.split(before.stderr.partition("find them: ")[2].splitlines()[0])
    done = call(cli.app, *(detector if word == "YOLOX.onnx" else word for word in command))
    table = tmp_path / f"{source.name}.people.csv"
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{source.name}: 1 id, somebody in 45 of 45 images: {table}\n"
    found = read_csv(table)
    assert (
        len(found) == 45
        and found[0].stamp_ns == 0
        and found[-1].stamp_ns == pytest.approx(44 / 15 * NS, abs=NS / 100)
    )
    box = found[30].people[0].box
    assert abs(box.x_min - 70) < 6 and abs(box.x_max - 100) < 6 and abs(box.y_max - 80) < 6
    run(colours, tmp_path / "out", source, "--people", "auto", "--truth", "none")
    rows = [json.loads(line) for line in (tmp_path / "out/windows.jsonl").read_text().splitlines()]
    assert len(rows) > 5 and {row["person"] for row in rows} == {"1"}


def test_who_is_not_there_has_a_row_without_a_box(tmp_path: Path, detector: Path) -> None:
    bag = make(tmp_path, pieces=[("red", 1.0), ("green", 2.0), ("red", 1.0)], truth=False)
    done = call(cli.app, "boxes", bag, "--detector", detector, "--json")
    answer = json.loads(done.stdout)
    assert answer["failed"] == {} and answer["made"][0]["people"] == 2, "gone for longer than a second"
    assert (answer["made"][0]["images"], answer["made"][0]["with_people"]) == (64, 31)
    assert [bool(now.people) for now in read_csv(tmp_path / "bag.people.csv")] == (
        [True] * 16 + [False] * 33 + [True] * 15  # a new person is believed in the second picture
    )


def test_an_image_whose_stamp_came_already_has_no_row(tmp_path: Path, detector: Path) -> None:
    bag = make(tmp_path, pieces=[("red", 1.0), ("loop", 0), ("red", 1.5)], truth=False)
    done = call(cli.app, "boxes", bag, "--detector", detector)
    assert done.stderr == f"warning: bag: 16 images left out: {GOES_BACK}\n"
    stamps = [now.stamp_ns for now in read_csv(tmp_path / "bag.people.csv")]
    assert len(stamps) == 24 and stamps == sorted(set(stamps))
    (tmp_path / "bag.people.csv").unlink()
    done = call(cli.app, "boxes", bag, "--detector", detector, "--stamps", "log")
    assert done.stderr == "" and len(read_csv(tmp_path / "bag.people.csv")) == 40


@pytest.mark.parametrize(("rate", "images"), [(8, 48), (5, 30), (100, 96)])
def test_a_long_bag_is_looked_at_so_many_times_a_second(
    tmp_path: Path, detector: Path, rate: int, images: int
) -> None:
    """A camera of 16 Hz for 4 s, and again after a gap of 30 s."""
    bag = make(tmp_path, pieces=[("red", 4.0), ("gap", 30.0), ("red", 2.0)], truth=False)
    done = call(cli.app, "boxes", bag, "--detector", detector, "--rate", rate)
    # After the gap it is a new person, believed in the second picture.
    assert f"2 ids, somebody in {images - 1} of {images} images" in done.stdout and done.stderr == ""
    assert len(read_csv(tmp_path / "bag.people.csv")) == images


def test_what_is_there_is_kept_and_one_bag_that_fails_stops_no_other(tmp_path: Path, detector: Path) -> None:
    folder = tmp_path / "bags"
    folder.mkdir()
    bags = [make(folder, name, pieces=[("red", 0.5)], truth=False) for name in ("a", "b", "c")]
    mcap_of(bags[1]).write_bytes(b"no bag")
    (folder / "a.people.csv").write_text("mine")
    done = call(cli.app, "boxes", folder, "--detector", detector)
    assert done.exit_code == 1, done.output
    kept, failed = done.stderr.splitlines()
    assert kept == f"{folder / 'a.people.csv'}: is there; delete it to make it again"
    assert failed.startswith("error: ") and "b" in failed
    assert (folder / "a.people.csv").read_text() == "mine" and not (folder / "b.people.csv").exists()
    assert done.stdout.startswith("c: 1 id, somebody in 8 of 8 images")
    assert call(cli.app, "boxes", bags[1], "--detector", detector).exit_code == 2


def test_tables_in_a_folder_are_what_evaluate_and_training_look_for(
    tmp_path: Path, detector: Path, colours: LoadedBundle
) -> None:
    for name in ("walk", "run"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        clip_of_a_walk(tmp_path / "clips" / name / "anna.mp4")
    out = tmp_path / "boxes"
    assert call(cli.app, "boxes", tmp_path / "clips", "--detector", detector, "--out", out).exit_code == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.csv")) == [
        "run/anna.boxes.csv",
        "walk/anna.boxes.csv",
    ]
    found = run(colours, tmp_path / "out", tmp_path / "clips", "--people", out, "--truth", "none")
    assert len(found["bags"]) == 2 and found["failed"] == []
    (tmp_path / "clips/walk/anna.mp4").rename(tmp_path / "clips/walk/anna.mov")
    clip_of_a_walk(tmp_path / "clips/walk/anna.mp4")
    done = call(cli.app, "boxes", tmp_path / "clips", "--detector", detector, "--out", tmp_path / "more")
    assert_one_line(done, "would share the table", "rename")
    assert not (tmp_path / "more").exists()


def test_bad_input_is_one_line(tmp_path: Path, detector: Path) -> None:
    bag = make(tmp_path, pieces=[("red", 0.5)], truth=False)
    assert_one_line(call(cli.app, "boxes", bag, "--detector", tmp_path / "no.onnx"), "no such detector")
    assert_one_line(call(cli.app, "boxes", tmp_path / "no", "--detector", detector), "no such bag")
    assert_one_line(call(cli.app, "boxes", bag, "--detector", detector, "--stamps", "x"), "--stamps")
    assert_one_line(call(cli.app, "boxes", bag, "--detector", detector, "--topic", "/no"), "/no")
    assert list(tmp_path.glob("*.people.csv")) == []
