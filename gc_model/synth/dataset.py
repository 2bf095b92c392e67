# SPDX-License-Identifier: Apache-2.0
"""Whole data sets of synthetic people, in the layouts that the readers of real data sets read."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from gc_model.synth.activities import ACTIVITIES, ALONE
from gc_model.synth.boxes import detections
from gc_model.synth.clip import ClipSpec, check, render
from gc_model.synth.jobs import cannot_write, processes, run_jobs
from gc_model.synth.skeleton import joint_table, skeleton_text
from gc_model.synth.video import write_video
from gc_ros.media.clips import VIDEO_SUFFIXES
from gc_ros.media.detections import boxes_of, write_csv
from gc_ros.media.tables import read_rows
from trt_build.errors import DataError
from trt_build.files import write_atomically

_COLUMNS = ("path", "class", "subject", "camera", "width", "height", "fps", "frames")
LAYOUTS = ("folder", "ntu", "nucla", "nucla-frames")
NUCLA_CLASSES = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
# Yaw of camera 1, 2, 3. NTU: the middle camera and the two sides; a person faces one of the sides, so that camera 1
# always sees 45 degrees and the others the front and the side.
YAWS = {"folder": (0.0, 40.0, -40.0), "ntu": (0.0, 45.0, -45.0), "nucla": (0.0, 50.0, -50.0)}


@dataclass(frozen=True)
class Job:
    """A clip and the file it becomes, relative to the data set's root."""

    spec: ClipSpec
    file: str
    label: str
    repetition: int
    layout: str
    skeleton: bool = True  # False: bodies were lost, as in 302 clips of NTU
    joints: bool = False  # folder: also a table of joints
    boxes: bool = False  # also a table of boxes

    @property
    def drawn_as(self) -> str:
        """What its files depend on, whether or not there are tables beside it."""
        return f"{self.spec} {self.skeleton}"

    def row(self, frames: int) -> dict[str, str]:
        """Its row of clips.csv. frames: that were drawn, which may be fewer than asked for, see `render`."""
        s = self.spec
        cells = (self.file, self.label, s.subject, s.camera, *s.size, f"{s.fps:g}", frames)
        return dict(zip(_COLUMNS, map(str, cells), strict=True))


def plan(
    layout: str,
    *,
    classes: Sequence[str] | None = None,
    subjects: int = 8,
    first_subject: int = 1,
    clips_per_class: int | None = None,
    cameras: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    fps: float = 4.0,
    duration_s: float = 4.5,
    clutter: float = 1.0,
    occlusion: float = 0.25,
    noise: float = 1.0,
    missing_skeletons: float = 0.0,
    joints: bool = False,
    boxes: bool = False,
) -> list[Job]:
    """Every clip of a data set, in order. Raises DataError for what cannot be made.

    The clips of a class run over cameras fastest, then subjects, then repetitions: one performance is seen by all
    cameras. Without `clips_per_class` there are two repetitions of everything.
    """
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if boxes and layout != "folder":
        raise DataError(f"--boxes is for layout folder; scenes always have theirs, {layout} takes none")
    if joints and layout != "folder":
        raise DataError(f"--joints is for layout folder: ntu has skeletons of its own, {layout} takes none")
    family = layout.partition("-")[0]
    names = _classes(family, classes)
    cameras = cameras if cameras is not None else (1 if family == "folder" else 3)
    if subjects < 1 or first_subject < 1 or seed < 0:
        raise DataError("subjects and first-subject start at 1 and seed at 0: give larger numbers")
    if not 1 <= cameras <= 3:
        raise DataError(f"{cameras} cameras: there are places for 1 to 3")
    limit = {"ntu": 999, "nucla": 99}.get(family)
    if limit and first_subject + subjects - 1 > limit:
        raise DataError(
            f"layout {layout} can name subjects up to {limit}: lower --subjects or --first-subject"
        )
    total = clips_per_class if clips_per_class is not None else cameras * subjects * 2
    if total < 1:
        raise DataError(f"{total} clips per class: give at least 1")
    if (
        not 0 <= missing_skeletons <= 1
        or not 0 <= clutter <= 1
        or not 0 <= occlusion <= 1
        or not 0 <= noise <= 4
    ):
        raise DataError("missing-skeletons, clutter and occlusion go from 0 to 1, noise from 0 to 4")
    jobs = []
    for name in names:
        number = ACTIVITIES.index(name)
        for i in range(total):
            camera, person = i % cameras + 1, first_subject + i // cameras % subjects
            repetition = i // (cameras * subjects) + 1
            spec = ClipSpec(
                name, subject=person, seed=seed, take=number * 1000 + repetition, outfit=repetition, camera=camera,
                yaw_deg=YAWS[family][camera - 1], facing_deg=_facing(family, repetition), size=(size[0], size[1]),
                fps=fps, duration_s=duration_s, clutter=clutter, occlusion=occlusion, noise=noise,
            )  # fmt: skip
            lost = (number * 7919 + i * 104729 + seed) % 1000 < missing_skeletons * 1000
            file = _file(layout, names, spec, repetition)
            jobs.append(Job(spec, file, name, repetition, layout, not lost, joints, boxes))
    check(jobs[0].spec)
    return jobs


