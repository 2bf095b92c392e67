# SPDX-License-Identifier: Apache-2.0
"""Temperature, calibration error and threshold: against known cases, and carried into the bundle."""

import json
import math
import subprocess
import sys

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.cli import app
from gc_model.data.datasets import index
from gc_model.evaluation import confidence
from gc_model.evaluation.confidence import (
    calibrate_like,
    calibrate_run,
    calibration_error,
    idle_offset,
    open_set_threshold,
    settle_idle,
    temperature,
)
from gc_model.export.torch_engine import bundle_info
from gc_model.training import checkpoint
from tests.gc_model.runs import colours, untrained
from trt_build.errors import DataError


def sharpened(factor, n=4000, classes=5):
    """Logits that are right as often as softmax(logits / factor) says."""
    generator = torch.manual_seed(0)
    honest = torch.randn(n, classes, generator=generator) * 2
    labels = torch.multinomial(torch.softmax(honest, 1), 1, generator=generator)[:, 0]
    return honest * factor, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_what_the_logits_were_sharpened_by(factor):
    assert temperature(*sharpened(factor)) == pytest.approx(factor, rel=0.08)


def test_the_error_is_large_for_the_overconfident_and_small_after_scaling():
    logits, labels = sharpened(3.0)
    before = calibration_error(torch.softmax(logits, 1), labels)
    after = calibration_error(torch.softmax(logits / 3, 1), labels)
    assert before > 0.1 and after < 0.03


