# SPDX-License-Identifier: Apache-2.0
"""Training on people: from the command line to what the bundle says of it, on drawn clips with boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from gc_model.cli import app
from gc_model.data.clip import LabelledClip, PersonSource, SeenPeople
from gc_model.data.people import with_boxes
from gc_model.evaluation.confidence import calibrate_run
from gc_model.evaluation.evaluate import EvaluateOptions, evaluate
from gc_model.export.torch_engine import bundle_info
from gc_model.synth import synthesize, synthesize_scenes
from gc_model.training import checkpoint
from gc_model.training.gathering import gather
from gc_model.training.loaders import Loaders
from gc_model.training.options import TrainOptions
from gc_model.training.train import _network, _Run, train
from gc_ros.media.detections import Box, Detection, Detections, boxes_of, write_csv
from tests.command_line import assert_one_line, call
from tests.gc_model.runs import scratch
from trt_build.errors import DataError


@cache
def drawn() -> Path:
    """Eight clips of two activities, and boxes of all but one; one table has nobody where the clip is."""
    root = scratch() / "with_boxes"
    synthesize(
        root, classes=["jump", "bow"], subjects=2, clips_per_class=4, size=(96, 96), duration_s=2.5, clutter=0,
        occlusion=0, noise=0, boxes=True, workers=1, progress=False,
    )  # fmt: skip
    boxes_of(root / "boxes", "jump/s001_c1_r01.mp4").unlink()
    far = [Detections(10**12 + k, (Detection("1", Box(1, 1, 9, 9)),)) for k in range(5)]
    write_csv(boxes_of(root / "boxes", "bow/s002_c1_r02.mp4"), far)
    return root


def options(**changes) -> TrainOptions:
    plain = {
        "data": drawn(), "boxes": drawn() / "boxes", "preset": "tiny", "epochs1": 1, "epochs2": 1, "batch": 4,
        "from_scratch": True, "val_fraction": 0.0, "window_s": 2.0,
    }  # fmt: skip
    return TrainOptions(**(plain | changes))


@cache
def trained() -> Path:
    """A run through the command."""
    out = scratch() / "people_run"
    result = call(
        app, "train", "--data", drawn(), "--boxes", drawn() / "boxes", "--out", out, "--preset", "tiny", "--epochs", 1,
        "--set", "from_scratch=true", "--set", "val_fraction=0.3", "--set", "window_s=2", "--set", "batch=4",
        "--set", "person_margin=0.2", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_a_run_says_that_it_was_trained_on_people_and_no_place_of_this_machine():
    _, recipe = checkpoint.load(trained())
    known = recipe.provenance["people"]
    assert known["margin"] == 0.2 == recipe.person_margin and 0.4 < known["share"] <= 0.8
    assert known["clips"] < recipe.provenance["clips"]
    assert "boxes" not in recipe.provenance["options"] and str(scratch()) not in json.dumps(recipe.provenance)
    assert checkpoint.Recipe(["a"]).person_margin == 0.15


@pytest.mark.slow
def test_the_bundle_carries_it():
    assert bundle_info(*checkpoint.read_description(trained())).provenance["people"]["margin"] == 0.2


@pytest.mark.slow
def test_people_and_whole_pictures_are_judged_each_for_itself():
    whole = evaluate(trained(), EvaluateOptions(drawn()), progress=False)
    people = evaluate(trained(), EvaluateOptions(drawn(), boxes=drawn() / "boxes"), progress=False)
    assert whole["clips"] == people["clips"] == 8 and (whole["people"], people["people"]) == (0, 7)
    # The clip whose table has nobody in it cannot be judged as a person: it counts as wrong, and is named.
    assert list(people["problems"]) == ["bow/s002_c1_r02.mp4"] and not whole["problems"]
    with pytest.raises(DataError, match="gc-ros evaluate --people"):
        evaluate(trained(), EvaluateOptions(drawn(), boxes=drawn() / "boxes", judge="stream"), progress=False)
    found = calibrate_run(trained(), drawn(), subjects=["2"], boxes=drawn() / "boxes", progress=False)
    assert found["windows"] and list(found["left_out"]) == ["bow/s002_c1_r02.mp4"]


@pytest.mark.slow
def test_who_cannot_be_shown_alone_leaves_a_clip_of_whole_pictures(tmp_path):
    samples = gather(options(person_share=1.0), tmp_path, tmp_path / "cache", True, False)
    assert len(samples.training) == 8 and not samples.failed
    assert list(samples.away) == ["bow/s002_c1_r02.mp4, person 1"]
    without = {c.name for c in samples.training if not c.people}
    assert without == {"jump/s001_c1_r01.mp4", "bow/s002_c1_r02.mp4"}
    # Whole pictures were made of these two alone.
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 8
    again = gather(options(person_share=0.5), tmp_path, tmp_path / "cache", True, False)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 14 and len(again.training) == 8


@pytest.mark.slow
def test_features_of_a_frozen_trunk_are_of_these_people_and_these_errors(tmp_path):
    keys = set()
    for changes in ({}, {"person_share": 0.5}, {"box_jitter": 0.2}, {"person_margin": 0.3}, {"boxes": None}):
        chosen = options(**changes)
        samples = gather(chosen, tmp_path, tmp_path / "cache", True, False)
        model, _ = _network(samples.config, chosen, samples.labels)
        data = Loaders(chosen, model, samples.labels, samples.cache, samples.training, samples.validation)
        for name in model.state_dict():
            model.state_dict()[name].zero_()  # another network has another key, whatever it sees
        keys.add(data.front_key(True))
    assert len(keys) == 5


@pytest.mark.slow
def test_a_frozen_trunk_trains_on_people_and_a_resumed_run_is_the_same(tmp_path):
    for out, resume in ((tmp_path / "a", False), (tmp_path / "b", False), (tmp_path / "b", True)):
        train(options(freeze_stages=4, views=2), out, resume=resume, progress=False)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.slow
def test_boxes_of_mixed_in_folders_are_found_beside_them(tmp_path):
    chosen = options(also=[drawn()], shares=[0.5, 0.5])
    samples = gather(chosen, tmp_path, tmp_path / "cache", True, False)
    assert sum(bool(c.people) for c in samples.training) == 12
    plain = gather(
        options(also=[drawn()], shares=[0.5, 0.5], boxes=None), tmp_path, tmp_path / "cache", True, False
    )
    assert not any(c.people for c in plain.training)


@pytest.mark.parametrize(
    "shares, alone", [(None, (2 + 0.5) / 6), ([3, 1], 0.75 * 2 / 4 + 0.25 * 0.5 / 2), ([1, 0], 2 / 4)]
)
def test_the_share_of_samples_that_show_one_alone_counts_scenes_and_the_shares_of_sources(
    tmp_path, shares, alone
):
    whole = LabelledClip(tmp_path, "a", "jump", "")
    person = PersonSource(tmp_path, "1", 0.2, lambda _: SeenPeople([]))
    one = replace(whole, people=(person,))
    # Four clips, two of them of scenes, and two of a folder that is mixed in.
    clips = [whole, whole, *[replace(one, apart=True)] * 2, *(replace(c, source=1) for c in (whole, one))]
    run = SimpleNamespace(
        samples=SimpleNamespace(training=clips),
        options=options(data=tmp_path, also=[tmp_path], shares=shares, person_share=0.5),
    )
    assert _Run._people(run)["share"] == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
def test_a_run_learns_from_the_people_of_scenes(tmp_path):
    synthesize_scenes(
        tmp_path / "s", 3, people=(2, 3), subjects=4, classes=["jump", "bow"], size=(128, 72), fps=4.0, duration_s=2.5,
        crossing=0.0, workers=1, progress=False,
    )  # fmt: skip
    both = options(data=tmp_path / "s", boxes=tmp_path / "s" / "boxes", also=[drawn()])
    # Somebody who stands nowhere cannot be shown as a whole picture instead: he is left out, and named.
    table = tmp_path / "s" / "scene_0001.truth.csv"
    table.write_text(table.read_text() + "9,0,2.5,bow\n")
    samples = gather(both, tmp_path, tmp_path / "cache", True, False)
    assert samples.labels == ["bow", "jump"] and list(samples.failed) == ["scene_0001.mp4, 9 from 0 s"]
    assert {c.apart for c in samples.training} == {True, False}
    summary = train(both, tmp_path / "run", progress=False, shared_cache=tmp_path / "cache")
    assert summary["clips"] == len(samples.training) > 12


def test_wrong_boxes_are_one_line(tmp_path):
    def with_boxes_of(where):
        ask = ("--data", drawn(), "--out", tmp_path / "run", "--preset", "tiny")
        return call(app, "train", *ask, "--boxes", where)

    assert_one_line(
        with_boxes_of(tmp_path),
        "no boxes of these clips",
        "gc-model joints",
    )
    assert_one_line(
        with_boxes_of("skeletons"),
        "ntu",
    )
    table = boxes_of(tmp_path / "b", "bow/s001_c1_r01.mp4")
    table.parent.mkdir(parents=True)
    table.write_text("time_s,id,x_min,y_min,x_max,y_max\n0,1,9,9,2,2\n")
    from gc_model.data import own

    with pytest.raises(DataError, match="row 1"):
        with_boxes(own.clips(drawn()), tmp_path / "b", 0.15)
