# SPDX-License-Identifier: Apache-2.0
"""`gc-ros`: videos, evaluation, bags, the player and the node.

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from gc_ros.evaluation import commands
from gc_ros.media.video import Frame, open_camera, read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition.activity import Activity, stream_label
from gc_ros.recognition.intake import Counters
from gc_ros.recognition.overlay import Banner, draw
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.stamps import NS
from trt_build.bundle import load_bundle
from trt_build.command import command_line, print_json, progress_bar
from trt_build.engines.open import open_engine
from trt_build.errors import DataError, GlimpseError
from trt_build.install import pip

app = command_line("Recognise activities in videos and cameras, make and play bags, run the ROS 2 node.")


@app.command(epilog="Example: gc-ros video clip.mp4 --bundle bundles/people --out overlay.mp4")
def video(
    source: Annotated[
        str, typer.Argument(metavar="FILE|CAMERA", help="A video file, or a camera's number such as 0.")
    ],
    bundle: Annotated[
        Path, typer.Option("--bundle", "-b", help="Bundle directory made by trt-build export.")
    ],
    bundle_sha256: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="Refuse a bundle with another sha256 (trt-build info shows it)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the overlay to this video file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the overlay in a window; q ends.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line instead of text.")
    ] = False,
    mode: Annotated[str | None, typer.Option(help="window or step; default: the bundle's.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Sampled frames between two results.")] = 1,
    backend: Annotated[str, typer.Option(help="onnxruntime, openvino, tensorrt, or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: the backend's choice.")
    ] = None,
) -> None:
    """Recognise the activities in a video file or in front of a camera: a line for each result, then the mean."""
    loaded = load_bundle(bundle, sha256=bundle_sha256)
    if mode not in (None, *loaded.info.modes):
        raise DataError(f"mode {mode!r} is not in this bundle; use one of: {', '.join(loaded.info.modes)}")
    frames = open_camera(int(source)) if source.isdigit() else read_video(source)
    first = next(frames, None)
    if first is None:
        raise DataError(f"{source}: no frame can be read; check the camera or file")
    engine = open_engine(
        loaded,
        mode or loaded.info.default_mode,
        backend=backend,
        threads=threads,
        device=device,
        precision=precision,
        say=lambda line: typer.echo(f"building the engine: {line}", err=True),
    )
    recognizer = Recognizer(loaded, engine, mode=mode, stride=stride)
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.callback(recognizer.close)
        writer = stack.enter_context(VideoWriter(out)) if out is not None else None
        results, last_ns = _recognise(_chain(first, frames), recognizer, writer, show, as_json)
        counters, seconds = recognizer.counters(), (last_ns - first[1]) / NS
        if not results:
            info = loaded.info
            raise DataError(
                f"{source}: no result: {counters.frames_sampled} frames sampled in {seconds:.2f} s, a window needs "
                f"{info.T} frames at {info.rate_hz:g} Hz, {info.window_s:.2g} s; give a longer clip"
            )
    spent = time.perf_counter() - began
    if as_json:
        _say(_stream_json(source, results, seconds, counters, engine.description), True)
    else:
        label, scores = stream_label(results)
        speed = f", {seconds / spent:.1f} x real time" if not source.isdigit() and spent > 0 else ""
        text = f"mean of {len(results)} results over {seconds:.2f} s{speed}"
        _say(f"stream: {label} {float(scores.max()):.1%} ({text})", False)


def _recognise(
    frames: Iterator[Frame],
    recognizer: Recognizer,
    writer: VideoWriter | None,
    show: bool,
    as_json: bool,
) -> tuple[list[Activity], int]:
    """Print each result as it comes, until the frames end, the user closes the window or presses Ctrl-C.

    Returns the results and the stamp of the last frame.
    """
    results: list[Activity] = []
    banner, first_ns, last_ns = Banner(), None, 0
    try:
        for image, stamp_ns in frames:
            first_ns = stamp_ns if first_ns is None else first_ns
            last_ns = stamp_ns
            result = recognizer.push(image, stamp_ns, bgr=False)
            if result is not None:
                results.append(result)
                banner.add(result.events, stamp_ns)
                _say(_result_json(result, first_ns) if as_json else _result_line(result, first_ns), as_json)
            if (writer is not None or show) and not _picture(
                image, stamp_ns, recognizer, results, banner, writer, show
            ):
                break
    except KeyboardInterrupt:  # how a camera is stopped
        pass
    return results, last_ns


def _stream_json(
    source: str, results: list[Activity], seconds: float, counters: Counters, engine: str
) -> dict[str, Any]:
    label, scores = stream_label(results)
    return {
        "type": "stream",
        "source": source,
        "label": label,
        "score": float(scores.max()),
        "scores": dict(zip(results[-1].labels, scores.tolist(), strict=True)),
        "results": len(results),
        "seconds": seconds,
        "frames_in": counters.frames_received,
        "frames_sampled": counters.frames_sampled,
        "dropped": counters.dropped,
        "resets": counters.resets,
        "model_id": results[-1].model_id,
        "engine": engine,
    }


def _chain(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _picture(
    image: NDArray[np.uint8],
    stamp: int,
    recognizer: Recognizer,
    results: list[Activity],
    banner: Banner,
    writer: VideoWriter | None,
    show: bool,
) -> bool:
    """Draw the newest result; False when the user closed the window."""
    picture = draw(
        image,
        results[-1] if results else None,
        event=banner.at(stamp),
        warmup=None if results else recognizer.warmup,
    )
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


def _result_line(result: Activity, zero_ns: int) -> str:
    others = ", ".join(f"{label} {score:.1%}" for label, _, score in result.top_k[1:3])
    status = "" if result.status == "ok" else f"  [{result.status}]"
    events = "".join(f"  <{event.kind} {event.label}>" for event in result.events)
    at = (result.stamp_ns - zero_ns) / NS
    return f"{at:9.3f} s  {result.label} {result.score:.1%}{status}  ({others}){events}"


def _result_json(result: Activity, zero_ns: int) -> dict[str, Any]:
    return {
        "type": "activity",
        "start_s": (result.window_start_ns - zero_ns) / NS,
        "end_s": (result.window_end_ns - zero_ns) / NS,
        "status": result.status,
        "label": result.label,
        "index": result.index,
        "score": result.score,
        "top_k": [{"label": label, "index": index, "score": score} for label, index, score in result.top_k],
        "glimpses": [{"box": [g.x0, g.y0, g.x1, g.y1], "weights": list(g.weights)} for g in result.glimpses],
        "events": [
            {"kind": e.kind, "label": e.label, "s": (e.stamp_ns - zero_ns) / NS, "score": e.score}
            for e in result.events
        ],
        "timings_ms": result.timings_ms,
    }


def _say(what: Any, as_json: bool) -> None:
    if as_json:
        print_json(what)
    else:
        print(what, flush=True)


@app.command("make-bag", epilog="Example: gc-ros make-bag clips.csv --subject p3 --out p3 --compressed jpeg")
def make_bag_command(
    clips: Annotated[
        list[Path], typer.Argument(help="Video files, folders (class/clip), CSV files (path,class).")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the bag to make; OUT.truth.csv comes beside it.")],
    subject: Annotated[
        list[str] | None, typer.Option(help="Only this subject of a CSV; may be repeated.")
    ] = None,
    compressed: Annotated[str | None, typer.Option(help="jpeg or png; default: raw bgr8.")] = None,
    topic: Annotated[str, typer.Option(help="Topic; compressed images go to TOPIC/compressed.")] = "/image",
    gap_s: Annotated[float, typer.Option(help="Seconds between two clips.")] = 3.0,
    still: Annotated[
        bool, typer.Option("--still", help="Repeat the last image between two clips instead of sending none.")
    ] = False,
    frame_id: Annotated[str, typer.Option(help="frame_id of the headers.")] = "camera",
    width: Annotated[int | None, typer.Option(help="Scale images to this width, pixels.")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Folder of boxes, class/clip.boxes.csv; default: boxes beside the clips, if there."
        ),
    ] = None,
    people: Annotated[
        str, typer.Option(help="Topic of vision_msgs/Detection2DArray, where boxes are known.")
    ] = "/people",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make an MCAP bag of camera images from clips, and a table of what is seen when."""
    from gc_ros.media.bag_people import folder_of_boxes
    from gc_ros.media.bags import make_bag
    from gc_ros.media.clips import find_clips

    found = find_clips(clips, subject or [])
    for line in found.remarks():
        typer.echo(f"warning: {line}", err=True)
    with progress_bar() as bar:
        task = bar.add_task("writing", total=len(found))
        started = False

        def step(clip: Any) -> None:
            nonlocal started
            bar.update(task, advance=1 if started else 0, description=clip.name)
            started = True

        summary = make_bag(
            found,
            out,
            compressed=compressed,
            topic=topic,
            gap_s=gap_s,
            frame_id=frame_id,
            width=width,
            still=still,
            boxes=boxes or folder_of_boxes(clips),
            people_topic=people,
            progress=step,
        )
    if as_json:
        fields = {**summary.__dict__, "bag": str(summary.bag), "truth": str(summary.truth)}
        _say(fields, True)
    else:
        text = f"{summary.bag}: {summary.images} images of {summary.clips} clips on {summary.topic}"
        text += f", {summary.people} people on {people}" if summary.people else ""
        _say(f"{text}, {summary.duration_s:.1f} s; truth in {summary.truth}", False)


