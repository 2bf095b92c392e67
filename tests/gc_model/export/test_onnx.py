# SPDX-License-Identifier: Apache-2.0
"""Export: the graphs compute what torch computes, share their weights, and hold no operator a robot cannot run."""

import itertools
import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")
export = pytest.importorskip(
    "gc_model.export.onnx", reason="pip install -e '.[export]'", exc_type=ImportError
)

from gc_model.training import checkpoint
from gc_ros.media.video import read_video
from gc_ros.recognition.footage import clip_frames
from tests.gc_model.nets import build
from tests.gc_model.runs import bundle, colours, run, scratch, undecodable, untrained
from trt_build.bundle import LoadedBundle, load_bundle, write_bundle
from trt_build.classes import read_classes
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError, DataError
from trt_build.preprocess import model_input
from trt_build.readout import pool

TOLERANCE = 1e-4
CAUSAL = {"window": "window.onnx", "step": "step.onnx"}


def graphs(folder: Path) -> dict[str, "onnx.ModelProto"]:
    return {
        m: onnx.load(folder / n, load_external_data=False) for m, n in CAUSAL.items() if (folder / n).exists()
    }


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def windows_differ_by(loaded: LoadedBundle, model, clips: np.ndarray) -> dict[str, float]:
    """Largest difference of each output between ONNX Runtime and torch; clips uint8 (n, T, S, S, 3)."""
    engine, worst = open_engine(loaded, "window", threads=1), {}
    for clip in clips:
        out = engine.run({"frames": clip[None]})
        with torch.no_grad():
            frames = torch.from_numpy(clip[None]).permute(0, 1, 4, 2, 3)
            result = model(frames)
            maps = model.maps(frames)
            e = model.embedding(frames, maps, *model.features_of(maps))
        for name, value in (
            ("logits", result.logits),
            ("embedding", e),
            ("glimpses", result.l),
            ("assignment", result.p),
        ):
            worst[name] = max(worst.get(name, 0.0), float(np.abs(out[name] - value.numpy()).max()))
    engine.close()
    return worst


def steps_differ_by(loaded: LoadedBundle, model, frames: np.ndarray, count: int) -> dict[str, float]:
    """The same over `count` frames of one stream; frames uint8 (n, S, S, 3), repeated as needed."""
    engine, worst = open_engine(loaded, "step", threads=1), {}
    state = model.initial_state(1, streaming=True)
    for i in range(count):
        frame = frames[i % len(frames)][None]
        out = engine.run({"frame": frame})
        with torch.no_grad():
            step, state, e = model.stream_and_embed(torch.from_numpy(frame).permute(0, 3, 1, 2), state)
        for name, value in (
            ("logits", step.logits),
            ("embedding", e),
            ("glimpses", step.l),
            ("assignment", step.p),
        ):
            worst[name] = max(worst.get(name, 0.0), float(np.abs(out[name] - value.numpy()).max()))
    engine.close()
    return worst


def exported(name: str, **changes) -> tuple[LoadedBundle, "torch.nn.Module"]:
    """The graphs of a preset with random weights as a bundle, and the network; made once."""
    if name == "tiny" and not changes:
        return load_bundle(bundle()), checkpoint.load(run())[0]
    folder = scratch() / "-".join([name, *(f"{k}={v}" for k, v in changes.items())])
    model = build(name, dtype=torch.float32, classes=17, **changes)
    if not (folder / "bundle.json").exists():
        folder.mkdir()
        info = export.bundle_info(
            model.config, checkpoint.Recipe([f"c{i}" for i in range(17)]), model.embedding_size
        )
        write_bundle(folder, info, export.export_graphs(model, folder))
    return load_bundle(folder), model


