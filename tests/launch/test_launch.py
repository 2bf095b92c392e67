# SPDX-License-Identifier: Apache-2.0
"""The launch files, executed against a stub of the launch API: what they declare, start and hand to the node."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from gc_ros import cli
from gc_ros.node.parameters import BY_NAME
from tests.launch import stub
from tests.launch.stub import ROOT, Process, Run

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
NEEDED = {"bag.launch.py": {"bag": "p3"}}  # arguments without a default
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def run(name: str, tmp_path: Path, *, grouped: bool = False, **arguments: str) -> Run:
    return Run(ROOT / "launch" / name, tmp_path, grouped=grouped, **{**NEEDED.get(name, {}), **arguments})


def node_of(launched: Run) -> Process:
    (node,) = [p for p in launched.processes if p.words[0] == "activity_node"]
    return node


def bag_run(tmp_path: Path, **options: Any) -> Run:
    """The bag's launch file once what the evaluation needs has been checked: node, check, player."""
    launched = run("bag.launch.py", tmp_path, **options)
    launched.end(launched.processes[1])
    return launched


def test_there_is_a_launch_file_for_one_camera_for_several_for_a_bag_and_for_people() -> None:
    names = ["activity", "bag", "multi_camera", "people"]
    assert [p.name for p in FILES] == [f"{name}.launch.py" for name in names]


def test_every_argument_is_declared_once_described_and_used(path: Path, tmp_path: Path) -> None:
    launched = run(path.name, tmp_path)
    names = [argument.name for argument in launched.declared]
    assert len(set(names)) == len(names)
    assert set(names) == stub.used
    for argument in launched.declared:
        assert (
            argument.description and argument.description[0].isupper() and argument.description.endswith(".")
        )


def test_choices_are_those_of_the_parameters_and_a_wrong_one_is_refused(path: Path, tmp_path: Path) -> None:
    chosen = [argument for argument in run(path.name, tmp_path).declared if argument.choices]
    assert {"image_transport", "log_level"} <= {argument.name for argument in chosen}
    for argument in chosen:
        if argument.name in BY_NAME and BY_NAME[argument.name].choices:
            assert [c for c in argument.choices if c] == [c for c in BY_NAME[argument.name].choices if c]
        with pytest.raises(RuntimeError, match=argument.name):
            run(path.name, tmp_path, **{argument.name: "nonsense"})


def switches(launched: Run) -> list[str]:
    return [argument.name for argument in launched.declared if argument.default in ("true", "false")]


@pytest.mark.parametrize(
    ("spelling", "means"),
    [("True", True), ("1", True), ("on", True), ("FALSE", False), ("0", False), ("no", False)],
)
def test_a_switch_may_be_spelt_in_any_usual_way(
    path: Path, spelling: str, means: bool, tmp_path: Path
) -> None:
    names = switches(run(path.name, tmp_path))
    launched = run(path.name, tmp_path, autostart=spelling, **dict.fromkeys(names, spelling))
    parameters = node_of(launched).parameters
    for name in {"autostart", "use_sim_time", "build_only"} & {*names, "autostart"}:
        assert parameters[name] is means, name
    for name in [*names, "autostart"]:
        with pytest.raises(RuntimeError, match=f'"{name}" is "perhaps"; it must be true or false'):
            run(path.name, tmp_path, **{name: "perhaps"})


def test_arguments_that_are_not_given_are_left_to_the_parameter_file(path: Path, tmp_path: Path) -> None:
    given = {
        "backend": "openvino",
        "precision": "bf16",
        "device": "cuda:1",
        "mode": "step",
        "autostart": "false",
    }
    assert not given.keys() & node_of(run(path.name, tmp_path)).parameters.keys()
    parameters = node_of(run(path.name, tmp_path, **given)).parameters
    assert {name: parameters[name] for name in given} == {**given, "autostart": False}


def test_a_parameter_file_that_does_not_exist_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no parameter file /nowhere\.yaml"):
        run(path.name, tmp_path, params_file="/nowhere.yaml")


