# SPDX-License-Identifier: Apache-2.0
"""Carried state: the samples, the loss, the border between chunks, and a fine-tuned run that exports and streams."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import frozen_front, own
from gc_model.data import samples as dataset
from gc_model.data.augment import Augment
from gc_model.data.frames import FrameCache
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training import checkpoint
from gc_model.training.finetune import start_from
from gc_model.training.loaders import Loaders
from gc_model.training.options import TrainOptions
from gc_model.training.stages import freeze_statistics
from gc_model.training.streams import HeldOutStreams, StreamClips, StreamStage, frame_loss, stream_accuracy
from gc_model.training.train import train
from tests.gc_model.nets import build as lively
from tests.gc_model.nets import noise
from tests.gc_model.runs import COLOURS, coloured_clips, colours, run, scratch, untrained
from trt_build.bundle import Preprocess
from trt_build.errors import DataError

TINY = preset("tiny", classes=3)


def streams(chunks=3):
    cache = FrameCache(scratch() / "cache", Preprocess(size=TINY.size, resize=TINY.resize))
    plain = dataset.TrainingClips(own.clips(colours()), list(COLOURS), cache, TINY, 4.0, Augment(), 0)
    return StreamClips(plain, chunks)


def test_a_stream_is_chunks_of_clips_whose_activities_change_anywhere():
    borders = set()
    for epoch in range(6):
        sample = streams()[epoch, 2]
        assert sample["clip"].shape == (24, 3, 64, 64) and len(sample["labels"]) == len(sample["age"]) == 24
        change = (sample["labels"][1:] != sample["labels"][:-1]).nonzero().flatten() + 1
        assert (sample["age"][change] == 1).all()
        same = (sample["labels"][1:] == sample["labels"][:-1]).nonzero().flatten() + 1
        assert (sample["age"][same] == sample["age"][same - 1] + 1).all()
        borders |= {int(c) % 8 for c in change}
    assert len(borders) > 2
    assert torch.equal(streams()[3, 1]["clip"], streams()[3, 1]["clip"])


def test_places_of_joints_and_of_what_moves_are_those_of_the_frames_of_the_stream():
    stream, clips = streams(), streams().base
    stream.base.motion = clips.motion = True
    for epoch in range(3):
        which, cut = stream._drawn((epoch, 2))
        sample = stream[epoch, 2]
        moving = torch.cat([clips[epoch, k]["moving"] for k in which])[cut]
        assert sample["moving"].shape[:1] == sample["labels"].shape
        assert torch.equal(sample["moving"].isnan(), moving.isnan())
        assert torch.equal(sample["moving"].nan_to_num(), moving.nan_to_num())


@pytest.mark.parametrize(
    "n, shares", [([2, 10], [0.6, 0.4]), ([6, 6], [1.0, 0.0]), ([5, 0, 7], [3.0, 0, 1.0])]
)
def test_each_source_has_its_share_of_the_frames_of_an_epoch_of_streams(n, shares):
    mixed = StreamClips(streams().base, 3, n, shares)
    frames, others = np.zeros(12), {}
    for epoch in range(300):
        sampler = dataset.EpochSampler(n, 0, shares=shares)
        sampler.set_epoch(epoch)
        for which in sampler:
            drawn, cut = mixed._drawn(which)
            assert drawn[0] == which[1] and (drawn, cut) == mixed._drawn(which)
            np.add.at(frames, np.repeat(drawn, 8)[cut], 1)
            others[which] = drawn[1:]
    of_sources = [part.sum() for part in np.split(frames, np.cumsum(n)[:-1])]
    assert of_sources / frames.sum() == pytest.approx(np.array(shares) / sum(shares), abs=0.03)
    # Within a source every clip comes about as often as another.
    counts = np.bincount(np.concatenate([*others.values()]), minlength=12)
    for part in np.split(counts, np.cumsum(n)[:-1]):
        assert not part.any() or part.min() > 0.7 * part.mean()


def test_without_shares_streams_are_those_that_runs_were_trained_on_so_far():
    plain = streams()
    for which in ((0, 3), (5, 11)):
        rng = np.random.default_rng((plain.seed, *which, 1))
        assert plain._drawn(which)[0][1:] == rng.integers(0, 12, 3).tolist()


@pytest.mark.slow
def test_glimpses_of_a_stream_are_drawn_to_what_moves():
    torch.manual_seed(0)
    model = build(TINY)
    options = TrainOptions(
        data="x", preset="tiny", epochs3=1, motion=True, glimpse_weight=1.0, separation=0.0
    )
    stage = StreamStage(model, options)
    stage.train()
    terms = {}
    stage._report = lambda found, *_: terms.update(found) or found["loss"]
    stage.log = lambda *_, **__: None
    moving = torch.full((2, 16, 1, 2), torch.nan)
    moving[:, :, 0] = torch.tensor([0.8, -0.8])
    batch = {
        "clip": noise(2, 16, 64),
        "labels": torch.zeros(2, 16, dtype=torch.long),
        "age": torch.full((2, 16), 9),
        "moving": moving,
    }
    optimizer = torch.optim.Adam(model.attention.parameters(), lr=0.05)
    found = []
    for _ in range(8):
        optimizer.zero_grad()
        stage.training_step(batch, 0).backward()
        optimizer.step()
        found.append(terms["L_G2"].item())
    assert found[-1] < 0.6 * found[0]
    assert torch.isclose(terms["loss"], terms["L_D"] + terms["L_G1"] + terms["L_G2"])


def test_a_held_out_clip_is_always_judged_behind_the_same_one_of_another_class():
    cache = FrameCache(scratch() / "cache", Preprocess(size=TINY.size, resize=TINY.resize))
    clips = own.clips(colours())
    middles = dataset.TestClips(clips, list(COLOURS), cache, TINY, sub_sequences=1)
    held_out = HeldOutStreams(middles, seed=0)
    assert len(held_out) == 12
    befores = set()
    for i in range(12):
        sample = held_out[i]
        assert sample["clip"].shape == (16, 3, 64, 64)
        assert (
            torch.equal(sample["clip"][8:], middles[i]["clip"][0]) and sample["label"] == middles[i]["label"]
        )
        before = [k for k in range(12) if torch.equal(sample["clip"][:8], middles[k]["clip"][0])]
        assert len(before) == 1 and clips[before[0]].label != clips[i].label
        befores |= set(before)
        assert torch.equal(held_out[i]["clip"], sample["clip"])
    assert len(befores) > 3


def test_young_frames_weigh_less_and_the_rest_alike():
    y = torch.zeros(1, 6, 3)
    y[0, 0, 1] = 50.0  # a first frame that is wrong
    labels, age = torch.zeros(1, 6, dtype=torch.long), torch.arange(1, 7)[None]
    plain = torch.nn.functional.cross_entropy(y[0], labels[0])
    assert frame_loss(y, labels, age) < plain
    assert torch.isclose(frame_loss(y, labels, age + 10), plain)


def test_the_loss_of_frames_is_their_mean_weighted_by_age_up_to_the_fourth():
    rng = torch.manual_seed(0)
    y, labels = torch.randn(2, 6, 3, generator=rng), torch.randint(0, 3, (2, 6), generator=rng)
    age = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 1, 2, 1, 2]])
    weights = torch.tensor([[1, 2, 3, 4, 4, 4], [4, 4, 1, 2, 1, 2]]) / 4
    each = torch.stack(
        [
            torch.nn.functional.cross_entropy(frame, label, label_smoothing=0.1)
            for frame, label in zip(y.flatten(0, 1), labels.flatten(), strict=True)
        ]
    )
    torch.testing.assert_close(
        frame_loss(y, labels, age, 0.1), (each * weights.flatten()).sum() / weights.sum()
    )


def test_a_step_on_streams_goes_on_with_the_state_of_the_chunk_before():
    torch.manual_seed(0)
    model = build(TINY)
    options = TrainOptions(data="x", preset="tiny", epochs3=1, label_smoothing=0.1)
    stage = StreamStage(model, options).eval()
    told = {}
    stage._report = lambda terms, logits, labels: (
        told.update(terms, logits=logits, labels=labels) or terms["loss"]
    )
    stage.log = lambda *_, **__: None
    batch = {
        "clip": noise(2, 16, 64),
        "labels": torch.tensor([[0] * 16, [1] * 10 + [2] * 6]),
        "age": torch.tensor([list(range(1, 17)), [*range(1, 11), *range(1, 7)]]),
    }
    with torch.no_grad():
        stage.training_step(batch, 0)
        state, losses, frames = model.initial_state(2, streaming=True), [], []
        for part in (slice(0, 8), slice(8, 16)):
            result, state = model.forward_chunk(batch["clip"][:, part], state)
            losses.append(
                frame_loss(result.frame_logits, batch["labels"][:, part], batch["age"][:, part], 0.1)
            )
            frames.append(result.frame_logits)
    assert told.keys() == {"L_D", "loss", "logits", "labels"}
    torch.testing.assert_close(told["loss"], torch.stack(losses).mean())
    torch.testing.assert_close(told["logits"], torch.cat(frames, 1).flatten(0, 1))
    assert torch.equal(told["labels"], batch["labels"].flatten())


def test_no_gradient_crosses_the_border_of_a_chunk_but_its_values_do():
    torch.manual_seed(0)
    model = build(TINY).eval()
    clip = noise(1, 16, 64).float().requires_grad_()
    state = model.initial_state(1, streaming=True)
    _, state = model.forward_chunk(clip[:, :8], state)
    result, _ = model.forward_chunk(clip[:, 8:], state.detach())
    fresh, _ = model.forward_chunk(clip[:, 8:], model.initial_state(1, streaming=True))
    assert not torch.equal(result.logits, fresh.logits)
    result.logits.sum().backward()
    assert clip.grad[:, :8].abs().sum() == 0 and clip.grad[:, 8:].abs().sum() > 0


@pytest.mark.parametrize("frozen", ["all, frame by frame", "all", "all but the last stage"])
def test_stored_features_of_a_frozen_trunk_give_the_streams_that_pictures_give(tmp_path, frozen):
    torch.manual_seed(0)
    model = build(TINY).eval()  # still the 2-D network: no frame sees another
    whole = frozen != "all but the last stage"
    if frozen == "all":
        for conv in model.trunk.inflated:
            torch.nn.init.normal_(conv.weight, std=0.05)
    elif not whole:  # what is not frozen may look back
        torch.nn.init.normal_(model.trunk.inflated[-1].weight, std=0.05)
    plain = streams().base
    for parameter in model.trunk.parameters():
        parameter.requires_grad_(False)
    pictures = StreamClips(plain, 3)
    if frozen == "all":  # streams are stored
        stored = frozen_front.FrozenFront(pictures, model, tmp_path / "front", views=2, whole=True)
        assert torch.equal(stored[3, 2]["age"], pictures[1, 2]["age"]), "view 1 is that of epoch 1"
    else:  # clips are
        stored = StreamClips(
            frozen_front.FrozenFront(plain, model, tmp_path / "front", views=2, whole=whole), 3
        )
    options = TrainOptions(data="x", preset="tiny", epochs3=1, freeze_stages=5 if whole else 4)
    losses = []
    for source in (pictures, stored):
        stage = StreamStage(model, options)
        stage.eval()
        stage._report = lambda terms, *_: terms["loss"]
        sample = source[1, 2]
        batch = {name: part[None] for name, part in sample.items()}
        assert ("clip" in batch) == (source is pictures)
        losses.append(stage.training_step(batch, 0).item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # float16 on disk
    assert torch.equal(pictures[1, 2]["labels"], stored[1, 2]["labels"])


@pytest.mark.parametrize(
    "frozen, alive, expected",
    [(5, None, "clips"), (5, -1, "streams"), (4, -1, "clips"), (4, 0, "nothing"), (0, None, "nothing")],
)
def test_what_a_frozen_trunk_makes_of_clips_is_stored_or_of_whole_streams_where_frames_see_others(
    tmp_path, frozen, alive, expected
):
    torch.manual_seed(0)
    model = build(TINY)
    if alive is not None:
        torch.nn.init.ones_(model.trunk.inflated[alive].weight)
    options = TrainOptions(data=colours(), preset="tiny", epochs3=1, freeze_stages=frozen, views=2, loaders=2)
    data = loaders(tmp_path, model, options)
    data.freeze_front(options)
    streams = data.streams()
    samples = streams.samples
    kinds = {
        "clips": (StreamClips, frozen_front.FrozenFront),
        "streams": (frozen_front.FrozenFront, StreamClips),
        "nothing": (StreamClips, dataset.TrainingClips),
    }
    assert (type(samples), type(samples.base)) == kinds[expected]
    if expected == "streams":
        assert samples.path != data.samples.path and samples[0, 0]["Z"].shape[0] == 8 * options.stream_chunks
    # Another process would have a network of its own, and store nothing.
    assert streams.train().num_workers == (2 if expected == "nothing" else 0)


def loaders(folder, model, options) -> Loaders:
    """Of the coloured clips, the last four of which are mixed in if `options` mix something in; stored in `folder`."""
    cache = FrameCache(folder, Preprocess(size=TINY.size, resize=TINY.resize))
    clips = [replace(c, source=int(i > 7 and bool(options.also))) for i, c in enumerate(own.clips(colours()))]
    return Loaders(options, model, list(COLOURS), cache, clips, [])


def test_streams_are_made_of_what_two_frozen_parts_stored_one_after_the_other(tmp_path):
    torch.manual_seed(0)
    model = build(TINY).eval()
    options = TrainOptions(
        data=colours(), preset="tiny", epochs3=1, freeze_stages=4, freeze_stages2=5, views=1
    )
    data = loaders(tmp_path, model, options)
    pictures = data.streams()
    data.freeze_front(options)
    data.freeze_front(options.after_stage1)
    stored = data.streams()
    front = frozen_front.FrozenFront
    kinds = [StreamClips, front, front, dataset.TrainingClips]
    assert [type(s) for s in frozen_front.layers(stored.samples)] == kinds
    assert stored.train().num_workers == 0
    sample, plain = stored.samples[0, 2], pictures.samples[0, 2]
    assert torch.equal(sample["labels"], plain["labels"]) and torch.equal(sample["age"], plain["age"])
    with torch.no_grad():
        Z, _ = model.features(plain["clip"][None])
    assert torch.allclose(sample["Z"], Z[0], rtol=2e-3, atol=2e-3)  # float16 on disk


def test_stored_streams_are_those_of_the_shares_that_they_were_drawn_by(tmp_path):
    torch.manual_seed(0)
    model = build(TINY).eval()
    for conv in model.trunk.inflated:
        torch.nn.init.normal_(conv.weight, std=0.05)  # frames see others, so that streams are stored
    plain = TrainOptions(data=colours(), preset="tiny", epochs3=1, freeze_stages=5, views=1)
    paths = []
    for shares in (None, [0.5, 0.5], [0.1, 0.9], [0.1, 0.9]):
        options = plain.model_copy(update={"also": [tmp_path / "more"], "shares": shares})
        data = loaders(tmp_path, model, options)
        data.freeze_front(options)
        samples = data.streams().samples
        paths.append(samples.path)
        assert samples.base.sources == [8, 4] and samples.base.shares == shares
    assert len(set(paths)) == 3 and paths[2] == paths[3] and paths[0].name.endswith(".streams3")


@pytest.mark.slow
def test_a_step_of_the_fine_tune_moves_trunk_and_head_but_not_the_pose_or_the_statistics():
    torch.manual_seed(0)
    model = build(TINY)
    stage = StreamStage(model, TrainOptions(data="x", preset="tiny", epochs3=1))
    stage.train()
    freeze_statistics(model.trunk)  # as at the start of an epoch
    stage._report = lambda terms, *_: terms["loss"]
    labels = torch.arange(2)[:, None].expand(2, 16)
    batch = {"clip": noise(2, 16, 64), "labels": labels, "age": torch.full((2, 16), 9)}
    statistics = {n: b.clone() for n, b in model.trunk.named_buffers()}
    stage.training_step(batch, 0).backward()
    assert statistics and all(torch.equal(b, statistics[n]) for n, b in model.trunk.named_buffers())
    moved = {
        n.partition(".")[0]
        for n, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {
        "trunk",
        "attention",
        "what_where",
        "workers",
        "readout",
        "assignment",
    } <= moved and "pose" not in moved


def test_going_on_with_the_same_labels_is_the_same_function():
    model, recipe = checkpoint.load(run())
    other = build(model.config).eval()
    assert start_from(other, recipe.labels, run()) == []
    clip = noise(1, 8, 64)
    with torch.no_grad():
        assert torch.equal(model(clip).logits, other(clip).logits)


def test_new_labels_make_a_new_read_out_and_known_ones_keep_their_weights_by_name(tmp_path):
    old, recipe = checkpoint.load(run())
    labels = ["sit", "red", "wave", "blue"]
    torch.manual_seed(0)
    model = build(preset("tiny", classes=4)).eval()
    assert start_from(model, labels, run()) == ["sit", "wave"]
    clip = noise(2, 8, 64)
    with torch.no_grad():
        a, b = old(clip), model(clip)
    for i, name in ((1, "red"), (3, "blue")):
        assert torch.allclose(a.logits[:, recipe.labels.index(name)], b.logits[:, i], atol=1e-5)
    assert torch.equal(a.l, b.l) and not torch.equal(b.logits[:, 0], b.logits[:, 2])
    # What is new does not outvote what is known.
    weight, bias = model.readout.weight.detach(), model.readout.bias.detach()
    assert 0 < weight[..., [0, 2]].abs().max() <= 0.1 / weight.shape[1] ** 0.5 and not bias[..., [0, 2]].any()


@pytest.mark.slow
def test_a_fine_tuned_run_streams_without_restart_exports_and_keeps_its_start(tmp_path):
    start = untrained(tmp_path / "start")
    before = (start / "model.safetensors").read_bytes()
    options = TrainOptions(
        data=colours(),
        start=start,
        preset="tiny",
        epochs1=0,
        epochs2=1,
        epochs3=2,
        lr=2e-3,
        val_fraction=0.2,
        batch=4,
    )
    train(options, tmp_path / "out", progress=False)
    model, recipe = checkpoint.load(tmp_path / "out")
    assert model.config.reset_after == 0 and recipe.provenance["start"] == "start"
    assert (start / "model.safetensors").read_bytes() == before
    assert not torch.equal(model.readout.weight, checkpoint.load(start)[0].readout.weight)
    from gc_model.export.onnx import export_bundle

    bundle = export_bundle(tmp_path / "out", tmp_path / "bundle")
    assert bundle.info.reset_after == 0 and bundle.info.default_mode == "step"


@pytest.mark.slow
def test_windows_alone_do_not_leave_a_model_that_carries_on_and_another_network_is_named(tmp_path):
    start = untrained(tmp_path / "start", reset_after=0)
    plain = {
        "data": colours(),
        "start": start,
        "preset": "tiny",
        "epochs1": 0,
        "epochs2": 0,
        "val_fraction": 0,
    }
    train(TrainOptions(**plain), tmp_path / "out", progress=False)
    one, other = checkpoint.load(start)[0], checkpoint.load(tmp_path / "out")[0]
    assert other.config.reset_after == 8
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    for wrong, words in (({"workers": 2}, "another network"), ({"model": "global"}, "another network")):
        with pytest.raises(DataError, match=words):
            train(TrainOptions(**plain, **wrong), tmp_path / "wrong", progress=False)
    centered = untrained(tmp_path / "centered", temporal="centered")
    with pytest.raises(DataError, match="temporal=causal"):
        train(TrainOptions(**(plain | {"start": centered, "epochs3": 1})), tmp_path / "wrong", progress=False)
    assert not (tmp_path / "wrong" / "options.json").exists()


@pytest.mark.slow
def test_a_fine_tune_for_other_classes_ends_with_theirs(tmp_path):
    data = coloured_clips(tmp_path / "clips", per_class=3)
    (data / "clips.csv").unlink()
    shutil.move(data / "red", data / "crimson")
    options = TrainOptions(
        data=data, start=run(), preset="tiny", epochs1=0, epochs2=1, val_fraction=0, batch=4
    )
    summary = train(options, tmp_path / "out", progress=False)
    assert summary["labels"] == ["blue", "crimson", "green"]
    assert checkpoint.load(tmp_path / "out")[0].config.classes == 3


def test_the_accuracy_of_a_stream_leaves_the_first_clip_out_and_counts_the_rest():
    model, clips = lively(dtype=torch.float32, reset_after=0), noise(5, 8, 64)
    with torch.no_grad():
        # As windows each clip is another class, with the state carried on all but the first are one.
        model.readout.weight.mul_(20)
        model.readout.bias.sub_(model(clips).logits.mean(0))
        windows = model(clips).logits.argmax(1).tolist()
        state, carried = model.initial_state(1, streaming=True), []
        for clip in clips:
            result, state = model.forward_chunk(clip[None], state)
            carried.append(int(result.logits.argmax()))
    assert len(set(windows)) > 2 and windows[1:] != carried[1:]
    alike = float(np.mean([a == b for a, b in zip(windows[1:], carried[1:], strict=True)]))
    for labels, of_windows, of_state in ((windows, 1.0, alike), (carried, alike, 1.0)):
        found = stream_accuracy(model, zip(clips, labels, strict=True))
        assert found == {"clips": 4, "window": of_windows, "carried": of_state}


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 4])  # before any checkpoint, and in the second epoch of three steps each
def test_a_fine_tune_killed_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, call):
    options = TrainOptions(
        data=colours(), start=run(), preset="tiny", epochs1=0, epochs2=1, epochs3=2, val_fraction=0.2, batch=4
    )
    train(options, tmp_path / "whole", progress=False)
    step, calls = StreamStage.training_step, iter(range(100))

    def dying(self, *args):
        if next(calls) == call:
            raise InterruptedError
        return step(self, *args)

    monkeypatch.setattr(StreamStage, "training_step", dying)
    with pytest.raises(InterruptedError):
        train(options, tmp_path / "killed", progress=False)
    monkeypatch.undo()
    train(options, tmp_path / "killed", resume=True, progress=False)
    one, other = (checkpoint.load(tmp_path / n)[0].state_dict() for n in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
