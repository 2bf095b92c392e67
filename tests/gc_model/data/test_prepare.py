# SPDX-License-Identifier: Apache-2.0
"""`gc-model prepare`: rescales once, resumes, keeps damage countable."""

import errno
import functools
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import prepare as module
from gc_model.data.datasets import index
from gc_model.data.frames import CacheError
from gc_model.data.prepare import Rescaling, prepare, rescale
from gc_ros.media.video import read_video
from tests.gc_model.runs import coloured, coloured_clips, ntu_people
from tests.videos import truncated
from trt_build.bundle import Preprocess
from trt_build.errors import DataError


@pytest.mark.slow
def test_preparing_rescales_resumes_and_keeps_damage_countable(tmp_path):
    data, out = tmp_path / "ntu", tmp_path / "small"
    shutil.copytree(ntu_people(), data)
    victim = sorted((data / "nturgb+d_rgb").glob("*P003*"))[0]
    truncated(victim, tmp_path / "half.avi", 0.6)
    shutil.move(tmp_path / "half.avi", victim)
    name = victim.name.removesuffix("_rgb.avi")
    result = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert result["clips"] == result["made"] == 12 and list(result["damaged"]) == [name]
    clips = index("ntu", out)
    assert [(c.name, c.label) for c in clips] == [(c.name, c.label) for c in index("ntu", data)]
    for before, after in zip(index("ntu", data), clips, strict=True):
        if before.name != name:
            a, b = list(read_video(before.path)), list(read_video(after.path))
            assert b[0][0].shape == (48, 48, 3) and [t for _, t in a] == [t for _, t in b]
        assert after.joints.file.read_bytes() == before.joints.file.read_bytes()
    clips[3].path.unlink()
    again = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert (again["made"], again["kept"], list(again["damaged"])) == (1, 11, [name])
    with pytest.raises(DataError, match="another size"):
        prepare(data, out, layout="ntu", size=64, progress=False)


def test_a_folder_of_another_data_set_is_left_alone(tmp_path):
    """Neither clips of the same names are kept as the new ones, nor is the table replaced."""
    first = coloured_clips(tmp_path / "first", per_class=1, frames=4)
    out = tmp_path / "out"
    prepare(first, out, size=48, workers=1, progress=False)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for name in ("same_names", "other_names"):
        other = coloured_clips(tmp_path / name, per_class=1, frames=6)
        if name == "other_names":
            for clip in other.glob("*/*0.mp4"):
                clip.rename(clip.with_stem("new"))
            table = (other / "clips.csv").read_text()
            for label in ("red", "green", "blue"):
                table = table.replace(f"{label}0", "new")
            (other / "clips.csv").write_text(table)
        with pytest.raises(DataError, match=r"out holds clips of .*first.*choose another folder"):
            prepare(other, out, size=48, workers=1, progress=False)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_data_that_were_moved_are_the_same_and_a_clip_filmed_again_is_made_again(tmp_path):
    data, out = coloured_clips(tmp_path / "data", per_class=1, frames=4), tmp_path / "out"
    prepare(data, out, size=48, workers=1, progress=False)
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    shutil.rmtree(data)
    assert prepare(moved, out, size=48, workers=1, progress=False)["kept"] == 3
    # By its table the same data, too.
    assert prepare(moved / "clips.csv", out, size=48, workers=1, progress=False)["kept"] == 3
    longer = coloured_clips(tmp_path / "longer", per_class=1, frames=9)
    shutil.copy(longer / "red" / "red0.mp4", moved / "red" / "red0.mp4")
    (moved / "blue" / "blue0.mp4").write_bytes(b"no video")
    found = prepare(moved, out, size=48, workers=1, progress=False)
    assert (found["made"], found["kept"], list(found["damaged"])) == (2, 1, ["blue/blue0.mp4"])
    assert sum(1 for _ in read_video(out / "red" / "red0.mp4")) == 9
    shutil.copy(longer / "blue" / "blue0.mp4", moved / "blue" / "blue0.mp4")
    found = prepare(moved, out, size=48, workers=1, progress=False)
    assert (found["made"], found["damaged"]) == (1, {})


def test_a_skeleton_that_was_got_again_is_copied_and_a_clip_that_left_the_data_can_go(tmp_path):
    data, out = tmp_path / "ntu", tmp_path / "out"
    for part in ("rgb", "skeletons"):
        (data / f"nturgb+d_{part}").mkdir(parents=True)
        for file in sorted((ntu_people() / f"nturgb+d_{part}").glob("*P00[12]*A011*")):
            shutil.copy(file, data / f"nturgb+d_{part}")
    how = {"layout": "ntu", "size": 48, "workers": 1, "progress": False}
    cut, other = sorted((data / "nturgb+d_skeletons").iterdir())[:2]
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    prepare(data, out, **how)
    copy = out / "nturgb+d_skeletons" / cut.name
    assert copy.read_bytes() == cut.read_bytes()
    for damaged in (whole, whole[:-9] + b"7" + whole[-8:]):  # of another size, and of the same
        cut.write_bytes(damaged)
        found = prepare(data, out, **how)
        assert (found["made"], found["gone"]) == (0, {}) and copy.read_bytes() == cut.read_bytes()
    stays = out / "nturgb+d_skeletons" / other.name
    before = stays.stat().st_mtime_ns
    # What lies in the folder besides is somebody else's.
    (out / "notes.txt").write_text("mine")
    (out / "nturgb+d_rgb" / "S001C001P003R001A011_rgb.avi").write_bytes(b"mine")
    gone = next((data / "nturgb+d_rgb").glob(f"{cut.stem}*"))
    was = gone.read_bytes()
    gone.unlink()
    made = out / "nturgb+d_rgb" / gone.name
    for _ in range(2):  # said every time: whoever makes room for more of the data loses nothing
        found = prepare(data, out, **how)
        assert (found["clips"], found["made"], found["kept"], list(found["gone"])) == (3, 0, 3, [cut.stem])
        assert made.is_file() and copy.is_file()
    gone.write_bytes(was)
    found = prepare(data, out, **how)
    assert (found["made"], found["kept"], found["gone"]) == (0, 4, {})
    gone.unlink()
    found = prepare(data, out, prune=True, **how)
    assert (found["made"], found["kept"], found["gone"]) == (0, 3, {})
    assert not made.exists() and not copy.exists()
    assert stays.stat().st_mtime_ns == before and (out / "notes.txt").read_text() == "mine"
    assert (out / "nturgb+d_rgb" / "S001C001P003R001A011_rgb.avi").read_bytes() == b"mine"
    assert prepare(data, out, **how)["gone"] == {}


