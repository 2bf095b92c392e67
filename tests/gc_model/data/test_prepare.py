# SPDX-License-Identifier: Apache-2.0
"""`gc-model prepare`: rescales once, resumes, keeps damage countable."""

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.data import prepare as module
from gc_model.data.datasets import index
from gc_model.data.frames import CacheError
from gc_model.data.prepare import prepare, rescale
from tests.gc_model.runs import coloured_clips, ntu_people
from tests.videos import truncated
from trt_build.errors import DataError


@pytest.mark.slow
def test_preparing_rescales_resumes_and_keeps_damage_countable(tmp_path):
    data, out = tmp_path / "ntu", tmp_path / "small"
    shutil.copytree(ntu_people(), data)
    victim = sorted((data / "nturgb+d_rgb").glob("*P003*"))[0]
    truncated(victim, tmp_path / "half.avi", 0.6)
    shutil.move(tmp_path / "half.avi", victim)
    name = victim.name.removesuffix("_rgb.avi")
    result = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert result["clips"] == result["made"] == 12 and list(result["damaged"]) == [name]
    clips = index("ntu", out)
    assert [(c.name, c.label) for c in clips] == [(c.name, c.label) for c in index("ntu", data)]
    from gc_ros.media.video import read_video

    for before, after in zip(index("ntu", data), clips, strict=True):
        if before.name != name:
            a, b = list(read_video(before.path)), list(read_video(after.path))
            assert b[0][0].shape == (48, 48, 3) and [t for _, t in a] == [t for _, t in b]
        assert after.joints.file.read_bytes() == before.joints.file.read_bytes()
    clips[3].path.unlink()
    again = prepare(data, out, layout="ntu", size=48, workers=1, progress=False)
    assert (again["made"], again["kept"], list(again["damaged"])) == (1, 11, [name])
    with pytest.raises(DataError, match="another size"):
        prepare(data, out, layout="ntu", size=64, progress=False)


def test_a_process_that_is_killed_is_one_line_and_the_same_command_continues(tmp_path, monkeypatch):
    data = coloured_clips(tmp_path / "data", per_class=1, frames=4)
    once = tmp_path / "killed"
    monkeypatch.setattr(module, "rescale", functools.partial(killed_once, once))
    with pytest.raises(CacheError, match=r"was killed, .*the same command with --workers 1 continues"):
        prepare(data, tmp_path / "out", size=48, workers=1, progress=False)
    assert prepare(data, tmp_path / "out", size=48, workers=1, progress=False)["clips"] == 3
    assert len(list((tmp_path / "out").glob("*/*.mkv"))) + len(list((tmp_path / "out").glob("*/*.mp4"))) == 3


def killed_once(once: Path, job: Any) -> str:
    if not once.exists():
        once.touch()
        os._exit(1)
    return rescale(job)
