# SPDX-License-Identifier: Apache-2.0
"""Cached features of a frozen trunk: those of the clip, each computed once, kept apart, and bounded by the disk."""

import shutil
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import frozen_front, own
from gc_model.data import samples as dataset
from gc_model.data.frames import FrameCache
from gc_model.training.loaders import Loaders
from gc_model.training.options import TrainOptions
from gc_model.training.stages import freeze_statistics
from tests.gc_model.colour_samples import TINY, P, cache, training
from tests.gc_model.nets import build
from tests.gc_model.runs import COLOURS, coloured_clips, colours
from trt_build.errors import DataError


@pytest.fixture
def front(tmp_path):
    """`FrozenFront` over training clips with two views, in a folder of its own."""
    model = build(dtype=torch.float32, classes=3)
    return lambda views=2, whole=False: frozen_front.FrozenFront(
        training() if views else dataset.TestClips(own.clips(colours()), list(COLOURS), cache(), TINY),
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
    monkeypatch.setattr(frozen_front.FrozenFront, "_front", None)
    assert torch.equal(samples[1, 4]["maps"], first) and torch.equal(samples[3, 4]["maps"], first)


def test_features_of_a_frozen_trunk_are_those_of_the_clip_in_training_and_in_validation(front, monkeypatch):
    samples, held_out = front(whole=True), front(views=0, whole=True)
    with torch.no_grad():
        Z, c = samples.model.features(training()[1, 4]["clip"][None])
    for _ in range(2):  # computed, and read again
        assert torch.allclose(samples[1, 4]["Z"], Z[0], rtol=2e-3, atol=2e-3)
        assert torch.allclose(samples[1, 4]["c"], c[0], rtol=2e-3, atol=2e-3)
        assert held_out[3]["Z"].shape == (5, *Z.shape[1:]) and held_out[3]["c"].shape == (5, *c.shape[1:])
        monkeypatch.setattr(frozen_front.FrozenFront, "_front", None)


@pytest.mark.parametrize("views", [2, 0])
def test_features_go_on_from_stored_maps_and_see_no_picture_again(front, tmp_path, monkeypatch, views):
    maps, which = front(views), (3, 4) if views else 4
    direct = frozen_front.FrozenFront(maps.base, maps.model, tmp_path / "direct", views, whole=True)[which]
    maps[which]
    monkeypatch.setattr(type(maps.base), "__getitem__", None)
    found = frozen_front.FrozenFront(maps, maps.model, tmp_path / "whole", views, whole=True)[which]
    assert found.keys() == direct.keys() and found["label"] == direct["label"]
    assert torch.allclose(found["Z"], direct["Z"], rtol=1e-2, atol=1e-3) and found["Z"].std() > 0.02
    assert torch.allclose(found["c"], direct["c"], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("stages", [4, 5])
def test_what_was_stored_of_a_clip_does_not_stand_for_one_filmed_again_under_its_name(tmp_path, stages):
    data = coloured_clips(tmp_path / "data", per_class=1)
    model = build(dtype=torch.float32, classes=3)
    options = TrainOptions(data=data, preset="tiny", epochs3=1, freeze_stages=stages, views=1)

    def stored() -> list:
        cache, clips = FrameCache(tmp_path, P), own.clips(data)
        loaded = Loaders(options, model, list(COLOURS), cache, clips[:2], clips[2:])
        loaded.freeze_front(options)
        name = "maps" if stages == 4 else "Z"
        return [s[name] for s in (loaded.samples[0, 0], loaded.samples[0, 1], loaded.held_out[0])]

    def again(label: str) -> list[bool]:
        before = stored()
        shutil.copy(colours() / "green" / "green3.mp4", data / label / f"{label}0.mp4")
        return [torch.equal(a, b) for a, b in zip(before, stored(), strict=True)]

    assert again("blue") == [False, True, True] and again("red") == [True, True, False]


def test_views_take_turns_with_the_epochs(front):
    samples = front()
    views = [samples[epoch, 2]["maps"] for epoch in range(4)]
    assert torch.equal(views[0], views[2]) and torch.equal(views[1], views[3])
    assert not torch.equal(views[0], views[1])


def test_what_stands_beside_the_features_is_of_the_view_that_they_are_of(front):
    samples = front()
    seen = []
    samples.base = SimpleNamespace(beside=lambda which: seen.append(which) or {})
    samples.beside((5, 3)), samples.beside((4, 3))
    assert seen == [(1, 3), (0, 3)]


def test_maps_survive_the_process_and_do_not_mix_with_those_of_validation(front, monkeypatch):
    ours, theirs = front()[0, 3]["maps"], front(views=0)[3]["maps"]
    assert ours.shape[0] == 8 and theirs.shape[:2] == (5, 8)
    again, held_out = front(), front(views=0)
    monkeypatch.setattr(frozen_front.FrozenFront, "_front", None)
    assert torch.equal(again[0, 3]["maps"], ours) and torch.equal(held_out[3]["maps"], theirs)


def test_a_disk_that_cannot_hold_the_features_is_said_before_anything_is_computed(front, monkeypatch):
    monkeypatch.setattr(frozen_front.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        DataError, match=r"take .* GB, 0\.0 are free; choose another --out, with fewer --set views="
    ):
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
