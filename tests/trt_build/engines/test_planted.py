# SPDX-License-Identifier: Apache-2.0
"""The folder of engines in a bundle that somebody else may write to: nothing is followed, written through or run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trt_build.engines.test_compile import PLAN, sidecar_of, wanted_of
from tests.trt_build.planting import KINDS, LAST_S, plant
from trt_build.bundle import LoadedBundle
from trt_build.engines import plan as plan_module
from trt_build.engines.nvidia import Gpu
from trt_build.engines.sidecar import EngineRefused, Wanted, find_plan, plan_path, write_plan
from trt_build.errors import EngineError

REPOSITORY = Path(__file__).resolve().parents[3]
Cached = tuple[LoadedBundle, Wanted, Path]
LOCK = """
import sys
from pathlib import Path
from trt_build.engines.sidecar import locked
from trt_build.errors import EngineError
try:
    with locked(Path(sys.argv[1]), lambda s: None):
        print("locked")
except EngineError as error:
    sys.exit(str(error))
"""


def lock(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOCK, str(folder)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LAST_S)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_not_a_file_is_refused_and_what_is_behind_it_keeps_its_content(
    tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "engines").mkdir()
    plant(tmp_path / "engines" / ".lock", kind, victim)
    done = lock(tmp_path / "engines")
    assert done.returncode == 1 and ".lock: it is a" in done.stderr and "remove it" in done.stderr, (
        done.stderr
    )
    assert "Traceback" not in done.stderr and victim.read_text() == "precious"


@pytest.mark.slow
def test_engines_that_is_a_link_is_refused_and_nothing_is_made_behind_it(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    for target in (tmp_path / "there", tmp_path / "not there"):
        (tmp_path / "bundle" / "engines").symlink_to(target)
        (tmp_path / "there").mkdir(exist_ok=True)
        done = lock(tmp_path / "bundle" / "engines")
        assert done.returncode == 1 and "engines: it is a link" in done.stderr, done.stderr
        (tmp_path / "bundle" / "engines").unlink()
    assert not (tmp_path / "not there").exists() and not list((tmp_path / "there").iterdir())
    assert lock(tmp_path / "bundle" / "engines").stdout == "locked\n"


@pytest.fixture
def engines(make_bundle: Callable[..., LoadedBundle]) -> Cached:
    """A bundle with an engine: (bundle, what is wanted, the plan)."""

    bundle = make_bundle()
    wanted = wanted_of(bundle)
    path = plan_path(bundle, wanted)
    path.parent.mkdir()
    write_plan(path, PLAN, sidecar_of(wanted))
    return bundle, wanted, path


@pytest.mark.timeout(LAST_S)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".plan", ".json"])
def test_an_engine_that_is_not_a_file_is_refused(
    engines: Cached, tmp_path: Path, suffix: str, kind: str
) -> None:

    bundle, wanted, path = engines
    assert find_plan(bundle, wanted)[0] == path
    file = path.with_suffix(suffix)
    plant(file, kind, Path(shutil.copy(file, tmp_path / "same")))
    with pytest.raises(EngineRefused, match="it is a"):
        find_plan(bundle, wanted)


def test_a_folder_of_engines_behind_a_link_is_not_read(engines: Cached, tmp_path: Path) -> None:

    bundle, wanted, path = engines
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineRefused, match="engines: it is a link"):
        find_plan(bundle, wanted)


def test_planted_part_names_are_neither_written_through_nor_do_they_stop_a_build(
    engines: Cached, tmp_path: Path
) -> None:

    bundle, wanted, path = engines
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f".{path.name}.{os.getpid()}.part", ".other.7.part"):
        (path.parent / name).symlink_to(victim)
    (path.parent / ".folder.part").mkdir()
    (path.parent / ".folder.part" / "x").write_text("")
    os.mkfifo(path.parent / ".fifo.part")
    plan = b"a new plan"
    write_plan(
        path, plan, sidecar_of(wanted, plan_bytes=len(plan), plan_sha256=hashlib.sha256(plan).hexdigest())
    )
    assert victim.read_text() == "precious" and find_plan(bundle, wanted)[0].read_bytes() == plan
    assert sorted(p.name for p in path.parent.glob("*.part")) == [".folder.part"]


@pytest.mark.timeout(LAST_S)
def test_a_plan_that_changes_between_check_and_reading_is_not_deserialised(
    engines: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:

    bundle, wanted, path = engines
    find = plan_module.find_plan

    def changed(*arguments: Any) -> Any:
        found = find(*arguments)
        path.write_bytes(b"X" * path.stat().st_size)
        return found

    monkeypatch.setattr(plan_module, "find_plan", changed)

    with pytest.raises(EngineError, match="changed while it was opened"):
        plan_module.open_plan(
            bundle,
            wanted.mode,
            backend=wanted.backend,
            batch=wanted.batch,
            precision=wanted.precision,
            policy="refuse",
            gpu=Gpu(0, wanted.gpu, wanted.compute_capability, 0, 0),
            trt=SimpleNamespace(__version__=wanted.trt_version),
            say=print,
        )
