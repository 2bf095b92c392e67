# SPDX-License-Identifier: Apache-2.0
"""Pictures: the confusion matrix is a readable PNG, glimpses lie where l says, the log gets them."""

import json
import os
import stat

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

pytest.importorskip("tensorboard", reason="pip install -e '.[train]'")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gc_model.data.clip import LabelledClip
from gc_model.data.frames import decode
from gc_model.data.samples import sub_sequences
from gc_model.evaluation.report import Judged, report
from gc_model.export.torch_engine import bundle_info
from gc_model.training import checkpoint
from gc_model.training.drawing import confusion_png, glimpse_strip
from gc_model.training.options import TrainOptions
from gc_ros.recognition.palette import glimpse_colour
from tests.gc_model.runs import colours, run
from trt_build.errors import DataError


def judged(label, scores):
    return Judged(LabelledClip(None, f"{label}{scores}", label), None if scores is None else np.array(scores))


@pytest.mark.parametrize("lost", [False, True])
def test_the_confusion_matrix_is_a_picture_of_the_report(tmp_path, lost):
    found = [judged("a", [0.9, 0.1]), judged("b", [0.2, 0.8]), judged("b", None if lost else [0.7, 0.3])]
    confusion_png(report(found, ["a", "b"]), tmp_path / "c.png")
    image = cv2.imread(str(tmp_path / "c.png"))
    assert image is not None and min(image.shape[:2]) > 200 and image.std() > 5
    with pytest.raises(DataError, match="cannot be written"):
        confusion_png(report(found, ["a", "b"]), tmp_path / "none" / "c.png")


def test_a_device_gets_the_picture_and_stays_one(tmp_path):
    """/dev/null as root would be a file afterwards, and everybody's output in it."""
    pipe = tmp_path / "c.png"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        confusion_png(report([judged("a", [1, 0]), judged("b", [0, 1])], ["a", "b"]), pipe)
        assert os.read(reader, 4) == b"\x89PNG"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]


def test_the_picture_shows_who_was_taken_for_whom(tmp_path):
    for name, scores in (("right", [1, 0]), ("wrong", [0, 1])):
        confusion_png(
            report([judged("a", scores), judged("b", scores[::-1])], ["a", "b"]), tmp_path / f"{name}.png"
        )
    right, wrong = (cv2.imread(str(tmp_path / f"{n}.png")).astype(int) for n in ("right", "wrong"))
    assert right.shape == wrong.shape and np.abs(right - wrong).max() > 100


def test_glimpses_are_drawn_where_they_are_in_their_own_colour_in_their_own_frame():
    clip = np.zeros((2, 64, 64, 3), np.uint8)
    l = np.zeros((2, 2, 4))
    l[:, :, 2:] = 0.1
    l[0, 0, :2], l[0, 1, :2], l[1, 0, :2], l[1, 1, :2] = (-0.5, -0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5)
    strip = glimpse_strip(clip, l, scale=2)
    assert strip.shape == (128, 256, 3)
    for x, y, g in ((32, 32, 0), (96, 96, 1), (128 + 96, 32, 0), (128 + 32, 96, 1)):
        assert tuple(strip[y, x]) == glimpse_colour(g)
    assert not strip[64, 64].any() and not clip.any()


def test_the_box_of_a_glimpse_has_its_corners_half_extents_from_the_middle():
    strip = glimpse_strip(np.zeros((1, 64, 64, 3), np.uint8), np.array([[[0.25, -0.5, 0.5, 0.25]]]), scale=1)
    rows, columns = (np.flatnonzero((strip == glimpse_colour(0)).all(-1).any(axis)) for axis in (1, 0))
    # x 0.25 +- 0.5 and y -0.5 +- 0.25 of [-1, 1] over 64 pixels.
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (24, 56, 8, 24)


def test_cells_of_the_confusion_matrix_are_shares_of_who_was_shown(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, draw = [], Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, x, **how: drawn.append(np.asarray(x)) or draw(self, x, **how)
    )
    found = [judged("a", [0.9, 0.1])] * 3 + [judged("a", [0.1, 0.9]), judged("b", [0.2, 0.8])]
    confusion_png(report(found, ["a", "b"]), tmp_path / "c.png")
    np.testing.assert_allclose(drawn[0], [[0.75, 0.25], [0, 1]])


def test_glimpses_beyond_the_frame_are_drawn_at_its_edge_and_do_not_fail():
    l = np.tile(np.array([1.0, -1.0, 1.0, 1.0]), (1, 4, 1))
    assert glimpse_strip(np.zeros((1, 16, 16, 3), np.uint8), l).any()


@pytest.mark.slow
def test_training_logs_a_picture_of_the_glimpses_of_every_epoch(tmp_path):
    train = pytest.importorskip("gc_model.training.train", exc_type=ImportError).train
    options = TrainOptions(
        data=colours(), start=run(), preset="tiny", epochs1=0, epochs2=2, val_fraction=0.2, batch=8
    )
    train(options, tmp_path / "out", progress=False)
    board = EventAccumulator(str(tmp_path / "out" / "stage2" / "log"), size_guidance={"images": 0}).Reload()
    shown = board.Images("glimpses")
    assert [s.step for s in shown] == [0, 1] and (shown[0].width, shown[0].height) == (8 * 128, 128)
    # The weights that are kept are those of one of the two epochs: its picture is that of the model.
    model, recipe = checkpoint.load(tmp_path / "out")
    name = json.loads((tmp_path / "out" / "clips.json").read_text())["validation"][0]
    images = decode(colours() / name, bundle_info(model.config, recipe).preprocess, 12.0).images
    clip = sub_sequences(images, model.config, of=1)
    with torch.no_grad():
        l = model(clip).l[0].numpy()
    drawn = glimpse_strip(clip[0].permute(0, 2, 3, 1).numpy(), l)
    logged = [cv2.imdecode(np.frombuffer(s.encoded_image_string, np.uint8), 1)[..., ::-1] for s in shown]
    assert any(np.mean(picture != drawn) < 0.01 for picture in logged)
    assert all(np.mean(picture != drawn[:, ::-1]) > 0.1 for picture in logged)  # or anything would do
