# SPDX-License-Identifier: Apache-2.0
"""The figures of glimpses and workers against boxes and shares counted by hand."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install -e '.[train]'")

from gc_model.training.alive import AWAKE, awake, figures, pairwise_iou, table, worker_distance


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


@pytest.mark.parametrize(
    ("glimpses", "workers", "without"),
    [
        (1, 1, {"iou", "max_p", "worker_distance"}),
        (1, 3, {"iou", "max_p", "worker_distance"}),
        (3, 1, {"worker_distance"}),
        (3, 3, set()),
    ],
)
def test_a_figure_of_what_a_network_does_not_have_is_left_out(glimpses: int, workers: int, without: set[str]):
    """With one glimpse each worker takes all of it, which is no choice."""
    found = figures(torch.rand(2, 8, glimpses, 4), torch.full((2, 8, workers, glimpses), 1 / glimpses))
    assert set(found) == AWAKE.keys() - without
    rows = table({"figures": found})
    assert len(rows) == len(found)


def test_the_figures_of_clips_are_those_written_out():
    rng = np.random.default_rng(2)
    l = rng.uniform(0.1, 0.6, (4, 8, 3, 4))
    p = rng.dirichlet(np.ones(3), (4, 8, 2))  # two workers, three glimpses
    l[:, :, :, 0] += np.array([-0.5, 0.0, 0.5])  # each glimpse round a place of its own, which is no movement
    found = figures(torch.tensor(l), torch.tensor(p))
    assert found["share"] == pytest.approx((l[..., 2] * l[..., 3]).mean())
    moves = [np.sqrt(((at - at.mean()) ** 2).mean()) for at in l[..., :2].reshape(32, 6).T]
    assert found["moves"] == pytest.approx(np.mean(moves))
    assert found["max_p"] == pytest.approx(p[:, 1:].max(-1).mean())
    apart = np.abs(p[:, 1:, 0] - p[:, 1:, 1]).sum(-1) / 2
    assert found["worker_distance"] == pytest.approx(apart.mean())


@pytest.mark.parametrize("name, side, bound", [(name, *of) for name, of in AWAKE.items()])
def test_a_figure_at_its_bound_is_awake_and_one_beyond_it_asleep(name, side, bound):
    beyond = 1e-6 if side == "at most" else -1e-6
    assert awake(name, bound) and awake(name, bound - beyond) and not awake(name, bound + beyond)


def verdicts(**measured) -> dict[str, tuple[str, str]]:
    """Measured and verdict of the rows beside the figures, by what they are about."""
    return {what: (value, verdict) for what, value, _, verdict in table({"figures": {}} | measured)}


def test_glimpses_see_people_if_they_are_nearer_than_both_the_middle_and_anywhere():
    for near, verdict in ((0.1, "awake"), (0.25, "asleep"), (0.4, "asleep")):
        ((value, said),) = verdicts(glimpses=near, middle=0.2, anywhere=0.3).values()
        assert said == verdict and value == f"{100 * near:.1f} % (middle 20.0, random 30.0)"


def test_places_matter_if_two_points_are_lost_without_them_and_clouds_are_better_by_any():
    found = verdicts(accuracy={"learned": 0.6, "whole": 0.57, "random": 0.59, "beside": 0.6})
    assert [value.partition(" ")[0] for value, _ in found.values()] == ["+3.0", "+1.0", "+0.0"]
    assert [verdict for _, verdict in found.values()] == ["awake", "asleep", "asleep"]
    worse = verdicts(accuracy={"learned": 0.5, "whole": 0.6, "beside": 0.49})
    assert [(v.partition(" ")[0], verdict) for v, verdict in worse.values()] == [
        ("-10.0", "asleep"),
        ("+1.0", "awake"),
    ]
