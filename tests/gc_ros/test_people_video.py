# SPDX-License-Identifier: Apache-2.0
"""`gc-ros video --people`: a line, JSON and a picture for each person of a video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gc_ros.media.detections import Box, Detection, Detections, write_csv
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from tests.gc_ros.test_cli import fails, run
from tests.videos import write_clip
from trt_build.bundle import LoadedBundle

RED, BLUE, GREY = (220, 20, 20), (10, 20, 230), (90, 90, 90)
ANN, BOB = Box(20, 60, 80, 200), Box(220, 60, 280, 200)


def scene() -> np.ndarray:
    """Red on the left, blue on the right: Ann and Bob, each as wide as the square of a person."""
    image = np.full((240, 320, 3), GREY, np.uint8)
    image[:, :150], image[:, 170:] = RED, BLUE
    return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 30 Hz, and boxes at 15 Hz; Bob leaves after one and a half."""
    folder = tmp_path_factory.mktemp("people")
    found = []
    for i in range(0, 90, 2):
        people = [Detection("ann", ANN), *([Detection("bob", BOB)] if i < 45 else [])]
        found.append(Detections(i * NS // 30, tuple(people)))
    write_csv(folder / "people.csv", found)
    return write_clip(folder / "clip.mp4", [scene()] * 90)


@pytest.mark.parametrize("mode", ["window", "step"])
def test_each_person_has_json_of_their_own(clip: Path, colours: LoadedBundle, mode: str) -> None:
    table = clip.with_name("people.csv")
    code, out, err = run("video", clip, "-b", colours.path, "--json", "--mode", mode, "--people", table)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    results = [row for row in rows if row["type"] == "person"]
    assert {(row["person"], row["label"]) for row in results} == {("ann", "red"), ("bob", "blue")}
    for row in results:
        box = ANN if row["person"] == "ann" else BOB
        assert row["box"] == pytest.approx([box.x_min, box.y_min, box.x_max, box.y_max], abs=0.01)
        assert row["end_s"] - row["start_s"] == pytest.approx(7 / 8, abs=1 / 29)
        # Where the network looked: within the square of the person.
        assert all(abs(g["box"][0] - (box.x_min - 31)) < 122 for g in row["glimpses"])
    onsets = [(r["person"], e["kind"], e["label"]) for r in results for e in r["events"]]
    assert sorted(onsets) == [("ann", "onset", "red"), ("bob", "onset", "blue")]
    assert [(r["person"], r["kind"], r["label"]) for r in rows if r["type"] == "event"] == [
        ("bob", "offset", "blue"),
        ("ann", "offset", "red"),  # at the end of the video
    ]
    last = rows[-1]
    assert last["type"] == "stream" and [(p["person"], p["label"]) for p in last["people"]] == [
        ("ann", "red"),
        ("bob", "blue"),
    ]
    assert last["resets"] == {"person left": 1} and last["frames_in"] == 90


def test_the_margin_of_the_robot_can_be_given(clip: Path, colours: LoadedBundle) -> None:
    table, scores = clip.with_name("people.csv"), []
    for margin in ([], ["--person-margin", "0.15"], ["--person-margin", "1"]):
        code, out, _ = run("video", clip, "-b", colours.path, "--json", "--people", table, *margin)
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        scores.append([row["score"] for row in rows if row["type"] == "person" and row["person"] == "ann"])
    assert scores[0] == scores[1] and max(scores[2]) < min(scores[0])


# A detector so slow that, by default, nobody is known for a whole window.
SLOW = [Detections(round(s * NS), (Detection("ann", ANN),)) for s in (0.0, 2.9)]
PATIENT = ("--people-max-age-s", "1.5", "--person-timeout-s", "3")


def test_the_times_of_the_robot_can_be_given(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    table = tmp_path / "slow.csv"
    write_csv(table, SLOW)
    arguments = ("video", clip, "-b", colours.path, "--people", table)
    fails(*arguments, words=("nobody was in 8 frames", "person left"))
    code, out, _ = run(*arguments, "--json", *PATIENT)
    last = json.loads(out.splitlines()[-1])
    assert code == 0 and [p["label"] for p in last["people"]] == ["red"] and not last["resets"]


def test_the_text_names_the_person(clip: Path, colours: LoadedBundle) -> None:
    code, out, _ = run("video", clip, "-b", colours.path, "--people", clip.with_name("people.csv"))
    lines = out.splitlines()
    assert code == 0 and any("s  ann: red 100.0%" in line and "<onset red>" in line for line in lines)
    assert any("bob: <offset blue>" in line for line in lines)
    assert lines[-1].startswith("stream: 2 people, ")
    assert "ann: red 100.0% (mean of" in lines[-3]


@pytest.mark.slow
def test_the_overlay_has_everybody_in_every_frame(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    code, _, _ = run(
        "video", clip, "-b", colours.path, "--people", clip.with_name("people.csv"), "--out", out
    )
    frames = [frame for frame, _ in read_video(out)]
    assert code == 0 and len(frames) == 90 and frames[0].shape == (480, 960, 3)
    still = frames[5].astype(int)

    def drawn(frame: np.ndarray, box: Box) -> float:
        """How different the left edge of a box looks from the frame before there were results; the view is doubled."""
        x, y0, y1 = round(2 * box.x_min), round(2 * box.y_min) + 40, round(2 * box.y_max) - 10
        return float(np.abs(frame[y0:y1, x - 3 : x + 4].astype(int) - still[y0:y1, x - 3 : x + 4]).max())

    assert drawn(frames[40], ANN) > 60 and drawn(frames[40], BOB) > 60
    assert drawn(frames[85], ANN) > 60 and drawn(frames[85], BOB) < 40


def test_who_finds_no_place_is_said(clip: Path, colours: LoadedBundle) -> None:
    table = clip.with_name("people.csv")
    code, out, _ = run("video", clip, "-b", colours.path, "--people", table, "--max-people", 1, "--json")
    last = json.loads(out.splitlines()[-1])
    assert code == 0 and [p["person"] for p in last["people"]] == ["ann"]
    assert last["left_out"]["too many people"] >= 8


def test_mistakes_are_one_line(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.csv"
    write_csv(nobody, [Detections(0, ())])
    fails("video", clip, "-b", colours.path, "--people", nobody, words=("nobody was in 8 frames", "too old"))
    fails("video", clip, "-b", colours.path, "--people", tmp_path / "none.csv", words=("none.csv",))
    (tmp_path / "odd.csv").write_text("time_s,id,x_min,y_min,x_max,y_max\n0,a,5,5,1,9\n")
    fails("video", clip, "-b", colours.path, "--people", tmp_path / "odd.csv", words=("row 1", "empty"))
    both = ("--people", nobody, "--detector", nobody)
    fails("video", clip, "-b", colours.path, *both, words=("give one of them",))
    long = ("--people", nobody, "--people-max-age-s", "2")
    fails("video", clip, "-b", colours.path, *long, words=("--person-timeout-s 1", "longer than its person"))
    fails("video", clip, "-b", colours.path, "--detector", nobody, words=("nobody.csv", "ONNX"))
