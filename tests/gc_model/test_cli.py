# SPDX-License-Identifier: Apache-2.0
"""`gc-model`: exit codes, one line an error, help with an example; the whole way from clips to the robot's label."""

import functools
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import trt_build.cli
from gc_model.cli import app
from gc_ros.recognition.kept_clips import keep_clips, kept_clips
from tests import command_line
from tests.gc_model.runs import bundle, coloured_clips, colours, people, run, scratch, undecodable, untrained
from trt_build.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: pip install -e '.[train]'"
)
TINY = [
    "--preset",
    "tiny",
    "--set",
    "from_scratch=true",
    "--set",
    "val_fraction=0",
    "--quiet",
    "--epochs",
    "0",
]


call = functools.partial(command_line.call, app)
assert_one_line = command_line.assert_one_line


@pytest.mark.parametrize(
    "command", ["synth", "train", "finetune", "calibrate", "evaluate", "ablate", "prepare", "info"]
)
def test_help_of_every_command_has_an_example(command):
    result = call(command, "--help")
    assert result.exit_code == 0 and f"Example: gc-model {command}" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("command", "option", "work"),
    [
        ("evaluate", "--out", "gc_model.evaluation.evaluate.evaluate"),
        ("evaluate", "--confusion", "gc_model.evaluation.evaluate.evaluate"),
        ("glimpses", "--out", "gc_model.evaluation.glimpses.look"),
        ("joints", "--out", "gc_model.data.estimate.processes"),
    ],
)
@needs_torch
def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch, command, option, work):
    def worked(*arguments, **options):
        raise AssertionError("begun")

    monkeypatch.setattr(work, worked)
    place = tmp_path / "found.png"
    place.write_bytes(b"old")
    monkeypatch.setattr("gc_model.data.estimate._mediapipe", lambda: None)
    asked = (colours(),) if command == "joints" else (run(), "--data", tmp_path)
    with command_line.no_file_above(1000):
        result = call(command, *asked, option, place)
    assert_one_line(result, str(place), "File too large")
    assert place.read_bytes() == b"old" and list(tmp_path.iterdir()) == [place]


@needs_torch
def test_a_run_or_bundle_that_cannot_be_changed_is_said_before_the_work(tmp_path, monkeypatch):
    trained, made = untrained(tmp_path / "run"), bundle()
    data, new = colours(), tmp_path / "new"

    def worked(*arguments, **options):
        raise AssertionError("begun")

    monkeypatch.setattr("gc_model.evaluation.confidence._windows", worked)
    monkeypatch.setattr("gc_model.export.onnx.export_graphs", worked)
    monkeypatch.setattr("gc_model.export.unfold.unfold", worked)
    monkeypatch.setattr("gc_ros.recognition.footage.read_footage", worked)
    commands = [
        (app, trained, "calibrate", trained, "--data", data, "--subjects", "a"),
        (app, new, "unpack", made, "--out", new),
        (trt_build.cli.app, new, "export", trained, "--out", new),
        (trt_build.cli.app, made, "quantize", made, "--clips", data),
    ]
    for program, place, *arguments in commands:
        with command_line.no_file_above(1000):
            assert_one_line(command_line.call(program, *arguments), f"{place}: File too large")
    assert not new.exists()


@pytest.mark.parametrize("option", ["--out", "--confusion", ""])
@needs_torch
def test_a_disk_that_becomes_full_leaves_the_report_or_picture_of_before(tmp_path, monkeypatch, option):
    labels = [*(f"activity {i}" for i in range(9)), "no result"]
    report = {
        "labels": labels,
        "confusion": np.eye(9, 10).tolist(),
        "accuracy": 1.0,
        "clips": 9,
        "padding": "x" * 9000,
    }
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    monkeypatch.setattr("gc_model.evaluation.evaluate.evaluate", lambda *a, **k: report)
    monkeypatch.setattr("gc_model.evaluation.glimpses.look", lambda *a, **k: ({}, noise))
    place = tmp_path / "found.png"
    place.write_bytes(b"old")
    command = (
        ("evaluate", run(), "--data", tmp_path, option)
        if option
        else ("glimpses", run(), "--data", tmp_path, "--out")
    )
    with command_line.no_file_above(5000):
        assert_one_line(call(*command, place), str(place), "File too large")
    assert place.read_bytes() == b"old" and list(tmp_path.iterdir()) == [place]


