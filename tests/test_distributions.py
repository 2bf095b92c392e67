# SPDX-License-Identifier: Apache-2.0
"""More than one ROS 2 distribution: their wheels, and one short test of the node on the second of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMOKE = "tests/gc_ros/node/test_stream.py::test_eight_frames_give_one_message_stamped_as_the_eighth_and_none_before"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for name in ("ROS_DISTRO", "GLIMPSE_VENV"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("environment", None)
    import environment

    return environment


def test_every_distribution_is_pinned_and_has_an_environment_of_its_own(environment: Any) -> None:
    assert list(environment.WHEELS) == ["jazzy", "kilted"]
    prefixes = {environment.Environment(name).prefix for name in (None, *environment.WHEELS)}
    assert len(prefixes) == 2 and environment.Environment("jazzy").prefix == environment.Environment().prefix
    ours = (ROOT / "requirements" / "constraints.txt").read_text()
    for name in environment.WHEELS:
        path = ROOT / "requirements" / environment.WHEELS[name]
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines), path
        assert f"ros-{name}-rclpy" in {line.split("==")[0] for line in lines}
        others = [other for other in environment.WHEELS if other != name]
        assert not any(line.startswith(f"ros-{other}-") for line in lines for other in others)
        assert not {line.split("==")[0] for line in lines} & set(re.findall(r"^([\w-]+)==", ours, re.M))


def test_wheels_are_refused_where_another_ros_is_sourced(
    environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/humble")
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert environment.Environment().prefix.name == ".venv-humble"
    with pytest.raises(
        environment.SetupError, match="humble is sourced; for the wheels of kilted open a shell"
    ):
        environment.Environment("kilted")


def test_the_node_runs_on_the_second_distribution(environment: Any) -> None:
    second = environment.Environment("kilted")
    if not (second.stamps / "messages").is_file():
        pytest.skip("no environment of Kilted's wheels: make env ROS=kilted")
    code = "import importlib.metadata as m; print(m.version('ros-rclpy'))"
    env = second.variables()
    version = subprocess.run([str(second.python), "-c", code], env=env, capture_output=True, text=True)
    assert version.stdout.startswith("9."), version.stderr
    command = [str(second.python), "-m", "pytest", "-p", "timeout", "-p", "hypothesispytest", "-q", SMOKE]
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
