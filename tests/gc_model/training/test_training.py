# SPDX-License-Identifier: Apache-2.0
"""Training: both stages end to end on synthetic people, resumed bit for bit, frozen what should be, errors named."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
train_module = pytest.importorskip(
    "gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError
)

from safetensors.torch import load_file, save_file

from gc_model.data import frozen_front, own
from gc_model.data.augment import BoxAugment
from gc_model.data.clip import labels_of, split_validation
from gc_model.data.frames import FrameCache
from gc_model.paper.losses import attraction, pose_loss, separation
from gc_model.paper.network import Network
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training import checkpoint, gathering, loaders, run_directory
from gc_model.training import fit as fit_module
from gc_model.training import stages as training
from gc_model.training.lightning_io import SafetensorsIO
from gc_model.training.options import TrainOptions, training_options
from tests.gc_model.nets import noise
from tests.gc_model.runs import COLOURS, coloured_clips, people, scratch, undecodable
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.labels import IDLE_LABELS

REPOSITORY = Path(__file__).resolve().parents[3]


def options(**changes) -> TrainOptions:
    """Two epochs a stage on ten training and two validation clips, with every random thing switched on."""
    plain = {
        "data": people(),
        "preset": "tiny",
        "epochs1": 2,
        "epochs2": 2,
        "batch": 4,
        "lr": 2e-3,
        "from_scratch": True,
        "val_fraction": 0.2,
        "scale": (0.8, 1.0),
    }
    return TrainOptions(**(plain | changes))


@cache
def decoded() -> Path:
    """The frame cache of `people`, which every run here starts from."""
    train_module.train(options(epochs1=0, epochs2=0), scratch() / "decoded", progress=False)
    return scratch() / "decoded" / "cache"


@pytest.fixture(autouse=True)
def before_anything_is_patched(request: pytest.FixtureRequest) -> None:
    """Whatever test is the first in its process, `decoded` trains as it should."""
    if request.node.get_closest_marker("slow"):
        decoded()


def train(out: Path, resume: bool = False, **changes) -> dict:
    shutil.copytree(decoded(), out / "cache", dirs_exist_ok=True)
    return train_module.train(options(**changes), out, resume=resume, progress=False)


def uninterrupted(**changes) -> Path:
    """A finished run of these options, made once; do not edit its files."""
    changed = {k: v for k, v in changes.items() if getattr(options(), k) != v}
    out = scratch() / "-".join(["uninterrupted", *(f"{k}={v}" for k, v in sorted(changed.items()))])
    if not out.exists():
        train(out, **changed)
    return out


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different, different


class Killed(Exception):
    """Stands for a process that ends in the middle."""


def kill_at(monkeypatch, stage: type, call: int, before: Callable = lambda *_: None) -> None:
    """Make the `call`-th training step (from 0) of a stage raise, counted over its epochs: three steps each."""
    step, calls = stage.training_step, iter(range(1_000_000))

    def dying(self, *args):
        if next(calls) == call:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(stage, "training_step", dying)


@pytest.mark.slow
def test_a_run_leaves_a_complete_directory_and_a_model_that_loads():
    out = uninterrupted()
    there = {p.name for p in out.iterdir()}
    files = {"options.json", "clips.json", "stage1.safetensors", "calibrated.safetensors", "calibration.json"}
    assert there == files | {"model.json", "model.safetensors", "cache", "stage1", "stage2"}
    assert all((out / s / f"{n}.ckpt").is_file() for s in ("stage1", "stage2") for n in ("last", "best"))
    assert not list(out.rglob("*.part*"))
    model, recipe = checkpoint.load(out)
    assert recipe.labels == ["bow", "cheer", "jump"] and model.config.preset == "tiny"
    with torch.no_grad():
        assert torch.isfinite(model(noise(1, 8, 64)).logits).all()


def test_what_is_published_of_a_run_names_no_place_of_this_machine():
    out = uninterrupted()
    text = (out / "model.json").read_text()
    assert str(scratch()) not in text and str(Path.home()) not in text
    provenance = json.loads(text)["recipe"]["provenance"]
    assert provenance["data"] == "people" and provenance["clips"] == 10 and provenance["imagenet"] is None


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights(tmp_path):
    train(tmp_path / "again")
    assert_same_weights(tmp_path / "again", uninterrupted())


def recorded_losses(monkeypatch) -> dict[str, list[float]]:
    losses: dict[str, list[float]] = {"TrunkStage": [], "CloudStage": []}
    report = training.Stage._report

    def note(self, terms, *rest):
        losses[type(self).__name__].append(float(terms["loss"].detach()))
        return report(self, terms, *rest)

    monkeypatch.setattr(training.Stage, "_report", note)
    return losses


@pytest.mark.slow
def test_the_loss_goes_down_in_both_stages_and_training_clips_are_recognised(tmp_path, monkeypatch):
    losses = recorded_losses(monkeypatch)
    train(
        tmp_path / "run", epochs1=15, epochs2=15, batch=4, lr=5e-3, head_lr_factor=1, val_fraction=0, augment=False,
        dropout=0, label_smoothing=0, glimpse_weight=0,
    )  # fmt: skip
    for name, values in losses.items():
        assert len(values) == 45
        assert sum(values[-6:]) < 0.7 * sum(values[:6]), (name, values)
    from gc_model.evaluation.evaluate import EvaluateOptions, evaluate

    assert evaluate(tmp_path / "run", EvaluateOptions(people()), progress=False)["accuracy"] >= 10 / 12


@pytest.mark.parametrize(
    "stage, call",
    [
        pytest.param("TrunkStage", 1, marks=pytest.mark.slow),  # before any checkpoint
        ("TrunkStage", 4),
        pytest.param("CloudStage", 0, marks=pytest.mark.slow),  # after the start of D
        ("CloudStage", 4),
        pytest.param("CloudStage", 5, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_in_an_epoch_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, stage, call):
    kill_at(monkeypatch, getattr(training, stage), call)
    with pytest.raises(Killed):
        train(tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", uninterrupted())


@pytest.mark.slow
def test_a_run_killed_twice_in_one_stage_ends_with_the_same_bits(tmp_path, monkeypatch):
    for call in (4, 4):  # in epoch 2 of 4, then, resumed there, in epoch 3
        kill_at(monkeypatch, training.CloudStage, call)
        with pytest.raises(Killed):
            train(tmp_path / "run", resume=(tmp_path / "run" / "options.json").exists(), epochs2=4)
        monkeypatch.undo()
    train(tmp_path / "run", resume=True, epochs2=4)
    assert_same_weights(tmp_path / "run", uninterrupted(epochs2=4))


@pytest.mark.slow
@pytest.mark.parametrize("function", ["start_metric", "save_part"])
def test_a_run_killed_between_the_stages_ends_with_the_same_bits(tmp_path, monkeypatch, function):
    decoded()  # also where this test runs first
    monkeypatch.setattr(train_module, function, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", uninterrupted())


REGULARISED = {"mixup": 0.4, "cutmix": 1.0, "ema": 0.9, "drop_path": 0.2, "erase": 0.5, "motion": True}


@pytest.mark.slow
def test_a_run_with_every_regularisation_is_resumed_with_the_same_bits_and_ends_with_the_mean_of_its_weights(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, training.CloudStage, 4)
        train(tmp_path / "run", **REGULARISED)
    train(tmp_path / "run", resume=True, **REGULARISED)
    whole = uninterrupted(**REGULARISED)
    assert_same_weights(tmp_path / "run", whole)
    last = SafetensorsIO().load_checkpoint(whole / "stage2" / "last.ckpt")
    name = next(n for n in last["state_dict"] if "readout" in n and n.endswith("weight"))
    mean, current = last["state_dict"][name], last["current_model_state"][name]
    assert not torch.equal(mean, current)
    best = SafetensorsIO().load_checkpoint(whole / "stage2" / "best.ckpt")["state_dict"][name]
    assert torch.equal(load_file(whole / "model.safetensors")[name.removeprefix("model.")], best)


@pytest.mark.slow
def test_a_stage_that_had_ended_is_found_with_the_mean_of_its_weights(tmp_path):
    """Lightning takes the mean where the training ends; a process that was killed behind it finds the checkpoint."""
    options = {"ema": 0.9, "val_fraction": 0, "epochs1": 1, "epochs2": 1}
    whole = train(tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for file in ("model.json", "model.safetensors"):
        (tmp_path / "killed" / file).unlink()
    train(tmp_path / "killed", resume=True, **options)
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
    last = SafetensorsIO().load_checkpoint(tmp_path / "whole" / "stage2" / "last.ckpt")
    name = next(n for n in last["state_dict"] if "readout" in n and n.endswith("weight"))
    assert not torch.equal(last["state_dict"][name], last["current_model_state"][name]), "what is tested"
    assert whole is not None


def test_branches_are_left_out_in_training_alone_and_more_often_towards_the_end():
    trunk = build(preset("edge", classes=3)).trunk
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    trunk.eval()
    with torch.no_grad():
        before = trunk.back(trunk.front(x, 1), 1)
        training.set_drop_path(trunk, 0.3)
        assert torch.equal(trunk.back(trunk.front(x, 1), 1), before)
        rates = [m.drop_prob for m in trunk.modules() if type(m).__name__ == "DropPath"]
        assert rates == sorted(rates) and rates[-1] == pytest.approx(0.3) and len(rates) > 10
        trunk.train()
        training.freeze_statistics(trunk)
        assert not torch.equal(trunk.back(trunk.front(x, 1), 1), before)


@pytest.mark.slow
def test_a_run_that_had_stopped_early_stays_stopped_when_resumed(tmp_path, monkeypatch):
    # Steps too small to change anything: the first epoch stays the best and patience runs out.
    settings = {"patience": 1, "lr": 1e-12, "epochs2": 6}
    losses = recorded_losses(monkeypatch)
    out = uninterrupted(**settings)
    steps = len(losses["CloudStage"])
    assert steps < 6 * 3
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()
    losses["CloudStage"].clear()
    train(tmp_path / "run", resume=True, **settings)
    assert not losses["CloudStage"]
    assert_same_weights(tmp_path / "run", out)


# Best epoch: the last, the first.
@pytest.mark.parametrize("lr", [2e-3, pytest.param(3e-2, marks=pytest.mark.slow)])
def test_resuming_a_finished_run_elsewhere_changes_nothing(tmp_path, lr):
    shutil.copytree(uninterrupted(lr=lr), tmp_path / "run")
    train(tmp_path / "run", resume=True, lr=lr)
    assert_same_weights(tmp_path / "run", uninterrupted(lr=lr))


@pytest.mark.slow
def test_every_epoch_can_be_resumed_from_not_only_the_best(tmp_path, monkeypatch):
    settings = {"lr": 1e-12, "epochs1": 0, "epochs2": 3}  # no epoch after the first improves
    kill_at(monkeypatch, training.CloudStage, 7)
    with pytest.raises(Killed):
        train(tmp_path / "run", **settings)
    monkeypatch.undo()
    losses = recorded_losses(monkeypatch)
    train(tmp_path / "run", resume=True, **settings)
    assert len(losses["CloudStage"]) == 3  # the third epoch alone


@pytest.mark.slow
def test_a_process_killed_by_the_system_is_resumed_with_the_same_bits(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(decoded(), out / "cache")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "from gc_model.training import stages as training\n"
        "from gc_model.training.options import TrainOptions\n"
        "from gc_model.training.train import train\n"
        "step, calls = training.CloudStage.training_step, iter(range(100))\n"
        "def dying(self, *args):\n"
        "    if next(calls) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, *args)\n"
        "training.CloudStage.training_step = dying\n"
        "train(TrainOptions.model_validate_json(sys.argv[1]), Path(sys.argv[2]), progress=False)\n"
    )
    command = [
        sys.executable,
        "-c",
        program,
        options().model_dump_json(),
        str(out),
        str(torch.get_num_threads()),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train(out, resume=True)
    assert_same_weights(out, uninterrupted())


def test_an_occupied_directory_is_not_trained_over(tmp_path):
    with pytest.raises(DataError, match="--resume"):
        train(uninterrupted())
    with pytest.raises(DataError, match=r"leave out --resume"):
        train_module.train(options(), tmp_path / "new", resume=True, progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="another --out"):
        train_module.train(options(), tmp_path / "file", progress=False)


def test_a_run_is_resumed_with_its_own_options_only():
    with pytest.raises(DataError, match=r"other options \(batch, seed\)"):
        train(uninterrupted(), resume=True, batch=5, seed=1)


def test_a_path_in_another_spelling_is_the_same_option(monkeypatch):
    before = TrainOptions.model_validate_json((uninterrupted() / "options.json").read_text())
    monkeypatch.chdir(before.data.parent)
    run_directory.check_run(before.model_copy(update={"data": Path(before.data.name)}), uninterrupted(), True)
    with pytest.raises(DataError, match=r"other options \(data\)"):
        run_directory.check_run(before.model_copy(update={"data": Path("elsewhere")}), uninterrupted(), True)


def test_a_damaged_options_file_is_one_line(tmp_path):
    shutil.copytree(uninterrupted(), tmp_path / "run")
    (tmp_path / "run" / "options.json").write_text("{")
    with pytest.raises(DataError, match=r"options\.json is damaged"):
        train(tmp_path / "run", resume=True)


def test_a_trained_network_without_options_is_not_trained_over(tmp_path):
    # As `gc-model unpack` and `average` leave one, and a bundle.
    for name in ("model.json", "bundle.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        for resume in (False, True):
            with pytest.raises(DataError, match="holds a trained network: choose another --out"):
                train(tmp_path / name, resume=resume)


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_keeps_its_calibration(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted(), run)
    model, recipe = checkpoint.load(run)
    checkpoint.save(run, model, replace(recipe, temperature=0.5, unknown_threshold=0.25))
    train(run, resume=True)
    recipe = checkpoint.load(run)[1]
    assert (recipe.temperature, recipe.unknown_threshold) == (0.5, 0.25)
    (run / "stage2" / "last.ckpt").unlink()  # a part that is repeated makes another network
    train(run, resume=True)
    assert checkpoint.load(run)[1].temperature == 1.0
    assert_same_weights(run, uninterrupted())


@pytest.mark.slow
def test_a_run_interrupted_while_decoding_is_started_with_and_without_resume(tmp_path):
    for resume in (False, True):
        (tmp_path / f"{resume}" / "cache").mkdir(parents=True)
        train(tmp_path / f"{resume}", resume=resume, epochs1=0, epochs2=0)
        assert (tmp_path / f"{resume}" / "model.json").is_file()


@pytest.mark.parametrize("text", ["{", "[]", '{"training": 3}'])
def test_a_damaged_list_of_clips_is_one_line(tmp_path, text):
    shutil.copytree(uninterrupted(), tmp_path / "run")
    (tmp_path / "run" / "clips.json").write_text(text)
    with pytest.raises(DataError, match=r"clips\.json is damaged"):
        train(tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_damaged_shared_stage_is_named_with_the_remedy(tmp_path):
    asked, shared = options(epochs1=0, epochs2=0), tmp_path / "shared.safetensors"
    train_module.train(asked, tmp_path / "a", progress=False, first_stage=shared)
    (path,) = tmp_path.glob("shared-*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"shared-\w+\.safetensors is damaged .*delete it"):
        train_module.train(asked, tmp_path / "b", progress=False, first_stage=shared)


@pytest.mark.parametrize("part", ["stage1.safetensors", "stage2/last.ckpt"])
def test_a_damaged_part_of_a_run_is_named_with_the_remedy(tmp_path, part):
    shutil.copytree(uninterrupted(), tmp_path / "run")
    path = tmp_path / "run" / part
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"{path.name}.*delete it"):
        train(tmp_path / "run", resume=True)


@pytest.mark.slow
def test_clips_that_changed_since_are_noticed(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=2)
    settings = {"data": data, "epochs1": 0, "epochs2": 0, "val_fraction": 0.0}
    train(tmp_path / "run", **settings)
    (data / "clips.csv").unlink()
    (data / "red" / "red1.mp4").unlink()
    with pytest.raises(DataError, match=r"clips changed.*red/red1\.mp4"):
        train(tmp_path / "run", resume=True, **settings)


def test_clips_filmed_again_under_their_names_are_said_whenever_the_run_is_resumed(tmp_path, caplog):
    data = coloured_clips(tmp_path / "data", per_class=1)
    squares = Preprocess(size=64, resize=72)

    def start() -> str:
        caplog.clear()
        clips = own.clips(data)
        cache = FrameCache(tmp_path / "cache", squares)
        files = dict(zip((c.name for c in clips), cache.identities(clips), strict=True))
        run_directory.start_run(options(data=data), tmp_path / "run", clips[:2], clips[2:], files)
        return caplog.text

    assert not start() and not start()
    shutil.copy(data / "red" / "red0.mp4", data / "blue" / "blue0.mp4")
    for _ in range(2):
        assert "1 clips are not the files any more" in (said := start()) and "(blue/blue0.mp4)" in said
    # As runs were begun before.
    path = tmp_path / "run" / "clips.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "files"}))
    assert not start()


@pytest.mark.slow
def test_rows_share_no_first_stage_with_a_clip_filmed_again(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    shared = tmp_path / "stage1" / "key.safetensors"
    for name, files in (("a", 1), ("b", 1), ("c", 2)):
        if name == "c":
            shutil.copy(data / "red" / "red0.mp4", data / "blue" / "blue0.mp4")
        asked = options(data=data, epochs1=0, epochs2=0, val_fraction=0.0)
        train_module.train(asked, tmp_path / name, progress=False, first_stage=shared)
        assert len(list(shared.parent.glob("key-*.safetensors"))) == files


@pytest.mark.slow
def test_clips_that_do_not_decode_are_left_out_named_and_counted(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=2)
    (data / "clips.csv").unlink()
    undecodable(data / "red" / "broken.mp4")
    summary = train(tmp_path / "run", data=data, epochs1=0, epochs2=0, val_fraction=0.0)
    assert (
        list(summary["left_out"]) == ["red/broken.mp4"]
        and "broken.mp4" in summary["left_out"]["red/broken.mp4"]
    )
    assert summary["clips"] == 6 and summary["labels"] == list(COLOURS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": Path("nowhere")}, "nowhere"),
        ({"subjects": ["zoe"]}, "zoe"),
        ({"preset": "huge"}, "huge"),
        ({"weights": Path("gone.pth"), "from_scratch": False}, r"gone\.pth"),
        ({"val_fraction": 0.999}, "val_fraction"),
        (
            {"preset": "paper", "from_scratch": False, "epochs1": 0, "freeze_stages": 5, "views": 1},
            "random weights see nothing: give the ImageNet weights of resnet50 with --weights FILE",
        ),
    ],
)
def test_a_run_that_cannot_start_leaves_its_directory_free(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        train(tmp_path / "run", **changes)
    train(tmp_path / "run", epochs1=0, epochs2=0)  # the corrected command


def test_a_single_class_and_a_folder_without_a_clip_are_refused_and_leave_the_directory_free(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    with pytest.raises(DataError, match='all 1 clips are of class "red"; training needs two classes'):
        train(tmp_path / "run", data=data, classes=["red"])
    (data / "clips.csv").unlink()
    (data / "notes").mkdir()
    with pytest.raises(DataError, match="no clip that can be used in notes"):
        train(tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "options.json").exists()


NAMES = {"turned": "\u202b\u05d9\u05d3\u202c", "two lines": "wave\u2028hand", "long": "x" * 201}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_no_bundle_may_have_is_refused_before_anything_is_decoded(tmp_path, monkeypatch, name):
    monkeypatch.setattr(FrameCache, "fill", None)
    data = coloured_clips(tmp_path / "data", per_class=1)
    table = (data / "clips.csv").read_text()
    (data / "clips.csv").write_text(table.replace(",red,", f",{name},"))
    reason = "only printable ones are allowed|longer than 200 characters"
    with pytest.raises(DataError, match=rf"the table's row of .*red/red0\.mp4: label .*({reason}); write"):
        train_module.train(options(data=data), tmp_path / "run", progress=False)
    (data / "clips.csv").unlink()
    (data / "red").rename(data / name)
    with pytest.raises(DataError, match=rf"{data}: label .*({reason}); rename the folder"):
        train_module.train(options(data=data), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "options.json").exists()
    # What is not a class of the network may be called anything.
    clips = own.clips(data)
    for changes in ({"idle_classes": [name]}, {"classes": ["blue", "green"]}):
        labels = {c.label for c in gathering.of_classes(clips, options(data=data, **changes))}
        assert {"blue", "green"} <= labels and name not in labels


@pytest.mark.slow
def test_a_class_without_a_clip_that_decodes_is_named_with_the_reason(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1)
    (data / "clips.csv").unlink()
    undecodable(data / "pink" / "p.mp4")
    with pytest.raises(DataError, match=r'"pink".*p\.mp4'):
        train(tmp_path / "run", data=data, val_fraction=0.0)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_kept(tmp_path, monkeypatch):
    report = training.Stage._report

    def diverged(self, terms, *rest):
        return report(self, {k: v * torch.nan for k, v in terms.items()}, *rest)

    monkeypatch.setattr(training.Stage, "_report", diverged)
    with pytest.raises(DataError, match=r"diverged.*lr"):
        train(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def small_model(name: str = "tiny") -> Network:
    torch.manual_seed(0)
    return build(preset(name, classes=3))


def after_one_epoch(stage: training.Stage, folder: Path) -> tuple[dict, dict]:
    """The state before and after one epoch of a stage on the people."""
    settings = options(val_fraction=0.0)
    cache_ = FrameCache(decoded(), Preprocess(size=64, resize=72))
    clips = own.clips(people())
    data = loaders.Loaders(settings, stage.model, labels_of(clips), cache_, clips, [])
    before = {k: v.clone() for k, v in stage.model.state_dict().items()}
    fit_module.fit(stage, data, folder, settings, progress=False)
    return before, stage.model.state_dict()


def changed(before: dict, after: dict) -> set[str]:
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.slow
@pytest.mark.parametrize("evaluating", [False, True])
def test_stage_2_freezes_the_trunks_batch_norm_statistics_and_trains_its_weights(tmp_path, evaluating):
    model = small_model().train(not evaluating)  # as a resumed run finds it, and as the start of D leaves it
    before, after = after_one_epoch(training.CloudStage(model, options(epochs2=1)), tmp_path)
    moved = changed(before, after)
    assert not [k for k in moved if k.endswith(STATISTICS)]
    trunk = {k for k in before if k.startswith("trunk.") and not k.endswith(STATISTICS)}
    assert trunk <= moved
    # In training the metric normalises by the batch and moves its running constants (Eq 9).
    assert {"assignment.metric.phi_min", "assignment.metric.phi_max", "assignment.metric.L.weight"} <= moved
    still = {k for k in before if not k.startswith(("trunk.", "pose."))} - moved
    assert not still


@pytest.mark.parametrize("frozen", [False, True])
def test_stage_1_trains_the_trunk_alone(tmp_path, frozen):
    stage = training.TrunkStage(small_model(), options(epochs1=1), frozen)
    moved = changed(*after_one_epoch(stage, tmp_path))
    assert moved and all(k.startswith("trunk.") for k in moved)
    assert any(k.endswith(STATISTICS) for k in moved) is not frozen


@pytest.mark.parametrize("name", ["tiny", "edge"])
@pytest.mark.parametrize("stages", range(6))
def test_freeze_stages_freezes_the_stem_and_exactly_those_resolutions(name, stages):
    model = small_model(name)
    training.freeze_stages(model, stages)
    frozen = {n for n, p in model.trunk.net.named_parameters() if not p.requires_grad}
    order = {
        "tiny": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"],
        "edge": ["conv_stem", "bn1", *[f"blocks.{i}" for i in range(7)]],
    }[name]
    end = {"tiny": [0, 2, 3, 4, 5, 6], "edge": [0, 3, 4, 5, 7, 9]}[name][stages]
    expected = {
        n for n, _ in model.trunk.net.named_parameters() if n.startswith(tuple(f"{o}." for o in order[:end]))
    }
    assert frozen == expected
    assert all(p.requires_grad for p in model.head_parameters())


def test_frozen_stages_keep_their_weights_through_stage_2(tmp_path):
    settings = options(epochs2=1, freeze_stages=2)
    moved = changed(*after_one_epoch(training.CloudStage(small_model(), settings), tmp_path))
    assert not [k for k in moved if k.startswith(("trunk.net.conv1", "trunk.net.bn1", "trunk.net.layer1"))]
    assert [k for k in moved if k.startswith("trunk.net.layer2")]


def test_learning_rates_follow_the_factors_and_the_schedule():
    settings = options(epochs2=8, lr=1e-3, trunk_lr_factor=0.5, head_lr_factor=4.0, locate_lr_factor=3.0)
    stage = training.CloudStage(small_model(), settings)
    groups = stage.configure_optimizers().param_groups
    assert [g["base_lr"] for g in groups] == pytest.approx([5e-4, 4e-3, 1.2e-2])
    # The third is the location layer alone: weight, bias, and where the glimpses start.
    located = {
        n.rpartition("attention.")[2]
        for n, p in stage.named_parameters()
        if any(p is q for q in groups[2]["params"])
    }
    assert located == {"locate.weight", "locate.bias", "start"}
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in stage.parameters())
    factors = [training.cosine(e, 8) for e in range(8)]
    assert factors[0] == 0.5 and factors[1:] == sorted(factors[1:], reverse=True) and factors[-1] < 0.06
    assert training.cosine(0, 2) == 1.0
    assert training.cosine(4, 8) == pytest.approx(0.505) and training.cosine(8, 8) == pytest.approx(0.01)
    # A decay would draw the location layer back to where the glimpses start.
    decayed = training.CloudStage(small_model(), options(weight_decay=0.03)).configure_optimizers()
    assert [g["weight_decay"] for g in decayed.param_groups] == [0.03, 0.03, 0.0]


@pytest.mark.parametrize("stage", [training.TrunkStage, training.CloudStage])
def test_a_step_of_training_takes_the_losses_of_its_options(stage):
    settings = options(layout="ntu", pose_weight=0.5, glimpse_weight=0.2, label_smoothing=0.2, dropout=0.0)
    frozen = (True,) if stage is training.TrunkStage else ()
    one = stage(small_model(), settings, *frozen).eval()
    told = {}
    one._report = lambda terms, logits, labels: told.update(terms, logits=logits) or terms["loss"]
    one.log = lambda *_, **__: None
    one._trainer = SimpleNamespace(current_epoch=0)
    joints = torch.rand(2, 8, 2, 25, 2, generator=torch.manual_seed(0))
    batch = {"clip": noise(2, 8, 64), "label": torch.tensor([0, 2]), "joints": joints}
    one.training_step(batch, 0)
    Z, c = one.model.features(batch["clip"])
    logits = one.logits(Z, c)
    torch.testing.assert_close(told["logits"], logits)
    torch.testing.assert_close(
        told["L_D"], torch.nn.functional.cross_entropy(logits, batch["label"], label_smoothing=0.2)
    )
    torch.testing.assert_close(told["L_P"], 0.5 * pose_loss(one.model.poses(c), joints))
    terms = {"L_D", "L_P"} if stage is training.TrunkStage else {"L_D", "L_P", "L_G1", "L_G2"}
    assert told.keys() == terms | {"loss", "logits"}
    torch.testing.assert_close(told["loss"], sum(told[name] for name in terms))
    if stage is training.CloudStage:
        l = one.model.fold(Z, c)[0].l
        torch.testing.assert_close(told["L_G1"], 0.2 * separation(l))
        torch.testing.assert_close(told["L_G2"], 0.2 * attraction(l, joints))


def test_stage_1_leaves_out_what_its_classifier_reads_in_training_alone():
    stage = training.TrunkStage(small_model(), options(dropout=0.5), True)
    Z, c = torch.ones(1, 8, stage.model.trunk.channels, 2, 2), torch.ones(1, 8, 16)
    draws = {stage.train().logits(Z, c).sum().item() for _ in range(5)}
    assert len(draws) > 1 and len({stage.eval().logits(Z, c).sum().item() for _ in range(3)}) == 1


def test_validation_judges_each_clip_by_the_mean_over_its_own_sub_sequences():
    stage = training.CloudStage(small_model(), options()).eval()
    told = []
    stage.report_validation = lambda logits, labels: told.append(logits)
    batch = {
        "clip": torch.stack([noise(5, 8, 64, seed) for seed in range(3)]),
        "label": torch.tensor([0, 1, 2]),
    }
    with torch.no_grad():
        stage.validation_step(batch, 0)
        each = [stage.model(clip).logits.mean(0) for clip in batch["clip"]]
    torch.testing.assert_close(told[0], torch.stack(each))


def test_validation_counts_every_clip_by_all_its_sub_sequences():
    """Not every tenth batch: the logged accuracy is that of all clips, whatever the batches."""
    stage = training.CloudStage(small_model(), options())
    logged: list[tuple[str, float, int]] = []
    stage.log = lambda name, value, batch_size, **_: logged.append((name, float(value), batch_size))
    stage.eval()
    clips, labels = noise(7 * 5, 8, 64).unflatten(0, (7, 5)), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    right = 0
    with torch.no_grad():
        for part in (slice(0, 4), slice(4, 7)):
            stage.validation_step({"clip": clips[part], "label": labels[part]}, 0)
        for clip, label in zip(clips, labels, strict=True):
            right += int(stage.model(clip).logits.mean(0).argmax() == label)
    accuracy = [(value, n) for name, value, n in logged if name == "val_accuracy"]
    assert [n for _, n in accuracy] == [4, 3]
    assert sum(value * n for value, n in accuracy) == pytest.approx(right)


def killed_and_resumed(run: Path, monkeypatch, stage: type, **settings) -> None:
    """A run that is killed in its seventh step of `stage` and goes on to its end."""
    kill_at(monkeypatch, stage, 7)
    with pytest.raises(Killed):
        train(run, **settings)
    monkeypatch.undo()
    train(run, resume=True, **settings)


@pytest.mark.slow
def test_training_on_maps_of_frozen_stages_is_resumed_with_the_same_bits(tmp_path, monkeypatch):
    settings = {"freeze_stages": 4, "views": 2, "epochs1": 3, "epochs2": 3}
    killed_and_resumed(tmp_path / "run", monkeypatch, training.TrunkStage, **settings)
    assert_same_weights(tmp_path / "run", uninterrupted(**settings))
    before = small_model().state_dict()  # of the same seed: the front never moved, the last stage did
    after = load_file(tmp_path / "run" / "model.safetensors")
    moved = {k for k in changed(before, after) if k.startswith("trunk.") and not k.endswith(STATISTICS)}
    assert moved and all(k.startswith("trunk.net.layer4.") for k in moved)


@pytest.mark.slow
def test_training_the_head_alone_is_resumed_with_the_same_bits_and_leaves_the_trunk(tmp_path, monkeypatch):
    settings = {"freeze_stages": 5, "views": 2, "epochs1": 3, "epochs2": 3}
    killed_and_resumed(tmp_path / "run", monkeypatch, training.CloudStage, **settings)
    assert_same_weights(tmp_path / "run", uninterrupted(**settings))
    moved = changed(small_model().state_dict(), load_file(tmp_path / "run" / "model.safetensors"))
    assert moved and not [k for k in moved if k.startswith("trunk.")]
    assert not (tmp_path / "run" / "stage1").exists()  # nothing to train there


@pytest.mark.slow
def test_classifiers_alone_leave_glimpses_and_workers_as_they_are(tmp_path):
    """In windows and in streams; what a robot knows can change without where it looks."""
    start = uninterrupted(freeze_stages=5, epochs2=1)
    settings = {"start": start, "epochs1": 0, "freeze_stages": 5, "views": 2, "classifiers_alone": True}
    before = load_file(start / "model.safetensors")
    for stages in ({"epochs2": 1}, {"epochs2": 0, "epochs3": 1}):
        run = tmp_path / "-".join(stages)
        train(run, **settings | stages)
        moved = changed(before, load_file(run / "model.safetensors"))
        assert set(moved) == {"readout.weight", "readout.bias"}


def test_classifiers_alone_want_a_frozen_trunk_and_say_how():
    with pytest.raises(DataError, match="freeze_stages2=5"):
        training_options({"data": "x"}, ["classifiers_alone=true"])
    training_options({"data": "x"}, ["classifiers_alone=true", "freeze_stages2=5"])


@pytest.mark.slow
def test_a_trunk_frozen_after_stage_1_keeps_what_it_learned_there_and_is_resumed_with_the_same_bits(
    tmp_path, monkeypatch
):
    settings = {"freeze_stages": 4, "freeze_stages2": 5, "views": 2, "epochs1": 3, "epochs2": 3}
    killed_and_resumed(tmp_path / "run", monkeypatch, training.CloudStage, **settings)
    assert_same_weights(tmp_path / "run", uninterrupted(**settings))
    end = load_file(tmp_path / "run" / "model.safetensors")
    learned = changed(small_model().state_dict(), end)
    assert [k for k in learned if k.startswith("trunk.net.layer4.") and not k.endswith(STATISTICS)]
    after_stage_1 = load_file(tmp_path / "run" / "stage1.safetensors")
    moved = changed(after_stage_1, end)
    assert moved and not [k for k in moved if k.startswith("trunk.")]
    # Without the second figure the last stage goes on learning: the two differ in stage 2 alone.
    trained_on = load_file(uninterrupted(**settings | {"freeze_stages2": None}) / "model.safetensors")
    assert [k for k in changed(after_stage_1, trained_on) if k.startswith("trunk.net.layer4.")]


def loaders_of(clips=None, **changes) -> loaders.Loaders:
    clips = own.clips(people()) if clips is None else clips
    cache_ = FrameCache(decoded(), Preprocess(size=64, resize=72))
    return loaders.Loaders(options(**changes), small_model(), [*labels_of(clips), "idle"], cache_, clips, [])


def test_a_clip_is_too_short_where_it_holds_no_window_of_the_robots(tmp_path):
    # T frames at T / window_s Hz: eight of them span seven eighths of the window.
    for frames, short in ((15, 0), (14, 1)):  # 3.5 s and 3.25 s at 4 Hz, of a window of 4 s
        data = coloured_clips(tmp_path / str(frames), per_class=1, frames=frames)
        clips = [c for c in own.clips(data) if c.label == "red"]
        cache_ = FrameCache(tmp_path / "cache", Preprocess(size=64, resize=72))
        found = gathering.Samples(preset("tiny"), ["red"], cache_, clips, [], {}, {}, {}, "")
        assert found.shorter_than(4.0) == short


def test_clips_of_the_passes_between_the_stages_lie_at_even_distances():
    data = loaders_of()
    assert len(own.clips(people())) == 12
    assert [data._spread(n) for n in (1, 2, 3, 4, 12, 99)] == [
        [0], [0, 11], [0, 6, 11], [0, 4, 7, 11], list(range(12)), list(range(12))
    ]  # fmt: skip


def test_without_augmentation_boxes_do_not_err_and_people_keep_their_share():
    plain, varied = (
        loaders_of(augment=a, person_share=0.5, box_scale=1.4, box_jitter=0.1, box_drop=0.2).plain.boxes
        for a in (False, True)
    )
    assert plain == BoxAugment(0.5, 1.0, 0.0, 0.0) and varied == BoxAugment(0.5, 1.4, 0.1, 0.2)


def test_features_of_clips_that_stand_still_are_others():
    keys = [loaders_of(still=still).front_key(True) for still in (0.0, 0.2, 0.4, 0.0)]
    assert len(set(keys)) == 3 and keys[0] == keys[3]


def test_runs_that_share_a_cache_share_frozen_features_only_where_they_are_the_same():
    model, clips = small_model(), own.clips(people())
    squares = Preprocess(size=model.config.size, resize=model.config.resize, fit="stretch")

    def key(**changes) -> str:
        asked = options(freeze_stages=5, **changes)
        part = split_validation(clips, asked.val_fraction)
        frames = FrameCache(decoded(), squares)
        return loaders.Loaders(asked, model, labels_of(clips), frames, *part).front_key(True)

    assert key() == key(epochs2=7, head_lr_factor=2.0)
    assert (
        len({key(), key(seed=1), key(window_s=2.0), key(flip=False), key(val_fraction=0.4), key(views=3)})
        == 6
    )


def test_maps_are_shared_by_trunks_that_differ_behind_them_alone():
    model = small_model()
    maps, whole = (frozen_front.front_key(model, [], w) for w in (False, True))
    assert maps != whole
    net = model.trunk.net
    for name, shared in (("layer4", True), ("layer3", False)):
        batch_norm = next(m for m in net.get_submodule(name).modules() if hasattr(m, "running_mean"))
        with torch.no_grad():
            batch_norm.running_mean += 1
        assert (frozen_front.front_key(model, [], whole=False) == maps) is shared
        assert frozen_front.front_key(model, [], whole=True) != whole


def test_the_split_that_training_uses_leaves_no_clip_out():
    names = json.loads((uninterrupted() / "clips.json").read_text())
    clips = own.clips(people())
    training_clips, validation = split_validation(clips, 0.2)
    assert names["training"] == [c.name for c in training_clips]
    assert names["validation"] == [c.name for c in validation]
    assert len(clips) == 12 and names["files"].keys() == {c.name for c in clips}


@pytest.mark.slow
def test_clips_with_joints_and_without_train_together_in_the_shares_asked_for(tmp_path, monkeypatch):
    from gc_model.synth import synthesize

    synthesize(
        tmp_path / "drawn", classes=["jump", "wave"], subjects=2, clips_per_class=2, size=(96, 96), workers=1,
        progress=False, joints=True,
    )  # fmt: skip
    seen = []
    step = training.CloudStage.training_step

    def note(self, batch, index):
        known = (~batch["joints"].isnan()).flatten(1).any(1), (~batch["moving"].isnan()).flatten(1).any(1)
        seen.extend(zip(batch["label"].tolist(), *(k.tolist() for k in known), strict=True))
        return step(self, batch, index)

    monkeypatch.setattr(training.CloudStage, "training_step", note)
    settings = options(
        epochs1=1, epochs2=2, val_fraction=0, motion=True, also=[tmp_path / "drawn"], shares=[0.25, 0.75]
    )
    train_module.train(settings, tmp_path / "run", progress=False)
    labels = checkpoint.load(tmp_path / "run")[1].labels
    assert labels == ["bow", "cheer", "jump", "wave"]
    assert len(seen) == 2 * 16  # as many as there are clips in both
    drawn = [label for label, joints, _ in seen if joints]
    assert len(drawn) == 2 * 12 and {labels[k] for k in drawn} == {"jump", "wave"}
    # What moves stands for joints where there are none, and nowhere else.
    assert all(joints != moving for _, joints, moving in seen)
    text = (tmp_path / "run" / "model.json").read_text()
    assert json.loads(text)["recipe"]["provenance"]["also"] == ["drawn"] and str(tmp_path) not in text
    with pytest.raises(DataError, match="shares"):
        training_options({"data": people()}, ["shares=[1,2]"])


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [None, ["jump", "bow"]])
def test_classes_that_count_as_idle_train_one_class_that_is_no_answer(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(train_module, "_network", lambda config, options, labels: stop(labels))
    seen = []

    def stop(labels):
        seen.append(labels)
        raise DataError("seen")

    settings = options(classes=chosen, idle_classes=["cheer"], also=[coloured_clips(tmp_path / "more")])
    with pytest.raises(DataError, match="seen"):
        train_module.train(settings, tmp_path / "run", progress=False)
    colours = [] if chosen else [*COLOURS]
    assert sorted(seen[0]) == sorted(["bow", "jump", "idle", *colours]) and "idle" in IDLE_LABELS
    with pytest.raises(DataError, match='no clip is of class "chear"'):
        train_module.train(options(idle_classes=["chear"]), tmp_path / "other", progress=False)


def test_classes_are_looked_for_in_all_that_is_mixed_in_and_unknown_ones_are_named(tmp_path, monkeypatch):
    def stop(config, options, labels):
        raise DataError(f"labels {labels}")

    monkeypatch.setattr(train_module, "_network", stop)
    more = [coloured_clips(tmp_path / "more")]
    with pytest.raises(DataError, match=r"^labels \['jump', 'red'\]"):
        train_module.train(options(classes=["jump", "red"], also=more), tmp_path / "run", progress=False)
    for idle in ([], ["cheer"]):
        chosen = options(classes=["jump", "rad"], also=more, idle_classes=idle)
        with pytest.raises(DataError, match=r'^no class "rad" among the clips; there are .*jump, red'):
            train_module.train(chosen, tmp_path / "other", progress=False)


def test_a_source_without_a_clip_has_no_share(tmp_path):
    more = coloured_clips(tmp_path / "more")
    chosen = options(classes=["jump", "bow"], also=[more], shares=[0.7, 0.3])
    with pytest.raises(
        DataError, match=rf"{more} has no clip to train on, so it cannot have 0.3 of an epoch"
    ):
        train_module.train(chosen, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "options.json").exists()


def test_a_second_training_into_the_same_folder_is_refused_and_writes_nothing(tmp_path):
    with run_directory.alone_in(tmp_path / "run"):
        with pytest.raises(
            DataError, match=r"another training is writing to .*run: wait for its end, or choose"
        ):
            train_module.train(options(), tmp_path / "run", progress=False)
        assert not any((tmp_path / "run").iterdir())
    assert not (tmp_path / "run").exists(), "a folder with nothing in it stays free"


def test_what_stage_1_froze_trains_again_where_stage_2_freezes_less():
    model = build(preset("tiny", classes=3))
    trunk = list(model.trunk.parameters())
    training.freeze_stages(model, 4)
    assert not all(p.requires_grad for p in trunk) and any(p.requires_grad for p in trunk)
    training.freeze_stages(model, 0)
    assert all(p.requires_grad for p in trunk)


@pytest.mark.slow
def test_with_a_mean_of_the_weights_a_run_killed_before_D_ends_with_the_same_bits(tmp_path, monkeypatch):
    changes = {"ema": 0.9, "epochs2": 1}

    def die(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Run, "start_of_D", die)
        with pytest.raises(Killed):
            train(tmp_path / "run", **changes)
    train(tmp_path / "run", resume=True, **changes)
    assert_same_weights(tmp_path / "run", uninterrupted(**changes))


@pytest.mark.slow
def test_a_run_with_glimpses_elsewhere_starts_them_there_and_keeps_the_rest(tmp_path):
    """As every run from before glimpses had places of their own, `before` has no `attention.start`."""
    before = tmp_path / "before"
    shutil.copytree(uninterrupted(), before)
    weights = load_file(before / "model.safetensors")
    del weights["attention.start"]
    save_file(weights, before / "model.safetensors")
    config = json.loads((before / "model.json").read_text())
    del config["config"]["glimpse_extent"]
    (before / "model.json").write_text(json.dumps(config))
    assert not checkpoint.load(before)[0].attention.start.any()
    settings = {"epochs1": 0, "epochs2": 0, "start": before}
    train(tmp_path / "same", **settings)
    same, _ = checkpoint.load(tmp_path / "same")
    assert all(torch.equal(v, weights[n]) for n, v in same.state_dict().items() if n != "attention.start")
    train(tmp_path / "woken", **settings, glimpse_extent=0.3, alpha=0.1)
    woken, _ = checkpoint.load(tmp_path / "woken")
    assert woken.config.alpha == 0.1
    changed = {
        n for n, v in woken.state_dict().items() if n != "attention.start" and not torch.equal(v, weights[n])
    }
    assert {n.rpartition(".")[0] for n in changed} <= {
        "attention.locate",
        "assignment.metric",
        "assignment.metric.L",
    }
    with torch.no_grad():
        l = woken(noise(1, 8, 64)).l[0, 0]
    assert (
        torch.allclose(l[:, 2:], torch.full((3, 2), 0.3), atol=0.1)
        and float(torch.cdist(l[:, :2], l[:, :2]).max()) > 0.5
    )
