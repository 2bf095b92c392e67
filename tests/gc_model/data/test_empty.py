# SPDX-License-Identifier: Apache-2.0
"""`gc-model empty`: a place is shown without the people in it, and only where it is known who is where."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gc_model.cli import app
from gc_model.data import own
from gc_model.data.empty import Shot, _laid, _views, beside, known, place
from gc_ros.media.detections import Box, Detection, Detections, boxes_of, write_csv
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from tests.command_line import assert_one_line, call
from tests.videos import write_clip

W, H, FPS = 128, 96, 10
RED = (220, 20, 30)


def wall(seed: int = 0) -> NDArray[np.uint8]:
    """A place: soft blotches in blue and green, no red, which video keeps within a few levels."""
    coarse = np.random.default_rng(seed).integers(60, 180, (H // 16, W // 16, 3))
    coarse[..., 0] = 60
    return np.repeat(np.repeat(coarse, 16, 0), 16, 1).astype(np.uint8)


def clip_of(
    folder: Path,
    lefts: list[int | None],
    *,
    name: str = "walk/a.mp4",
    pans: int = 0,
    found: int | None = None,
) -> None:
    """A red person of 24 x 60 whose left edge is at `lefts` (None: not there), and the boxes of the first `found`."""
    frames, boxes = [], []
    for k, left in enumerate(lefts):
        image = np.roll(wall(), k * pans, 1)
        people: tuple[Detection, ...] = ()
        if left is not None:
            image[20:80, left : left + 24] = RED
            people = (Detection("1", Box(left, 20, left + 24, 80)),)
        frames.append(image)
        boxes.append(Detections(round(k * NS / FPS), people if found is None or k < found else ()))
    path = folder / "clips" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, frames, fps=FPS)
    table = boxes_of(folder / "boxes", name)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, boxes)


def shot_of(folder: Path):
    (clip,) = own.clips(folder / "clips")
    return known(clip, boxes_of(folder / "boxes", clip.name))


def red(images: NDArray[np.uint8]) -> bool:
    """Whether somebody is seen."""
    strong = images.astype(int)
    return bool((strong[..., 0] - strong[..., 1:].max(-1) > 60).sum() > 20)


ACROSS: list[int | None] = [4 * k for k in range(26)]
STANDS: list[int | None] = [20] * 16


def test_the_place_stands_where_a_person_walked(tmp_path: Path) -> None:
    clip_of(tmp_path, ACROSS)
    shot = shot_of(tmp_path)
    shown = place(shot)
    assert red(shot.frames) and shown.shape == shot.frames.shape
    assert not red(shown)
    assert np.abs(shown.astype(int) - wall()).mean() < 6


@pytest.mark.parametrize(("lefts", "pans"), [(STANDS, 0), (ACROSS, 5)])
def test_no_place_is_made_up_behind_who_stands_or_a_camera_that_pans(
    tmp_path: Path, lefts: list[int | None], pans: int
) -> None:
    clip_of(tmp_path, lefts, pans=pans)
    assert place(shot_of(tmp_path)) is None


def test_the_part_beside_everybody_is_mirrored_to_the_size_of_the_picture(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    shot = shot_of(tmp_path)
    shown = beside(shot)
    assert shown.shape == shot.frames.shape and not red(shown)
    # What was free stays where it was; its mirror image stands where the person did.
    np.testing.assert_array_equal(shown[:, :, 60:], shot.frames[:, :, 60:])
    edge = (
        np.flatnonzero(~shot.people.any((0, 1)))[-1]
        + 1
        - (W - np.flatnonzero(shot.people.any((0, 1)))[-1] - 1)
    )
    np.testing.assert_array_equal(shown[:, :, edge - 10 : edge], shown[:, :, edge : edge + 10][:, :, ::-1])


def test_nothing_is_beside_somebody_who_crosses_the_whole_picture(tmp_path: Path) -> None:
    clip_of(tmp_path, ACROSS)
    shot = shot_of(tmp_path)
    shot.people[:, :, :] = True
    assert beside(shot) is None and place(shot) is None


def test_pictures_in_which_a_detector_found_nobody_do_not_count_as_empty(tmp_path: Path) -> None:
    clip_of(tmp_path, ACROSS, found=12)
    shot = shot_of(tmp_path)
    # A box counts for 0.4 s more; after it the person is there and unknown.
    assert len(shot.frames) == 16
    clip_of(tmp_path, ACROSS, found=2)
    assert shot_of(tmp_path) is None


def test_pictures_of_another_size_end_the_stretch(tmp_path: Path) -> None:
    clip_of(tmp_path, ACROSS)
    (clip,) = own.clips(tmp_path / "clips")

    def read(path: Path):
        for k, (image, stamp_ns) in enumerate(read_video(path)):
            yield (image if k < 14 else image[:40]), stamp_ns

    shot = known(replace(clip, read=read), boxes_of(tmp_path / "boxes", clip.name))
    assert len(shot.frames) == 14 and len(shot.stamps) == 14


def test_the_command_writes_idle_clips_that_training_takes(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    clip_of(tmp_path, ACROSS, name="run/b.mp4")
    (tmp_path / "clips/run/c.mp4").write_bytes((tmp_path / "clips/run/b.mp4").read_bytes()[:300])
    table = boxes_of(tmp_path / "boxes", "run/c.mp4")
    table.write_bytes(boxes_of(tmp_path / "boxes", "run/b.mp4").read_bytes())
    write_clip(tmp_path / "clips/run/d.mp4", [wall()] * 4, fps=FPS)
    arguments = ("empty", tmp_path / "clips", "--boxes", tmp_path / "boxes", "--out", tmp_path / "out")
    done = call(app, *arguments, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["clips"], result["without_boxes"]) == (4, 1) and list(result["damaged"]) == ["run/c.mp4"]
    found = own.clips(tmp_path / "out")
    assert len(found) == result["beside"] + result["places"] and {c.label for c in found} == {"idle"}
    assert sorted(c.name for c in found) == ["idle/run_b_places.mp4", "idle/walk_a_beside.mp4"]
    for clip in found:
        images = np.stack([image for image, _ in read_video(clip.path)])
        assert images.shape[1:3] == (H, W) and not red(images)
    said = call(app, *arguments)
    assert "4 clips: 1 views beside people, 1 places without them" in said.stdout
    assert "nothing of run/c.mp4" in said.stderr
    assert f"clips without a table of boxes in {tmp_path / 'boxes'}: 1" in said.stderr


def test_the_subject_of_a_clip_stays_with_its_place(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    with (tmp_path / "clips/clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "class", "subject"], ["walk/a.mp4", "walk", "f1"]])
    call(app, "empty", tmp_path / "clips", "--boxes", tmp_path / "boxes", "--out", tmp_path / "out")
    assert [c.subject for c in own.clips(tmp_path / "out")] == ["f1"]


def test_a_table_of_other_clips_is_never_replaced_and_one_of_its_own_grows(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    clip_of(tmp_path, STANDS, name="walk_a/b.mp4")
    clip_of(tmp_path, STANDS, name="walk/a_b.mp4")
    everybody = tmp_path / "clips/clips.csv"
    everybody.write_text(
        "path,class,subject\nwalk/a.mp4,walk,f0\nwalk_a/b.mp4,turn,f1\nwalk/a_b.mp4,walk,f1\n"
    )
    before = everybody.read_text()
    arguments = ("empty", tmp_path / "clips", "--boxes", tmp_path / "boxes", "--out")
    assert_one_line(call(app, *arguments, tmp_path / "clips"), "clips of something else", "another folder")
    assert everybody.read_text() == before
    assert call(app, *arguments, tmp_path / "out", "--subjects", "f1").exit_code == 0
    assert call(app, *arguments, tmp_path / "out", "--subjects", "f0").exit_code == 0
    assert sorted((c.name, c.subject) for c in own.clips(tmp_path / "out")) == [
        ("idle/walk_a_b_2_beside.mp4", "f1"), ("idle/walk_a_b_beside.mp4", "f1"), ("idle/walk_a_beside.mp4", "f0"),
    ]  # fmt: skip


def test_without_boxes_or_any_free_place_the_error_says_what_to_do(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    arguments = ("empty", tmp_path / "clips", "--out", tmp_path / "out", "--boxes")
    assert_one_line(call(app, *arguments, tmp_path / "none"), "gc-model joints --boxes")
    write_csv(
        boxes_of(tmp_path / "boxes", "walk/a.mp4"), [Detections(0, (Detection("1", Box(0, 0, W, H)),))] * 1
    )
    assert_one_line(call(app, *arguments, tmp_path / "boxes"), "none shows a place without them")


def test_boxes_of_other_pictures_show_no_empty_place(tmp_path: Path) -> None:
    """Of pictures three times as large: what lies beside them is not without people."""
    clip_of(tmp_path, STANDS)
    clip_of(tmp_path, STANDS, name="walk/b.mp4")
    arguments = ("empty", tmp_path / "clips", "--out", tmp_path / "out", "--boxes", tmp_path / "boxes")
    for name in ("walk/a.mp4", "walk/b.mp4"):
        large = [
            Detections(k * NS // FPS, (Detection("1", Box(3 * 50, 60, 3 * 74, 240)),)) for k in range(16)
        ]
        write_csv(boxes_of(tmp_path / "boxes", name), large)
    words = ("walk/a.mp4", "outside the pictures", "another size", "and 1 more")
    assert_one_line(call(app, *arguments), *words)
    clip_of(tmp_path, STANDS, name="walk/b.mp4")
    done = call(app, *arguments)
    assert done.exit_code == 0 and "outside the pictures" in done.output, done.output


def test_tables_that_cannot_be_read_are_the_reason_where_nothing_is_written(tmp_path: Path) -> None:
    clip_of(tmp_path, STANDS)
    clip_of(tmp_path, STANDS, name="walk/b.mp4")
    table = boxes_of(tmp_path / "boxes", "walk/a.mp4")
    table.write_text(table.read_text().replace("x_max", "xmax"))
    boxes_of(tmp_path / "boxes", "walk/b.mp4").unlink()
    arguments = ("empty", tmp_path / "clips", "--out", tmp_path / "out", "--boxes", tmp_path / "boxes")
    assert_one_line(call(app, *arguments), "walk/a.mp4", "x_max")


def test_a_box_is_widened_by_its_longer_side(tmp_path):
    clip_of(tmp_path, STANDS)
    rows, columns = (np.flatnonzero(shot_of(tmp_path).people[0].any(axis)) for axis in (1, 0))
    # 24 x 60 at (20, 20), and 0.15 of 60 on every side.
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (11, 89, 11, 53)


def test_nothing_of_a_person_shines_through_where_the_place_is_laid(tmp_path):
    mask = np.zeros((H, W), bool)
    mask[20:80, 30:60] = True
    laid = _laid(np.full((H, W, 3), 255, np.uint8), np.zeros((H, W, 3), np.uint8), mask)
    assert (laid[mask] == 0).all() and (laid[:, :15] == 255).all()
    assert 0 < laid[50, 28, 0] < 255  # no seam


def test_black_borders_are_no_place(tmp_path, monkeypatch):
    clip_of(tmp_path, STANDS)
    (clip,) = own.clips(tmp_path / "clips")
    people = np.zeros((8, H, W), bool)
    people[:, 20:80, 4:30] = True
    for level, views in ((8, 0), (60, 1)):
        shot = Shot(np.full((8, H, W, 3), level, np.uint8), list(range(8)), people)
        monkeypatch.setattr("gc_model.data.empty.known", lambda *_, shot=shot: shot)
        assert len(list(_views(clip, tmp_path))) == views
