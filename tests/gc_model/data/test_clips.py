# SPDX-License-Identifier: Apache-2.0
"""The index of labelled clips, the validation split, and the cache of decoded frames."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from gc_model.data import frames as clips_module
from gc_model.data.frames import (
    CacheError,
    Clip,
    FrameCache,
    decode,
    index_clips,
    labels_of,
    split_validation,
)
from gc_ros.media.video import read_video
from tests.gc_model.runs import COLOURS, coloured, colours, undecodable
from tests.videos import truncated, write_clip
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.preprocess import model_input

SMALL = Preprocess(size=64, resize=72)


def table(folder: Path, rows: list[list[str]]) -> Path:
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "clips.csv"


def test_the_first_folder_below_the_root_is_the_class_and_other_files_are_not_clips(tmp_path):
    for name in ("wave/b.MP4", "wave/a.avi", "clap/c.mov", "clap/notes.txt", "d.mp4", "wave/deep/e.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = index_clips(tmp_path)
    assert [(c.name, c.label) for c in found] == [
        ("clap/c.mov", "clap"),
        ("wave/a.avi", "wave"),
        ("wave/b.MP4", "wave"),
        ("wave/deep/e.mp4", "wave"),
    ]
    assert labels_of(found) == ["clap", "wave"]


def test_a_csv_gives_classes_and_subjects_by_itself_or_from_its_folder():
    by_folder, by_file = index_clips(colours()), index_clips(colours() / "clips.csv")
    assert by_folder == by_file and len(by_folder) == 12
    assert {c.subject for c in by_file} == {"a", "b"} and all(c.path.is_file() for c in by_file)


def test_a_csv_with_a_byte_order_mark_and_more_columns_is_read(tmp_path):
    (tmp_path / "x.mp4").touch()
    (tmp_path / "clips.csv").write_text("\ufeffpath,class,fps,note\nx.mp4,wave,30,\n", encoding="utf-8")
    assert index_clips(tmp_path)[0].label == "wave"


def test_filters_choose_subjects_and_classes():
    chosen = index_clips(colours(), subjects=["b"], classes=["red", "blue"])
    assert {(c.subject, c.label) for c in chosen} == {("b", "red"), ("b", "blue")} and len(chosen) == 4


@pytest.mark.parametrize(
    "filters, words",
    [({"subjects": ["a", "zoe"]}, ["subject", "zoe", "a, b"]), ({"classes": ["pink"]}, ["pink", "red"])],
)
def test_an_unknown_subject_or_class_is_named_beside_those_there_are(filters, words):
    with pytest.raises(DataError) as error:
        index_clips(colours(), **filters)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([["path", "class"], ["gone.mp4", "wave"], ["x.mp4", "wave"]], ["gone.mp4", "1 of 2"]),
        ([["file", "label"], ["x.mp4", "wave"]], ["path", "class", "file, label"]),
        ([["path", "class"], ["x.mp4", ""]], ["row 1", "class"]),
        ([["path", "class"], ["x.mp4"]], ["row 1"]),
        ([["path", "class"], ["x.mp4", "wave"], ["x.mp4", "clap"]], ["x.mp4", "once"]),
        ([["path", "class"]], ["no clips"]),
        ([], ["path", "class"]),
    ],
)
def test_a_csv_that_is_wrong_is_one_line_that_says_where(tmp_path, rows, words):
    (tmp_path / "x.mp4").touch()
    with pytest.raises(DataError) as error:
        index_clips(table(tmp_path, rows))
    assert all(word in str(error.value) for word in words)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        index_clips(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no clips"):
        index_clips(tmp_path)
    with pytest.raises(DataError, match="CSV"):
        index_clips(write_clip(tmp_path / "one.mp4", coloured(0, (1, 2, 3), 2)))


def test_the_validation_split_depends_on_names_alone_and_never_moves():
    def clip(name: str, folder: str = "/data") -> Clip:
        return Clip(Path(folder) / name, name, "wave")

    many = [clip(f"wave/{i:04d}.mp4") for i in range(2000)]
    training, validation = split_validation(many, 0.05)
    assert len(training) + len(validation) == 2000 and 60 < len(validation) < 140
    _, elsewhere = split_validation([clip(c.name, "/elsewhere") for c in reversed(many[:500])], 0.05)
    assert {c.name for c in elsewhere} == {c.name for c in validation} & {c.name for c in many[:500]}
    # Written down: another hash would move clips between training and validation of runs that exist.
    assert [c.name for c in validation[:3]] == ["wave/0000.mp4", "wave/0041.mp4", "wave/0046.mp4"]
    assert split_validation(many, 0.0) == (many, [])


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


def cache_in(folder: Path, **changes) -> FrameCache:
    return FrameCache(folder, **({"preprocess": SMALL} | changes))


def red(i: int = 0) -> Clip:
    return Clip(colours() / "red" / f"red{i}.mp4", f"red/red{i}.mp4", "red")


def test_the_cache_gives_what_decoding_gives_and_decodes_once(tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    first, plain = cache.read(red()), decode(red().path, SMALL, 12.0)
    monkeypatch.setattr(clips_module, "decode", None)
    again = cache.read(red())
    for frames in (first, again):
        assert np.array_equal(frames.images, plain.images) and np.allclose(
            frames.times, plain.times, atol=1e-6
        )


def test_another_fit_rate_size_or_file_is_another_entry(tmp_path):
    clip = Clip(shutil.copy(red().path, tmp_path / "c.mp4"), "c.mp4", "red")
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


def test_frames_change_with_the_fit(tmp_path):
    stretch = cache_in(tmp_path).read(red()).images
    pad = cache_in(tmp_path, preprocess=SMALL.model_copy(update={"fit": "pad"})).read(red()).images
    assert (pad[:, 0] == 124).all() and not (stretch[:, 0] == 124).all()


def test_an_entry_counts_only_when_it_is_whole(tmp_path, monkeypatch):
    cache = cache_in(tmp_path / "cache")
    monkeypatch.setattr(clips_module.json, "dumps", lambda _: 1 / 0)  # killed between the two files
    with pytest.raises(ZeroDivisionError):
        cache.read(red())
    monkeypatch.undo()
    assert cache._load(cache._entry(red())) is None
    assert len(cache.read(red()).images) == 20


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_a_damaged_entry_is_decoded_again(tmp_path, suffix, damage):
    cache = cache_in(tmp_path)
    images = np.array(cache.read(red()).images)
    file = cache._entry(red()).with_suffix(suffix)
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "half" else b"")
    assert np.array_equal(cache.read(red()).images, images)


def test_a_clip_that_does_not_decode_is_named(tmp_path):
    cache = cache_in(tmp_path / "cache")
    broken = undecodable(tmp_path / "red" / "broken.mp4")
    half = truncated(red().path, tmp_path / "red" / "half.mp4", 0.5)
    (tmp_path / "red" / "empty.mp4").touch()
    for path in (broken, half, tmp_path / "red" / "empty.mp4", tmp_path / "red" / "gone.mp4"):
        with pytest.raises(DataError, match=path.name):
            cache.read(Clip(path, path.name, "red"))
    assert not list((tmp_path / "cache").glob("*.json"))


def test_filling_leaves_out_what_fails_with_its_reason_and_keeps_the_rest(tmp_path):
    cache = cache_in(tmp_path / "cache")
    broken, gone = undecodable(tmp_path / "b.mp4"), tmp_path / "gone.mp4"
    clips = [red(0), Clip(broken, "b", "red"), red(1), Clip(gone, "gone", "red")]
    failed = cache.fill(clips, workers=1, progress=False)
    assert set(failed) == {"b", "gone"} and "b.mp4" in failed["b"] and "gone.mp4" in failed["gone"]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert cache.fill([red(0), red(1)], workers=1, progress=False) == {}


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_clip(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match="writable"):
        cache_in(tmp_path / "cache").read(red())
