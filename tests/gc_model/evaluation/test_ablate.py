# SPDX-License-Identifier: Apache-2.0
"""The ablation: rows run once, share what they can, and stand beside the paper's figures."""

import json
import os
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from gc_model.data.joint_tables import write_table
from gc_model.evaluation.ablate import ablate, markdown, table
from gc_model.evaluation.evaluate import EvaluateOptions, clips_to_judge, evaluate
from gc_model.evaluation.rows import ROWS
from gc_model.training.options import TrainOptions
from gc_ros.media.detections import boxes_of, write_csv
from tests.gc_model.runs import ntu_people, tiny_options
from trt_build.errors import DataError


@pytest.mark.slow
def test_the_ablation_runs_rows_resumes_and_sets_the_papers_figures_beside_ours(tmp_path, monkeypatch):
    base = tiny_options(ntu_people(), epochs1=1, epochs2=1)
    asked = {
        "rows": ["clouds", "metric_fixed"],
        "splits": ["cross_subject"],
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
        ablate(tiny_options(ntu_people(), epochs1=2), tmp_path / "out", **asked)
    with pytest.raises(DataError, match="clouds_LD_LG"):
        ablate(base, tmp_path / "out", rows=["mlp"])


def test_nobody_is_trained_on_and_tested(tmp_path, monkeypatch):
    trained = []

    def train(options, run, **_):
        trained.append(options.subjects)
        raise KeyboardInterrupt

    monkeypatch.setattr("gc_model.evaluation.ablate.train", train)
    data = tmp_path / "clips.csv"
    for who in ("ann", "bob", "cid"):
        (tmp_path / f"{who}.mp4").write_bytes(b"a film")
    data.write_text("path,class,subject\nann.mp4,a,ann\nbob.mp4,b,bob\ncid.mp4,a,cid\n")
    base = TrainOptions(data=data, preset="tiny", from_scratch=True)
    with pytest.raises(KeyboardInterrupt):
        ablate(base, tmp_path / "out", rows=["clouds"], test_subjects=["cid"])
    assert trained == [["ann", "bob"]]
    overlapping = base.model_copy(update={"subjects": ["ann", "cid"]})
    with pytest.raises(DataError, match="cid would be trained on and tested"):
        ablate(overlapping, tmp_path / "other", rows=["clouds"], test_subjects=["bob", "cid"])
    with pytest.raises(DataError, match="seed of -1"):
        ablate(base, tmp_path / "other", rows=["clouds"], test_subjects=["cid"], seeds=[0, -1])


@pytest.mark.parametrize("text", ['{"options"', "[]", '{"options": {"lr": "fast"}, "test": {}}'])
def test_a_damaged_description_of_an_ablation_is_one_line(tmp_path, text):
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(DataError, match=r"ablation\.json is damaged \(.*choose another --out") as error:
        ablate(tiny_options(ntu_people()), tmp_path, splits=["cross_subject"])
    assert "\n" not in str(error.value)


def test_a_damaged_report_is_named_when_the_table_is_made(tmp_path):
    run = tmp_path / "clouds" / "cross_subject-0"
    run.mkdir(parents=True)
    (run / "report.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(DataError, match=r"report\.json is damaged"):
        table(tmp_path, "ntu")


def test_the_table_has_the_mean_and_the_deviation_of_a_sample_of_seeds_and_all_minutes(tmp_path):
    reports = {
        "clouds/V3-0": (0.5, 10, 1.25), "clouds/V3-1": (0.6, 10, 2.0), "clouds/V3-2": (0.7, 10, 0.5),
        "clouds/V2-0": (0.4, 7, 1.0), "global/V3-0": (0.25, 10, 3.0),
    }  # fmt: skip
    for run, (accuracy, clips, minutes) in reports.items():
        (tmp_path / run).mkdir(parents=True)
        report = {"accuracy": accuracy, "clips": clips, "minutes": minutes}
        (tmp_path / run / "report.json").write_text(json.dumps(report))
    rows = {line["row"]: line for line in table(tmp_path, "nucla")["rows"]}
    # Of a sample, with n - 1: 10 of 50, 60 and 70.
    assert rows["clouds"]["ours"] == {
        "V3": {"mean": 60.0, "spread": 10.0, "seeds": 3, "clips": 10},
        "V2": {"mean": 40.0, "spread": None, "seeds": 1, "clips": 7},
    }
    assert rows["clouds"]["minutes"] == 4.8 and rows["global"]["minutes"] == 3.0
    assert rows["clouds"]["paper"] == {"V3": "90.1", "V2": "89.5"} and rows["global"]["paper"] == {
        "V3": "85.6"
    }
    written = (tmp_path / "table.md").read_text()
    assert "| clouds, all losses | 90.1 | 60.0 ± 10.0 (3) | 89.5 | 40.0 (1) | 4.8 |" in written


@pytest.mark.slow
@pytest.mark.parametrize(
    "trunk", [{"epochs1": 0, "freeze_stages": 5}, {"epochs1": 1, "freeze_stages": 4, "freeze_stages2": 5}]
)
def test_rows_on_a_frozen_trunk_share_its_features_and_are_judged_as_without_them(tmp_path, trunk):
    base = tiny_options(ntu_people(), epochs2=1, views=2, **trunk)
    asked = {
        "rows": ["clouds", "metric_fixed"],
        "splits": ["cross_subject"],
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

    base = tiny_options(ntu_people(), epochs1=1, epochs2=0)
    asked = {"rows": ["clouds", "global"], "splits": ["cross_subject"], "progress": False}
    ablate(base, tmp_path / "out", tell=lambda _: None, **asked)
    (shared,) = (tmp_path / "out" / "stage1").glob("*.safetensors")
    run = load_file(tmp_path / "out" / "global" / "cross_subject-0" / "model.safetensors")
    kept = {k: v for k, v in load_file(shared).items() if k.startswith("global_head.")}
    assert len(kept) == 2 and all(torch.equal(run[k], v) for k, v in kept.items())


def test_rows_share_no_first_stage_where_only_the_global_model_has_one():
    from gc_model.evaluation.ablate import _first_stage

    def keys(**changes) -> set[str]:
        base = tiny_options(Path("x"), layout="ntu", **changes)
        return {_first_stage(base.model_copy(update=ROWS[r].changes)) for r in ("clouds_LD", "global_LD")}

    assert len(keys(freeze_stages=4)) == 1 and len(keys(freeze_stages=5)) == 2


def test_every_row_is_a_network_that_can_be_built():
    from gc_model.training.gathering import config_of

    for name, row in ROWS.items():
        config = config_of(tiny_options(Path("x")).model_copy(update=row.changes), 3)
        assert config.classes == 3, name
    assert {ROWS[r].paper for r in ("clouds", "c3d")} == {(86.6, 93.2), (63.5, 70.3)}


class Begun(Exception):
    """The training began."""


def named_clips(folder: Path, *rows: str) -> Path:
    """A table of PATH,CLASS,SUBJECT; nobody decodes its clips."""
    for row in rows:
        (folder / row.partition(",")[0]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row.partition(",")[0]).write_bytes(row.encode())
    (folder / "clips.csv").write_text("\n".join(["path,class,subject", *rows]))
    return folder / "clips.csv"


@pytest.fixture
def begun(monkeypatch):
    """The options that a training begins with; each ends at once."""
    found = []

    def train(options, run, **_):
        found.append(options)
        raise Begun

    monkeypatch.setattr("gc_model.evaluation.ablate.train", train)
    return found


def ask(data: Path, out: Path, test: list[str] | None, **changes) -> None:
    base = TrainOptions(data=data, preset="tiny", from_scratch=True, **changes)
    ablate(base, out, rows=["global"], test_subjects=test, progress=False)


def test_clips_without_a_subject_are_nobodys(tmp_path, begun, caplog):
    data = named_clips(tmp_path, "a.mp4,a,", "b.mp4,b,1", "c.mp4,a,2", "d.mp4,a,3", "e.mp4,b,")
    with pytest.raises(Begun):
        ask(data, tmp_path / "out", ["3"])
    assert begun[0].subjects == ["1", "2"] and "2 clips without a subject are neither" in caplog.text
    with pytest.raises(DataError, match="nobody is left to train on"):
        ask(data, tmp_path / "other", ["1", "2", "3"])


@pytest.mark.parametrize(
    "test, changes, words",
    [
        (["3"], {"subjects": ["1", "9"]}, 'no subject "9"'),
        (["9"], {}, 'no subject "9"'),
        (["3"], {"classes": ["a", "z"]}, 'no class "z"'),
        (["3"], {"classes": ["a", "b"], "subjects": ["2"]}, 'no class "b"'),
        (["2"], {"classes": ["b", "c"]}, "no clip to judge is of b, c; there are a"),
        (["3"], {}, 'only those who are tested do "c"'),
        (["3"], {"classes": ["a", "\u202bb"]}, "only printable ones are allowed; write another"),
        (["3"], {"joints": Path("none")}, "no joints of these clips"),
        (["3"], {"boxes": Path("none")}, "no boxes of these clips"),
    ],
)
def test_what_cannot_be_trained_or_judged_is_refused_and_leaves_no_trace(
    tmp_path, begun, test, changes, words
):
    data = named_clips(tmp_path, "a.mp4,a,1", "b.mp4,b,1", "c.mp4,a,2", "d.mp4,a,3", "e.mp4,c,3")
    if test == ["2"]:
        data = named_clips(tmp_path, "a.mp4,b,1", "b.mp4,c,1", "c.mp4,a,2", "d.mp4,a,3")
    if "printable" in words:
        data = named_clips(tmp_path, "a.mp4,a,1", "b.mp4,\u202bb,1", "d.mp4,a,3")
    with pytest.raises(DataError, match=words):
        ask(data, tmp_path / "out", test, **changes)
    assert not begun and not (tmp_path / "out").exists()


def test_what_no_run_was_made_of_does_not_occupy_the_folder(tmp_path, begun):
    data = named_clips(tmp_path, "a.mp4,a,1", "b.mp4,b,1", "c.mp4,a,2")
    for seed_options in ({}, {"lr": 0.5}):
        with pytest.raises(Begun):  # before it notes its options
            ask(data, tmp_path / "out", ["2"], **seed_options)
    run = tmp_path / "out/global/test-0"
    run.mkdir(parents=True)
    (run / "options.json").write_text("{}")
    with pytest.raises(DataError, match="begun with other options"):
        ask(data, tmp_path / "out", ["2"])


@pytest.mark.parametrize("changed", ["a.mp4", "c.mp4", "joints/a.joints.csv", "d.mp4,b,1", "c.mp4,b,2"])
def test_runs_that_are_done_know_which_clips_they_were_made_of(tmp_path, monkeypatch, changed):
    rows = ["a.mp4,a,1", "b.mp4,b,1", "c.mp4,a,2"]
    data, run = named_clips(tmp_path, *rows), tmp_path / "out" / "global" / "test-0"
    write_table(tmp_path / "joints" / "a.joints.csv", ("hand",), (64, 48), [])
    trained = []

    def train(_, run, **__):
        trained.append(run)
        run.mkdir(parents=True)

    def again() -> None:
        ask(data, tmp_path / "out", ["2"], joints=tmp_path / "joints")

    monkeypatch.setattr("gc_model.evaluation.ablate.train", train)
    monkeypatch.setattr("gc_model.evaluation.ablate.evaluate", lambda *_, **__: {"accuracy": 0.5, "clips": 1})
    again()
    again()
    assert trained == [run]
    report = (run / "report.json").read_text()
    if (file := tmp_path / changed).is_file():
        file.write_bytes(file.read_bytes() + b"\n")
    else:
        named_clips(tmp_path, *{row.partition(",")[0]: row for row in [*rows, changed]}.values())
    with pytest.raises(DataError, match="changed since") as error:
        again()
    assert f"delete {run} to" in str(error.value) and trained == [run]
    # As reports were before, and a damaged one.
    (run / "report.json").write_text(
        json.dumps({k: v for k, v in json.loads(report).items() if k != "files"})
    )
    again()
    (run / "report.json").write_text("[]")
    with pytest.raises(DataError, match=r"report\.json is damaged"):
        again()
    # The remedy that was named.
    shutil.rmtree(run)
    again()
    assert trained == [run, run]


def test_runs_are_judged_on_the_people_and_classes_that_they_are_trained_on(tmp_path, monkeypatch):
    data = named_clips(tmp_path, "a.mp4,a,1", "b.mp4,b,1", "c.mp4,c,1", "d.mp4,a,2", "e.mp4,c,2", "f.mp4,s,1")
    (tmp_path / "boxes").mkdir()
    for name in "ad":
        write_csv(boxes_of(tmp_path / "boxes", f"{name}.mp4"), [])
    judged = []
    monkeypatch.setattr("gc_model.evaluation.ablate.train", lambda *_, **__: None)

    def judge(run, options, **_):
        judged.append(options)
        raise Begun

    monkeypatch.setattr("gc_model.evaluation.ablate.evaluate", judge)
    with pytest.raises(Begun):
        ask(data, tmp_path / "out", ["2"], classes=["a", "b"], idle_classes=["s"], boxes=tmp_path / "boxes")
    (options,) = judged
    assert options.boxes == tmp_path / "boxes" and options.subjects == ["2"]
    assert [clip.name for clip in clips_to_judge(options, 0.15)] == ["d.mp4"]


def test_of_several_processes_all_train_and_the_first_alone_judges_and_writes(tmp_path, monkeypatch):
    data = named_clips(tmp_path, "a.mp4,a,1", "b.mp4,b,1", "c.mp4,a,2")
    base = TrainOptions(data=data, preset="tiny", from_scratch=True, devices=2)
    asked = {"rows": ["clouds", "global"], "test_subjects": ["2"], "progress": False}
    out, trained, told = tmp_path / "out", [], []

    def train(options, run, **_):
        trained.append(run.parent.name)
        run.mkdir(parents=True)
        if os.environ["LOCAL_RANK"] == "1":  # the first is as far
            (run / "report.json").write_text("{}")

    monkeypatch.setattr("gc_model.evaluation.ablate.train", train)
    monkeypatch.setattr("gc_model.evaluation.ablate.evaluate", None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ablate(base, out, tell=told.append, **asked) == {}
    assert trained == ["clouds", "global"] and not told
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"report.json"}
    shutil.rmtree(out)
    judged = {"accuracy": 0.5, "clips": 1}
    monkeypatch.setattr("gc_model.evaluation.ablate.evaluate", lambda *_, **__: judged)
    monkeypatch.setenv("LOCAL_RANK", "0")
    found = ablate(base, out, tell=told.append, **asked)
    assert [row["row"] for row in found["rows"]] == ["global", "clouds"] and len(told) == 2
