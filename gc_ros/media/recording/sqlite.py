# SPDX-License-Identifier: Apache-2.0
"""rosbag2's sqlite3 files, also cut short, on media that cannot be written, and with rows out of order."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

from gc_ros.media.recording.storage import Connection, Damaged, Raw, remark_set_back, said

_MAGIC = b"SQLite format 3\0"
_MAX_LOST_ROWS = 4096


class SqliteFile:
    """A .db3 file. Nothing is written beside it, and no more of it is read than what is asked for."""

    def __init__(self, path: Path, damaged: Damaged) -> None:
        with path.open("rb") as file:
            head = file.read(100)
        if len(head) < 100 or head[:16] != _MAGIC:
            raise ValueError("no sqlite3 file")
        self._damaged = damaged
        self._stack = contextlib.ExitStack()
        self.others: dict[str, str] = {}
        try:
            self._db = self._connect(path)
            # A view in place of a table could compute for ever.
            query = (
                "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('topics', 'messages')"
            )
            if self._db.execute(query).fetchone() != (2,):
                raise ValueError("no tables of rosbag2")
            rows = self._db.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
            self._ids = {int(key): str(name) for key, name, _, form in rows if form == "cdr"}
            texts: dict[str, tuple[str, str]] = {}
            with contextlib.suppress(sqlite3.Error):  # Humble's files have no such table
                query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                texts = {str(k): (str(e), str(t)) for k, e, t in self._db.execute(query)}
            self.connections = {
                str(name): Connection(str(kind), *texts.get(kind, ("ros2msg", "")))
                for _, name, kind, form in rows
                if form == "cdr"
            }
            self.others = {str(name): f"{kind} ({form})" for _, name, kind, form in rows if form != "cdr"}
            self.start_ns = self._first()
        except sqlite3.Error as error:
            self.close()
            raise ValueError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> sqlite3.Connection:
        """Without a write-ahead log nobody writes: `immutable` then needs no file beside it, on any medium.

        A log that is left of a recording that ended badly holds messages; SQLite can only read it where it can write,
        so both are copied.
        """
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            for file in (path, log):
                shutil.copyfile(file, folder / file.name)
            path, mode = folder / path.name, "mode=rw"
        else:
            mode = "mode=ro&immutable=1"
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?{mode}",
            uri=True,
            check_same_thread=False,  # one at a time, but any
        )
        self._stack.callback(db.close)
        # Else SQLite refuses a file that is shorter than its header says, whole pages and all.
        db.execute("PRAGMA writable_schema=ON")
        return db

    def _first(self) -> int:
        with contextlib.suppress(sqlite3.Error):
            for (stamp,) in self._db.execute("SELECT timestamp FROM messages ORDER BY id LIMIT 1"):
                return int(stamp)
        return 0

    def close(self) -> None:
        self._stack.close()

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """In the order of the times of recording, which mostly is that of rows; then no index is needed."""
        keys = [key for key, name in self._ids.items() if name in topics]
        shuffled = self._shuffled(keys)
        yield from self._by_row(keys) if shuffled is None else self._by_time(shuffled)

    def _shuffled(self, keys: list[int]) -> list[int] | None:
        """Rows by their time; None where they are in order, or where the file does not tell."""
        rows, stamps = array("q"), array("q")
        times = {key: array("q") for key in keys}
        try:
            query = f"SELECT id, topic_id, timestamp FROM messages WHERE topic_id IN ({_marks(keys)})"
            for row, key, stamp in self._db.execute(f"{query} ORDER BY id", keys):
                rows.append(row)
                stamps.append(stamp)
                times[key].append(stamp)
        except (sqlite3.Error, TypeError, OverflowError):
            return None
        if all(stamps[i] <= stamps[i + 1] for i in range(len(stamps) - 1)):
            return None
        remark_set_back(times.values(), self._damaged)
        return [rows[i] for i in sorted(range(len(rows)), key=lambda i: stamps[i])]

    def _by_time(self, rows: list[int]) -> Iterator[Raw]:
        lost = 0
        for row in rows:
            try:
                query = "SELECT topic_id, timestamp, data FROM messages WHERE id = ?"
                for key, stamp, data in self._db.execute(query, [row]):
                    yield self._ids[key], stamp, data
            except sqlite3.Error as error:
                lost += 1
                if lost == 1:
                    self._damaged(f"row {row}: {said(error)}")
                if lost == _MAX_LOST_ROWS:
                    return

    def _by_row(self, keys: list[int]) -> Iterator[Raw]:
        """Needs no index, and finds rows behind a hole."""
        query = (
            "SELECT id, topic_id, timestamp, data FROM messages "
            f"WHERE id > ? AND topic_id IN ({_marks(keys)}) ORDER BY id"
        )
        last, lost = 0, 0
        while lost < _MAX_LOST_ROWS:
            try:
                for row, key, stamp, data in self._db.execute(query, [last, *keys]):
                    if lost:
                        self._damaged(f"about {lost} rows before row {row} are not readable")
                    last, lost = row, 0
                    yield self._ids[key], stamp, data
                break
            except sqlite3.Error as error:
                if not lost:
                    self._damaged(f"row {last + 1}: {said(error)}")
                last, lost = last + 1, lost + 1


def _marks(keys: list[int]) -> str:
    return ",".join("?" * len(keys))
