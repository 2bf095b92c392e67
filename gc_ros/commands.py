# SPDX-License-Identifier: Apache-2.0
"""`gc-ros video`: activities in a video file or in front of a camera, of the whole picture or of each person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from gc_ros.media.detections import from_first, read_csv
from gc_ros.media.detector import Detector, Finder
from gc_ros.media.images import Picture
from gc_ros.media.kinds import printable
from gc_ros.media.video import Frame, camera_number, open_camera, read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition.activity import Activity, stream_label
from gc_ros.recognition.following import Following
from gc_ros.recognition.overlay import Banner, draw
from gc_ros.recognition.people import PersonActivity
from gc_ros.recognition.people_overlay import draw_people
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.sampler import Sampler
from gc_ros.recognition.taught_file import load_lessons
from gc_ros.recognition.telling import (
    by_person,
    ended_json,
    people_json,
    person_json,
    result_json,
    result_line,
    stream_json,
)
from gc_ros.stamps import NS
from gc_ros.teach import WHERE
from trt_build.bundle import Bundle, load_bundle
from trt_build.command import (
    Backend,
    BundleOption,
    Device,
    Mode,
    Precision,
    Sha256,
    Stride,
    Threads,
    print_json,
)
from trt_build.engines.open import open_engine
from trt_build.errors import DataError
from trt_build.install import pip


def video(
    source: Annotated[
        str, typer.Argument(metavar="FILE|CAMERA", help="A video file, or a camera's number such as 0.")
    ],
    bundle: BundleOption,
    bundle_sha256: Sha256 = None,
    out: Annotated[Path | None, typer.Option(help="Write the overlay to this video file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the overlay in a window; q ends.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line instead of text.")
    ] = False,
    mode: Mode = None,
    stride: Stride = 1,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    people: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Boxes of people (time_s,id,x_min,...): recognise each alone."),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx", help="Find the people by this detector (a YOLO): recognise each alone."
        ),
    ] = None,
    max_people: Annotated[
        int, typer.Option(min=1, max=64, help="How many people at once, slots of the engine.")
    ] = 4,
    taught: Annotated[str | None, WHERE] = None,
) -> None:
    """Recognise the activities in a video file or in front of a camera: a line for each result, then the mean.

    With --people or --detector each person is recognised alone, and has lines and a mean of their own.
    """
    if people is not None and detector is not None:
        raise DataError("--people and --detector both say who is there; give one of them")
    camera = camera_number(source)
    if out is not None:
        _spare(out, [Path(source), people, detector])
    watcher: _Whole | _Everybody
    with ExitStack() as stack:
        # Before anything is read: what cannot be written is said at once.
        writer = stack.enter_context(VideoWriter(out)) if out is not None else None
        loaded = load_bundle(bundle, sha256=bundle_sha256)
        if mode not in (None, *loaded.info.modes):
            raise DataError(
                f"mode {mode!r} is not in this bundle; use one of: {', '.join(loaded.info.modes)}"
            )
        frames = read_video(source) if camera is None else open_camera(camera)
        first = next(frames, None)
        if first is None:
            raise DataError(f"{source}: no frame can be read; check the camera or file")
        lessons = load_lessons(loaded, taught)
        alone = people is not None or detector is not None
        recorded = [] if people is None else from_first(read_csv(people), first[1])
        finder = None if detector is None else Finder(Detector(detector, threads=threads))
        engine = open_engine(
            loaded,
            mode or loaded.info.default_mode,
            backend=backend,
            batch=max_people if alone else 1,
            threads=threads,
            device=device,
            precision=precision,
            say=lambda line: typer.echo(f"building the engine: {line}", err=True),
        )
        stack.callback(engine.close)
        if alone:
            following = Following(loaded, engine, recorded, mode=mode, stride=stride, lessons=lessons)
            watcher = _Everybody(following, finder, first[1])
        else:
            recognizer = Recognizer(loaded, engine, mode=mode, stride=stride, lessons=lessons)
            watcher = _Whole(recognizer, first[1])
        stack.callback(watcher.close)
        began = time.perf_counter()
        last_ns = _watch(_chain(first, frames), watcher, writer, show, as_json)
        seconds = (last_ns - first[1]) / NS
        if not watcher.results:
            if writer is not None:  # which keeps what was written before damaged input ended
                writer.discard()
            raise DataError(f"{source}: no result: {watcher.why_none(seconds)}")
    if as_json:
        print_json(watcher.as_json(source, seconds, engine.description))
    else:
        spent = time.perf_counter() - began
        speed = f", {seconds / spent:.1f} x real time" if camera is None and spent > 0 else ""
        for line in watcher.as_text(f"over {seconds:.2f} s{speed}"):
            print(line, flush=True)


def _spare(out: Path, inputs: Iterable[Path | None]) -> None:
    """Raise DataError where `out` is one of the files that are read, by any name: it would be lost."""
    for file in inputs:
        if file is not None and out.exists() and file.exists() and out.samefile(file):
            raise DataError(f"{out}: is read here and would be overwritten; choose another --out")


def _breaks(info: Bundle, resets: Mapping[str, int], what: str = "images") -> str:
    """What breaks in a video mean, where it gave no result. what: must come often enough."""
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(resets.items()))
    return (
        f" without a break, but there are breaks ({reasons}); give a clip whose {what} are at most "
        f"{Sampler(info.rate_hz).max_frame_gap_s:.2g} s apart, in order and of one size"
    )


class _Whole:
    """The activity of the whole picture. results: all so far."""

    def __init__(self, recognizer: Recognizer, zero_ns: int) -> None:
        self._recognizer, self._zero_ns = recognizer, zero_ns
        self._banner = Banner()
        self.results: list[Activity] = []

    def take(self, image: NDArray[np.uint8], stamp_ns: int, as_json: bool) -> list[Any]:
        """What a frame makes known, as lines or as JSON."""
        result = self._recognizer.push(image, stamp_ns, bgr=False)
        if result is None:
            return []
        self.results.append(result)
        self._banner.add(result.events, stamp_ns)
        return [result_json(result, self._zero_ns) if as_json else result_line(result, self._zero_ns)]

    def finish(self, as_json: bool) -> list[Any]:
        """What the end makes known."""
        return []

    def picture(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """The frame with the newest result."""
        return draw(
            image,
            self.results[-1] if self.results else None,
            event=self._banner.at(stamp_ns),
            warmup=None if self.results else self._recognizer.warmup,
        )

    def why_none(self, seconds: float) -> str:
        """Why a video of this length gave no result."""
        info, counts = self._recognizer.info, self._recognizer.counters()
        needed = (
            f"{counts.frames_sampled} frames sampled in {seconds:.2f} s, a window needs "
            f"{info.T} frames at {info.rate_hz:g} Hz, {info.window_s:.2g} s"
        )
        return f"{needed}; give a longer clip" if not counts.resets else needed + _breaks(info, counts.resets)

    def as_json(self, source: str, seconds: float, engine: str) -> dict[str, Any]:
        """The whole video."""
        return stream_json(source, self.results, seconds, self._recognizer.counters(), engine)

    def as_text(self, how_long: str) -> list[str]:
        """The whole video, in lines."""
        label, scores = stream_label(self.results)
        return [f"stream: {label} {float(scores.max()):.1%} (mean of {len(self.results)} results {how_long})"]

    def close(self) -> None:
        """Take nothing more."""
        self._recognizer.close()


class _Everybody:
    """The activity of each person. finder: who says who is where, else it is known beforehand. results: all so far."""

    def __init__(self, following: Following, finder: Finder | None, zero_ns: int) -> None:
        self._following, self._finder, self._zero_ns = following, finder, zero_ns
        self.results: list[PersonActivity] = []
        self._newest: dict[str, PersonActivity] = {}

    def take(self, image: NDArray[np.uint8], stamp_ns: int, as_json: bool) -> list[Any]:
        """What a frame makes known, as lines or as JSON."""
        found = self._following.push(Picture.of(image, False), stamp_ns)
        if self._finder is not None:
            found += self._following.detections(self._finder(image, stamp_ns))
        return self._say(found, as_json)

    def finish(self, as_json: bool) -> list[Any]:
        """What the end makes known."""
        return self._say(self._following.finish(), as_json)

    def _say(self, found: list[PersonActivity], as_json: bool) -> list[Any]:
        self.results += found
        self._newest |= {result.person_id: result for result in found}
        ended = self._following.people.take_events()
        zero_ns = self._zero_ns
        if as_json:
            return [ended_json(who, event, zero_ns) for who, event in ended] + [
                person_json(result, zero_ns) for result in found
            ]
        return [
            f"{(event.stamp_ns - zero_ns) / NS:9.3f} s  {printable(who)}: <{event.kind} {event.label}>"
            for who, event in ended
        ] + [result_line(result.activity, zero_ns, f"{printable(result.person_id)}: ") for result in found]

    def picture(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """The frame with the newest result of each person in it, where the person is now."""
        boxes = self._following.people.boxes(stamp_ns)
        shown = [replace(self._newest[who], box=box) for who, box in boxes.items() if who in self._newest]
        return draw_people(image, shown)

    def why_none(self, seconds: float) -> str:
        """Why a video of this length gave no result."""
        counts, info = self._following.people.counters(), self._following.people.info
        left_out = ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.left_out.items()))
        return (
            f"nobody was in {info.T} frames at {info.rate_hz:g} Hz, {info.window_s:.2g} s, of the "
            f"{counts.frames_sampled} frames sampled in {seconds:.2f} s"
            + (f" (left out: {left_out})" if left_out else "")
            + (
                _breaks(info, counts.resets, "images, and each person's boxes,")
                if counts.resets
                else "; check the boxes, or give a longer clip"
            )
        )

    def as_json(self, source: str, seconds: float, engine: str) -> dict[str, Any]:
        """The whole video."""
        return people_json(source, self.results, seconds, self._following.people.counters(), engine)

    def as_text(self, how_long: str) -> list[str]:
        """The whole video, in lines."""
        lines = []
        for who, own in by_person(self.results).items():
            label, scores = stream_label(own)
            lines.append(f"{printable(who)}: {label} {float(scores.max()):.1%} (mean of {len(own)} results)")
        left_out = sorted(self._following.people.counters().left_out.items())
        lines += [f"left out: {reason}: {n}" for reason, n in left_out]
        return [
            *lines,
            f"stream: {len(by_person(self.results))} people, {len(self.results)} results {how_long}",
        ]

    def close(self) -> None:
        """Take nothing more."""
        self._following.people.close()


def _watch(
    frames: Iterator[Frame],
    watcher: _Whole | _Everybody,
    writer: VideoWriter | None,
    show: bool,
    as_json: bool,
) -> int:
    """Print each result as it comes, until the frames end, the user closes the window or presses Ctrl-C.

    Returns the stamp of the last frame.
    """
    say: Callable[[Any], None] = print_json if as_json else lambda line: print(line, flush=True)
    last_ns = 0
    try:
        for image, stamp_ns in frames:
            last_ns = stamp_ns
            for told in watcher.take(image, stamp_ns, as_json):
                say(told)
            if (writer is not None or show) and not _picture(
                watcher.picture(image, stamp_ns), stamp_ns, writer, show
            ):
                break
    except KeyboardInterrupt:  # how a camera is stopped
        pass
    for told in watcher.finish(as_json):
        say(told)
    return last_ns


def _chain(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _picture(picture: NDArray[np.uint8], stamp: int, writer: VideoWriter | None, show: bool) -> bool:
    """Write and show a picture; False when the user closed the window."""
    if writer is not None:
        writer.write(picture, stamp)
    if not show:
        return True
    try:
        cv2.imshow("gc-ros video", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
    except cv2.error:
        raise DataError(
            f"this OpenCV opens no windows: {pip('opencv-python<5')} instead of opencv-python-headless and "
            "start it on a desktop, or use --out FILE.mp4"
        ) from None