def test_a_run_becomes_a_bundle_that_loads_and_says_what_it_is():
    loaded = load_bundle(bundle())
    info, (model, recipe) = loaded.info, checkpoint.load(run())
    assert info.labels == recipe.labels and info.preset == "tiny" and info.modes == ["window", "step"]
    assert (info.T, info.glimpses, info.workers) == (model.config.T, model.config.G, model.config.C)
    assert info.rate_hz == 2.0 and info.preprocess.size == 64 and info.reset_after == 8
    assert info.provenance["data"] == "colours" and len(info.provenance["model.safetensors"]) == 64
    assert set(info.sha256) == {"window.onnx", "step.onnx", "weights.bin"}
    assert str(scratch()) not in (bundle() / "bundle.json").read_text()


def test_the_parity_found_at_export_is_recorded_for_every_output_of_both_graphs():
    parity = load_bundle(bundle()).info.parity
    names = {
        f"{m}/{o}" for m in ("window", "step") for o in ("logits", "embedding", "glimpses", "assignment")
    }
    assert set(parity["max_abs_difference"]) == names and parity["frames"] == 64
    assert all(0 <= value <= TOLERANCE for value in parity["max_abs_difference"].values())


@pytest.mark.slow
def test_with_the_clips_of_the_training_the_bundle_can_be_taught(tmp_path):
    loaded = export.export_bundle(run(), tmp_path / "b", data=colours())
    statistics = read_classes(loaded)
    assert statistics is not None and list(statistics.count) == [8, 8, 8]
    # The graph's own embedding of a clip lies nearest to its class.
    engine = open_engine(loaded, "window", threads=1)
    for k, label in enumerate(loaded.info.labels):
        frames = clip_frames(colours() / label / f"{label}1.mp4", loaded.info)
        features = pool(engine.run({"frames": frames[None, : loaded.info.T]})["embedding"][0])
        distances = (((statistics.mean - features) ** 2) / statistics.rest).sum(1)
        assert distances.argmin() == k


@pytest.mark.slow
def test_the_people_of_the_training_are_known_from_the_provenance_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "class_statistics", lambda _, clips, **__: seen.extend(clips))
    folder = untrained(tmp_path / "run")
    model, recipe = checkpoint.load(folder)
    recipe.provenance["subjects"] = ["a"]
    checkpoint.save(folder, model, recipe)
    export.export_bundle(folder, tmp_path / "bundle", data=colours())
    assert len(seen) == 6 and {clip.subject for clip in seen} == {"a"}


@pytest.mark.slow
def test_short_weights_of_the_head_leave_the_trunks_as_they_are_and_reproduce_torch(tmp_path):
    export.export_bundle(run(), tmp_path / "b", head_bits=12)
    whole, short = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "step.onnx").graph.initializer}
        for folder in (bundle(), tmp_path / "b")
    )
    rounded_ones = [name for name in whole if not np.array_equal(whole[name], short[name])]
    assert rounded_ones and not [name for name in rounded_ones if "trunk." in name]
    for name in rounded_ones:
        np.testing.assert_allclose(short[name], whole[name], rtol=2.0**-12)
        mantissa, _ = np.frexp(short[name].astype(np.float64))
        assert (mantissa * 2.0**12 == np.round(mantissa * 2.0**12)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "words"), [(12, r"weights of 12 bits .* larger --weight-bits"), (24, "exported graph differs")]
)
def test_a_graph_that_differs_by_its_short_weights_names_the_option(monkeypatch, bits, words):
    made = load_bundle(bundle())  # before the export is spoilt
    found = itertools.cycle([{"logits": 1.0}, {"logits": 0.0}, {"logits": 1.0}])
    monkeypatch.setattr(export, "_outputs", lambda *_: {})
    monkeypatch.setattr(export, "_differences", lambda *_: next(found))
    monkeypatch.setattr(export, "TorchEngine", lambda *_: None)
    monkeypatch.setattr(export, "open_engine", lambda *_, **__: SimpleNamespace(close=lambda: None))
    with pytest.raises(BundleError, match=words):
        export.check_parity(build(), made, weight_bits=bits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "remedy"),
    [
        ({"head_bits": 11}, "not 12 to 24"),
        ({"head_bits": 20, "weight_bits": 14}, "give --weight-bits 20, too"),
    ],
)
def test_bits_of_the_head_that_would_not_be_kept_are_refused(tmp_path, bits, remedy):
    with pytest.raises(BundleError, match=remedy):
        export.export_bundle(run(), tmp_path / "b", **bits)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_parity_can_be_checked_on_real_clips_too(tmp_path):
    videos = [colours() / "red" / "red0.mp4", colours() / "blue" / "blue1.mp4"]
    assert export.export_bundle(run(), tmp_path / "b", videos=videos).info.parity["clips"] == 4
    with pytest.raises(DataError, match=r"broken\.mp4"):
        export.export_bundle(run(), tmp_path / "c", videos=[undecodable(tmp_path / "broken.mp4")])


