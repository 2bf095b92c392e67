# SPDX-License-Identifier: Apache-2.0
"""Clips as samples: the same draw for the same (seed, epoch, clip), every clip once an epoch, nothing dropped."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import samples as dataset
from gc_model.data.augment import Augment
from gc_model.data.frames import Clip, FrameCache, index_clips
from gc_model.paper.presets import preset
from gc_model.training.stages import freeze_statistics
from gc_ros.media.video import read_video
from tests.gc_model.runs import COLOURS, colours, scratch, too_short
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.preprocess import model_input

TINY = preset("tiny", classes=3)
P = Preprocess(size=TINY.size, resize=TINY.resize)


def cache() -> FrameCache:
    return FrameCache(scratch() / "cache", P)


def training(seed: int = 0, augment: Augment | None = None) -> dataset.TrainingClips:
    return dataset.TrainingClips(
        index_clips(colours()), list(COLOURS), cache(), TINY, 4.0, augment or Augment(), seed
    )


def test_a_training_sample_is_one_sub_sequence_and_its_label():
    sample = training()[0, 5]
    assert sample["clip"].shape == (8, 3, 64, 64) and sample["clip"].dtype == torch.uint8
    assert sample["label"] == list(COLOURS).index("green")


def test_a_sample_depends_on_seed_epoch_and_clip_and_on_nothing_else():
    one, fresh = training(), training()
    fresh[3, 1], np.random.default_rng().random(), torch.rand(1)
    assert torch.equal(one[2, 4]["clip"], fresh[2, 4]["clip"])
    for other in (one[3, 4], one[2, 5], training(seed=1)[2, 4]):
        assert not torch.equal(one[2, 4]["clip"], other["clip"])


def test_test_samples_are_the_robots_input_of_the_fixed_frames():
    clip = index_clips(colours())[4]
    sample = dataset.TestClips([clip], list(COLOURS), cache(), TINY)[0]
    assert sample["clip"].shape == (5, 8, 3, 64, 64)
    frames = [image for image, _ in read_video(clip.path)]
    for i in range(5):
        chosen = [int((k + (i + 0.5) / 5) * 20 / 8) for k in range(8)]
        seen = np.stack([model_input(frames[j], P, bgr=False) for j in chosen]).astype(int)
        # The cached frame is resized before it is cropped, the robot crops and resizes once.
        assert np.abs(sample["clip"][i].permute(0, 2, 3, 1).numpy() - seen).mean() < 6


def test_a_test_clip_shorter_than_a_window_is_kept_with_repeated_frames(tmp_path):
    clip = Clip(too_short(tmp_path / "red" / "s.mp4"), "red/s.mp4", "red")
    sample = dataset.TestClips([clip], list(COLOURS), FrameCache(tmp_path / "cache", P), TINY)[0]
    assert sample["clip"].shape == (5, 8, 3, 64, 64) and sample["label"] == 2


@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_holds_every_clip_exactly_once_in_an_order_of_its_own(n, seed, epoch):
    sampler = dataset.EpochSampler(n, seed)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert sorted(i for _, i in drawn) == list(range(n)) and {e for e, _ in drawn} == {epoch}
    assert len(sampler) == n and drawn == list(sampler)


def test_orders_differ_between_epochs_and_seeds():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = dataset.EpochSampler(30, seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(i for _, i in sampler))
    assert len(set(orders)) == 3


@given(st.integers(1, 40), st.integers(2, 5))
def test_several_processes_share_an_epoch_evenly_and_leave_no_clip_out(n, world):
    samplers = [dataset.EpochSampler(n, 0, rank, world) for rank in range(world)]
    parts = [[i for _, i in sampler] for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])} == {-(-n // world)}
    together = [i for part in parts for i in part]
    assert set(together) == set(range(n)) and len(together) - n < world


def test_loading_processes_do_not_change_the_samples():
    def batches(processes: int) -> list:
        sampler = dataset.EpochSampler(12, 0)
        sampler.set_epoch(1)
        return list(torch.utils.data.DataLoader(training(), 5, sampler=sampler, num_workers=processes))

    ours, theirs = batches(0), batches(1)
    assert [len(b["label"]) for b in ours] == [5, 5, 2]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(ours, theirs, strict=True) for k in a)


@pytest.fixture
def front(tmp_path):
    """`FrozenFront` over training clips with two views, in a folder of its own."""
    from tests.gc_model.nets import build

    model = build(dtype=torch.float32, classes=3)
    return lambda views=2, whole=False: dataset.FrozenFront(
        training() if views else dataset.TestClips(index_clips(colours()), list(COLOURS), cache(), TINY),
        model,
        tmp_path / ("front" if views else "front.val"),
        views,
        whole,
    )


def test_maps_of_frozen_stages_are_those_of_the_clip_and_each_is_computed_once(front, monkeypatch):
    samples = front()
    clip = training()[1, 4]
    with torch.no_grad():
        maps = samples.model.maps(clip["clip"][None])[0]
    assert torch.allclose(samples[1, 4]["maps"], maps, rtol=2e-3, atol=2e-3)  # float16 on disk
    assert samples[1, 4]["label"] == clip["label"]
    first = samples[1, 4]["maps"]
    monkeypatch.setattr(dataset.FrozenFront, "_front", None)
    assert torch.equal(samples[1, 4]["maps"], first) and torch.equal(samples[3, 4]["maps"], first)


def test_features_of_a_frozen_trunk_are_those_of_the_clip_in_training_and_in_validation(front, monkeypatch):
    samples, held_out = front(whole=True), front(views=0, whole=True)
    with torch.no_grad():
        Z, c = samples.model.features(training()[1, 4]["clip"][None])
    for _ in range(2):  # computed, and read again
        assert torch.allclose(samples[1, 4]["Z"], Z[0], rtol=2e-3, atol=2e-3)
        assert torch.allclose(samples[1, 4]["c"], c[0], rtol=2e-3, atol=2e-3)
        assert held_out[3]["Z"].shape == (5, *Z.shape[1:]) and held_out[3]["c"].shape == (5, *c.shape[1:])
        monkeypatch.setattr(dataset.FrozenFront, "_front", None)


@pytest.mark.parametrize("views", [2, 0])
def test_features_go_on_from_stored_maps_and_see_no_picture_again(front, tmp_path, monkeypatch, views):
    maps, which = front(views), (3, 4) if views else 4
    direct = dataset.FrozenFront(maps.base, maps.model, tmp_path / "direct", views, whole=True)[which]
    maps[which]
    monkeypatch.setattr(type(maps.base), "__getitem__", None)
    found = dataset.FrozenFront(maps, maps.model, tmp_path / "whole", views, whole=True)[which]
    assert found.keys() == direct.keys() and found["label"] == direct["label"]
    assert torch.allclose(found["Z"], direct["Z"], rtol=1e-2, atol=1e-3) and found["Z"].std() > 0.02
    assert torch.allclose(found["c"], direct["c"], rtol=2e-3, atol=2e-3)


def test_views_take_turns_with_the_epochs(front):
    samples = front()
    views = [samples[epoch, 2]["maps"] for epoch in range(4)]
    assert torch.equal(views[0], views[2]) and torch.equal(views[1], views[3])
    assert not torch.equal(views[0], views[1])


def test_maps_survive_the_process_and_do_not_mix_with_those_of_validation(front, monkeypatch):
    ours, theirs = front()[0, 3]["maps"], front(views=0)[3]["maps"]
    assert ours.shape[0] == 8 and theirs.shape[:2] == (5, 8)
    again, held_out = front(), front(views=0)
    monkeypatch.setattr(dataset.FrozenFront, "_front", None)
    assert torch.equal(again[0, 3]["maps"], ours) and torch.equal(held_out[3]["maps"], theirs)


def test_a_disk_that_cannot_hold_the_features_is_said_before_anything_is_computed(front, monkeypatch):
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"takes .* GB, 0\.0 are free; take fewer --set views="):
        front()


def test_computing_maps_leaves_the_mode_of_every_part_alone(front):
    """Also of a batch norm that a stage has put to sleep in a network that trains."""
    samples = front()
    samples.model.train()
    freeze_statistics(samples.model.trunk)
    before = {name: part.training for name, part in samples.model.named_modules()}
    samples[0, 0]
    assert {name: part.training for name, part in samples.model.named_modules()} == before
    assert set(before.values()) == {True, False}
