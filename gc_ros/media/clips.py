# SPDX-License-Identifier: Apache-2.0
"""The one finder of clips and recordings: which files there are below a folder or in a table, and what is seen in them.

Training, evaluation, `make-bag`, `verify` and `quantize` all ask here, so that they see the same clips under the same
names with the same labels.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from gc_ros.media import kinds, tables
from gc_ros.media.kinds import VIDEO_SUFFIXES, clean
from gc_ros.media.walk import PassedOver, walk
from trt_build.errors import DataError

__all__ = [
    "VIDEO_SUFFIXES",
    "Clip",
    "Clips",
    "PassedOver",
    "check_classes",
    "clean",
    "find_clips",
    "find_recordings",
]


_AGAIN = "found already"


@dataclass(frozen=True)
class Clip:
    """A video, or where bags are asked for too a bag, and what is seen in it.

    name: a relative path, distinct among what was found together, stable across machines. label: "" where unknown.
    subject: "" where unknown. tabled: whether a table names the label; a folder's name may be no class at all. pieces:
    the files of a split bag without metadata.yaml, in their order.
    """

    path: Path
    name: str
    label: str = ""
    subject: str = ""
    tabled: bool = field(default=False, kw_only=True)
    pieces: tuple[Path, ...] = field(default=(), kw_only=True)

    @property
    def is_bag(self) -> bool:
        return bool(self.pieces) or os.path.isdir(self.path) or kinds.is_bag_file(self.path)


C = TypeVar("C", bound=Clip)


class Clips(list[C]):
    """Clips in a fixed order, and what the finder passed over.

    without: folders of the first level that hold files but no clip, by name.
    """

    def __init__(
        self, clips: Iterable[C] = (), passed_over: Iterable[PassedOver] = (), without: Iterable[str] = ()
    ) -> None:
        super().__init__(clips)
        self.passed_over, self.without = list(passed_over), list(without)

    def remarks(self) -> list[str]:
        """What was passed over in a line a reason: how many, and the first of them."""
        reasons: dict[str, list[str]] = {}
        for item in self.passed_over:
            reasons.setdefault(item.why, []).append(kinds.printable(item.path))
        lines = []
        for why, paths in reasons.items():
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines.append(f"passed over, {why}: {paths[0]}{more}")
        return lines


def find_clips(
    sources: Iterable[str | os.PathLike[str]],
    subjects: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Clips[Clip]:
    """The labelled videos of any mix of files (label: the name of their folder), folders, and CSV tables.

    A folder that holds a `clips.csv` is that table. Otherwise root/wave/day1/a.mp4 is of class wave, the first folder
    below the root; a root without such folders is itself one class. Videos that lie loose beside the folders of classes
    have no class and are passed over. subjects, classes: only these; None or empty for all.
    Order: folders by path, tables as they are written. Raises DataError for a source that does not exist, a table that
    is wrong, an unknown subject or class, or where nothing is found.
    """
    found = _find(sources, bags=False)
    return _select(_select(found, "subject", subjects), "label", classes)


def find_recordings(
    sources: Iterable[str | os.PathLike[str]], subjects: Sequence[str] | None = None
) -> Clips[Clip]:
    """The same clips, and the bags and loose videos there are, whose label is "" where no folder or table knows it.

    subjects: of the clips; bags stay.
    """
    found = _find(sources, bags=True)
    if not subjects:
        return found
    chosen = _select(found, "subject", subjects)
    kept = set(chosen)
    # Nobody notes the people of a bag.
    chosen[:] = [clip for clip in found if clip in kept or (clip.is_bag and not clip.subject)]
    return chosen


def check_classes(clips: Clips[Clip], data: str | os.PathLike[str]) -> None:
    """Refuse what no model can learn from: a single class, a folder of a class without a usable clip. DataError."""
    if clips.without:
        some = ", ".join(clips.without[:3])
        raise DataError(
            f"{data}: no clip that can be used in {some}; add videos, or move folders that are not classes elsewhere"
        )
    labels = sorted({clip.label for clip in clips})
    if len(labels) < 2:
        raise DataError(
            f'{data}: all {len(clips)} clips are of class "{"".join(labels)}"; training needs two classes or more: '
            "a folder of class/clip.mp4, or a CSV with path,class"
        )


def _find(sources: Iterable[str | os.PathLike[str]], bags: bool) -> Clips[Clip]:
    found: Clips[Clip] = Clips()
    seen: set[tuple[object, ...]] = set()
    for source in map(Path, sources):
        if source.name == kinds.METADATA:
            source = source.parent
        before, others = len(found), len(found.passed_over)
        if os.path.isfile(source):
            if source.suffix.lower() in tables.SUFFIXES:
                found += _take(_from_table(source, bags), seen, found)
            else:
                found += _take([_single(source, bags)], seen, found)
        elif os.path.isdir(source):
            _folder(source, bags, seen, found)
        elif os.path.lexists(source) and not source.is_symlink():
            raise DataError(f"{source}: not a regular file; give videos, folders, CSV tables or bags")
        else:
            raise DataError(f"{source}: no such clip, folder or CSV file")
        if len(found) == before and not any(i.why == _AGAIN for i in found.passed_over[others:]):
            remarks = "; ".join(found.remarks()[:2])
            wanted = "bag and no video" if bags else "clips"
            raise DataError(
                f"{source}: holds no {wanted}; give a folder with class/clip.mp4, or a CSV with columns path,class"
                + (f" ({remarks})" if remarks else "")
            )
    found[:] = _distinct(found)
    return found


def _single(source: Path, bags: bool) -> Clip:
    if kinds.is_bag_file(source) and not bags:
        raise DataError(f"{source}: a bag and no clip; gc-ros evaluate reads bags")
    folder = clean(Path(os.path.abspath(source)).parent.name)
    return Clip(source, _printed(source.name), folder)


def _folder(source: Path, bags: bool, seen: set[tuple[object, ...]], found: Clips[Clip]) -> None:
    own = Path(os.path.abspath(source)).name
    if kinds.is_bag_folder(source):
        if not bags:
            raise DataError(f"{source}: a bag and no folder of clips; gc-ros evaluate reads bags")
        found += _take([Clip(source, _printed(own))], seen, found)
        return
    table = source / "clips.csv"
    listed = table.is_file()
    if listed:
        by_path = sorted(_from_table(table, bags), key=lambda clip: clip.name.split("/"))
        found += _take(by_path, seen, found)
    below = walk(source, seen)
    # The table says what counts: of the rest, only clips that it lacks are worth a word.
    found.passed_over += [item for item in below.passed_over if not listed or item.why.startswith("cannot")]
    labelled = {e.parts[0] for e in below.entries if len(e.parts) > 1 and not e.is_bag}
    for entry in below.entries:
        label = clean(entry.parts[0]) if len(entry.parts) > 1 else ""
        if entry.is_bag:
            why = "" if bags else "a bag (gc-ros evaluate reads bags)"
        elif listed:
            why = "not in clips.csv"
        else:
            label = label or ("" if labelled else clean(own))
            why = "" if label or bags else "no class, beside the folders of classes"
        if why:
            found.passed_over.append(PassedOver(entry.path, why))
        else:
            found.append(Clip(entry.path, _printed("/".join(entry.parts)), label, pieces=entry.pieces))
    if not listed:
        found.without += sorted(clean(name) for name in below.folders - labelled)


def _take(clips: Iterable[Clip], seen: set[tuple[object, ...]], found: Clips[Clip]) -> list[Clip]:
    """Those that no other source gave."""
    taken = []
    for clip in clips:
        key = kinds.identity(clip.path)
        if key in seen:
            found.passed_over.append(PassedOver(clip.path, _AGAIN))
        else:
            seen.add(key)
            taken.append(clip)
    return taken


def _from_table(table: Path, bags: bool) -> list[Clip]:
    """The clips of a CSV. Raises DataError, naming row or column, for a table that is wrong."""
    _, rows = tables.read_rows(table, ("path", "class"), hint=" with path,class")
    clips, missing, spelled = [], [], dict[tuple[object, ...], str]()
    for number, row in rows:
        text, label = row["path"], clean(row["class"])
        if not text or not label:
            raise DataError(f"{table}: row {number} lacks its path or class; complete or remove it")
        path = tables.locate(table.parent, text)
        exists = os.path.exists(path)
        if not exists and tables.looks_like_windows(text):
            raise DataError(f"{table}: row {number}: {text}: paths are written with /, relative to the table")
        key = kinds.identity(path) if exists else (os.path.abspath(path),)
        if key in spelled:
            also = f" (also as {spelled[key]})" if spelled[key] != text else ""
            raise DataError(f"{table}: {text} is listed more than once{also}; each clip has one class")
        spelled[key] = text
        if not exists:
            missing.append(text)
            continue
        clip = Clip(
            path,
            _printed(tables.name_of(text, path, table.parent)),
            label,
            clean(row.get("subject", "")),
            tabled=True,
        )
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise DataError(f"{table}: row {number}: {text} is not a regular file")
        if path.is_dir() and not kinds.is_bag_folder(path, alone=True):
            raise DataError(f"{table}: row {number}: {text} is a folder and no bag; list the videos in it")
        if clip.is_bag and not bags:
            raise DataError(
                f"{table}: row {number}: {text} is a bag and no video; gc-ros evaluate reads bags"
            )
        clips.append(clip)
    if missing:
        raise DataError(
            f"{table}: {len(missing)} of {len(rows)} files do not exist, the first is {missing[0]}"
        )
    return clips


def _printed(name: str) -> str:
    return unicodedata.normalize("NFC", kinds.printable(name))


def _distinct(clips: Sequence[Clip]) -> list[Clip]:
    """Names that several have are told apart by number, in the order found; the first keeps its own."""
    all_names, used = {clip.name for clip in clips}, set[str]()
    result = []
    for clip in clips:
        name, number = clip.name, 1
        while name in used or (number > 1 and name in all_names):
            number += 1
            stem, suffix = os.path.splitext(clip.name)
            known = suffix.lower() in VIDEO_SUFFIXES or suffix.lower() in kinds.BAG_SUFFIXES
            name = f"{stem}~{number}{suffix}" if known else f"{clip.name}~{number}"
        used.add(name)
        result.append(replace(clip, name=name))
    return result


def _select(clips: Clips[Clip], which: str, wanted: Sequence[str] | None) -> Clips[Clip]:
    chosen = {clean(value) for value in wanted or ()}
    if not chosen:
        return clips
    there = sorted({getattr(clip, which) for clip in clips} - {""})
    if unknown := sorted(chosen - set(there)):
        name = "class" if which == "label" else which
        have = f"there are {', '.join(there)}" if there else "there are none"
        hint = "" if there or which == "label" else "; subjects come from a CSV (path,class,subject)"
        raise DataError(f'no {name} "{unknown[0]}" among the clips; {have}{hint}')
    return Clips((c for c in clips if getattr(c, which) in chosen), clips.passed_over, clips.without)


def tables_of(clips: Sequence[Clip], place: Callable[[str], Path], *, there_only: bool = False) -> list[Path]:
    """The tables of joints or boxes of the clips: `place` says by a clip's name where its own lies.

    A table is named after its clip without the ending. Raises DataError where two clips would share one so, whose rows
    would be wrong for one of them; with `there_only` where they share one that exists.
    """
    tables = [place(clip.name) for clip in clips]
    owners: dict[Path, str] = {}
    for clip, table in zip(clips, tables, strict=True):
        other = owners.setdefault(table, clip.name)
        if other != clip.name and (not there_only or table.is_file()):
            raise DataError(
                f"{other} and {clip.name} would share the table {table}: rename one of the two videos, and delete the "
                "table if it exists"
            )
    return tables
