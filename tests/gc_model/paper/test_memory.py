# SPDX-License-Identifier: Apache-2.0
"""Eq 8 to 10: metric, min-max, decay, first assignment, the shift register."""

import math

import pytest
import torch

from gc_model.paper.memory import Assignment, Metric, write
from tests.gc_model.nets import build, noise


def filled_memory(B=2, K=4, G=3, C=2, D=5, seed=0):
    g = torch.manual_seed(seed)
    memory = torch.randn(B, K, G, D, generator=g, dtype=torch.float64)
    weight = torch.softmax(torch.randn(B, K, C, G, generator=g, dtype=torch.float64), -1).transpose(2, 3)
    return memory, weight.contiguous()


def test_the_metric_is_a_positive_semi_definite_quadratic_form_of_learned_parameters():
    torch.manual_seed(0)
    metric = Metric(5).double()
    with torch.no_grad():
        metric.L.weight.normal_()
    v, m = torch.randn(1, 2, 5).double(), torch.randn(1, 3, 5).double()
    D = metric.L.weight.T @ metric.L.weight
    d = metric.distance(metric.L(v), metric.L(m)).detach()
    D = D.detach()
    for g in range(2):
        for k in range(3):
            x = v[0, g] - m[0, k]
            assert d[0, g, k] == pytest.approx(math.sqrt(float(x @ D @ x) / 5 + 1e-6), abs=1e-12)
    assert metric.L.weight.requires_grad
    assert {"L.weight", "phi_min", "phi_max"} <= set(metric.state_dict()), (
        "saved, not estimated on a test batch"
    )


def test_the_gradient_of_the_distance_is_finite_where_glimpses_coincide():
    u = torch.zeros(1, 1, 4, requires_grad=True)
    Metric(4).distance(u, torch.zeros(1, 1, 4)).sum().backward()
    assert torch.isfinite(u.grad).all()


def test_training_normalises_by_filled_slots_only_and_moves_the_running_constants():
    metric = Metric(3)
    d = torch.tensor([[[5.0, 1.0, 3.0]]])
    filled = torch.tensor([[False, True, True]])  # the never-filled slot holds the largest distance
    out = metric.train().normalise(d, filled)
    torch.testing.assert_close(out[..., 1:], torch.tensor([[[0.0, 1.0]]]))
    assert float(metric.phi_min) == pytest.approx(0.05)
    assert float(metric.phi_max) == pytest.approx(1 + 0.05 * (3 - 1))


