# SPDX-License-Identifier: Apache-2.0
"""The table of data sets, and the clips of each. A new data set is one reader and one row of `DATA_SETS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gc_model.data import ntu, nucla, own
from gc_model.data.clip import LabelledClip, check_named
from gc_model.data.people import with_boxes, with_skeletons
from gc_ros.media.clips import Clips, clean
from gc_ros.recognition.region import MARGIN
from trt_build.errors import DataError


@dataclass(frozen=True)
class DataSet:
    """A published data set.

    clips: finds those below a folder, `trains` set by the named split. splits: their names, the default first. files:
    how its files are named, for the error where there are none. has_joints: whether L_P and L_G can learn from it.
    prepared: the paths below the output of `gc-model prepare` of the clip of a name and of its joints (None: has none).
    """

    clips: Callable[[Path, str], list[LabelledClip]]
    splits: tuple[str, ...]
    files: str
    has_joints: bool
    prepared: Callable[[str], tuple[Path, Path | None]]


OWN = "clips"  # no row: a folder or a table of one's own, without splits
DATA_SETS: dict[str, DataSet] = {
    "ntu": DataSet(ntu.clips, ntu.SPLITS, "SsssCcccPpppRrrrAaaa_rgb.avi", True, ntu.prepared),
    "nucla": DataSet(
        nucla.clips, tuple(nucla.SPLITS), "aXX/v0Y_sXX_eXX.avi, or view_Y/aXX_sXX_eXX/", False, nucla.prepared
    ),
}
SKELETONS = "skeletons"
LAYOUTS = (OWN, *DATA_SETS)


def index(
    layout: str,
    data: Path,
    split: str = "",
    *,
    part: str | None = None,
    subjects: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    joints: Path | None = None,
    boxes: Path | None = None,
    margin: float = MARGIN,
) -> Clips[LabelledClip]:
    """The clips below `data`, sorted by name.

    layout: "clips", one's own, or a row of `DATA_SETS`. split: one of its splits, "" for the first; underscores may
    stand for hyphens. part: "train" or "test" of the split, None for both. subjects, classes: only these. joints: a
    folder of joints of one's own clips, see gc_model.data.joint_tables. boxes: a folder of boxes of people, see
    gc_model.data.people, or "skeletons" for those of the data set. margin: around boxes. Raises DataError for a name
    that is unknown, or where nothing is found.
    """
    if boxes is None or str(boxes) == SKELETONS:
        found = _index(layout, data, split, part, subjects, classes, joints)
        if boxes is not None:
            found[:] = with_skeletons(found, margin)
        return found
    # The people of a scene have classes of their own, which no folder is named after.
    found = _index(layout, data, split, part, subjects, classes if layout != OWN else None, joints)
    found[:] = with_boxes(found, boxes, margin)
    check_named(found, classes or ())
    wanted = {clean(c) for c in classes or ()}
    found[:] = [c for c in found if not wanted or c.label in wanted]
    return found


def _index(
    layout: str,
    data: Path,
    split: str,
    part: str | None,
    subjects: Sequence[str] | None,
    classes: Sequence[str] | None,
    joints: Path | None,
) -> Clips[LabelledClip]:
    if layout == OWN:
        if split:
            raise DataError(
                f"--split {split} is one of {' or '.join(DATA_SETS)}: add --layout, or leave --split away"
            )
        found = own.clips(data, subjects=subjects, classes=classes)
        if joints is not None:
            found[:] = own.with_joints(found, joints)
        return found
    if joints is not None:
        raise DataError(
            f"{joints}: joints of one's own are for --layout clips; {layout} brings its own, or has none"
        )
    if layout not in DATA_SETS:
        raise DataError(f'unknown layout "{layout}": choose {", ".join(LAYOUTS)}')
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give the data set's own")
    row = DATA_SETS[layout]
    chosen = split.replace("_", "-") or row.splits[0]
    if chosen not in row.splits:
        raise DataError(f'unknown --split "{split}" of {layout}: choose {", ".join(row.splits)}')
    clips = row.clips(data, chosen)
    if not clips:
        raise DataError(
            f"{data}: no clips of {layout} ({row.files}) below it; give the folder they were unpacked into"
        )
    for wanted, have in ((subjects, {c.subject for c in clips}), (classes, {c.label for c in clips})):
        if unknown := sorted(set(wanted or ()) - have):
            raise DataError(f'{data}: no "{unknown[0]}"; there are {", ".join(sorted(have))}')
    clips = [
        c
        for c in clips
        if (part is None or c.trains == (part == "train"))
        and (subjects is None or c.subject in subjects)
        and (classes is None or c.label in classes)
    ]
    if not clips:
        raise DataError(f"{data}: the {part} part of {chosen} is empty; the data set is not complete")
    return Clips(sorted(clips, key=lambda c: c.name))
