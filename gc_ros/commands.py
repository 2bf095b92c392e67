# SPDX-License-Identifier: Apache-2.0
"""`gc-ros video`: activities in a video file or in front of a camera, of the whole picture or of each person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from gc_ros.evaluation.people_options import PeopleMaxAge, PersonMargin, PersonTimeout, check_times
from gc_ros.media.detections import from_first, read_csv
from gc_ros.media.detector import Detector, Finder
from gc_ros.media.video import Frame, camera_number, open_camera, read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition.following import Following
from gc_ros.recognition.people import MAX_AGE_S, TIMEOUT_S
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.taught_file import load_lessons
from gc_ros.stamps import NS
from gc_ros.teach import WHERE
from gc_ros.watchers import Everybody, Whole
from trt_build.bundle import load_bundle
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
            metavar="FILE.onnx", help="Find the people by this detector (YOLO, YOLOX): recognise each alone."
        ),
    ] = None,
    max_people: Annotated[
        int, typer.Option(min=1, max=64, help="How many people at once, slots of the engine.")
    ] = 4,
    person_margin: PersonMargin = None,
    people_max_age_s: PeopleMaxAge = MAX_AGE_S,
    person_timeout_s: PersonTimeout = TIMEOUT_S,
    taught: Annotated[str | None, WHERE] = None,
) -> None:
    """Recognise the activities in a video file or in front of a camera: a line for each result, then the mean.

    With --people or --detector each person is recognised alone, and has lines and a mean of their own.
    """
    if people is not None and detector is not None:
        raise DataError("--people and --detector both say who is there; give one of them")
    check_times(people_max_age_s, person_timeout_s)
    camera = camera_number(source)
    if out is not None:
        _spare(out, [Path(source), people, detector])
    watcher: Whole | Everybody
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
            following = Following(
                loaded, engine, recorded, mode=mode, stride=stride, lessons=lessons, margin=person_margin,
                max_age_s=people_max_age_s, timeout_s=person_timeout_s,
            )  # fmt: skip
            watcher = Everybody(following, finder, first[1])
        else:
            recognizer = Recognizer(loaded, engine, mode=mode, stride=stride, lessons=lessons)
            watcher = Whole(recognizer, first[1])
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


def _watch(
    frames: Iterator[Frame],
    watcher: Whole | Everybody,
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
