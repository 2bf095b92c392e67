# SPDX-License-Identifier: Apache-2.0
"""Northwestern-UCLA Multiview Action 3D (Wang et al. 2014): both layouts in use.

    view_1/a01_s01_e00/frame_12_tc_1234_rgb.jpg     a folder of pictures a clip; clips of one frame exist
    multiview_action_videos/a01/v01_s01_e00.avi     a video a clip

Ten classes, ten subjects, three views. There are no 2-D joints: pose and glimpse losses are off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data.clip import LabelledClip, class_names
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from trt_build.errors import DataError

CLASSES = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
_ACTIVITIES = (
    """
pick up with one hand, pick up with two hands, drop trash, walk around, sit down,
stand up, donning, doffing, throw, carry
""".replace("\n", " ")
    .strip()
    .split(", ")
)
NAMES = dict(zip(CLASSES, _ACTIVITIES, strict=True))
# Test view of each split; the other two train. V3_{1,2} of the paper trains on views 1 and 2.
SPLITS = {"V3": 3, "V2": 2, "V1": 1}
FRAME_RATE = 12.0  # a second; folders of pictures carry no clock of a documented unit
_FOLDER = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)$")
_VIDEO = re.compile(r"v(\d\d)_s(\d\d)_e(\d\d)\.avi$")
_FRAME = re.compile(r"frame_(\d+)_tc_\d+_rgb\.jpg$")


@dataclass(frozen=True)
class Name:
    """Action, subject, episode and view of a clip."""

    action: int
    subject: int
    episode: int
    view: int

    @property
    def stem(self) -> str:
        return f"a{self.action:02}_s{self.subject:02}_e{self.episode:02}_v{self.view:02}"

    def trains(self, split: str) -> bool:
        """Whether the clip is in the training part of "V3", "V2" or "V1"."""
        if split not in SPLITS:
            raise DataError(f'unknown split "{split}": choose {", ".join(SPLITS)}')
        return self.view != SPLITS[split]


def find(root: Path) -> list[tuple[Name, Path]]:
    """All clips below `root`: (name, folder of frames or video), sorted by name. Unknown classes are passed over."""
    found: dict[Name, Path] = {}
    for view in (1, 2, 3):
        for folder in root.rglob(f"view_{view}/a*_s*_e*"):
            if (match := _FOLDER.match(folder.name)) and folder.is_dir():
                action, subject, episode = (int(part) for part in match.groups())
                found[Name(action, subject, episode, view)] = folder
    for video in root.rglob("a[0-9][0-9]/v*_s*_e*.avi"):
        if match := _VIDEO.match(video.name):
            view, subject, episode = (int(part) for part in match.groups())
            found.setdefault(Name(int(video.parent.name[1:]), subject, episode, view), video)
    return [(n, found[n]) for n in sorted(found, key=lambda n: n.stem) if n.action in CLASSES]


def clips(root: Path, split: str) -> list[LabelledClip]:
    """All clips below `root`, their classes by a `classes.csv` there or as published."""
    names = class_names(root)
    return [
        LabelledClip(
            path, n.stem, names.get(n.action) or NAMES[n.action], f"s{n.subject:02}",
            trains=n.trains(split), read=read_pictures if path.is_dir() else read_video,
        )
        for n, path in find(root)
    ]  # fmt: skip


def prepared(name: str) -> tuple[Path, None]:
    """Where `gc-model prepare` writes the clip `name`: as a video, whatever it was."""
    action, subject, episode, view = name.split("_")  # a01_s01_e00_v01
    return Path("multiview_action_videos", action, f"{view}_{subject}_{episode}.avi"), None


def read_pictures(folder: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """(frame RGB, stamp in nanoseconds) of the pictures in a folder. Raises DataError."""
    for file, t in frame_files(folder):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{file}: not a picture that can be read; get the clip again")
        yield np.asarray(image[..., ::-1], np.uint8), round(t * NS)


def frame_files(folder: Path) -> list[tuple[Path, float]]:
    """The pictures of a clip in order, each with its time in seconds from the first, counted at `FRAME_RATE`.

    Raises DataError for a folder without pictures.
    """
    frames = sorted((int(m[1]), file) for file in folder.iterdir() if (m := _FRAME.match(file.name)))
    if not frames:
        raise DataError(f"{folder}: holds no frame_<i>_tc_<t>_rgb.jpg; get the clip again")
    return [(file, i / FRAME_RATE) for i, (_, file) in enumerate(frames)]
