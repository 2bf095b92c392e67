# SPDX-License-Identifier: Apache-2.0
"""N-UCLA: both layouts, protocols, clips of one frame."""

import cv2
import numpy as np
import pytest

from gc_model.data.nucla import CLASSES, Name, find, frame_files, read_pictures
from gc_model.synth import synthesize
from trt_build.errors import DataError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_both_layouts_name_the_same_clips(tmp_path):
    touch(tmp_path / "a" / "view_2" / "a01_s03_e00" / "frame_0_tc_100_rgb.jpg")
    touch(tmp_path / "b" / "multiview_action_videos" / "a01" / "v02_s03_e00.avi")
    assert find(tmp_path / "a")[0][0] == find(tmp_path / "b")[0][0] == Name(1, 3, 0, 2)


def test_classes_that_the_protocol_leaves_out_are_passed_over(tmp_path):
    for action in range(1, 13):
        touch(tmp_path / f"a{action:02}" / "v01_s01_e00.avi")
    assert tuple(name.action for name, _ in find(tmp_path)) == CLASSES


@pytest.mark.parametrize(("split", "test_view"), [("V3", 3), ("V2", 2), ("V1", 1)])
def test_each_protocol_tests_on_the_view_it_is_named_after(split, test_view):
    assert [v for v in (1, 2, 3) if not Name(1, 1, 0, v).trains(split)] == [test_view]


def test_an_unknown_protocol_is_refused():
    with pytest.raises(DataError, match="V3"):
        Name(1, 1, 0, 1).trains("V4")


def test_frames_come_in_the_order_of_their_numbers_not_of_their_names(tmp_path):
    for i in (10, 9, 100):
        touch(tmp_path / f"frame_{i}_tc_{i * 80}_rgb.jpg")
    touch(tmp_path / "frame_9_tc_720_depth.png")
    files = frame_files(tmp_path)
    assert [file.name.split("_")[1] for file, _ in files] == ["9", "10", "100"]
    assert [t for _, t in files] == sorted(t for _, t in files)


def test_a_clip_of_one_frame_is_a_clip_and_one_of_none_is_an_error(tmp_path):
    touch(tmp_path / "one" / "frame_0_tc_5_rgb.jpg")
    (tmp_path / "none").mkdir()
    assert len(frame_files(tmp_path / "one")) == 1
    with pytest.raises(DataError, match="holds no frame"):
        frame_files(tmp_path / "none")


def test_pictures_of_a_folder_are_rgb_and_twelve_a_second(tmp_path):
    red = np.full((16, 16, 3), (0, 0, 255), np.uint8)  # as BGR
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"frame_{7 * i}_tc_{i}_rgb.jpg"), red)
    images, stamps = zip(*read_pictures(tmp_path), strict=True)
    assert all(np.abs(image.astype(int) - (255, 0, 0)).max() < 5 for image in images)
    assert stamps == (0, 83_333_333, 166_666_667)


@pytest.mark.parametrize("layout", ["nucla", "nucla-frames"])
def test_the_synthetic_sets_of_both_layouts_are_found(tmp_path, layout):
    synthesize(
        tmp_path,
        layout,
        subjects=1,
        clips_per_class=1,
        size=(64, 64),
        duration_s=1.0,
        workers=1,
        progress=False,
    )
    assert len(find(tmp_path)) == len(CLASSES)