def test_every_parameter_handed_over_exists_in_the_node_and_is_legal(path: Path, tmp_path: Path) -> None:
    parameters = node_of(run(path.name, tmp_path)).parameters
    assert {"bundle", "image_transport"} <= set(parameters)
    for name in parameters.keys() - {"use_sim_time"}:
        assert name in BY_NAME and BY_NAME[name].refuse(parameters[name]) is None


def test_an_argument_reaches_the_node_as_the_type_it_has(path: Path, tmp_path: Path) -> None:
    launched = run(
        path.name, tmp_path, bundle="7", image_transport="compressed", namespace="robot", log_level="debug"
    )
    node = node_of(launched)
    assert node.parameters["bundle"] == "7" and node.parameters["image_transport"] == "compressed"
    assert "__ns:=/robot" in node.words and "__node:=activity_recognition" in node.words
    assert node.words[1:4] == ["--ros-args", "--log-level", "debug"]


def test_parameters_come_from_config_and_the_arguments_come_after_them(path: Path, tmp_path: Path) -> None:
    words = node_of(run(path.name, tmp_path)).words
    files = [words[i + 1] for i, word in enumerate(words) if word == "--params-file"]
    assert files[0] == str(ROOT / "config" / "activity.yaml") and Path(files[0]).is_file()
    assert len(files) == 2  # the last file wins
    assert (ROOT / "bundles" / "people" / "bundle.json").is_file()


def test_the_fast_dds_profile_reaches_our_processes_and_no_other(path: Path, tmp_path: Path) -> None:
    ours = str(ROOT / "config" / "fastdds.xml")
    assert Path(ours).is_file()
    for environment, arguments, expected in (
        ({}, {}, ours),
        ({PROFILES[0]: "/robot.xml"}, {}, "/robot.xml"),  # the robot's own is left in force
        ({PROFILES[1]: "/robot.xml"}, {}, "/robot.xml"),
        ({PROFILES[0]: "/robot.xml"}, {"fastdds_profile": "/mine.xml"}, "/mine.xml"),
    ):
        launched = Run(path, tmp_path, environment, **{**NEEDED.get(path.name, {}), **arguments})
        assert launched.processes
        for process in launched.processes:
            assert {process.environment[name] for name in PROFILES} == {expected}
        assert launched.context.environment == environment, "what comes after is another's"


def test_reading_a_launch_file_starts_nothing_and_asks_no_network(path: Path, tmp_path: Path) -> None:
    with (
        mock.patch.object(subprocess, "Popen", side_effect=AssertionError("a process")),
        mock.patch.object(socket, "socket", side_effect=AssertionError("a socket")),
    ):
        run(path.name, tmp_path)
    for source in (path, ROOT / "gc_ros" / "node" / "launching.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                allowed = {
                    "launch",
                    "launch_ros",
                    "gc_ros",
                    "pathlib",
                    "typing",
                    "collections",
                    "shlex",
                    "__future__",
                }
                assert name.split(".")[0] in allowed, f"{source.name} imports {name}"


@pytest.mark.parametrize("name", ["activity.launch.py", "multi_camera.launch.py"])
def test_a_live_node_is_respawned_unless_it_only_builds(name: str, tmp_path: Path) -> None:
    assert node_of(run(name, tmp_path)).respawn is True
    assert node_of(run(name, tmp_path, respawn="false")).respawn is False
    builder = node_of(run(name, tmp_path, build_only="true"))
    assert builder.respawn is False and builder.parameters["build_only"] is True
    assert node_of(run(name, tmp_path)).parameters["build_only"] is False


LIVE = pytest.mark.parametrize("name", ["activity.launch.py", "multi_camera.launch.py"])
ANYWHERE = pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in a group"])


@LIVE
@ANYWHERE
def test_a_node_that_dies_is_started_again_and_harms_nobody(name: str, grouped: bool, tmp_path: Path) -> None:
    launched = run(name, tmp_path, grouped=grouped)
    for code in (3, -9, 1, 0):
        assert launched.end(node_of(launched), code)
    assert f"__ns:={'/robot1' if grouped else '/'}" in node_of(launched).words


