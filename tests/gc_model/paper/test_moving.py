# SPDX-License-Identifier: Apache-2.0
"""The context averaged over where something moves, against a plain reading of it in NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.paper import moving
from gc_model.paper.inflated import InflatedConv
from tests.gc_model.nets import build, noise


def read_in_numpy(frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """frames (T, 3, H, W), maps (T, C, h, w) -> (T, C)."""
    T, _, H, _ = frames.shape
    small = frames.mean(1).reshape(T, H // 4, 4, H // 4, 4).mean((2, 4)) / 255
    h, moved, found = maps.shape[-1], np.zeros(small.shape[1:]), []
    for t in range(T):
        moved = 0.8 * moved + (np.abs(small[t] - small[t - 1]) if t else 0)
        cells = moved.reshape(h, H // 4 // h, h, H // 4 // h).mean((1, 3))
        cells = cells / (cells.max() + 1e-3)
        weights = cells**2 + 1e-3
        found.append((maps[t] * weights / weights.sum()).sum((1, 2)))
    return np.stack(found)


def averaged(frames: "torch.Tensor", maps: "torch.Tensor") -> "torch.Tensor":
    """frames (B, T, 3, H, W), maps (B, T, C, h, w) -> (B, T, C)."""
    moved = moving.over_time(frames)
    return moving.where_it_moves(maps.flatten(0, 1), moved.flatten(0, 1)).unflatten(0, maps.shape[:2])


def test_it_is_what_the_formula_says():
    rng = np.random.default_rng(0)
    frames, maps = rng.integers(0, 256, (2, 5, 3, 64, 64), np.uint8), rng.normal(size=(2, 5, 7, 4, 4))
    found = averaged(torch.from_numpy(frames).double(), torch.from_numpy(maps))
    for one, its, theirs in zip(frames, maps, found.numpy(), strict=True):
        assert np.allclose(theirs, read_in_numpy(one, its), atol=1e-12)


def test_a_still_picture_has_the_mean_and_what_moves_has_its_place():
    maps = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 3, 1, 4, 4)
    frames = torch.full((1, 3, 3, 64, 64), 90.0)
    assert torch.allclose(averaged(frames, maps), maps.mean((3, 4)))
    moves = frames.clone()
    moves[:, 1:, :, 16:32, 48:] += 60  # the cell in row 1, column 3
    first, then, still_seen = averaged(moves, maps)[0, :, 0].tolist()
    assert first == pytest.approx(7.5)
    assert then == pytest.approx(7, abs=0.1) and still_seen == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("side", [5, 4])
def test_half_precision_holds_it(side):
    rng = np.random.default_rng(1)
    maps = torch.from_numpy(rng.normal(size=(1, 6, side, side)))
    moved = torch.from_numpy(rng.random((1, 1, 16, 16)) * 5)
    whole = moving.where_it_moves(maps, moved)
    assert torch.allclose(moving.where_it_moves(maps.half(), moved.half()).double(), whole, atol=5e-3)
    faint = moving.where_it_moves(maps.half(), moved.half() * 1e-4)
    assert torch.isfinite(faint).all()


def test_a_stream_embeds_the_frames_as_a_window_does():
    model, clip = build(), noise(2, 6, 64)
    maps = model.maps(clip)
    window = model.embedding(clip, maps, *model.features_of(maps))
    assert window.shape == (2, 6, model.embedding_size)
    state, found = model.initial_state(2, streaming=True), []
    for frame in clip.unbind(1):
        _, state, e = model.stream_and_embed(frame, state)
        found.append(e)
    assert torch.allclose(torch.stack(found, 1), window, atol=1e-5)


def test_frames_that_lie_elsewhere_than_the_network_are_embedded_where_it_is(monkeypatch):
    """`meta` stands for a GPU: it, too, refuses to mix with the CPU, where frames come from."""
    # It asks for values, of which meta has none.
    monkeypatch.setattr(InflatedConv, "sees_one_frame", lambda _: False)
    model, clip = build().to("meta"), noise(2, 6, 64)
    maps = model.maps(clip)
    assert model.embedding(clip, maps, *model.features_of(maps)).is_meta
    _, state, e = model.stream_and_embed(clip[:, 0], model.initial_state(2, streaming=True))
    assert e.is_meta and all(value.is_meta for value in state.named().values())
