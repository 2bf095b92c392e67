# SPDX-License-Identifier: Apache-2.0
"""Detected people on disk: what is written is read again, and a row that cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.detections import (
    Box,
    Detection,
    Detections,
    check_of_these_pictures,
    from_first,
    read_csv,
    write_csv,
)
from gc_ros.stamps import NS
from trt_build.errors import DataError

HEADER = "time_s,id,x_min,y_min,x_max,y_max,score\n"
_edges = st.integers(-5000, 5000).map(lambda v: v / 4)
_boxes = st.tuples(_edges, _edges, st.integers(1, 4000), st.integers(9, 4000)).map(
    lambda e: Box(e[0], e[1], e[0] + e[2] / 4, e[1] + e[3] / 4)
)
_ids = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12).filter(
    lambda text: text.strip('"﻿') == text
)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.integers(0, 1 << 62),
        st.dictionaries(_ids, _boxes, max_size=4),
        max_size=5,
    )
)
def test_what_is_written_is_read_again_to_the_nanosecond(
    tmp_path_factory: pytest.TempPathFactory, pictures: dict[int, dict[str, Box]]
) -> None:
    file = tmp_path_factory.mktemp("boxes") / "people.csv"
    wanted = [
        Detections(stamp, tuple(Detection(name, box) for name, box in people.items()))
        for stamp, people in sorted(pictures.items())
    ]
    write_csv(file, wanted)
    assert read_csv(file) == wanted


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1.0,a,nan,0,10,10,1", "x_min: 'nan' is no number"),
        ("1.0,a,0,0,1e30,10,1", "no rectangle"),
        ("1.0,a,10,0,10,10,1", "empty"),
        ("1.0,,0,0,10,10,1", "a tracker gives ids"),
        ("1.0," + "a" * 129 + ",0,0,10,10,1", "129"),
        ("nan,a,0,0,10,10,1", "row 1"),
        ("1e30,a,0,0,10,10,1", "no time"),
        ("1e999999,a,0,0,10,10,1", "no time"),
        ("snan,a,0,0,10,10,1", "time_s: 'snan' is no number"),
        ("soon,a,0,0,10,10,1", "time_s: 'soon' is no number"),
        (",a,0,0,10,10,1", "time_s: is empty"),
        ("1.0,a,0,0,ten,10,1", "x_max: 'ten' is no number"),
        ("1.0,a,0,,10,10,1", "y_min: is empty"),
        ("1.0,a,0,0,10,10,much", "score: 'much' is no number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(HEADER + row + "\n")
    with pytest.raises(DataError, match="row 1") as caught:
        read_csv(file)
    assert said in str(caught.value)


def test_a_table_as_spreadsheets_write_it_where_commas_are_decimal(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("time_s;id;x_min;y_min;x_max;y_max;score\n0,5;a;20,5;60;80;200;0,9\n")
    assert read_csv(file) == [Detections(NS // 2, (Detection("a", Box(20.5, 60, 80, 200), 0.9),))]


@pytest.mark.parametrize("there", [False, True])
def test_a_table_that_is_none_is_not_called_badly_written(tmp_path: Path, there: bool) -> None:
    file = tmp_path / "people.csv"
    if there:
        file.mkdir()
    with pytest.raises(DataError, match="not a readable table" if there else "no such table") as caught:
        read_csv(file)
    assert "UTF-8" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("time_s,id\n1,a\n")
    with pytest.raises(DataError, match="x_min"):
        read_csv(file)


def test_rows_in_any_order_and_before_the_first_image_are_put_in_that_of_time(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    rows = ["0.5,a,0,0,10,10", "-0.25,a,0,0,10,10", "0.5,b,0,0,10,10", "0.0000000019,,,,,"]
    file.write_text("\n".join([HEADER.strip().removesuffix(",score"), *rows]))
    found = read_csv(file)
    assert [now.stamp_ns for now in found] == [-NS // 4, 2, NS // 2]
    assert [[person.id for person in now.people] for now in found] == [["a"], [], ["a", "b"]]
    assert [now.stamp_ns for now in from_first(found, 7 * NS)] == [
        7 * NS - NS // 4,
        7 * NS + 2,
        7 * NS + NS // 2,
    ]
    for time_s in ("9300000000", "-9300000000"):
        file.write_text(f"{HEADER}{time_s},a,0,0,10,10,1")
        with pytest.raises(DataError, match="is no time"):
            read_csv(file)


def test_boxes_of_larger_pictures_are_refused_and_those_of_somebody_who_leaves_are_not() -> None:
    def check(*boxes: tuple[float, float, float, float]) -> None:
        check_of_these_pictures(boxes, 200, 100, Path("t.csv"), Path("a.mp4"))

    inside, right, below = (150, 20, 190, 90), (190, 20, 230, 90), (20, 90, 60, 130)
    check(inside, right)
    check(inside, below)
    for outside in (right, below, (-90, 0, 10, 50), (0, -90, 50, 10)):
        with pytest.raises(DataError, match="made on pictures of another size"):
            check(inside, outside, outside)


@pytest.mark.parametrize(
    "rows", ["0,a,0.1,0.2,0.4,0.9\n", "0,a,0,0,1,1\n", "0,a,-0.02,0.1,1.01,1.02\n1,,,,,\n"]
)
def test_boxes_in_shares_of_the_image_are_refused(tmp_path: Path, rows: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(HEADER.replace(",score", "") + rows)
    with pytest.raises(DataError, match=r"people\.csv: no box is larger .* multiply x by its width"):
        read_csv(file)
    file.write_text(file.read_text() + "2,b,10,20,30,80\n")  # a box in pixels: so are the others
    assert read_csv(file)[-1].people[0].box == Box(10, 20, 30, 80)


def test_a_table_without_anybody_is_no_table_of_shares(tmp_path: Path) -> None:
    write_csv(tmp_path / "people.csv", [Detections(0, ())])
    assert read_csv(tmp_path / "people.csv") == [Detections(0, ())]
