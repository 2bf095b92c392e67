# SPDX-License-Identifier: Apache-2.0
"""Detected people on disk: what is written is read again, and a row that cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media.detections import Box, Detection, Detections, read_csv, write_csv
from trt_build.errors import DataError

HEADER = "time_s,id,x_min,y_min,x_max,y_max,score\n"
_edges = st.integers(-5000, 5000).map(lambda v: v / 4)
_boxes = st.tuples(_edges, _edges, st.integers(1, 4000), st.integers(1, 4000)).map(
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
        ("1.0,a,nan,0,10,10,1", "no rectangle"),
        ("1.0,a,0,0,1e30,10,1", "no rectangle"),
        ("1.0,a,10,0,10,10,1", "empty"),
        ("1.0,,0,0,10,10,1", "a tracker gives ids"),
        ("1.0," + "a" * 129 + ",0,0,10,10,1", "129"),
        ("nan,a,0,0,10,10,1", "row 1"),
        ("1e30,a,0,0,10,10,1", "no time"),
        ("soon,a,0,0,10,10,1", "row 1"),
        ("1.0,a,0,0,ten,10,1", "ten"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(HEADER + row + "\n")
    with pytest.raises(DataError, match="row 1") as caught:
        read_csv(file)
    assert said in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("time_s,id\n1,a\n")
    with pytest.raises(DataError, match="x_min"):
        read_csv(file)
