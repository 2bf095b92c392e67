# SPDX-License-Identifier: Apache-2.0
"""Clips mixed into one another: what is kept, what it is taught, and the same draw for the same batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

import torch.nn.functional as F

from gc_model.training.mixing import mix


def batch(kind: str = "clip", n: int = 4) -> dict:
    """Clip i is i everywhere, and so is its label."""
    values = torch.arange(n)
    shape = {"clip": (8, 3, 20, 20), "maps": (8, 5, 14, 14), "Z": (8, 6, 7, 7)}[kind]
    full = values.reshape(n, *[1] * len(shape)).expand(n, *shape).clone()
    found = {"label": values, kind: full.to(torch.uint8 if kind == "clip" else torch.float32)}
    return found | ({"c": values[:, None, None].expand(n, 8, 5).float()} if kind == "Z" else {})


@given(st.integers(0, 1000), st.sampled_from(["clip", "maps", "Z"]))
def test_a_blended_clip_is_its_own_and_the_others_by_the_share(seed, kind):
    plain = batch(kind)
    mixed = mix(plain, 0.8, 0.0, np.random.default_rng(seed))
    assert 0.5 <= mixed.share <= 1
    expected = mixed.share * plain["label"] + (1 - mixed.share) * mixed.other
    assert torch.allclose(mixed.batch[kind].flatten(1).float().mean(1), expected.float(), atol=1e-4)
    assert mixed.batch[kind].flatten(1).std(1).max() < 1e-4
    if kind == "Z":
        assert torch.allclose(mixed.batch["c"].flatten(1).mean(1), expected.float(), atol=1e-4)
    assert torch.equal(plain[kind], batch(kind)[kind]) and torch.equal(mixed.batch["label"], plain["label"])


@given(st.integers(0, 1000), st.sampled_from(["clip", "maps", "Z"]))
def test_a_cut_clip_has_one_box_of_the_other_in_all_frames_and_the_share_counts_its_cells(seed, kind):
    plain = batch(kind)
    mixed = mix(plain, 0.0, 1.0, np.random.default_rng(seed))
    for i, clip in enumerate(mixed.batch[kind]):
        own = (clip == i) if int(mixed.other[i]) != i else torch.ones_like(clip, dtype=torch.bool)
        assert (own | (clip == int(mixed.other[i]))).all()
        assert torch.equal(own, own[:1, :1].expand_as(own))
        if int(mixed.other[i]) != i:
            assert float(own.float().mean()) == pytest.approx(mixed.share)
            box = (~own[0, 0]).nonzero()
            if len(box):
                height, width = box.amax(0) - box.amin(0) + 1
                assert int(height * width) == len(box)
    assert mixed.share >= 0.4  # half of the picture, but for whole cells
    if kind == "Z":  # a mean has no place to be cut at
        expected = mixed.share * plain["label"] + (1 - mixed.share) * mixed.other
        assert torch.allclose(mixed.batch["c"].flatten(1).mean(1), expected.float(), atol=1e-4)


def test_the_loss_is_that_of_both_labels_by_their_shares_and_plain_where_nothing_is_mixed():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    mixed = mix(batch(), 0.8, 1.0, np.random.default_rng(3))
    soft = mixed.share * F.one_hot(mixed.batch["label"], 4) + (1 - mixed.share) * F.one_hot(mixed.other, 4)
    by_hand = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert float(mixed.cross_entropy(logits, 0.0)) == pytest.approx(float(by_hand), abs=1e-6)
    smooth = -((0.9 * soft + 0.1 / 4) * logits.log_softmax(1)).sum(1).mean()
    assert float(mixed.cross_entropy(logits, 0.1)) == pytest.approx(float(smooth), abs=1e-6)
    for off in (
        mix(batch(), 0.0, 0.0, np.random.default_rng(3)),
        mix(batch(n=1), 1.0, 1.0, np.random.default_rng(3)),
    ):
        assert off.share == 1.0 and off.batch["clip"].dtype == torch.uint8
    plain = mix(batch(), 0.0, 0.0, np.random.default_rng(3))
    expected = F.cross_entropy(logits, plain.batch["label"], label_smoothing=0.1)
    assert float(plain.cross_entropy(logits, 0.1)) == pytest.approx(float(expected), abs=1e-6)


def test_both_kinds_are_drawn_where_both_are_on_and_the_same_draw_mixes_the_same():
    kinds = set()
    for seed in range(20):
        first, second = (mix(batch(), 1.0, 1.0, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first.batch["clip"], second.batch["clip"]) and first.share == second.share
        kinds.add(first.batch["clip"].dtype)
    assert kinds == {torch.uint8, torch.float32}
