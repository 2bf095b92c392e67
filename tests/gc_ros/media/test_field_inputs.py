# SPDX-License-Identifier: Apache-2.0
"""Inputs as they come from the field, beside the checkout: each folder has an EXPECTED.md, and one test here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gc_model.data import own
from gc_model.data.frames import decode
from gc_ros.cli import app
from gc_ros.evaluation.sources import find_sources
from gc_ros.media.bag_reading import read_bag_images
from gc_ros.media.clips import Clip, find_clips, find_recordings
from gc_ros.media.recording import Recording
from gc_ros.media.video import read_video
from tests.command_line import assert_one_line, call
from tests.gc_ros.evaluation.runs import need_evaluation
from tests.toy import toy_bundle
from trt_build.bundle import LoadedBundle, Preprocess
from trt_build.errors import DataError

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the field's inputs are not beside the checkout (../shared/cases)"
)


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a case by its number, with the links that its make.sh makes."""

    def copy(number: str, make: bool = False) -> Path:
        (source,) = CASES.glob(f"{number}-*")
        target = tmp_path / source.name
        shutil.copytree(source, target, symlinks=True)
        if make:
            subprocess.run(["sh", "make.sh"], cwd=target, check=True)
        return target

    return copy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """The `colours` toy with the classes that these inputs have; what it recognises does not matter here."""
    path = tmp_path_factory.mktemp("field") / "bundle"
    labels = ["wave", "drink", "öffnen"]
    return toy_bundle(path, "colours", S=224, preprocess={"size": 224, "resize": 256}, labels=labels)


