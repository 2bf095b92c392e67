# SPDX-License-Identifier: Apache-2.0
"""NTU RGB+D 60 (Shahroudy et al. 2016): file names, splits and skeletons.

56,880 clips `SsssCcccPpppRrrrAaaa_rgb.avi`, beside them `SsssCcccPpppRrrrAaaa.skeleton`. 302 clips have no usable
skeleton; they stay in the splits of RGB, only their pose losses are masked.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import BODIES, JOINTS, JointSource, LabelledClip, class_names
from trt_build.errors import DataError

TRAINING_SUBJECTS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
TRAINING_CAMERAS = frozenset({2, 3})
SPLITS = ("cross-subject", "cross-view")
COLOUR_SIZE = (1920, 1080)  # the colour coordinates of a joint are pixels of this picture
# For each joint, the one whose place it takes in a mirrored picture: left and right change places.
MIRRORED = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22)
# Class A001 first.
NAMES = (
    """
drink water, eat meal, brush teeth, brush hair, drop, pick up,
throw, sit down, stand up, clapping, reading, writing,
tear up paper, put on jacket, take off jacket, put on a shoe, take off a shoe, put on glasses,
take off glasses, put on a hat, take off a hat, cheer up, hand waving, kicking something,
reach into pocket, hopping, jump up, phone call, play with phone, type on a keyboard,
point to something, taking a selfie, check time, rub two hands, nod head, shake head,
wipe face, salute, put palms together, cross hands in front, sneeze or cough, staggering,
falling down, headache, chest pain, back pain, neck pain, nausea,
fan self, punch or slap, kicking, pushing, pat on back, point finger,
hugging, giving object, touch pocket, shaking hands, walking towards, walking apart
""".replace("\n", " ")
    .strip()
    .split(", ")
)
FIRST_TOGETHER = 50  # from here on two people act on each other
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_BODY_FIELDS, _JOINT_FIELDS = 10, 12
_LARGEST = 1e7  # pixels: what is larger is no place, and its square may be no number of float32


@dataclass(frozen=True)
class Name:
    """What a file name says: setup, camera, performer, replication and action, each counted from 1."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int

    @classmethod
    def parse(cls, file: Path | str) -> Name:
        """The name of a file. Raises DataError for one that is not of the data set."""
        match = _NAME.match(Path(file).name)
        if not match:
            raise DataError(f"{file}: not a name of NTU RGB+D (S001C001P001R001A001...); take the file out")
        return cls(*(int(part) for part in match.groups()))

    @property
    def stem(self) -> str:
        return f"S{self.setup:03}C{self.camera:03}P{self.performer:03}R{self.replication:03}A{self.action:03}"

    def trains(self, split: str) -> bool:
        """Whether the clip is in the training part of "cross-subject" or "cross-view"."""
        if split not in SPLITS:
            raise DataError(f'unknown split "{split}": choose {" or ".join(SPLITS)}')
        if split == "cross-subject":
            return self.performer in TRAINING_SUBJECTS
        return self.camera in TRAINING_CAMERAS


def class_name(action: int) -> str:
    """The activity's name; for actions of later releases their number, such as "A061"."""
    return NAMES[action - 1] if 1 <= action <= len(NAMES) else f"A{action:03}"


def find(root: Path) -> list[tuple[Name, Path, Path | None]]:
    """All clips below `root`: (name, video, skeleton or None), sorted by name."""
    videos = {Name.parse(p): p for p in root.rglob("S*_rgb.avi") if _NAME.match(p.name)}
    skeletons = {p.stem: p for p in root.rglob("S*.skeleton")}
    return [(name, videos[name], skeletons.get(name.stem)) for name in sorted(videos, key=lambda n: n.stem)]


def clips(root: Path, split: str) -> list[LabelledClip]:
    """All clips below `root`, their classes by a `classes.csv` there or as published."""
    names = class_names(root)
    return [
        LabelledClip(
            video, n.stem, names.get(n.action) or class_name(n.action), f"p{n.performer:03}",
            trains=n.trains(split), joints=JointSource(skeleton, read_skeleton, MIRRORED, last_stands=True),
            together=n.action >= FIRST_TOGETHER,
        )
        for n, video, skeleton in find(root)
    ]  # fmt: skip


