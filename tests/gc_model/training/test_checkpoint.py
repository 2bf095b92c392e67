# SPDX-License-Identifier: Apache-2.0
"""A trained model on disk: it comes back equal, and an incomplete or damaged run is one line with a remedy."""

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.training import checkpoint
from tests.gc_model.nets import build, noise
from tests.gc_model.runs import run
from trt_build.errors import DataError


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(run(), tmp_path / "run"))


@pytest.mark.parametrize("changes", [{}, {"temporal": "centered", "G": 2, "C": 4}, {"reset_after": 0}])
def test_a_model_comes_back_with_the_same_results_and_recipe(tmp_path, changes):
    model = build(dtype=torch.float32, **changes)
    recipe = checkpoint.Recipe([f"c{i}" for i in range(7)], 3.0, 1.5, 0.25, {"clips": 3, "of": ["a", None]})
    checkpoint.save(tmp_path / "new" / "run", model, recipe)
    again, read = checkpoint.load(tmp_path / "new" / "run")
    assert again.config == model.config and read == recipe and not again.training
    assert checkpoint.read_description(tmp_path / "new" / "run") == (model.config, recipe)
    with torch.no_grad():
        assert torch.equal(again(noise(1, 8, 64)).logits, model(noise(1, 8, 64)).logits)


def test_the_sampling_rate_follows_from_window_and_T():
    assert checkpoint.Recipe(["a"], window_s=4.0).rate_hz(8) == 2.0


def test_a_run_is_two_files_without_pickle(copy):
    assert sorted(p.name for p in copy.iterdir()) == ["model.json", "model.safetensors"]
    json.loads((copy / "model.json").read_text())
    assert (copy / "model.safetensors").read_bytes()[8:9] == b"{"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("model.json", None, ["gc-model train"]),
        ("model.safetensors", None, ["model.safetensors", "gc-model train"]),
        ("model.json", b"{", ["damaged", "train again"]),
        ("model.json", b"[]", ["damaged"]),
        ("model.json", b'{"schema": 99}', ["schema 99", "reads 1"]),
        ("model.json", b'{"schema": 1, "config": {}}', ["damaged"]),
        ("model.json", b"\xff\xfe", ["damaged"]),
        ("model.safetensors", b"", ["does not fit"]),
        ("model.safetensors", b"garbage" * 100, ["does not fit"]),
    ],
)
def test_an_incomplete_or_damaged_run_is_one_line_with_a_remedy(copy, name, content, words):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        checkpoint.load(copy)
    assert all(word in str(error.value) for word in [*words, str(copy)]) and "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_named(copy):
    model, recipe = checkpoint.load(copy)
    with torch.no_grad():
        model.readout.bias[0] = float("nan")
    checkpoint.save(copy, model, recipe)
    with pytest.raises(DataError, match=r"readout\.bias is not finite.*train again"):
        checkpoint.load(copy)


def test_labels_that_are_not_as_many_as_the_classes_are_damage(copy):
    values = json.loads((copy / "model.json").read_text())
    values["recipe"]["labels"].append("one more")
    (copy / "model.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"model\.json is damaged .*labels of .* classes"):
        checkpoint.read_description(copy)


def test_weights_of_another_model_do_not_fit(copy, tmp_path):
    checkpoint.save(tmp_path / "other", build(G=2, classes=9), checkpoint.Recipe(["x"] * 9))
    shutil.copy(tmp_path / "other" / "model.safetensors", copy)
    with pytest.raises(DataError, match="does not fit"):
        checkpoint.load(copy)


def test_a_field_of_a_newer_version_is_named(copy):
    values = json.loads((copy / "model.json").read_text())
    values["config"]["wings"] = 2
    (copy / "model.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="wings"):
        checkpoint.load(copy)


def test_a_kill_while_saving_leaves_the_old_model_whole(copy, monkeypatch):
    before, _ = checkpoint.load(copy)
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(copy, build(classes=3), checkpoint.Recipe(["x", "y", "z"]))
    after, _ = checkpoint.load(copy)
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
