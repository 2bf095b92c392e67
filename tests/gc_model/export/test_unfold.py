# SPDX-License-Identifier: Apache-2.0
"""`gc-model unpack`: a bundle becomes the run that it could have come from, or says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
export = pytest.importorskip(
    "gc_model.export.onnx", reason="pip install -e '.[export]'", exc_type=ImportError
)

from gc_model.cli import app
from gc_model.export.unfold import unfold
from gc_model.training import checkpoint
from tests.command_line import assert_one_line, call, no_file_above
from tests.gc_model.nets import build, noise
from tests.gc_model.runs import bundle, colours, run
from trt_build.bundle import INT8, LoadedBundle, load_bundle, write_bundle
from trt_build.errors import BundleError

ROOT = Path(__file__).parents[3]


def bundled(folder: Path, model: torch.nn.Module) -> LoadedBundle:
    """The graphs of a network as a bundle, without the checks of the export."""
    network = {export.NETWORK: model.config.to_json(), export.EMBEDDING_NAME: export.EMBEDDING}
    recipe = checkpoint.Recipe([f"c{i}" for i in range(7)], 2.0, 1.5, 0.25, network)
    folder.mkdir()
    info = export.bundle_info(model.config, recipe, model.embedding_size)
    return write_bundle(folder, info, export.export_graphs(model, folder))


def assert_same_function(one, other) -> None:
    """As windows and, where they stream, frame by frame."""
    clips = noise(2, one.config.T, one.config.size)
    with torch.no_grad():
        a, b = one(clips), other(clips)
        pairs = [(a, b)]
        if one.config.streams:
            first, second = (m.initial_state(2, streaming=True) for m in (one, other))
            for t in range(one.config.T):
                x, first = one.stream(clips[:, t], first)
                y, second = other.stream(clips[:, t], second)
                pairs.append((x, y))
    for x, y in pairs:
        for name in ("logits", "l", "p", "c"):
            torch.testing.assert_close(getattr(y, name), getattr(x, name), atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"temporal": "centered"},
        {"reset_after": 0, "anchor": 0.1, "alpha": 0.05, "least_extent": 0.15, "glimpse_extent": 0.3},
        {"G": 2, "C": 4, "global_head": True, "encoding": "concat", "tau": 2.0},
        {"G": 1, "C": 1, "fit": "pad"},
    ],
    ids=",".join,
)
def test_the_network_of_a_bundle_computes_what_the_exported_one_did(tmp_path, changes):
    model = build(dtype=torch.float32, **changes)
    again, recipe = unfold(bundled(tmp_path / "b", model))
    assert torch.equal(again.attention.start, model.attention.start + model.attention.locate.bias)
    assert again.config == model.config and not again.training
    assert_same_function(model, again)
    assert (recipe.labels, recipe.window_s) == ([f"c{i}" for i in range(7)], 2.0)
    assert (recipe.temperature, recipe.unknown_threshold) == (1.5, 0.25)


@pytest.mark.slow
def test_depthwise_convolutions_come_back_with_their_taps_and_single_frames_without(tmp_path):
    model = build("edge", dtype=torch.float32, size=64, resize=72)
    for conv in model.trunk.inflated[::2]:
        for i in {0, 1, 2} - {conv.now}:
            conv.weight.data[:, :, i] = 0
    again, _ = unfold(bundled(tmp_path / "b", model))
    alone = [conv.sees_one_frame() for conv in again.trunk.inflated]
    assert alone == [i % 2 == 0 for i in range(len(alone))]
    assert_same_function(model, again)


@pytest.mark.slow
def test_an_unpacked_run_trains_further_and_exports_to_the_bundle_it_came_from(tmp_path):
    unpacked = tmp_path / "run"
    done = call(app, "unpack", bundle(), "--out", unpacked)
    assert done.exit_code == 0 and f"gc-model finetune {unpacked}" in done.output, done.output
    before, recipe = checkpoint.load(unpacked)
    assert_same_function(checkpoint.load(run())[0], before)
    assert recipe.provenance["bundle"] == load_bundle(bundle()).info.model_id
    again = export.export_bundle(unpacked, tmp_path / "again")
    assert again.info.labels == load_bundle(bundle()).info.labels
    assert_same_function(before, unfold(again)[0])
    # No epoch: what comes out is what went in, classes found by their names.
    options = ("--data", colours(), "--quiet", "--threads", 1)
    done = call(app, "finetune", unpacked, *options, "--epochs", 0, "--out", tmp_path / "same")
    assert done.exit_code == 0, done.output
    assert_same_function(before, checkpoint.load(tmp_path / "same")[0])
    done = call(app, "finetune", unpacked, *options, "--epochs", 1, "--out", tmp_path / "mine")
    assert done.exit_code == 0 and "0 of them new" in done.output, done.output


@pytest.mark.slow
def test_an_unpacked_run_says_nothing_of_the_int8_graphs_that_it_does_not_have(tmp_path):
    loaded = bundled(tmp_path / "b", build(dtype=torch.float32))
    kept = {"data": "of mine"}
    loaded.info.provenance.update(kept | {INT8: {"windows": 12}})
    _, recipe = unfold(loaded)
    assert recipe.provenance.items() >= kept.items() and INT8 not in recipe.provenance


@pytest.mark.slow
def test_a_bundle_of_schema_1_which_has_no_embedding_can_be_unpacked(tmp_path):
    model = build(dtype=torch.float32)
    loaded = bundled(tmp_path / "b", model)
    names = [*loaded.info.sha256]
    for name in (name for name in names if name.endswith(".onnx")):
        graph = onnx.load(loaded.path / name, load_external_data=False)
        kept = [output for output in graph.graph.output if output.name != "embedding"]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
        onnx.save(graph, loaded.path / name)
    provenance = {k: v for k, v in loaded.info.provenance.items() if k != export.EMBEDDING_NAME}
    old = loaded.info.model_copy(update={"schema_version": 1, "embedding": 0, "provenance": provenance})
    again, _ = unfold(write_bundle(loaded.path, old, names))
    assert_same_function(model, again)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everyday", "people"])
def test_the_bundles_in_the_repository_can_be_trained_further(name):
    model, recipe = unfold(load_bundle(ROOT / "bundles" / name))
    assert len(recipe.labels) == model.config.classes and model.config.preset == "edge"


def edited(folder: Path, **network) -> Path:
    shutil.copytree(bundle(), folder)
    text = json.loads((folder / "bundle.json").read_text())
    text["provenance"]["network"] |= network
    (folder / "bundle.json").write_text(json.dumps(text))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("network", [{"alpha": 0.1}, {"trunk_args": []}], ids=str)
def test_a_description_of_another_network_is_no_run(tmp_path, network):
    folder = edited(tmp_path / "b", **network)
    done = call(app, "unpack", folder, "--out", tmp_path / "run")
    assert_one_line(done, "its graphs are not those of the network that it describes")
    assert not (tmp_path / "run").exists()


def test_a_description_of_other_sizes_is_refused_before_it_is_tried(tmp_path):
    with pytest.raises(BundleError, match="another shape"):
        unfold(load_bundle(edited(tmp_path / "b", psi=16)))


@pytest.mark.parametrize("network", [{"newer": 1}, {"alpha": "x"}, {"tau": -1}, {"model": "x"}], ids=str)
def test_a_description_that_makes_no_sense_is_said_to(tmp_path, network):
    with pytest.raises(BundleError, match="describes no network"):
        unfold(load_bundle(edited(tmp_path / "b", **network)))


def test_what_takes_a_run_and_gets_a_bundle_says_how_to_make_one_of_it(tmp_path):
    done = call(app, "finetune", bundle(), "--data", colours(), "--out", tmp_path / "mine")
    assert_one_line(done, f"gc-model unpack {bundle()} --out RUN")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    assert_one_line(call(app, "unpack", bundle(), "--out", tmp_path), "choose another --out")
    assert_one_line(call(app, "unpack", bundle(), "--out", tmp_path / "mine"), "choose another --out")
    assert (tmp_path / "mine").read_text() == "x"


def test_a_full_disk_leaves_no_run_and_the_same_command_works_then(tmp_path):
    command = ("unpack", bundle(), "--out", tmp_path / "run")
    with no_file_above(8 << 10):
        assert_one_line(call(app, *command), "cannot be written")
    assert not (tmp_path / "run").exists()
    assert call(app, *command).exit_code == 0