def _classes(family: str, classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        return list(ALONE)[: len(NUCLA_CLASSES)] if family == "nucla" else list(ACTIVITIES)
    names = [c.strip() for c in classes if c.strip()]
    unknown = [c for c in names if c not in ACTIVITIES]
    if unknown or not names:
        raise DataError(
            f"unknown activity {', '.join(unknown) or '(none)'}: choose from {', '.join(ACTIVITIES)}"
        )
    if len(set(names)) < len(names):
        raise DataError("an activity is listed twice: name each once")
    if family == "nucla" and len(names) > len(NUCLA_CLASSES):
        raise DataError(
            f"layout nucla has {len(NUCLA_CLASSES)} classes, not {len(names)}: name fewer with --classes"
        )
    return names


def _facing(family: str, repetition: int) -> float | None:
    if family == "ntu":
        return 45.0 if repetition % 2 else -45.0
    return None


def _file(layout: str, names: list[str], spec: ClipSpec, repetition: int) -> str:
    s, c = spec.subject, spec.camera
    if layout == "folder":
        return f"{spec.activity}/s{s:03d}_c{c}_r{repetition:02d}.mp4"
    if layout == "ntu":
        # The data set's setups are numbered by place and height of the cameras; 17 of them in the first release.
        setup, number = (s - 1) % 17 + 1, ACTIVITIES.index(spec.activity) + 1
        return f"nturgb+d_rgb/S{setup:03d}C{c:03d}P{s:03d}R{repetition:03d}A{number:03d}_rgb.avi"
    a = NUCLA_CLASSES[names.index(spec.activity)]
    if layout == "nucla":
        return f"multiview_action_videos/a{a:02d}/v{c:02d}_s{s:02d}_e{repetition:02d}.avi"
    return f"view_{c}/a{a:02d}_s{s:02d}_e{repetition:02d}"


def make(root: Path, job: Job) -> int:
    """Render one job and write its files; returns the number of frames."""
    spec, target = job.spec, root / job.file
    clip = render(spec)
    if job.layout == "nucla-frames":
        target.mkdir(parents=True, exist_ok=True)
        for k, frame in enumerate(clip.frames):
            stamp = round(k * 1000 / spec.fps)
            # Not by imwrite, which says nothing of a full disk.
            _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            write_atomically(target / f"frame_{k}_tc_{stamp}_rgb.jpg", data.tobytes())
        return len(clip.frames)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_video(target, clip.frames, spec.fps)
    if job.joints:
        path = (root / "joints" / job.file).with_suffix(".joints.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, joint_table(clip.skeleton, spec.size))
    if job.boxes:
        path = boxes_of(root / "boxes", job.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, detections(clip, spec.size, spec.fps))
    if job.layout == "ntu":
        path = root / "nturgb+d_skeletons" / (target.name.removesuffix("_rgb.avi") + ".skeleton")
        path.parent.mkdir(parents=True, exist_ok=True)
        skeleton = clip.skeleton if job.skeleton else clip.skeleton * float("nan")
        first = 72057594037927936 + spec.subject * 1000 + spec.take % 1000
        text = skeleton_text(skeleton, clip.space, clip.mask, spec.size, (first, first + 1))
        write_atomically(path, text)
    return len(clip.frames)


def synthesize(
    out: Path | str,
    layout: str = "folder",
    *,
    classes: Sequence[str] | None = None,
    subjects: int = 8,
    first_subject: int = 1,
    clips_per_class: int | None = None,
    cameras: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    fps: float = 4.0,
    duration_s: float = 4.5,
    clutter: float = 1.0,
    occlusion: float = 0.25,
    noise: float = 1.0,
    missing_skeletons: float = 0.0,
    joints: bool = False,
    boxes: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a data set of synthetic people under `out` and return a summary of it.

    layout: "folder" (class/clip.mp4 and clips.csv, with `joints` also joints/class/clip.joints.csv, with `boxes` also
    boxes/class/clip.boxes.csv), "ntu" (NTU RGB+D names, .avi and .skeleton), "nucla" (N-UCLA videos) or "nucla-frames"
    (N-UCLA pictures); all but the last have clips.csv and all but the first classes.csv. Scenes: see `scenes`.
    The result depends on every argument except `workers` and `progress`. Subjects are `first_subject` and the
    following; those of different numbers are different people. Clips that are there stay, also in the tables: the same
    call draws its own again, another one adds to them. Raises DataError, also where it would replace another's clip.
    """
    jobs = plan(
        layout, classes=classes, subjects=subjects, first_subject=first_subject, clips_per_class=clips_per_class,
        cameras=cameras, seed=seed, size=size, fps=fps, duration_s=duration_s, clutter=clutter, occlusion=occlusion,
        noise=noise, missing_skeletons=missing_skeletons, joints=joints, boxes=boxes,
    )  # fmt: skip
    workers, root = processes(workers), Path(out)
    _tables(root, jobs)  # one that cannot be added to is no reason to draw first
    start = time.perf_counter()
    frames = run_jobs(root, jobs, make, workers, progress)
    seconds = time.perf_counter() - start
    try:
        for path, text in _tables(root, jobs, frames).items():
            write_atomically(path, text)
    except OSError as error:
        raise cannot_write(root, error) from error
    return {
        "out": str(root),
        "layout": layout,
        "classes": list(dict.fromkeys(job.label for job in jobs)),
        "clips": len(jobs),
        "frames": sum(frames.values()),
        "subjects": sorted({job.spec.subject for job in jobs}),
        "cameras": len({job.spec.camera for job in jobs}),
        "seed": seed,
        "workers": workers,
        "seconds": round(seconds, 3),
        "clips_per_s": round(len(jobs) / max(seconds, 1e-9), 2),
    }


def _tables(root: Path, jobs: list[Job], frames: Mapping[Job, int] | None = None) -> dict[Path, str]:
    """The data set's tables with these clips, and with all others that they hold already. Raises DataError.

    frames: of each clip; None: not yet drawn.
    """
    tables = {}
    if jobs[0].layout != "nucla-frames":  # whose clips are folders, which no reader of clips.csv expects
        path = root / "clips.csv"
        columns, rows = _rows(path, ("path", "class"))
        drawn = {job.file for job in jobs}
        if not path.exists():
            for video in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
                if video.relative_to(root).as_posix() not in drawn:
                    raise DataError(
                        f"{video}: clips.csv would lack it and so hide it; draw into another folder"
                    )
        kept = [row for row in rows if os.path.normpath(row["path"]) not in drawn]
        tables[path] = _text(
            [*_COLUMNS, *columns], [*kept, *(job.row(frames[job] if frames else 0) for job in jobs)]
        )
    if jobs[0].layout != "folder":
        path = root / "classes.csv"
        columns, rows = _rows(path, ("number", "class"))
        numbers = {row["number"]: row["class"] for row in rows}
        for number, label in {str(_class_number(job)): job.label for job in jobs}.items():
            if numbers.setdefault(number, label) != label:
                raise DataError(
                    f"{path}: {number} is {numbers[number]}, not {label}; draw into another folder"
                )
        tables[path] = _text(["number", "class"], [{"number": n, "class": c} for n, c in numbers.items()])
    return tables


def _rows(path: Path, columns: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    names, rows = read_rows(path, columns)
    return names, [row for _, row in rows]


def _text(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, list(dict.fromkeys(filter(None, columns))), restval="", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _class_number(job: Job) -> int:
    if job.layout == "ntu":
        return ACTIVITIES.index(job.label) + 1
    part = job.file.split("/")[1]
    return int(part[1:3])
