# SPDX-License-Identifier: Apache-2.0
"""Recorded messages of rosbag2 (MCAP, sqlite3, split, zstd) and ROS 1 bags, damaged ones included.

Libraries stop at the first thing that is wrong with a file. A robot that lost power leaves an MCAP file without
index, with half a chunk at its end, and no metadata.yaml; all but that half is good. So MCAP is read chunk by chunk
here: by the index where there is one, else record by record, and by searching for the next chunk where lengths are
nonsense. A chunk that fails its checksum is left out, since nothing tells which of its messages are sound.
What was left out stands in `Recording.damage`, one line a place.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import shutil
import sqlite3
import struct
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lz4.frame
import yaml
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from trt_build.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
SUFFIXES = (".mcap", ".db3", ".bag")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _DATA_END = 3, 4, 5, 6, 8, 15
_RECORD, _MESSAGE_HEAD, _CHUNK_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
# A chunk's record up to the name of its compression, to find the next one behind nonsense.
_CHUNK_PATTERN = re.compile(rb"\x06.{36}(?:\0{4}|\x03\0\0\0lz4|\x04\0\0\0zstd)", re.DOTALL)
_MAX_LOST_ROWS = 4096

Raw = tuple[str, int, Any]  # topic, time of recording in ns, serialised message


@dataclass(frozen=True)
class Message:
    """One message; `message` has the fields of its ROS type."""

    topic: str
    msgtype: str
    log_ns: int
    message: Any


class Recording:
    """A bag that is open. topics: type by name. damage: what could not be read so far; more comes while reading.

    Raises DataError when nothing of the bag can be read at all.
    """

    def __init__(self, bag: str | os.PathLike[str]) -> None:
        self.path = Path(bag)
        if not self.path.exists():
            raise DataError(f"{bag}: no such bag; make one with: gc-ros make-bag CLIPS --out {bag}")
        self.damage: list[str] = []
        self.topics: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        try:
            self._files: list[Any] = []
            for path in self._storage_files():
                self._open(path)
            if not self._files:
                raise DataError(self._cannot(self.damage[0] if self.damage else "it holds no storage file"))
        except BaseException:
            self._stack.close()
            raise
        self._ros1 = isinstance(self._files[0], _Ros1File)
        self._store = get_typestore(Stores.ROS1_NOETIC if self._ros1 else Stores.ROS2_JAZZY)
        for file in self._files:
            for topic, (msgtype, encoding, text) in file.connections.items():
                self.topics.setdefault(topic, msgtype)
                if msgtype not in self._store.fielddefs and text:
                    self._register(msgtype, encoding, text)

    def _cannot(self, why: str) -> str:
        return f"{self.path}: not a bag that can be read ({why}); record it again"

    def _storage_files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        found = sorted(
            (p for p in self.path.iterdir() if p.name.removesuffix(".zstd").endswith(SUFFIXES)),
            key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)],
        )
        try:
            info = yaml.safe_load((self.path / "metadata.yaml").read_text(encoding="utf-8"))
            names = [Path(name).name for name in info["rosbag2_bagfile_information"]["relative_file_paths"]]
        except FileNotFoundError:
            if found:
                self.damage.append("metadata.yaml is missing; the files in the directory are read by name")
            return found
        except Exception as error:
            self.damage.append(f"metadata.yaml is not readable ({_one_line(error)}); files are read by name")
            return found
        for name in names:
            if not (self.path / name).exists():
                self.damage.append(f"{name} is missing")
        return [self.path / name for name in names if (self.path / name).exists()]

    def _open(self, path: Path) -> None:
        name = path.name
        try:
            if name.endswith(".zstd"):
                path = self._unpack(path)
            kind = {".mcap": _McapFile, ".db3": _Sqlite3File, ".bag": _Ros1File}.get(path.suffix)
            if kind is None:
                raise ValueError(f"files of a bag end in {', '.join(SUFFIXES)}")
            file: Any = kind(path, lambda what: self.damage.append(f"{name}: {what}"))
        except Exception as error:
            self.damage.append(f"{name}: {_one_line(error)}")
            return
        self._stack.callback(file.close)
        self._files.append(file)

    def _unpack(self, path: Path) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        target = folder / path.name.removesuffix(".zstd")
        with open(target, "wb") as out:
            try:
                with zstd.open(path, "rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
            except (EOFError, zstd.ZstdError) as error:
                self.damage.append(f"{path.name}: {_one_line(error)}")
        return target

    def _register(self, msgtype: str, encoding: str, text: str) -> None:
        try:
            if encoding == "ros2idl":
                types: Any = {}
                for part in text.split("=" * 80 + "\n"):
                    types.update(
                        get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part)
                    )
            else:
                types = get_types_from_msg(text, msgtype)
            self._store.register({k: v for k, v in types.items() if k not in self._store.fielddefs})
        except Exception as error:  # its messages cannot be read then, which is said when they are asked for
            self.damage.append(f"definition of {msgtype}: {_one_line(error)}")

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """The messages of these topics in the order of recording, those that cannot be deserialised left out."""
        deserialize = self._store.deserialize_ros1 if self._ros1 else self._store.deserialize_cdr
        for file in self._files:
            for topic, log_ns, data in file.messages(topics):
                try:
                    if bytes(data[:4]) == _ZSTD_MAGIC:  # compression_mode: message; CDR begins with two zeros
                        data = zstd.decompress(data)
                    message = deserialize(data, self.topics[topic])
                except Exception as error:
                    self.damage.append(f"a message on {topic} at {log_ns} ns: {_one_line(error)}")
                    continue
                yield Message(topic, self.topics[topic], log_ns, message)

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, order=True)
class _Unit:
    """A chunk, or a message outside of any chunk."""

    start_ns: int
    offset: int


class _McapFile:
    def __init__(self, path: Path, damaged: Any) -> None:
        self._damaged = damaged
        self.connections: dict[str, tuple[str, str, str]] = {}
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, str] = {}
        self._size = path.stat().st_size
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  closed by close()
        try:
            if self._file.read(8) != MAGIC:
                raise ValueError("no MCAP file")
            units = self._indexed()
            self._units = sorted(units if units is not None else self._walk())
            if units is None:
                for unit in self._units:  # schemas and channels lie in the chunks
                    self._load(unit, (), quiet=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _indexed(self) -> list[_Unit] | None:
        """Chunks by the summary at the end; None where there is none that makes sense."""
        try:
            self._file.seek(-37, os.SEEK_END)
            tail = self._file.read(37)
            start = struct.unpack("<Q", tail[9:17])[0]
            if tail[-8:] != MAGIC or not 0 < start < self._size:
                return self._no_index()
            self._file.seek(start)
            summary = self._file.read(self._size - start - 37)
            crc = struct.unpack("<I", tail[25:29])[0]
            if crc and zlib.crc32(summary + tail[:25]) != crc:
                return self._no_index()
            units = []
            for opcode, body in _records(summary):
                if opcode == _CHUNK_INDEX:
                    begin, _, offset = struct.unpack_from("<QQQ", body)
                    units.append(_Unit(begin, offset))
                else:
                    self._define(opcode, body)
        except (OSError, struct.error, ValueError):
            return self._no_index()
        # Without chunks, messages lie outside of them and the summary does not say where.
        return units if units and self.connections else None

    def _no_index(self) -> list[_Unit] | None:
        self._damaged("no index at its end (recording cut short?); read chunk by chunk")
        return None

    def _walk(self) -> list[_Unit]:
        at, units = 8, []
        while at + 9 <= self._size:
            self._file.seek(at)
            head = self._file.read(9 + 28)
            opcode, length = _RECORD.unpack_from(head)
            if not 0 < opcode <= _DATA_END or (
                at + 9 + length > self._size and opcode not in (_CHUNK, _MESSAGE)
            ):
                at = self._next_chunk(at + 1)
                continue
            if opcode == _DATA_END:
                break
            if opcode == _CHUNK and len(head) == 37:
                units.append(_Unit(_CHUNK_HEAD.unpack_from(head, 9)[0], at))
            elif opcode == _MESSAGE and len(head) >= 9 + 22 and at + 9 + length <= self._size:
                units.append(_Unit(_MESSAGE_HEAD.unpack_from(head, 9)[2], at))
            elif opcode in (_SCHEMA, _CHANNEL):
                self._file.seek(at + 9)
                self._define(opcode, memoryview(self._file.read(length)))
            if (
                opcode == _CHUNK
                and at + 9 + length > self._size
                and (again := self._next_chunk(at + 1)) < self._size
            ):
                at = again  # its length is nonsense, for more follows
                continue
            at += 9 + length
        return units

    def _next_chunk(self, at: int) -> int:
        """Where the next record begins that looks like a chunk; the end of the file where there is none."""
        overlap = b""
        self._file.seek(at)
        while block := self._file.read(1 << 22):
            found = _CHUNK_PATTERN.search(overlap + block)
            if found:
                return at - len(overlap) + found.start()
            at += len(block)
            overlap = (overlap + block)[-64:]
        return self._size

    def _define(self, opcode: int, body: memoryview) -> None:
        if opcode == _SCHEMA:
            key = struct.unpack_from("<H", body)[0]
            name, at = _string(body, 2)
            encoding, at = _string(body, at)
            text, _ = _string(body, at)
            self._schemas[key] = (name, encoding, text)
        elif opcode == _CHANNEL:
            key, schema = struct.unpack_from("<HH", body)
            topic, at = _string(body, 4)
            encoding, _ = _string(body, at)
            if schema in self._schemas and encoding == "cdr":
                self._channels[key] = topic
                self.connections[topic] = self._schemas[schema]

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """In the order of the times of recording, chunks that overlap merged."""
        waiting: list[tuple[int, int, int, Raw]] = []
        for number, unit in enumerate([*self._units, None]):
            while waiting and (unit is None or waiting[0][0] < unit.start_ns):
                yield heapq.heappop(waiting)[3]
            if unit is not None:
                for i, raw in enumerate(self._load(unit, topics)):
                    heapq.heappush(waiting, (raw[1], number, i, raw))

    def _load(self, unit: _Unit, topics: Collection[str], quiet: bool = False) -> list[Raw]:
        self._file.seek(unit.offset)
        raws: list[Raw] = []
        try:
            opcode, length = _RECORD.unpack(self._file.read(9))
            body = memoryview(self._file.read(length if length <= self._size else -1))
            if opcode == _MESSAGE:
                self._take(body, topics, raws)
                return raws
            if opcode != _CHUNK:
                raise ValueError("no chunk where the index has one")
            for kind, record in _records(self._content(body, len(body) < length)):
                if kind == _MESSAGE:
                    self._take(record, topics, raws)
                else:
                    self._define(kind, record)
            if len(body) < length:
                raise ValueError(
                    f"cut short, {len(raws)} messages of it are whole" if topics else "cut short"
                )
        except Exception as error:  # whatever the codecs raise
            if not quiet:
                self._damaged(f"chunk at byte {unit.offset}: {_one_line(error)}")
        return raws

    def _take(self, body: memoryview, topics: Collection[str], raws: list[Raw]) -> None:
        channel, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(body)
        topic = self._channels.get(channel)
        if topic in topics:
            raws.append((str(topic), log_ns, body[22:]))

    def _content(self, body: memoryview, cut: bool) -> bytes | memoryview:
        _, _, size, crc = _CHUNK_HEAD.unpack_from(body)
        compression, at = _string(body, 28)
        data = body[at + 8 :]
        if cut:
            if compression == "zstd":
                return zstd.ZstdDecompressor().decompress(data)
            return lz4.frame.LZ4FrameDecompressor().decompress(data) if compression == "lz4" else data
        content: Any = data
        if compression:
            content = {"zstd": zstd.decompress, "lz4": lz4.frame.decompress}[compression](data)
        if len(content) != size or (crc and zlib.crc32(content) != crc):
            raise ValueError("checksum does not match, left out")
        return content


def _records(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Whole records of a chunk or summary; half a record at the end is left out."""
    view, at = memoryview(data), 0
    while at + 9 <= len(view):
        opcode, length = _RECORD.unpack_from(view, at)
        if at + 9 + length > len(view):
            return
        yield opcode, view[at + 9 : at + 9 + length]
        at += 9 + length


