# SPDX-License-Identifier: Apache-2.0
"""Data sets by their layout: one's own clips, NTU RGB+D, N-UCLA; each as clips, with the paper's splits."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data import joint_tables, ntu, nucla
from gc_model.data.frames import Clip, index_clips
from gc_model.data.joints import MIRRORED
from gc_ros.media.video import NS, read_video
from trt_build.errors import DataError

LAYOUTS = ("clips", "ntu", "nucla")


@dataclass(frozen=True)
class SkeletonClip(Clip):
    """A clip with joints, or of a data set with a protocol. path: a video, or a folder of pictures.

    skeleton: the file of its joints, None where there is none. trains: whether it is in the training part. has_joints:
    whether the data set has joints at all. mirrored: which joint a mirrored picture makes of each.
    """

    skeleton: Path | None = None
    trains: bool = True
    has_joints: bool = True
    mirrored: tuple[int, ...] = MIRRORED


def index(
    layout: str,
    data: Path,
    protocol: str = "",
    *,
    part: str | None = None,
    subjects: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    joints: Path | None = None,
) -> list[Clip]:
    """The clips below `data`, sorted by name. part: "train" or "test" of the protocol, None for both.

    joints: a folder of joints of one's own clips, see gc_model.data.joint_tables.

    protocol: "cross-subject" or "cross-view" (ntu), "V3", "V2" or "V1" (nucla); underscores will do. Raises DataError
    for what is unknown, or where nothing is found.
    """
    if layout == "clips":
        if protocol:
            raise DataError(f"--split {protocol} is one of ntu or nucla: add --layout, or leave --split away")
        clips_found = list(index_clips(data, subjects=subjects, classes=classes))
        return clips_found if joints is None else _with_joints(clips_found, joints)
    if joints is not None:
        raise DataError(
            f"{joints}: joints of one's own are for --layout clips; {layout} brings its own, or has none"
        )
    if layout not in LAYOUTS:
        raise DataError(f'unknown layout "{layout}": choose {", ".join(LAYOUTS)}')
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give the data set's own")
    known = ntu.SPLITS if layout == "ntu" else tuple(nucla.SPLITS)
    split = protocol.replace("_", "-") or known[0]
    if split not in known:
        raise DataError(f'unknown --split "{protocol}" of {layout}: choose {", ".join(known)}')
    names = class_names(data)
    clips: list[SkeletonClip] = []
    if layout == "ntu":
        for n, video, skeleton in ntu.find(data):
            label = names.get(n.action) or ntu.class_name(n.action)
            clips.append(SkeletonClip(video, n.stem, label, f"p{n.performer:03}", skeleton, n.trains(split)))
    else:
        for m, path in nucla.find(data):
            label = names.get(m.action) or nucla.NAMES[m.action]
            clips.append(SkeletonClip(path, m.stem, label, f"s{m.subject:02}", None, m.trains(split), False))
    if not clips:
        what = (
            "SsssCcccPpppRrrrAaaa_rgb.avi"
            if layout == "ntu"
            else "aXX/v0Y_sXX_eXX.avi, or view_Y/aXX_sXX_eXX/"
        )
        raise DataError(
            f"{data}: no clips of {layout} ({what}) below it; give the folder they were unpacked into"
        )
    for wanted, have in ((subjects, {c.subject for c in clips}), (classes, {c.label for c in clips})):
        if unknown := sorted(set(wanted or ()) - have):
            raise DataError(f'{data}: no "{unknown[0]}"; there are {", ".join(sorted(have))}')
    chosen = [
        c
        for c in clips
        if (part is None or c.trains == (part == "train"))
        and (subjects is None or c.subject in subjects)
        and (classes is None or c.label in classes)
    ]
    if not chosen:
        raise DataError(f"{data}: the {part} part of {split} is empty; the data set is not complete")
    return sorted(chosen, key=lambda c: c.name)


def _with_joints(clips: Sequence[Clip], folder: Path) -> list[Clip]:
    """The clips with their tables of joints, None where a clip has none. All tables must have the same joints."""
    tables = [joint_tables.table_of(folder, c.name) for c in clips]
    there = [t for t in tables if t.is_file()]
    if not there:
        raise DataError(
            f"{folder}: no joints of these clips, {tables[0]} for one; write them with `gc-model joints`"
        )
    names = joint_tables.joint_names(there[0])
    if other := next((t for t in there if joint_tables.joint_names(t) != names), None):
        raise DataError(
            f"{other} has other joints than {there[0]}; all tables of a folder must have the same"
        )
    mirrored = joint_tables.mirrored_joints(names)
    return [
        SkeletonClip(c.path, c.name, c.label, c.subject, t if t.is_file() else None, mirrored=mirrored)
        for c, t in zip(clips, tables, strict=True)
    ]


def class_names(data: Path) -> dict[int, str]:
    """Numbers and names of a `classes.csv` (number,class) in the folder, as `gc-model synth` writes one."""
    table = data / "classes.csv"
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return {int(row["number"]): row["class"] for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table}: not a table of number,class ({error}); repair or remove it") from None


def read_frames(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """(frame RGB, stamp in nanoseconds) of a video, or of a folder of N-UCLA pictures. Raises DataError."""
    if not path.is_dir():
        yield from read_video(path)
        return
    for file, t in nucla.frame_files(path):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{file}: not a picture that can be read; get the clip again")
        yield np.asarray(image[..., ::-1], np.uint8), round(t * NS)
