# SPDX-License-Identifier: Apache-2.0
"""How often a bundle gives a video stream the labels of the images that the stream was made of.

    python benchmarks/stream_labels.py bundles/people ../shared/data/samples
    python benchmarks/stream_labels.py bundles/everyday ../shared/data/everyday/clips.csv --a-class 2

Each clip runs through recognisers side by side, which see it raw and in several other forms, with the same stamps:

    noise       one grey level of noise: labels that this alone changes hang on nothing
    yuv420p     the colours of a stream, without its codec
    jpeg        quality 80, image_transport's default for compressed images
    h264 NN     x264 without B-frames, as cameras stream, at this constant rate factor (x264's default is 23)
    h264 NN b   the same with two B-frames, packets out of the order of time

All streams pass through the node's own decoder. Prints JSON: for each form, the share of windows with the raw label; of
those with the raw answer, which is the label, or "unknown" below the bundle's threshold; what flips, as (best score,
second score) of the raw window; and what the images differ by. A codec adds noise but no offset: `offset`, the mean
difference of each colour, would show another colour matrix or range.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import cv2
import numpy as np

from gc_ros.media.clips import Clip, find_clips
from gc_ros.media.images import Picture
from gc_ros.media.streams import Stream
from gc_ros.media.video import read_video
from gc_ros.recognition.recognizer import Activity, Recognizer
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines.open import open_engine

Image = np.ndarray
# (image, number) -> (number, image) that are complete now.
Form = Callable[[Image, int], list[tuple[int, Image]]]


class Coded:
    """An encoder and the node's decoder. kbit: of the packets so far."""

    def __init__(self, crf: int, b_frames: int) -> None:
        self._crf, self._b_frames = crf, b_frames
        self._encoder: av.VideoCodecContext | None = None
        self._stream, self.kbit = Stream(), 0.0

    def __call__(self, image: Image, number: int) -> list[tuple[int, Image]]:
        self._encoder = self._encoder or self._open(*image.shape[:2])
        even = image[: self._encoder.height, : self._encoder.width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = number, self._encoder.time_base
        return self._decoded(self._encoder.encode(frame))

    def finish(self) -> list[tuple[int, Image]]:
        """What is still inside at the end of a clip; the next clip is a stream of its own."""
        found = self._decoded(self._encoder.encode(None)) if self._encoder is not None else []
        found += self._pixels(self._stream.finish())
        self._encoder = None
        return found

    def _open(self, height: int, width: int) -> av.VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        context.time_base, context.framerate, context.gop_size = Fraction(1, 30), Fraction(30), 30
        context.thread_count = 1
        context.options = {"preset": "veryfast", "crf": str(self._crf), "bf": str(self._b_frames)}
        if not self._b_frames:
            context.options |= {"tune": "zerolatency"}
        return context

    def _decoded(self, packets: list[av.Packet]) -> list[tuple[int, Image]]:
        found: list[tuple[int, Image]] = []
        for packet in packets:
            self.kbit += packet.size * 8 / 1e3
            found += self._pixels(self._stream.read(bytes(packet), "h264", int(packet.pts or 0)))
        return found

    def _pixels(self, read: list[tuple[int, Any]]) -> list[tuple[int, Image]]:
        found = []
        for number, picture in read:
            assert isinstance(picture, Picture), picture
            found.append((number, picture.pixels()))
        return found


def noisy(image: Image, number: int) -> list[tuple[int, Image]]:
    noise = np.random.default_rng(number).integers(-1, 2, image.shape, np.int16)
    return [(number, np.clip(image + noise, 0, 255).astype(np.uint8))]


def subsampled(image: Image, number: int) -> list[tuple[int, Image]]:
    even = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
    frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")
    return [(number, frame.to_ndarray(format="rgb24"))]


def jpeg(image: Image, number: int) -> list[tuple[int, Image]]:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return [(number, np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])]


