# SPDX-License-Identifier: Apache-2.0
"""MCAP files, chunk by chunk: by the index where there is one, else record by record.

Where lengths are nonsense, the next record that makes sense is searched for. A chunk that fails its checksum is left
out, since nothing tells which of its messages are sound. Records of applications (opcodes from 0x80) are skipped, as
the specification has it.
"""

from __future__ import annotations

import heapq
import os
import re
import struct
import zlib
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lz4.frame

from gc_ros.media.recording.storage import (
    CDR,
    EXPANDED_LIMIT,
    ROS1,
    Connection,
    Damaged,
    Raw,
    expand,
    remark_set_back,
    said,
    zstd,
)

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _DATA_END = 2, 3, 4, 5, 6, 8, 15
_PRIVATE = 0x80
_RECORD, _MESSAGE_HEAD, _CHUNK_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
# How a chunk begins, up to the name of its compression; or a schema, channel or message of less than a terabyte.
_PATTERN = re.compile(rb"\x06.{36}(?:\0{4}|\x03\0\0\0lz4|\x04\0\0\0zstd)|[\x03-\x05].{5}\0{3}", re.DOTALL)
_LONGEST = 64  # bytes that the pattern takes at most, and a little more
_LONGEST_SUMMARY, _LONGEST_DEFINITION = 1 << 30, 1 << 26
_CHAIN = 3  # records in a row that make sense


@dataclass(frozen=True, order=True)
class _Unit:
    """A chunk, or a message outside of any chunk."""

    start_ns: int
    offset: int


