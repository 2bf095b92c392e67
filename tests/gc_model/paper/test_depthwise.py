# SPDX-License-Identifier: Apache-2.0
"""The depthwise convolution over a clip and its gradients are those of PyTorch's grouped Conv3d."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from torch import Tensor

from gc_model.paper import inflated
from gc_model.paper.depthwise import depthwise_clip
from gc_model.paper.presets import preset
from gc_model.paper.variants import build
from gc_model.training.stages import freeze_stages
from tests.gc_model.nets import depthwise_conv3d

TAPS = 3


@given(
    clips=st.integers(1, 3), T=st.integers(1, 5), now=st.integers(0, 2), k=st.sampled_from([3, 5]),
    stride=st.integers(1, 2), side=st.integers(5, 9), biased=st.booleans(), last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_value_and_every_gradient_equal_conv3d_in_any_memory_format(
    clips, T, now, k, stride, side, biased, last, seed
):
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()

    x, weight, bias = noise(clips * T, 4, side, side), noise(4, 1, TAPS, k, k), noise(4) if biased else None
    wanted = [t for t in (x, weight, bias) if t is not None]
    where = (stride, stride), (k // 2, k // 2)
    theirs = depthwise_conv3d(x, weight, bias, T, now, *where)
    given_x = x.contiguous(memory_format=torch.channels_last) if last else x
    ours = depthwise_clip(given_x, weight, bias, T, now, *where)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    of = torch.randn(theirs.shape, generator=draw, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, of), torch.autograd.grad(theirs, wanted, of), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_a_gradient_that_is_not_wanted_is_not_computed():
    x, weight = torch.randn(4, 2, 6, 6), torch.randn(2, 1, TAPS, 3, 3, requires_grad=True)
    y = depthwise_clip(x, weight, None, 2, 2, (1, 1), (1, 1))
    y.sum().backward()
    assert x.grad is None and weight.grad is not None
    y = depthwise_clip(x.requires_grad_(), weight.detach(), None, 2, 2, (1, 1), (1, 1))
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.slow
def test_a_trunk_in_mixed_precision_errs_no_more_than_with_conv3d_in_its_place(monkeypatch):
    torch.manual_seed(0)
    model = build(preset("edge", classes=3))
    model.trunk.eval()
    freeze_stages(model, 4)
    clip = torch.randint(0, 255, (1, 2, 3, 224, 224), dtype=torch.uint8)

    def gradients(mixed: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            Z, c = model.features(clip)
            (Z.float().mean() + c.float().mean()).backward()
        convs = [conv.weight.grad for conv in model.trunk.inflated if conv.weight.grad is not None]
        assert convs and all(g.dtype == torch.float32 for g in convs)
        return torch.cat([g.flatten() for g in convs])

    exact, ours = gradients(mixed=False), gradients(mixed=True)
    monkeypatch.setattr(inflated, "depthwise_clip", depthwise_conv3d)
    theirs = gradients(mixed=True)
    # How much bfloat16 rounds differs from processor to processor, but for both alike.
    error, bound = ((g - exact).norm() / exact.norm() for g in (ours, theirs))
    assert 0 < error < 1.25 * bound < 0.5
