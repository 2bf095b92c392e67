# SPDX-License-Identifier: Apache-2.0
"""Joints of one's own clips: tables, what of them reaches the losses, and errors that name file, line and remedy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gc_model.data.joint_tables import joint_names, mirrored_joints, read_table, table_of, write_table
from trt_build.errors import DataError

NAMES = ("nose", "left_wrist", "right_wrist")
HEADER = "frame,body,width,height,nose_x,nose_y,left_wrist_x,left_wrist_y,right_wrist_x,right_wrist_y"


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@given(
    arrays(np.float64, (4, 3, 2), elements=st.one_of(st.floats(-50, 400), st.just(np.nan))),
    st.lists(st.integers(0, 9), min_size=4, max_size=4, unique=True),
)
def test_what_is_written_is_read_back_as_fractions(tmp_path_factory, points, frames):
    path = tmp_path_factory.mktemp("t") / "deep" / "a.joints.csv"
    write_table(path, NAMES, (320, 180), [(f, f % 2, p) for f, p in zip(frames, points, strict=True)])
    joints, size = read_table(path)
    assert joint_names(path) == NAMES and list(size) == [320, 180]
    assert joints.shape == (max(frames) + 1, 2, 25, 2)
    for f, p in zip(frames, points, strict=True):
        np.testing.assert_allclose(joints[f, f % 2, :3] * [320, 180], p, atol=0.006)
        assert np.isnan(joints[f, 1 - f % 2]).all() and np.isnan(joints[f, :, 3:]).all()
    for f in set(range(max(frames) + 1)) - set(frames):
        assert np.isnan(joints[f]).all()


def test_a_table_of_nobody_has_no_frames(tmp_path):
    write_table(tmp_path / "a.joints.csv", NAMES, (64, 48), [])
    assert len(read_table(tmp_path / "a.joints.csv")[0]) == 0


def test_the_table_of_a_clip_lies_where_the_clip_does_below_its_folder():
    assert table_of(Path("j"), "wave/anna_1.mp4") == Path("j/wave/anna_1.joints.csv")
    assert table_of(Path("j"), "wave/anna.v2.mp4") == Path("j/wave/anna.v2.joints.csv")


def test_a_mirror_swaps_the_sides_and_nothing_else():
    assert mirrored_joints(NAMES) == (0, 2, 1, *range(3, 25))
    assert mirrored_joints(("wrist", "thumb")) == tuple(range(25))
    with pytest.raises(DataError, match=r'"left_wrist" has no "right_wrist"'):
        mirrored_joints(("left_wrist",))


@pytest.mark.parametrize(
    "line, words",
    [
        ("0,0,64,48,1,2,3,4,5", r":2: 5 coordinates of 3 joints"),
        ("0,2,64,48,1,2,3,4,5,6", r":2: .*body 2.*bodies are 0 and 1"),
        ("-1,0,64,48,1,2,3,4,5,6", r":2: frame -1"),
        ("0,0,0,48,1,2,3,4,5,6", r":2: .*0x48"),
        ("0,0,64,48,1,2,x,4,5,6", r":2: .*'x'.*write the table again"),
        ("0,0,64,48", r":2: 0 coordinates"),
        ("zero,0,64,48,1,2,3,4,5,6", r":2: .*'zero'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, words):
    with pytest.raises(DataError, match=words):
        read_table(text(tmp_path / "a.joints.csv", line))


def test_two_sizes_in_a_clip_are_refused(tmp_path):
    path = text(tmp_path / "a.joints.csv", "0,0,64,48,1,2,3,4,5,6", "1,0,48,64,1,2,3,4,5,6")
    with pytest.raises(DataError, match=r":3: 48x64 after .*one size"):
        read_table(path)


@pytest.mark.parametrize(
    "header",
    ["", "frame,body,width,height", "frame,body,width,height,a_x", "frame,body,width,height,a_y,a_x", "a,b,c",
     "frame,body,width,height,a_x,a_y,a_x,a_y",
     "frame,body,width,height," + ",".join(f"j{i}_x,j{i}_y" for i in range(26))],
)  # fmt: skip
def test_other_columns_are_refused_with_those_that_are_needed(tmp_path, header):
    path = tmp_path / "a.joints.csv"
    path.write_text(header + "\n")
    with pytest.raises(DataError, match="needs the columns frame,body,width,height and NAME_x,NAME_y"):
        joint_names(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.joints.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match="not a readable CSV"):
        joint_names(tmp_path / "a.joints.csv")


def test_rows_without_a_cell_are_passed_over(tmp_path):
    path = text(
        tmp_path / "a.joints.csv", "0,0,64,48,32,2,3,4,5,6", "", ",,,,,,,,,", "2,0,64,48,1,2,3,4,5,6", "", ""
    )
    joints, _ = read_table(path)
    assert len(joints) == 3 and joints[0, 0, 0, 0] == 0.5 and np.isnan(joints[1]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", ["inf", "-inf", "nan", "1e39", "-1e300"])
def test_what_is_no_place_is_a_joint_that_was_not_seen(tmp_path, cell):
    joints, _ = read_table(text(tmp_path / "a.joints.csv", f"0,0,64,48,{cell},12,3,4,5,6"))
    assert np.isnan(joints[0, 0, 0, 0]) and joints[0, 0, 0, 1] == 0.25
    write_table(tmp_path / "b.joints.csv", NAMES, (64, 48), [(0, 0, np.full((3, 2), float(cell)))])
    assert np.isnan(read_table(tmp_path / "b.joints.csv")[0]).all()


@pytest.mark.parametrize("damage", [b"0,0,64,48,1,2,3,4,5,\xff\n", b'0,0,64,48,"' + b"1" * 200_000 + b'"\n'])
def test_a_row_that_is_no_text_is_one_line_with_the_file(tmp_path, damage):
    path = tmp_path / "a.joints.csv"
    write_table(path, NAMES, (64, 48), [(t, 0, np.ones((3, 2))) for t in range(1000)])
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(DataError, match=r"a\.joints\.csv: not a readable CSV") as error:
        read_table(path)
    assert "\n" not in str(error.value)


def test_a_picture_larger_than_any_is_refused(tmp_path):
    with pytest.raises(DataError, match=r":2: frame 0"):
        read_table(text(tmp_path / "a.joints.csv", f"0,0,{10**400},48,1,2,3,4,5,6"))
