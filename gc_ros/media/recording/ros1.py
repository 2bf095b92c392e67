# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader

from gc_ros.media.recording.storage import ROS1, Connection, Damaged, Raw, said


class Ros1File:
    """A .bag file; what follows a place that cannot be read is lost."""

    def __init__(self, path: Path, damaged: Damaged) -> None:
        self._damaged = damaged
        self._reader = Reader(path)
        self._reader.open()
        self.connections = {
            c.topic: Connection(c.msgtype, definition=c.msgdef.data, serialisation=ROS1)
            for c in self._reader.connections
        }
        self.others: dict[str, str] = {}
        self.start_ns = self._reader.start_time if self._reader.message_count else 0

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
            self._damaged(f"{said(error)}; what follows is not read")
