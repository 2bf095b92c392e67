# SPDX-License-Identifier: Apache-2.0
"""NTU and N-UCLA as training and evaluation meet them: splits, classes, damage."""

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from gc_model.data import ntu, nucla
from gc_model.data.datasets import index
from gc_model.evaluation.evaluate import EvaluateOptions, evaluate
from gc_model.training.train import train
from tests.gc_model.runs import ntu_people, tiny_options
from tests.videos import truncated
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
    assert {c.label for c in both} == {"jump", "bow"} and all(c.joints.file for c in both)
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


@pytest.mark.slow
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
    train(tiny_options(ntu_people(), freeze_stages=4, views=1), tmp_path / "run", progress=False)
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


@pytest.mark.slow
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
    assert tiny_options(data, layout="nucla").loss_weights == (0.0, 0.0, 0.0)
    assert (
        tiny_options(data, layout="clips").loss_weights
        == (0.0, 0.0, 0.0)
        != tiny_options(data, layout="ntu").loss_weights
    )
    summary = train(tiny_options(data, layout="nucla", protocol="V3"), tmp_path / "run", progress=False)
    assert summary["clips"] == 8 and not summary["left_out"]
    result = evaluate(tmp_path / "run", EvaluateOptions(data, layout="nucla", split="V3"), progress=False)
    assert result["clips"] == 4 and not result["problems"]
    assert set(nucla.NAMES) == set(nucla.CLASSES)


@pytest.mark.slow
def test_a_truncated_test_video_is_counted_and_named_not_dropped(tmp_path):
    data = tmp_path / "ntu"
    shutil.copytree(ntu_people(), data)
    victim = sorted((data / "nturgb+d_rgb").glob("*P003*"))[0]
    truncated(victim, tmp_path / "half.avi", 0.6)
    shutil.move(tmp_path / "half.avi", victim)
    train(tiny_options(data, epochs1=0, epochs2=0), tmp_path / "run", progress=False)
    result = evaluate(tmp_path / "run", EvaluateOptions(data, layout="ntu"), progress=False)
    name = victim.name.removesuffix("_rgb.avi")
    assert result["clips"] == 4 and list(result["problems"]) == [name]
