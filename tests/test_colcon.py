# SPDX-License-Identifier: Apache-2.0
"""The package built and tested by colcon, as on a robot: from a workspace and from its own root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trt_build.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "msg",
    "srv",
    "gc_model",
    "trt_build",
    "gc_ros",
    "scripts",
    "launch",
    "config",
    "cmake",
    "bundles",
    "tests",
)
GROUPS = ("trt_build", "gc_ros_media", "gc_ros_recognition", "gc_ros_evaluation", "gc_ros_node", "launch")
FILES = ("package.xml", "CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE")

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.mark.parametrize("place", ["src/glimpse_clouds", "."])
def test_colcon_builds_and_its_setup_file_gives_modules_and_executable(place: str, tmp_path: Path) -> None:
    colcon = shutil.which("colcon", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if colcon is None:
        pytest.skip("no colcon: pip install -r requirements/ros-wheels.txt")
    package = tmp_path / place
    for part in PARTS:
        shutil.copytree(ROOT / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, package / file)
    # A virtual environment in the workspace must not be taken for packages: a hidden one is not looked into.
    (tmp_path / ".venv" / "share" / "std_msgs").mkdir(parents=True)
    shutil.copy(ROOT / "package.xml", tmp_path / ".venv" / "share" / "std_msgs")

    prefix = os.environ.get("AMENT_PREFIX_PATH", sys.prefix)
    # Not the messages of this environment: only what colcon builds may be found.
    env = {
        **os.environ,
        "AMENT_PREFIX_PATH": prefix,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    options = [
        f"-DCMAKE_PROJECT_INCLUDE={package / 'cmake' / 'drop_missing_include_dirs.cmake'}",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    linked = ["--symlink-install"] if place == "." else []
    command = [colcon, "build", *linked, "--cmake-args", *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Finished <<<") == 1 and "Finished <<< glimpse_clouds" in done.stdout

    install = tmp_path / "install"
    modules = "gc_model, trt_build, gc_ros, glimpse_clouds"
    code = f"import {modules}; print('\\n'.join(m.__file__ for m in ({modules})))"
    shell = f'source {install / "setup.bash"} && python3 -c "{code}" && echo $AMENT_PREFIX_PATH'
    found = subprocess.run(["bash", "-c", shell], cwd="/", env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count(str(install)) == 5, found.stdout
    share, programs = (
        install / "glimpse_clouds" / "share",
        install / "glimpse_clouds" / "lib" / "glimpse_clouds",
    )
    for name in ("activity_node", "gc-ros", "gc-model", "trt-build"):
        assert os.access(programs / name, os.X_OK)
    for name in ("launch/activity.launch.py", "config/activity.yaml", "config/fastdds.xml"):
        assert (share / "glimpse_clouds" / name).is_file()
    load_bundle(share / "glimpse_clouds" / "bundles" / "people")  # files, also where the rest is links
    assert (share / "glimpse_clouds" / "config" / "activity.yaml").is_symlink() == bool(linked)
    run = f"source {install / 'setup.bash'} && {programs / 'activity_node'} --help"
    usage = subprocess.run(["bash", "-c", run], cwd="/", env=env, capture_output=True, text=True)
    assert usage.returncode == 0 and "usage: activity_node" in usage.stdout, usage.stderr
    for name in ("gc-ros", "gc-model", "trt-build"):
        run = f"source {install / 'setup.bash'} && command -v {name} && {name} --help"
        found = subprocess.run(["bash", "-c", run], cwd="/", env=env, capture_output=True, text=True)
        assert found.returncode == 0 and "Usage:" in found.stdout, found.stderr
        assert found.stdout.splitlines()[0] == str(install / "glimpse_clouds" / "bin" / name)
    if place != ".":
        check_colcon_test(colcon, tmp_path, env)


def check_colcon_test(colcon: str, workspace: Path, env: dict[str, str]) -> None:
    """`colcon test` in a workspace that has been built: its groups of tests, and one of them run."""
    build = workspace / "build" / "glimpse_clouds"
    listed = subprocess.run(["ctest", "-N"], cwd=build, env=env, capture_output=True, text=True)
    assert set(re.findall(r"Test +#\d+: (\w+)", listed.stdout)) == set(GROUPS), listed.stdout
    # One group is enough: this suite runs the tests of all of them.
    command = [colcon, "test", "--event-handlers", "console_direct+", "--ctest-args", "-V", "-R", "^launch$"]
    done = subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "configfile: tests/colcon.ini" in done.stdout and " deselected" in done.stdout
    results = [colcon, "test-result", "--verbose"]
    summary = subprocess.run(results, cwd=workspace, env=env, capture_output=True, text=True)
    assert summary.returncode == 0, summary.stdout
    count = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures", summary.stdout)
    assert count and int(count[1]) > 20, summary.stdout