class McapFile:
    """An .mcap file, as it was finished or as it was left."""

    def __init__(self, path: Path, damaged: Damaged) -> None:
        self._damaged = damaged
        self.connections: dict[str, Connection] = {}
        self.others: dict[str, str] = {}
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, str] = {}
        self._size = path.stat().st_size
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  closed by close()
        try:
            if self._file.read(8) != MAGIC:
                raise ValueError("no MCAP file")
            units = self._indexed()
            self._units = sorted(set(units if units is not None else self._walk()))
            if units is None:
                for unit in self._units:  # schemas and channels lie in the chunks
                    self._load(unit, (), quiet=True)
            self.start_ns = self._units[0].start_ns if self._units else 0
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
            if tail[0] == _FOOTER and tail[-8:] == MAGIC and start == 0:
                return None  # finished without a summary, as the specification allows
            if tail[-8:] != MAGIC or not max(0, self._size - _LONGEST_SUMMARY) < start < self._size:
                return self._no_index()
            crc = struct.unpack("<I", tail[25:29])[0]
            if crc and zlib.crc32(tail[:25], self._checksum(start, self._size - 37)) != crc:
                return self._no_index()
            units = []
            for opcode, body in self._summary(start, self._size - 37):
                if opcode == _CHUNK_INDEX:
                    begin, _, offset = struct.unpack_from("<QQQ", body)
                    units.append(_Unit(begin, offset))
                else:
                    self._define(opcode, body)
        except (OSError, struct.error, ValueError):
            return self._no_index()
        # Without chunks, messages lie outside of them and the summary does not say where.
        return units if units and (self.connections or self.others) else None

    def _checksum(self, at: int, end: int) -> int:
        self._file.seek(at)
        crc = 0
        while at < end and (block := self._file.read(min(1 << 20, end - at))):
            crc, at = zlib.crc32(block, crc), at + len(block)
        return crc

    def _summary(self, at: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """The whole records between two places, one at a time in memory. Raises ValueError where one is too long."""
        self._file.seek(at)
        while at + 9 <= end:
            opcode, length = _RECORD.unpack(self._file.read(9))
            at += 9 + length
            if at > end:
                return
            if length > _LONGEST_DEFINITION:
                raise ValueError(f"a record of {length} bytes in the summary")
            yield opcode, memoryview(self._file.read(length))

    def _no_index(self) -> list[_Unit] | None:
        self._damaged("no index at its end (recording cut short?); read chunk by chunk")
        return None

    def _walk(self) -> list[_Unit]:
        at, units, loose = 8, [], False  # loose: messages lie outside of chunks
        while at + 9 <= self._size:
            opcode, length, head = self._head(at)
            if not self._sound(at, opcode, length):
                at = self._skip(at, loose)
                continue
            if opcode == _DATA_END:
                break
            if opcode == _CHUNK and len(head) == 37:
                units.append(_Unit(_CHUNK_HEAD.unpack_from(head, 9)[0], at))
            elif opcode == _MESSAGE and len(head) >= 9 + 22 and at + 9 + length <= self._size:
                units.append(_Unit(_MESSAGE_HEAD.unpack_from(head, 9)[2], at))
                loose = True
            elif opcode in (_SCHEMA, _CHANNEL):
                self._file.seek(at + 9)
                self._try_define(opcode, self._file.read(min(length, _LONGEST_DEFINITION)))
            if (
                opcode in (_CHUNK, _MESSAGE)
                and at + 9 + length > self._size
                and (again := self._next(at + 1, loose)) < self._size
            ):
                at = again  # its length is nonsense, for more follows
                continue
            at += 9 + length
        return units

    def _head(self, at: int) -> tuple[int, int, bytes]:
        """(opcode, length, up to 37 bytes) of the record at `at`; opcode 0, which none has, at the end of the file."""
        self._file.seek(at)
        head = self._file.read(9 + 28)
        return (*_RECORD.unpack_from(head), head) if len(head) >= 9 else (0, 0, head)

    def _sound(self, at: int, opcode: int, length: int) -> bool:
        """Whether a record can be one; of a chunk or message the file may have lost the end."""
        if not (0 < opcode <= _DATA_END or opcode >= _PRIVATE):
            return False
        return at + 9 + length <= self._size or opcode in (_CHUNK, _MESSAGE)

    def _skip(self, at: int, loose: bool) -> int:
        again = self._next(at + 1, loose)
        if again < self._size:
            self._damaged(f"{again - at} bytes at byte {at} are no records")
        return again

    def _next(self, at: int, loose: bool) -> int:
        """Where the next chunk begins; the end of the file where none does.

        loose: or a message that others follow. Not where messages lie in chunks: those of a damaged chunk are unsure.
        """
        overlap = b""
        position = at
        while True:
            self._file.seek(position)
            block = self._file.read(1 << 22)
            if not block:
                return self._size
            start = position - len(overlap)
            for match in _PATTERN.finditer(overlap + block):
                place = start + match.start()
                if match[0][0] == _CHUNK or (loose and self._chain(place)):
                    return place
            position += len(block)
            overlap = (overlap + block)[-_LONGEST:]

    def _chain(self, at: int) -> bool:
        for _ in range(_CHAIN):
            opcode, length, head = self._head(at)
            if not (0 < opcode <= _DATA_END or opcode >= _PRIVATE) or at + 9 + length > self._size:
                return False
            if opcode == _MESSAGE and (
                length < 22 or (self._channels and struct.unpack_from("<H", head, 9)[0] not in self._channels)
            ):
                return False
            at += 9 + length
            if opcode in (_DATA_END, _FOOTER) or at == self._size:
                return True
        return True

    def _try_define(self, opcode: int, body: bytes) -> None:
        try:
            self._define(opcode, memoryview(body))
        except (struct.error, ValueError) as error:
            self._damaged(f"a definition: {said(error)}")

    def _define(self, opcode: int, body: memoryview) -> None:
        if opcode == _SCHEMA:
            key = struct.unpack_from("<H", body)[0]
            name, at = _string(body, 2)
            encoding, at = _string(body, at)
            (length,) = struct.unpack_from("<I", body, at)
            # Text of ROS types; of others, such as protobuf, bytes that nothing here reads.
            text = bytes(body[at + 4 : at + 4 + length]).decode("utf-8", "replace")
            self._schemas[key] = (name, encoding, text)
        elif opcode == _CHANNEL:
            key, schema = struct.unpack_from("<HH", body)
            topic, at = _string(body, 4)
            encoding, _ = _string(body, at)
            name, language, text = self._schemas.get(schema, ("unknown type", "", ""))
            if schema in self._schemas and encoding in (CDR, ROS1):
                if encoding == ROS1 and name.count("/") == 1:
                    name = name.replace("/", "/msg/")
                self._channels[key] = topic
                self.connections[topic] = Connection(name, language, text, encoding)
            else:
                self.others[topic] = f"{name} ({encoding or 'no encoding'})"

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """In the order of the times of recording, chunks that overlap merged."""
        waiting: list[tuple[int, int, int, Raw]] = []
        # By topic, where each chunk lies and its times in the order of the file.
        times: dict[str, list[tuple[int, array[int]]]] = {topic: [] for topic in topics}
        for number, unit in enumerate([*self._units, None]):
            while waiting and (unit is None or waiting[0][0] < unit.start_ns):
                yield heapq.heappop(waiting)[3]
            if unit is not None:
                raws = self._load(unit, topics)
                for i, raw in enumerate(raws):
                    heapq.heappush(waiting, (raw[1], number, i, raw))
                for topic, chunks in times.items():
                    chunks.append((unit.offset, array("Q", (raw[1] for raw in raws if raw[0] == topic))))
        in_file = ([ns for _, chunk in sorted(chunks) for ns in chunk] for chunks in times.values())
        remark_set_back(in_file, self._damaged)

    def _load(self, unit: _Unit, topics: Collection[str], quiet: bool = False) -> list[Raw]:
        self._file.seek(unit.offset)
        raws: list[Raw] = []
        try:
            opcode, length, head = self._head(unit.offset)
            if opcode not in (_CHUNK, _MESSAGE):
                raise ValueError("no chunk where the index has one")
            left = self._size - unit.offset - 9
            body = memoryview(self._body(unit.offset + 9, min(length, left), opcode, head[9:]))
            if opcode == _MESSAGE:
                self._take(body, topics, raws)
                return raws
            for kind, record in _records(self._content(body, length > left)):
                if kind == _MESSAGE:
                    self._take(record, topics, raws)
                else:
                    self._define(kind, record)
            if length > left:
                raise ValueError(
                    f"cut short, {len(raws)} messages of it are whole" if topics else "cut short"
                )
        except Exception as error:  # whatever the codecs raise
            if not quiet:
                self._damaged(f"chunk at byte {unit.offset}: {said(error)}")
        return raws

    def _body(self, at: int, length: int, opcode: int, head: bytes) -> bytes:
        """What of a record can be its own, whatever its length says. Raises ValueError where that is too much."""
        if opcode == _CHUNK:
            _, _, size, _ = _CHUNK_HEAD.unpack_from(head)
            if size > EXPANDED_LIMIT:
                raise ValueError(f"expands to {size} bytes, more than {EXPANDED_LIMIT}, left out")
            # Compression adds to what does not shrink, but never so much.
            length = min(length, size + size // 8 + (1 << 16))
        elif length > EXPANDED_LIMIT:
            raise ValueError(f"of {length} bytes, more than {EXPANDED_LIMIT}, left out")
        self._file.seek(at)
        return self._file.read(length)

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
                return zstd.ZstdDecompressor().decompress(data, max_length=size)
            if compression == "lz4":
                return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size)
            return data
        content: Any = data
        if compression == "zstd":
            content = expand(data, size)
        elif compression == "lz4":
            # One byte more than the chunk says is enough to see that it lies.
            content = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        elif compression:
            raise ValueError(f"compressed with {compression}, which nothing here reads")
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
