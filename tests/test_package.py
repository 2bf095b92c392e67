# SPDX-License-Identifier: Apache-2.0
"""The package as colcon, pip, launch and the README's commands see it, without building it."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gc_model", "trt_build", "gc_ros")
SOURCES = [
    path
    for package in (*PACKAGES, "tests", "scripts", "launch")
    for path in sorted((ROOT / package).rglob("*.py"))
]

# Installed here for the tests; neither package.xml nor requirements/robot-tests.txt brings them.
BEYOND_COLCON = (
    "torch", "torchvision", "timm", "lightning", "safetensors", "matplotlib", "tensorboard", "PIL", "onnxslim",
    "openvino", "tensorrt_rtx", "cuda", "sklearn", "scipy", "jinja2", "mcap", "dask", "distributed", "psutil",
    "threadpoolctl", "xdist",
)  # fmt: skip


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    setuptools = pytest.importorskip("setuptools")
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return found


def test_cmake_builds_exactly_the_messages_there_are() -> None:
    named = set(re.findall(r"msg/(\w+\.msg)", (ROOT / "CMakeLists.txt").read_text()))
    assert named == {path.name for path in (ROOT / "msg").glob("*.msg")}


def test_every_message_field_is_documented() -> None:
    for path in sorted((ROOT / "msg").glob("*.msg")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                assert "#" in line, f"{path.name}:{number} has no comment: {line}"


def test_versions_agree_and_the_distribution_is_not_named_as_the_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = setup_arguments(monkeypatch)
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("name") == "glimpse_clouds"
    assert arguments["version"] == package.findtext("version")
    # rosidl writes glimpse_clouds-*.egg-info; pip would take it for this distribution and uninstall the messages.
    assert re.sub(r"[-_.]+", "-", arguments["name"]) != "glimpse-clouds"


def test_setup_finds_all_packages_and_every_console_script_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(monkeypatch)
    assert set(PACKAGES) <= set(arguments["packages"])
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert ".".join(path.parent.relative_to(ROOT).parts) in arguments["packages"], path
    assert {"train", "export", "onnxruntime", "dev"} <= set(arguments["extras_require"])
    assert not any("torch" in requirement for requirement in arguments["install_requires"])
    for script in arguments["entry_points"]["console_scripts"]:
        name, target = script.split("=")
        module, function = target.split(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        functions = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert function in functions, script
        installed = ROOT / "scripts" / name
        assert (
            f"from {module} import {function}" in installed.read_text() and installed.stat().st_mode & 0o111
        )
        assert f"scripts/{name}" in (ROOT / "CMakeLists.txt").read_text()


@pytest.mark.slow
def test_every_ros_import_has_its_dependency_in_package_xml() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in package if element.tag.endswith("depend")}
    # visualization_msgs brings geometry_msgs.
    optional = {"cv_bridge", "vision_msgs", "foxglove_msgs", "visualization_msgs", "geometry_msgs"}
    ros = re.compile(r"^(rclpy|\w+_msgs|\w+_interfaces|std_srvs|launch|launch_ros|cv_bridge)$")
    for path in [*(ROOT / "gc_ros").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for module in imported(path):
            if ros.match(module):
                assert module in declared | optional, f"{path.name} imports {module}"


def imported(path: Path) -> set[str]:
    """Top-level modules a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_torch_stays_in_the_model_and_the_exporter() -> None:
    for path in [*(ROOT / "gc_ros").rglob("*.py"), *(ROOT / "trt_build").rglob("*.py")]:
        if not path.name.startswith("export"):
            assert not imported(path) & {"torch", "timm", "lightning"}, path


