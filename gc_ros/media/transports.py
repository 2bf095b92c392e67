# SPDX-License-Identifier: Apache-2.0
"""The table of the messages in which images come, from a topic or a bag: a row each, and nothing else to change.

`image_transport` of the node names a row, as image_transport does; bags are searched for the types. What reads a row
gets from it the message type, the topic, where the stamp is, and a reader that makes pictures of messages.
No ROS import, and nothing heavy before a reader is made: launch files and documentation read this table too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gc_ros.stamps import NS
from trt_build.errors import DataError
from trt_build.install import pip

if TYPE_CHECKING:
    from gc_ros.media.images import Picture, Refusal


class Reader(Protocol):
    """Makes pictures of the messages of one camera, which it gets in their order.

    waiting: for a message with which it can begin. Nothing here raises, whatever the messages hold.
    """

    @property
    def waiting(self) -> bool: ...

    def read(self, message: Any, tag: Any) -> list[tuple[Any, Picture | Refusal]]:
        """The pictures that are complete now, each with the tag of its own message, and refusals."""

    def lost(self) -> None:
        """Messages before the next one did not come. From any thread."""

    def finish(self) -> list[tuple[Any, Picture | Refusal]]:
        """What was held back. Call at the end."""


@dataclass(frozen=True)
class Transport:
    """A row.

    suffix: of the topic, behind the name of the raw one. decoded: whether making pixels takes long enough for a thread
    of its own. stateful: whether a message builds on those before it, so that none may be passed over. encoding: what
    the message says of its pixels; a change begins a new stream. reader: called with whether the camera is live, which
    refuses what takes long to decode. header: whether stamp and frame_id are in `header`;
    else in `timestamp` and `frame_id`. definition: of the message, for bags that hold none.
    """

    name: str
    type_name: str  # package/msg/Name
    suffix: str
    reader: Callable[[bool], Reader]
    encoding: Callable[[Any], str]
    decoded: bool = True
    stateful: bool = False
    header: bool = True
    definition: str = ""

    @property
    def short_type(self) -> str:
        """The type as people write it: sensor_msgs/Image."""
        return self.type_name.replace("/msg/", "/")

    def stamp(self, message: Any) -> Any:
        """builtin_interfaces/Time of a message, or what has its fields."""
        return message.header.stamp if self.header else message.timestamp

    def set_stamp(self, message: Any, stamp: Any) -> None:
        """Give a message another stamp."""
        if self.header:
            message.header.stamp = stamp
        else:
            message.timestamp = stamp

    def stamp_ns(self, message: Any) -> int:
        """The same in nanoseconds; 0: none."""
        stamp = self.stamp(message)
        return int(stamp.sec) * NS + int(stamp.nanosec)

    def refuse_stamp(self, message: Any) -> str | None:
        """Why a stamp is none, or None."""
        nanoseconds = int(self.stamp(message).nanosec)
        if nanoseconds < NS:
            return None
        return f"stamp with {nanoseconds} nanoseconds, a second has {NS}; let the driver fill header.stamp"

    def frame_id(self, message: Any) -> str:
        return str(message.header.frame_id if self.header else message.frame_id)


class _Single:
    """A reader of messages that each hold one image."""

    waiting = False

    def __init__(self, compressed: bool, live: bool) -> None:
        self._compressed, self._live = compressed, live

    def read(self, message: Any, tag: Any) -> list[tuple[Any, Picture | Refusal]]:
        from gc_ros.media import images

        return [(tag, images.picture_of(message, compressed=self._compressed, live=self._live))]

    def lost(self) -> None:
        pass

    def finish(self) -> list[tuple[Any, Picture | Refusal]]:
        return []


class _Packets:
    """A reader of messages that each hold one packet of a video stream. codec: the name of its field."""

    def __init__(self, codec: str) -> None:
        try:
            from gc_ros.media.streams import Stream
        except ImportError as error:
            raise DataError(
                f"PyAV, which decodes video, cannot be imported ({error}); type: {pip('av>=14')}"
            ) from None
        self._stream, self._codec = Stream(), codec

    @property
    def waiting(self) -> bool:
        return self._stream.waiting

    def read(self, message: Any, tag: Any) -> list[tuple[Any, Picture | Refusal]]:
        from gc_ros.media.images import Refusal

        try:
            data, codec = bytes(message.data), str(getattr(message, self._codec))
        except Exception as error:  # a field is missing or of the wrong type
            self._stream.lost()
            return [(tag, Refusal(f"video packet cannot be read: {error}"))]
        return self._stream.read(data, codec, tag)

    def lost(self) -> None:
        self._stream.lost()

    def finish(self) -> list[tuple[Any, Picture | Refusal]]:
        return self._stream.finish()


TRANSPORTS = (
    Transport(
        "raw",
        "sensor_msgs/msg/Image",
        "",
        reader=lambda live: _Single(compressed=False, live=live),
        encoding=lambda message: str(message.encoding),
        decoded=False,
    ),
    Transport(
        "compressed",
        "sensor_msgs/msg/CompressedImage",
        "/compressed",
        reader=lambda live: _Single(compressed=True, live=live),
        encoding=lambda message: str(message.format),
    ),
    Transport(
        "foxglove",
        "foxglove_msgs/msg/CompressedVideo",
        "/foxglove",
        reader=lambda live: _Packets("format"),
        encoding=lambda message: str(message.format),
        stateful=True,
        header=False,
        definition="builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    ),
    Transport(
        "ffmpeg",
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
        "/ffmpeg",
        reader=lambda live: _Packets("encoding"),
        encoding=lambda message: str(message.encoding),
        stateful=True,
        definition="std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n",
    ),
)
BY_NAME = {row.name: row for row in TRANSPORTS}
BY_TYPE = {row.type_name: row for row in TRANSPORTS}
