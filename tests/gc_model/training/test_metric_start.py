# SPDX-License-Identifier: Apache-2.0
"""The start of D: L whitens the glimpse features it saw, and the min-max constants are of its distances."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.training.metric_start import (
    _distances,
    _glimpses,
    shrunk_covariance,
    standardise_trunk,
    start_metric,
)
from tests.gc_model.nets import build, noise


def clips(n: int = 6) -> list:
    return [noise(2, 8, 64, seed=i) for i in range(n)]


@pytest.mark.slow
def test_D_is_the_inverse_of_the_shrunk_covariance_of_v():
    model = build()
    features = [model.features(clip) for clip in clips()]
    with torch.no_grad():
        v = torch.cat([_glimpses(model, Z, c).flatten(0, 2) for Z, c in features])
    assert v.shape == (6 * 2 * 8 * 3, model.trunk.channels)
    found = start_metric(model, map(model.features, clips()))
    L = model.assignment.metric.L.weight.detach()
    covariance, rho = shrunk_covariance(v)
    assert torch.allclose(L.T @ L @ covariance, torch.eye(len(L), dtype=L.dtype), atol=1e-6)
    assert torch.allclose(L, L.T, atol=1e-9)  # the symmetric root
    assert found["samples"] == len(v) and found["shrinkage"] == pytest.approx(rho)


def test_projected_features_are_white_where_samples_abound():
    g = torch.manual_seed(0)
    mix = torch.randn(5, 5, generator=g, dtype=torch.float64)
    v = torch.randn(40_000, 5, generator=g, dtype=torch.float64) @ mix.T
    covariance, rho = shrunk_covariance(v)
    assert rho < 0.01 and torch.allclose(covariance, mix @ mix.T, atol=0.3)


def test_few_samples_of_many_features_still_give_an_invertible_covariance():
    covariance, rho = shrunk_covariance(torch.randn(4, 50, generator=torch.manual_seed(0)).double())
    assert 0 < rho <= 1 and torch.linalg.eigvalsh(covariance).min() > 1e-6
    still, _ = shrunk_covariance(torch.zeros(10, 5).double())  # a black video
    assert torch.isfinite(still).all() and torch.linalg.eigvalsh(still).min() > 0


def test_shrinkage_is_the_published_formula():
    v = torch.randn(20, 4, generator=torch.manual_seed(1)).double() * torch.tensor([1.0, 2.0, 3.0, 4.0])
    S = torch.cov(v.T, correction=0)
    n, p, trace, square = 20, 4, S.trace(), (S @ S).trace()
    rho = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    covariance, found = shrunk_covariance(v)
    assert found == pytest.approx(min(1.0, float(rho)))
    assert torch.allclose(covariance, (1 - found) * S + found * trace / p * torch.eye(4).double())


@pytest.mark.slow
def test_the_min_max_constants_are_the_tails_of_the_distances_under_the_new_L():
    model = build()
    start_metric(model, map(model.features, clips()))
    metric = model.assignment.metric
    found = float(metric.phi_min), float(metric.phi_max)
    # What is seen reads r, which p moves a little: distances are of the constants that were in use.
    metric.phi_min.copy_(build().assignment.metric.phi_min)
    metric.phi_max.copy_(build().assignment.metric.phi_max)
    with torch.no_grad():
        d = torch.cat([_distances(model, *model.features(clip)) for clip in clips()])
    low, high = torch.quantile(d, torch.tensor([0.01, 0.99], dtype=d.dtype))
    assert found == pytest.approx((float(low), float(high))) and 0 < found[0] < found[1]


def test_distances_are_those_of_every_glimpse_to_all_of_the_frames_before_it():
    model, G = build(), 3
    with torch.no_grad():
        Z, c = model.features(noise(2, 8, 64))
        u = model.assignment.metric.L(_glimpses(model, Z, c))  # (B, T, G, D)
        found = _distances(model, Z, c)
        by_hand = [
            ((u[b, t, g] - u[b, k, j]).square().mean() + 1e-6).sqrt()
            for t in range(1, 8) for b in range(2) for g in range(G) for k in range(t) for j in range(G)
        ]  # fmt: skip
    assert len(found) == len(by_hand) == 2 * G * G * 28
    torch.testing.assert_close(found, torch.stack(by_hand))


@pytest.mark.slow
def test_the_start_of_D_is_deterministic_and_moves_nothing_else():
    one, other, before = build(), build(), build()
    assert start_metric(one, map(one.features, clips())) == start_metric(other, map(other.features, clips()))
    changed = {k for k, v in one.state_dict().items() if not torch.equal(v, before.state_dict()[k])}
    assert changed == {f"assignment.metric.{k}" for k in ("L.weight", "phi_min", "phi_max")}
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.slow
def test_a_trunk_that_ends_in_batch_norm_gives_standardised_channels_and_the_same_pictures():
    model = build("edge", size=64, resize=72).double().eval()
    batches = [noise(2, 8, 64, seed=i) for i in range(3)]
    with torch.no_grad():
        before = torch.cat([model.features(clip)[0] for clip in batches])
        names = set(model.state_dict())
        assert standardise_trunk(model, batches)
        after = torch.cat([model.features(clip)[0] for clip in batches])
    pooled, old = after.mean((-2, -1)).flatten(0, 1), before.mean((-2, -1)).flatten(0, 1)
    seen = old.std(0) > 2e-3  # a channel that never moves keeps its size
    assert torch.allclose(pooled.mean(0), torch.zeros(()).double(), atol=1e-6)
    assert torch.allclose(pooled.std(0, correction=0)[seen], torch.ones(()).double(), atol=1e-6)
    assert set(model.state_dict()) == names  # nothing was added that the robot would have to compute
    mean, deviation = old.mean(0)[:, None, None], old.std(0, correction=0).clamp_min(1e-3)[:, None, None]
    assert torch.allclose(after, (before - mean) / deviation, atol=1e-8)


def test_a_trunk_that_ends_in_a_sum_and_an_activation_is_left_as_it_is():
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert not standardise_trunk(model, clips(2))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
