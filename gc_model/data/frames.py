# SPDX-License-Identifier: Apache-2.0
"""Decoded frames of clips, and their cache on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import LabelledClip, PersonSource, ReadFrames
from gc_model.data.people import Whereabouts
from gc_ros.media.detections import check_of_these_pictures
from gc_ros.media.video import read_video
from trt_build.bundle import Preprocess
from trt_build.errors import DataError, GlimpseError
from trt_build.files import replacing, write_atomically
from trt_build.pool import killed, processes
from trt_build.preprocess import model_input


@dataclass(frozen=True)
class DecodedClip:
    """Decoded frames of one clip: images uint8 (n, R, R, 3) RGB, times (n,) seconds from the first frame of the file.

    numbers: (n,) of the frames in the file, from 0. regions: (n, 4) x0, y0, x1, y1 of what each frame shows, as
    fractions of the picture, where it shows one person; None: whole pictures.
    """

    images: NDArray[np.uint8]
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    regions: NDArray[np.float64] | None = None


_AVI_READER = (
    2  # increased when frames of an AVI are read in another order, so that no cache holds the old one
)


class CacheError(GlimpseError):
    """Decoded frames cannot be written. The clip is not at fault, so training must not continue without it."""


@dataclass(frozen=True)
class FrameCache:
    """A cache of decoded, resized frames on disk, keyed by the file's identity, whom they show and their resize.

    Frames are R x R with R = `resize`, so that training can crop from them. They are thinned to `max_fps` a second: a
    window takes a few a second, and more than a dozen to choose from would only fill the disk.
    """

    folder: Path
    preprocess: Preprocess
    max_fps: float = 12.0

    def read(self, clip: LabelledClip) -> DecodedClip:
        """The frames of a clip, decoded first where they are not in the cache. Raises DataError where that fails."""
        entry = self._entry(clip)
        frames = self._load(entry)
        if frames is None:
            self._write(entry, decode(clip.path, self.preprocess, self.max_fps, clip.read, clip.person))
            frames = self._load(entry)
            assert frames is not None
        return frames

    def neighbour(self, clip: LabelledClip, suffix: str) -> Path:
        """The path of a file beside the frames of a clip, for what else is kept of it."""
        return self._entry(clip).with_suffix(suffix)

    def identities(self, clips: Sequence[LabelledClip]) -> list[str]:
        """For each clip a digest of what its frames are cached under, whole and of each of its people.

        A clip that is filmed again, or whose boxes are made again, has another one under the same name.
        """

        def entry(clip: LabelledClip) -> str:
            try:
                return self._entry(clip).name
            # Its frames cannot be read, so nothing is made of them.
            except DataError:
                return ""

        shown = ((c, *(replace(c, person=p) for p in c.people)) for c in clips)
        return [hashlib.sha256(" ".join(map(entry, each)).encode()).hexdigest()[:24] for each in shown]

    def fill(
        self, clips: Sequence[LabelledClip], *, workers: int = 2, progress: bool = True
    ) -> dict[str, str]:
        """Decode in parallel the clips that are missing. Returns {name: reason} of those that fail."""
        from rich.progress import track

        missing: list[LabelledClip] = []
        failed: dict[str, str] = {}
        for clip in clips:
            try:
                if self._load(self._entry(clip)) is None:
                    missing.append(clip)
            except DataError as error:
                failed[clip.name] = str(error)
        if not missing:
            return failed
        with processes(workers, len(missing)) as pool:
            jobs = {pool.submit(self._fill_one, c): c for c in missing}
            for job in track(as_completed(jobs), "decoding", len(jobs), disable=not progress):
                try:
                    job.result()
                except DataError as error:
                    failed[jobs[job].name] = str(error)
                except BrokenProcessPool:
                    remedy = "free some, or use smaller videos, and start again"
                    raise CacheError(killed(jobs[job].path, remedy)) from None
        return failed

    def _fill_one(self, clip: LabelledClip) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.read(clip)

    @staticmethod
    def _load(entry: Path) -> DecodedClip | None:
        """An entry, or None where it is missing or damaged (a full disk, a power cut), to be decoded again."""
        try:
            values = json.loads(entry.with_suffix(".json").read_text())
            if isinstance(values, list):  # of an older version, which thinned without noting what it left out
                values = {"times": values, "numbers": list(range(len(values)))}
            times, numbers = np.asarray(values["times"], np.float64), np.asarray(values["numbers"], np.int64)
            regions = np.asarray(values["regions"], np.float64) if "regions" in values else None
            images = np.load(entry.with_suffix(".npy"), mmap_mode="r")
        # Of a damaged file, NumPy raises errors of many kinds.
        except Exception:
            return None
        return DecodedClip(images, times, numbers, regions) if len(images) == len(times) > 0 else None

    def _entry(self, clip: LabelledClip) -> Path:
        try:
            stat = clip.path.stat()
            boxes = None if clip.person is None else clip.person.file.stat()
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read ({error.strerror or error}); put it back"
            ) from None
        identity: tuple[object, ...] = (
            str(clip.path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
            repr(self.preprocess),
            self.max_fps,
        )
        if clip.path.suffix.lower() == ".avi":
            identity += (_AVI_READER,)
        if clip.person is not None and boxes is not None:
            person = clip.person
            identity += (
                str(person.file.resolve()),
                boxes.st_size,
                boxes.st_mtime_ns,
                person.id,
                person.margin,
                person.span_s,
            )
        return self.folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:24]

    def _write(self, entry: Path, frames: DecodedClip) -> None:
        times = [round(float(t), 6) for t in frames.times]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(entry.with_suffix(".npy"), suffix=".npy") as part:
                np.save(part, frames.images)
            # Last: an entry counts from here on.
            values: dict[str, object] = {"times": times, "numbers": frames.numbers.tolist()}
            if frames.regions is not None:
                values["regions"] = frames.regions.round(6).tolist()
            write_atomically(entry.with_suffix(".json"), json.dumps(values))
        except OSError as error:
            raise CacheError(
                f"{self.folder}: cannot keep decoded frames ({error.strerror or error}); it must be writable, with room"
            ) from None


def decode(
    path: Path,
    preprocess: Preprocess,
    max_fps: float,
    read: ReadFrames = read_video,
    person: PersonSource | None = None,
) -> DecodedClip:
    """The frames of a video through the robot's own reader and resize, at most `max_fps` of them a second.

    person: frames show the square around this person; those in which the person is not found are left out. Raises
    DataError where no frame remains, or boxes are of pictures of another size.
    """
    whole = preprocess.model_copy(update={"size": preprocess.resize})
    where = None if person is None else Whereabouts(person)
    images, times, numbers, regions = [], [], [], []
    start = due = None
    for number, (image, stamp_ns) in enumerate(read(path)):
        start = stamp_ns if start is None else start
        t_ns = stamp_ns - start
        t = t_ns / 1e9
        if where is not None:
            where.see(number, t_ns)
        if person is not None and not person.shown_at(t):
            continue
        if due is not None and t < due - 1e-3:
            continue
        area = None
        if where is not None:
            found = where.area(image, t_ns)
            if found is None:
                continue
            image, area = found
            height, width = image.shape[:2]
            regions.append(np.array(area) / (width, height, width, height))
        due = t + 1 / max_fps if due is None else max(due + 1 / max_fps, t)
        images.append(model_input(image, whole, bgr=False, area=area))
        times.append(t)
        numbers.append(number)
    if person is not None:
        check_of_these_pictures([r.tolist() for r in regions], 1, 1, person.file, path)
    if not images and person is not None:
        raise DataError(f"{path}: person {person.id} of {person.file} is in none of its frames")
    if not images:
        raise DataError(f"{path}: no frame could be decoded; check the file with a player or remove it")
    shown = np.stack(regions) if regions else None
    return DecodedClip(np.stack(images), np.asarray(times), np.asarray(numbers), shown)