def test_inference_normalises_by_two_constants_and_changes_nothing():
    metric = Metric(3).eval()
    metric.phi_min.fill_(1.0)
    metric.phi_max.fill_(3.0)
    out = metric.normalise(torch.tensor([[[0.0, 1.0, 2.0, 9.0]]]), torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(out, torch.tensor([[[0.0, 0.0, 0.5, 1.0]]]))
    assert (float(metric.phi_min), float(metric.phi_max)) == (1.0, 3.0)


def test_the_batch_extremes_carry_no_gradient():
    metric = Metric(3).train()
    d = torch.tensor([[[1.0, 2.0, 4.0]]], requires_grad=True)
    metric.normalise(d, torch.ones(1, 3, dtype=torch.bool)).sum().backward()
    torch.testing.assert_close(d.grad, torch.full_like(d, 1 / 3))


def test_assignment_equals_equation_ten_written_out():
    G, C, K, D, tau, alpha = 3, 2, 4, 5, 4.0, 0.5
    memory, weight = filled_memory(K=K, G=G, C=C, D=D)
    assignment = Assignment(D, G, C, K, tau, alpha).double().eval()
    assignment.metric.phi_max.fill_(3.0)
    v = torch.randn(2, G, D).double()
    p, u = assignment(v, memory, weight)
    for b in range(2):
        for c in range(C):
            score = []
            for g in range(G):
                total = 0.0
                for k in range(K):
                    age = K - k  # stored oldest first; the newest frame is one frame old
                    for entry in range(G):
                        d = torch.sqrt(((u[b, g] - memory[b, k, entry]) ** 2).mean() + 1e-6) / 3.0
                        similarity = 1 - float(d.clamp(0, 1))
                        total += math.exp(-age / tau) * float(weight[b, k, entry, c]) * similarity / alpha
                score.append(total)
            torch.testing.assert_close(
                p[b, c], torch.softmax(torch.tensor(score).double(), 0), atol=1e-7, rtol=0
            )


def test_recent_frames_weigh_more_than_old_ones():
    assignment = Assignment(features=2, G=1, C=1, K=4, tau=4.0, alpha=0.5)
    assert (assignment.decay.diff() > 0).all(), "stored oldest first"
    assert float(assignment.decay[-1]) == pytest.approx(math.exp(-1 / 4))


@pytest.mark.parametrize(("C", "G"), [(1, 1), (1, 4), (4, 1), (4, 2), (3, 3), (2, 4)])
def test_the_first_frame_gives_different_workers_different_glimpses(C, G):
    assignment = Assignment(features=3, G=G, C=C, K=2, tau=4.0, alpha=0.5).eval()
    p, _ = assignment(torch.randn(1, G, 3), torch.zeros(1, 2, G, 3), torch.zeros(1, 2, G, C))
    torch.testing.assert_close(p[0], torch.softmax(assignment.first / 0.5, -1))
    for c in range(C):
        assert int(p[0, c].argmax()) == c % G
    assert assignment.first.requires_grad


def test_the_first_assignment_has_no_say_once_the_memory_holds_something():
    memory, weight = filled_memory()
    assignment = Assignment(5, 3, 2, 4, 4.0, 0.5).double().eval()
    v = torch.randn(2, 3, 5).double()
    before, _ = assignment(v, memory, weight)
    with torch.no_grad():
        assignment.first.add_(7.0 * torch.randn_like(assignment.first))
    assert torch.equal(before, assignment(v, memory, weight)[0])


@pytest.mark.parametrize("anchor", [0.0, 0.1])
def test_an_anchor_keeps_workers_apart_that_took_the_same_for_as_long_as_memory_reaches(anchor):
    memory, weight = filled_memory()
    weight[:] = weight[..., :1]
    assignment = Assignment(5, 3, 2, 4, 4.0, 0.5, anchor).double().eval()
    v = torch.randn(2, 3, 5).double()
    p, _ = assignment(v, memory, weight)
    assert torch.equal(p[:, 0], p[:, 1]) == (anchor == 0)
    # Worker c leans to glimpse c by anchor / alpha in the logits, whatever lies in the memory.
    plain = Assignment(5, 3, 2, 4, 4.0, 0.5).double().eval()
    plain.load_state_dict(assignment.state_dict())
    without, _ = plain(v, memory, weight)
    torch.testing.assert_close(p, torch.softmax(without.log() + anchor * assignment.first / 0.5, -1))
    empty = torch.zeros_like(weight)
    assert torch.equal(assignment(v, memory, empty)[0], plain(v, memory, empty)[0])


def test_what_lies_in_an_empty_slot_changes_nothing():
    memory, weight = filled_memory()
    weight[:, 0] = 0
    other = memory.clone()
    other[:, 0] = 1e3
    assignment = Assignment(5, 3, 2, 4, 4.0, 0.5).double().eval()
    v = torch.randn(2, 3, 5).double()
    assert torch.equal(assignment(v, memory, weight)[0], assignment(v, other, weight)[0])


def test_writing_appends_and_the_oldest_frame_falls_out():
    memory, weight = filled_memory()
    u, p = torch.randn(2, 3, 5).double(), torch.rand(2, 2, 3).double()
    new_memory, new_weight = write(memory, weight, u, p)
    assert torch.equal(new_memory[:, :-1], memory[:, 1:]) and torch.equal(new_memory[:, -1], u)
    assert torch.equal(new_weight[:, :-1], weight[:, 1:]) and torch.equal(
        new_weight[:, -1], p.transpose(1, 2)
    )


def test_the_memory_is_not_detached():
    model = build()
    Z, c = model.features(noise(1, 8, 64))
    Z, c = Z.detach().requires_grad_(), c.detach()
    result, _ = model.fold(Z, c)
    (gradient,) = torch.autograd.grad(result.p[:, -1].square().sum(), Z)
    assert gradient[:, 0].abs().sum() > 0, "the last assignment depends on what the first frame wrote"
