# SPDX-License-Identifier: Apache-2.0
"""The whole network: folding over time, streaming, batches, workers, presets."""

from dataclasses import fields

import pytest
import torch

from gc_model.paper.network import State
from gc_model.paper.presets import preset
from tests.gc_model.nets import build, noise
from trt_build.errors import DataError

EXACT = {"atol": 1e-12, "rtol": 0}
SIZES = {"tiny": 64, "edge": 32, "paper": 32}


def streamed(model, clip, chunks):
    """The clip in chunks of these lengths through one carried state."""
    state = model.initial_state(clip.shape[0], streaming=True)
    results, start = [], 0
    for n in chunks:
        result, state = model.forward_chunk(clip[:, start : start + n], state)
        results.append(result)
        start += n
    assert start == clip.shape[1]
    return results, state


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SIZES])
@torch.no_grad()
def test_forward_equals_the_steps_for_every_preset(name):
    model = build(name, size=SIZES[name], resize=SIZES[name])
    clip = noise(2, 8, SIZES[name])
    whole = model(clip)
    results, _ = streamed(model, clip, [8])
    for field in fields(whole):
        torch.testing.assert_close(getattr(results[0], field.name), getattr(whole, field.name), **EXACT)


@pytest.mark.parametrize("chunks", [[1] * 8, [3, 5], [7, 1], [1, 2, 3, 2]])
@torch.no_grad()
def test_any_chunking_of_a_stream_gives_the_same_frames_and_the_same_state(chunks):
    model = build(size=64, resize=64)
    clip = noise(2, 8, 64)
    (whole,), state = streamed(model, clip, [8])
    parts, other = streamed(model, clip, chunks)
    torch.testing.assert_close(torch.cat([p.frame_logits for p in parts], 1), whole.frame_logits, **EXACT)
    torch.testing.assert_close(torch.cat([p.l for p in parts], 1), whole.l, **EXACT)
    torch.testing.assert_close(torch.cat([p.p for p in parts], 1), whole.p, **EXACT)
    for name, value in state.named().items():
        torch.testing.assert_close(other.named()[name], value, **EXACT)


@torch.no_grad()
def test_a_stream_longer_than_a_window_equals_one_long_clip():
    model = build(size=64, resize=64)
    clip = noise(1, 20, 64)
    (stream,), _ = streamed(model, clip, [20])
    torch.testing.assert_close(stream.frame_logits, model(clip).frame_logits, **EXACT)


@torch.no_grad()
def test_a_clips_result_does_not_depend_on_its_batch():
    model = build()
    clips = noise(4, 8, 64)
    together = model(clips)
    for i in range(4):
        alone = model(clips[i : i + 1])
        for field in fields(together):
            ours, theirs = getattr(alone, field.name), getattr(together, field.name)[i : i + 1]
            torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize(("C", "G"), [(1, 1), (4, 2), (2, 4), (4, 1)])
def test_workers_and_glimpses_are_independent_numbers(C, G):
    model = build(C=C, G=G)
    result = model(noise(2, 8, 64))
    assert result.l.shape == (2, 8, G, 4) and result.p.shape == (2, 8, C, G)
    result.logits.square().sum().backward()
    assert model.workers.weight_h.grad.abs().amin(0).sum() > 0


@torch.no_grad()
def test_every_worker_continues_from_its_own_state():
    """An earlier implementation updated all of them from worker 0's."""
    model = build()
    r, v = torch.randn(1, 3, 12).double(), torch.randn(1, 3, 64).double()
    before = model.workers(r, v)
    changed = r.clone()
    changed[:, 1] += 1
    after = model.workers(changed, v)
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.equal(after[:, 1], before[:, 1])


@torch.no_grad()
def test_a_frame_sees_what_the_workers_knew_one_frame_before():
    model = build()
    Z, c = model.features(noise(1, 1, 64))
    state = model.initial_state(1)
    knowing = State(**(state.named() | {"r": torch.ones_like(state.r)}))
    assert not torch.equal(
        model.step(Z[:, 0], c[:, 0], state)[0].l, model.step(Z[:, 0], c[:, 0], knowing)[0].l
    )


@torch.no_grad()
def test_attention_state_runs_on_across_frames():
    model = build()
    Z, c = model.features(noise(1, 1, 64))
    first, state = model.step(Z[:, 0], c[:, 0], model.initial_state(1))
    again, _ = model.step(Z[:, 0], c[:, 0], state)
    assert not torch.equal(first.l, again.l)


@torch.no_grad()
def test_the_readout_is_the_mean_over_workers_and_frames_or_the_last_frame():
    clip = noise(1, 8, 64)
    mean, last = build(), build(readout="last")
    torch.testing.assert_close(mean(clip).logits, mean(clip).frame_logits.mean(1), **EXACT)
    torch.testing.assert_close(last(clip).logits, last(clip).frame_logits[:, -1], **EXACT)
    r = torch.randn(1, 3, 12).double()
    mean.readout.bias.normal_()  # each worker's own
    each = [r[0, i] @ mean.readout.weight[i] + mean.readout.bias[i, 0] for i in range(3)]
    torch.testing.assert_close(mean.readout(r)[0], torch.stack(each).mean(0), **EXACT)


@torch.no_grad()
def test_the_network_is_pure():
    model = build()
    clip = noise(1, 8, 64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = model(clip).logits
    model(noise(1, 8, 64, seed=5))
    assert torch.equal(model(clip).logits, first)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_detaching_the_state_cuts_the_history_between_chunks():
    model = build(size=64, resize=64)
    clip = noise(1, 4, 64)
    _, state = model.forward_chunk(clip[:, :2], model.initial_state(1, streaming=True))
    assert state.r.requires_grad and all(c.requires_grad for c in state.caches[1:])
    assert not any(v.requires_grad for v in state.detach().named().values())


def test_states_have_names_that_come_back():
    state = build().initial_state(2, streaming=True)
    names = state.named()
    assert list(names)[:5] == ["h", "z", "r", "memory", "weight"] and "cache_00" in names
    assert State.from_named(names).named().keys() == names.keys()


def test_a_centered_network_refuses_to_stream():
    model = build(temporal="centered")
    with pytest.raises(ValueError, match="causal"):
        model.stream(noise(1, 1, 64)[:, 0], model.initial_state(1))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"G": 5}, "1..4"),
        ({"C": 0}, "1..4"),
        ({"temporal": "both"}, "causal"),
        ({"temporal": "centered", "reset_after": 0}, "whole windows"),
        ({"reset_after": 3}, "carry on"),
    ],
)
def test_impossible_configurations_are_refused(changes, remedy):
    with pytest.raises(DataError, match=remedy):
        preset("tiny", **changes)


def test_an_unknown_preset_names_those_that_exist():
    with pytest.raises(DataError, match="paper, edge, tiny"):
        preset("huge")
