# SPDX-License-Identifier: Apache-2.0
"""`gc-ros`: videos, evaluation, bags, the player and the node.

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gc_ros import commands, teach
from gc_ros.evaluation import commands as evaluation
from trt_build.command import command_line, counted, print_json, progress_bar
from trt_build.errors import DataError, GlimpseError

app = command_line("Recognise activities in videos and cameras, make and play bags, run the ROS 2 node.")
app.command(epilog="Example: gc-ros video clip.mp4 --bundle bundles/people --out overlay.mp4")(commands.video)


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
            boxes=boxes or folder_of_boxes(clips, found),
            people_topic=people,
            progress=step,
        )
    if as_json:
        fields = {**summary.__dict__, "bag": str(summary.bag), "truth": str(summary.truth)}
        print_json(fields)
    else:
        what = f"{counted(summary.images, 'image')} of {counted(summary.clips, 'clip')}"
        text = f"{summary.bag}: {what} on {summary.topic}"
        text += f", {counted(summary.people, 'person', 'people')} on {people}" if summary.people else ""
        print(f"{text}, {summary.duration_s:.1f} s; truth in {summary.truth}")


@app.command(epilog="Example: gc-ros play p3 --rate 1.0")
def play(
    bag: Annotated[Path, typer.Argument(help="Bag directory, .mcap, .db3 or .bag.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Speed: 2.0 plays twice as fast.")] = 1.0,
    topic: Annotated[str | None, typer.Option(help="Image topic of the bag; default: the only one.")] = None,
    stamps: Annotated[str, typer.Option(help="Header stamps: bag (as recorded) or now (shifted).")] = "bag",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a subscriber; 0: for ever.")] = 30.0,
) -> None:
    """Publish a bag's images over DDS, waiting for a subscriber first; needs rclpy, not ros2 bag."""
    if stamps not in ("bag", "now"):
        raise DataError(f"unknown --stamps {stamps!r}; use bag or now")
    code = _ros_module("gc_ros.node.player").play(
        bag, rate=rate, topic=topic, stamps=stamps, wait_s=wait or None
    )
    raise typer.Exit(code or 0)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: gc-ros node --ros-args -p bundle:=bundles/people -r image:=/camera/image_raw",
)
def node(ctx: typer.Context) -> None:
    """Run the activity_recognition node; all arguments go to ROS."""
    raise typer.Exit(_ros_module("gc_ros.node.process").main(ctx.args) or 0)


app.command("evaluate", epilog="Example: gc-ros evaluate bags/ --bundle bundles/people --out results")(
    evaluation.evaluate
)
app.command(epilog="Example: gc-ros boxes bags/ --detector yolox.onnx")(evaluation.boxes)
app.command("compare", epilog="Example: gc-ros compare results_old results_new")(evaluation.compare)


teach.add_to(app)


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
