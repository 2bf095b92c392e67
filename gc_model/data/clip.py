# SPDX-License-Identifier: Apache-2.0
"""A labelled clip: a video with its class, the readers of its frames, joints and people, and its part of the split."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.clips import Clip, clean
from gc_ros.media.detections import Detections
from gc_ros.media.video import read_video
from trt_build.errors import DataError
from trt_build.labels import IDLE_LABELS, check_label

BODIES, JOINTS = 2, 25  # of a frame, at most


@dataclass(frozen=True)
class SeenPeople:
    """Who stands where in the pictures of a clip.

    found: detections in the order of time, boxes in pixels. Their stamps are nanoseconds since the first picture or, if
    `numbered`, the numbers of the pictures. size: (width, height) of the pictures whose pixels those are; None: the
    clip's own.
    """

    found: list[Detections]
    numbered: bool = False
    size: tuple[int, int] | None = None


ReadFrames = Callable[[Path], Iterator[tuple[NDArray[np.uint8], int]]]
ReadJoints = Callable[[Path], tuple[NDArray[np.float32], NDArray[np.float32]]]
ReadPeople = Callable[[Path], SeenPeople]


@dataclass(frozen=True)
class JointSource:
    """The file of a clip's joints, and its reader.

    file: None where this clip has none, although others of its data set do. read: gives joints (frames, 2, 25, 2) as
    fractions of the picture, x then y, NaN where unknown, and the picture's (width, height); raises DataError.
    mirrored: for each joint, which one takes its place in a mirrored picture. last_stands: whether frames after the
    file's last one repeat its joints, since recorders of video and joints stop a frame apart.
    """

    file: Path | None
    read: ReadJoints
    mirrored: tuple[int, ...]
    last_stands: bool


@dataclass(frozen=True)
class PersonSource:
    """A person in a clip, by an id in the file that says where everybody stands.

    read: the file's reader; raises DataError. margin: of the square around the box, see gc_ros.recognition.region.
    span_s: the seconds of the clip from and to which the label is true of the person; None: all the time.
    """

    file: Path
    id: str
    margin: float
    read: ReadPeople
    span_s: tuple[float, float] | None = None

    def shown_at(self, t: float) -> bool:
        """Whether a frame at t seconds is one of the person's."""
        return self.span_s is None or self.span_s[0] <= t <= self.span_s[1]


@dataclass(frozen=True)
class LabelledClip(Clip):
    """A clip whose label is known. path: a video, or whatever `read` takes.

    read: yields (frame uint8 (H, W, 3) RGB, stamp in nanoseconds); raises DataError. trains: whether the split puts it
    into its training part. joints: None where the data set has none. source: number of its folder or data set among
    those that training mixes. people: whom the label is about; empty where only whole pictures are known. person: the
    one of them whom the frames show alone; None: whole pictures. together: whether two people do it together. apart:
    whether others in the picture do something else, so that the whole picture is no example of the label.
    """

    read: ReadFrames = field(default=read_video, kw_only=True)
    trains: bool = field(default=True, kw_only=True)
    joints: JointSource | None = field(default=None, kw_only=True)
    source: int = field(default=0, kw_only=True)
    people: tuple[PersonSource, ...] = field(default=(), kw_only=True)
    person: PersonSource | None = field(default=None, kw_only=True)
    together: bool = field(default=False, kw_only=True)
    apart: bool = field(default=False, kw_only=True)

    @property
    def first_person(self) -> LabelledClip:
        """The clip as evaluation judges it: of the person whom it is about most, or whole where no people are known."""
        return replace(self, person=self.people[0]) if self.people else self


def labelled(clip: Clip, **more: Any) -> LabelledClip:
    """A clip of the finder as a `LabelledClip`; more: the fields that the finder does not know."""
    return LabelledClip(clip.path, clip.name, clip.label, clip.subject, tabled=clip.tabled, **more)


def labels_of(clips: Sequence[Clip]) -> list[str]:
    """The classes of clips, sorted."""
    return sorted({c.label for c in clips})