@LIVE
@ANYWHERE
def test_wrong_use_is_not_tried_again_and_harms_nobody(name: str, grouped: bool, tmp_path: Path) -> None:
    launched = run(name, tmp_path, grouped=grouped)
    assert not launched.end(node_of(launched), 2)
    assert not launched.context.is_shutdown
    assert any("not started again" in line for line in launched.context.logged)


@LIVE
@ANYWHERE
def test_without_respawn_a_failure_of_the_node_is_that_of_the_launch(
    name: str, grouped: bool, tmp_path: Path
) -> None:
    launched = run(name, tmp_path, grouped=grouped, respawn="false")
    launched.end(node_of(launched), 0)
    with pytest.raises(RuntimeError, match="the node ended with exit code 3"):
        launched.end(node_of(launched), 3)
    with pytest.raises(RuntimeError, match="the node ended with exit code 2"):
        launched.end(node_of(launched), 2)


@LIVE
@ANYWHERE
def test_a_build_that_fails_ends_the_launch_as_a_failure(name: str, grouped: bool, tmp_path: Path) -> None:
    builder = run(name, tmp_path, grouped=grouped, build_only="true")
    builder.end(node_of(builder), 0)
    with pytest.raises(RuntimeError, match="the build ended with exit code 3"):
        builder.end(node_of(builder), 3)


def test_one_camera_is_remapped_raw_and_compressed(tmp_path: Path) -> None:
    node = node_of(run("activity.launch.py", tmp_path, image="/cam/image_raw", use_sim_time="true"))
    assert node.remappings == {"image": "/cam/image_raw", "image/compressed": "/cam/image_raw/compressed"}
    assert node.parameters["use_sim_time"] is True


