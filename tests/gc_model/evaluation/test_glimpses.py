# SPDX-License-Identifier: Apache-2.0
"""Where a model looks: distances against known places, and the command on a run with joints and one without."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.cli import app
from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_model.data.datasets import index
from gc_model.data.frames import decode
from gc_model.data.joint_tables import table_of, write_table
from gc_model.data.samples import sub_sequences
from gc_model.evaluation.glimpses import _different, _Stream, look, nearest_joint
from gc_model.export.torch_engine import bundle_info
from gc_model.paper.inflated import InflatedConv
from gc_model.paper.modes import attending
from gc_model.training import checkpoint
from gc_model.training.alive import figures
from gc_model.training.options import TrainOptions
from gc_ros.recognition.palette import GLIMPSE_COLOURS
from tests.gc_model.nets import build, noise
from tests.gc_model.runs import colours, ntu_people, scratch
from trt_build.errors import DataError

train = pytest.importorskip(
    "gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError
).train


def test_the_nearest_known_joint_of_the_same_frame_counts():
    joints = np.full((3, 2, 25, 2), np.nan, np.float32)
    joints[0, 0, 3] = (0.5, 0.5)
    joints[0, 1, 7] = (-1.0, -1.0)  # the second body counts as well
    joints[2, 0, 0] = (0.0, 0.0)
    joints[2, 0, 1] = (np.nan, 0.1)  # half known is not known
    points = np.array([[[0.5, -0.5], [-1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.6, 0.8], [0.0, 0.1]]])
    # Half the distance in [-1, 1] is the share of the side; the frame without joints is left out.
    assert nearest_joint(points, joints) == pytest.approx([0.5, 0.0, 0.5, 0.05])
    assert not len(nearest_joint(points[1:2], joints[1:2]))


def test_the_picture_takes_one_clip_of_every_class_before_a_second_of_any(tmp_path):
    clips = [
        LabelledClip(tmp_path / n, n, label, "")
        for n, label in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "a"))
    ]
    assert [c.name for c in _different(clips, 3)] == ["1", "3", "2"]


def untrained(data, name: str, **changes):
    out = scratch() / name
    if not out.exists():
        values = {
            "data": data,
            "preset": "tiny",
            "epochs1": 0,
            "epochs2": 0,
            "from_scratch": True,
            "val_fraction": 0,
        }
        train(TrainOptions(**(values | changes)), out, progress=False)
    return out


def call(*words):
    return CliRunner().invoke(app, ["glimpses", *map(str, words)])


@pytest.mark.slow
def test_the_command_measures_against_joints_and_draws_three_colours(tmp_path):
    import cv2

    run = untrained(ntu_people(), "looking-people", layout="ntu", protocol="cross-view")
    ask = ("--data", ntu_people(), "--layout", "ntu", "--split", "cross_view")
    answer = call(run, *ask, "--out", tmp_path / "figure.png", "--rows", 2, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.output)
    assert 0 < found["glimpses"] < 1 and 0 < found["middle"] < found["anywhere"] < 1
    assert found["clips"] == len(index("ntu", ntu_people(), "cross-view", part="test")) == 6
    assert found["samples"] == found["clips"] * 8 * 3 and not found["left_out"]
    picture = cv2.imread(str(tmp_path / "figure.png"))[..., ::-1].astype(int)
    assert picture.shape[1] == 4 * picture.shape[0]  # two rows of eight squares
    for colour in GLIMPSE_COLOURS[:3]:
        assert (np.abs(picture - colour).max(-1) == 0).sum() > 20


@pytest.mark.slow
def test_the_figures_of_a_clip_are_of_its_frames_and_joints_and_count_what_decodes_alone(tmp_path):
    run = untrained(colours() / "clips.csv", "looking-table")
    model, recipe = checkpoint.load(run)
    info = bundle_info(model.config, recipe)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    clips = [colours() / "red" / f"red{i}.mp4" for i in range(2)]
    (tmp_path / "clips.csv").write_text("path,class\nbroken.mp4,red\n" + "".join(f"{c},red\n" for c in clips))
    # Of the first clip one joint of twenty frames, on its way to a corner of the picture of 64 x 48.
    way = np.stack([np.linspace(40, 60, 20), np.linspace(30, 46, 20)], 1)
    name = next(c.name for c in own.clips(tmp_path / "clips.csv") if c.path == clips[0])
    write_table(
        table_of(tmp_path / "joints", name), ("hand",), (64, 48), [(t, 0, way[t : t + 1]) for t in range(20)]
    )
    found, _ = look(run, tmp_path / "clips.csv", joints=tmp_path / "joints", progress=False)
    assert found["clips"] == 2 and list(found["left_out"]) == ["broken.mp4"] and found["samples"] == 8 * 3
    with torch.no_grad():
        results = [
            model(sub_sequences(decode(clip, info.preprocess, 1e9).images, model.config, 1)) for clip in clips
        ]
    assert found["figures"] == pytest.approx(figures([r.l[0] for r in results], [r.p[0] for r in results]))
    right = [int(r.logits.argmax()) == recipe.labels.index("red") for r in results]
    assert found["accuracy"]["learned"] == np.mean(right)
    chosen = way[[int((k + 0.5) * 20 / 8) for k in range(8)]]
    at = (chosen / (64, 48) * 2 - 1) * 72 / 64  # of the crop that the network sees
    assert found["middle"] == pytest.approx(np.linalg.norm(at, axis=1).mean() / 2, rel=1e-4)
    looked = np.linalg.norm(results[0].l[0, :, :, :2].numpy() - at[:, None], axis=-1)
    assert found["glimpses"] == pytest.approx(looked.mean() / 2, rel=1e-3)
    somewhere = np.random.default_rng(5).uniform(-1, 1, (1000, 1, 2))
    assert found["anywhere"] == pytest.approx(np.linalg.norm(somewhere - at, axis=-1).mean() / 2, abs=0.1)


@pytest.mark.slow
def test_the_table_has_a_verdict_a_row_and_the_export_carries_its_figures(tmp_path):
    from gc_model.export.onnx import export_bundle

    run = untrained(colours() / "clips.csv", "looking-table")
    plain = untrained(colours() / "clips.csv", "looking-beside", model="global")
    ask = (run, "--data", colours() / "clips.csv", "--out", tmp_path / "a.png", "--beside", plain)
    answer = call(*ask)
    assert answer.exit_code == 0, answer.output
    rows = [line for line in answer.output.splitlines() if line.rstrip().endswith(("awake", "asleep"))]
    assert len(rows) == 8 and sum("points" in row for row in rows) == 3
    found = json.loads(call(*ask, "--json").output)
    assert set(found["figures"]) == {"iou", "share", "moves", "max_p", "worker_distance"}
    assert set(found["accuracy"]) == {"learned", "whole", "random", "beside"}
    # Untrained glimpses start over nearly the whole frame, as the paper has it.
    assert found["figures"]["iou"] > 0.8 and found["figures"]["share"] > 0.8
    made = export_bundle(run, tmp_path / "bundle")
    kept = made.info.provenance["glimpses"]
    assert kept["figures"] == found["figures"] and kept["clips"] == found["clips"] and "left_out" not in kept


@pytest.mark.slow
def test_another_run_is_asked_with_its_own_labels_and_its_own_pictures(tmp_path):
    run = untrained(colours() / "clips.csv", "looking-table")
    model, recipe = checkpoint.load(run)
    turned = tmp_path / "turned"
    order = [2, 0, 1]
    for name, parameter in model.named_parameters():
        if name.startswith("readout."):
            parameter.data = parameter.data[..., order].contiguous()
    labels = [recipe.labels[k] for k in order]
    checkpoint.save(turned, model, dataclasses.replace(recipe, labels=labels))
    ask = ("--data", colours() / "clips.csv", "--out", tmp_path / "a.png", "--json", "--beside")
    accuracy = json.loads(call(run, *ask, turned).output)["accuracy"]
    itself = json.loads(call(run, *ask, run).output)["accuracy"]
    assert accuracy["beside"] == accuracy["learned"] == itself["beside"]


def test_clips_that_do_not_decode_leave_their_places_in_the_picture_to_others(tmp_path):
    import cv2

    run = untrained(colours() / "clips.csv", "looking-table")
    (tmp_path / "a_broken.mp4").write_bytes(b"no video")
    rows = [f"{colours() / 'red' / f'red{i}.mp4'},red\n" for i in range(2)]
    (tmp_path / "clips.csv").write_text("path,class\n" + "a_broken.mp4,red\n" + "".join(rows))
    for wanted, drawn in ((1, 1), (2, 2), (4, 2)):
        out = tmp_path / f"{wanted}.png"
        said = call(run, "--data", tmp_path / "clips.csv", "--out", out, "--rows", wanted)
        assert said.exit_code == 0 and f"{drawn} of them" in said.output, said.output
        height, width = cv2.imread(str(out)).shape[:2]
        assert width * drawn == 8 * height


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
def test_workers_that_become_one_in_a_stream_are_seen(tmp_path, alike):
    model, recipe = checkpoint.load(untrained(colours() / "clips.csv", "looking-table"))
    if alike:  # a uniform start keeps them so for ever
        model.assignment.first.data.fill_(1.0)
    model.config = dataclasses.replace(model.config, reset_after=0)
    checkpoint.save(tmp_path / "run", model, recipe)
    ask = (tmp_path / "run", "--data", colours() / "clips.csv", "--out", tmp_path / "a.png")
    found = json.loads(call(*ask, "--json").output)
    distance = found["stream"]
    assert distance == 0 if alike else 0 < distance <= 1
    (row,) = [line for line in call(*ask).output.splitlines() if "where the state is carried on" in line]
    assert f"{distance:.3f}" in row and row.rstrip().endswith("awake" if distance >= 0.2 else "asleep")


@pytest.mark.parametrize(
    ("still", "again"),
    [
        (("layer1", "layer2", "layer3", "layer4"), set()),
        (("layer1", "layer2", "layer3"), {"back"}),
        ((), {"front", "back"}),
    ],
)
def test_a_stream_computes_again_only_what_looks_back(monkeypatch, still, again):
    model = build(reset_after=0)
    with torch.no_grad():
        for stage in still:
            for conv in model.trunk.net.get_submodule(stage).modules():
                if isinstance(conv, InflatedConv):
                    conv.weight[:, :, :-1] = 0
        clips = [noise(1, 8, 64, seed) for seed in range(3)]
        state = model.initial_state(1, streaming=True)
        expected = []
        for clip in clips:
            result, state = model.forward_chunk(clip, state)
            expected.append(result.p[0])
        parts = [(clip, maps, *model.features_of(maps)) for clip in clips for maps in [model.maps(clip)]]
        called = set()
        for method, runs in (("step", {"front", "back"}), ("back_step", {"back"})):
            whole = getattr(model.trunk, method)
            monkeypatch.setattr(
                model.trunk, method, lambda *a, whole=whole, runs=runs: called.update(runs) or whole(*a)
            )
        stream = _Stream(model)
        for given, p in zip(parts, expected, strict=True):
            torch.testing.assert_close(stream(*given), p, atol=1e-10, rtol=0)
    assert called == again
    # What came before the second clip does weigh in.
    alone = model.fold(*model.features(clips[1]))[0].p[0]
    assert not torch.allclose(alone, expected[1], atol=1e-6)


@pytest.mark.slow
def test_glimpses_put_elsewhere_change_the_answer_and_stay_there_for_that_evaluation_alone():
    from gc_model.evaluation.evaluate import EvaluateOptions, evaluate

    run, data = untrained(colours() / "clips.csv", "looking-elsewhere"), colours() / "clips.csv"
    model, _ = checkpoint.load(run)
    x = torch.randint(0, 256, (1, 8, 3, model.config.size, model.config.size), dtype=torch.uint8)
    with torch.no_grad():
        whole = replaced(model, "whole")(x)
        assert torch.equal(whole.l, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(whole.l))
        assert not torch.equal(whole.logits, replaced(model, "learned")(x).logits)
        assert replaced(model, "random")(x).l[..., :2].std() > 0.2
    for places in ("learned", "whole", "random"):
        found = evaluate(run, EvaluateOptions(data, glimpses=places), progress=False)
        assert found["glimpses"] == places and found["clips"] == 12
    with pytest.raises(DataError, match="learned, whole, random"):
        evaluate(run, EvaluateOptions(data, glimpses="none"), progress=False)
    plain = untrained(data, "looking-global-elsewhere", model="global")
    with pytest.raises(DataError, match="has no glimpses"):
        evaluate(plain, EvaluateOptions(data, glimpses="whole"), progress=False)


def replaced(model, places: str):
    def run(x):
        with attending(model, places):
            return model(x)

    return run


@pytest.mark.slow
def test_clips_without_joints_are_drawn_and_a_model_without_glimpses_is_refused(tmp_path):
    run = untrained(colours() / "clips.csv", "looking-colours")
    answer = call(run, "--data", colours() / "clips.csv", "--out", tmp_path / "a.png")
    assert answer.exit_code == 0 and "nearest joint" not in answer.output and (tmp_path / "a.png").is_file()
    table = table_of(tmp_path / "joints", "red/red0.mp4")
    write_table(table, ("hand",), (64, 48), [(t, 0, np.array([[32.0, 24.0]])) for t in range(20)])
    answer = call(
        run, "--data", colours(), "--joints", tmp_path / "joints", "--out", tmp_path / "a.png", "--json"
    )
    found = json.loads(answer.output)
    assert found["samples"] == 8 * 3 and found["middle"] < 1e-6 < found["glimpses"]
    plain = untrained(colours() / "clips.csv", "looking-global", model="global")
    for words in ((plain, "--out", tmp_path / "b.png"), (run, "--out", tmp_path / "no" / "b.png")):
        answer = call(*words, "--data", colours() / "clips.csv")
        assert answer.exit_code != 0 and not (tmp_path / "b.png").exists()
