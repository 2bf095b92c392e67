# SPDX-License-Identifier: Apache-2.0
"""Data sets and runs that several test files share: made once, at most tiny, never edited by a test.

Once for all processes that the tests are spread over: `tests.conftest` names the folder, the first that asks makes it.
"""

from __future__ import annotations

import atexit
import csv
import fcntl
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.videos import write_clip

COLOURS = {"blue": (30, 40, 220), "green": (40, 210, 40), "red": (220, 40, 30)}


@cache
def scratch() -> Path:
    """A folder that goes away with the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def shared(name: str, make: Callable[[Path], Any]) -> Path:
    """The folder `name` that all processes of this test run share, made by the first that asks for it."""
    root = Path(os.environ["GLIMPSE_CLOUDS_SHARED_TESTS"])
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = root / f"{name}.made"
        if not made.exists():
            make(root / name)
            made.touch()
    return root / name


def coloured(seed: int, colour: tuple[int, int, int], frames: int) -> list[np.ndarray]:
    """Frames (48, 64, 3) of one colour with patches that move a little, so that no two frames are equal."""
    rng = np.random.default_rng(seed)
    images = []
    for t in range(frames):
        image = np.full((48, 64, 3), colour, np.uint8)
        x = (4 * t + int(rng.integers(0, 4))) % 48
        image[16:32, x : x + 16] = rng.integers(0, 256, 3)
        images.append(image)
    return images


def coloured_clips(folder: Path, per_class: int = 4, frames: int = 20, fps: int = 4) -> Path:
    """class/clip.mp4 of three colours and clips.csv with subjects a and b in turn."""
    rows = []
    for label, colour in COLOURS.items():
        for i in range(per_class):
            path = folder / label / f"{label}{i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, coloured(i, colour, frames), fps=fps)
            rows.append([f"{label}/{path.name}", label, "ab"[i % 2]])
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "class", "subject"], *rows])
    return folder


@cache
def colours() -> Path:
    """Twelve clips of 5 s at 4 Hz: a data set that anything can learn."""
    return shared("colours", coloured_clips)


@cache
def people() -> Path:
    """Twelve clips of synthetic people: three activities by four people, 4.5 s at 4 Hz."""
    from gc_model.synth import synthesize

    return shared("people", lambda folder: synthesize(
        folder, classes=["jump", "bow", "cheer"], subjects=4, clips_per_class=4, size=(96, 96),
        clutter=0, occlusion=0, noise=0, workers=1, progress=False,
    ))  # fmt: skip


@cache
def ntu_people() -> Path:
    """NTU layout: two activities by performers 1 and 2 (training) and 3 (test), cameras 1 and 2."""
    from gc_model.synth import synthesize

    return shared("ntu", lambda folder: synthesize(
        folder, "ntu", classes=["jump", "bow"], subjects=3, clips_per_class=6, cameras=2, size=(64, 64),
        clutter=0, occlusion=0, noise=0, workers=1, progress=False,
    ))  # fmt: skip


def undecodable(path: Path) -> Path:
    """A file that has the name of a video and holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no video " * 200)
    return path


def too_short(path: Path, colour: str = "red") -> Path:
    """A clip of one second: no window of 4 s fits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, coloured(0, COLOURS[colour], 4), fps=4)


def untrained(folder: Path, *, labels: tuple[str, ...] = tuple(COLOURS), **changes: Any) -> Path:
    """A run directory as training leaves it, of a random `tiny` network with all taps in use."""
    from gc_model.training import checkpoint
    from tests.gc_model.nets import build, torch

    model = build(seed=3, dtype=torch.float32, classes=len(labels), **changes)
    with torch.no_grad():
        # Clear answers, which rounding does not turn, and not the same for every colour.
        model.readout.weight.mul_(20)
        flat = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, None, :, None, None]
        logits = model(flat.expand(-1, 8, -1, 64, 64)).logits
        model.readout.bias.sub_(logits.mean(0))
    recipe = checkpoint.Recipe(list(labels), window_s=4.0, provenance={"data": "colours", "clips": 12})
    checkpoint.save(folder, model, recipe)
    return folder


@cache
def run() -> Path:
    """`untrained` with its defaults; shared, do not edit its files."""
    return shared("run", untrained)


@cache
def bundle() -> Path:
    """The bundle exported from `run`; shared, do not edit its files."""
    from gc_model.export.onnx import export_bundle

    return shared("bundle", lambda folder: export_bundle(run(), folder))


def tiny_options(data: Path, **changes: Any) -> Any:
    """TrainOptions of the shortest training on NTU's layout."""
    from gc_model.training.options import TrainOptions

    plain = {
        "data": data,
        "layout": "ntu",
        "preset": "tiny",
        "epochs1": 1,
        "epochs2": 1,
        "from_scratch": True,
    }
    return TrainOptions(**(plain | {"val_fraction": 0.0, "batch": 4} | changes))