def spelled(name: str, labels: Sequence[str]) -> str:
    """The one of `labels` that is the same name, or `name` itself where none is.

    Runs of earlier versions took folders' names as the file system spells them, which may be in Unicode form NFD.
    """
    if name in labels:
        return name
    return next((label for label in labels if clean(label) == clean(name)), name)


def spelled_as(clips: Sequence[LabelledClip], labels: Sequence[str]) -> list[LabelledClip]:
    """The clips with their labels as a run spells them in `labels`."""
    return [replace(c, label=spelled(c.label, labels)) for c in clips]


def idle_of(labels: Container[str]) -> str | None:
    """The one of `labels` that says that nobody does anything, see `IDLE_LABELS`; None where none does."""
    return next((label for label in IDLE_LABELS if label in labels), None)


def files_of(clips: Sequence[LabelledClip]) -> str:
    """A digest of what clips are and of their files: videos, joints and boxes.

    Clips that came, went, got another class or were filmed again under their names have another one.
    """

    def state(path: Path | None) -> tuple[int, int] | None:
        if path is None or not path.exists():
            return None
        return path.stat().st_size, path.stat().st_mtime_ns

    digest = hashlib.sha256()
    for c in sorted(clips, key=lambda c: c.name):
        joints = None if c.joints is None else c.joints.file
        files = (c.path, joints, *(p.file for p in c.people))
        digest.update(repr((c.name, c.label, c.subject, *map(state, files))).encode())
    return digest.hexdigest()[:16]


def check_named(clips: Sequence[LabelledClip], classes: Sequence[str]) -> None:
    """Raise DataError for a class that no clip is of."""
    there = labels_of(clips)
    if unknown := sorted({clean(c) for c in classes} - set(there)):
        raise DataError(f'no class "{unknown[0]}" among the clips; there are {", ".join(there)}')


def as_idle(clips: Sequence[LabelledClip], classes: Sequence[str]) -> list[LabelledClip]:
    """The clips, those of some classes as clips of nothing that the model shall name, `IDLE_LABELS`.

    Raises DataError for a class that no clip is of.
    """
    there = labels_of(clips)
    if missing := sorted(set(classes) - set(there)):
        raise DataError(
            f'no clip is of class "{missing[0]}", which shall count as idle; there are {", ".join(there)}'
        )
    idle = idle_of(there) or IDLE_LABELS[0]
    return [replace(c, label=idle) if c.label in classes else c for c in clips]


def check_labels(clips: Sequence[LabelledClip]) -> None:
    """Raise DataError for a class that no bundle may have, which says where it stands."""
    for label, clip in sorted({c.label: c for c in reversed(clips)}.items(), key=lambda item: item[0]):
        try:
            check_label(label)
        except ValueError as error:
            folder = next((p for p in clip.path.absolute().parents if clean(p.name) == label), None)
            if clip.apart:
                where, remedy = str(clip.path.with_suffix(".truth.csv")), "write another"
            elif clip.tabled:
                where, remedy = f"the table's row of {clip.path}", "write another"
            elif folder is not None:
                where, remedy = str(folder.parent), "rename the folder of that name"
            else:
                where, remedy = str(clip.path), "give its class another name"
            raise DataError(f"{where}: {error}; {remedy}") from None


def class_names(folder: Path) -> dict[int, str]:
    """The classes of a `classes.csv` (number,class) in the folder, as `gc-model synth` writes one; {} without it."""
    table = folder / "classes.csv"
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return {int(row["number"]): row["class"] for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table}: not a table of number,class ({error}); repair or remove it") from None


def split_validation(
    clips: Sequence[LabelledClip], fraction: float
) -> tuple[list[LabelledClip], list[LabelledClip]]:
    """(training, validation): the clips whose hashed names fall below `fraction`, the same on every machine."""

    def place(clip: Clip) -> float:
        return int.from_bytes(hashlib.sha256(clip.name.encode()).digest()[:8], "big") / 2**64

    return [c for c in clips if place(c) >= fraction], [c for c in clips if place(c) < fraction]
