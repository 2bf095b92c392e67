# SPDX-License-Identifier: Apache-2.0
"""A bag that is open: its storage files, its topics, its messages in the order of recording."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from gc_ros.media import kinds
from gc_ros.media.people_topics import FAMILIES
from gc_ros.media.recording import mcap, ros1, sqlite
from gc_ros.media.recording.storage import CDR, ROS1, Connection, Storage, expand, said, zstd
from gc_ros.media.transports import BY_TYPE
from trt_build.errors import DataError

_ZSTD_MAGIC, _CDR_HEAD = b"\x28\xb5\x2f\xfd", b"\0\1"  # little-endian
_KINDS: dict[str, Any] = {".mcap": mcap.McapFile, ".db3": sqlite.SqliteFile, ".bag": ros1.Ros1File}
_OF_PEOPLE = {name: row.definitions for row in FAMILIES for name in row.definitions}
_MAGIC = {mcap.MAGIC[:6]: ".mcap", b"SQLite": ".db3", b"#ROSBA": ".bag"}
# A compressed file may hold this many times its size; images that are worth recording shrink by far less.
_MOST_EXPANDED, _ALWAYS_EXPANDED = 1000, 1 << 30


@dataclass(frozen=True)
class Message:
    """One message; `message` has the fields of its ROS type."""

    topic: str
    msgtype: str
    log_ns: int
    message: Any


class Recording:
    """A bag that is open. topics: type by name. damage: what could not be read so far; more comes while reading.

    others: "type (encoding)" by name of the topics that cannot be read. pieces: the files of a split bag without
    metadata.yaml, in their order. Raises DataError when nothing of the bag can be read at all.
    """

    def __init__(self, bag: str | os.PathLike[str], pieces: Sequence[Path] = ()) -> None:
        self.path = Path(bag)
        if not self.path.exists():
            raise DataError(
                f"{bag}: no such bag; make one with: gc-ros make-bag CLIPS --out {quote(str(bag))}"
            )
        self.damage: list[str] = []
        self.topics: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}
        self._stores: dict[str, Any] = {}
        self._in_order = True  # whether something told the order of the files
        self._stack = contextlib.ExitStack()
        try:
            self._files: list[Storage] = []
            paths = list(pieces) or self._storage_files()
            pointers = [path for path in paths if kinds.lfs_pointer(path)]
            for path in paths:
                if path in pointers:
                    self.damage.append(
                        f"{path.name}: a Git LFS pointer, not the recording; git lfs pull gets it"
                    )
                else:
                    self._open(path)
            if not self._files:
                self._refuse(pointers)
        except BaseException:
            self._stack.close()
            raise
        if not self._in_order:
            self._files.sort(key=lambda file: file.start_ns)
        for file in self._files:
            self.others |= file.others
            for topic, connection in file.connections.items():
                self.topics.setdefault(topic, connection.msgtype)
                self._connections.setdefault(topic, connection)
                self._register(connection)

    def _refuse(self, pointers: Sequence[Path]) -> None:
        if pointers:
            raise DataError(
                f"{self.path}: this is a Git LFS pointer, not the recording; get the bag itself with: git lfs pull"
            )
        why = self.damage[-1] if self.damage else "it holds no storage file"
        raise DataError(f"{self.path}: not a bag that can be read ({why}); record it again")

    def _storage_files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        names = [n for n in os.listdir(self.path) if kinds.is_storage_name(n) and not kinds.is_hidden(n)]
        # A file and its compressed form are one.
        ready = {kinds.plain_name(n): n for n in sorted(names, key=lambda n: not n.lower().endswith(".zstd"))}
        found = sorted(ready.values(), key=_natural)
        try:
            info = yaml.safe_load((self.path / kinds.METADATA).read_text(encoding="utf-8"))
            listed = [Path(n).name for n in info["rosbag2_bagfile_information"]["relative_file_paths"]]
        except FileNotFoundError:
            if found:
                self.damage.append("metadata.yaml is missing; the files in the directory are read by name")
            listed = found
        except Exception as error:
            self.damage.append(f"metadata.yaml is not readable ({said(error)}); files are read by name")
            listed = found
        else:
            listed = self._as_listed(listed, found, names)
        return [self.path / name for name in listed]

    def _as_listed(self, listed: Sequence[str], found: Sequence[str], names: Collection[str]) -> list[str]:
        """The files that metadata.yaml names; where it lacks some, or names others, those that are there."""
        by_plain = {kinds.plain_name(name): name for name in found}
        there: list[str] = []
        missing: list[str] = []
        for name in listed:
            other = name if name in names else by_plain.get(kinds.plain_name(name))
            if other is None:
                missing.append(name)
                continue
            there.append(other)
            if other != name:
                self.damage.append(
                    f"metadata.yaml names {name}, which is not there; {other} is read in its place"
                )
        known = {kinds.plain_name(name) for name in there}
        extra = [name for name in found if kinds.plain_name(name) not in known]
        extra = [name for name in extra if not self._is_copy(name, there)]
        for name in missing[len(extra) :]:
            self.damage.append(f"{name} is missing")
        for name, gone in zip(extra, [*missing, *[""] * len(extra)], strict=False):
            what = (
                f"names {gone}, which is not there; {name} is read in its place" if gone else f"lacks {name}"
            )
            self.damage.append(f"metadata.yaml {what}" + ("" if gone else "; it is read too"))
        self._in_order = not extra
        return [*there, *extra]

    def _is_copy(self, name: str, others: Collection[str]) -> bool:
        return any(filecmp.cmp(self.path / name, self.path / other, shallow=False) for other in others)

    def _open(self, path: Path) -> None:
        name = path.name
        try:
            if name.lower().endswith(".zstd"):
                path = self._unpack(path)
            with path.open("rb") as file:
                suffix = _MAGIC.get(file.read(6), path.suffix.lower())
            kind = _KINDS.get(suffix)
            if kind is None:
                raise ValueError(f"files of a bag end in {', '.join(kinds.BAG_SUFFIXES)}")
            opened: Storage = kind(path, lambda what: self.damage.append(f"{name}: {what}"))
        except Exception as error:
            self.damage.append(f"{name}: {said(error)}")
            return
        self._stack.callback(opened.close)
        self._files.append(opened)

    def _unpack(self, path: Path) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        target = folder / path.name[: -len(".zstd")]
        size = path.stat().st_size
        limit = min(max(_MOST_EXPANDED * size, _ALWAYS_EXPANDED), shutil.disk_usage(folder).free * 9 // 10)
        with open(target, "wb") as out:
            try:
                with zstd.open(path, "rb") as file:
                    # Not `read`, which keeps for itself what it had before the data end too early.
                    while block := file.read1(1 << 20):
                        if out.tell() + len(block) > limit:
                            raise ValueError(f"expands to more than {limit} bytes; unpack it by hand")
                        out.write(block)
            except (EOFError, zstd.ZstdError) as error:
                self.damage.append(f"{path.name}: {said(error)}")
        return target

    def _store(self, serialisation: str) -> Any:
        if serialisation not in self._stores:
            version = Stores.ROS1_NOETIC if serialisation == ROS1 else Stores.ROS2_JAZZY
            self._stores[serialisation] = get_typestore(version)
        return self._stores[serialisation]

    def _register(self, connection: Connection) -> None:
        store, msgtype = self._store(connection.serialisation), connection.msgtype
        types: Any = {}
        text, language = connection.definition, connection.language
        if not text and msgtype in BY_TYPE:  # bags of before Iron hold no definitions
            text, language = BY_TYPE[msgtype].definition, "ros2msg"
        if not text and msgtype in _OF_PEOPLE:
            for name, part in _OF_PEOPLE[msgtype].items():
                types.update(get_types_from_msg(part, name))
            store.register({k: v for k, v in types.items() if k not in store.fielddefs})
        if msgtype in store.fielddefs or not text:
            return
        try:
            if language == "ros2idl":
                # Each definition has a line of = and one with its name before it, the first one too.
                for part in filter(str.strip, text.split("=" * 80 + "\n")):
                    types.update(
                        get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part)
                    )
            else:
                types = get_types_from_msg(text, msgtype)
            store.register({k: v for k, v in types.items() if k not in store.fielddefs})
        except Exception as error:  # its messages cannot be read then, which is said when they are asked for
            self.damage.append(f"definition of {msgtype}: {said(error)}")

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """The messages of these topics in the order of recording, those that cannot be deserialised left out."""
        for file in self._files:
            for topic, log_ns, data in file.messages(topics):
                connection = self._connections[topic]
                try:
                    if bytes(data[:4]) == _ZSTD_MAGIC:  # compression_mode: message; CDR begins with two zeros
                        data = expand(data)
                    message = self._deserialised(data, connection)
                except Exception as error:
                    self.damage.append(
                        f"a message on {topic} ({connection.msgtype}) at {log_ns} ns: {said(error)}"
                    )
                    continue
                yield Message(topic, connection.msgtype, log_ns, message)

    def _deserialised(self, data: Any, connection: Connection) -> Any:
        if connection.serialisation == ROS1:
            try:
                return self._store(ROS1).deserialize_ros1(data, connection.msgtype)
            except Exception:
                if bytes(data[:2]) != _CDR_HEAD:
                    raise  # else CDR under the wrong name, as some converters leave it
        return self._store(CDR).deserialize_cdr(data, connection.msgtype)

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
