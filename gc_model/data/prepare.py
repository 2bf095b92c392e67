# SPDX-License-Identifier: Apache-2.0
"""`gc-model prepare` rescales the videos of a data set once, so that training does not decode 1920 x 1080 every time.

Videos become R x R (the paper's 256 x 256) under their own names and in their own layout. Skeletons are copied, since
their coordinates are read as fractions of the picture. A clip that does not decode to its end is copied too: training
and evaluation on the result meet the same damage, name it and count it.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2

from gc_model.data import nucla, own
from gc_model.data.clip import LabelledClip
from gc_model.data.datasets import DATA_SETS, OWN, index
from gc_model.data.frames import CacheError
from gc_ros.media.video import cause
from gc_ros.stamps import NS
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.files import replacing, write_atomically
from trt_build.pool import killed, processes
from trt_build.preprocess import model_input

# Ticks a second: the presentation times of the original are kept. MPEG-4 has 16 bits for them.
CLOCKS = {"libx264": 90_000, "mpeg4": 60_000}
_FASTEST = 65_535


@dataclass(frozen=True)
class Rescaling:
    """One clip, the file to write, and how its frames become squares."""

    clip: LabelledClip
    target: Path
    fit: Preprocess


def prepare(
    data: Path,
    out: Path,
    *,
    layout: str = "clips",
    size: int = 256,
    fit: str = "stretch",
    workers: int | None = None,
    prune: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Rescale every clip of `data` into `out`, in parallel; what is there already of the same clip is kept.

    prune: remove what was made of clips that are no longer in `data`, which may have made room for more of them.
    Returns {"clips", "made", "kept", "gone": {name: what it was, of clips that are no longer in `data` and stay},
    "damaged": {name: reason}}, also written to OUT/prepare.json. Raises DataError, also where `out` holds clips of
    other data.
    """
    from rich.progress import track

    if layout != OWN and fit != "stretch":
        raise DataError(
            "only --fit stretch keeps the joints of a data set where they belong; leave --fit away"
        )
    if out.resolve() == _root(data).resolve():
        raise DataError(f"{out} is the data itself: give another folder")
    clips = index(layout, data)
    coded = {_codec(_container(_place(layout, c.name)[0])) for c in clips}
    if size % 2 and "libx264" in coded:
        raise DataError(f"--size {size} is odd, which H.264 does not take: give {size + 1}")
    how = Preprocess.model_validate({"size": size, "resize": size, "fit": fit})
    root, sources = str(_root(data).resolve()), {c.name: _content(c) for c in clips}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _same(out / "prepare.json", {"layout": layout, "size": size, "fit": fit})
        jobs = [Rescaling(c, out / _place(layout, c.name)[0], how) for c in clips]
        before = _state(out)
        again, gone = _changed(before, out, root, sources)
        for name in [*again, *(gone if prune else ())]:
            for old in filter(None, _place(layout, name)):
                (out / old).unlink(missing_ok=True)
        gone = {} if prune else gone
        there = sources.keys() | gone.keys()
        damaged = {n: why for n, why in before["damaged"].items() if n in there and n not in again}
        # Before any of them is made: what is there from now on is of these clips.
        _note(out, {"data": root, "sources": sources, "gone": gone, "damaged": damaged})
        _copy_tables(layout, data, out, clips)
        missing = [j for j in jobs if not j.target.is_file()]
        if missing:
            with processes(workers, len(missing)) as pool:
                running = {pool.submit(rescale, j): j for j in missing}
                for done in track(as_completed(running), "preparing", len(running), disable=not progress):
                    if problem := done.result():
                        damaged[running[done].clip.name] = problem
                        # Noted at once: a run that is killed must not forget what it found.
                        _note(out, {"damaged": damaged})
    except BrokenProcessPool:
        raise CacheError(killed(out, "the same command with --workers 1 continues")) from None
    except OSError as error:
        raise CacheError(
            f"{out} cannot be written ({error.strerror or error}): it needs room, and to be yours"
        ) from None
    kept = len(jobs) - len(missing)
    result = {"clips": len(jobs), "made": len(missing), "kept": kept, "gone": gone, "damaged": damaged}
    _note(out, result)
    return result