def _string(body: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return str(body[at + 4 : at + 4 + length], "utf-8"), at + 4 + length


class _Sqlite3File:
    def __init__(self, path: Path, damaged: Any) -> None:
        self._damaged = damaged
        if path.stat().st_size < 100 or path.read_bytes()[:15] != b"SQLite format 3":
            raise ValueError("no sqlite3 file")
        self._db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            check_same_thread=False,  # one at a time, but any
        )
        try:
            # Else SQLite refuses a file that is shorter than its header says, whole pages and all.
            self._db.execute("PRAGMA writable_schema=ON")
            rows = self._db.execute("SELECT id, name, type FROM topics").fetchall()
            self.connections = {str(name): (str(kind), "ros2msg", "") for _, name, kind in rows}
            self._ids = {int(key): str(name) for key, name, _ in rows}
            with contextlib.suppress(sqlite3.Error):  # Humble's files have no such table
                query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                texts = {str(k): (str(e), str(t)) for k, e, t in self._db.execute(query)}
                self.connections = {
                    n: (k, *texts.get(k, ("ros2msg", ""))) for n, (k, _, _) in self.connections.items()
                }
        except sqlite3.Error as error:
            self._db.close()
            raise ValueError(str(error)) from None

    def close(self) -> None:
        self._db.close()

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """In the order of rows, which is that of recording: it needs no index, and rows behind a hole are found."""
        keys = [key for key, name in self._ids.items() if name in topics]
        marks = ",".join("?" * len(keys))
        query = f"SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? AND topic_id IN ({marks}) ORDER BY id"
        last, lost = 0, 0
        while lost < _MAX_LOST_ROWS:
            try:
                for number, key, stamp, data in self._db.execute(query, [last, *keys]):
                    if lost:
                        self._damaged(f"about {lost} rows before row {number} are not readable")
                    last, lost = number, 0
                    yield self._ids[key], stamp, data
                break
            except sqlite3.Error as error:
                if not lost:
                    self._damaged(f"row {last + 1}: {_one_line(error)}")
                last, lost = last + 1, lost + 1


class _Ros1File:
    def __init__(self, path: Path, damaged: Any) -> None:
        self._damaged = damaged
        self._reader = Ros1Reader(path)
        self._reader.open()
        self.connections = {c.topic: (c.msgtype, "ros2msg", c.msgdef.data) for c in self._reader.connections}

    def close(self) -> None:
        self._reader.close()

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        chosen = [c for c in self._reader.connections if c.topic in topics]
        if not chosen:
            return
        try:
            for connection, log_ns, data in self._reader.messages(connections=chosen):
                yield connection.topic, log_ns, data
        except Exception as error:  # whatever its codecs raise
            self._damaged(f"{_one_line(error)}; what follows is not read")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
