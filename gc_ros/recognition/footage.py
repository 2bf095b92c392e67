# SPDX-License-Identifier: Apache-2.0
"""Recorded videos and bags as model input: the frames that a robot would have sampled from them.

For `trt-build quantize` and `verify`, and for the clips that teaching keeps. Sampling and preparation are the
recogniser's own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.bag_reading import read_bag_images
from gc_ros.media.clips import Clip, find_clips, find_recordings
from gc_ros.media.video import read_video
from gc_ros.recognition.sampler import Sampler
from trt_build.bundle import Bundle
from trt_build.errors import DataError
from trt_build.footage import Footage
from trt_build.preprocess import model_input

_UNSAMPLED = 64  # frames looked at of a clip that is shorter than a window


def read_footage(
    sources: Sequence[Path], info: Bundle, *, subjects: Sequence[str] = (), topic: str | None = None
) -> list[Footage]:
    """Read videos, bags, folders of them, and CSV tables (path,class,subject).

    A clip shorter than a window gives T of its frames, spread evenly, as evaluation does it. A bag is cut where its
    stamps break. Raises DataError where a source cannot be read or holds nothing to use.
    """
    if not sources:
        raise DataError("no clips given; name videos, folders, CSV tables or bags with --clips")
    found = find_recordings(sources, subjects)
    for line in found.remarks():
        logging.warning("%s", line)
    pieces: list[Footage] = []
    for clip in found:
        if not clip.is_bag:
            pieces.append(Footage(clip.path.name, clip.label, clip_frames(clip.path, info)))
            continue
        from_bag = list(_from_bag(clip, info, topic))
        if not from_bag:
            raise DataError(
                f"{clip.path}: no piece of {info.window_s:.3g} s without a break, as a window needs; "
                "record a longer bag"
            )
        pieces += from_bag
    return pieces


def training_subjects(sources: Sequence[Path], info: Bundle) -> list[str]:
    """The people the bundle was trained on, where `sources` are tables that know them all; else nobody by name."""
    people = [str(name) for name in info.provenance.get("subjects") or ()]
    tables = [source for source in sources if source.suffix.lower() == ".csv"]
    if not people or len(tables) < len(sources):
        return []
    known = [{clip.subject for clip in find_clips([table])} for table in tables]
    return people if all(set(people) <= there for there in known) else []


def clip_frames(
    path: Path,
    info: Bundle,
    read: Callable[[Path], Iterable[tuple[NDArray[np.uint8], int]]] = read_video,
) -> NDArray[np.uint8]:
    """The frames (n, S, S, 3) that a robot would sample from a clip, n >= T.

    A clip shorter than a window gives T of its frames, spread evenly. read: yields RGB images and their stamps.
    """
    sampler = Sampler(info.rate_hz, max_frame_gap_s=1e6)  # a clip is one piece, whatever its stamps
    sampled: list[NDArray[np.uint8]] = []
    every: list[NDArray[np.uint8]] = []
    stride = 1
    for count, (image, stamp) in enumerate(read(path)):
        take = sampler.decide(stamp).take
        if not take and count % stride:
            continue
        frame = model_input(image, info.preprocess, bgr=False)
        if take:
            sampled.append(frame)
        if len(sampled) < info.T and count % stride == 0:
            every.append(frame)
            if len(every) > _UNSAMPLED:
                every, stride = every[::2], stride * 2
    if len(sampled) < info.T:
        sampled = [every[i] for i in np.linspace(0, len(every) - 1, info.T).round().astype(int)]
    return np.stack(sampled)


def clip_pictures(clip: Clip, info: Bundle, topic: str | None = None) -> list[NDArray[np.uint8]]:
    """The frames (n, S, S, 3), n >= T, of a video, or of each piece of a bag without a break.

    A bag without a piece of a whole window is one clip, as a video is. Raises DataError where no image can be used.
    """
    if not clip.is_bag:
        return [clip_frames(clip.path, info)]
    if pieces := [piece.frames for piece in _from_bag(clip, info, topic)]:
        return pieces
    images = _bag_images(clip, topic)
    first = next(images, None)
    if first is None:
        raise DataError(f"{clip.path}: no image can be used; give another clip")
    return [clip_frames(clip.path, info, lambda _: chain([first], images))]


def _bag_images(bag: Clip, topic: str | None) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """RGB images of a bag and their stamps; those that cannot be decoded are left out."""
    found = read_bag_images(bag.path, topic, refused=lambda stamp, reason: None, pieces=bag.pieces)
    return ((image[..., ::-1] if encoding == "bgr8" else image, stamp) for stamp, image, encoding in found)


def _from_bag(bag: Clip, info: Bundle, topic: str | None) -> Iterator[Footage]:
    sampler = Sampler(info.rate_hz)
    frames: list[NDArray[np.uint8]] = []
    part = 0
    refused: Counter[str] = Counter()
    for stamp, image, encoding in read_bag_images(
        bag.path, topic, refused=lambda _, reason: refused.update([reason]), pieces=bag.pieces
    ):
        decision = sampler.decide(stamp)
        if decision.reset and frames:
            if len(frames) >= info.T:
                yield Footage(f"{bag.path.name}#{part}", "", np.stack(frames))
            frames, part = [], part + 1
        if decision.take:
            frames.append(model_input(image, info.preprocess, bgr=encoding == "bgr8"))
    if len(frames) >= info.T:
        yield Footage(f"{bag.path.name}#{part}", "", np.stack(frames))
    for reason, count in refused.most_common():
        logging.warning("%s: %d images left out: %s", bag.path, count, reason)
