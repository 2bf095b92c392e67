# SPDX-License-Identifier: Apache-2.0
"""`make demo`: people the model has never seen, played over DDS into the node, and what the node says of them.

1. synthetic clips of other people than those in training, one an activity
2. the clips as a bag of camera images
3. the node `activity_recognition` in a process of its own, with the bundle of the repository
4. the bag played at the camera's rate; each message received is printed, the truth beside it
5. demo_out/demo.mp4 and demo_out/demo.png: what the node saw, drawn from its messages; demo.json: each clip's scores

With --camera there is a camera in the place of 1, 2 and 4, see `demo_camera`.

Exit codes: 0 enough clips were named rightly, 1 not, 2 something is missing, 130 it was ended.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from demo_node import (  # first: it says where ROS is to look
    ROOT,
    Robot,
    end_demo,
    from_message,
    say_event,
    status_of,
    to_event,
)

# isort: split
from demo_camera import CameraDemo

from gc_model.synth.activities import ACTIVITIES
from gc_model.synth.dataset import synthesize
from gc_ros.evaluation.truth import read_segments, spans_of
from gc_ros.media.bag_reading import read_bag_images
from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition import overlay
from gc_ros.recognition.activity import Activity, stream_label
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS
from trt_build.bundle import Bundle, load_bundle
from trt_build.command import os_error_line
from trt_build.errors import DataError, GlimpseError
from trt_build.files import demand_place, write_atomically

FIRST_SUBJECT = 9001  # nobody the bundle was trained on
GAP_S = 2.0  # between clips; longer than three sampling periods, after which the node starts a new window


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        help="bundle directory; default: bundles/people, which knows drawn people, and bundles/everyday for a camera",
    )
    parser.add_argument(
        "--camera",
        help="a camera's number such as 0, or a video file in its place, instead of a bag; Ctrl-C ends it",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo_out", help="directory for clips, bag and pictures"
    )
    parser.add_argument("--clips", type=int, default=1, help="clips an activity")
    parser.add_argument("--seed", type=int, default=1, help="another seed: other people, places and motions")
    parser.add_argument(
        "--min-right", type=float, default=0.8, help="share of clips that must be named rightly"
    )
    parser.add_argument(
        "--bag", type=Path, help="play this bag of `gc-ros make-bag` instead of synthetic people"
    )
    options = parser.parse_args()
    if options.bundle is None:
        options.bundle = ROOT / "bundles" / ("people" if options.camera is None else "everyday")
    # As Ctrl-C does it, with the node's process ended and a camera's video kept.
    signal.signal(signal.SIGINT, end_demo)
    signal.signal(signal.SIGTERM, end_demo)
    try:
        return Demo(options).run() if options.camera is None else CameraDemo(options).run()
    except KeyboardInterrupt:
        print("demo: ended before its time", file=sys.stderr)
        return 128 + signal.SIGINT
    except GlimpseError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"demo: {os_error_line(error)}", file=sys.stderr)
        return 2


class Demo:
    """One run; `options` are the command line's."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.bundle = load_bundle(options.bundle)
        self.info: Bundle = self.bundle.info
        self.recorded_of: dict[int, int] = {}  # stamp as published -> as recorded
        self.results: dict[int, Activity] = {}  # by recorded stamp
        self.events: dict[int, list[ActivityEvent]] = {}  # by the recorded stamp of the deciding frame
        self.truth: list[tuple[int, int, str]] = []  # start, end (recorded ns), label
        self.clips: list[str] = []  # one a row of truth
        self.mark: TextIO | None = None  # open, and so locked, as long as its recording is used

    def run(self) -> int:
        began = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        demand_place(self.out)
        bag = self.options.bag or self.make_bag()
        self.read_truth(bag)
        messages = self.play(bag)
        right, total = self.score()
        pictures = self.draw(bag)
        print(
            f"\n{messages} messages received over DDS; {right} of {total} clips named rightly "
            f"({time.monotonic() - began:.0f} s in all)"
        )
        print(*pictures, sep="\n")
        if total == 0 or right < self.options.min_right * total:
            print(f"demo: fewer than {self.options.min_right:.0%} right", file=sys.stderr)
            return 1
        return 0

    def make_bag(self) -> Path:
        """Clips of unseen people and a bag of them in demo_out/."""
        labels, rate = [label for label in self.info.labels if label in ACTIVITIES], self.info.rate_hz
        if not labels:
            raise DataError(
                f"nobody can be drawn who does {', '.join(self.info.labels)}: give clips with --bag"
            )
        if self.options.clips < 1 or self.options.seed < 0:
            raise DataError("--clips must be 1 or more, and --seed 0 or more")
        folder = self.recording()
        clips, bag = folder / "clips", folder / "bag"
        print(f"making {self.options.clips} clip(s) each of {', '.join(labels)}", flush=True)
        synthesize(
            clips,
            "folder",
            classes=labels,
            subjects=self.options.clips,
            first_subject=FIRST_SUBJECT,
            clips_per_class=self.options.clips,
            seed=self.options.seed,
            size=(320, 240),
            fps=rate * max(round(15 / rate), 1),  # as a camera: several frames to each the model samples
            duration_s=self.info.window_s + 2.5,
        )
        summary = make_bag(find_clips([clips]), bag, gap_s=GAP_S)
        print(f"{summary.images} images, {summary.duration_s:.0f} s in {bag}", flush=True)
        return bag

    def recording(self) -> Path:
        """An empty folder for clips and bag, in the place of what a demo before made; nobody else's is touched.

        Raises DataError where another demo plays what it made there.
        """
        folder = self.out / "demo_recording"
        mark = folder / "made_by_make_demo"
        if mark.is_file():
            with mark.open() as file:
                self.claim(file, folder)
                shutil.rmtree(folder)
        try:
            folder.mkdir()
        except FileExistsError:
            raise DataError(
                f"{folder} is there and not of a demo: move it away, or give another --out"
            ) from None
        self.mark = mark.open("x")
        self.claim(self.mark, folder)
        return folder

    @staticmethod
    def claim(mark: TextIO, folder: Path) -> None:
        """Lock the mark of a folder until it is closed. Raises DataError where another demo has it."""
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder}: another demo is playing it; wait for that, or give another --out"
            ) from None
        except OSError:  # a disk without locks
            pass

    def read_truth(self, bag: Path) -> None:
        """What is seen when, from the table beside the bag, which make-bag writes, and others may."""
        table = bag.with_name(f"{bag.name}.truth.csv")
        if not table.is_file():
            raise DataError(f"no {table}: make the bag with `gc-ros make-bag`, which writes it")
        first = next(stamp for stamp, _, _ in read_bag_images(bag))
        segments, _ = read_segments(table, (bag.name,))
        if not segments:
            raise DataError(f"{table}: it says nothing about {bag.name}")
        self.clips = [segment.clip or segment.label for segment in segments]
        self.truth = [(span.start_ns, span.end_ns, span.label) for span in spans_of(segments, first)]

    def play(self, bag: Path) -> int:
        """Node process, player, listener; returns how many messages came."""
        from gc_ros.node.player import play

        failures: list[Exception] = []

        def run_player() -> None:
            try:
                play(
                    bag,
                    stamps="now",
                    published=lambda recorded, sent: self.recorded_of.update({sent: recorded}),
                )
            except Exception as error:
                failures.append(error)

        player = threading.Thread(target=run_player, daemon=True)
        with Robot(self.bundle, self.take, self.take_event) as robot:
            robot.wait()
            player.start()
            while player.is_alive() and robot.alive:
                robot.spin(0.1)
            robot.spin(1.0)
        if failures:
            raise failures[0]
        return robot.messages

    def take(self, message: Any) -> None:
        """Print a message beside the truth and keep it for the pictures."""
        from gc_ros.node.ros_messages import to_ns

        recorded = self.recorded_of.get(to_ns(message.header.stamp))
        if recorded is None:
            return
        truth = self.truth_at(recorded)
        seconds = (recorded - self.truth[0][0]) / NS
        mark = "right" if message.label == truth else "WRONG"
        print(
            f"{seconds:7.2f} s  {message.label:<16} {message.score:4.2f} {status_of(message):<8} "
            f"truth {truth:<16} {mark}  "
            f"age {message.age_s * 1e3:4.0f} ms, inference {message.inference_s * 1e3:4.0f} ms",
            flush=True,
        )
        self.results[recorded] = from_message(message, self.info)

    def take_event(self, message: Any) -> None:
        """Print when an activity began or ended, and keep it for the banner of the pictures."""
        from gc_ros.node.ros_messages import to_ns

        decided, stamp = (self.recorded_of.get(to_ns(s)) for s in (message.header.stamp, message.stamp))
        if decided is None or stamp is None:
            return
        event = to_event(message, stamp)
        say_event((decided - self.truth[0][0]) / NS, event)
        self.events.setdefault(decided, []).append(event)

    def truth_at(self, recorded: int) -> str:
        return next((label for start, end, label in self.truth if start <= recorded <= end), "none")

    def score(self) -> tuple[int, int]:
        """Clips named rightly by the mean of their messages' scores, and clips."""
        print(f"\n{'clip':<20} named")
        right = 0
        rows = []
        for (start, end, label), clip in zip(self.truth, self.clips, strict=True):
            results = [result for stamp, result in self.results.items() if start <= stamp <= end]
            named, mean = stream_label(results) if results else ("no message", np.zeros(0))
            right += named == label
            rows.append(
                {
                    "clip": clip,
                    "truth": label,
                    "named": named,
                    "results": len(results),
                    "scores": mean.tolist(),
                }
            )
            print(f"{label:<20} {named}{'' if named == label else '   WRONG'}")
        summary = {"model_id": self.info.model_id, "labels": self.info.labels, "right": right, "clips": rows}
        write_atomically(self.out / "demo.json", json.dumps(summary, indent=1))
        return right, len(self.truth)

    def draw(self, bag: Path) -> list[Path]:
        """Every image played, with the newest result there was at that moment, and the best of them; their files."""
        T = self.info.T
        best: tuple[float, np.ndarray] | None = None
        result: Activity | None = None
        before: int | None = None
        since = 0
        banner = overlay.Banner()
        with VideoWriter(self.out / "demo.mp4") as video:
            starts = {start for start, _, _ in self.truth}
            for stamp, image, encoding in read_bag_images(bag):
                if before is None or stamp in starts or stamp - before > GAP_S * 0.9 * NS:
                    result, since = None, stamp
                before = stamp
                result = self.results.get(stamp, result)
                banner.add(self.events.get(stamp, ()), stamp)
                sampled = min(int((stamp - since) / NS * self.info.rate_hz) + 1, T - 1)
                rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if encoding == "bgr8" else image
                warmup = None if result else (sampled, T)
                picture = overlay.draw(rgb, result, warmup=warmup, event=banner.at(stamp))
                video.write(picture, stamp)
                if stamp in self.results and result is not None and result.label == self.truth_at(stamp):
                    best = max(best or (-1.0, picture), (result.score, picture), key=lambda pair: pair[0])
        made, still = [self.out / "demo.mp4"], self.out / "demo.png"
        if best is None:
            still.unlink(missing_ok=True)  # that of a demo before shows another
            return made
        _, data = cv2.imencode(".png", cv2.cvtColor(best[1], cv2.COLOR_RGB2BGR))
        write_atomically(still, data.tobytes())
        return [*made, still]


if __name__ == "__main__":
    sys.exit(main())