def rescale(job: Rescaling) -> str:
    """Write one clip, whole or not at all. Returns what is wrong with it, "" for an undamaged one."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(job.target) as part:
        try:
            _write_video(job, part)
        except (DataError, av.error.FFmpegError) as error:
            if isinstance(error, OSError):  # of the disk, not of the clip
                raise
            if job.clip.path.is_file():
                shutil.copyfile(job.clip.path, part)
            else:
                # A folder of pictures that cannot be read: an empty video cannot be read either.
                part.write_bytes(b"")
            if isinstance(error, av.error.FFmpegError):
                return f"{job.clip.path}: cannot be written again ({cause(error)})"
            return str(error)
    return ""


def _container(target: Path) -> str:
    return {".avi": "avi", ".mkv": "matroska", ".webm": "matroska"}.get(target.suffix.lower(), "mp4")


def _codec(container: str) -> str:
    # MPEG-4 in AVI, as NTU RGB+D itself: H.264 there would come back a frame late.
    return "libx264" if container != "avi" and "libx264" in av.codecs_available else "mpeg4"


def _write_video(job: Rescaling, part: Path) -> None:
    kind = _container(job.target)
    codec = _codec(kind)
    tick = Fraction(1, CLOCKS[codec])
    # AVI knows no times of single frames, so its frames keep their number and the file its mean rate.
    frames = job.clip.read(job.clip.path)
    first, second = next(frames), next(frames, None)
    with av.open(str(part), "w", format=kind) as box:
        rate = _rate(job.clip.path, first[1], second[1] if second else None)
        stream: Any = box.add_stream(codec, rate=rate)
        stream.width = stream.height = job.fit.size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        else:
            stream.codec_context.qmin = stream.codec_context.qmax = 3
        timed = kind != "avi"
        if timed:
            stream.codec_context.time_base = tick
        for number, (image, stamp) in enumerate(_chain(first, second, frames)):
            picture = av.VideoFrame.from_ndarray(model_input(image, job.fit, bgr=False), format="rgb24")
            if timed:
                picture.pts, picture.time_base = round((stamp - first[1]) / NS / tick), tick
            else:
                picture.pts, picture.time_base = number, 1 / rate
            box.mux(stream.encode(picture))
        box.mux(stream.encode(None))


def _rate(path: Path, first: int, second: int | None) -> Fraction:
    """Frames a second, as the codec can count their times: to a microsecond in an hour, what the file says."""
    least = Fraction(1, _FASTEST)
    interval = 1 / max(_stated_rate(path, first, second), least)
    return 1 / max(interval.limit_denominator(_FASTEST), least)


def _stated_rate(path: Path, first: int, second: int | None) -> Fraction:
    if path.is_dir():
        return Fraction(nucla.FRAME_RATE).limit_denominator(1001)
    with av.open(str(path)) as box:
        if rate := box.streams.video[0].average_rate:
            return Fraction(rate)
    step = second - first if second is not None and second > first else NS // 25
    return Fraction(NS / step).limit_denominator(1001)


def _chain(first: Any, second: Any, rest: Any) -> Any:
    yield first
    if second is not None:
        yield second
    yield from rest


def _place(layout: str, name: str) -> tuple[Path, Path | None]:
    """The paths of a clip and of its joints below the output."""
    return (Path(name), None) if layout == OWN else DATA_SETS[layout].prepared(name)


def _root(data: Path) -> Path:
    """The folder of a data set that is given as a folder, or as its table."""
    return data if data.is_dir() else data.parent


def _copy_tables(layout: str, data: Path, out: Path, clips: Sequence[LabelledClip]) -> None:
    root = _root(data)
    if (root / "classes.csv").is_file():
        shutil.copyfile(root / "classes.csv", out / "classes.csv")
    for clip in clips:
        _, target = _place(layout, clip.name)
        if target is None or clip.joints is None or clip.joints.file is None:
            continue
        # Whole files: one that was got again may differ from a damaged one anywhere.
        if (out / target).is_file() and filecmp.cmp(clip.joints.file, out / target, shallow=False):
            continue
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        with replacing(out / target) as part:
            shutil.copyfile(clip.joints.file, part)
    if layout == OWN:
        own.write_table(out, [[c.name, c.label, c.subject] for c in clips])


def _state(out: Path) -> dict[str, Any]:
    try:
        return {"damaged": {}} | json.loads((out / "prepare.json").read_text())
    except (OSError, ValueError):
        return {"damaged": {}}


def _note(out: Path, values: dict[str, Any]) -> None:
    write_atomically(out / "prepare.json", json.dumps(_state(out) | values, indent=1))


def _content(clip: LabelledClip) -> str:
    """What tells a clip from another of its name, also where it was moved or copied: size and a hash of its begin.

    Of a folder of pictures, names and sizes of all.
    """
    path = clip.path
    try:
        if path.is_dir():
            files = sorted((p.name, p.stat().st_size) for p in path.iterdir() if p.is_file())
            return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        with path.open("rb") as file:
            return f"{path.stat().st_size} {hashlib.sha256(file.read(1 << 16)).hexdigest()[:16]}"
    except OSError:  # it counts as damaged
        return "unreadable"


def _changed(
    before: dict[str, Any], out: Path, root: str, sources: dict[str, str]
) -> tuple[set[str], dict[str, str]]:
    """Of the clips of `before`, the state of `out`: names of those that are others now, and what is gone of them.

    Raises DataError for other data.
    """
    others = {name for name, content in before.get("sources", {}).items() if sources.get(name) != content}
    if others and before.get("data") != root:
        raise DataError(
            f"{out} holds clips of {before.get('data')}, {min(others)} for one: choose another folder"
        )
    known = before.get("gone", {}) | before.get("sources", {})
    again = {name for name in known.keys() & sources.keys() if known[name] != sources[name]}
    return again, {name: content for name, content in known.items() if name not in sources}


def _same(path: Path, how: dict[str, Any]) -> None:
    before = _state(path.parent)
    changed = [k for k, v in how.items() if before.get(k, v) != v]
    if changed:
        raise DataError(
            f"{path.parent} was prepared with another {changed[0]}: use that, or choose another folder"
        )
    if not path.is_file() and any(path.parent.iterdir()):
        raise DataError(f"{path.parent} holds something else: choose a new folder")
    _note(path.parent, how)
