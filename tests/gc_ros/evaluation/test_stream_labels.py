# SPDX-License-Identifier: Apache-2.0
"""benchmarks/stream_labels.py: the same windows in every form; differences that are the codec's, not the decoder's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gc_ros.media.clips import Clip
from tests.conftest import REPOSITORY
from tests.videos import write_clip
from trt_build.bundle import LoadedBundle


@pytest.fixture(scope="module")
def bench() -> Any:
    path = REPOSITORY / "benchmarks" / "stream_labels.py"
    spec = importlib.util.spec_from_file_location("stream_labels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip(path: Path, colour: tuple[int, int, int], frames: int = 36) -> Clip:
    noise = np.random.default_rng(0)
    image = np.full((48, 64, 3), colour, np.int16)
    images = [
        np.clip(image + noise.integers(-9, 10, image.shape), 0, 255).astype(np.uint8) for _ in range(frames)
    ]
    return Clip(write_clip(path, images, fps=16), path.stem, path.stem, "")


@pytest.mark.slow
def test_every_form_has_the_raw_windows_and_a_codec_adds_noise_but_no_offset(
    bench: Any, colours: LoadedBundle, tmp_path: Path
) -> None:
    clips = [clip(tmp_path / "red.mp4", (200, 60, 40)), clip(tmp_path / "blue.mp4", (30, 60, 190))]
    found = bench.run(colours, clips, [10, 30], 30.0, 1)
    assert found["clips"] == 2 and found["windows"] > 10 and found["unknown"] == 0
    assert set(found["forms"]) == {"noise", "yuv420p", "jpeg", "h264 10", "h264 10 b", "h264 30", "h264 30 b"}
    for form in found["forms"].values():
        assert form["windows"] == found["windows"]
        assert (form["same_label"], form["same_answer"], form["flips"]) == (1.0, 1.0, [])
        assert np.abs(form["offset"]).max() < 4, "another matrix or range is 10 to 40"
    assert found["forms"]["noise"]["rms"] < 1 < found["forms"]["h264 30"]["rms"]
    assert found["forms"]["h264 10"]["rms"] < found["forms"]["h264 30"]["rms"]
    assert found["forms"]["h264 10"]["kbit_a_second"] > found["forms"]["h264 30"]["kbit_a_second"] > 0


def test_what_flips_is_told_with_how_sure_the_raw_window_was(bench: Any) -> None:
    from types import SimpleNamespace

    def lane(*labels: str, status: str = "ok") -> Any:
        windows = {
            ("clip", n): SimpleNamespace(label=label, status=status, scores=np.array([0.3, 0.6, 0.1]))
            for n, label in enumerate(labels)
        }
        return SimpleNamespace(windows=windows, differences=[np.zeros((2, 3))])

    found = bench.compare(lane("a", "b", "a", "b"), lane("a", "b", "b", "b"))
    assert (found["same_label"], found["same_answer"], found["flips"]) == (0.75, 0.75, [(0.6, 0.3)])
    unknown = bench.compare(lane("a", "b", status="unknown"), lane("b", "b", status="unknown"))
    assert (unknown["same_label"], unknown["same_answer"]) == (0.5, 1.0)
