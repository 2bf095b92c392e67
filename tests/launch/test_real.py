# SPDX-License-Identifier: Apache-2.0
"""The launch files under the real launch and launch_ros, where a sourced ROS has them; the stub stands in elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from tests.gc_ros.node.harness import ROOT, new_domain
from tests.toy import toy_bundle
from tests.videos import flat, write_clip

if find_spec("launch_ros") is None:
    pytest.skip("launch_ros is not installed: source a ROS 2 that has it", allow_module_level=True)

pytestmark = pytest.mark.ros  # not slow: `colcon test` is where it runs

# As `ros2 launch` does it. With a namespace: as nav2 includes others, beside a process that is somebody else's.
_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import ExecuteProcess, GroupAction, IncludeLaunchDescription, TimerAction, Shutdown
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace

path, namespace, seconds, *arguments = sys.argv[1:]
pairs = [tuple(argument.split(":=", 1)) for argument in arguments]
entities = [IncludeLaunchDescription(AnyLaunchDescriptionSource(path), launch_arguments=pairs)]
if namespace:
    other = ExecuteProcess(cmd=["sh", "-c", "sleep 12 && echo the other lives"], output="screen")
    entities = [other, GroupAction([PushRosNamespace(namespace), *entities])]
if float(seconds):
    entities.append(TimerAction(period=float(seconds), actions=[Shutdown(reason="the test is over")]))
service = LaunchService(argv=arguments, noninteractive=True)
service.include_launch_description(LaunchDescription(entities))
sys.exit(service.run())
"""


def launch(
    folder: Path, name: str, *arguments: str, namespace: str = "", seconds: float = 0.0, hide: str = ""
) -> tuple[int, str]:
    """(exit code, output) of a launch file. seconds: until it is shut down. hide: a module that cannot be imported."""
    prefix = folder / "prefix"
    (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/glimpse_clouds").touch()
    (prefix / "lib").mkdir()
    (prefix / "share/glimpse_clouds").symlink_to(ROOT)
    (prefix / "lib/glimpse_clouds").symlink_to(ROOT / "scripts")
    (folder / "run.py").write_text(_LAUNCH)
    new_domain()
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if hide:
        (folder / "hidden").mkdir()
        (folder / "hidden" / f"{hide}.py").write_text("raise ImportError('hidden by the test')")
        paths.insert(0, str(folder / "hidden"))
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join([str(prefix), os.environ.get("AMENT_PREFIX_PATH", sys.prefix)]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ROS_LOG_DIR": str(folder / "log"),
    }
    command = [sys.executable, str(folder / "run.py"), str(ROOT / "launch" / name), namespace, str(seconds)]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
    )
    return done.returncode, done.stdout


@pytest.fixture
def bag(tmp_path: Path) -> list[str]:
    bundle = toy_bundle(tmp_path / "bundle", "colours", S=32)
    make_bag(find_clips([write_clip(tmp_path / "a.mp4", [flat((200, 0, 0))] * 90)]), tmp_path / "bag")
    return [f"bag:={tmp_path / 'bag'}", f"bundle:={bundle.path}", "truth:=none", f"out:={tmp_path / 'out'}"]


@pytest.mark.parametrize("namespace", ["", "robot1"])
def test_a_bag_is_played_and_evaluated_and_the_launch_ends_with_0(
    namespace: str, bag: list[str], tmp_path: Path
) -> None:
    code, output = launch(tmp_path, "bag.launch.py", *bag, namespace=namespace)
    assert code == 0 and (tmp_path / "out" / "summary.json").is_file(), output
    assert "Traceback" not in output and "Caught exception" not in output, output


def test_what_the_evaluation_lacks_ends_the_launch_before_the_bag_plays(
    bag: list[str], tmp_path: Path
) -> None:
    code, output = launch(tmp_path, "bag.launch.py", *bag, hide="jinja2")
    assert code == 1 and "pip install" in output and "images on /image in" not in output, output


def test_a_node_started_wrongly_is_not_started_again_and_others_live(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("/**:\n  ros__parameters:\n    top_k: five\n")
    code, output = launch(
        tmp_path, "activity.launch.py", f"params_file:={tmp_path / 'wrong.yaml'}", namespace="robot1"
    )
    assert code == 0 and "the other lives" in output and "not started again" in output, output
    assert len(re.findall(r"activity_node-\d+\]: process started", output)) == 1, output


def test_a_node_that_dies_is_started_again_and_others_live(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        "activity.launch.py",
        f"bundle:={tmp_path / 'none'}",
        f"params_file:={_dying(tmp_path)}",
        namespace="robot1",
        seconds=14,
    )
    assert code == 0 and "the other lives" in output, output
    assert len(re.findall(r"activity_node-\d+\]: process started", output)) > 1, output


def _dying(folder: Path) -> Path:
    path = folder / "dies.yaml"
    path.write_text("/**:\n  ros__parameters:\n    exit_on_failure: true\n")
    return path


def test_without_respawn_the_failure_of_the_node_is_that_of_the_launch(tmp_path: Path) -> None:
    arguments = [f"bundle:={tmp_path / 'none'}", f"params_file:={_dying(tmp_path)}", "respawn:=False"]
    code, output = launch(tmp_path, "activity.launch.py", *arguments)
    assert code == 1 and "the node ended with exit code 3" in output, output
