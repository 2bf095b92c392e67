# SPDX-License-Identifier: Apache-2.0
"""What the statistics of a bundle's classes are made from: clips as the training showed them, people alone too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gc_model.data.people import cut_out
from gc_model.export import classes
from gc_model.export.classes import WINDOWS_A_CLIP, class_statistics, training_clips
from gc_ros.media.detections import Box, Detection, Detections, write_csv
from gc_ros.stamps import NS
from tests.toy import toy_bundle
from tests.videos import write_clip
from trt_build.bundle import LoadedBundle, Preprocess
from trt_build.preprocess import model_input

BOX = Box(10, 20, 50, 60)
LABELS = ["blue", "green", "red"]
COLOURS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20)}
GREY = (128, 128, 128)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Clips of grey rooms; the person of each is a square of the colour that the class is named after."""
    for label, colour in COLOURS.items():
        for n in range(6):
            image = np.full((96, 128, 3), GREY, np.uint8)
            image[14:66, 4:56] = colour
            (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
            write_clip(tmp_path / "clips" / label / f"{n}.mp4", [image] * 24, fps=8)
            boxes = tmp_path / "boxes" / label / f"{n}.boxes.csv"
            boxes.parent.mkdir(parents=True, exist_ok=True)
            write_csv(boxes, [Detections(i * NS // 8, (Detection("1", BOX),)) for i in range(24)])
    return tmp_path / "clips"


def run_on(data: Path, **options: Any) -> Path:
    run = data.parent / "run"
    run.mkdir(exist_ok=True)
    (run / "options.json").write_text(json.dumps({"data": str(data), "layout": "clips", **options}))
    (run / "clips.json").write_text(
        json.dumps({"training": [f"{k}/{n}.mp4" for k in LABELS for n in range(6)]})
    )
    return run


def seen(share: float, data: Path) -> float:
    run = run_on(data, boxes=str(data.parent / "boxes"), person_share=share, person_margin=0.1)
    clips = training_clips(run, LABELS, None)
    assert len(clips) == 18 and all(c.person is None or c.person.margin == 0.1 for c in clips)
    return sum(c.person is not None for c in clips) / len(clips)


def test_as_many_clips_as_in_training_show_a_person_alone(data: Path) -> None:
    assert seen(0, data) == 0 and seen(1, data) == 1
    assert 0.5 < seen(0.8, data) < 1


def test_classes_that_counted_as_idle_in_training_are_no_part_of_the_statistics(data: Path) -> None:
    run = run_on(data, idle_classes=["green", "gone"])
    assert {c.label for c in training_clips(run, ["blue", "idle", "red"], None)} == {"blue", "red"}
    assert {c.label for c in training_clips(run, LABELS, None)} == {"blue", "red"}


@pytest.mark.parametrize("moved", [False, True])
def test_what_was_mixed_in_is_part_of_the_statistics_whoever_was_left_out(data: Path, moved: bool) -> None:
    """Clips that a robot kept name no person, and lie apart from the data."""
    also = data.parent / "kept" / "new"
    also.mkdir(parents=True)
    for n in range(3):
        write_clip(also / f"{n}.mp4", [np.full((96, 128, 3), GREY, np.uint8)] * 24, fps=8)
    table = [
        "path,class,subject",
        *(f"{k}/{n}.mp4,{k},{'ann' if n else 'ben'}" for k in LABELS for n in range(6)),
    ]
    (data / "clips.csv").write_text("\n".join(table))
    run = run_on(data, subjects=["ann"], also=[str(also.parent)])
    names = {*json.loads((run / "clips.json").read_text())["training"], *(f"new/{n}.mp4" for n in range(3))}
    (run / "clips.json").write_text(json.dumps({"training": sorted(names)}))
    clips = training_clips(run, [*LABELS, "new"], data if moved else None)
    assert sorted(c.label for c in clips) == sorted([*(5 * LABELS), *(3 * ["new"])])


def unpacked(data: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    """A run without a word about its training, and the provenance that came with the bundle."""
    run = data.parent / "unpacked"
    run.mkdir()
    people = {"share": 1.0, "margin": 0.1, "clips": 18} if "person_share" in options else None
    return run, {"subjects": options.get("subjects"), "people": people, "options": options}


def test_the_statistics_of_an_unpacked_run_are_of_the_people_and_clips_that_its_bundle_names(
    data: Path,
) -> None:
    rows = [f"{k}/{n}.mp4,{k},{'ann' if n else 'ben'}" for k in LABELS for n in range(6)]
    (data / "clips.csv").write_text("\n".join(["path,class,subject", *rows]))
    run, told = unpacked(data, subjects=["ann"], idle_classes=["green"], val_fraction=0.3)
    clips = training_clips(run, LABELS, data, told)
    assert {(c.subject, c.label) for c in clips} == {("ann", "blue"), ("ann", "red")} and 0 < len(clips) < 10
    assert not training_clips(run, LABELS, None, told)
    # Of a run that nothing is known of, all.
    assert len(training_clips(run, LABELS, data)) == 18


def test_an_unpacked_run_of_people_takes_the_boxes_beside_its_data_or_says_that_they_are_gone(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, told = unpacked(data, person_share=1.0, person_margin=0.1)
    clips = training_clips(run, LABELS, data, told)
    assert all(c.person is None for c in clips) and "are gone" in caplog.text
    (data.parent / "boxes").rename(data / "boxes")
    clips = training_clips(run, LABELS, data, told)
    assert len(clips) == 18 and all(c.person is not None and c.person.margin == 0.1 for c in clips)
    # One of whole pictures does not look for them.
    assert all(c.person is None for c in training_clips(run, LABELS, data, told | {"people": None}))


def test_runs_of_whole_pictures_and_those_whose_boxes_are_gone_have_whole_pictures(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert all(c.person is None for c in training_clips(run_on(data), LABELS, None))
    run = run_on(data, boxes="/nowhere", person_share=1.0)
    assert all(c.person is None for c in training_clips(run, LABELS, None)) and "are gone" in caplog.text
    # Those that lie beside the clips are taken where the training's have been moved.
    (data.parent / "boxes").rename(data / "boxes")
    assert all(c.person is not None for c in training_clips(run, LABELS, None))


@pytest.mark.parametrize("alone", [False, True])
def test_the_mean_of_a_class_is_of_what_the_network_saw_in_training(
    data: Path, tmp_path: Path, alone: bool
) -> None:
    bundle: LoadedBundle = toy_bundle(tmp_path / "bundle", "colours", embedding=True)
    labels = bundle.info.labels
    run = run_on(data, boxes=str(data.parent / "boxes"), person_share=float(alone), person_margin=0.1)
    clips = training_clips(run, labels, None)
    statistics = class_statistics(bundle, clips)
    assert statistics is not None
    for label, mean in zip(labels, statistics.mean, strict=True):
        purity = np.abs(mean[:3] - np.array(COLOURS[label])).max()
        assert purity < 12 if alone else purity > 60


def test_statistics_are_of_windows_from_both_ends_of_every_clip(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Black becomes grey in the middle of each clip: its first window is dark, its last one is not.
    for path in sorted(data.rglob("*.mp4")):
        write_clip(path, [np.full((96, 128, 3), 0 if k < 12 else 128, np.uint8) for k in range(24)], fps=8)
    bundle: LoadedBundle = toy_bundle(tmp_path / "bundle", "colours", embedding=True)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    of = classes.ClassStatistics.of
    monkeypatch.setattr(classes.ClassStatistics, "of", lambda x, y, n: seen.append((x, y)) or of(x, y, n))
    assert class_statistics(bundle, training_clips(run_on(data), bundle.info.labels, None)) is not None
    ((features, labels),) = seen
    assert np.bincount(labels).tolist() == [6 * WINDOWS_A_CLIP] * 3
    bright = features[:, :3].mean(1)
    assert (bright < 30).sum() == (bright > 100).sum() == 18


@pytest.mark.parametrize(
    "area", [(10, 12, 50, 52), (-14, 30, 66, 110), (100, -40, 180, 40), (-30, -30, 130, 130)]
)
def test_a_square_that_is_cut_out_is_seen_as_the_area_of_the_image(area: tuple[int, int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    p = Preprocess(size=56, resize=64, fit="pad")
    np.testing.assert_array_equal(
        model_input(cut_out(image, area), p, bgr=False), model_input(image, p, bgr=False, area=area)
    )


def test_who_is_in_none_of_the_frames_leaves_whole_pictures(
    data: Path, make_bundle: Callable[..., LoadedBundle]
) -> None:
    for n in range(6):
        late = [Detections((60 + i) * NS, (Detection("1", BOX),)) for i in range(24)]
        write_csv(data.parent / "boxes" / "red" / f"{n}.boxes.csv", late)
    bundle = make_bundle("colours", embedding=True)
    run = run_on(data, boxes=str(data.parent / "boxes"), person_share=1.0)
    statistics = class_statistics(bundle, training_clips(run, bundle.info.labels, None))
    assert statistics is not None and (statistics.count > 0).all()
    red = statistics.mean[bundle.info.labels.index("red")][:3]
    assert np.abs(red - np.array(COLOURS["red"])).max() > 60
