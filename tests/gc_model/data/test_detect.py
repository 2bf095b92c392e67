# SPDX-License-Identifier: Apache-2.0
"""`gc-model boxes`: a toy detector finds a red person in clips, and training takes the tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gc_model.cli import app
from gc_model.data import own
from gc_model.data.people import with_boxes
from gc_ros.media.detections import boxes_of, read_csv
from tests.command_line import assert_one_line, call
from tests.detectors import people_picture, person_detector
from tests.videos import write_clip


@pytest.mark.slow
def test_people_are_found_followed_and_shown_to_training(tmp_path: Path) -> None:
    size = (96, 96)
    walk = [people_picture(size, [(6 + 6 * k, 20, 16, 40)]) for k in range(8)]
    for name, images in (("walk/a.mp4", walk), ("none/b.mp4", [people_picture(size, [])] * 8)):
        (tmp_path / "clips" / name).parent.mkdir(parents=True)
        write_clip(tmp_path / "clips" / name, images, fps=10)
    (tmp_path / "clips/walk/c.mp4").write_bytes(b"no video")
    detector = person_detector(tmp_path / "toy.onnx", "columns")
    arguments = ("boxes", tmp_path / "clips", "--detector", detector, "--out", tmp_path / "b", "--workers", 1)
    done = call(app, *arguments, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["clips"], result["made"], result["kept"], result["seen"]) == (3, 2, 0, 0.5)
    assert result["empty"] == ["none/b.mp4"] and list(result["damaged"]) == ["walk/c.mp4"]
    found = read_csv(boxes_of(tmp_path / "b", "walk/a.mp4"))
    assert [now.stamp_ns for now in found] == [k * 100_000_000 for k in range(8)]
    for k, now in enumerate(found):
        ((who, box),) = [(p.id, p.box) for p in now.people]
        assert who == "1"
        # The toy sees squares of two pixels, and video blurs colours over two.
        np.testing.assert_allclose(
            [box.x_min, box.y_min, box.x_max, box.y_max], [6 + 6 * k, 20, 22 + 6 * k, 60], atol=2.5
        )
    assert all(not now.people for now in read_csv(boxes_of(tmp_path / "b", "none/b.mp4")))
    people = {c.name: len(c.people) for c in with_boxes(own.clips(tmp_path / "clips"), tmp_path / "b", 0.15)}
    assert people == {"none/b.mp4": 0, "walk/a.mp4": 1, "walk/c.mp4": 0}
    again = call(app, *arguments)
    assert again.exit_code == 0 and "0 made, 2 there before, 1 damaged" in again.stdout
    (tmp_path / "other.onnx").write_text("none")
    assert_one_line(
        call(
            app, "boxes", tmp_path / "clips", "--detector", tmp_path / "other.onnx", "--out", tmp_path / "b2"
        ),
        "not an ONNX file",
    )
    assert not (tmp_path / "b2").exists()