@app.command(epilog="Example: gc-ros play p3 --rate 1.0")
def play(
    bag: Annotated[Path, typer.Argument(help="Bag directory, .mcap, .db3 or .bag.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Speed: 2.0 plays twice as fast.")] = 1.0,
    topic: Annotated[str | None, typer.Option(help="Image topic of the bag; default: the only one.")] = None,
    stamps: Annotated[str, typer.Option(help="Header stamps: bag (as recorded) or now (shifted).")] = "bag",
) -> None:
    """Publish a bag's images over DDS, waiting for a subscriber first; needs rclpy, not ros2 bag."""
    if stamps not in ("bag", "now"):
        raise DataError(f"unknown --stamps {stamps!r}; use bag or now")
    code = _ros_module("gc_ros.node.player").play(bag, rate=rate, topic=topic, stamps=stamps)
    raise typer.Exit(code or 0)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: gc-ros node --ros-args -p bundle:=bundles/people -r image:=/camera/image_raw",
)
def node(ctx: typer.Context) -> None:
    """Run the activity_recognition node; all arguments go to ROS."""
    raise typer.Exit(_ros_module("gc_ros.node.process").main(ctx.args) or 0)


app.command("evaluate", epilog="Example: gc-ros evaluate bags/ --bundle bundles/people --out results")(
    commands.evaluate
)
app.command("compare", epilog="Example: gc-ros compare results_old results_new")(commands.compare)


def _ros_module(name: str) -> Any:
    """Import a module that needs ROS, or say how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise GlimpseError(
            f"ROS 2 is not usable here ({error}); source install/setup.bash of the workspace, or: make demo"
        ) from None


def main() -> None:
    """Console script."""
    sys.exit(app())


if __name__ == "__main__":
    main()
