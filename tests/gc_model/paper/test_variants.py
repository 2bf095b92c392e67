# SPDX-License-Identifier: Apache-2.0
"""The networks of the paper's tables: each runs, learns where it should, and streams as it sees windows."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.paper.glimpse import random_location
from gc_model.paper.presets import MODELS, Config, preset
from gc_model.paper.variants import build, for_robot
from tests.gc_model.nets import noise
from trt_build.errors import DataError

SWITCHES = [
    *({"model": m} for m in MODELS),
    {"attention": "random"},
    {"attention": "saliency"},
    {"metric_init": "random"},
    {"encoding": "concat"},
    {"global_head": True},
    {"G": 2, "C": 4},
    {"model": "glimpse_sum", "G": 4, "C": 2},
]


def network(**switches):
    torch.manual_seed(0)
    return build(preset("tiny", classes=5, **switches)).double()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_row_gives_logits_and_gradients_to_all_its_weights(switches):
    net = network(**switches)
    result = net(noise(2, 8, 64))
    assert result.logits.shape == (2, 5) and torch.isfinite(result.logits).all()
    (result.logits * torch.randn(2, 5, dtype=torch.float64)).sum().backward()
    dead = {n for n, p in net.named_parameters() if p.requires_grad and p.grad is None}
    expected = {n for n in dead if n.startswith("pose.")}
    if switches.get("attention") == "random":
        expected |= {n for n in dead if n.startswith("attention.")}
    assert dead == expected


@pytest.mark.parametrize("switches", [s for s in SWITCHES if s.get("model") != "c3d"], ids=str)
def test_every_row_but_c3d_streams_what_its_window_sees(switches):
    net = network(**switches).eval()
    clip = noise(2, 8, 64)
    with torch.no_grad():
        window = net(clip)
        chunk, _ = net.forward_chunk(clip, net.initial_state(2, streaming=True))
    assert torch.allclose(window.logits, chunk.logits, atol=1e-9)


def test_random_glimpses_are_the_clips_own_whatever_else_is_in_the_batch():
    c = torch.randn(6, 16, generator=torch.manual_seed(0), dtype=torch.float64)
    l = torch.stack([random_location(c, g) for g in range(3)], 1)
    assert torch.equal(l[2:3, 1], random_location(c[2:3], 1))
    assert len(torch.unique(l[..., 0])) == 18
    many = random_location(torch.randn(4000, 16, generator=torch.manual_seed(1), dtype=torch.float64), 0)
    assert many[:, :2].abs().max() <= 1 and many[:, 2:].min() >= 0 and many[:, 2:].max() <= 1
    assert torch.allclose(many.mean(0), torch.tensor([0, 0, 0.5, 0.5], dtype=torch.float64), atol=0.05)


def test_no_number_of_a_random_glimpse_tells_of_another():
    c = torch.randn(4000, 16, generator=torch.manual_seed(1), dtype=torch.float64)
    numbers = torch.cat([random_location(c, g) for g in range(4)], 1)
    assert torch.allclose(torch.corrcoef(numbers.T), torch.eye(16, dtype=torch.float64), atol=0.08)


def test_saliency_does_not_see_the_workers_and_learned_attention_does():
    for attention, sees in (("learned", True), ("saliency", False)):
        net = network(attention=attention).eval()
        Z, c = net.features(noise(1, 1, 64))
        state = net.initial_state(1)
        other = type(state)(**{k: v for k, v in vars(state).items() if k != "r"}, r=state.r + 1)
        (one, _), (two, _) = net.step(Z[:, 0], c[:, 0], state), net.step(Z[:, 0], c[:, 0], other)
        assert torch.equal(one.l, two.l) is not sees


def test_switches_of_d():
    assert not network(metric_trainable=False).assignment.metric.L.weight.requires_grad
    assert network().assignment.metric.L.weight.requires_grad
    L = network(metric_init="random").assignment.metric.L.weight
    assert not torch.allclose(L, torch.eye(len(L), dtype=L.dtype), atol=0.1)
    # Distances start at the size that they have of the identity.
    assert float((L @ L.T).detach().diagonal().mean()) == pytest.approx(1, abs=0.3)


def test_an_older_description_without_the_switches_is_the_papers_model():
    values = preset("tiny").to_json()
    for name in (
        "model",
        "attention",
        "metric_init",
        "metric_trainable",
        "encoding",
        "global_head",
        "c3d",
        "c3d_size",
    ):
        del values[name]
    assert Config.from_json(values).model == "clouds"
    assert Config.from_json(preset("tiny", model="c3d").to_json()) == preset("tiny", model="c3d")


@pytest.mark.parametrize(
    "wrong", [{"model": "mlp"}, {"attention": "none"}, {"model": "glimpse_tubes", "G": 2, "C": 3}]
)
def test_unknown_switches_are_refused(wrong):
    with pytest.raises(DataError):
        preset("tiny", **wrong)


@pytest.mark.parametrize(
    "switches", [{"model": "global"}, {"model": "glimpse_sum"}, {"attention": "random"}], ids=str
)
def test_a_row_of_the_tables_is_not_exported_as_a_robots_model(switches):
    with pytest.raises(DataError, match="not a model for a robot"):
        for_robot(network(**switches))
    kept = network(encoding="concat")
    assert for_robot(kept) is kept
