# SPDX-License-Identifier: Apache-2.0
"""What lies below a folder: videos and bags, each once whatever links there are, and what is passed over."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gc_ros.media import kinds
from trt_build.errors import DataError

# Files of ours beside clips and bags: no word about them, and a folder of them is none of a class.
_OURS = (".truth.csv", ".joints.csv", ".boxes.csv", ".people.csv", "/clips.csv", "/classes.csv", "/truth.csv")


# Folders that our commands write: no class, and the recordings in them are predictions.
_WRITTEN = (
    ({"bag.json", "windows.jsonl"}, "results of gc-ros evaluate"),
    ({"summary.json", "windows.jsonl"}, "results of gc-ros evaluate"),
    ({"options.json", "clips.json"}, "a run of gc-model train"),
)


def _is_ours(name: str) -> bool:
    return f"/{name.lower()}".endswith(_OURS)


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that is not used, and why: "hidden", "not a video", ..."""

    path: Path
    why: str


@dataclass(frozen=True)
class Entry:
    """A video or a bag below a folder. parts: its path from there. pieces: of a split bag without metadata.yaml."""

    path: Path
    parts: tuple[str, ...]
    is_bag: bool
    pieces: tuple[Path, ...] = ()


@dataclass
class Walk:
    """entries in the order of their paths. folders: names of those of the first level that may be of a class."""

    entries: list[Entry] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


def walk(root: Path, seen: set[tuple[object, ...]]) -> Walk:
    """Search a folder. seen: identities of what other sources gave already; grows.

    What lies in the tree itself comes before what a link leads to, so that a clip keeps its own name beside a link to
    it. A link that leads to a folder above `root` is a loop. Raises DataError when `root` cannot be listed.
    """
    search = _Search(root, seen)
    search.folder(root, ())
    while search.folders or search.links:
        if search.folders:
            search.folder(*search.folders.pop())
            continue
        search.links.sort(key=lambda link: link[1])
        search.follow(*search.links.pop(0))
    return search.finished()


class _Search:
    def __init__(self, root: Path, seen: set[tuple[object, ...]]) -> None:
        self.found = Walk()
        self.folders: list[tuple[Path, tuple[str, ...]]] = []
        self.links: list[tuple[Path, tuple[str, ...]]] = []
        self._root, self._seen = root, seen
        # Folders of this search alone: a folder that another source searched may be searched again, its files count.
        self._visited: set[tuple[object, ...]] = set()
        self._ours: set[str] = set()
        self._above = {kinds.identity(p) for p in Path(os.path.realpath(root)).parents}

    def finished(self) -> Walk:
        found = self.found
        found.entries.sort(key=lambda entry: [unicodedata.normalize("NFC", part) for part in entry.parts])
        found.folders -= self._ours
        return found

    def folder(self, path: Path, parts: tuple[str, ...]) -> None:
        try:
            key = kinds.identity(path)
            if key in self._visited:
                self._pass(path, "a link to what is found already")
                return
            self._visited.add(key)
            items = self._listed(path)
        except OSError as error:
            if not parts:
                raise DataError(
                    f"{path}: cannot be listed ({error.strerror or error}); check its permissions"
                ) from None
            self._pass(path, f"cannot be read ({error.strerror or error})")
            return
        names = [item.name for item in items]
        if parts and (written := next((why for marks, why in _WRITTEN if marks <= set(names)), "")):
            self._pass(path, written)
            return
        if parts and kinds.is_bag_folder(path, names):
            self._take(Entry(path, parts, True))
            return
        if parts:
            (self._ours if any(_is_ours(name) for name in names) else self.found.folders).add(parts[0])
        stored: list[str] = []
        for item in items:
            inside = (*parts, item.name)
            if kinds.is_hidden(item.name):
                self._pass(Path(item.path), "hidden")
            elif item.is_symlink():
                self.links.append((Path(item.path), inside))
            elif item.is_dir(follow_symlinks=False):
                self.folders.append((Path(item.path), inside))
            elif item.is_file(follow_symlinks=False) and kinds.is_storage_name(item.name):
                stored.append(item.name)
            else:
                self._file(Path(item.path), inside, item.is_file(follow_symlinks=False))
        self._bags(path, parts, stored)

    def _listed(self, path: Path) -> list[os.DirEntry[str]]:
        items: list[os.DirEntry[str]] = []
        with os.scandir(path) as listing:
            try:
                items.extend(listing)
            except OSError as error:  # a disk that fails in the middle: what was listed counts
                self._pass(path, f"cannot be read to its end ({error.strerror or error})")
        return sorted(items, key=lambda item: item.name)

    def follow(self, path: Path, parts: tuple[str, ...]) -> None:
        """What a link leads to, under the link's name."""
        try:
            key = kinds.identity(path)
        except OSError:  # nothing there, or links in a circle
            self._pass(path, "a link to nothing")
            return
        if os.path.isdir(path):
            if key in self._above:
                self._pass(path, "a link to a folder above")
            elif key in self._visited or key in self._seen:
                self._pass(path, "a link to what is found already")
            else:
                self.folders.append((path, parts))
        elif kinds.is_storage_name(path.name) and os.path.isfile(path):
            self._bags(path.parent, parts[:-1], [path.name])
        else:
            self._file(path, parts, os.path.isfile(path))

    def _bags(self, folder: Path, parts: tuple[str, ...], names: Iterable[str]) -> None:
        for pieces in kinds.split_pieces(names).values():
            files = tuple(folder / name for name in pieces)
            more = files if len(files) > 1 else ()
            self._take(Entry(files[0], (*parts, pieces[0]), True, more))

    def _file(self, path: Path, parts: tuple[str, ...], regular: bool) -> None:
        if regular and kinds.is_video_name(path.name):
            self._take(Entry(path, parts, False))
        elif len(parts) > 1 and not _is_ours(path.name):
            self._pass(path, "not a video" if regular else "not a regular file")

    def _take(self, entry: Entry) -> None:
        try:
            key = kinds.identity(entry.path)
        except OSError as error:  # a folder that may be listed and not entered
            self._pass(entry.path, f"cannot be read ({error.strerror or error})")
            return
        if key in self._seen:
            self._pass(entry.path, "found already")
            return
        self._seen.add(key)
        self.found.entries.append(entry)

    def _pass(self, path: Path, why: str) -> None:
        self.found.passed_over.append(PassedOver(path, why))
