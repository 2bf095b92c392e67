# SPDX-License-Identifier: Apache-2.0
"""Clips as samples: the same draw for the same (seed, epoch, clip), every clip once an epoch, nothing dropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import own
from gc_model.data import samples as dataset
from gc_model.data.augment import Augment
from gc_model.data.clip import LabelledClip
from gc_model.data.frames import FrameCache
from gc_ros.media.video import read_video
from tests.gc_model.colour_samples import TINY, P, cache, training
from tests.gc_model.runs import COLOURS, colours, too_short
from trt_build.preprocess import model_input


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


def test_a_clip_that_stands_still_shows_one_frame_and_is_idle():
    labels = [*COLOURS, "idle"]
    still = dataset.TrainingClips(own.clips(colours()), labels, cache(), TINY, 4.0, Augment(), 0, still=0.5)
    plain = dataset.TrainingClips(own.clips(colours()), labels, cache(), TINY, 4.0, Augment(), 0)
    idle = 0
    for which in ((epoch, i) for epoch in range(5) for i in range(12)):
        sample, other = still[which], plain[which]
        assert sample["label"] == still.beside(which)["label"]
        if sample["label"] == labels.index("idle"):
            idle += 1
            assert (sample["clip"] == sample["clip"][:1]).all()
        else:
            assert sample["label"] == other["label"] and torch.equal(sample["clip"], other["clip"])
    assert 20 < idle < 40
    without = dataset.TrainingClips(
        own.clips(colours()), list(COLOURS), cache(), TINY, 4.0, Augment(), 0, still=0.9
    )
    assert [without[0, i]["label"] for i in range(12)] == [plain[0, i]["label"] for i in range(12)]


def test_test_samples_are_the_robots_input_of_the_fixed_frames():
    clip = own.clips(colours())[4]
    sample = dataset.TestClips([clip], list(COLOURS), cache(), TINY)[0]
    assert sample["clip"].shape == (5, 8, 3, 64, 64)
    frames = [image for image, _ in read_video(clip.path)]
    for i in range(5):
        chosen = [int((k + (i + 0.5) / 5) * 20 / 8) for k in range(8)]
        seen = np.stack([model_input(frames[j], P, bgr=False) for j in chosen]).astype(int)
        # The cached frame is resized before it is cropped, the robot crops and resizes once.
        assert np.abs(sample["clip"][i].permute(0, 2, 3, 1).numpy() - seen).mean() < 6


def test_a_test_clip_shorter_than_a_window_is_kept_with_repeated_frames(tmp_path):
    clip = LabelledClip(too_short(tmp_path / "red" / "s.mp4"), "red/s.mp4", "red")
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


@pytest.mark.slow
def test_loading_processes_do_not_change_the_samples():
    def batches(processes: int) -> list:
        sampler = dataset.EpochSampler(12, 0)
        sampler.set_epoch(1)
        return list(torch.utils.data.DataLoader(training(), 5, sampler=sampler, **dataset.loading(processes)))

    ours, theirs = batches(0), batches(1)
    assert [len(b["label"]) for b in ours] == [5, 5, 2]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(ours, theirs, strict=True) for k in a)


def test_sources_have_their_shares_of_an_epoch_and_no_clip_comes_twice_before_all_of_its_source():
    sampler = dataset.EpochSampler([10, 30], 0, shares=[0.5, 0.5])
    sampler.set_epoch(2)
    drawn = [i for _, i in sampler]
    assert len(drawn) == len(sampler) == 40 and drawn == [i for _, i in sampler]
    counts = [drawn.count(i) for i in range(40)]
    assert counts[:10] == [2] * 10 and sorted(counts[10:]) == [0] * 10 + [1] * 20
    # What comes again is augmented in another way, and sees another of the stored views.
    assert len({*sampler}) == 40
    again = {i: {epoch for epoch, j in sampler if j == i} for i in range(10)}
    assert all(len({epoch % views for epoch in again[i]}) == 2 for i in again for views in (2, 3, 4, 5, 8))
    left_out = {i for i in range(10, 40) if not counts[i]}
    sampler.set_epoch(3)
    assert left_out != set(range(40)) - {i for _, i in sampler}
    assert sorted(dataset.EpochSampler([4, 0], 0, shares=[1, 0])) == [(0, i) for i in range(4)]