@pytest.mark.slow
@pytest.mark.parametrize("value", [1e-3, np.nan])
def test_a_graph_that_differs_from_torch_or_gives_nan_is_not_exported(monkeypatch, tmp_path, value):
    real = export.open_engine

    def wrong(*args, **kwargs):
        engine = real(*args, **kwargs)
        run_ = engine.run
        engine.run = lambda inputs: {k: v + np.float32(value) for k, v in run_(inputs).items()}
        return engine

    monkeypatch.setattr(export, "open_engine", wrong)
    with pytest.raises(BundleError, match="differs from torch"):
        export.export_bundle(run(), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def places(graph: "onnx.ModelProto") -> dict[tuple[int, int], list[str]]:
    """(offset, length) in weights.bin -> the initializers that lie there."""
    found: dict[tuple[int, int], list[str]] = {}
    for tensor in graph.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            assert entries["location"] == "weights.bin"
            found.setdefault((int(entries["offset"]), int(entries["length"])), []).append(tensor.name)
    return found


def large(model: "onnx.ModelProto") -> list[str]:
    return [t.name for t in model.graph.initializer if not t.external_data and len(t.raw_data) >= 1024]


def assert_weights_are_shared(folder: Path, model) -> None:
    window, step = (places(g) for g in graphs(folder).values())
    assert step.keys() <= window.keys()
    assert not any(large(g) for g in graphs(folder).values())
    spans = sorted(window)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(spans))
    assert all(offset % 4096 == 0 for offset, _ in spans)
    data = (folder / "weights.bin").read_bytes()
    contents = [data[a : a + n] for a, n in spans]
    # What the window graph has alone is the empty memory it starts with.
    assert all(not any(data[a : a + n]) for a, n in window.keys() - step.keys())
    assert len(set(contents)) == len(contents)  # each tensor once
    assert len(data) == spans[-1][0] + spans[-1][1]
    parameters = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("pose."))
    stored = sum(n for _, n in spans) / 4
    assert 0.9 * parameters < stored < 1.05 * parameters


def test_every_large_weight_lies_once_in_weights_bin_and_both_graphs_use_it():
    loaded, model = exported("tiny")
    assert_weights_are_shared(loaded.path, model)


FORBIDDEN = {
    "GridSample",
    "Loop",
    "Scan",
    "If",
    "Shape",
    "Size",
    "ConstantOfShape",
    "NonZero",
    "Range",
    "RandomNormal",
}


