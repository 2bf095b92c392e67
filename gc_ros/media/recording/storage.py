# SPDX-License-Identifier: Apache-2.0
"""What every kind of storage file has: connections, raw messages in the order of recording, limits on what expands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CDR",
    "EXPANDED_LIMIT",
    "ROS1",
    "Connection",
    "Damaged",
    "Raw",
    "Storage",
    "expand",
    "remark_set_back",
    "said",
    "zstd",
]

Raw = tuple[str, int, Any]  # topic, time of recording in ns, serialised message
Damaged = Callable[[str], None]  # called with a line for each place that cannot be read
CDR, ROS1 = "cdr", "ros1"
# Of one chunk or message: four times the largest image that is accepted.
EXPANDED_LIMIT = 1 << 30
SET_BACK = "times of recording go back"  # begins a remark: nothing is lost
_SET_BACK_NS = 1_000_000_000  # what a clock that is slowed down does not go back by
_SET_SELDOM = 16  # messages to each time at least that a clock was set; rows in no order go back all the time


@dataclass(frozen=True)
class Connection:
    """What a topic holds. definition: the text of the type, in the language `language` (ros2msg, ros2idl)."""

    msgtype: str
    language: str = "ros2msg"
    definition: str = ""
    serialisation: str = CDR


class Storage(Protocol):
    """One open file of a bag.

    others: "type (encoding)" of topics whose messages nothing here reads. start_ns: time of its first message, 0 where
    there is none.
    """

    connections: dict[str, Connection]
    others: dict[str, str]
    start_ns: int

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """Those of these topics, in the order of recording."""

    def close(self) -> None:
        """Close the file."""


def expand(data: Any, limit: int = EXPANDED_LIMIT) -> bytes:
    """zstd's content. Raises ValueError where it is more than `limit` bytes, before that much memory is used."""
    decompressor = zstd.ZstdDecompressor()
    content = decompressor.decompress(data, max_length=limit + 1)
    if len(content) > limit:
        raise ValueError(f"expands to more than {limit} bytes, left out")
    if not decompressor.eof:
        raise EOFError("compressed data ends too early")
    return content


def remark_set_back(topics: Iterable[Sequence[int]], damaged: Damaged) -> None:
    """Remark on a clock that was set back: by the times of recording of each topic, in the order of the file."""
    for times in topics:
        back = [a - b for a, b in pairwise(times) if a - b > _SET_BACK_NS]
        if back and len(back) * _SET_SELDOM <= len(times):
            damaged(
                f"{SET_BACK} by {max(back) / 1e9:.1f} s: the clock was set; "
                "what was recorded before and after comes mixed"
            )
            return


def said(error: Exception) -> str:
    """What a library says of damage, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
