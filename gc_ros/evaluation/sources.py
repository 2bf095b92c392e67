# SPDX-License-Identifier: Apache-2.0
"""What can be evaluated, behind one front: bags, single storage files, videos, folders and tables of them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gc_ros.media.bag_reading import choose_topic, stamped
from gc_ros.media.clips import Clip, Clips, find_recordings
from gc_ros.media.images import Picture, Refusal
from gc_ros.media.kinds import printable
from gc_ros.media.recording import Message, Recording
from gc_ros.media.transports import BY_TYPE, Transport
from gc_ros.media.video import read_pictures
from gc_ros.recognition.intake import Signature, signature_of
from gc_ros.recognition.sampler import Sampler
from trt_build.bundle import file_sha256
from trt_build.errors import DataError, ImageError

_KEPT = 64  # messages of a stream between two frames; what a decoder holds back, and some that it refuses


@dataclass(frozen=True)
class Source(Clip):
    """A bag or video to evaluate. name: a relative path, distinct among those of a run."""

    @property
    def is_video(self) -> bool:
        return not self.is_bag

    def files(self) -> list[Path]:
        """Its files in a fixed order."""
        if self.pieces:
            return list(self.pieces)
        if not self.path.is_dir():
            return [self.path]
        # SQLite's -shm comes and goes with whoever reads.
        return sorted(p for p in self.path.iterdir() if p.is_file() and not p.name.endswith("-shm"))

    def quick(self) -> list[list[Any]]:
        """Names, sizes, times and places of its files: cheap to get, and the same as long as nobody touches them.

        With the time of change (ctime), since programs set that of modification as they like.
        """
        stats = [(printable(file.name), file.stat()) for file in self.files()]
        return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]

    def unchanged(self, before: list[list[Any]]) -> bool:
        """Whether its files are those of a `quick()` before; not where one of them went away meanwhile."""
        try:
            return self.quick() == before
        except (FileNotFoundError, NotADirectoryError):
            return False

    def sha256(self, stopped: threading.Event | None = None) -> str:
        """Of the content of its files and their names; `stopped` as of `file_sha256`."""
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(os.fsencode(file.name) + f" {file_sha256(file, stopped)}\n".encode())
        return digest.hexdigest()


def find_sources(paths: Iterable[str | os.PathLike[str]]) -> Clips[Source]:
    """Bags and videos among files, folders (searched), and CSV tables with path,class. Raises DataError."""
    paths = [Path(path) for path in paths]
    if gone := [path for path in paths if not os.path.exists(path)]:
        raise DataError(f"{gone[0]}: no such bag, video or folder")
    found = find_recordings(paths)
    return Clips((Source(**vars(clip)) for clip in found), found.passed_over, found.without)


@dataclass(frozen=True)
class Frame:
    """One image. log_ns: time of recording; header_ns: stamp of its header; for a video both the same as the stamp.

    messages: those that it is made of, as they came since the frame before; of a video stream there may be several.
    """

    stamp_ns: int
    log_ns: int
    picture: Picture = field(repr=False)
    encoding: str
    messages: tuple[Message, ...] = field(default=(), repr=False)
    made: Any = field(default=None, repr=False)  # by `FrameReader(make=)`
    people: tuple[Message, ...] = field(default=(), repr=False)  # of their topics, since the frame before
    header_ns: int = 0


class FrameReader:
    """The frames of a source, one after the other; afterwards its attributes say what was wrong with them.

    others: further topics whose messages are kept in `messages` as they come. sampler: one like the recogniser's, to
    foresee which frames it will take; their pixels are made here, in the thread that reads, the others' never.
    make: what else to make of them here, kept in `Frame.made`.
    people: given the topics of a bag, those of detected people, whose messages come with the frames in the order of
        recording; the last are in `rest`.
    """

    def __init__(
        self,
        source: Source,
        topic: str | None,
        stamps: str,
        others: tuple[str, ...] = (),
        sampler: Sampler | None = None,
        make: Callable[[Picture], Any] = lambda _: None,
        people: Callable[[dict[str, str]], Sequence[str]] = lambda _: (),
    ) -> None:
        self.source, self.stamps, self._others, self._sampler = source, stamps, others, sampler
        self._make = make
        self.images = self.zero_stamps = 0
        self.refused: Counter[str] = Counter()
        self.damage: list[str] = []
        self.messages: list[Message] = []  # of the other topics
        self.topic, self.frame_id = "", "camera"
        self.people_topics: tuple[str, ...] = ()
        self.rest: list[Message] = []  # of people, since the last frame
        self._recording: Recording | None = None
        self._signature: Signature | None = None
        if source.is_video:
            if topic or others:
                raise DataError(f"{source.path}: a video has no topics; give a bag")
            return
        self._recording = Recording(source.path, source.pieces)
        try:
            self.topic = choose_topic(self._recording, topic)
            for other in others:
                if other not in self._recording.topics:
                    have = ", ".join(sorted(self._recording.topics))
                    raise DataError(
                        f"{source.path}: no topic {other} for the ground truth; there are: {have}"
                    )
            self.people_topics = tuple(people(self._recording.topics))
        except DataError:
            self._recording.close()
            raise

    def close(self) -> None:
        """Close the source without reading its frames."""
        if self._recording is not None:
            self._recording.close()

    def __iter__(self) -> Iterator[Frame]:
        if self._recording is None:
            yield from self._video()
            return
        with self._recording as recording:
            transport = BY_TYPE[recording.topics[self.topic]]
            reader, since = transport.reader(False), deque[Message](maxlen=_KEPT if transport.stateful else 1)
            items = recording.messages([self.topic, *self._others, *self.people_topics])
            for item, stamp_ns in stamped(transport, self.topic, items):
                if item.topic in self.people_topics:
                    self.rest.append(item)
                    continue
                if item.topic != self.topic:
                    self.messages.append(item)
                    continue
                self.images += 1
                if wrong_stamp := transport.refuse_stamp(item.message):
                    self.refused[wrong_stamp] += 1
                    reader.lost()
                    continue
                since.append(item)
                for (source, stamp), found in reader.read(item.message, (item, stamp_ns)):
                    yield from self._frame(transport, source, stamp, found, since)
            for (source, stamp), found in reader.finish():
                yield from self._frame(transport, source, stamp, found, since)
            self.damage = list(recording.damage)

    def _frame(
        self,
        transport: Transport,
        item: Message,
        stamp_ns: int | None,
        picture: Picture | Refusal,
        since: deque[Message],
    ) -> Iterator[Frame]:
        if isinstance(picture, Refusal):
            self.refused[picture.reason] += 1
            return
        message = item.message
        zero = stamp_ns is None
        stamp = item.log_ns if stamp_ns is None or self.stamps == "log" else stamp_ns
        encoding = transport.encoding(message)
        usable, made = self._foresee(picture, stamp, encoding)
        if not usable:
            return
        self.zero_stamps += zero
        self.frame_id = transport.frame_id(message)
        people, self.rest = tuple(self.rest), []
        yield Frame(stamp, item.log_ns, picture, encoding, tuple(since), made, people, stamp_ns or 0)
        since.clear()

    def _foresee(self, picture: Picture, stamp_ns: int, encoding: str) -> tuple[bool, Any]:
        """Make the pixels of a frame that will be sampled, and what `make` makes of them; None for the others.

        (False, None), and counted, where that is not possible.
        """
        if self._sampler is None:
            return True, None
        signature = signature_of(picture, encoding)
        if self._signature not in (None, signature):
            self._sampler.reset()
        self._signature = signature
        made = None
        if self._sampler.would_take(stamp_ns):
            try:
                picture.pixels()
                made = self._make(picture)
            except ImageError as error:
                self.refuse(error)
                return False, None
        self._sampler.decide(stamp_ns)
        return True, made

    def refuse(self, error: ImageError) -> None:
        """Count an image whose pixels could not be made."""
        self.refused[str(error)] += 1

    def _refuse_frame(self, reason: str) -> None:
        self.images += 1
        self.refused[reason] += 1

    def _video(self) -> Iterator[Frame]:
        try:
            for picture, stamp in read_pictures(self.source.path, self._refuse_frame):
                self.images += 1
                usable, made = self._foresee(picture, stamp, "rgb8")
                if usable:
                    yield Frame(stamp, stamp, picture, "rgb8", made=made, header_ns=stamp)
        except DataError as error:
            if not self.images:
                raise
            self.damage.append(str(error))
