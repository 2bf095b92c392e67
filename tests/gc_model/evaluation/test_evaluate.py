# SPDX-License-Identifier: Apache-2.0
"""Evaluation: every clip counted, once and over all batches; the report against a brute-force count."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_model.data.frames import decode
from gc_model.data.samples import sub_sequences
from gc_model.data.sampling import test_indices as fixed_indices
from gc_model.evaluation.evaluate import EvaluateOptions, evaluate
from gc_model.evaluation.judges import Robot, five_sub_sequences, stored_sub_sequences
from gc_model.evaluation.report import NONE, Judged, report
from gc_model.export.torch_engine import TorchEngine, bundle_info
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training import checkpoint
from gc_ros.media.video import read_video
from gc_ros.recognition.recognizer import Recognizer
from tests.gc_model.runs import (
    COLOURS,
    coloured,
    coloured_clips,
    colours,
    run,
    scratch,
    too_short,
    undecodable,
    untrained,
)
from tests.videos import truncated, write_clip
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError

LABELS = list(COLOURS)


def judged(truth: list[int], scores: list) -> list[Judged]:
    return [
        Judged(
            LabelledClip(f"{i}.mp4", f"{i}.mp4", LABELS[t]),
            None if s is None else np.array(s),
            "" if s else "broken",
        )
        for i, (t, s) in enumerate(zip(truth, scores, strict=True))
    ]


score = st.none() | st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(st.lists(st.tuples(st.integers(0, 2), score), min_size=1, max_size=40))
def test_the_report_equals_a_brute_force_count(clips):
    truth, scores = zip(*clips, strict=True)
    result = report(judged(list(truth), list(scores)), LABELS)
    guesses = [NONE if s is None else LABELS[int(np.argmax(s))] for s in scores]
    for i, label in enumerate(LABELS):
        for j, guess in enumerate([*LABELS, NONE]):
            count = sum(t == i and g == guess for t, g in zip(truth, guesses, strict=True))
            assert result["confusion"][i][j] == count
        mine = [g == label for t, g in zip(truth, guesses, strict=True) if t == i]
        assert (
            (result["per_class"][label] == pytest.approx(sum(mine) / len(mine)))
            if mine
            else label not in result["per_class"]
        )
    right = sum(LABELS[t] == g for t, g in zip(truth, guesses, strict=True))
    assert result["clips"] == len(clips) and result["accuracy"] == pytest.approx(right / len(clips))
    assert result["balanced_accuracy"] == pytest.approx(np.mean(list(result["per_class"].values())))
    assert list(result["predictions"].values()) == guesses
    assert set(result["problems"].values()) <= {"broken"} and len(result["problems"]) == guesses.count(NONE)


def test_groups_sum_their_members_scores():
    groups = {"warm": ["red"], "cold": ["blue", "green"]}
    scores = [[0.3, 0.3, 0.4], [0.0, 0.3, 0.7], [0.45, 0.1, 0.45], None]  # blue, green, red
    result = report(judged([2, 2, 0, 1], scores), LABELS, groups)
    assert list(result["predictions"].values()) == ["cold", "warm", "cold", NONE]
    assert result["confusion"] == [[1, 1, 0], [0, 1, 1]] and result["labels"] == ["warm", "cold", NONE]
    assert result["per_class"] == {"warm": 0.5, "cold": 0.5}
    assert result["accuracy"] == 0.5 and result["class_accuracy"] == 0.75


@pytest.mark.parametrize(
    "groups, word",
    [
        ({"a": ["red", "blue"]}, "green"),
        ({"a": ["red", "blue"], "b": ["green", "red"]}, "red"),
        ({"a": ["red", "blue", "green", "pink"]}, "pink"),
        (["red", "blue", "green"], "object"),
        ({"a": "red"}, "object"),
    ],
)
def test_groups_must_partition_the_labels_and_are_checked_before_the_judging(monkeypatch, groups, word):
    monkeypatch.setattr("gc_model.evaluation.evaluate._judged", None)
    with pytest.raises(DataError, match=word):
        evaluate(run(), EvaluateOptions(colours(), groups=groups), progress=False)


def test_classes_that_counted_as_idle_in_training_are_judged_as_idle(tmp_path):
    folder = untrained(tmp_path / "run", labels=("red", "green", "idle"))
    with pytest.raises(DataError, match=r'the class "blue", which .* was not trained on'):
        evaluate(folder, EvaluateOptions(colours()), progress=False)
    model, recipe = checkpoint.load(folder)
    checkpoint.save(folder, model, replace(recipe, provenance={"options": {"idle_classes": ["blue"]}}))
    result = evaluate(folder, EvaluateOptions(colours()), progress=False)
    assert result["clips"] == 12 and {"red", "green", "idle"} >= set(result["per_class"]) > {"idle"}


@pytest.mark.slow
def test_the_clips_judge_averages_the_logits_of_five_fixed_sub_sequences():
    result = evaluate(run(), EvaluateOptions(colours(), subjects=["a"]), progress=False)
    model, recipe = checkpoint.load(run())
    preprocess = bundle_info(model.config, recipe).preprocess
    assert result["clips"] == 6 and not result["problems"]
    for clip in own.clips(colours(), subjects=["a"]):
        frames = decode(clip.path, preprocess, 1e9).images[:, 4:-4, 4:-4]
        with torch.no_grad():
            logits = [
                model(torch.from_numpy(frames[fixed_indices(20, 8, i)]).permute(0, 3, 1, 2)[None]).logits[0]
                for i in range(5)
            ]
        assert result["predictions"][clip.name] == recipe.labels[int(torch.stack(logits).mean(0).argmax())]
    assert len(set(result["predictions"].values())) > 1  # or the test would see nothing


def test_scores_of_a_clip_are_of_the_mean_of_its_logits_at_the_temperature():
    model, recipe = checkpoint.load(run())
    model.readout.weight.data.mul_(10)  # so that sub-sequences differ
    info = bundle_info(model.config, replace(recipe, temperature=2.5))
    for clip in own.clips(colours())[:2]:
        parts = sub_sequences(decode(clip.path, info.preprocess, 1e9).images, model.config)
        with torch.no_grad():
            logits = model(parts).logits.double()
        scores = torch.softmax(logits.mean(0) / 2.5, 0).numpy()
        assert five_sub_sequences(model, info)(clip) == pytest.approx(scores, abs=1e-5)
        # Neither one sub-sequence nor another temperature gives them.
        for other in (logits[0] / 2.5, logits[2] / 2.5, logits.mean(0)):
            assert np.abs(torch.softmax(other, 0).numpy() - scores).max() > 1e-4


def test_stored_features_of_a_clip_do_not_judge_one_filmed_again_under_its_name(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    model, recipe = checkpoint.load(run())
    info = bundle_info(model.config, recipe)

    def scores(cache) -> list:
        clips = own.clips(data)
        stored = cache and stored_sub_sequences(model, info, cache, clips, True)
        judge = stored or five_sub_sequences(model, info)
        return [judge(clip) for clip in clips]

    before = scores(tmp_path / "cache")
    shutil.copy(colours() / "green" / "green3.mp4", data / "blue" / "blue0.mp4")
    after, plain = scores(tmp_path / "cache"), scores(None)
    np.testing.assert_allclose(after, plain, atol=2e-3)
    assert not np.allclose(after[0], before[0], atol=0.02) and np.array_equal(after[1:], before[1:])


def streamed(mode: str) -> dict[str, str]:
    """Labels by the recogniser, called by hand."""
    model, recipe = checkpoint.load(run())
    info = bundle_info(model.config, recipe)
    labels = {}
    for clip in own.clips(colours(), subjects=["a"]):
        recognizer = Recognizer(LoadedBundle(run(), info), TorchEngine(model, info, mode), mode=mode)
        results = [recognizer.push(image, stamp, bgr=False) for image, stamp in read_video(clip.path)]
        scores = np.mean([r.scores for r in results if r is not None], axis=0)
        labels[clip.name] = recipe.labels[int(np.argmax(scores))]
    return labels


@pytest.mark.parametrize("mode", ["window", "step"])
def test_the_stream_judge_is_the_robots_recogniser(mode):
    result = evaluate(
        run(), EvaluateOptions(colours(), subjects=["a"], judge="stream", mode=mode), progress=False
    )
    assert result["predictions"] == streamed(mode) and result["mode"] == mode
    assert len(set(result["predictions"].values())) > 1


def test_subjects_choose_the_clips_that_count():
    result = evaluate(run(), EvaluateOptions(colours(), subjects=["b"], judge="stream"), progress=False)
    assert result["clips"] == 6 and not any(
        name.endswith(("0.mp4", "2.mp4")) for name in result["predictions"]
    )


@pytest.fixture(scope="module")
def damaged():
    """Three good clips and a short, a truncated, an empty and an undecodable one, all red."""
    data = scratch() / "damaged"
    if not data.exists():
        coloured_clips(data, per_class=1)
        too_short(data / "red" / "short.mp4")
        undecodable(data / "red" / "broken.mp4")
        truncated(data / "red" / "red0.mp4", data / "red" / "half.mp4", 0.6)
        (data / "red" / "empty.mp4").touch()
        with (data / "clips.csv").open("a", newline="") as file:
            csv.writer(file).writerows(
                [f"red/{n}.mp4", "red", "a"] for n in ("short", "broken", "half", "empty")
            )
    return data


def test_no_test_clip_is_dropped_those_that_do_not_decode_are_wrong_and_named(damaged):
    result = evaluate(run(), EvaluateOptions(damaged), progress=False)
    bad = {"red/broken.mp4", "red/half.mp4", "red/empty.mp4"}
    assert result["clips"] == 7 and np.sum(result["confusion"]) == 7
    assert set(result["problems"]) == bad and all(name in result["problems"][name] for name in bad)
    assert all(result["predictions"][name] == NONE for name in bad)
    right = sum(result["predictions"][c.name] == c.label for c in own.clips(damaged))
    assert result["accuracy"] == pytest.approx(right / 7)


def test_a_clip_shorter_than_a_window_shows_its_last_frame_until_the_window_is_full(damaged):
    result = evaluate(run(), EvaluateOptions(damaged, judge="stream"), progress=False)
    assert result["clips"] == 7 and result["held"] == ["red/short.mp4"]
    assert set(result["problems"]) == {f"red/{n}.mp4" for n in ("broken", "half", "empty")}
    model, recipe = checkpoint.load(run())
    info = bundle_info(model.config, recipe)
    frames = list(read_video(damaged / "red" / "short.mp4"))
    assert len(frames) > 0 and (frames[-1][1] - frames[0][1]) / 1e9 < 7 / info.rate_hz
    rate = round(1e9 / info.rate_hz)
    held = frames + [(frames[-1][0], frames[-1][1] + (k + 1) * rate) for k in range(8)]
    recognizer = Recognizer(LoadedBundle(run(), info), TorchEngine(model, info, "step"), mode="step")
    results = (recognizer.push(image, stamp, bgr=False) for image, stamp in held)
    first = next(r for r in results if r is not None)
    assert result["predictions"]["red/short.mp4"] == first.label


@pytest.mark.parametrize("mode", ["window", "step"])
def test_what_is_left_of_a_clip_behind_a_break_is_not_held_where_there_was_a_result(tmp_path, mode):
    images = coloured(0, COLOURS["red"], 20) + coloured(0, COLOURS["green"], 6)
    path = write_clip(tmp_path / "c.mp4", images, fps=4, pts=[*range(20), *range(60, 66)])
    model, recipe = checkpoint.load(run())
    info = bundle_info(model.config, recipe)
    judge = Robot(model, info, mode)
    scores = judge(LabelledClip(path, "c.mp4", "red"))
    recognizer = Recognizer(LoadedBundle(run(), info), TorchEngine(model, info, mode), mode=mode)
    results = [recognizer.push(image, stamp, bgr=False) for image, stamp in read_video(path)]
    assert 0 < recognizer.warmup[0] < info.T and recognizer.counters().resets
    np.testing.assert_allclose(scores, np.mean([r.scores for r in results if r is not None], 0))
    assert not judge.held


@pytest.mark.slow
def test_a_clip_is_judged_alike_whatever_else_is_judged(damaged):
    alone, among = (
        evaluate(run(), EvaluateOptions(colours(), subjects=["a"]), progress=False),
        evaluate(run(), EvaluateOptions(colours()), progress=False),
    )
    assert alone["predictions"].items() <= among["predictions"].items()


def test_a_class_the_model_does_not_know_is_named(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    text = (data / "clips.csv").read_text().replace(",green,", ",pink,")
    (data / "clips.csv").write_text(text)
    with pytest.raises(DataError, match=r'"pink".*blue, green, red'):
        evaluate(run(), EvaluateOptions(data), progress=False)


@pytest.mark.slow
def test_a_run_whose_labels_are_decomposed_judges_the_clips_of_these_classes(tmp_path):
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    data = coloured_clips(tmp_path / "data", per_class=2)
    plain = evaluate(run(), EvaluateOptions(data), progress=False)
    guess = plain["predictions"]
    # The class that the network sees in the first clip, so that one answer at least is right.
    known = next(iter(guess.values()))
    table = (data / "clips.csv").read_text().splitlines()
    rows = [line.split(",") for line in table]
    for row in rows[1:]:
        row[1] = composed if row[0] == next(iter(guess)) or row[1] == known else row[1]
    (data / "clips.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    labels = [decomposed if name == known else name for name in LABELS]
    found = evaluate(untrained(tmp_path / "run", labels=tuple(labels)), EvaluateOptions(data), progress=False)
    assert found["labels"] == [*labels, NONE] and found["clips"] == 6
    assert found["predictions"] == {n: decomposed if k == known else k for n, k in guess.items()}
    assert found["per_class"][decomposed] > 0 and composed not in found["per_class"]


@pytest.mark.parametrize(
    "wrong, words", [({"judge": "guess"}, "clips or stream"), ({"mode": "both"}, "window or step")]
)
def test_unknown_judges_and_modes_are_refused(wrong, words):
    with pytest.raises(DataError, match=words):
        evaluate(run(), EvaluateOptions(colours(), **({"judge": "stream"} | wrong)), progress=False)


def test_a_centered_model_is_evaluated_by_windows_only(tmp_path):
    centered = untrained(tmp_path / "run", temporal="centered")
    result = evaluate(centered, EvaluateOptions(colours(), subjects=["a"], judge="stream"), progress=False)
    assert result["mode"] == "window" and result["clips"] == 6
    with pytest.raises(DataError, match='"step" is not one of this model'):
        evaluate(centered, EvaluateOptions(colours(), judge="stream", mode="step"), progress=False)


def test_the_result_is_plain_json_and_names_no_folder():
    text = json.dumps(
        evaluate(run(), EvaluateOptions(colours(), subjects=["a"], judge="stream"), progress=False)
    )
    assert str(scratch()) not in text


def test_the_torch_engine_starts_anew_after_a_reset():
    model, recipe = checkpoint.load(run())
    engine = TorchEngine(model, bundle_info(model.config, recipe), "step")
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 64, 64, 3), np.uint8)
    first = [engine.run({"frame": frame})["logits"].copy() for frame in frames]
    on = engine.run({"frame": frames[0]})["logits"].copy()
    engine.reset()
    again = [engine.run({"frame": frame})["logits"].copy() for frame in frames]
    assert np.array_equal(first, again) and not np.array_equal(on, first[0])


@pytest.mark.slow
def test_a_continuous_stream_carries_its_state_and_says_what_windows_give():
    model, _ = checkpoint.load(run())
    result = evaluate(run(), EvaluateOptions(colours(), judge="continuous"), progress=False)
    assert result["clips"] == 12 and not result["problems"] and result["mode"] == "carried"
    clips = own.clips(colours())
    assert list(result["predictions"]) != [c.name for c in clips]  # in a drawn order, always the same
    assert evaluate(run(), EvaluateOptions(colours(), judge="continuous"), progress=False) == result
    # Against the recurrence by hand.
    by_name, state, right = {c.name: c for c in clips}, model.initial_state(1, streaming=True), 0
    squares = bundle_info(model.config, checkpoint.load(run())[1]).preprocess
    with torch.no_grad():
        for name, predicted in result["predictions"].items():
            images = decode(by_name[name].path, squares, max_fps=1e9).images
            border = (model.config.resize - model.config.size) // 2
            images = images[:, border : border + model.config.size, border : border + model.config.size]
            at = fixed_indices(len(images), 8, 0, 1)
            frames = torch.from_numpy(np.ascontiguousarray(images[at])).permute(0, 3, 1, 2)[None]
            logits = []
            for t in range(8):
                frame, state = model.stream(frames[:, t], state)
                logits.append(frame.logits)
            assert predicted == LABELS[int(torch.stack(logits).mean(0).argmax())]
            right += LABELS[int(model(frames).logits.argmax())] == by_name[name].label
    assert result["window_accuracy"] == pytest.approx(right / 12)


def test_windows_of_a_continuous_stream_count_every_clip_as_the_state_does(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    whole = evaluate(run(), EvaluateOptions(data, judge="continuous"), progress=False)
    for colour in set(COLOURS) - {"green"}:
        undecodable(data / colour / f"{colour}0.mp4")
    # What windows say of the one clip that is left, as its truth.
    model, recipe = checkpoint.load(run())
    squares = bundle_info(model.config, recipe).preprocess
    with torch.no_grad():
        frames = sub_sequences(decode(data / "green" / "green0.mp4", squares, 1e9).images, model.config, 1)
        label = recipe.labels[int(model(frames).logits.argmax())]
    table = (data / "clips.csv").read_text().replace(",green,", f",{label},")
    (data / "clips.csv").write_text(table)
    found = evaluate(run(), EvaluateOptions(data, judge="continuous"), progress=False)
    assert found["clips"] == whole["clips"] == 3 and len(found["problems"]) == 2
    assert found["window_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("temporal", ["causal", "centered"])
def test_a_model_of_whole_clips_carries_no_state_and_one_that_reads_the_last_frame_does(tmp_path, temporal):
    for name, changes in {"c3d": {"model": "c3d"}, "last": {"readout": "last"}}.items():
        config = preset("tiny", classes=3, temporal=temporal, **changes)
        checkpoint.save(tmp_path / name, build(config), checkpoint.Recipe(LABELS))
    asked = EvaluateOptions(colours(), subjects=["a"], judge="continuous")
    with pytest.raises(DataError, match=r"c3d sees whole clips: take --judge sub-sequences or stream$"):
        evaluate(tmp_path / "c3d", asked, progress=False)
    if temporal == "causal":
        assert evaluate(tmp_path / "last", asked, progress=False)["mode"] == "carried"
