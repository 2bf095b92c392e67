# SPDX-License-Identifier: Apache-2.0
"""Labelled clips on disk: an index, and a cache of decoded frames.

Two ways to say what a clip shows: a folder `class/clip`, or a CSV with the columns path and class, and if it
knows them subject and session. A folder with a `clips.csv` is read through it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.clips import Clip, find_clips
from trt_build.bundle import Preprocess
from trt_build.errors import DataError, GlimpseError
from trt_build.preprocess import model_input


def index_clips(
    data: Path,
    *,
    subjects: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[Clip]:
    """All clips of a folder or CSV, sorted by name; optionally of some subjects or classes only.

    Raises DataError where there is nothing to read, a filter names something that does not exist, or files that
    the CSV names are missing.
    """
    if not data.exists():
        raise DataError(f"{data}: no such folder or CSV of clips")
    clips = find_clips([data], subjects, classes)
    if data.is_file() and not clips[0].tabled:
        raise DataError(f"{data}: one video is no data set; give a folder class/clip.mp4, or a CSV of clips")
    return sorted(clips, key=lambda c: c.name)


def labels_of(clips: Sequence[Clip]) -> list[str]:
    return sorted({c.label for c in clips})


def split_validation(clips: Sequence[Clip], fraction: float) -> tuple[list[Clip], list[Clip]]:
    """(training, validation): the clips whose hashed names fall below `fraction`, the same on every machine."""

    def place(clip: Clip) -> float:
        return int.from_bytes(hashlib.sha256(clip.name.encode()).digest()[:8], "big") / 2**64

    return [c for c in clips if place(c) >= fraction], [c for c in clips if place(c) < fraction]


@dataclass(frozen=True)
class Frames:
    """Decoded frames of one clip: images uint8 (n, R, R, 3) RGB, times (n,) seconds from the first.

    numbers: (n,) of the frames in the file, from 0; joints: (n, 2, 25, 2) as `joints.read_joints` has them, or None.
    """

    images: NDArray[np.uint8]
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    joints: NDArray[np.float32] | None = None


class CacheError(GlimpseError):
    """Decoded frames cannot be written: no fault of the clip, so no reason to go on without it."""


@dataclass(frozen=True)
class FrameCache:
    """Decoded, resized frames on disk, keyed by the file's identity and by how frames become squares.

    Frames are R x R with R = `resize`, so that training can crop from them, and thinned to `max_fps`: a window
    takes two a second, more than a dozen to choose from would only fill the disk.
    """

    folder: Path
    preprocess: Preprocess
    max_fps: float = 12.0

    def joints(self, clip: Clip, frames: Frames) -> NDArray[np.float32] | None:
        """The joints (n, 2, 25, 2) of `frames` as fractions of the R x R frame; None for a clip that cannot have any.

        Text is slow to read: what was read is kept beside the frames. An unreadable skeleton is all NaN, as a missing
        one is: the pictures still count (see `skeleton_problems`).
        """
        from gc_model.data.joints import read_joints

        # Of this very file of joints: one's own clips may get better ones.
        source = getattr(clip, "skeleton", None)
        stat = source.stat() if source is not None and source.is_file() else None
        key = repr((str(source), stat and (stat.st_size, stat.st_mtime_ns)))
        suffix = f".{hashlib.sha256(key.encode()).hexdigest()[:8]}.joints.npz"
        return read_joints(clip, frames, self._entry(clip).with_suffix(suffix), self.preprocess)

    def read(self, clip: Clip) -> Frames:
        """From the cache, decoding first where it is not there. Raises DataError for what cannot be decoded."""
        entry = self._entry(clip)
        frames = self._load(entry)
        if frames is None:
            self._write(entry, decode(clip.path, self.preprocess, self.max_fps))
            frames = self._load(entry)
            assert frames is not None
        return frames

    def fill(self, clips: Sequence[Clip], *, workers: int = 2, progress: bool = True) -> dict[str, str]:
        """Decode in parallel whatever is missing. Returns the clips that failed, by name, with the reason."""
        from rich.progress import track

        missing: list[Clip] = []
        failed: dict[str, str] = {}
        for clip in clips:
            try:
                if self._load(self._entry(clip)) is None:
                    missing.append(clip)
            except DataError as error:
                failed[clip.name] = str(error)
        if not missing:
            return failed
        # Spawned, not forked: torch's threads, which a fork would copy in a locked state, may be running.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=min(workers, len(missing)), mp_context=spawn) as pool:
            jobs = {pool.submit(self._fill_one, c): c for c in missing}
            for job in track(as_completed(jobs), "decoding", len(jobs), disable=not progress):
                try:
                    job.result()
                except DataError as error:
                    failed[jobs[job].name] = str(error)
                except BrokenProcessPool:
                    raise CacheError(
                        f"a decoding process was killed near {jobs[job].path}, often for want of memory: "
                        "free some, or use smaller videos, and start again"
                    ) from None
        return failed

    def _fill_one(self, clip: Clip) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.read(clip)

    @staticmethod
    def _load(entry: Path) -> Frames | None:
        """An entry, or None where it is not there or damaged (a full disk, a power cut): it is decoded again."""
        try:
            values = json.loads(entry.with_suffix(".json").read_text())
            if isinstance(values, list):  # of an older version, which thinned without noting what it left out
                values = {"times": values, "numbers": list(range(len(values)))}
            times, numbers = np.asarray(values["times"], np.float64), np.asarray(values["numbers"], np.int64)
            images = np.load(entry.with_suffix(".npy"), mmap_mode="r")
        except (OSError, ValueError, EOFError, KeyError):
            return None
        return Frames(images, times, numbers) if len(images) == len(times) > 0 else None

    def _entry(self, clip: Clip) -> Path:
        try:
            stat = clip.path.stat()
        except OSError as error:
            raise DataError(f"{clip.path}: cannot be read ({error.strerror}); put it back") from None
        identity = (
            str(clip.path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
            repr(self.preprocess),
            self.max_fps,
        )
        return self.folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:24]

    def _write(self, entry: Path, frames: Frames) -> None:
        part = self.folder / f"{entry.name}.{os.getpid()}.part.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(part, frames.images)
            os.replace(part, entry.with_suffix(".npy"))
            part = part.with_suffix(".json")
            times = [round(float(t), 6) for t in frames.times]
            part.write_text(json.dumps({"times": times, "numbers": frames.numbers.tolist()}))
            os.replace(part, entry.with_suffix(".json"))
        except OSError as error:
            if self.folder.is_dir():
                part.unlink(missing_ok=True)
            raise CacheError(
                f"{self.folder}: cannot keep decoded frames ({error.strerror}); it must be writable, with room"
            ) from None


def decode(path: Path, preprocess: Preprocess, max_fps: float) -> Frames:
    """Frames of a video through the robot's own reader and resize, at most `max_fps` of them a second."""
    from gc_model.data.datasets import read_frames

    whole = preprocess.model_copy(update={"size": preprocess.resize})
    images, times, numbers = [], [], []
    start = due = None
    for number, (image, stamp_ns) in enumerate(read_frames(path)):
        start = stamp_ns if start is None else start
        t = (stamp_ns - start) / 1e9
        if due is not None and t < due - 1e-3:
            continue
        due = t + 1 / max_fps if due is None else max(due + 1 / max_fps, t)
        images.append(model_input(image, whole, bgr=False))
        times.append(t)
        numbers.append(number)
    if not images:
        raise DataError(f"{path}: no frame could be decoded; check the file with a player or remove it")
    return Frames(np.stack(images), np.asarray(times), np.asarray(numbers))
