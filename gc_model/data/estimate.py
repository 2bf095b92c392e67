# SPDX-License-Identifier: Apache-2.0
"""`gc-model joints`: joints of one's own clips from an estimator, the training signal that the paper had from Kinect.

Only training needs joints (section 3.3 of the paper); the robot runs nothing of this. The estimator is MediaPipe
(Apache-2.0), whose wheels up to 0.10.21 bring their models; whatever else writes the tables of
gc_model.data.joint_tables will do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_model.data import own
from gc_model.data.clip import LabelledClip
from gc_model.data.joint_tables import joint_names, read_table, table_of, write_table
from gc_model.data.people import boxes_of_joints
from gc_model.data.tables import gather
from gc_ros.media.detections import Box, Detections, boxes_of, write_csv
from gc_ros.media.tracker import Tracker
from trt_build.errors import DataError, GlimpseError
from trt_build.files import demand_place
from trt_build.install import extra
from trt_build.pool import processes

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
# MediaPipe's 21, in its order.
HAND = ("wrist", *(f"{finger}_{i}" for finger in FINGERS for i in range(1, 5)))
# 25 of MediaPipe's 33 landmarks of a body, by their place there: without the corners of eyes and mouth, and thumbs.
BODY = {
    "nose": 0,
    **{f"{side}_{name}": i + s
       for name, i in (("ear", 7), ("shoulder", 11), ("elbow", 13), ("wrist", 15), ("pinky", 17), ("index", 19),
                       ("hip", 23), ("knee", 25), ("ankle", 27), ("heel", 29), ("foot", 31))
       for s, side in enumerate(("left", "right"))},
    "left_eye": 2,
    "right_eye": 5,
}  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {"hands": HAND, "body": tuple(BODY)}
SHORT_SIDE = 360  # smaller pictures are enlarged: the detectors were made for webcams
CONFIDENCE = 0.3

Body = tuple[int, NDArray[np.float64]]  # number, points (joints, 2) as fractions of the picture
Estimator = Callable[[NDArray[np.uint8]], list[Body]]


class EstimatorError(GlimpseError):
    """The estimator is not installed, or not one that can be used."""


def estimate(
    data: Path,
    out: Path,
    *,
    what: str = "hands",
    boxes: Path | None = None,
    subjects: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a table of joints below `out` for every clip of `data` that has none there yet.

    what: "hands", 21 joints of up to two hands, or "body", 25 joints of one person. boxes: a folder that gets tables of
    the people's boxes, also for clips whose joints are there already. Returns what `gather` does and "boxes", the
    number of tables of boxes made. Raises DataError for data that cannot be used, and an `out` that holds joints of the
    other kind; EstimatorError without the estimator.
    """
    from rich.progress import track

    if what not in KINDS:
        raise DataError(f'unknown joints "{what}": choose {" or ".join(KINDS)}')
    if boxes is not None and what != "body":
        raise DataError("--boxes are of people, not of hands: add --what body")
    places = [partial(table_of, out), *([partial(boxes_of, boxes)] if boxes is not None else [])]
    clips = own.clips_for_tables(data, subjects, places)
    missing = []
    for clip in clips:
        if (table := table_of(out, clip.name)).is_file():
            _check_kind(table, what)
        else:
            missing.append(clip)
    if missing or boxes is None:
        _mediapipe()
    without = [c for c in clips if boxes is not None and not boxes_of(boxes, c.name).is_file()]
    for place in [*([out] if missing else []), *([boxes] if without and boxes is not None else [])]:
        demand_place(place)
    with processes(workers, max(len(missing), len(without))) as pool:
        jobs = {pool.submit(write_joints, c, table_of(out, c.name), what): c for c in missing}
        result = gather(clips, jobs, "finding joints", progress)
        damaged = result["damaged"]
        without = [c for c in without if c.name not in damaged]
        of_boxes = {
            pool.submit(write_boxes, c, table_of(out, c.name), boxes_of(boxes, c.name)): c
            for c in without
            if boxes is not None
        }
        for boxed in track(
            as_completed(of_boxes), "finding boxes", len(of_boxes), disable=not progress or not of_boxes
        ):
            try:
                boxed.result()
            except DataError as error:
                damaged[of_boxes[boxed].name] = str(error)
    return result | {"boxes": sum(c.name not in damaged for c in without)}