class Lane:
    """A recogniser that sees the clips in one form. windows: its results by (clip, end of the window)."""

    def __init__(self, bundle: LoadedBundle, form: Form, threads: int) -> None:
        self.form = form
        engine = open_engine(bundle, bundle.info.default_mode, threads=threads)
        self._recognizer = Recognizer(bundle, engine)
        self.windows: dict[tuple[str, int], Activity] = {}
        self.differences: list[np.ndarray] = []  # of each colour (3,): mean, and root of the mean square

    def see(
        self, clip: str, images: list[tuple[int, Image]], stamps: list[int], raw: dict[int, Image]
    ) -> None:
        """Take images of a clip. raw: those that the lane has not given back yet, by number."""
        for number, image in images:
            original = raw.pop(number)
            # Sparse: it costs more than the recogniser otherwise.
            a, b = (
                one[: image.shape[0] : 4, : image.shape[1] : 4].astype(float) for one in (image, original)
            )
            self.differences.append(np.stack([(a - b).mean((0, 1)), np.square(a - b).mean((0, 1))]))
            result = self._recognizer.push(image, stamps[number], bgr=False)
            if result is not None:
                self.windows[clip, result.stamp_ns] = result

    def end(self) -> None:
        self._recognizer.reset("end of the clip")


def compare(raw: Lane, lane: Lane) -> dict[str, Any]:
    """What differs between a lane and the raw one."""
    assert raw.windows.keys() == lane.windows.keys(), "the same windows, by their stamps"
    flips, answers = [], 0
    for key, before in raw.windows.items():
        now = lane.windows[key]
        answers += _answer(now) == _answer(before)
        if now.label != before.label:
            best, second = np.sort(before.scores)[::-1][:2]
            flips.append((round(float(best), 2), round(float(second), 2)))
    offset, square = np.mean(lane.differences, axis=0)
    count = len(raw.windows)
    return {
        "windows": count,
        "same_label": round(1 - len(flips) / count, 4),
        "same_answer": round(answers / count, 4),
        "flips": flips,
        "offset": [round(float(value), 2) for value in offset],
        "rms": round(float(np.sqrt(square.mean())), 2),
    }


def _answer(activity: Activity) -> str:
    return activity.label if activity.status == "ok" else activity.status


def chosen(clips: list[Clip], a_class: int) -> Iterator[Clip]:
    """So many of each class, spread over them; 0: all."""
    by_class: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_class[clip.label].append(clip)
    for label in sorted(by_class):
        found = sorted(by_class[label], key=lambda clip: str(clip.path))
        yield from found if not a_class else found[:: max(len(found) // a_class, 1)][:a_class]


def run(
    bundle: LoadedBundle, clips: list[Clip], rates: list[int], seconds: float, threads: int
) -> dict[str, Any]:
    coded = {f"h264 {crf}{' b' if b else ''}": Coded(crf, b) for crf in rates for b in (0, 2)}
    forms: dict[str, Form] = {"noise": noisy, "yuv420p": subsampled, "jpeg": jpeg, **coded}
    raw = Lane(bundle, lambda image, number: [(number, image)], threads)
    lanes = {name: Lane(bundle, form, threads) for name, form in forms.items()}
    length = 0.0
    for clip in clips:
        stamps: list[int] = []
        waiting: dict[Lane, dict[int, Image]] = {lane: {} for lane in (raw, *lanes.values())}
        for number, (image, stamp) in enumerate(read_video(clip.path)):
            if stamps and (stamp - stamps[0]) / 1e9 > seconds:
                break
            stamps.append(stamp)
            for lane, mine in waiting.items():
                mine[number] = image
                lane.see(str(clip.path), lane.form(image, number), stamps, mine)
        for name, form in coded.items():
            lanes[name].see(str(clip.path), form.finish(), stamps, waiting[lanes[name]])
        for lane, mine in waiting.items():
            assert not mine, "each image comes out once"
            lane.end()
        length += (stamps[-1] - stamps[0]) / 1e9
        print(f"{clip.path.name}: {len(stamps)} images, {len(raw.windows)} windows", file=sys.stderr)
    found = {name: compare(raw, lane) for name, lane in lanes.items()}
    for name, form in coded.items():
        found[name]["kbit_a_second"] = round(form.kbit / length)
    unsure = sum(activity.status != "ok" for activity in raw.windows.values())
    return {
        "model": bundle.info.model_id,
        "mode": bundle.info.default_mode,
        "clips": len(clips),
        "windows": len(raw.windows),
        "unknown": round(unsure / len(raw.windows), 4),
        "forms": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clips", type=Path, help="a folder class/clip, or a table of clips")
    parser.add_argument("--a-class", type=int, default=0, help="so many clips of each class; 0: all")
    parser.add_argument("--crf", type=int, nargs="+", default=[18, 23, 28])
    parser.add_argument("--seconds", type=float, default=30, help="of each clip, at most")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    some = list(chosen(find_clips([options.clips]), options.a_class))
    print(
        json.dumps(
            run(load_bundle(options.bundle), some, options.crf, options.seconds, options.threads), indent=1
        )
    )
