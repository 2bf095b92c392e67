# SPDX-License-Identifier: Apache-2.0
"""Eq 14 to 17 against loops written from the paper."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from gc_model.paper.losses import Weights, attraction, pose_loss, separation, total_loss
from tests.gc_model.nets import build, noise

B, T, G, BODIES, J = 2, 3, 3, 2, 5
NAN = float("nan")


def locations(seed=0):
    return torch.randn(B, T, G, 4, dtype=torch.float64, generator=torch.manual_seed(seed)) * 0.5


def joints(seed=1):
    return torch.randn(B, T, BODIES, J, 2, dtype=torch.float64, generator=torch.manual_seed(seed))


def test_separation_is_eq_15_to_the_letter_one_term_a_frame_with_all_pairs_inside():
    l = locations()
    total = 0.0
    for b, t in itertools.product(range(B), range(T)):
        pairs = itertools.combinations(range(G), 2)
        total += 1 / (1 + sum(math.dist(l[b, t, g, :2], l[b, t, k, :2]) for g, k in pairs))
    assert float(separation(l)) == pytest.approx(total / B, abs=1e-6)


def test_separation_by_pairs_pushes_each_pair_by_itself():
    l = locations()
    total = 0.0
    for b, t in itertools.product(range(B), range(T)):
        for g1, g2 in itertools.combinations(range(G), 2):
            total += 1 / (1 + math.dist(l[b, t, g1, :2], l[b, t, g2, :2]))
    assert float(separation(l, "pairs")) == pytest.approx(total / B, abs=1e-6)


@pytest.mark.parametrize("form", ["frame", "pairs"])
def test_one_glimpse_has_nobody_to_keep_apart_from(form):
    assert float(separation(locations()[:, :, :1], form)) == 0.0


def test_what_moves_attracts_glimpses_where_no_joint_is_known():
    """(B, T, M, 2) without bodies; the same places as joints of one body draw alike."""
    l, places = locations(), joints()[:, :, 0]
    assert torch.equal(attraction(l, places), attraction(l, places[:, :, None]))


def test_attraction_takes_the_minimum_over_joints_of_the_euclidean_distance():
    """Not the minimum per axis, which pairs one joint's x with another's y."""
    l, y = locations(), joints()
    total = 0.0
    for b, t, g in itertools.product(range(B), range(T), range(G)):
        total += min(math.dist(l[b, t, g, :2], joint) for joint in y[b, t].flatten(0, 1))
    assert float(attraction(l, y)) == pytest.approx(total / B, abs=1e-6)
    # Per axis, a glimpse at the origin would be at distance 0.
    crossed = torch.tensor([[[[[0.0, 9.0], [9.0, 0.0]]]]])
    assert float(attraction(torch.zeros(1, 1, 1, 4), crossed)) == pytest.approx(9.0)


def test_unknown_joints_never_attract_and_bring_no_nan_into_the_gradient():
    l = locations().requires_grad_()
    y = joints()
    y[0, 0] = NAN  # nothing known in one frame
    y[1, 1, 0, 2] = NAN
    loss = attraction(l, y)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(l.grad).all()
    assert (l.grad[0, 0] == 0).all()


def test_joints_outside_the_crop_are_not_clipped_to_it():
    far = torch.full((1, 1, 1, 1, 2), 3.0)
    assert float(attraction(torch.zeros(1, 1, 1, 4), far)) == pytest.approx(math.sqrt(18), abs=1e-5)


def test_the_order_of_the_bodies_does_not_matter_to_the_pose_loss():
    y = joints()
    assert float(pose_loss(y.flip(2), y)) == pytest.approx(0, abs=1e-12)
    predicted = joints(7)
    assert float(pose_loss(predicted, y)) == pytest.approx(float(pose_loss(predicted, y.flip(2))), abs=1e-12)


def test_the_permutation_of_least_summed_cost_is_taken_for_the_whole_clip():
    predicted, y = joints(3), joints(4)
    straight = (predicted - y).square().sum((1, 2, 3, 4))
    swapped = (predicted.flip(2) - y).square().sum((1, 2, 3, 4))
    expected = torch.minimum(straight, swapped).sum() / (B * T * BODIES * J)
    assert float(pose_loss(predicted, y)) == pytest.approx(float(expected), abs=1e-12)


def test_an_absent_body_is_masked_never_regressed():
    y = joints()
    y[:, :, 1] = NAN
    predicted = y.nan_to_num(0).clone()
    predicted[:, :, 1] = 100.0
    predicted.requires_grad_()
    loss = pose_loss(predicted, y)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-12)
    assert (predicted.grad[:, :, 1] == 0).all()


def test_clips_without_any_skeleton_leave_the_other_clips_loss_alone():
    y = joints()
    y[1] = NAN
    predicted = joints(5)
    assert float(pose_loss(predicted, y)) == pytest.approx(float(pose_loss(predicted[:1], y[:1])), abs=1e-12)
    assert torch.isfinite(pose_loss(predicted, torch.full_like(y, NAN)))


def test_every_term_reaches_the_parameters_it_is_about():
    model = build()
    result = model(noise(2, 8, 64))
    y = torch.rand(2, 8, 2, 25, 2, dtype=torch.float64)
    terms = total_loss(
        F.cross_entropy(result.logits, torch.tensor([0, 3])), result, model.poses(result.c), y, Weights()
    )
    assert set(terms) == {"L_D", "L_P", "L_G1", "L_G2", "loss"}
    total = sum(v for k, v in terms.items() if k != "loss")
    torch.testing.assert_close(terms["loss"], total)
    reached = {
        "L_D": model.readout.weight,
        "L_P": model.pose.weight,
        "L_G1": model.attention.locate.weight,
        "L_G2": model.attention.locate.weight,
    }
    for name, parameter in reached.items():
        (gradient,) = torch.autograd.grad(terms[name], parameter, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_each_weight_multiplies_its_own_term_and_the_defaults_are_those_of_the_specification():
    model = build()
    result = model(noise(1, 8, 64))
    y = torch.rand(1, 8, 2, 25, 2, dtype=torch.float64)
    L_D, poses = F.cross_entropy(result.logits, torch.tensor([0])), model.poses(result.c)
    plain = total_loss(L_D, result, poses, y, Weights(pose=1.0, glimpse=1.0))
    weighed = total_loss(L_D, result, poses, y, Weights(pose=0.5, glimpse=0.25))
    for name, weight in {"L_D": 1, "L_P": 0.5, "L_G1": 0.25, "L_G2": 0.25}.items():
        torch.testing.assert_close(weighed[name], weight * plain[name])
    assert (Weights().pose, Weights().glimpse, Weights().separation) == (1.0, 0.05, 1.0)


def test_separation_weighs_l_g1_alone():
    model = build()
    result = model(noise(1, 8, 64))
    y = torch.rand(1, 8, 2, 25, 2, dtype=torch.float64)
    full, less = (
        total_loss(
            F.cross_entropy(result.logits, torch.tensor([0])),
            result,
            None,
            y,
            Weights(glimpse=0.2, separation=s),
        )
        for s in (1.0, 0.25)
    )
    torch.testing.assert_close(less["L_G1"], full["L_G1"] / 4)
    torch.testing.assert_close(less["L_G2"], full["L_G2"])


def test_switched_off_terms_are_not_computed():
    model = build()
    result = model(noise(1, 8, 64))
    terms = total_loss(
        F.cross_entropy(result.logits, torch.tensor([0])), result, None, None, Weights(pose=0, glimpse=0)
    )
    assert set(terms) == {"L_D", "loss"}
    without_joints = total_loss(
        F.cross_entropy(result.logits, torch.tensor([0])), result, None, None, Weights()
    )
    assert set(without_joints) == {"L_D", "L_G1", "loss"}
