# SPDX-License-Identifier: Apache-2.0
"""Detectors in ONNX: people are found where they stand in the picture, in either layout; other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gc_ros.media.detections import Box
from gc_ros.media.detector import Detector, Finder, letterbox
from tests.detectors import COCO, people_picture, person_detector, write_model
from trt_build.errors import DataError


def box_of(x: int, y: int, width: int, height: int) -> Box:
    return Box(x, y, x + width, y + height)


@pytest.mark.parametrize("layout", ["columns", "end"])
@pytest.mark.parametrize("size", [(160, 160), (320, 96), (64, 200)])
def test_people_are_found_where_they_stand(tmp_path: Path, layout: str, size: tuple[int, int]) -> None:
    """The picture is larger and smaller than the input, wider and higher: the letterbox is undone."""
    detector = Detector(person_detector(tmp_path / "toy.onnx", layout))
    width, height = size
    place = (width // 4, height // 8, width // 2, height // 2)
    found = detector(people_picture(size, [place]))
    assert len(found) == 1  # one of many that overlap
    box, score = found[0]
    wanted = box_of(*place)
    pixel = max(width, height) / 96 * 2.1  # the toy's grid has 96 / 2 places a side
    for name in ("x_min", "y_min", "x_max", "y_max"):
        assert abs(getattr(box, name) - getattr(wanted, name)) <= pixel, (name, box, wanted)
    assert 0.8 < score <= 1
    assert detector(people_picture(size, [])) == []


def test_only_people_are_given(tmp_path: Path) -> None:
    """The toy says of the other half of its places that a bicycle is there, with a higher score."""
    named = person_detector(
        tmp_path / "named.onnx", "end", metadata={"names": str({0: "bicycle", 1: "person"})}
    )
    assert Detector(named)(people_picture((96, 96), [(20, 20, 40, 40)])) == []
    plain = person_detector(tmp_path / "plain.onnx", "end", metadata={})
    assert len(Detector(plain)(people_picture((96, 96), [(20, 20, 40, 40)]))) == 1
    odd = person_detector(tmp_path / "odd.onnx", "end", metadata={"names": "not a dictionary"})
    assert len(Detector(odd)(people_picture((96, 96), [(20, 20, 40, 40)]))) == 1
    with pytest.raises(DataError, match="knows no class person, but cat"):
        Detector(person_detector(tmp_path / "cats.onnx", "end", metadata={"names": str(["cat", "dog"])}))


def test_a_picture_is_scaled_with_its_aspect_and_centred_on_grey() -> None:
    image = np.full((50, 100, 3), (255, 0, 51), np.uint8)
    tensor, scale, corner = letterbox(image, (64, 64))
    assert tensor.shape == (1, 3, 64, 64) and tensor.dtype == np.float32
    assert scale == 0.64 and corner == (0, 16)
    np.testing.assert_allclose(tensor[0, :, 32, 32], (1, 0, 0.2), atol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 5, 5], 114 / 255, atol=1e-6)


def test_an_input_that_is_wider_than_high_is_filled_by_its_own_sides() -> None:
    tensor, scale, corner = letterbox(np.full((50, 100, 3), 255, np.uint8), (96, 64))
    assert tensor.shape == (1, 3, 64, 96) and scale == 0.96 and corner == (0, 8)
    tensor, scale, corner = letterbox(np.full((100, 50, 3), 255, np.uint8), (96, 64))
    assert tensor.shape == (1, 3, 64, 96) and scale == 0.64 and corner == (32, 0)
    assert letterbox(np.full((1, 2000, 3), 255, np.uint8), (96, 64))[0].max() == 1.0, "a line is not lost"


def test_of_all_places_the_people_are_given_once_each_the_surest_first(tmp_path: Path) -> None:
    places = np.zeros((1, 4 + 2, 9), np.float32)
    # centre, size, and how much it is a person or a bicycle, in pixels of an input of 96 x 64
    places[0, :, 0] = (80, 40, 10, 20, 0.6, 0.0)
    places[0, :, 1] = (20, 30, 10, 20, 0.9, 0.1)
    places[0, :, 2] = (21, 30, 10, 20, 1.5, 0.1)  # no score, but networks round
    places[0, :, 3] = (50, 30, 10, 20, 0.7, 0.8)
    places[0, :, 4] = (60, 50, 10, 20, 0.05, 0.0)
    value = numpy_helper.from_array(places, "value")
    file = write_model(
        tmp_path / "x.onnx",
        [helper.make_node("Constant", [], ["out"], value=value)],
        {"out": (1, 6, 9)},
        image=(1, 3, 64, 96),
        metadata={"names": COCO},
    )
    found = Detector(file)(np.zeros((128, 192, 3), np.uint8))
    assert [(box, round(score, 6)) for box, score in found] == [
        (Box(32, 40, 52, 80), 1.0),
        (Box(150, 60, 170, 100), 0.6),
    ]


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 25200, 85), r"\(1, 25200, 85\); needs \(1, 4 \+ classes, N\)"),  # YOLOv5
        ((2, 84, 100), "needs"),
        ((1, 84), "needs"),
        ((1, 4, 100), "needs"),
    ],
)
def test_other_outputs_are_refused_when_the_file_is_opened(
    tmp_path: Path, shape: tuple[int, ...], says: str
) -> None:
    value = numpy_helper.from_array(np.zeros(shape, np.float32), "value")
    nodes = [helper.make_node("Constant", [], ["out"], value=value)]
    write_model(tmp_path / "x.onnx", nodes, {"out": shape})
    with pytest.raises(DataError, match=says):
        Detector(tmp_path / "x.onnx")


def test_a_shape_that_shows_only_when_it_runs_is_refused_then(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.zeros((1, 300, 7), np.float32), "value")
    nodes = [helper.make_node("Constant", [], ["out"], value=value)]
    write_model(tmp_path / "x.onnx", nodes, {"out": ("batch", "n", "m")})
    with pytest.raises(DataError, match=r"\(1, 300, 7\)"):
        Detector(tmp_path / "x.onnx")(np.zeros((8, 8, 3), np.uint8))


def test_what_is_no_detector_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such detector"):
        Detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("weights")
    with pytest.raises(DataError, match="not an ONNX file that runs") as error:
        Detector(tmp_path / "text.onnx")
    assert "\n" not in str(error.value)
    value = numpy_helper.from_array(np.zeros((1, 5, 100), np.float32), "value")
    two = [helper.make_node("Constant", [], [name], value=value) for name in ("boxes", "masks")]
    write_model(tmp_path / "two.onnx", two, {"boxes": (1, 5, 100), "masks": (1, 5, 100)})
    with pytest.raises(DataError, match=r"2 outputs \(boxes, masks\)"):
        Detector(tmp_path / "two.onnx")
    write_model(tmp_path / "flat.onnx", two[:1], {"boxes": (1, 5, 100)}, image=(1, 784))
    with pytest.raises(DataError, match=r"\(1, 784\); a detector takes"):
        Detector(tmp_path / "flat.onnx")
    write_model(tmp_path / "pose.onnx", two[:1], {"boxes": (1, 5, 100)}, metadata={"task": "pose"})
    with pytest.raises(DataError, match="task pose"):
        Detector(tmp_path / "pose.onnx")


def test_nonsense_of_a_network_gives_nobody(tmp_path: Path) -> None:
    rows = np.array(
        [[[np.nan, 0, 9, 9, 0.9, 0], [5, 5, 5, 9, 0.9, 0], [9, 9, 2, 2, 0.9, 0], [0, 0, 9, 9, np.nan, 0]]]
    )
    value = numpy_helper.from_array(rows.astype(np.float32), "value")
    write_model(
        tmp_path / "x.onnx", [helper.make_node("Constant", [], ["out"], value=value)], {"out": (1, 4, 6)}
    )
    assert Detector(tmp_path / "x.onnx")(np.zeros((96, 96, 3), np.uint8)) == []


def test_half_precision_and_an_open_size(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([[[64, 64, 128, 128, 0.75, 0]]], np.float16), "value")
    nodes = [helper.make_node("Constant", [], ["out"], value=value)]
    write_model(
        tmp_path / "x.onnx", nodes, {"out": (1, 1, 6)}, image=(1, 3, "h", "w"), kind=TensorProto.FLOAT16
    )
    ((box, score),) = Detector(tmp_path / "x.onnx", threads=1)(np.zeros((320, 320, 3), np.uint8))
    assert box == Box(32, 32, 64, 64) and score == 0.75  # of 640 x 640


def test_a_person_who_walks_keeps_the_id(tmp_path: Path) -> None:
    pytest.importorskip("scipy.optimize", reason="scipy is not installed: pip install -e '.[evaluate]'")
    finder = Finder(Detector(person_detector(tmp_path / "toy.onnx", "columns")))
    ids = []
    for k in range(8):
        people = [(6 + 6 * k, 20, 16, 40)]
        found = finder(people_picture((96, 96), people), k * 100_000_000)
        assert found.stamp_ns == k * 100_000_000
        ids.append([p.id for p in found.people])
    assert ids == [["1"]] * 8
    assert onnx.load(tmp_path / "toy.onnx").metadata_props[0].value == COCO
