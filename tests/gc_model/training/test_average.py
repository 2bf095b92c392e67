# SPDX-License-Identifier: Apache-2.0
"""`gc-model average`: a run between two, weight by weight, and only between like ones."""

from __future__ import annotations

import json
import shutil

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.cli import app
from gc_model.training import checkpoint
from tests.command_line import assert_one_line, call, no_file_above
from tests.gc_model.runs import run, untrained


def moved(folder, by: float):
    """A run like `run()` whose weights are all larger by a number."""
    model, recipe = checkpoint.load(run())
    for value in model.parameters():
        value.data += by
    checkpoint.save(folder, model, recipe)
    recipe.provenance.update(glimpses={"clips": 3}, stream={"clips": 3, "carried": 0.9, "window": 0.8})
    checkpoint.save(folder, model, recipe)
    (folder / "clips.json").write_text('{"training": ["a"]}')
    return folder


def test_weights_lie_between_and_the_rest_is_of_the_tuned_run(tmp_path):
    tuned = moved(tmp_path / "tuned", 1.0)
    done = call(app, "average", run(), tuned, "--share", 0.25, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (first, _), (found, recipe) = checkpoint.load(run()), checkpoint.load(tmp_path / "out")
    for (name, a), b in zip(first.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(b, a + 0.25, msg=name)
    assert recipe.labels == checkpoint.load(run())[1].labels
    assert recipe.provenance["averaged"] == {"share": 0.25} and recipe.provenance["data"] == "colours"
    # What was measured was another network.
    assert not recipe.provenance.keys() & {"glimpses", "stream"}
    assert (tmp_path / "out/clips.json").read_text() == (tuned / "clips.json").read_text()


def test_only_like_runs_have_a_middle_and_nothing_is_written_over(tmp_path):
    other = untrained(tmp_path / "other", G=2)
    assert_one_line(call(app, "average", run(), other, "--out", tmp_path / "out"), "only like runs")
    assert not (tmp_path / "out").exists()
    labels = tmp_path / "labels"
    shutil.copytree(run(), labels, ignore=shutil.ignore_patterns("cache"))
    values = json.loads((labels / "model.json").read_text())
    values["recipe"]["labels"] = values["recipe"]["labels"][::-1]
    (labels / "model.json").write_text(json.dumps(values))
    assert_one_line(call(app, "average", run(), labels, "--out", tmp_path / "out"), "labels")
    assert_one_line(call(app, "average", run(), moved(tmp_path / "t", 1.0), "--out", labels), "another --out")


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_no_run_and_the_same_command_works_then(tmp_path, there):
    tuned, out = moved(tmp_path / "tuned", 1.0), tmp_path / "out"
    if there:
        out.mkdir()
    command = ("average", run(), tuned, "--out", out)
    with no_file_above(8 << 10):
        assert_one_line(call(app, *command), str(out))
    assert out.is_dir() is there and not (there and list(out.iterdir()))
    assert call(app, *command).exit_code == 0
