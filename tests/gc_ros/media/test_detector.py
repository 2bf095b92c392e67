# SPDX-License-Identifier: Apache-2.0
"""Detectors in ONNX: people are found where they stand in the picture, in every layout; other files are refused."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gc_ros.media.detections import Box
from gc_ros.media.detector import Detector, Finder
from gc_ros.media.yolo import letterbox
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


def constant(path: Path, value: np.ndarray, **others: Any) -> Path:
    """A network whose output is always `value`."""
    tensor = numpy_helper.from_array(value.astype(np.float32), "value")
    return write_model(
        path, [helper.make_node("Constant", [], ["out"], value=tensor)], {"out": value.shape}, **others
    )


def cells_of(width: int, height: int) -> np.ndarray:
    """x, y and stride of every cell of three resolutions, (N, 3)."""
    return np.array(
        [(x, y, s) for s in (8, 16, 32) for y in range(height // s) for x in range(width // s)], float
    )


# Centre, size, and how much it is a person or a bicycle, in pixels of an input of 96 x 64.
PLACES = np.array(
    [
        (80, 40, 10, 20, 0.6, 0.0),
        (20, 30, 10, 20, 0.9, 0.1),
        (21, 30, 10, 20, 1.5, 0.1),  # no score, but networks round
        (50, 30, 10, 20, 0.7, 0.8),
        (60, 50, 10, 20, 0.05, 0.0),
    ]
)


def output_of(layout: str) -> np.ndarray:
    """PLACES in one of the layouts. Where something is there at all is a score of its own: half of what it is."""
    if layout == "columns":
        return np.pad(PLACES, ((0, 4), (0, 0))).T[None]
    cells = cells_of(96, 64)
    middle = (cells[:, :2] + 0.5) * cells[:, 2:]
    rows = np.zeros((len(cells), 7))
    rows[:, :2], rows[:, 2:4] = middle, cells[:, 2:]
    some = np.arange(len(PLACES)) * 30
    rows[some, :4], rows[some, 4], rows[some, 5:] = PLACES[:, :4], 0.5, PLACES[:, 4:] * 2
    if layout == "YOLOv5":
        return np.concatenate([np.zeros((2 * len(cells), 7)), rows])[None]
    if layout == "YOLOv6":
        rows[:, 4], rows[some, 5:] = 1, PLACES[:, 4:]
    if layout == "YOLOX in cells":
        rows[:, :2] = rows[:, :2] / cells[:, 2:] - cells[:, :2]
        rows[:, 2:4] = np.log(rows[:, 2:4] / cells[:, 2:])
    return rows[None]


@pytest.mark.parametrize("layout", ["columns", "YOLOv5", "YOLOv6", "YOLOX", "YOLOX in cells"])
def test_of_all_places_the_people_are_given_once_each_the_surest_first(tmp_path: Path, layout: str) -> None:
    file = constant(tmp_path / "x.onnx", output_of(layout), image=(1, 3, 64, 96), metadata={"names": COCO})
    found = Detector(file)(np.zeros((128, 192, 3), np.uint8))
    assert [([round(side, 3) for side in astuple(box)], round(score, 6)) for box, score in found] == [
        ([32, 40, 52, 80], 1.0),
        ([150, 60, 170, 100], 0.6),
    ]


@pytest.mark.parametrize(
    ("rows", "place", "full", "score", "seen"),
    [
        (189, (1, 1, 0, 0), 255, 0.8, (4.167, 4.167, 12.5, 12.5)),  # YOLOX, in cells
        (3 * 189, (48, 48, 8, 8), 1, 114 / 255, (45.833, 20.833, 54.167, 29.167)),  # YOLOv5
    ],
)
def test_yolox_sees_the_picture_in_the_upper_left_corner_blue_first_and_up_to_255(
    tmp_path: Path, rows: int, place: tuple[float, ...], full: float, score: float, seen: tuple[float, ...]
) -> None:
    """Each toy takes the first value of its input, of `full`, for the score of a person."""
    places, where = np.zeros((1, rows, 6), np.float32), np.zeros((1, rows, 6), np.float32)
    places[0, 0, :5] = *place, 1
    where[0, 0, 5] = 1
    make = helper.make_node
    nodes = [
        make("Slice", ["images", "begin", "end"], ["corner"]),
        make("Reshape", ["corner", "row"], ["blue"]),
        make("Div", ["blue", "full"], ["score"]),
        make("Mul", ["where", "score"], ["sure"]),
        make("Add", ["places", "sure"], ["out"]),
    ]
    constants = {"begin": np.zeros(4, np.int64), "end": np.ones(4, np.int64), "row": np.ones(3, np.int64)}
    constants |= {"full": np.array(full, np.float32), "where": where, "places": places}
    file = write_model(tmp_path / "x.onnx", nodes, {"out": (1, rows, 6)}, constants=constants)
    ((box, found),) = Detector(file)(np.full((50, 100, 3), (51, 102, 204), np.uint8))
    assert found == pytest.approx(score, abs=1e-5) and astuple(box) == pytest.approx(seen, abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 191, 85), r"\(1, 191, 85\); needs \(1, 4 \+ classes, N\)"),  # 189 cells, or 190 with those of 64
        (
            (1, 25200, 85),
            r"\(1, 25200, 85\); needs \(1, 4 \+ classes, N\)",
        ),  # YOLOv5 of 640 x 640, not of 96 x 96
        ((2, 84, 100), "needs"),
        ((1, 84), "needs"),
        ((1, 4, 100), "needs"),
    ],
)
def test_other_outputs_are_refused_when_the_file_is_opened(
    tmp_path: Path, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        Detector(constant(tmp_path / "x.onnx", np.zeros(shape)))


def test_what_shows_only_when_it_runs_is_refused_when_the_file_is_opened_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.zeros((1, 300, 7), np.float32), "value")
    nodes = [helper.make_node("Constant", [], ["out"], value=value)]
    write_model(tmp_path / "x.onnx", nodes, {"out": ("batch", "n", "m")})
    with pytest.raises(DataError, match=r"\(1, 300, 7\)"):
        Detector(tmp_path / "x.onnx")
    file = write_model(
        tmp_path / "y.onnx",
        [helper.make_node("Reshape", ["images", "seven"], ["out"])],
        {"out": (1, 7, "n")},
        image=(1, 3, "h", "w"),
        constants={"seven": np.array([1, 7, -1], np.int64)},
    )
    with pytest.raises(DataError, match="not an ONNX file that runs") as error:
        Detector(file)
    assert "\n" not in str(error.value)
    few = constant(tmp_path / "few.onnx", np.zeros((1, 189, 6)), metadata={"names": str(["cat", "person"])})
    with pytest.raises(DataError, match="1 classes, and people are number 1"):
        Detector(few)(np.zeros((8, 8, 3), np.uint8))


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
