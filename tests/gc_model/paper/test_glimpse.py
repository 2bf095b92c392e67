# SPDX-License-Identifier: Apache-2.0
"""Eq 1 to 5: the separable crop against grid_sample, and the way of the gradient to the location."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gc_model.paper.glimpse import GRU, Attention, WhatWhere, glimpse, starting_places
from tests.gc_model.nets import build, noise


def reference(Z, l):
    """Eq 1-2 as torch has it: affine_grid, grid_sample, mean."""
    x, y, sx, sy = l.unbind(-1)
    zero = torch.zeros_like(x)
    theta = torch.stack([torch.stack([sx, zero, x], -1), torch.stack([zero, sy, y], -1)], -2)
    grid = F.affine_grid(theta, list(Z.shape), align_corners=False)
    return F.grid_sample(Z, grid, align_corners=False, padding_mode="zeros").mean((2, 3))


coordinate = st.floats(-1, 1, allow_nan=False)
scale = st.floats(0.01, 1.0, allow_nan=False)
cells = st.integers(2, 9)


@settings(max_examples=60, deadline=None)
@given(x=coordinate, y=coordinate, sx=scale, sy=scale, size=st.tuples(cells, cells), seed=st.integers(0, 99))
def test_the_separable_crop_equals_grid_sample_in_value(x, y, sx, sy, size, seed):
    H, W = size
    Z = torch.randn(1, 4, H, W, dtype=torch.float64, generator=torch.manual_seed(seed))
    l = torch.tensor([[x, y, sx, sy]], dtype=torch.float64)
    torch.testing.assert_close(glimpse(Z, l), reference(Z, l), atol=1e-11, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_the_separable_crop_equals_grid_sample_in_gradient(seed):
    torch.manual_seed(seed)
    gradients = []
    Z0 = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    l0 = torch.cat([torch.rand(3, 2) * 1.6 - 0.8, torch.rand(3, 2) * 0.8 + 0.1], 1).double()
    out = torch.randn(3, 4, dtype=torch.float64)
    for function in (glimpse, reference):
        Z, l = Z0.clone().requires_grad_(), l0.clone().requires_grad_()
        (function(Z, l) * out).sum().backward()
        gradients.append((Z.grad, l.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_the_gradient_of_the_crop_is_right_by_finite_differences():
    torch.manual_seed(1)
    Z = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    l = torch.tensor(
        [[0.13, -0.21, 0.61, 0.47], [-0.4, 0.3, 0.9, 0.2]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(glimpse, (Z, l))


def test_the_gradient_of_the_label_reaches_the_location_through_the_crop():
    """An earlier implementation had none: the attention never learned from what it saw."""
    model = build()
    crops = []
    hook = model.what_where.register_forward_pre_hook(lambda _, args: crops.append(args))
    Z, c = (x.detach() for x in model.features(noise(2, 8, 64)))
    locations = []
    attend = model.attention.register_forward_hook(lambda _m, _i, out: locations.append(out[1]))
    # Lambda's own view of l is cut off, so that only the crop is left.
    cut = model.what_where.Lambda.register_forward_pre_hook(lambda _, args: (args[0].detach(),))
    result, _ = model.fold(Z, c)
    gradients = torch.autograd.grad(result.logits[:, 0].sum(), locations)
    for h in (hook, attend, cut):
        h.remove()
    assert all(g.abs().sum() > 0 for g in gradients)


def test_the_first_glimpse_sees_nearly_the_whole_frame():
    torch.manual_seed(0)
    attention = Attention(features=16, context=8, workers=4, hidden=8, G=3)
    _, l = attention(torch.zeros(5, 16), torch.zeros(5, 4), torch.zeros(5, 8), torch.randn(5, 8), 0)
    assert (l[:, 2:] > 0.9).all()
    assert (l[:, :2].abs() < 0.5).all()


def test_locations_stay_in_their_ranges_whatever_comes_in():
    attention = Attention(features=4, context=4, workers=2, hidden=4, G=3)
    _, l = attention(*(torch.randn(64, n) * 1e4 for n in (4, 2, 4, 4)), g=2)
    assert (l[:, :2].abs() <= 1).all() and (l[:, 2:] >= 0).all() and (l[:, 2:] <= 1).all()


def test_the_recurrent_cell_is_torchs_own():
    torch.manual_seed(0)
    ours, theirs = GRU(5, 4).double(), nn.GRUCell(5, 4).double()
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.from_x.weight)
        theirs.weight_hh.copy_(ours.from_h.weight)
        theirs.bias_ih.copy_(ours.from_x.bias)
        theirs.bias_hh.copy_(ours.from_h.bias)
    x, h = torch.randn(3, 5).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(ours(x, h), theirs(x, h), atol=1e-14, rtol=0)


def test_the_encoding_is_a_hadamard_product_of_what_and_where():
    encode = WhatWhere(features=6, hidden=3)
    z, l = torch.randn(2, 6), torch.rand(2, 4)
    torch.testing.assert_close(encode(z, l), z * encode.Lambda(l))


@pytest.mark.parametrize("G", [1, 2, 3, 4])
def test_a_spread_start_gives_every_glimpse_a_place_and_a_zoom_of_its_own(G):
    torch.manual_seed(0)
    attention = Attention(features=16, context=8, workers=4, hidden=8, G=G)
    attention.spread_start(0.4)
    zeros = torch.zeros(5, 16), torch.zeros(5, 4), torch.zeros(5, 8), torch.randn(5, 8)
    l = torch.stack([attention(*zeros, g)[1] for g in range(G)], 1)
    assert torch.allclose(l[..., 2:], torch.full_like(l[..., 2:], 0.4), atol=0.15)
    for g in range(G):
        for other in range(g):
            assert ((l[:, g, :2] - l[:, other, :2]).norm(dim=-1) > 0.4).all()


def test_the_start_of_a_glimpse_is_its_own_and_learns():
    attention = Attention(features=4, context=4, workers=2, hidden=4, G=3)
    attention(*(torch.randn(2, n) for n in (4, 2, 4, 4)), 1)[1].sum().backward()
    touched = attention.start.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, True, False]


def test_no_glimpse_is_smaller_than_the_least_extent_and_all_start_where_they_would():
    attention = Attention(5, 4, 3, 6, 3, least=0.15).double()
    attention.spread_start(0.3)
    zeros = torch.zeros(1, 5).double(), torch.zeros(1, 3).double(), torch.zeros(1, 6).double()
    with torch.no_grad():
        attention.locate.weight.zero_()
        for g, place in enumerate(starting_places(3)):
            _, l = attention(*zeros, torch.zeros(1, 4).double(), g)
            assert torch.allclose(l[0], torch.tensor([*place, 0.3, 0.3]).double(), atol=1e-6)
        for push, extent in ((-50.0, 0.15), (50.0, 1.0)):
            attention.locate.bias[2:] = push
            assert torch.allclose(
                attention(*zeros, torch.zeros(1, 4).double(), 0)[1][0, 2:], torch.tensor(extent).double()
            )
