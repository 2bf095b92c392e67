# SPDX-License-Identifier: Apache-2.0
"""gc-ros teach, forget and taught, and the commands that apply what was taught."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gc_ros.cli import app
from gc_ros.media import bag_reading
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import Clip, find_clips, find_recordings
from gc_ros.recognition import showing, taught_file
from gc_ros.recognition.footage import clip_frames, clip_pictures
from gc_ros.recognition.kept_clips import keep_clips, names_of_clips
from gc_ros.recognition.space import Examples
from gc_ros.recognition.taught import Taught, examples_of, space_of
from gc_ros.recognition.taught_file import read_taught, write_taught
from tests.command_line import no_file_above
from tests.gc_ros.test_cli import fails, run
from tests.toy import toy_bundle
from tests.videos import write_clip
from trt_build.bundle import load_bundle
from trt_build.errors import DataError

YELLOW, GREY = (200, 200, 40), (90, 90, 90)


def flicker(path: Path, rgb: tuple[int, int, int], seed: int, seconds: float = 1.6) -> Path:
    """A clip of one colour that varies a little, 16 Hz."""
    rng = np.random.default_rng(seed)
    frames = [
        np.full((24, 32, 3), np.clip(np.array(rgb) + rng.normal(0, 4, 3), 0, 255), np.uint8)
        for _ in range(round(16 * seconds))
    ]
    return write_clip(path, frames, fps=16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """yellow0..4 to show, yellow9 to recognise, grey0..4 of something else, grey9, red9."""
    folder = tmp_path_factory.mktemp("clips")
    for i in (0, 1, 2, 3, 4, 9):
        flicker(folder / f"yellow{i}.mp4", YELLOW, i)
        flicker(folder / f"grey{i}.mp4", GREY, 20 + i)
    flicker(folder / "red9.mp4", (210, 40, 40), 50)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "b", "colours", embedding=True).path


def shown(clips: Path, name: str = "yellow") -> list[Path]:
    return [clips / f"{name}{i}.mp4" for i in range(5)]


def label_of(clip: Path, bundle: Path, *more: object) -> dict[str, object]:
    code, out, err = run("video", clip, "-b", bundle, "--json", "--threads", 1, *more)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def test_five_clips_teach_an_activity_that_other_clips_then_have(clips: Path, bundle: Path) -> None:
    before = label_of(clips / "yellow9.mp4", bundle)
    assert before["label"] in ("red", "green")
    code, out, err = run("teach", "yellow", *shown(clips), "--bundle", bundle, "--threads", 1)
    assert code == 0 and "yellow: taught from 5 clips" in out and err == ""
    assert label_of(clips / "yellow9.mp4", bundle)["label"] == "yellow"
    assert label_of(clips / "red9.mp4", bundle)["label"] == "red"
    assert label_of(clips / "yellow9.mp4", bundle, "--taught", "none")["label"] == before["label"]
    text = run("video", clips / "yellow9.mp4", "-b", bundle, "--threads", 1)[1]
    assert "yellow (taught)" in text
    assert not [p for p in (bundle.parent / "b.taught").rglob("*") if p.suffix == ".mp4"], (
        "clips are not kept"
    )
    load_bundle(bundle)  # nothing was written into it


def test_what_is_shown_as_none_of_them_is_unknown(clips: Path, bundle: Path) -> None:
    others = [part for path in shown(clips, "grey") for part in ("--none", path)]
    assert run("teach", "yellow", *shown(clips), "-b", bundle, *others, "--threads", 1)[0] == 0
    rows = run("video", clips / "grey9.mp4", "-b", bundle, "--json", "--threads", 1)[1].splitlines()
    results = [row for row in map(json.loads, rows) if row["type"] == "activity"]
    assert results and all(row["status"] == "unknown" for row in results)


def test_what_was_shown_as_none_of_them_is_listed_and_forgotten_alone(bundle: Path) -> None:
    fails("forget", "none", "-b", bundle, words=("holds no taught.json",))
    loaded, where = load_bundle(bundle), bundle.with_name("b.taught")
    taught = Taught(loaded.info.model_id, {"yellow": examples(9)})
    write_taught(where, taught)
    fails("forget", "none", "-b", bundle, words=('"none" was not taught; taught is: yellow',))
    assert json.loads(run("taught", "-b", bundle, "--json")[1])["none"] is None
    write_taught(where, taught.with_none(examples(9)))
    assert "none of these: 4 clips, 12 windows" in run("taught", "-b", bundle)[1]
    assert json.loads(run("taught", "-b", bundle, "--json")[1])["none"] == {"clips": 4, "windows": 12}
    code, out, err = run("forget", "none", "-b", bundle)
    assert (code, out.strip(), err) == (0, "none: forgotten", "")
    after = read_taught(where, loaded.info.model_id)
    assert after.none is None and list(after.activities) == ["yellow"]


@pytest.mark.slow
def test_taught_activities_are_listed_renamed_merged_and_forgotten(clips: Path, bundle: Path) -> None:
    assert "nothing was taught" in run("taught", "-b", bundle)[1]
    run("teach", "yellow", *shown(clips), "-b", bundle, "--threads", 1)
    listed = json.loads(run("taught", "-b", bundle, "--json")[1])
    (row,) = listed["activities"]
    assert row["name"] == "yellow" and row["clips"] == 5 and row["remarks"] == []
    assert row["recognised_left_out"] == 1.0
    other = bundle.parent / "other"
    run("teach", "grey", *shown(clips, "grey"), "-b", bundle, "--taught", other, "--threads", 1)
    code, out, _ = run("taught", "-b", bundle, "--rename", "yellow=sun", "--merge", other)
    assert code == 0 and "sun: 5 clips" in out and "grey: 5 clips" in out
    assert label_of(clips / "grey9.mp4", bundle)["label"] == "grey"
    assert run("forget", "grey", "-b", bundle)[0] == 0
    assert [a["name"] for a in json.loads(run("taught", "-b", bundle, "--json")[1])["activities"]] == ["sun"]
    fails("forget", "grey", "-b", bundle, words=('"grey" was not taught', "sun"))


def test_one_clip_is_taught_with_a_warning(clips: Path, bundle: Path) -> None:
    code, out, err = run("teach", "yellow", clips / "yellow0.mp4", "-b", bundle, "--threads", 1)
    assert code == 0 and "taught from 1 clip, " in out and "warning: too few" in err


def test_evaluate_scores_what_was_taught(clips: Path, bundle: Path, tmp_path: Path) -> None:
    for name in ("yellow", "red"):
        (tmp_path / "set" / name).mkdir(parents=True)
        shutil.copy(clips / f"{name}9.mp4", tmp_path / "set" / name)
    evaluate = ("evaluate", tmp_path / "set", "-b", bundle, "--jobs", 1, "--json")
    plain = json.loads(run(*evaluate, "--out", tmp_path / "plain")[1])
    assert plain["result"]["labels"] == ["red", "green", "blue"]
    assert "taught_sha256" not in plain["provenance"]["options"]
    run("teach", "yellow", *shown(clips), "-b", bundle, "--threads", 1)
    found = json.loads(run(*evaluate, "--out", tmp_path / "taught")[1])
    assert found["result"]["labels"] == ["red", "green", "blue", "yellow"]
    assert found["result"]["windows"]["accuracy"] >= 0.9
    assert len(found["provenance"]["options"]["taught_sha256"]) == 64


def test_people_are_scored_by_what_was_taught_too(clips: Path, bundle: Path, tmp_path: Path) -> None:
    clip = flicker(tmp_path / "ann.mp4", YELLOW, 9, seconds=3)
    boxes = "".join(f"{i / 16:.3f},ann,8,6,24,18\n" for i in range(48))
    (tmp_path / "ann.people.csv").write_text("time_s,id,x_min,y_min,x_max,y_max\n" + boxes)
    (tmp_path / "ann.truth.csv").write_text("id,start_s,end_s,label\nann,0,3,yellow\n")
    run("teach", "yellow", *shown(clips), "-b", bundle, "--threads", 1)
    out = tmp_path / "out"
    code, text, err = run(
        "evaluate", clip, "-b", bundle, "--people", "auto", "--jobs", 1, "--json", "--out", out
    )
    assert code == 0, err
    (ann,) = json.loads(text)["result"]["people"]["persons"]
    assert ann["person"] == "ann" and ann["accuracy"] == 1
    rows = [json.loads(line) for line in (out / "windows.jsonl").read_text().splitlines()]
    assert rows and all(len(row["scores"]) == 4 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("red", "yellow0.mp4"), ("is an activity of toy-colours itself",)),
        (("RED", "yellow0.mp4"), ('"red" is an activity of toy-colours itself',)),
        (("Unknown", "yellow0.mp4"), ("of no activity",)),
        (("none", "yellow0.mp4"), ("of no activity",)),
        (("a\nb", "yellow0.mp4"), ("control characters",)),
        (("x", "missing.mp4"), ("no such clip",)),
    ],
)
def test_mistakes_are_one_line(clips: Path, bundle: Path, arguments, words) -> None:
    name, *files = arguments
    fails("teach", name, *[clips / f for f in files], "-b", bundle, words=words)


def test_an_old_bundle_says_that_it_cannot_be_taught(clips: Path, tmp_path: Path) -> None:
    old = toy_bundle(tmp_path / "old", "colours").path
    fails("teach", "yellow", clips / "yellow0.mp4", "-b", old, words=("cannot be taught", "trt-build export"))
    fails("taught", "-b", old, words=("cannot be taught", "trt-build export"))


@pytest.mark.parametrize("command", ["teach", "forget", "taught"])
def test_the_bundle_of_the_example_can_be_taught(command: str) -> None:
    said = CliRunner().invoke(app, [command, "--help"]).output
    (name,) = re.findall(r"bundles/(\w+)", said)
    space_of(load_bundle(Path(__file__).parents[2] / "bundles" / name))


def test_a_bundle_exchanged_underneath_is_noticed(clips: Path, bundle: Path) -> None:
    run("teach", "yellow", *shown(clips), "-b", bundle, "--threads", 1)
    toy_bundle(bundle, "colours", embedding=True, model_id="another")
    fails("video", clips / "yellow9.mp4", "-b", bundle, words=("taught to toy-colours", "another"))


def test_a_bundle_exchanged_underneath_loses_nothing_and_can_be_taught_again(
    clips: Path, bundle: Path
) -> None:
    keep = ("-b", bundle, "--threads", 1, "--keep-clips")
    assert run("teach", "yellow", *shown(clips)[:3], *keep)[0] == 0
    folder = bundle.parent / "b.taught"
    before = sorted(folder.rglob("*"))
    toy_bundle(bundle, "colours", embedding=True, model_id="another")
    remedy = (str(folder), "taught to toy-colours", "another", "move it away")
    for arguments in (("teach", "yellow", *shown(clips)[:3], *keep, "--replace"), ("taught", "-b", bundle)):
        fails(*arguments, words=remedy)
    assert sorted(folder.rglob("*")) == before
    folder.rename(folder.with_name("kept"))
    assert run("teach", "yellow", *shown(clips)[:3], "-b", bundle, "--threads", 1)[0] == 0
    # Or with all of the old forgotten.
    toy_bundle(bundle, "colours", embedding=True, model_id="a third")
    assert run("forget", "yellow", "-b", bundle)[0] == 0
    assert run("teach", "yellow", *shown(clips)[:3], "-b", bundle, "--threads", 1)[0] == 0
    assert json.loads(run("taught", "-b", bundle, "--json")[1])["model_id"] == "a third"


def test_names_with_an_equals_sign_are_renamed(clips: Path, bundle: Path) -> None:
    assert run("teach", "a=b", *shown(clips)[:3], "-b", bundle, "--threads", 1)[0] == 0
    code, out, _ = run("taught", "-b", bundle, "--rename", "a=b=c=d")
    assert code == 0 and "c=d: 3 clips" in out
    fails("taught", "-b", bundle, "--rename", "x=y", words=('"x" was not taught',))


def test_a_folder_that_is_not_there_is_said_and_not_made(bundle: Path, tmp_path: Path) -> None:
    for arguments in (("forget", "yellow"), ("taught", "--rename", "yellow=sun")):
        fails(
            *arguments, "-b", bundle, "--taught", tmp_path / "nosuch", words=("nosuch: holds no taught.json",)
        )
    assert not (tmp_path / "nosuch").exists()


def test_what_cannot_be_merged_is_said_and_no_folder_made(clips: Path, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_taught(
        other, Taught("another", {"x": Examples(np.ones((1, 9), np.float32), np.zeros(1, np.int64))})
    )
    new = ("taught", "-b", bundle, "--taught", tmp_path / "new", "--merge")
    fails(*new, tmp_path / "nosuch", words=("nosuch: holds no taught.json",))
    fails(*new, other, words=("only what the same model was taught",))
    write_taught(other, Taught("toy-colours"))
    fails(*new, other, "--rename", "x=y", words=('"x" was not taught',))
    assert not (tmp_path / "new").exists()


def test_merging_twice_adds_nothing(bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        shown = examples_of([rng.normal(size=(6, 9)).astype(np.float32) for _ in range(15)])
        write_taught(tmp_path / str(i), Taught("toy-colours").taught("x", shown))
    merge = ("taught", "-b", bundle, "--json", "--merge")
    said = [json.loads(run(*merge, tmp_path / str(i % 2))[1])["activities"][0] for i in range(5)]
    assert [(row["clips"], row["windows"]) for row in said] == [(15, 90), *[(30, 128)] * 4]


@pytest.mark.parametrize("compressed", ["png", None])
def test_a_bag_shorter_than_a_window_is_kept_as_its_video_is(
    bundle: Path, tmp_path: Path, compressed
) -> None:
    video = flicker(tmp_path / "short.mp4", YELLOW, 0, seconds=0.4)
    make_bag([Clip(video, "short", "yellow")], tmp_path / "bag", compressed=compressed)
    info, (bag,) = load_bundle(bundle).info, find_recordings([tmp_path / "bag"])
    (kept,) = clip_pictures(bag, info)
    assert np.array_equal(kept, clip_frames(video, info)) and len(kept) == info.T
    code, _, err = run("teach", "yellow", tmp_path / "bag", "-b", bundle, "--keep-clips", "--threads", 1)
    assert code == 0, err
    (clip,) = find_clips([tmp_path / "b.taught" / "clips"])
    assert clip.label == "yellow"


@pytest.mark.parametrize("damage", ["table", "clip", "bag"])
def test_clips_that_cannot_be_kept_are_said_before_any_is_watched(
    clips: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def watched(*_: object) -> None:
        raise AssertionError("watched")

    monkeypatch.setattr(showing, "examples_from_clips", watched)
    shown, words = clips / "yellow0.mp4", "broken.mp4"
    if damage == "table":
        words = "not a table path,class"
        (tmp_path / "b.taught" / "clips").mkdir(parents=True)
        (tmp_path / "b.taught" / "clips" / "clips.csv").write_text("a,b\n")
    elif damage == "clip":
        shown = tmp_path / "broken.mp4"
        shown.write_bytes(b"no video")
    else:
        shown, words = tmp_path / "bag", "bag: no image can be used; give another clip"
        make_bag([Clip(clips / "yellow0.mp4", "yellow0", "yellow")], shown, compressed="png")
        nothing = lambda messages: ((m.stamp_ns, bag_reading.Refusal("cannot be decoded")) for m in messages)
        monkeypatch.setattr(bag_reading, "_pictures", nothing)
    fails("teach", "yellow", shown, "-b", bundle, "--keep-clips", words=(words,))
    assert not (tmp_path / "b.taught" / "taught.json").exists()


def test_clips_are_kept_where_that_is_asked_for_and_go_with_the_activity(clips: Path, bundle: Path) -> None:
    kept = bundle.parent / "b.taught" / "clips"
    keep = ("-b", bundle, "--threads", 1, "--keep-clips")
    assert run("teach", "yellow", *shown(clips)[:3], *keep)[0] == 0
    assert run("teach", "yellow", *shown(clips)[:3], *keep)[0] == 0, "the same clips, once more"
    assert run("teach", "grey", *shown(clips, "grey")[:2], *keep)[0] == 0
    found = find_clips([kept])
    assert sorted(c.label for c in found) == ["grey"] * 2 + ["yellow"] * 3
    info = load_bundle(bundle).info
    yellow = next(c.path for c in found if c.label == "yellow")
    before, after = (clip_frames(path, info) for path in (shown(clips)[0], yellow))
    assert after.shape[1:] == before.shape[1:] and abs(before.mean() - after.mean()) < 8
    assert run("taught", "-b", bundle, "--rename", "yellow=amber")[0] == 0
    assert sorted({c.label for c in find_clips([kept])}) == ["amber", "grey"]
    assert run("forget", "amber", "-b", bundle)[0] == 0
    assert len(list(kept.glob("*.mp4"))) == 2, "those of the other activity"
    assert run("forget", "grey", "-b", bundle)[0] == 0
    assert not kept.exists()


def examples(width: int = 9, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return examples_of([rng.normal(size=(3, width)).astype(np.float32) for _ in range(4)])


def kept(folder: Path, *names: str) -> Path:
    """A folder in which activities, and a clip of each, are kept."""
    write_taught(folder, Taught("toy-colours", {n: examples(seed=i) for i, n in enumerate(names)}))
    for i, name in enumerate(names):
        keep_clips(folder, name, [np.full((4, 32, 32, 3), 40 * i, np.uint8)], 8.0)
    return folder


class _Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("arguments", [("forget", "bow"), ("taught", "--rename", "bow=greet")])
def test_after_a_kill_the_same_command_or_the_one_that_is_named_leaves_no_clips(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], when: str
) -> None:
    folder = kept(bundle.parent / "b.taught", "bow", "wave")

    def killed(*both: object) -> None:
        if when == "after":
            write_taught(*both)
        raise _Killed

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(taught_file, "write_taught", killed)
        CliRunner().invoke(app, [*arguments, "-b", str(bundle)])
    known, clips = list(read_taught(folder, "toy-colours").activities), names_of_clips(folder)
    assert arguments[0] == "taught" or "bow" not in clips, "no clips of what was to be forgotten"
    assert arguments[0] == "forget" or set(known) <= set(clips), "an activity keeps its clips"
    if set(clips) - set(known):
        _, _, err = run("taught", "-b", bundle)
        (remedy,) = re.findall(r"remove them: gc-ros (.*)", err)
        code, out, _ = run(*remedy.split())
        assert code == 0 and "was not taught; the clips of it that were kept are removed" in out
    elif when == "before":
        assert run(*arguments, "-b", bundle)[0] == 0
    known = list(read_taught(folder, "toy-colours").activities)
    assert set(names_of_clips(folder)) == set(known)
    assert len(list((folder / "clips").glob("*.mp4"))) == len(known)


def test_clips_are_forgotten_where_they_alone_have_the_name(bundle: Path) -> None:
    folder = kept(bundle.parent / "b.taught", "bow", "wave")
    (folder / "taught.json").unlink()
    assert run("forget", "bow", "-b", bundle)[0] == 0
    assert run("forget", "wave", "-b", bundle)[0] == 0
    assert not (folder / "clips").exists()
    fails("forget", "wave", "-b", bundle, words=("holds no taught.json",))


def test_examples_of_another_width_are_said_before_clips_are_watched_and_the_remedy_works(
    clips: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = tmp_path / "a folder"
    write_taught(narrow, Taught("toy-colours", {"my wave": examples(8)}))
    with monkeypatch.context() as patch:

        def watched(*_: object) -> None:
            raise AssertionError("watched")

        patch.setattr(showing, "examples_from_clips", watched)
        at, words = ("-b", bundle, "--taught", narrow), ("have 8 features", "with 9", "gc-ros forget")
        fails("teach", "my wave", clips / "yellow0.mp4", *at, words=words)
    before = (narrow / "taught.json").read_bytes()
    fails("taught", *at, "--rename", "my wave=x", words=words)
    fails("video", clips / "yellow9.mp4", *at, words=words)
    for there in (tmp_path / "new", kept(tmp_path / "b.taught", "my wave")):
        fails("taught", "-b", bundle, "--taught", there, "--merge", narrow, words=words)
    assert (narrow / "taught.json").read_bytes() == before and not (tmp_path / "new").exists()
    _, _, err = run("taught", *at)
    (remedy,) = re.findall(r"forget it: gc-ros (.*?); or", err)
    assert run(*shlex.split(remedy))[0] == 0
    assert run("teach", "my wave", clips / "yellow0.mp4", *at, "--threads", 1)[0] == 0
    # That of the name that is taught again is no matter.
    write_taught(narrow, Taught("toy-colours", {"my wave": examples(8)}))
    assert run("teach", "my wave", clips / "yellow0.mp4", *at, "--threads", 1, "--replace")[0] == 0


@pytest.mark.parametrize("name", ["red", "R-E_D"])
def test_a_name_of_the_bundle_itself_is_not_merged(bundle: Path, tmp_path: Path, name: str) -> None:
    write_taught(tmp_path / "other", Taught("toy-colours", {name: examples()}))
    merge = ("taught", "-b", bundle, "--merge", tmp_path / "other")
    fails(*merge, words=("of the bundle itself", "gc-ros forget"))
    assert not (tmp_path / "b.taught").exists()
    _, _, err = run(*merge)
    (remedy,) = re.findall(r"another name: gc-ros (.*)", err)
    assert run(*shlex.split(remedy.replace("NEW", "crimson")))[0] == 0
    assert run(*merge)[0] == 0


def test_a_name_that_no_activity_may_have_is_not_merged(bundle: Path, tmp_path: Path) -> None:
    write_taught(tmp_path / "other", Taught("toy-colours", {"unknown": examples()}))
    fails("taught", "-b", bundle, "--merge", tmp_path / "other", words=("'unknown'", "was changed"))


def test_a_folder_without_room_is_said_before_the_clips_are_seen(
    clips: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("begun")

    monkeypatch.setattr("trt_build.engines.open.open_engine", begun)
    shown, where = clips / "yellow0.mp4", tmp_path / "taught"
    words = (f"{where}: cannot be written (File too large)", "name a folder on another disk")
    with no_file_above(1000):
        fails("teach", "yellow", shown, "-b", bundle, "--taught", where, words=words)
    assert not where.exists()


def test_clips_that_cannot_be_kept_of_what_was_taught_do_not_hide_that_it_was(
    clips: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("clips cannot be kept")

    monkeypatch.setattr("gc_ros.recognition.kept_clips.keep_clips", full)
    shown = clips / "yellow0.mp4"
    keep = ("-b", bundle, "--threads", 1, "--keep-clips")
    fails("teach", "yellow", shown, *keep, words=("yellow: taught, but clips cannot be kept",))
    assert "yellow: 1 clip" in run("taught", "-b", bundle)[1]