@pytest.mark.parametrize("mode", ["window", "step"])
def test_graphs_hold_no_grid_sample_no_loop_and_no_shape_arithmetic(mode):
    graph = graphs(bundle())[mode]
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & FORBIDDEN, operators & FORBIDDEN
    assert "BatchNormalization" not in operators and all(
        node.domain in ("", "ai.onnx") for node in graph.graph.node
    )
    assert {o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")} == {export.OPSET}


def test_the_step_graph_convolves_in_two_dimensions_only():
    graph = graphs(bundle())["step"]
    kernels = {t.name: len(t.dims) for t in graph.graph.initializer}
    convolutions = [node.input[1] for node in graph.graph.node if node.op_type == "Conv"]
    assert convolutions and all(kernels[name] == 4 for name in convolutions)


def test_the_batch_axis_is_open_in_every_input_and_output_and_no_other_is():
    for graph in graphs(bundle()).values():
        for value in [*graph.graph.input, *graph.graph.output]:
            axes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            assert axes[0] == "N", value.name
        for value in graph.graph.input:
            assert all(
                isinstance(d.dim_value, int) and d.dim_value > 0 for d in value.type.tensor_type.shape.dim[1:]
            )


def test_states_follow_the_next_x_rule():
    graph = graphs(bundle())["step"]
    inputs = {v.name for v in graph.graph.input} - {"frame"}
    outputs = {v.name for v in graph.graph.output} - {"logits", "embedding", "glimpses", "assignment"}
    assert outputs == {f"next_{name}" for name in inputs}
    assert {"h", "z", "r", "memory", "weight", "cache_00"} <= inputs


SLOW = pytest.mark.slow
CHANGES = [
    {},
    *(
        pytest.param(c, marks=SLOW)
        for c in (
            {"G": 2, "C": 4},
            {"G": 1, "C": 1},
            {"reset_after": 0},
            {"glimpse_extent": 0.3, "least_extent": 0.15},
        )
    ),
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_onnxruntime_equals_torch_over_windows_and_8_and_64_frames_of_step(changes):
    loaded, model = exported("tiny", **changes)
    found = [
        windows_differ_by(loaded, model, noise(3, 8, 64, 64, 3)),
        steps_differ_by(loaded, model, noise(8, 64, 64, 3), 8),
        steps_differ_by(loaded, model, noise(64, 64, 64, 3, seed=1), 64),
    ]
    assert all(value <= TOLERANCE for worst in found for value in worst.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "step"])
def test_a_batch_of_two_equals_two_batches_of_one(mode):
    loaded, _ = exported("tiny")
    shape, name = ((8, 64, 64, 3), "frames") if mode == "window" else ((64, 64, 3), "frame")
    both, one, other = (open_engine(loaded, mode, batch=n, threads=1) for n in (2, 1, 1))
    for i in range(3):
        a, b = noise(1, *shape, seed=2 * i), noise(1, *shape, seed=2 * i + 1)
        together = both.run({name: np.concatenate([a, b])})
        for row, (engine, x) in enumerate(((one, a), (other, b))):
            for output, value in engine.run({name: x}).items():
                assert np.allclose(together[output][row], value[0], atol=1e-5), (output, i)


@pytest.mark.slow
def test_the_step_graph_over_8_frames_gives_the_window_graphs_result():
    loaded, _ = exported("tiny")
    clip = noise(8, 64, 64, 3, seed=5)
    window = open_engine(loaded, "window", threads=1).run({"frames": clip[None]})
    step = open_engine(loaded, "step", threads=1)
    outs = [{k: v.copy() for k, v in step.run({"frame": frame[None]}).items()} for frame in clip]
    assert np.allclose(np.mean([o["logits"] for o in outs], 0), window["logits"], atol=TOLERANCE)
    for name in ("embedding", "glimpses", "assignment"):
        assert np.allclose(np.stack([o[name] for o in outs], 1), window[name], atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"temporal": "centered"}, {"readout": "last"}], ids=str)
def test_a_model_that_cannot_stream_exports_its_window_alone(changes):
    loaded, model = exported("tiny", **changes)
    assert loaded.info.modes == ["window"] and sorted(loaded.info.sha256) == ["weights.bin", "window.onnx"]
    assert all(v <= TOLERANCE for v in windows_differ_by(loaded, model, noise(2, 8, 64, 64, 3)).values())


@pytest.mark.slow
def test_exporting_a_window_only_model_over_a_streaming_bundle_leaves_no_step_graph(tmp_path):
    shutil.copytree(bundle(), tmp_path / "bundle")
    loaded = export.export_bundle(untrained(tmp_path / "run", temporal="centered"), tmp_path / "bundle")
    assert loaded.info.modes == ["window"] and not (tmp_path / "bundle" / "step.onnx").exists()