def test_the_error_is_the_mean_gap_of_the_bins_weighted_by_their_windows():
    # Bins of 1/15: two windows at 0.72, one right; one at 0.9, wrong; one at exactly 14/15, right.
    best = torch.tensor([0.72, 0.72, 0.9, 14 / 15], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    error = calibration_error(torch.stack([best, 1 - best], 1), labels)
    assert error == pytest.approx((abs(1 - 2 * 0.72) + abs(1 - 0.9 - 14 / 15)) / 4)


def test_the_temperature_stays_finite_where_every_window_is_right():
    logits = torch.eye(3).repeat(4, 1) * 5
    assert 1 / 20 <= temperature(logits, torch.arange(3).repeat(4)) < 1
    assert temperature(logits * 1e-2, torch.arange(3).repeat(4)) == 1 / 20
    assert temperature(logits * 1e2, torch.arange(1, 4).repeat(4) % 3) == 20  # and where every one is wrong


def test_figures_are_at_the_temperature_and_the_threshold_of_the_recipe():
    rng = torch.manual_seed(0)
    logits, strange = torch.randn(60, 3, generator=rng) * 3, torch.randn(40, 3, generator=rng) * 3
    labels = torch.randint(0, 3, (60,), generator=rng)
    recipe = checkpoint.Recipe(["a", "b", "c"], temperature=3.0, unknown_threshold=0.55)
    found = confidence._figures(logits, labels, strange, recipe)
    p, q = torch.softmax(logits / 3, 1).amax(1), torch.softmax(strange / 3, 1).amax(1)
    assert found["known_kept"] == pytest.approx(float((p >= 0.55).double().mean()))
    assert found["unknown_refused"] == pytest.approx(float((q < 0.55).double().mean()))
    assert found["unknown_windows"] == 40 and 0.2 < found["unknown_refused"] < 0.8
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    plain, scaled = (float(torch.nn.functional.cross_entropy(each, labels)) for each in (logits, logits / 3))
    assert found["nll"] == pytest.approx([plain, scaled]) and plain > scaled
    sure = [calibration_error(torch.softmax(each, 1), labels) for each in (logits, logits / 3)]
    assert found["ece"] == pytest.approx(sure) and sure[0] > sure[1]


def test_without_unknown_clips_the_threshold_keeps_95_of_100_known():
    known = torch.linspace(0, 1, 1001)
    assert open_set_threshold(known, None) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("n", [2, 5, 10, 15, 19, 35, 39, 59, 100])
def test_as_many_of_few_known_windows_pass_as_is_promised(n: int):
    known = torch.linspace(0.3, 0.45, n)
    assert (known >= open_set_threshold(known, None)).double().mean() >= 0.95


def test_known_clips_alone_never_ask_for_more_than_an_even_chance():
    # A small set is often fitted to certainty; a threshold of 0.9996 would call everything new unknown.
    assert open_set_threshold(torch.full((100,), 0.9998), None) == 0.5


def test_with_unknown_clips_the_threshold_parts_them():
    known, unknown = torch.linspace(0.6, 1, 50), torch.linspace(0.2, 0.5, 50)
    threshold = open_set_threshold(known, unknown)
    assert (known >= threshold).all() and (unknown < threshold).all()


def test_half_of_the_known_pass_even_where_unknown_clips_look_like_them():
    known, unknown = torch.linspace(0.2, 0.9, 51), torch.linspace(0.2, 0.88, 51)
    threshold = open_set_threshold(known, unknown)
    assert (known >= threshold).double().mean() >= 0.5


def test_the_run_and_what_is_exported_of_it_carry_both(tmp_path):
    run = untrained(tmp_path / "run")
    weights = checkpoint.load(run)[0].state_dict()
    found = calibrate_run(run, colours(), subjects=["a"], progress=False)
    model, recipe = checkpoint.load(run)
    assert recipe.temperature == found["temperature"] != 1.0
    assert recipe.unknown_threshold == found["unknown_threshold"] > 0
    assert found["nll"][1] <= found["nll"][0] + 1e-3 and found["windows"] == 5 * found["clips"] == 30
    carried = bundle_info(model.config, recipe).calibration
    assert (carried.temperature, carried.unknown_threshold) == (recipe.temperature, recipe.unknown_threshold)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert json.loads((run / "confidence.json").read_text()) == found


def test_a_run_without_held_out_clips_asks_for_people(tmp_path):
    with pytest.raises(DataError, match="--subjects"):
        calibrate_run(untrained(tmp_path / "run"), colours(), progress=False)


def test_held_out_clips_are_used_by_their_names(tmp_path):
    run = untrained(tmp_path / "run")
    (run / "clips.json").write_text(
        json.dumps({"training": [], "validation": ["red/red0.mp4", "blue/blue1.mp4"]})
    )
    found = calibrate_run(run, colours(), progress=False)
    assert found["clips"] == 2 and found["source"] == "held out"


def test_a_run_trained_on_everybody_takes_the_mean_of_runs_that_left_people_out(tmp_path):
    run = untrained(tmp_path / "run")
    for name, values in (("a", (1.0, 0.2)), ("b", (4.0, 0.4))):
        (tmp_path / name).mkdir()
        found = dict(zip(("temperature", "unknown_threshold"), values, strict=True))
        (tmp_path / name / "confidence.json").write_text(json.dumps(found))
    calibrate_like(run, [tmp_path / "a", tmp_path / "b"])
    recipe = checkpoint.load(run)[1]
    assert recipe.temperature == pytest.approx(2.0) and recipe.unknown_threshold == pytest.approx(0.3)
    (tmp_path / "b" / "confidence.json").unlink()
    with pytest.raises(DataError, match="gc-model calibrate"):
        calibrate_like(run, [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("T", [0.5, 2.0])
def test_idle_is_lowered_as_far_as_the_share_allows_and_no_further(share, T):
    logits = torch.randn(500, 6, generator=torch.manual_seed(1)) * 2
    logits[:, 4] += 20

    def labelled(lower):
        p = torch.softmax((logits - lower * torch.eye(6)[4]) / T, 1)
        return float(((p.argmax(1) != 4) & (p.amax(1) >= 0.3)).double().mean())

    lower = idle_offset(logits, [4], T, 0.3, share)
    assert labelled(lower) <= share
    assert lower > 15.9 or labelled(lower + 0.1) > share - 1e-9
    assert idle_offset(logits - 100 * torch.eye(6)[4], [4], T, 0.3, 0.5) is None


def test_idle_is_not_abolished_without_a_word(tmp_path):
    run = untrained(tmp_path / "run", labels=("red", "green", "idle"))
    before, recipe = checkpoint.load(run)
    before.readout.bias.data[..., 2] += 8
    checkpoint.save(run, before, recipe)
    content = (run / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="without idle at all"):
        settle_idle(run, colours(), 1.0, progress=False)
    assert (run / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("temperature", [0, -3, math.nan, math.inf])
def test_a_damaged_calibration_of_another_run_is_refused(tmp_path, temperature):
    other = tmp_path / "r base"
    other.mkdir()
    values = {"temperature": temperature, "unknown_threshold": 0.5}
    (other / "confidence.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"is not calibrated .*type: gc-model calibrate '.*/r base' --data"):
        calibrate_like(tmp_path / "run", [other])


def test_the_threshold_is_given_beside_other_runs_alone(tmp_path):
    run = untrained(tmp_path / "run")
    said = CliRunner().invoke(app, ["calibrate", str(run), "--data", str(colours()), "--threshold", "0.9"])
    assert said.exit_code == 2 and "--threshold goes with --like" in said.output


def test_a_run_whose_idle_was_lowered_names_more_and_of_its_classes_the_same(tmp_path):
    run = untrained(tmp_path / "run", labels=("red", "green", "idle"))
    before, recipe = checkpoint.load(run)
    before.readout.bias.data[..., 2] += 8
    checkpoint.save(run, before, recipe)
    found = settle_idle(run, colours(), 0.6, progress=False)
    after = checkpoint.load(run)[0]
    moved = (before.readout.bias - after.readout.bias).detach()
    assert found["idle_lowered"] > 1 and 0 < found["unknown_labelled"] <= 0.6
    assert torch.allclose(moved[..., 2], torch.tensor(found["idle_lowered"])) and not moved[..., :2].any()
    with pytest.raises(DataError, match="allow more"):
        settle_idle(run, colours(), found["unknown_labelled"] / 2, progress=False)
    with pytest.raises(DataError, match="no class that counts as idle"):
        settle_idle(untrained(tmp_path / "other"), colours(), 0.5, progress=False)


def test_lowering_idle_forgets_the_accuracies_of_before_and_keeps_where_the_network_looks(tmp_path):
    run = untrained(tmp_path / "run", labels=("red", "green", "idle"))
    model, recipe = checkpoint.load(run)
    model.readout.bias.data[..., 2] += 8
    looks = {"clips": 3, "figures": {"iou": 0.1}}
    recipe.provenance.update(stream={"carried": 0.9}, glimpses=looks | {"accuracy": {"learned": 0.9}})
    checkpoint.save(run, model, recipe)
    settle_idle(run, colours(), 0.6, progress=False)
    model, after = checkpoint.load(run)
    assert after.provenance == {"data": "colours", "clips": 12, "glimpses": looks}
    # Temperature and threshold change no answer.
    checkpoint.save(run, model, recipe)
    calibrate_run(run, colours(), subjects=["a"], progress=False)
    assert checkpoint.load(run)[1].provenance == recipe.provenance


def test_the_figures_are_those_of_the_network_whose_idle_was_lowered(tmp_path):
    run = untrained(tmp_path / "run", labels=("blue", "green", "idle", "red"))
    before, recipe = checkpoint.load(run)
    before.readout.bias.data[..., 2] += 1
    checkpoint.save(run, before, recipe)
    found = calibrate_run(
        run, colours(), subjects=["a"], unknown=colours(), unknown_labelled=0.6, progress=False
    )
    assert found["idle_lowered"] > 0.1 and json.loads((run / "confidence.json").read_text()) == found
    # Nothing is lowered twice: the same clips through the network as it lies there.
    model, recipe = checkpoint.load(run)
    clips = [clip for clip in index("clips", colours(), subjects=["a"]) if clip.label in recipe.labels]
    logits, labels, _ = confidence._windows(model, recipe, clips, False)
    p = torch.softmax(logits / recipe.temperature, 1)
    assert found["accuracy"] == pytest.approx(float((p.argmax(1) == labels).double().mean()))
    assert found["known_kept"] == pytest.approx(
        float((p.amax(1) >= recipe.unknown_threshold).double().mean())
    )
    assert found["ece"][1] == pytest.approx(calibration_error(p, labels), abs=1e-4)


def test_a_calibration_that_is_refused_leaves_the_run_as_it_was(tmp_path):
    run = untrained(tmp_path / "run", labels=("blue", "green", "idle", "red"))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(DataError, match="allow more"):
        calibrate_run(run, colours(), subjects=["a"], unknown=colours(), unknown_labelled=0.0, progress=False)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_it_is_imported_alone_as_the_command_does():
    # Other tests bring Lightning, and with it what this module must bring itself.
    done = subprocess.run(
        [sys.executable, "-c", "import gc_model.evaluation.confidence"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
