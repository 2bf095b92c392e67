# SPDX-License-Identifier: Apache-2.0
"""Learning curves: what the logs say, epoch by epoch, also after an interruption, and a picture of it."""

import json

import cv2
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

pytest.importorskip("tensorboard", reason="pip install -e '.[train]'")

from torch.utils.tensorboard import SummaryWriter

from gc_model.cli import app
from gc_model.evaluation.curves import draw_curves, read_curves
from gc_model.training.options import TrainOptions
from tests.command_line import assert_one_line, call
from tests.gc_model.runs import colours, untrained
from trt_build.errors import DataError


def log(folder, epochs, loss):
    """As training logs: a step an iteration, the epoch beside every value."""
    with SummaryWriter(str(folder)) as writer:
        for epoch in epochs:
            for name, value in (("loss", loss(epoch)), ("val_accuracy", epoch / 10), ("epoch", epoch)):
                writer.add_scalar(name, value, 3 * epoch + 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    options = TrainOptions(
        data=colours(), preset="tiny", from_scratch=True, epochs1=1, epochs2=2, val_fraction=0.2
    )
    pytest.importorskip("gc_model.training.train", exc_type=ImportError).train(options, out, progress=False)
    return out


@pytest.mark.slow
def test_a_trained_run_gives_every_epoch_of_both_stages(trained):
    curves = read_curves(trained)
    assert {stage: [epoch for epoch, _ in lines["loss"]] for stage, lines in curves.items()} == {
        "stage1": [1],
        "stage2": [1, 2],
    }
    for lines in curves.values():
        assert set(lines) == {"loss", "val_loss", "accuracy", "val_accuracy"}
        assert all(0 <= value <= 1 for _, value in lines["accuracy"])


def test_an_epoch_that_a_resumed_training_ran_again_counts_once_as_it_ended(tmp_path):
    log(tmp_path / "stage1" / "log", range(3), lambda epoch: 9.0)
    log(tmp_path / "stage1" / "log", range(2, 5), lambda epoch: float(epoch))
    lines = read_curves(tmp_path)["stage1"]
    assert lines["loss"] == [(1, 9.0), (2, 9.0), (3, 2.0), (4, 3.0), (5, 4.0)]
    assert lines["val_accuracy"][-1] == (5, pytest.approx(0.4))


def test_the_picture_shows_each_run_in_its_colour(tmp_path):
    log(tmp_path / "a" / "stage2" / "log", range(5), lambda epoch: 5.0 - epoch)
    log(tmp_path / "b" / "stage2" / "log", range(5), lambda epoch: 6.0 - epoch)
    draw_curves([tmp_path / "a", tmp_path / "b"], tmp_path / "both.png")
    draw_curves([tmp_path / "a"], tmp_path / "one.png")
    both, one = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("both", "one"))
    orange = (both[..., 2] > 220) & (both[..., 1] < 170) & (both[..., 0] < 60)
    assert orange.sum() > 100
    assert not ((one[..., 2] > 220) & (one[..., 1] < 170) & (one[..., 0] < 60)).any()


def test_a_folder_without_logs_is_named(tmp_path):
    with pytest.raises(DataError, match="no logs of a training"):
        draw_curves([untrained(tmp_path / "run")], tmp_path / "c.png")


def test_the_command_prints_where_each_stage_ended(trained, tmp_path):
    result = call(app, "curves", trained, "--out", tmp_path / "c.png")
    assert result.exit_code == 0 and "stage2" in result.output and (tmp_path / "c.png").is_file()
    answer = json.loads(call(app, "curves", trained, "--out", tmp_path / "c.png", "--json").output)
    assert set(answer[str(trained)]) == {"stage1", "stage2"}
    wrong = call(app, "curves", trained, "--out", tmp_path / "none" / "c.png")
    assert_one_line(wrong, "folder that exists")