def test_wrong_use_is_exit_code_2():
    for arguments in (
        (),
        ("fly",),
        ("train",),
        ("evaluate", "run"),
        ("train", "--data", "x", "--out", "y", "--wings"),
    ):
        assert call(*arguments).exit_code == 2, arguments


def test_help_and_errors_of_options_need_no_torch():
    program = "import sys\nsys.modules['torch'] = None\nfrom gc_model.cli import main\nmain()\n"
    for arguments, code in (
        (["train", "--help"], 0),
        (["train", "--data", "x", "--out", "y", "--set", "a=1"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--set", "wings=2"], ["wings=2", "name=value", "epochs1"]),
        (["--set", "batch"], ["batch", "name=value"]),
        (["--set", "batch=many"], ["batch", "integer"]),
        (["--set", "batch=0"], ["batch", "greater"]),
        (["--set", "scale=[0.5"], ["scale", "JSON"]),
        (["--set", "scale=0.9"], ["scale", "--set scale=0.55,1.1"]),
        (["--set", "scale=0.9,0.5"], ["scale", "range"]),
        (["--set", "scale=[-1, 1]"], ["scale", "range"]),
        (["--seed", "-1"], ["seed", "greater"]),
        (["--classes", "red,red"], ["classes", "twice"]),
        (["--epochs", "some"], ["epochs1", "integer"]),
        (["--fit", "squash"], ["fit", "stretch"]),
    ],
)
def test_wrong_options_are_one_line_that_names_them(tmp_path, arguments, words):
    assert_one_line(call("train", "--data", tmp_path, "--out", tmp_path / "run", *arguments), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data", "nowhere"], ["nowhere"]),
        (["--preset", "huge"], ["huge", "tiny"]),
        (["--subjects", "zoe"], ["zoe", "a, b"]),
        (["--classes", "pink"], ["pink", "red"]),
        (["--classes", "red"], ["red", "two classes"]),
        (["--resume"], ["--resume"]),
        (["--weights", "gone.pth", "--set", "from_scratch=false"], ["gone.pth"]),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(tmp_path, arguments, words):
    assert_one_line(call("train", "--data", colours(), "--out", tmp_path / "run", *TINY, *arguments), *words)
    assert not (tmp_path / "run" / "options.json").exists()


@pytest.mark.slow
@needs_torch
def test_a_disk_that_becomes_full_under_the_log_is_one_line_and_the_training_goes_on_later(
    tmp_path, monkeypatch, capfd
):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(28, "No space left on device")

    data = coloured_clips(tmp_path / "data", per_class=2)
    (data / "clips.csv").unlink()
    train = ("train", "--data", data, "--out", tmp_path / "run", *TINY[:-1], "1")
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        result = call(*train)
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'run' / 'stage'}") and "No space left" in last, result.stderr
    assert "Traceback" not in result.stderr + capfd.readouterr().err
    assert call(*train, "--resume").exit_code == 0


@pytest.mark.slow
@needs_torch
def test_training_names_what_it_left_out_and_what_comes_next(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    undecodable(data / "red" / "broken.mp4")
    result = call("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 0, result.output
    assert "trained on 3 clips of 3 classes" in result.stdout and "red/broken.mp4" in result.stdout
    assert f"trt-build export {tmp_path / 'run'}" in result.stdout
    assert_one_line(call("train", "--data", data, "--out", tmp_path / "run", *TINY), "--resume")
    assert_one_line(
        call("train", "--data", data, "--out", tmp_path / "run", *TINY, "--resume", "--seed", 1),
        "seed",
        "same",
    )
    assert call("train", "--data", data, "--out", tmp_path / "run", *TINY, "--resume").exit_code == 0


@needs_torch
def test_an_interrupted_training_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gc_model.training.train.train", interrupted)
    result = call("train", "--data", colours(), "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 130 and "--resume" in result.stderr


@needs_torch
@pytest.mark.parametrize(
    "works, command",
    [
        ("gc_model.evaluation.ablate.ablate", ["ablate", "--data", "D", "--test-subjects", "b"]),
        ("gc_model.data.prepare.prepare", ["prepare", "D"]),
        ("gc_model.data.estimate.estimate", ["joints", "D"]),
        ("gc_model.data.detect.detect", ["boxes", "D", "--detector", "yolo.onnx"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_same_command_continues_says_so_where_it_is_interrupted(
    tmp_path, monkeypatch, works, command
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(works, interrupted)
    data = str(coloured_clips(tmp_path / "data", per_class=1, frames=4))
    out = [tmp_path / "out"] if command[0] == "prepare" else ["--out", tmp_path / "out"]
    result = call(*[data if word == "D" else word for word in command], *out)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == f"interrupted; the same command continues {tmp_path / 'out'}"


@needs_torch
def test_evaluate_prints_recalls_and_accuracy_and_writes_the_report(tmp_path):
    arguments = ("evaluate", run(), "--data", colours(), "--subjects", "a", "--protocol", "stream")
    text = call(*arguments, "--out", tmp_path / "report.json")
    assert text.exit_code == 0, text.output
    assert "accuracy" in text.stdout and "of 6 clips" in text.stdout and "green" in text.stdout
    data = call(*arguments, "--json")
    assert json.loads(data.stdout) == json.loads((tmp_path / "report.json").read_text())


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("judge, before", [("sub-sequences", "clips"), ("stream", "stream")])
def test_judge_is_a_name_for_what_protocol_was(judge, before):
    ask = ("evaluate", run(), "--data", colours(), "--subjects", "a", "--json")
    reports = [
        json.loads(call(*ask, *option).stdout) for option in (("--judge", judge), ("--protocol", before))
    ]
    assert reports[0] == reports[1] and reports[0]["protocol"] == before


@needs_torch
@pytest.mark.parametrize("name", ["--split", "--protocol"])
def test_the_split_of_a_data_set_has_one_name_and_the_former_one_works(tmp_path, monkeypatch, name):
    seen = []

    def trained(options, *args, **kwargs):
        seen.append(options.protocol)
        raise DataError("enough")

    monkeypatch.setattr("gc_model.training.train.train", trained)
    monkeypatch.setattr(
        "gc_model.evaluation.ablate.ablate",
        lambda *args, splits, **kwargs: seen.extend(splits) or {"protocols": [], "rows": []},
    )
    ask = ("--data", colours(), "--layout", "ntu", "--out", tmp_path / "out")
    assert_one_line(call("train", *ask, name, "cross_view"), "enough")
    assert call("ablate", *ask, f"{name}s", "cross_view,cross_subject").exit_code == 0
    assert seen == ["cross_view", "cross_view", "cross_subject"]


@needs_torch
def test_evaluate_names_clips_without_a_result_on_stderr(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    undecodable(data / "red" / "broken.mp4")
    result = call("evaluate", run(), "--data", data, "--protocol", "stream")
    assert result.exit_code == 0 and "of 4 clips" in result.stdout
    assert "no result for red/broken.mp4" in result.stderr


@pytest.mark.slow
@needs_torch
def test_wrong_questions_to_evaluate_are_one_line(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    text = (data / "clips.csv").read_text()
    (data / "clips.csv").write_text(text.replace(",red,", ",pink,"))
    groups, no_json, half = tmp_path / "list.json", tmp_path / "no.json", tmp_path / "half.json"
    groups.write_text('["red"]')
    no_json.write_text("{")
    half.write_text('{"warm": ["red"]}')
    ask = ("evaluate", run(), "--data")
    assert_one_line(call(*ask, data), "pink", "blue, green, red")
    assert_one_line(call(*ask, tmp_path / "nowhere"), "nowhere")
    assert_one_line(call(*ask, colours(), "--subjects", "zoe"), "zoe")
    assert_one_line(call(*ask, colours(), "--judge", "guess"), "sub-sequences, stream or continuous")
    assert_one_line(call(*ask, colours(), "--protocol", "guess"), "sub-sequences, stream or continuous")
    assert_one_line(call(*ask, colours(), "--mode", "both"), "window or step")
    assert_one_line(call(*ask, colours(), "--groups", groups), "coarse")
    assert_one_line(call(*ask, colours(), "--groups", no_json), "no.json", "coarse")
    assert_one_line(call(*ask, colours(), "--groups", half), "blue")
    assert_one_line(call(*ask, colours(), "--out", tmp_path / "no" / "r.json"), "r.json")
    assert_one_line(call("evaluate", tmp_path, "--data", colours()), "model.json", "gc-model train")


@needs_torch
def test_info_describes_a_run_and_the_presets():
    of_run, rows = call("info", run(), "--json"), call("info", run())
    values = json.loads(of_run.stdout)
    assert values["recipe"]["labels"] == ["blue", "green", "red"] and values["sizes"]["trunk_parameters"] > 0
    assert rows.exit_code == 0 and "labels" in rows.stdout
    assert_one_line(call("info", scratch()), "gc-model train")


@needs_torch
@pytest.mark.slow
def test_info_without_a_run_compares_the_presets():
    presets = json.loads(call("info", "--json").stdout)
    assert set(presets) >= {"paper", "edge", "tiny"} and presets["paper"][
        "trunk_gmac_per_frame"
    ] == pytest.approx(7.79, abs=0.01)


def video_labels(folder: Path, mode: str, clips: list[str], data: Path) -> dict[str, str]:
    """Stream labels of `gc-ros video` on the exported bundle."""
    from gc_ros.cli import app as robot

    labels = {}
    for name in clips:
        result = CliRunner().invoke(
            robot,
            ["video", str(data / name), "--bundle", str(folder), "--mode", mode, "--threads", "1", "--json"],
        )
        assert result.exit_code == 0, result.output
        labels[name] = json.loads(result.stdout.splitlines()[-1])["label"]
    return labels


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
def test_evaluating_a_stream_gives_the_labels_of_gc_ros_video_on_the_bundle(mode):
    report = json.loads(
        call(
            "evaluate", run(), "--data", colours(), "--subjects", "a", "--protocol", "stream", "--mode", mode, "--json"
        ).stdout
    )  # fmt: skip
    assert len(set(report["predictions"].values())) > 1
    assert video_labels(bundle(), mode, list(report["predictions"]), colours()) == report["predictions"]


@needs_torch
@pytest.mark.slow
def test_the_whole_way_from_clips_over_training_and_export_to_the_robots_labels(tmp_path):
    from trt_build.cli import app as build

    trained, exported = tmp_path / "run", tmp_path / "bundle"
    shutil.copytree(people(), tmp_path / "people")
    command = [
        "train",
        "--data",
        tmp_path / "people",
        "--out",
        trained,
        "--preset",
        "tiny",
        "--epochs",
        "2,3",
        "--quiet",
    ]
    settings = ["from_scratch=true", "lr=0.003", "batch=4", "val_fraction=0.1"]
    result = call(*command, *[word for s in settings for word in ("--set", s)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(build, ["export", str(trained), "--out", str(exported)])
    assert result.exit_code == 0, result.output
    report = json.loads(
        call("evaluate", trained, "--data", tmp_path / "people", "--protocol", "stream", "--json").stdout
    )
    assert report["clips"] == 12 and not report["problems"]
    names = list(report["predictions"])[::3]
    assert (
        video_labels(exported, "window", names, tmp_path / "people").items() <= report["predictions"].items()
    )


def test_wrong_questions_to_ablate_and_prepare_are_one_line(tmp_path):
    ask = ("ablate", "--data", tmp_path, "--out", tmp_path / "out")
    assert_one_line(call(*ask), "--test-subjects")
    assert_one_line(call(*ask, "--test-subjects", "a", "--seeds", "one"), "--seeds one")
    assert_one_line(call("prepare", tmp_path / "nowhere", tmp_path / "out"), "nowhere")


@pytest.mark.slow
@needs_torch
def test_prepare_says_what_it_made_and_what_is_damaged(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    undecodable(data / "red" / "broken.mp4")
    result = call("prepare", data, tmp_path / "small", "--size", "32", "--workers", "1", "--quiet")
    assert result.exit_code == 0 and "4 clips: 4 made, 0 there before, 1 damaged" in result.stdout
    assert "red/broken.mp4" in result.stderr
    assert (tmp_path / "small" / "red" / "broken.mp4").read_bytes() == (
        data / "red" / "broken.mp4"
    ).read_bytes()
    assert_one_line(call("prepare", data, data), "another folder")
    assert_one_line(
        call("ablate", "--data", data, "--out", data, "--subjects", "b", "--test-subjects", "a", "--quiet"),
        "another --out",
    )


@pytest.mark.slow
@needs_torch
def test_training_says_how_many_clips_are_too_short_for_the_robot(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    short = call("train", "--data", data, "--out", tmp_path / "long", *TINY, "--set", "window_s=8")
    assert short.exit_code == 0 and "3 of these clips are shorter than the window of 8 s" in short.stdout
    assert "window_s=" in short.stdout
    assert "shorter" not in call("train", "--data", data, "--out", tmp_path / "run", *TINY).stdout


@pytest.mark.slow
@needs_torch
def test_finetune_names_new_classes_and_keeps_the_network_and_window_of_its_start(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    (data / "red").rename(data / "crimson")
    before = (run() / "model.json").read_bytes()
    ask = ("finetune", run(), "--data", data, "--epochs", "0", "--set", "val_fraction=0", "--quiet")
    result = call(*ask, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "3 classes (1 of them new)" in result.stdout and "trt-build export" in result.stdout
    made, start = (json.loads((folder / "model.json").read_text()) for folder in (tmp_path / "out", run()))
    assert made["recipe"]["labels"] == ["blue", "crimson", "green"]
    assert made["recipe"]["window_s"] == start["recipe"]["window_s"] and made["config"] == start["config"]
    assert made["recipe"]["provenance"]["start"] == "run" and (run() / "model.json").read_bytes() == before
    assert_one_line(call(*ask, "--out", tmp_path / "out"), "--resume")
    assert_one_line(call(*ask, "--set", "epochs3=-1", "--out", tmp_path / "x"), "epochs3")
    assert_one_line(call("finetune", scratch(), "--data", data, "--out", tmp_path / "x"), "gc-model train")


@pytest.mark.slow
@needs_torch
def test_finetune_trains_on_the_clips_that_were_kept_of_what_a_robot_was_taught(tmp_path):
    taught = tmp_path / "b.taught"
    yellow = [np.full((8, 32, 32, 3), (200, 200, level), np.uint8) for level in (40, 60)]
    keep_clips(taught, "yellow", yellow, rate_hz=2.0)
    ask = (
        "finetune",
        run(),
        "--epochs",
        "0",
        "--set",
        "val_fraction=0",
        "--quiet",
        "--out",
        tmp_path / "out",
    )
    (taught / "taught.json").touch()  # either name stands for what was taught
    result = call(
        *ask, "--data", coloured_clips(tmp_path / "data", per_class=1), "--taught", taught / "taught.json"
    )
    assert result.exit_code == 0, result.output
    assert "on 5 clips of 4 classes (1 of them new)" in result.stdout
    assert_one_line(call(*ask, "--taught", tmp_path), "--keep-clips")
    assert_one_line(call(*ask), "--taught")


@needs_torch
def test_finetune_mixes_in_what_was_taught_beside_other_clips_and_keeps_the_network_of_its_start(
    tmp_path, monkeypatch
):
    asked = []

    def note(options, *_, **__):
        asked.append(options)
        raise DataError("seen")

    monkeypatch.setattr("gc_model.training.train.train", note)
    keep_clips(tmp_path / "b.taught", "yellow", [np.zeros((8, 32, 32, 3), np.uint8)], rate_hz=2.0)
    ask = (
        "finetune",
        run(),
        "--data",
        colours(),
        "--taught",
        tmp_path / "b.taught",
        "--out",
        tmp_path / "out",
    )
    assert_one_line(call(*ask, "--set", f"also={colours()}", "--set", "shares=0.5,0.2,0.3"), "seen")
    assert asked[0].also == [colours(), kept_clips(tmp_path / "b.taught")]
    assert_one_line(call(*ask, "--set", "preset=edge"), "preset=edge: the network of", "gc-model train")


@needs_torch
@pytest.mark.parametrize("setting", ["fit=pad", "temporal=centered"])
def test_what_the_network_to_start_from_does_not_have_is_refused(tmp_path, setting):
    for ask in (("finetune", run()), ("train", "--set", f"start={run()}")):
        result = call(*ask, "--data", colours(), "--out", tmp_path / "out", "--quiet", "--set", setting)
        assert_one_line(result, f"{setting}: the network of", "leave it away")


@needs_torch
@pytest.mark.slow
def test_finetune_on_streams_says_how_the_carried_state_compares(tmp_path):
    result = call(
        "finetune", run(), "--data", colours(), "--epochs", "0", "--stream-epochs", "1", "--set", "val_fraction=0.3",
        "--quiet", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "% by carried state" in result.stdout and "% by windows" in result.stdout
    assert json.loads((tmp_path / "out" / "model.json").read_text())["config"]["reset_after"] == 0


@pytest.mark.slow
@needs_torch
def test_calibrate_says_what_it_set_and_asks_for_people_where_none_were_held_out(tmp_path):
    trained = untrained(tmp_path / "run")
    assert_one_line(call("calibrate", trained, "--data", colours()), "--subjects")
    assert_one_line(call("calibrate", trained, "--data", colours(), "--subjects", "zoe"), "zoe", "a, b")
    result = call("calibrate", trained, "--data", colours(), "--subjects", "a", "--unknown", colours())
    assert result.exit_code == 0, result.output
    assert "calibration error" in result.stdout and "of the unknown" in result.stdout
    recipe = json.loads((trained / "model.json").read_text())["recipe"]
    assert f"temperature {recipe['temperature']:.3f}" in result.stdout
    everybody = untrained(tmp_path / "everybody")
    assert_one_line(call("calibrate", everybody), "--data", "--like")
    assert_one_line(call("calibrate", everybody, "--like", everybody), "gc-model calibrate")
    result = call("calibrate", everybody, "--like", trained)
    assert result.exit_code == 0 and f"temperature {recipe['temperature']:.3f}" in result.stdout


@pytest.mark.slow
@needs_torch
def test_calibrate_says_what_the_unknown_do_after_idle_was_lowered(tmp_path):
    trained = untrained(tmp_path / "run", labels=("blue", "green", "idle", "red"))
    others = ("--unknown", colours(), "--unknown-labelled")
    result = call("calibrate", trained, "--data", colours(), "--subjects", "a", *others, 1)
    assert_one_line(result, "without idle at all")
    result = call("calibrate", trained, "--data", colours(), "--subjects", "a", *others, 0.6)
    assert result.exit_code == 0, result.output
    assert "idle lowered by" in result.stdout and "unknown windows carry a label" in result.stdout
    assert "calibration error" in result.stdout and "% of the unknown" in result.stdout


@pytest.mark.slow
@needs_torch
def test_evaluate_draws_the_confusion_matrix(tmp_path):
    ask = ("evaluate", run(), "--data", colours(), "--subjects", "a", "--confusion")
    result = call(*ask, tmp_path / "confusion.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert_one_line(call(*ask, tmp_path / "nowhere" / "confusion.png"), "nowhere")
