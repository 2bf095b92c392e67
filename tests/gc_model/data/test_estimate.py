# SPDX-License-Identifier: Apache-2.0
"""`gc-model joints`, with a stand-in for MediaPipe that sees a coloured patch as a hand: its models are not installed
here, since its requirements are older than the other tools'.
"""

import importlib.util
import json
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gc_model.cli import app
from gc_model.data.estimate import KINDS
from gc_model.data.joint_tables import joint_names, mirrored_joints, read_table, table_of, write_table
from gc_ros.media.detections import boxes_of, read_csv
from tests.command_line import assert_one_line, call
from tests.videos import flat, write_clip

# One landmark model for hands and body: a red patch is a hand or person, whose points all lie in its middle.
MEDIAPIPE = """
    from types import SimpleNamespace as S
    import numpy as np

    __version__ = "0.10.14"
    opened = 0

    class Tool:
        def __init__(self, max_num_hands=1, min_detection_confidence=0.5, min_tracking_confidence=0.5):
            assert min_detection_confidence == 0.3
            self.closed = False

        def process(self, image):
            assert not self.closed and image.dtype == np.uint8 and min(image.shape[:2]) >= 360
            red = (image[..., 0] > 150) & (image[..., 1] < 100)
            if not red.any():
                return S(multi_hand_landmarks=None, multi_handedness=None, pose_landmarks=None)
            y, x = (float(v.mean()) for v in np.nonzero(red))
            h, w = red.shape
            mark = S(x=(x + 0.5) / w, y=(y + 0.5) / h, visibility=0.9)
            hidden = S(x=0.0, y=0.0, visibility=0.1)
            return S(
                multi_hand_landmarks=[S(landmark=[mark] * 21)] * 2,
                multi_handedness=[S(classification=[S(label="Right")])] * 2,
                pose_landmarks=S(landmark=[mark] * 31 + [hidden] * 2),
            )

        def close(self):
            self.closed = True

    solutions = S(hands=S(Hands=Tool), pose=S(Pose=Tool))
"""


@pytest.fixture
def mediapipe(tmp_path, monkeypatch):
    """The stand-in, importable here and in the processes that work."""
    place = tmp_path / "site"
    (place / "mediapipe").mkdir(parents=True)
    (place / "mediapipe" / "__init__.py").write_text(textwrap.dedent(MEDIAPIPE))
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    yield place
    sys.modules.pop("mediapipe", None)


@pytest.fixture
def clips(tmp_path) -> Path:
    """wave/a.mp4, whose patch walks 4 pixels a frame to the right and is gone in frame 3; still/b.mp4 without one."""
    images = []
    for t in range(6):
        image = flat((40, 160, 40))
        if t != 3:
            image[16:32, 8 + 4 * t : 24 + 4 * t] = (230, 20, 20)
        images.append(image)
    for name, frames in (("wave/a.mp4", images), ("still/b.mp4", [flat((40, 160, 40))] * 3)):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True)
        write_clip(path, frames, fps=4)
    return tmp_path / "clips"