@pytest.mark.slow
def test_a_model_that_carries_its_state_on_streams_by_default():
    assert exported("tiny", reset_after=0)[0].info.default_mode == "step"
    assert exported("tiny")[0].info.default_mode == "window"


@pytest.mark.parametrize("damage", ["gone", "half", "json"])
def test_a_damaged_run_is_one_line_and_leaves_no_bundle(tmp_path, damage):
    damaged = Path(shutil.copytree(run(), tmp_path / "run"))
    weights = damaged / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    elif damage == "half":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        (damaged / "model.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(DataError, match=r"train"):
        export.export_bundle(damaged, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_run_with_a_name_that_no_bundle_may_have_says_which_and_where_to_change_it(tmp_path):
    folder = untrained(tmp_path / "run", labels=("blue", "green", "\u202bred"))
    said = r"labels: label '.u202bred' has control .*; write another in model\.json"
    with pytest.raises(DataError, match=said):
        export.export_bundle(folder, tmp_path / "bundle")
    with pytest.raises(DataError, match=said):
        export.bundle_info(*checkpoint.read_description(folder))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_cannot_be_written_over_a_file(tmp_path):
    (tmp_path / "bundle").touch()
    with pytest.raises(BundleError, match="--out"):
        export.export_bundle(run(), tmp_path / "bundle")


def test_a_bundle_is_not_written_into_a_run_nor_among_other_files(tmp_path):
    mine = Path(shutil.copytree(run(), tmp_path / "mine"))
    with pytest.raises(BundleError, match=r"mine is a run.*--out"):
        export.export_bundle(mine, mine)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    with pytest.raises(BundleError, match=r"clips holds something else.*--out"):
        export.export_bundle(mine, tmp_path / "clips")
    # A run into which an earlier version did.
    shutil.copy(Path(bundle()) / "bundle.json", mine)
    assert checkpoint.load(mine)[0].config == checkpoint.load(run())[0].config


def recorded(clips: Path, loaded: LoadedBundle, count: int) -> np.ndarray:
    """T frames of `count` recorded gestures each, over the whole clip, as the robot prepares them."""
    videos = sorted((clips / "gestures").glob("*/*.*"))
    chosen = [v for v in videos if v.suffix.lower() in (".mp4", ".avi", ".mov")][
        :: max(1, len(videos) // count)
    ]
    if not chosen:
        pytest.skip("no recorded gestures in ../shared/data/gestures")
    windows = []
    for video in chosen[:count]:
        frames = [image for image, _ in read_video(video)]
        take = np.linspace(0, len(frames) - 1, loaded.info.T).astype(int)
        windows.append(np.stack([model_input(frames[i], loaded.info.preprocess, bgr=False) for i in take]))
    return np.stack(windows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edge", "paper"])
def test_the_large_presets_equal_torch_on_noise_and_share_their_weights(name):
    loaded, model = exported(name)
    found = [
        windows_differ_by(loaded, model, noise(1, 8, 224, 224, 3)),
        steps_differ_by(loaded, model, noise(8, 224, 224, 3), 8),
        steps_differ_by(loaded, model, noise(16, 224, 224, 3, seed=1), 64),
    ]
    assert all(value <= TOLERANCE for worst in found for value in worst.values()), found
    assert_weights_are_shared(loaded.path, model)
    for graph in graphs(loaded.path).values():
        assert not {node.op_type for node in graph.graph.node} & FORBIDDEN


@pytest.mark.slow
@pytest.mark.clips
@pytest.mark.parametrize("name, count", [("tiny", 4), ("edge", 3), ("paper", 1)])
def test_presets_equal_torch_on_recorded_clips(clips, name, count):
    loaded, model = exported(name)
    windows = recorded(clips, loaded, count)
    frames = windows.reshape(-1, *windows.shape[2:])
    found = [
        windows_differ_by(loaded, model, windows),
        *(steps_differ_by(loaded, model, frames, n) for n in (8, 64)),
    ]
    assert all(value <= TOLERANCE for worst in found for value in worst.values()), found
