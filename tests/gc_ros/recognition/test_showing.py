# SPDX-License-Identifier: Apache-2.0
"""What a running recogniser is shown: which windows make a clip, and which frames are its pictures."""

from __future__ import annotations

import numpy as np
import pytest

from gc_ros.media.clips import find_recordings
from gc_ros.recognition import showing as showing_module
from gc_ros.recognition.intake import StepFrame
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.showing import Showing, examples_from_clips
from gc_ros.stamps import NS
from tests.gc_ros.evaluation.bag_files import write_bag
from tests.toy import toy_bundle
from trt_build.bundle import load_bundle
from trt_build.engines.open import open_engine
from trt_build.errors import DataError

FEATURES = np.zeros(9, np.float32)


def frame(stamp_s: float) -> StepFrame:
    return StepFrame(round(stamp_s * NS), np.full((4, 4, 3), round(8 * stamp_s), np.uint8), 0.0)


def seen(*windows: tuple[float, float]) -> Showing:
    """A showing of windows from and to a second, with a picture every eighth of a second from 0 to 10."""
    showing = Showing("x", 100, gap_s=0.5, keep=lambda: True)
    for i in range(81):
        showing.see_frame(frame(i / 8))
    for i, (start, end) in enumerate(windows):
        showing.see(FEATURES + i, round(start * NS), round(end * NS))
    return showing


def test_windows_without_a_pause_between_them_are_one_clip_however_seldom_results_come() -> None:
    assert [len(p) for p in seen((0, 1), (1.125, 2.125), (2.25, 3.25)).pictures()] == [27]
    assert [len(p) for p in seen((0, 1), (0.5, 1.5), (3, 4), (1, 2)).pictures()] == [13, 9, 9]


def test_windows_that_overlap_by_more_than_half_say_nothing_new() -> None:
    assert seen((0, 1), (0.125, 1.125), (0.5, 1.5)).taken == 2


def test_pictures_are_those_of_the_windows_and_no_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    (clip,) = seen((1, 2)).pictures()
    assert clip[:, 0, 0, 0].tolist() == list(range(8, 17))
    monkeypatch.setattr(showing_module, "MOST", 12)
    (clip,) = seen((1, 2)).pictures()
    assert clip[:, 0, 0, 0].tolist() == [8, 9, 10, 11]


def test_what_goes_on_without_a_pause_is_clips_of_three_windows_and_no_more_than_were_asked_for() -> None:
    shown = seen(*((i / 2, i / 2 + 1) for i in range(7)), (8, 9)).examples()
    assert np.bincount(shown.clips).tolist() == [3, 3, 1, 1]
    showing = Showing("x", 2, gap_s=0.5)
    for i in range(81):
        showing.see_frame(frame(i / 8))
    for i in range(4):
        showing.see(FEATURES + i, i * NS, (i + 1) * NS)
    assert showing.complete and showing.examples().features[:, 0].tolist() == [0, 1]


def test_the_windows_of_a_long_clip_are_spread_over_all_of_it(tmp_path) -> None:
    bundle = toy_bundle(
        tmp_path / "bundle", "colours", S=32, preprocess={"size": 32, "resize": 32}, embedding=True
    )
    write_bag(tmp_path / "bag", [("red", 5.0), ("green", 5.0), ("blue", 5.0)])
    engine = open_engine(bundle, "window", threads=1)
    shown = examples_from_clips(find_recordings([tmp_path / "bag"]), bundle, engine, "window").features
    assert shown[:, :3].argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_window_that_began_before_the_showing_is_none_of_it() -> None:
    showing = Showing("x", 100, gap_s=0.5, keep=lambda: True)
    for i in range(8, 24):  # from the first second on
        showing.see_frame(frame(i / 8))
    for start in (0.875, 1, 0.5, 2):
        showing.see(FEATURES + start, round(start * NS), round((start + 0.875) * NS))
    assert showing.taken == 2 and [len(clip) for clip in showing.pictures()] == [16]
    assert np.array_equal(showing.examples().features, [FEATURES + 1, FEATURES + 2])


def test_frames_are_kept_only_where_that_was_asked_for() -> None:
    showing = Showing("x", 100, gap_s=0.5)
    for i in range(16):
        showing.see_frame(frame(i / 8))
    showing.see(FEATURES, 0, NS)
    assert showing.taken == 1 and not showing.pictures()


def test_frames_are_kept_from_when_and_until_that_is_asked_for() -> None:
    asked = iter([False] * 4 + [True] * 6 + [False] * 6)
    showing = Showing("x", 100, gap_s=0.5, keep=lambda: next(asked))
    for i in range(16):
        showing.see_frame(frame(i / 8))
    showing.see(FEATURES, 0, 15 * NS // 8)
    (clip,) = showing.pictures()
    assert clip[:, 0, 0, 0].tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("back_s", [0.0, 1 / 16, 1.5])
def test_a_clip_holds_the_frames_of_its_own_time_where_stamps_go_back(back_s: float) -> None:
    showing = Showing("x", 100, gap_s=0.5, keep=lambda: True)
    for value, begin in ((10, 2.0), (20, 2.0 + back_s)):
        for i in range(16):
            stamp_ns = round((begin + i / 8) * NS)
            showing.see_frame(StepFrame(stamp_ns, np.full((4, 4, 3), value + i, np.uint8), 0.0))
        showing.see(FEATURES, round(begin * NS), round((begin + 0.875) * NS))
        showing.see(FEATURES, round((begin + 1) * NS), round((begin + 1.875) * NS))
    assert showing.taken == 4
    assert [clip[:, 0, 0, 0].tolist() for clip in showing.pictures()] == [
        list(range(10, 26)),
        list(range(20, 36)),
    ]


@pytest.mark.parametrize("mode", ["window", "step"])
def test_what_follows_a_break_in_a_clip_with_whole_windows_is_no_still_window(tmp_path, mode) -> None:
    """Only a clip that has no window at all stands still at its end."""
    bundle = toy_bundle(
        tmp_path / "bundle", "colours", S=32, preprocess={"size": 32, "resize": 32}, embedding=True
    )
    engine = open_engine(bundle, mode, threads=1)
    for name, pieces in (("broken", [("red", 4.0), ("gap", 2.0), ("blue", 0.1)]), ("short", [("blue", 0.1)])):
        write_bag(tmp_path / name, pieces)
        shown = examples_from_clips(find_recordings([tmp_path / name]), bundle, engine, mode).features
        blue = shown[:, 2] > shown[:, 0]
        assert blue.all() if name == "short" else not blue.any(), name


def test_without_a_window_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="no whole window was seen"):
        seen().examples()


@pytest.mark.parametrize("mode", ["window", "step"])
def test_who_watches_a_recogniser_sees_the_frames_that_come_and_none_from_before(tmp_path, mode) -> None:
    bundle = load_bundle(toy_bundle(tmp_path / "b", "colours", embedding=True).path)
    recognizer = Recognizer(bundle, open_engine(bundle, mode, threads=1), mode=mode)
    stamps: list[int] = []
    for i in range(20):
        if i == 12:
            recognizer.watch(lambda frame: stamps.append(frame.stamp_ns))
        if i == 16:
            recognizer.watch(None)
        recognizer.push(np.zeros((8, 8, 3), np.uint8), round(i * NS / bundle.info.rate_hz))
    recognizer.close()
    assert stamps == [round(i * NS / bundle.info.rate_hz) for i in range(12, 16)]