def test_every_frame_has_its_joints_in_pixels_of_the_clip(mediapipe, clips, tmp_path):
    done = call(app, "joints", clips, "--out", tmp_path / "j", "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["clips"], result["made"], result["kept"]) == (2, 2, 0)
    assert result["empty"] == ["still/b.mp4"] and result["seen"] == pytest.approx(5 / 9)
    table = table_of(tmp_path / "j", "wave/a.mp4")
    assert len(joint_names(table)) == 21 and joint_names(table)[:2] == ("wrist", "thumb_1")
    joints, size = read_table(table)
    assert list(size) == [64, 48] and joints.shape[0] == 6
    assert np.isnan(joints[3]).all() and np.isnan(joints[:, :, 21:]).all()
    for t in (0, 1, 2, 4, 5):  # both hands are of one side: told apart all the same
        for hand in (0, 1):
            np.testing.assert_allclose(
                joints[t, hand, :21] * [64, 48], np.full((21, 2), (16 + 4 * t, 24)), atol=1
            )


def test_a_body_has_25_joints_whose_sides_are_known_and_what_is_hidden_is_unknown(mediapipe, clips, tmp_path):
    done = call(app, "joints", clips, "--out", tmp_path / "j", "--what", "body", "--workers", 1)
    assert done.exit_code == 0, done.output
    table = table_of(tmp_path / "j", "wave/a.mp4")
    names = joint_names(table)
    assert len(names) == 25 and "left_wrist" in names
    mirror = mirrored_joints(names)
    assert mirror[names.index("left_wrist")] == names.index("right_wrist") and mirror[0] == 0
    joints, _ = read_table(table)
    unknown = {n for i, n in enumerate(names) if np.isnan(joints[0, 0, i]).all()}
    assert unknown == {"left_foot", "right_foot"} and np.isnan(joints[:, 1]).all()


def test_the_same_command_goes_on_and_names_what_does_not_decode(mediapipe, clips, tmp_path):
    kept = table_of(tmp_path / "j", "wave/a.mp4")
    write_table(kept, ("wrist",), (64, 48), [])
    before = kept.read_bytes()
    (clips / "still" / "c.mp4").write_bytes(b"no video")
    done = call(app, "joints", clips, "--out", tmp_path / "j", "--workers", 1)
    assert done.exit_code == 0 and "no joints of still/c.mp4" in done.stderr
    assert "3 clips: 1 made, 1 there before, 1 damaged" in done.stdout
    assert kept.read_bytes() == before and not table_of(tmp_path / "j", "still/c.mp4").exists()


@pytest.mark.parametrize("version", ["absent", "without models"])
def test_without_the_estimator_the_remedy_is_named(mediapipe, clips, tmp_path, version):
    package = mediapipe / "mediapipe"
    if version == "absent":
        shutil.rmtree(package)
        if importlib.util.find_spec("mediapipe"):
            pytest.skip("MediaPipe is installed here")
    else:
        (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    done = call(app, "joints", clips, "--out", tmp_path / "j")
    assert_one_line(done, "python3 -m pip install 'mediapipe>=0.10.14,<=0.10.21'", "another estimator")


def test_an_unknown_kind_is_named(clips, tmp_path):
    done = call(app, "joints", clips, "--out", tmp_path / "j", "--what", "feet")
    assert_one_line(done, 'unknown joints "feet"', "hands or body")


def joints_and_boxes(clips, folder, *more):
    ask = ("--out", folder / "j", "--what", "body", "--boxes", folder / "b", "--workers", 1)
    return call(app, "joints", clips, *ask, *more)


@pytest.mark.slow
def test_boxes_of_people_are_made_of_joints_and_followed(mediapipe, clips, tmp_path):
    done = joints_and_boxes(clips, tmp_path)
    assert done.exit_code == 0, done.output
    assert "boxes of 2 clips made" in done.stdout
    # All joints of the stand-in lie in one place: no box has an extent, and nobody is found.
    assert all(not now.people for now in read_csv(boxes_of(tmp_path / "b", "wave/a.mp4")))
    # A better table: two bodies that change their numbers from frame to frame, and the second leaves.
    names, shape = (
        ("head", "left_hand", "right_hand", "left_foot", "right_foot"),
        np.array([(10, 2), (2, 15), (18, 15), (5, 40), (15, 40)], float),
    )
    rows = [
        (t, body, shape + ((t, 0) if (body + t) % 2 == 0 else (40 - t, 4)))
        for t in range(6)
        for body in (0, 1)
        if (body + t) % 2 == 0 or t < 4
    ]
    write_table(table_of(tmp_path / "j", "wave/a.mp4"), names, (64, 48), rows)
    boxes_of(tmp_path / "b", "wave/a.mp4").unlink()
    sys.modules.pop("mediapipe", None)
    shutil.rmtree(mediapipe)  # where the joints are there, no estimator is needed
    again = joints_and_boxes(clips, tmp_path, "--json")
    assert again.exit_code == 0, again.output
    assert (json.loads(again.stdout)["made"], json.loads(again.stdout)["boxes"]) == (0, 1)
    found = read_csv(boxes_of(tmp_path / "b", "wave/a.mp4"))
    assert [now.stamp_ns for now in found] == [t * 250_000_000 for t in range(6)]
    assert [sorted(p.id for p in now.people) for now in found] == [["1", "2"]] * 4 + [["1"]] * 2
    for t, now in enumerate(found):
        first = next(p.box for p in now.people if p.id == "1")
        assert first.x_min == pytest.approx(2 + t - 0.03 * 38, abs=0.01) and first.x_max < 22 + t


@pytest.mark.parametrize("there, asked", [("hands", "body"), ("body", "hands")])
def test_joints_of_the_other_kind_are_refused_before_any_is_made(mediapipe, clips, tmp_path, there, asked):
    table = table_of(tmp_path / "j", "wave/a.mp4")
    write_table(table, KINDS[there], (64, 48), [])
    for more in ((), ("--boxes", tmp_path / "b")) if asked == "body" else ((),):
        done = call(app, "joints", clips, "--out", tmp_path / "j", "--what", asked, *more)
        assert_one_line(done, f"{table} holds joints of {there}, not of {asked}", "another --out")
    assert not table_of(tmp_path / "j", "still/b.mp4").exists() and not (tmp_path / "b").exists()


def test_boxes_are_of_people_and_not_of_hands(clips, tmp_path):
    done = call(app, "joints", clips, "--out", tmp_path / "j", "--boxes", tmp_path / "b")
    assert_one_line(done, "--what body")


def test_no_share_of_frames_is_told_where_no_table_was_made(mediapipe, clips, tmp_path):
    for name in ("wave/a.mp4", "still/b.mp4"):
        write_table(table_of(tmp_path / "j", name), KINDS["hands"], (64, 48), [])
    done = call(app, "joints", clips, "--out", tmp_path / "j")
    assert f"2 clips: 0 made, 2 there before, 0 damaged: {tmp_path / 'j'}" in done.stdout
    assert json.loads(call(app, "joints", clips, "--out", tmp_path / "j", "--json").stdout)["seen"] is None