def prepared(name: str) -> tuple[Path, Path]:
    """Where `gc-model prepare` writes the clip `name` and its skeleton: in the folders of the published archives."""
    return Path("nturgb+d_rgb", f"{name}_rgb.avi"), Path("nturgb+d_skeletons", f"{name}.skeleton")


def read_skeleton(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (frames, 2, 25, 2) of a `.skeleton` file and the picture's (width, height), as `JointSource.read`.

    At most two bodies, told apart by their ids over the whole clip, those that move most first: several come and go in
    a file, and now and then the recorder took furniture for one. Raises DataError, naming the line, for a file that is
    cut short or not of this format.
    """
    lines = _Lines(path)
    frames = lines.integer("the number of frames")
    if frames > len(lines):  # each has one at least; so many joints may fit into no memory
        raise DataError(f"{path}:1: {frames} frames in {len(lines)} lines; get the file again")
    tracks: dict[str, NDArray[np.float32]] = {}
    for t in range(frames):
        for _ in range(lines.integer("the number of bodies")):
            fields = lines.fields(_BODY_FIELDS, "a body")
            count = lines.integer("the number of joints")
            if count != JOINTS:
                raise DataError(
                    f"{path}:{lines.number}: {count} joints instead of {JOINTS}; get the file again"
                )
            track = tracks.setdefault(fields[0], np.full((frames, JOINTS, 2), np.nan, np.float32))
            for j in range(JOINTS):
                values = lines.fields(_JOINT_FIELDS, "a joint")
                track[t, j] = lines.floats(values[5:7])
    chosen = sorted(tracks.values(), key=_motion, reverse=True)[:BODIES]
    joints = np.full((frames, BODIES, JOINTS, 2), np.nan, np.float32)
    for b, track in enumerate(chosen):
        joints[:, b] = track / np.array(COLOUR_SIZE, np.float32)
    return joints, np.array(COLOUR_SIZE, np.float32)


def _motion(track: NDArray[np.float32]) -> float:
    """Variance of the joints over time, summed; a body seen for one frame does not move."""
    seen = track[~np.isnan(track).all((1, 2))]
    known = seen[:, ~np.isnan(seen).all(0)]  # a coordinate that is never seen has no variance
    return float(np.nanvar(known, axis=0).sum()) if len(seen) > 1 else 0.0


class _Lines:
    """The lines of a file with their numbers, and what is expected of each."""

    def __init__(self, path: Path):
        self.path, self.number = path, 0
        try:
            self._lines = path.read_text(encoding="ascii").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable skeleton file ({error}); get it again") from None

    def __len__(self) -> int:
        return len(self._lines)

    def fields(self, count: int, what: str) -> list[str]:
        if self.number >= len(self._lines):
            raise DataError(
                f"{self.path}: cut short at line {self.number}, expected {what}; get the file again"
            )
        parts = self._lines[self.number].split()
        self.number += 1
        if len(parts) != count:
            raise DataError(
                f"{self.path}:{self.number}: expected {what} ({count} numbers), got {len(parts)}; get the file again"
            )
        return parts

    def integer(self, what: str) -> int:
        (text,) = self.fields(1, what)
        try:
            value = int(text)
        except ValueError:
            value = -1
        if value < 0:
            raise DataError(f"{self.path}:{self.number}: expected {what}, got {text!r}; get the file again")
        return value

    def floats(self, texts: list[str]) -> list[float]:
        try:
            values = [float(text) for text in texts]  # "NaN", "-nan" and "inf" are numbers here
            return [value if abs(value) <= _LARGEST else math.nan for value in values]
        except ValueError:
            raise DataError(
                f"{self.path}:{self.number}: {texts} are not numbers; get the file again"
            ) from None