def test_several_cameras_get_their_names_and_topics(tmp_path: Path) -> None:
    node = node_of(
        run("multi_camera.launch.py", tmp_path, cameras="front, on", images="/f/image_raw,/o/image_raw")
    )
    assert node.parameters["cameras"] == ["front", "on"]  # `on` is a name, though YAML would have it true
    assert node.remappings == {
        "front/image": "/f/image_raw",
        "front/image/compressed": "/f/image_raw/compressed",
        "on/image": "/o/image_raw",
        "on/image/compressed": "/o/image_raw/compressed",
    }
    assert node_of(run("multi_camera.launch.py", tmp_path)).remappings["left/image"] == "left/image"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cameras": ""}, "cameras must be 1 to 16 different names"),
        ({"cameras": "front,front"}, "cameras must be 1 to 16 different names"),
        ({"cameras": "front-left"}, "cameras has the name 'front-left'"),
        ({"cameras": "front,left", "images": "/front"}, "1 topics for 2 cameras"),
    ],
)
def test_cameras_that_cannot_be_are_refused_by_name(
    arguments: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run("multi_camera.launch.py", tmp_path, **arguments)


@ANYWHERE
def test_a_bag_is_played_then_evaluated_then_all_ends(grouped: bool, tmp_path: Path) -> None:
    launched = bag_run(tmp_path, grouped=grouped, rate="2.0", bundle="mine", out="report")
    node, check, play = launched.processes
    how = ["--rate", "2.0", "--stamps", "bag", "--wait", "0"]  # for a node that builds its engine
    assert play.words == ["gc-ros", "play", "p3", "--topic", "/image", *how]
    assert node.respawn is False and node.parameters["exit_on_failure"] is True
    assert node.parameters["max_age_s"] == 0.0, "recorded stamps are old"
    launched.end(play)
    assert not launched.context.is_shutdown
    evaluate = launched.processes[-1]
    assert evaluate.words == [
        "gc-ros", "evaluate", "p3", "--topic", "/image", "--bundle", "mine", "--out", "report",
        "--truth", "auto",
    ]  # fmt: skip
    assert check.words == [*evaluate.words, "--check"]
    launched.end(evaluate)
    assert launched.context.is_shutdown
    launched.end(node, 0)  # the shutdown ends it, and that asks for no second one
    launched.end(node, -2)  # what the shutdown does to it is no failure


@pytest.mark.parametrize("first", ["the node", "the player", "ctrl-c"])
def test_whatever_ends_first_the_launch_is_shut_down_once(first: str, tmp_path: Path) -> None:
    launched = run("bag.launch.py", tmp_path, evaluate="False")
    node, play = launched.processes
    if first == "ctrl-c":
        launched.context.is_shutdown = True
    for process in (node, play) if first == "the node" else (play, node):
        launched.end(process, -2 if first == "ctrl-c" else 0)
    assert launched.context.is_shutdown and len(launched.processes) == 2


def test_truth_and_the_least_accuracy_reach_the_evaluation(tmp_path: Path) -> None:
    launched = bag_run(tmp_path, truth="p3.csv", min_accuracy="0.8")
    launched.end(launched.processes[2])
    assert launched.processes[3].words[-4:] == ["--truth", "p3.csv", "--min-accuracy", "0.8"]


def test_the_evaluation_judges_what_the_node_runs(tmp_path: Path) -> None:
    given = {
        "mode": "step", "backend": "openvino", "precision": "bf16", "device": "cuda", "taught": "none",
    }  # fmt: skip
    launched = bag_run(tmp_path, **given)
    launched.end(launched.processes[2])
    check, evaluation = launched.processes[1], launched.processes[3]
    for name, value in given.items():
        assert launched.processes[0].parameters[name] == value
        for words in (check.words, evaluation.words):
            assert words[words.index(f"--{name}") + 1] == value
    plain = bag_run(tmp_path).processes[1].words
    assert not {f"--{name}" for name in given} & {*plain}


def test_player_and_node_meet_on_the_compressed_topic_of_a_bag(tmp_path: Path) -> None:
    node, _, play = bag_run(tmp_path, topic="/cam", image_transport="compressed").processes
    assert (
        play.words[play.words.index("--topic") + 1]
        == "/cam/compressed"
        == node.remappings["image/compressed"]
    )


def test_without_evaluation_the_launch_ends_with_the_bag(tmp_path: Path) -> None:
    launched = run("bag.launch.py", tmp_path, evaluate="false")
    launched.end(launched.processes[1])
    assert launched.context.is_shutdown and len(launched.processes) == 2


def test_what_fails_in_a_bag_run_ends_it_as_a_failure(tmp_path: Path) -> None:
    for place, who in ((0, "the node"), (2, "the player")):
        launched = bag_run(tmp_path)
        with pytest.raises(RuntimeError, match=f"{who} ended with exit code 2"):
            launched.end(launched.processes[place], 2)
    launched = bag_run(tmp_path)
    launched.end(launched.processes[2])
    with pytest.raises(RuntimeError, match="the evaluation ended with exit code 1"):
        launched.end(launched.processes[3], 1)


def test_what_the_evaluation_lacks_ends_the_launch_before_the_bag_plays(tmp_path: Path) -> None:
    launched = run("bag.launch.py", tmp_path)
    with pytest.raises(RuntimeError, match="what the evaluation needs ended with exit code 2"):
        launched.end(launched.processes[1], 2)
    assert all("play" not in process.words for process in launched.processes)
    stopped = run("bag.launch.py", tmp_path)
    stopped.context.is_shutdown = True  # Ctrl-C while it checks
    stopped.end(stopped.processes[1], -2)
    assert len(stopped.processes) == 2


def test_commands_and_options_of_the_bag_run_exist(tmp_path: Path) -> None:
    launched = bag_run(tmp_path)
    launched.end(launched.processes[2])
    commands: Any = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for process in launched.processes[1:]:
        program, command, *words = process.words
        assert program == "gc-ros"
        if command not in commands:
            pytest.xfail(f"gc-ros has no command {command} yet")
        options = {option for parameter in commands[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_launch_files_need_no_package_of_pip() -> None:
    """`ros2` is a program of the system's Python, whatever environment the node runs in."""
    hidden = ("pydantic", "typer", "rich", "onnxruntime", "rosbags", "av", "onnx", "mcap")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "from tests.launch import stub\n"
        "with stub.installed(): import gc_ros.node.launching\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
