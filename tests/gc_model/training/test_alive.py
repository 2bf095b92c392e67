# SPDX-License-Identifier: Apache-2.0
"""The figures of glimpses and workers against boxes and shares counted by hand."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install -e '.[train]'")

from gc_model.training.alive import AWAKE, awake, figures, pairwise_iou, worker_distance


def painted(box: list[float], n: int = 400) -> np.ndarray:
    """The pixels of an n x n frame that the glimpse x, y, s^x, s^y covers."""
    x, y, sx, sy = box
    at = (np.arange(n) + 0.5) / n * 2 - 1
    return (np.abs(at - y) <= sy)[:, None] & (np.abs(at - x) <= sx)[None]


def test_iou_is_that_of_the_pixels_the_boxes_cover():
    l = torch.rand(5, 3, 4, generator=torch.manual_seed(0), dtype=torch.float64)
    l[..., :2] = l[..., :2] * 1.6 - 0.8
    for frame, found in zip(l, pairwise_iou(l), strict=True):
        masks = [painted(box.tolist()) for box in frame]
        pairs = [(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(masks, 2)]
        assert float(found) == pytest.approx(np.mean(pairs), abs=0.02)


def test_glimpses_on_one_another_over_the_whole_frame_are_asleep_in_every_figure():
    l = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 8, 3, 4)
    p = torch.full((4, 8, 3, 3), 1 / 3)
    found = figures(l, p)
    assert found == pytest.approx(
        {"iou": 1.0, "share": 1.0, "moves": 0.0, "max_p": 1 / 3, "worker_distance": 0.0}
    )
    assert not any(awake(name, value) for name, value in found.items())
    assert found.keys() == AWAKE.keys()


def test_glimpses_apart_that_move_and_workers_with_one_each_are_awake():
    rng = torch.manual_seed(1)
    l = torch.rand(20, 8, 3, 4, generator=rng) * 1.2 - 0.6
    l[..., 2:] = 0.1
    l[..., 0] += torch.tensor([-0.3, 0.0, 0.3])
    found = figures(l, torch.eye(3).expand(20, 8, 3, 3))
    assert all(awake(name, value) for name, value in found.items()), found
    assert found["worker_distance"] == pytest.approx(1.0)


def test_the_first_frame_whose_assignment_is_learned_as_a_constant_does_not_count():
    p = torch.full((2, 8, 3, 3), 1 / 3)
    p[:, 0] = torch.eye(3)
    assert figures(torch.rand(2, 8, 3, 4), p)["max_p"] == pytest.approx(1 / 3)


def test_workers_that_share_alike_are_one_worker_however_sure_they_are():
    p = torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    assert float(worker_distance(p)) == 0.0


def test_one_glimpse_and_one_worker_have_figures_too():
    found = figures(torch.rand(2, 8, 1, 4), torch.ones(2, 8, 1, 1))
    assert found["iou"] == 0.0 and found["worker_distance"] == 0.0
