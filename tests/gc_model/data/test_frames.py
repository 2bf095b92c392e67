# SPDX-License-Identifier: Apache-2.0
"""Decoded frames are the robot's own, thinned by time; the cache keeps them whole or not at all."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gc_model.data import frames as frames_module
from gc_model.data.clip import LabelledClip, PersonSource, SeenPeople
from gc_model.data.frames import CacheError, FrameCache, decode
from gc_ros.media.video import read_video
from tests.gc_model.runs import COLOURS, coloured, colours, undecodable
from tests.videos import truncated, write_clip
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.pool import processes
from trt_build.preprocess import model_input

SMALL = Preprocess(size=64, resize=72)


def test_decoded_frames_are_the_robots_own_whose_centre_is_its_input():
    path = colours() / "red" / "red0.mp4"
    frames = decode(path, SMALL, max_fps=1e9)
    seen = [
        (model_input(image, SMALL.model_copy(update={"size": 72}), bgr=False), t)
        for image, t in read_video(path)
    ]
    assert frames.images.shape == (20, 72, 72, 3)
    assert np.array_equal(frames.images, np.stack([image for image, _ in seen]))
    assert np.allclose(frames.times, np.arange(20) / 4)


@pytest.mark.parametrize("fps, expected", [(30, 12), (24, 12), (12, 12), (4, 4), (25, 12)])
def test_frames_are_thinned_to_max_fps_by_time(tmp_path, fps, expected):
    path = write_clip(tmp_path / "c.mp4", coloured(0, (9, 9, 9), 2 * fps), fps=fps)
    times = decode(path, SMALL, max_fps=12.0).times
    assert abs(len(times) - 2 * expected) <= 1
    assert np.diff(times).min() > 0.5 / 12


def test_frames_of_a_varying_rate_are_thinned_by_their_own_times(tmp_path):
    pts = [*range(0, 30), *range(30, 90, 15)]  # one second at 30 fps, then two at 2 fps
    path = write_clip(tmp_path / "c.mp4", coloured(0, (9, 9, 9), len(pts)), fps=30, pts=pts)
    times = decode(path, SMALL, max_fps=10.0).times
    assert (times < 0.99).sum() == 10 and (times >= 0.99).sum() == 4


def at(*seconds: float):
    """A reader of pictures that come at these times."""
    image = np.full((48, 64, 3), 90, np.uint8)
    return lambda _: ((image, round(t * 1e9)) for t in seconds)


def test_a_clip_of_the_largest_rate_keeps_every_frame_and_none_is_made_up_for_behind_a_gap(tmp_path):
    for fps in (12, 15, 29.97):
        read = at(*(k / fps for k in range(100)))
        assert decode(tmp_path, SMALL, fps, read).numbers.tolist() == list(range(100))
    gap = [*np.arange(0, 1, 0.02), *np.arange(5, 6, 0.02)]
    times = decode(tmp_path, SMALL, 10.0, at(*gap)).times
    # The first behind the gap, which came late, and one more.
    assert (times < 5).sum() == 10 and 10 <= (times >= 5).sum() <= 11


def cache_in(folder: Path, **changes) -> FrameCache:
    return FrameCache(folder, **({"preprocess": SMALL} | changes))


def red(i: int = 0) -> LabelledClip:
    return LabelledClip(colours() / "red" / f"red{i}.mp4", f"red/red{i}.mp4", "red")


def test_the_cache_gives_what_decoding_gives_and_decodes_once(tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    first, plain = cache.read(red()), decode(red().path, SMALL, 12.0)
    monkeypatch.setattr(frames_module, "decode", None)
    again = cache.read(red())
    for frames in (first, again):
        assert np.array_equal(frames.images, plain.images) and np.allclose(
            frames.times, plain.times, atol=1e-6
        )


def test_another_fit_rate_size_or_file_is_another_entry(tmp_path):
    clip = LabelledClip(shutil.copy(red().path, tmp_path / "c.mp4"), "c.mp4", "red")
    cache = cache_in(tmp_path)
    entries = {
        cache._entry(clip),
        cache_in(tmp_path, preprocess=SMALL.model_copy(update={"fit": "square"}))._entry(clip),
        cache_in(tmp_path, preprocess=Preprocess(size=64, resize=80))._entry(clip),
        cache_in(tmp_path, max_fps=6.0)._entry(clip),
    }
    write_clip(tmp_path / "c.mp4", coloured(1, COLOURS["red"], 20), fps=4)
    entries.add(cache._entry(clip))
    assert len(entries) == 5


def test_a_clip_or_boxes_that_were_made_again_are_others_under_the_same_names(tmp_path):
    clips = [red(0), red(1), replace(red(2), people=(person(tmp_path / "boxes.csv"),))]
    clips[1] = replace(clips[1], path=Path(shutil.copy(clips[1].path, tmp_path / "red1.mp4")))
    cache = cache_in(tmp_path / "cache")
    (tmp_path / "boxes.csv").touch()
    before = cache.identities(clips)
    assert cache.identities(clips) == before and len(set(before)) == 3
    (tmp_path / "boxes.csv").write_text("others")
    boxed = cache.identities(clips)
    assert [a == b for a, b in zip(before, boxed, strict=True)] == [True, True, False]
    shutil.copy(red(3).path, clips[1].path)
    filmed = cache.identities(clips)
    assert [a == b for a, b in zip(boxed, filmed, strict=True)] == [True, False, True]
    clips[1].path.unlink()
    assert cache.identities(clips)[1] != filmed[1]
    # Boxes of the same size, and the person at another time.
    os.utime(tmp_path / "boxes.csv", ns=(1, 1))
    assert (later := cache.identities(clips))[2] != filmed[2]
    spans = [replace(clips[2].people[0], span_s=span) for span in ((0.0, 1.0), (1.0, 2.0))]
    parts = cache.identities([replace(clips[2], people=(p,)) for p in spans])
    assert len({later[2], *parts}) == 3


def person(boxes: Path) -> PersonSource:
    return PersonSource(boxes, "1", 0.1, lambda _: SeenPeople([]))


def test_frames_change_with_the_fit(tmp_path):
    stretch = cache_in(tmp_path).read(red()).images
    pad = cache_in(tmp_path, preprocess=SMALL.model_copy(update={"fit": "pad"})).read(red()).images
    assert (pad[:, 0] == 124).all() and not (stretch[:, 0] == 124).all()


def test_an_entry_counts_only_when_it_is_whole(tmp_path, monkeypatch):
    cache = cache_in(tmp_path / "cache")
    monkeypatch.setattr(frames_module.json, "dumps", lambda _: 1 / 0)  # killed between the two files
    with pytest.raises(ZeroDivisionError):
        cache.read(red())
    monkeypatch.undo()
    assert cache._load(cache._entry(red())) is None
    assert len(cache.read(red()).images) == 20


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "not closed"])
def test_a_damaged_entry_is_decoded_again(tmp_path, suffix, damage):
    cache = cache_in(tmp_path)
    images = np.array(cache.read(red()).images)
    file = cache._entry(red()).with_suffix(suffix)
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        half = data[: len(data) // 2]
        file.write_bytes({"half": half, "empty": b"", "not closed": data.replace(b"}", b"{", 1)}[damage])
    assert np.array_equal(cache.read(red()).images, images)


def test_a_clip_that_does_not_decode_is_named(tmp_path):
    cache = cache_in(tmp_path / "cache")
    broken = undecodable(tmp_path / "red" / "broken.mp4")
    half = truncated(red().path, tmp_path / "red" / "half.mp4", 0.5)
    (tmp_path / "red" / "empty.mp4").touch()
    for path in (broken, half, tmp_path / "red" / "empty.mp4", tmp_path / "red" / "gone.mp4"):
        with pytest.raises(DataError, match=path.name):
            cache.read(LabelledClip(path, path.name, "red"))
    assert not list((tmp_path / "cache").glob("*.json"))


def test_filling_leaves_out_what_fails_with_its_reason_and_keeps_the_rest(tmp_path):
    cache = cache_in(tmp_path / "cache")
    broken, gone = undecodable(tmp_path / "b.mp4"), tmp_path / "gone.mp4"
    clips = [red(0), LabelledClip(broken, "b", "red"), red(1), LabelledClip(gone, "gone", "red")]
    failed = cache.fill(clips, workers=1, progress=False)
    assert set(failed) == {"b", "gone"} and "b.mp4" in failed["b"] and "gone.mp4" in failed["gone"]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert cache.fill([red(0), red(1)], workers=1, progress=False) == {}


def test_after_an_interruption_what_waits_is_not_begun(tmp_path):
    with pytest.raises(KeyboardInterrupt), processes(1, 100) as pool:
        jobs = [pool.submit(time.sleep, 1.0) for _ in range(100)]
        jobs[0].result()
        raise KeyboardInterrupt
    deadline = time.monotonic() + 60
    while not all(job.done() for job in jobs):  # `wait` takes cancelled ones for pending
        assert time.monotonic() < deadline, [job._state for job in jobs]
        time.sleep(0.05)
    assert sum(job.cancelled() for job in jobs) > 90


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_clip(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match="writable"):
        cache_in(tmp_path / "cache").read(red())
