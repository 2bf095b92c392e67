# SPDX-License-Identifier: Apache-2.0
"""A data set of scenes: videos of several people, with their boxes and the truth a person.

scene_0001.mp4                  the video
scene_0001.truth.csv            id,start_s,end_s,label: who does what when
boxes/scene_0001.boxes.csv      who stands where, with the same ids; see gc_ros.media.detections
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gc_model.synth.boxes import detections
from gc_model.synth.clip import ClipSpec, check
from gc_model.synth.jobs import processes, run_jobs
from gc_model.synth.several import MOST, STANDING, SceneSpec, check_scene, render_scene
from gc_model.synth.video import write_video
from gc_ros.media.detections import boxes_of, write_csv
from trt_build.errors import DataError
from trt_build.files import write_atomically


@dataclass(frozen=True)
class SceneJob:
    """A scene and the video it becomes, relative to the data set's root."""

    spec: SceneSpec
    file: str

    @property
    def drawn_as(self) -> str:
        return str(self.spec)


def plan_scenes(
    scenes: int,
    *,
    people: tuple[int, int] = (2, 4),
    crossing: float = 0.5,
    change_s: float = 0.0,
    classes: Sequence[str] | None = None,
    subjects: int = 8,
    first_subject: int = 1,
    seed: int = 0,
    size: tuple[int, int] = (640, 360),
    fps: float = 10.0,
    duration_s: float = 8.0,
    clutter: float = 1.0,
    occlusion: float = 0.25,
    noise: float = 1.0,
) -> list[SceneJob]:
    """The scenes of a data set. Raises DataError for what cannot be made.

    people: how many are in a scene, from and to. crossing: share of the scenes in which one of them crosses the
    picture. change_s: seconds after which everybody does something else; 0: never. The rest: as for clips.
    """
    low, high = people
    if scenes < 1 or not 1 <= low <= high <= MOST:
        raise DataError(
            f"{scenes} scenes of {low} to {high} people: give 1 scene or more, of 1 to {MOST} people"
        )
    if subjects < high or first_subject < 1 or seed < 0:
        raise DataError(
            f"{subjects} subjects from number {first_subject}: a scene of {high} needs as many, counted from 1"
        )
    if not 0 <= crossing <= 1:
        raise DataError("crossing goes from 0 to 1")
    names = tuple(name.strip() for name in classes or () if name.strip()) or STANDING
    if len(set(names)) < len(names):
        raise DataError("an activity is listed twice: name each once")
    rng = np.random.default_rng([seed, first_subject, subjects])
    jobs = []
    for number in range(1, scenes + 1):
        count = int(rng.integers(low, high + 1))
        chosen = first_subject + rng.permutation(subjects)[:count]
        spec = SceneSpec(
            number, names, tuple(chosen.tolist()), count > 1 and bool(rng.uniform() < crossing), change_s, seed,
            (size[0], size[1]), fps, duration_s, clutter, occlusion, noise,
        )  # fmt: skip
        jobs.append(SceneJob(spec, f"scene_{number:04d}.mp4"))
    check(ClipSpec("wave", size=size, fps=fps, duration_s=duration_s))
    check_scene(jobs[0].spec)
    return jobs


def make_scene_files(root: Path, job: SceneJob) -> int:
    """Render one scene and write its files; returns the number of frames."""
    spec, target = job.spec, root / job.file
    clip, doing = render_scene(spec)
    write_video(target, clip.frames, spec.fps)
    table = boxes_of(root / "boxes", job.file)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, detections(clip, spec.size, spec.fps))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "start_s", "end_s", "label"])
    writer.writerows([d.person + 1, f"{d.start_s:.3f}", f"{d.end_s:.3f}", d.activity] for d in doing)
    write_atomically(target.with_suffix(".truth.csv"), text.getvalue())
    return len(clip.frames)


def synthesize_scenes(
    out: Path | str, scenes: int, *, workers: int | None = None, progress: bool = True, **how: Any
) -> dict[str, Any]:
    """Write scenes under `out` and return a summary; how: as for `plan_scenes`. Raises DataError."""
    jobs = plan_scenes(scenes, **how)
    workers = processes(workers)
    start = time.perf_counter()
    frames = run_jobs(Path(out), jobs, make_scene_files, workers, progress)
    seconds = time.perf_counter() - start
    return {
        "out": str(out),
        "layout": "scenes",
        "classes": list(jobs[0].spec.activities),
        "clips": len(jobs),
        "people": sum(len(job.spec.subjects) for job in jobs),
        "frames": sum(frames.values()),
        "subjects": sorted({who for job in jobs for who in job.spec.subjects}),
        "seed": jobs[0].spec.seed,
        "workers": workers,
        "seconds": round(seconds, 3),
        "clips_per_s": round(len(jobs) / max(seconds, 1e-9), 2),
    }