def evaluated(bundle: LoadedBundle, out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """(summary by bag's name, stderr) of `gc-ros evaluate`, which must end well."""
    need_evaluation()
    result = call(app, "evaluate", *arguments, "--bundle", bundle.path, "--out", out, "--jobs", "1", "--json")
    assert result.exit_code == 0, result.output
    return {bag["name"]: bag for bag in json.loads(result.stdout)["bags"]}, result.stderr


def facts(clips: list[Clip]) -> list[tuple[str, str, str]]:
    return sorted((clip.name, clip.label, clip.subject) for clip in clips)


def seen_by_all(data: Path) -> list[tuple[str, str, str]]:
    """Names, labels and subjects of the clips, which training, make-bag, evaluation, verify and quantize agree on."""
    seen = facts(find_clips([data]))
    assert seen == facts(own.clips(data)) == facts(find_sources([data])) == facts(find_recordings([data]))
    return seen


@pytest.mark.parametrize("name", ["edit_mid.mp4", "edit_end.mp4"])
def test_01_a_clip_with_an_edit_list_is_whole(
    case: Any, bundle: LoadedBundle, tmp_path: Path, name: str
) -> None:
    clip, told = case("01") / name, list[str]()
    assert len(list(read_video(clip, told.append))) == 37 and told == []
    assert len(decode(clip, Preprocess(size=32, resize=32), 1e9).times) == 37
    assert call(app, "make-bag", clip, "--out", tmp_path / "bag").exit_code == 0
    assert len(list(read_bag_images(tmp_path / "bag"))) == 37
    bags, said = evaluated(bundle, tmp_path / "out", clip, "--strict")
    assert bags[name]["counts"]["images"] == 37 and "damaged" not in said
    result = call(app, "video", clip, "--bundle", bundle.path)
    assert result.exit_code == 0 and "damaged" not in result.output


def test_03_a_count_in_a_header_is_no_proof_of_damage(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    clip, told = case("03") / "count.avi", list[str]()
    assert len(list(read_video(clip, told.append))) == 52 and told == []
    assert len(decode(clip, Preprocess(size=32, resize=32), 1e9).times) == 52
    bags, said = evaluated(bundle, tmp_path / "out", clip, "--strict")
    assert bags["count.avi"]["counts"]["images"] == 52 and "damaged" not in said


def test_04_a_frame_that_does_not_decode_costs_itself_alone(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    clip, told = case("04") / "brokenframe.avi", list[str]()
    assert len(list(read_video(clip, told.append))) == 51 and len(told) == 1
    assert len(decode(clip, Preprocess(size=32, resize=32), 1e9).times) == 51
    bags, said = evaluated(bundle, tmp_path / "out", clip)
    counts = bags["brokenframe.avi"]["counts"]
    assert (counts["images"], counts["images_refused"]) == (52, 1) and "1 image left out" in said
    assert not bags["brokenframe.avi"]["damage"]
    assert call(app, "make-bag", clip, "--out", tmp_path / "bag").exit_code == 0
    assert len(list(read_bag_images(tmp_path / "bag"))) == 51


def test_06_what_macs_and_windows_leave_behind_is_no_clip(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    clips = case("06") / "clips"
    assert seen_by_all(clips) == [("drink/a.mp4", "drink", ""), ("wave/a.mp4", "wave", "")]
    assert call(app, "make-bag", clips, "--out", tmp_path / "bag").exit_code == 0
    bags, _ = evaluated(bundle, tmp_path / "out", clips, "--strict")
    assert set(bags) == {"drink/a.mp4", "wave/a.mp4"}


def test_07_a_class_folder_that_is_a_link_is_one(case: Any) -> None:
    clips = case("07", make=True) / "clips"
    assert seen_by_all(clips) == [("drink/a.mp4", "drink", ""), ("wave/a.mp4", "wave", "")]


def test_08_results_of_absolute_paths_stay_below_out(case: Any, bundle: LoadedBundle, tmp_path: Path) -> None:
    folder = case("08", make=True)
    seen_by_all(folder / "clips.csv")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    bags, _ = evaluated(bundle, tmp_path / "results", folder / "clips.csv")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [bag["truth"] for bag in bags.values()] == ["name", "name"]
    assert {path.parent.name for path in (tmp_path / "results/bags").rglob("bag.json")} == set(bags)


def test_10_recordings_side_by_side_are_bags_of_their_own(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    bags, _ = evaluated(bundle, tmp_path / "out", case("10") / "bags")
    assert {name: bag["counts"]["images"] for name, bag in bags.items()} == {
        "drink_1.mcap": 52,
        "wave_1.mcap": 52,
    }
    for name in ("drink", "wave"):
        rows = (tmp_path / f"out/bags/{name}_1.mcap/windows.jsonl").read_text().splitlines()
        assert rows and {json.loads(row)["truth"] for row in rows} == {name}


def test_11_a_table_may_name_bag_folders(case: Any, bundle: LoadedBundle, tmp_path: Path) -> None:
    table = case("11") / "bags.csv"
    bags, _ = evaluated(bundle, tmp_path / "out", table)
    assert bags["bag_wave"]["truth"] == "name" and bags["bag_wave"]["counts"]["images"] == 52
    rows = (tmp_path / "out/windows.jsonl").read_text().splitlines()
    assert {json.loads(row)["truth"] for row in rows} == {"wave"}
    with pytest.raises(DataError, match="bag_wave is a bag and no video"):
        find_clips([table])


@pytest.mark.parametrize(
    ("name", "there"), [("bag", "wave_monday.db3"), ("bag_unpacked_by_hand", "filez.db3")]
)
def test_12_a_storage_file_with_another_name_is_read(case: Any, name: str, there: str) -> None:
    bag = case("12") / name
    with Recording(bag) as recording:
        assert len(list(recording.messages(recording.topics))) == 52
        (line,) = recording.damage
    assert line.startswith("metadata.yaml names ") and f"{there} is read in its place" in line
    assert len(list(read_bag_images(bag))) == 52


def test_14_a_database_in_wal_mode_is_read_where_nothing_can_be_written(case: Any) -> None:
    bag = case("14") / "bag"
    names = sorted(os.listdir(bag))
    assert len(list(read_bag_images(bag))) == 52 and sorted(os.listdir(bag)) == names
    code = f"from gc_ros.media.bag_reading import read_bag_images; print(len(list(read_bag_images({str(bag)!r}))))"
    mount = f"mount --bind {bag} {bag} && mount -o remount,ro,bind {bag}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting a folder read-only is not allowed here")
    command = f'{mount} && ! touch {bag}/x 2>/dev/null && exec {sys.executable} -c "{code}"'
    found = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True)
    assert found.stdout.strip() == "52", found.stderr


def test_15_bytes_behind_a_jpegs_end_mark_do_not_matter(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    bags, _ = evaluated(bundle, tmp_path / "out", case("15") / "bag")
    counts = bags["bag"]["counts"]
    assert (counts["images"], counts["images_refused"], counts["windows"]) == (52, 0, 52 - 7)


def test_16_names_meet_in_one_unicode_form(case: Any, bundle: LoadedBundle, tmp_path: Path) -> None:
    data = case("16")
    seen = [("wave/a.mp4", "wave", ""), ("öffnen/a.mp4", "öffnen", "")]
    assert seen_by_all(data) == seen == seen_by_all(data / "nfc.csv")
    decomposed = "o\u0308ffnen"
    assert [clip.label for clip in find_clips([data], classes=[decomposed])] == ["öffnen"]
    bags, _ = evaluated(bundle, tmp_path / "out", data)
    assert {bag["truth"] for bag in bags.values()} == {"name"}


def test_17_blanks_round_a_cell_do_not_count(case: Any) -> None:
    assert [(n, c) for n, c, _ in seen_by_all(case("17"))] == [
        ("a.mp4", "wave"),
        ("b.mp4", "wave"),
        ("c.mp4", "drink"),
    ]


def test_21_every_suffix_is_found(case: Any, bundle: LoadedBundle, tmp_path: Path) -> None:
    data = case("21")
    assert [(n, c) for n, c, _ in seen_by_all(data)] == [
        ("drink/a.3gp", "drink"),
        ("wave/a.mp4", "wave"),
        ("wave/b.MTS", "wave"),
        ("wave/c.wmv", "wave"),
        ("wave/d.flv", "wave"),
    ]
    bags, _ = evaluated(bundle, tmp_path / "out", data / "drink/a.3gp")
    assert bags["a.3gp"]["counts"]["images"] == 52


@pytest.mark.slow
def test_22_the_first_folder_is_the_class_however_deep_a_clip_lies(
    case: Any, bundle: LoadedBundle, tmp_path: Path
) -> None:
    clips = case("22") / "clips"
    assert [(n, c) for n, c, _ in seen_by_all(clips)] == [
        ("drink/a.mp4", "drink"),
        ("wave/c.mp4", "wave"),
        ("wave/day1/a.mp4", "wave"),
        ("wave/day2/b.mp4", "wave"),
    ]
    evaluated(bundle, tmp_path / "out", clips)
    rows = (tmp_path / "out/bags/wave/day1/a.mp4/windows.jsonl").read_text().splitlines()
    assert rows and {json.loads(row)["truth"] for row in rows} == {"wave"}


def test_24_a_folder_that_cannot_be_read_is_named_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: LoadedBundle
) -> None:
    (tmp_path / "usb/lost+found").mkdir(parents=True)
    (tmp_path / "usb/rec").mkdir()
    (source,) = CASES.glob("10-*/bags/wave_1.mcap")
    shutil.copy(source, tmp_path / "usb/rec")
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "lost+found":  # what others than root get
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    bags, said = evaluated(bundle, tmp_path / "o", tmp_path / "usb")
    assert list(bags) == ["rec/wave_1.mcap"] and "lost+found" in said and "Permission denied" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("foxc.mcap", ("/camera/image_raw/compressed", "foxglove_msgs/msg/CompressedImage", "record")),
        ("video.mcap", ("/camera/image_raw/ffmpeg", "CompressedVideo", "image_transport republish")),
    ],
)
def test_26_other_messages_are_named_with_what_to_do(case: Any, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        list(read_bag_images(case("26") / name))
    assert all(word in str(caught.value) for word in words)


def test_26_messages_of_ros_1_in_an_mcap_are_read(case: Any) -> None:
    assert len(list(read_bag_images(case("26") / "ros1.mcap"))) == 52


def test_27_records_of_applications_are_skipped(case: Any) -> None:
    with Recording(case("27") / "private.mcap") as recording:
        assert len(list(recording.messages(recording.topics))) == 52 and recording.damage == []


def test_30_a_link_to_a_folder_above_is_never_followed(case: Any) -> None:
    assert seen_by_all(case("30", make=True) / "bags") == [("wave/a.mp4", "wave", "")]


@pytest.mark.parametrize(
    "name", ["blanks.csv", "blank_first_line.csv", "semicolon.csv", "empty_cells.csv", "bom_crlf.csv"]
)
def test_33_tables_are_read_as_spreadsheets_leave_them(case: Any, name: str) -> None:
    assert seen_by_all(case("33") / name) == [("w.mp4", "wave", "")]


@pytest.mark.parametrize(
    ("name", "words"),
    [("twice.csv", ("w.mp4", "./w.mp4", "more than once")), ("backslash.csv", ("row 1", "written with /"))],
)
def test_33_tables_that_are_wrong_say_how(case: Any, name: str, words: tuple[str, ...]) -> None:
    result = call(app, "make-bag", case("33") / name, "--out", "never")
    assert_one_line(result, *words)


def test_34_an_lfs_pointer_is_called_one(case: Any, bundle: LoadedBundle, tmp_path: Path) -> None:
    file = case("34") / "OneMessage.mcap"
    with pytest.raises(DataError, match=r"Git LFS pointer.*git lfs pull") as caught:
        Recording(file)
    assert "record it again" not in str(caught.value)
    need_evaluation()
    result = call(app, "evaluate", file, "--bundle", bundle.path, "--out", tmp_path / "out", "--jobs", "1")
    assert result.exit_code == 2 and "git lfs pull" in result.stderr