def _check_kind(table: Path, what: str) -> None:
    """Raise DataError for a table of the other kind of joints; those of another estimator may be of any names."""
    names = joint_names(table)
    for kind, known in KINDS.items():
        if names == known and kind != what:
            raise DataError(
                f"{table} holds joints of {kind}, not of {what}: give another --out, or delete such tables to have "
                f"them made anew, or ask for --what {kind}"
            )


def write_joints(clip: LabelledClip, table: Path, what: str) -> tuple[int, int]:
    """Write the joints of every frame of a clip. Returns (frames, frames with a body). Raises DataError."""
    rows: list[tuple[int, int, NDArray[np.float64]]] = []
    size, frames, seen = (1, 1), 0, 0
    cv2.setNumThreads(1)
    with _hands() if what == "hands" else _body() as bodies_in:
        for image, _ in clip.read(clip.path):
            size = (image.shape[1], image.shape[0])
            bodies = bodies_in(_enlarged(image))
            rows += [(frames, number, points * size) for number, points in bodies]
            frames, seen = frames + 1, seen + bool(bodies)
    write_table(table, KINDS[what], size, rows)
    return frames, seen


def write_boxes(clip: LabelledClip, joints: Path, table: Path) -> None:
    """Write the boxes of the bodies in a clip's table of joints, each followed from frame to frame under one id.

    The number of a body does not say who it is: an estimator may turn to somebody else at any frame. Raises DataError
    for a clip or table that cannot be read.
    """
    points, _ = read_table(joints)
    # Whoever has joints is there: nothing has to be seen twice.
    tracker = Tracker(confirm=1)
    found: list[Detections] = []
    start: int | None = None
    people: list[list[tuple[int, Box]]] = []
    for number, (image, stamp_ns) in enumerate(clip.read(clip.path)):
        if start is None:
            start, size = stamp_ns, (image.shape[1], image.shape[0])
            people = boxes_of_joints(points * size, size)
        bodies = people[number] if number < len(people) else []
        found.append(tracker.update([(box, 1.0) for _, box in bodies], stamp_ns - start))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, found)


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    times = SHORT_SIDE / min(image.shape[:2])
    if times <= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), np.uint8)


def _mediapipe() -> Any:
    try:
        import mediapipe
    except ImportError:
        mediapipe = None
    if mediapipe is None or not hasattr(mediapipe, "solutions"):
        state = "not installed" if mediapipe is None else f"version {mediapipe.__version__}, without models"
        raise EstimatorError(
            f"MediaPipe is {state}: {extra('joints')}, best in an environment of its own "
            "(Python 3.10 to 3.12); or write the tables with another estimator, see docs/own-activities.md"
        )
    return mediapipe


def _hands() -> AbstractContextManager[Estimator]:
    tool = _mediapipe().solutions.hands.Hands(
        max_num_hands=2, min_detection_confidence=CONFIDENCE, min_tracking_confidence=CONFIDENCE
    )

    def hands(image: NDArray[np.uint8]) -> list[Body]:
        found = tool.process(image)
        bodies: list[Body] = []
        for marks, side in zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True):
            number = int(side.classification[0].label == "Right")
            if any(n == number for n, _ in bodies):  # two of one side: the second is told apart all the same
                number = 1 - number
            bodies.append((number, np.array([(m.x, m.y) for m in marks.landmark])))
        return bodies[:2]

    return _Closing(tool, hands)


def _body() -> AbstractContextManager[Estimator]:
    tool = _mediapipe().solutions.pose.Pose(
        min_detection_confidence=CONFIDENCE, min_tracking_confidence=CONFIDENCE
    )

    def body(image: NDArray[np.uint8]) -> list[Body]:
        found = tool.process(image).pose_landmarks
        if found is None:
            return []
        marks = [found.landmark[i] for i in BODY.values()]
        points = [(m.x, m.y) if m.visibility >= CONFIDENCE else (np.nan, np.nan) for m in marks]
        return [(0, np.array(points))]

    return _Closing(tool, body)


class _Closing(AbstractContextManager[Estimator]):
    """The estimator of one clip: it follows bodies from frame to frame, so that each clip needs its own."""

    def __init__(self, tool: Any, estimator: Estimator):
        self.tool, self.estimator = tool, estimator

    def __enter__(self) -> Estimator:
        return self.estimator

    def __exit__(self, *_: object) -> None:
        self.tool.close()