def test_a_process_that_is_killed_is_one_line_and_the_same_command_continues(tmp_path, monkeypatch):
    data = coloured_clips(tmp_path / "data", per_class=1, frames=4)
    once = tmp_path / "killed"
    monkeypatch.setattr(module, "rescale", functools.partial(killed_once, once))
    with pytest.raises(
        CacheError, match=r"was killed at work on .*: the same command with --workers 1 continues"
    ):
        prepare(data, tmp_path / "out", size=48, workers=1, progress=False)
    assert prepare(data, tmp_path / "out", size=48, workers=1, progress=False)["clips"] == 3
    assert len(list((tmp_path / "out").glob("*/*.mkv"))) + len(list((tmp_path / "out").glob("*/*.mp4"))) == 3


def killed_once(once: Path, job: Any) -> str:
    if not once.exists():
        once.touch()
        os._exit(1)
    return rescale(job)


def films(folder: Path, **rates: Fraction) -> Path:
    """folder/NAME.avi of ten frames at each rate."""
    folder.mkdir(parents=True)
    for name, rate in rates.items():
        with av.open(str(folder / f"{name}.avi"), "w") as box:
            stream = box.add_stream("mjpeg", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for image in coloured(0, (200, 40, 40), 10):
                box.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            box.mux(stream.encode(None))
    return folder


def test_a_rate_that_the_codec_cannot_count_is_kept_as_near_as_it_can(tmp_path):
    data = films(tmp_path / "d/red", usec=Fraction(1_000_000, 66_659), film=Fraction(30_000, 1001)).parent
    result = prepare(data, tmp_path / "out", size=48, workers=1, progress=False)
    assert not result["damaged"]
    for name in ("usec", "film"):
        a, b = (list(read_video(d / f"red/{name}.avi")) for d in (data, tmp_path / "out"))
        assert len(a) == len(b) == 10 and max(abs(x[1] - y[1]) for x, y in zip(a, b, strict=True)) < 1000


def test_without_h264_times_are_kept_by_a_clock_that_mpeg_4_has(tmp_path, monkeypatch):
    data = coloured_clips(tmp_path / "data", per_class=1, frames=4)
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    for clip in index("clips", data):
        fit = Preprocess(size=48, resize=48, fit="stretch")
        assert not rescale(Rescaling(clip, tmp_path / clip.name, fit))
        stamps = [[t for _, t in read_video(path)] for path in (clip.path, tmp_path / clip.name)]
        assert stamps[0] == stamps[1]


def test_a_clip_that_cannot_be_written_is_named_and_the_others_are_made(tmp_path, monkeypatch):
    data = coloured_clips(tmp_path / "data", per_class=1, frames=4)
    (bad, good, *_) = index("clips", data)
    rate = module._rate
    wrong = {bad.path: Fraction(1_000_000_007, 66_659)}
    monkeypatch.setattr(module, "_rate", lambda path, *more: wrong.get(path) or rate(path, *more))
    monkeypatch.setattr(module, "_codec", lambda _: "mpeg4")
    monkeypatch.setattr(module, "_container", lambda _: "avi")
    fit = Preprocess(size=48, resize=48, fit="stretch")
    reason = rescale(Rescaling(bad, tmp_path / "bad.avi", fit))
    assert str(bad.path) in reason and "cannot be written again" in reason and "\n" not in reason
    assert (tmp_path / "bad.avi").read_bytes() == bad.path.read_bytes()
    assert not rescale(Rescaling(good, tmp_path / "good.avi", fit))


def test_a_full_disk_is_no_damaged_clip(tmp_path, monkeypatch):
    (clip, *_) = index("clips", coloured_clips(tmp_path / "data", per_class=1, frames=4))
    monkeypatch.setattr(module, "_write_video", lambda job, part: av.error.err_check(-errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        rescale(Rescaling(clip, tmp_path / "a.mp4", Preprocess(size=48, resize=48, fit="stretch")))


def test_an_odd_size_is_refused_before_every_clip_counts_as_damaged(tmp_path):
    data = coloured_clips(tmp_path / "data", per_class=1, frames=4)
    with pytest.raises(DataError, match=r"--size 57 is odd.*give 58"):
        prepare(data, tmp_path / "out", size=57, progress=False)
    assert not (tmp_path / "out").exists()
