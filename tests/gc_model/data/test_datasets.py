# SPDX-License-Identifier: Apache-2.0
"""NTU and N-UCLA as training and evaluation meet them: splits, joints, damage, preparation, ablation."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from gc_model.data import (
    ntu,
    nucla,
)
from gc_model.data.augment import Augment
from gc_model.data.datasets import index
from gc_model.data.frames import FrameCache
from gc_model.data.joint_tables import table_of, write_table
from gc_model.data.joints import MIRRORED, centre_matrix, to_frame, to_input
from gc_model.data.prepare import prepare
from gc_model.data.samples import TrainingClips
from gc_model.evaluation.ablate import ROWS, ablate, markdown
from gc_model.evaluation.evaluate import EvaluateOptions, evaluate
from gc_model.paper.presets import preset
from gc_model.training.options import TrainOptions
from gc_model.training.train import train
from tests.gc_model.runs import colours, ntu_people
from tests.videos import truncated
from trt_build.bundle import Preprocess
from trt_build.errors import DataError


def stand_in(root: Path) -> Path:
    """Empty files under the names of all 56,880 clips of NTU RGB+D 60: 40 people, 17 setups, 3 cameras, 60 classes."""
    folder = root / "rgb"
    folder.mkdir(parents=True)
    # 316 recordings of each class, each seen by three cameras.
    recordings = [(s, p, r) for s in range(1, 18) for p in range(1, 41) for r in (1, 2)]
    training = [x for x in recordings if x[1] in ntu.TRAINING_SUBJECTS][:224]
    test = [x for x in recordings if x[1] not in ntu.TRAINING_SUBJECTS][-92:]
    for s, p, r in training + test:
        for c in (1, 2, 3):
            for a in range(1, 61):
                (folder / f"S{s:03}C{c:03}P{p:03}R{r:03}A{a:03}_rgb.avi").touch()
    return root


@pytest.mark.slow
def test_a_tree_of_all_names_is_split_as_published_and_subject_40_tests(tmp_path):
    data = stand_in(tmp_path)
    sizes = {}
    for protocol in ("cross_subject", "cross_view"):
        for part in ("train", "test"):
            sizes[protocol, part] = len(index("ntu", data, protocol, part=part))
    assert sizes == {
        ("cross_subject", "train"): 40_320,
        ("cross_subject", "test"): 16_560,
        ("cross_view", "train"): 37_920,
        ("cross_view", "test"): 18_960,
    }
    test = index("ntu", data, "cross_subject", part="test")
    assert any(c.subject == "p040" for c in test) and len({c.label for c in test}) == 60


def test_parts_do_not_overlap_and_labels_come_from_the_table():
    both = index("ntu", ntu_people(), "cross-subject")
    parts = [index("ntu", ntu_people(), "cross_subject", part=p) for p in ("train", "test")]
    assert {c.name for c in both} == {c.name for p in parts for c in p} and len(both) == 12
    assert {c.subject for c in parts[0]} == {"p001", "p002"} and {c.subject for c in parts[1]} == {"p003"}
    assert {c.label for c in both} == {"jump", "bow"} and all(c.skeleton for c in both)
    assert (
        ntu.class_name(1) == "drink water" and ntu.class_name(60) == "walking apart" and len(ntu.NAMES) == 60
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("ntu", Path("nowhere"), ""), "nowhere"),
        (("ntu", None, "V3"), "cross-subject"),
        (("nucla", None, "V3"), "no clips of nucla"),
        (("clips", None, "V3"), "--layout"),
        (("kinetics", None, ""), "clips, ntu, nucla"),
    ],
)
def test_what_is_no_such_data_set_is_one_line(arguments, words):
    layout, data, protocol = arguments
    with pytest.raises(DataError, match=words):
        index(layout, data or ntu_people(), protocol)


def test_a_damaged_table_of_classes_is_named(tmp_path):
    shutil.copytree(ntu_people(), tmp_path / "data")
    (tmp_path / "data" / "classes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"classes\.csv"):
        index("ntu", tmp_path / "data")


def test_joints_go_where_the_pictures_pixels_go():
    """A white dot at a joint stays at the joint through fit, crop, rotation and mirror."""
    rng = np.random.default_rng(0)
    for fit in ("stretch", "square", "pad"):
        p = Preprocess(size=200, resize=200, fit=fit)
        for _ in range(5):
            image = np.zeros((108, 192, 3), np.uint8)
            at = np.array([rng.integers(70, 120), rng.integers(40, 68)])
            image[at[1] - 2 : at[1] + 3, at[0] - 2 : at[0] + 3] = 255
            from trt_build.preprocess import model_input

            frame = model_input(image, p, bgr=False)
            joints = np.full((1, 2, 25, 2), np.nan, np.float32)
            joints[0, :] = (at + 0.5) / [192, 108]
            matrix = Augment(scale=(0.9, 1.0)).matrix(200, 160, rng)
            seen = cv2.warpAffine(frame, matrix, (160, 160))[..., 0].astype(float)
            if seen.max() < 200:
                continue
            y, x = np.mean(np.argwhere(seen > 127), 0)
            found = to_input(to_frame(joints, 192, 108, p), matrix, 200, 160)[0, 0, 0]
            assert np.allclose((found + 1) / 2 * 160 - 0.5, [x, y], atol=1.6), fit


def test_a_mirrored_picture_swaps_left_and_right_joints():
    joints = np.random.default_rng(0).uniform(size=(1, 2, 25, 2)).astype(np.float32)
    plain = to_input(joints, centre_matrix(100, 80), 100, 80)
    mirror = np.array([[-1.0, 0.0, 89.0], [0.0, 1.0, -10.0]])
    flipped = to_input(joints, mirror, 100, 80)
    assert np.allclose(flipped[..., 0], -plain[:, :, list(MIRRORED), 0], atol=1e-5)
    assert np.allclose(flipped[..., 1], plain[:, :, list(MIRRORED), 1], atol=1e-5)
    assert sorted(MIRRORED) == list(range(25)) and [MIRRORED[i] for i in MIRRORED] == list(range(25))


def samples(data: Path, folder: Path) -> TrainingClips:
    config = preset("tiny", classes=2)
    clips = index("ntu", data, part="train")
    cache = FrameCache(folder, Preprocess(size=config.size, resize=config.resize))
    return TrainingClips(clips, ["bow", "jump"], cache, config, 4.0, Augment(), 0)


def test_a_missing_and_a_damaged_skeleton_are_masked_and_the_pictures_stay(tmp_path):
    data = tmp_path / "ntu"
    shutil.copytree(ntu_people(), data)
    skeletons = sorted((data / "nturgb+d_skeletons").glob("*P001*.skeleton"))
    skeletons[0].unlink()
    skeletons[1].write_text(skeletons[1].read_text()[:4000])
    found = samples(data, tmp_path / "cache")
    joints = [found[(0, i)]["joints"] for i in range(len(found))]
    assert len(found) == 8 and all(j.shape == (8, 2, 25, 2) for j in joints)
    assert sum(bool(torch.isnan(j).all()) for j in joints) == 2
    assert all(
        torch.equal(torch.nan_to_num(found.beside((0, i))["joints"]), torch.nan_to_num(j))
        for i, j in enumerate(joints)
    )


def options(data: Path, **changes) -> TrainOptions:
    plain = {
        "data": data,
        "layout": "ntu",
        "preset": "tiny",
        "epochs1": 1,
        "epochs2": 1,
        "from_scratch": True,
    }
    return TrainOptions(**(plain | {"val_fraction": 0.0, "batch": 4} | changes))


OWN = ("nose", "left_wrist", "right_wrist")


def own_joints(folder: Path, clips: Path, shift: float = 0.0) -> Path:
    """Tables for the clips of class red: in frame t the nose at (10 + t + shift, 20) of 64 x 48, wrists beside it."""
    for clip in index("clips", clips):
        if clip.label != "red":
            continue
        rows = [(t, 0, np.array([[10 + t + shift, 20], [40, 30], [5, 30]])) for t in range(10)]
        write_table(table_of(folder, clip.name), OWN, (64, 48), rows)
    return folder


def test_joints_of_ones_own_clips_reach_the_samples_where_the_pixels_are(tmp_path):
    data, folder = colours(), own_joints(tmp_path / "j", colours())
    config = preset("tiny", classes=3, fit="pad")
    p = Preprocess(size=config.size, resize=config.resize, fit="pad")
    augment = Augment(scale=(0.8, 1.0), rotate=5.0, flip=True)
    own = index("clips", data, joints=folder)
    samples = TrainingClips(
        own, ["blue", "green", "red"], FrameCache(tmp_path / "c", p), config, 4.0, augment, 0
    )
    mirrored = set()
    for i, clip in enumerate(own):
        for epoch in range(8):
            joints = samples[epoch, i]["joints"].numpy()
            if clip.label != "red":
                assert np.isnan(joints).all()  # no table: masked, and the pictures stay
                continue
            assert np.isnan(joints[:, 1]).all() and np.isnan(joints[:, 0, 3:]).all()
            known = joints[:, 0, :3][~np.isnan(joints[:, 0, 0, 0])]
            assert 3 <= len(known) < 8  # the table ends with frame 9 of 20
            # The left wrist is on the right; mirrored as well, where it is the one that was the right wrist.
            assert (known[:, 1, 0] > known[:, 2, 0]).all()
            mirrored.add(bool(known[-1, 0, 0] < known[0, 0, 0]))  # the nose walks to the right
    assert mirrored == {False, True}


def test_other_joints_of_the_same_clips_are_read_anew(tmp_path):
    cache = FrameCache(tmp_path / "c", Preprocess(size=64, resize=72, fit="stretch"))
    found = []
    for name, shift in (("one", 0.0), ("two", 16.0)):
        folder = own_joints(tmp_path / name, colours(), shift)
        clip = next(c for c in index("clips", colours(), joints=folder) if c.label == "red")
        found.append(cache.joints(clip, cache.read(clip))[0, 0, 0])
    np.testing.assert_allclose(found, [[10 / 64, 20 / 48], [26 / 64, 20 / 48]], atol=1e-4)


def test_joints_that_do_not_fit_the_clips_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no joints of these clips.*gc-model joints"):
        index("clips", colours(), joints=tmp_path)
    folder = own_joints(tmp_path / "j", colours())
    write_table(table_of(folder, "blue/blue0.mp4"), ("nose",), (64, 48), [])
    with pytest.raises(DataError, match="has other joints than"):
        index("clips", colours(), joints=folder)
    with pytest.raises(DataError, match="--layout clips"):
        index("ntu", ntu_people(), joints=folder)


def test_ones_own_joints_switch_the_pose_and_glimpse_losses_on(tmp_path):
    o = TrainOptions(data=colours())
    assert o.loss_weights == (0.0, 0.0, 0.0)
    assert TrainOptions(data=colours(), joints=tmp_path).loss_weights == (
        o.pose_weight,
        o.glimpse_weight,
        1.0,
    )


def test_both_stages_use_the_joints_of_ntu(tmp_path, monkeypatch):
    from gc_model.training import stages as training

    terms: dict[str, set] = {}
    report = training.Stage._report
    monkeypatch.setattr(
        training.Stage,
        "_report",
        lambda self, t, *rest: (
            terms.setdefault(type(self).__name__, set()).update(t),
            report(self, t, *rest),
        )[1],
    )
    train(options(ntu_people(), freeze_stages=4, views=1), tmp_path / "run", progress=False)
    assert terms == {
        "TrunkStage": {"L_D", "L_P", "loss"},
        "CloudStage": {"L_D", "L_P", "L_G1", "L_G2", "loss"},
    }
    names = json.loads((tmp_path / "run" / "clips.json").read_text())
    assert not any("P003" in n for n in names["training"])
    result = evaluate(
        tmp_path / "run", EvaluateOptions(ntu_people(), layout="ntu", split="cross_subject"), progress=False
    )
    assert result["clips"] == 4 and not result["problems"]


def test_n_ucla_trains_on_folders_of_pictures_without_pose_and_glimpse_losses(tmp_path):
    from gc_model.synth import synthesize

    data = tmp_path / "nucla"
    synthesize(
        data, "nucla-frames", classes=["jump", "bow"], subjects=2, clips_per_class=6, cameras=3, size=(64, 64),
        workers=1, progress=False,
    )  # fmt: skip
    one = next(data.glob("view_1/a01_*"))
    for file in sorted(one.glob("*.jpg"))[1:]:
        file.unlink()
    assert options(data, layout="nucla").loss_weights == (0.0, 0.0, 0.0)
    assert (
        options(data, layout="clips").loss_weights
        == (0.0, 0.0, 0.0)
        != options(data, layout="ntu").loss_weights
    )
    summary = train(options(data, layout="nucla", protocol="V3"), tmp_path / "run", progress=False)
    assert summary["clips"] == 8 and not summary["left_out"]
    result = evaluate(tmp_path / "run", EvaluateOptions(data, layout="nucla", split="V3"), progress=False)
    assert result["clips"] == 4 and not result["problems"]
    assert set(nucla.NAMES) == set(nucla.CLASSES)


def test_a_truncated_test_video_is_counted_and_named_not_dropped(tmp_path):
    data = tmp_path / "ntu"
    shutil.copytree(ntu_people(), data)
    victim = sorted((data / "nturgb+d_rgb").glob("*P003*"))[0]
    truncated(victim, tmp_path / "half.avi", 0.6)
    shutil.move(tmp_path / "half.avi", victim)
    train(options(data, epochs1=0, epochs2=0), tmp_path / "run", progress=False)
    result = evaluate(tmp_path / "run", EvaluateOptions(data, layout="ntu"), progress=False)
    name = victim.name.removesuffix("_rgb.avi")
    assert result["clips"] == 4 and list(result["problems"]) == [name]


def test_preparing_rescales_resumes_and_keeps_damage_countable(tmp_path):
    data, out = tmp_path / "ntu", tmp_path / "small"
    shutil.copytree(ntu_people(), data)
    victim = sorted((data / "nturgb+d_rgb").glob("*P003*"))[0]
    truncated(victim, tmp_path / "half.avi", 0.6)
    shutil.move(tmp_path / "half.avi", victim)
    name = victim.name.removesuffix("_rgb.avi")
    result = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert result["clips"] == result["made"] == 12 and list(result["damaged"]) == [name]
    clips = index("ntu", out)
    assert [(c.name, c.label) for c in clips] == [(c.name, c.label) for c in index("ntu", data)]
    from gc_ros.media.video import read_video

    for before, after in zip(index("ntu", data), clips, strict=True):
        if before.name != name:
            a, b = list(read_video(before.path)), list(read_video(after.path))
            assert b[0][0].shape == (48, 48, 3) and [t for _, t in a] == [t for _, t in b]
        assert after.skeleton.read_bytes() == before.skeleton.read_bytes()
    clips[3].path.unlink()
    again = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert (again["made"], again["kept"], list(again["damaged"])) == (1, 11, [name])
    with pytest.raises(DataError, match="another size"):
        prepare(data, out, layout="ntu", size=64, progress=False)


def test_the_ablation_runs_rows_resumes_and_sets_the_papers_figures_beside_ours(tmp_path, monkeypatch):
    base = options(ntu_people(), epochs1=1, epochs2=1)
    asked = {
        "rows": ["clouds", "metric_fixed"],
        "protocols": ["cross_subject"],
        "seeds": [0, 1],
        "progress": False,
    }
    told: list[str] = []
    result = ablate(base, tmp_path / "out", tell=told.append, **asked)
    assert len(told) == 4 and [line["row"] for line in result["rows"]] == ["clouds", "metric_fixed"]
    clouds = result["rows"][0]
    assert clouds["paper"] == {"cross_subject": "86.6"} and clouds["ours"]["cross_subject"]["seeds"] == 2
    assert (
        clouds["ours"]["cross_subject"]["clips"] == 4
        and clouds["ours"]["cross_subject"]["spread"] is not None
    )
    text = (tmp_path / "out" / "table.md").read_text()
    assert text == markdown(result) and "86.6" in text and "-0.8 to the full model" in text and "(2)" in text
    # The two rows share the first stage of each seed, and D stayed where the calibration left it.
    assert len(list((tmp_path / "out" / "stage1").glob("*.safetensors"))) == 2
    monkeypatch.setattr("gc_model.evaluation.ablate.train", None)
    assert ablate(base, tmp_path / "out", tell=told.append, **asked) == result and len(told) == 4
    from safetensors.torch import load_file

    fixed = tmp_path / "out" / "metric_fixed" / "cross_subject-0"
    L = "assignment.metric.L.weight"
    ends = [load_file(fixed / f"{n}.safetensors")[L] for n in ("calibrated", "model")]
    assert torch.equal(*ends)
    with pytest.raises(DataError, match="other options"):
        ablate(options(ntu_people(), epochs1=2), tmp_path / "out", **asked)
    with pytest.raises(DataError, match="clouds_LD_LG"):
        ablate(base, tmp_path / "out", rows=["mlp"])


@pytest.mark.parametrize(
    "trunk", [{"epochs1": 0, "freeze_stages": 5}, {"epochs1": 1, "freeze_stages": 4, "freeze_stages2": 5}]
)
def test_rows_on_a_frozen_trunk_share_its_features_and_are_judged_as_without_them(tmp_path, trunk):
    base = options(ntu_people(), epochs2=1, views=2, **trunk)
    asked = {
        "rows": ["clouds", "metric_fixed"],
        "protocols": ["cross_subject"],
        "seeds": [0],
        "progress": False,
    }
    ablate(base, tmp_path / "out", tell=lambda _: None, **asked)
    stored = {
        p.name.partition(".")[2].partition(".")[2] for p in (tmp_path / "out" / "cache").glob("front.*.Z")
    }
    assert (
        stored == {"Z", "fixed.Z", "test.Z"}
        and len(list((tmp_path / "out" / "cache").glob("front.*.Z"))) == 3
    )
    for row in asked["rows"]:
        run = tmp_path / "out" / row / "cross_subject-0"
        report = json.loads((run / "report.json").read_text())
        plain = evaluate(
            run, EvaluateOptions(ntu_people(), layout="ntu", split="cross_subject"), progress=False
        )
        assert {k: report[k] for k in ("clips", "predictions")} == {
            k: plain[k] for k in ("clips", "predictions")
        }


@pytest.mark.slow
def test_the_global_model_goes_on_with_the_classifier_of_the_first_stage_that_it_shares(tmp_path):
    from safetensors.torch import load_file

    base = options(ntu_people(), epochs1=1, epochs2=0)
    asked = {"rows": ["clouds", "global"], "protocols": ["cross_subject"], "progress": False}
    ablate(base, tmp_path / "out", tell=lambda _: None, **asked)
    (shared,) = (tmp_path / "out" / "stage1").glob("*.safetensors")
    run = load_file(tmp_path / "out" / "global" / "cross_subject-0" / "model.safetensors")
    kept = {k: v for k, v in load_file(shared).items() if k.startswith("global_head.")}
    assert len(kept) == 2 and all(torch.equal(run[k], v) for k, v in kept.items())


def test_rows_share_no_first_stage_where_only_the_global_model_has_one():
    from gc_model.evaluation.ablate import _first_stage

    def keys(**changes) -> set[str]:
        base = options(Path("x"), layout="ntu", **changes)
        return {_first_stage(base.model_copy(update=ROWS[r].changes)) for r in ("clouds_LD", "global_LD")}

    assert len(keys(freeze_stages=4)) == 1 and len(keys(freeze_stages=5)) == 2


def test_every_row_is_a_network_that_can_be_built():
    from gc_model.training.train import _config

    for name, row in ROWS.items():
        config = _config(options(Path("x")).model_copy(update=row.changes), 3)
        assert config.classes == 3, name
    assert {ROWS[r].paper for r in ("clouds", "c3d")} == {(86.6, 93.2), (63.5, 70.3)}