@pytest.mark.slow
def test_the_robot_and_the_demo_import_without_torch() -> None:
    modules = (
        "gc_ros.recognition.recognizer, gc_ros.media.video, gc_ros.media.bags, gc_ros.cli, "
        "trt_build.engines.open, gc_model.synth.dataset"
    )
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_colcon_test_collects_with_what_its_requirements_bring() -> None:
    """A module of tests that imports more than that skips itself; an error here ends a group without one test run."""
    loop = re.search(r"foreach\(folder (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert loop
    groups = [f"tests/{folder}" for folder in loop[1].split()]
    code = f"import sys; sys.modules.update(dict.fromkeys({BEYOND_COLCON})); import pytest; sys.exit(pytest.main())"
    options = "-c tests/colcon.ini --rootdir . -p no:cacheprovider --collect-only -q"
    env = {**os.environ, "PYTEST_ADDOPTS": options, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *groups], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [group for group in groups if f"\n{group}/" not in f"\n{done.stdout}"] == []


@pytest.mark.slow
@pytest.mark.ros
def test_the_node_imports_without_what_the_tools_alone_need() -> None:
    """As docs/jetson.md and its Dockerfile install it."""
    pytest.importorskip("rclpy", reason="rclpy is not importable: make env, or source a ROS 2")
    missing = (
        "torch",
        "av",
        "rosbags",
        "mcap",
        "onnxruntime",
        "openvino",
        "scipy",
        "sklearn",
        "jinja2",
        "safetensors",
    )
    hidden = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    code = f"{hidden}; import gc_ros.node.process, gc_ros.node.lifecycle"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_source_file_names_its_licence() -> None:
    for path in SOURCES:
        if path.read_text().strip():
            head = path.read_text()[:200]
            assert "SPDX-License-Identifier: Apache-2.0" in head, path
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_fast_dds_profiles_parse_and_hold_32_mib() -> None:
    for name in ("fastdds.xml", "fastdds_shm.xml"):
        text = (ROOT / "config" / name).read_text()
        ElementTree.fromstring(text.split("?>", 1)[1])
        assert f"<segment_size>{32 << 20}</segment_size>" in text


def test_every_command_of_the_makefile_exists() -> None:
    for name in re.findall(r"scripts/[\w.-]+", (ROOT / "Makefile").read_text()):
        assert (ROOT / name).is_file(), name
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_environment_script_prints_the_one_line_to_type_when_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import environment

    monkeypatch.setattr(
        environment.shutil, "which", lambda name: None if name in ("g++", "cmake") else f"/usr/bin/{name}"
    )
    monkeypatch.setattr(environment.os, "geteuid", lambda: 1000)
    with pytest.raises(environment.SetupError, match=r"type: sudo apt-get install .*g\+\+ cmake"):
        environment.Environment().system_packages()


@pytest.mark.parametrize(
    ("python", "kept"),
    [
        ("#!/bin/sh\necho {}.{}\n".format(*sys.version_info[:2]), True),
        ("#!/bin/sh\necho 3.9\n", False),
        ("#!/nowhere/python\n", False),
        (None, False),
    ],
    ids=["this", "another", "does not run", "leads nowhere"],
)
def test_an_environment_of_another_python_is_made_anew(
    python: str | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import environment

    prefix, made = tmp_path / "venv", []
    monkeypatch.setenv("GLIMPSE_VENV", str(prefix))
    monkeypatch.setattr(environment, "check_python", lambda: None)
    for name in ("system_packages", "pip", "messages"):
        monkeypatch.setattr(environment.Environment, name, lambda *_: None)
    monkeypatch.setattr(environment, "run", lambda command: made.append(command))
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("")
    (prefix / "of-before").write_text("")
    if python is None:
        (prefix / "bin" / "python").symlink_to(tmp_path / "nowhere")
    else:
        (prefix / "bin" / "python").write_text(python)
        (prefix / "bin" / "python").chmod(0o755)
    environment.Environment().prepare("demo")
    assert (prefix / "of-before").exists() == kept
    assert [command[1:3] for command in made] == ([] if kept else [["-m", "venv"]])


def test_a_folder_that_is_no_environment_of_ours_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import environment

    monkeypatch.setenv("GLIMPSE_VENV", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "nowhere")
    with pytest.raises(environment.SetupError, match=r"no virtual environment: name another folder"):
        environment.Environment().remove_other()
    assert (tmp_path / "bin").exists()


def test_a_second_run_of_the_environment_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import environment

    monkeypatch.setenv("GLIMPSE_VENV", str(tmp_path / "venv"))
    first, second, done = environment.Environment(), environment.Environment(), []
    first.step("pip", "a", "installing", lambda: done.append("first"))
    second.step("pip", "a", "installing", lambda: done.append("again"))
    second.step("pip", "b", "installing", lambda: done.append("changed"))
    assert done == ["first", "changed"]
