# SPDX-License-Identifier: Apache-2.0
"""What programs and pages tell people to install exists under that name, and the line works when typed."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_build import install

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    path
    for name in ("gc_model", "gc_ros", "trt_build", "launch", "scripts")
    for path in (ROOT / name).rglob("*.py")
)
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# On PyPI, and neither among our extras nor pinned for the tests.
ON_PYPI = {"onnxruntime-gpu", "opencv-python", "tensorrt", "mediapipe"}
# Of Ubuntu, of JetPack's and ROS's apt repositories.
IN_APT = {
    "python3-pip",
    "python3-venv",
    "python3-libnvinfer",
    "python3-libnvinfer-dev",
    "libpython3-dev",
    "libcurl4-openssl-dev",
    "libssl-dev",
}
# 1-1: put in by the program, the package of a message that a transport takes.
IN_ROS = {"1-1", "cv-bridge", "foxglove-msgs", "hri-msgs", "vision-msgs", "ros-base"}


def extras(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    setuptools = pytest.importorskip("setuptools")
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return {**found["extras_require"], "": found["install_requires"]}


def bare(requirement: str) -> str:
    return re.split(r"[\[<>=~!; ]", requirement)[0].lower().replace("_", "-")


def test_the_packages_named_are_those_of_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = extras(monkeypatch)
    for name, packages in install.EXTRAS.items():
        theirs = [requirement.split(";")[0] for requirement in ours["evaluate" if name == "dask" else name]]
        assert set(packages) <= set(theirs), name
        if name not in ("evaluate", "dask"):
            assert len(packages) == len(theirs), name
    assert {*install.EXTRAS["evaluate"], *install.EXTRAS["dask"]} == set(ours["evaluate"])


@pytest.mark.parametrize("in_venv", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_an_interpreter_that_apt_manages_is_told_to_pip(
    marked: bool, in_venv: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", "/usr" if in_venv else sys.prefix)
    if marked:
        (tmp_path / "EXTERNALLY-MANAGED").write_text("[externally-managed]\n")
    option = " --break-system-packages" if marked and not in_venv else ""
    assert install.pip("scipy>=1.9", "mcap") == f"python3 -m pip install{option} 'scipy>=1.9' mcap"


def told() -> Iterator[tuple[str, str]]:
    """(where, what follows `pip install` or `apt install`) in all that programs print and pages say."""
    for path in PROGRAMS:
        # It tells its maintainers what it asks pip, and nobody to install.
        if path.name == "lock_requirements.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            text = ""
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "pip":
                values = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
                if values:  # else those of a table, or of an extra
                    yield str(path.relative_to(ROOT)), shlex.join(["pip", "install", *values])
            elif isinstance(node, ast.JoinedStr):
                # 1: what the program puts in, here the packages that it misses.
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "1" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                text = node.value
            for match in re.findall(r"\b((?:pip|apt|apt-get) install [^\n`;(),:]+)", text):
                yield str(path.relative_to(ROOT)), match
    for page in PAGES:
        for match in re.findall(r"\b((?:pip|apt|apt-get) install (?:[^\n`|]|\\\n)+)", page.read_text()):
            yield page.name, match.replace("\\\n", " ")


@pytest.mark.slow
def test_everything_that_people_are_told_to_install_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    known = extras(monkeypatch)
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "constraints.txt").read_text(), re.M)
    names = {bare(name) for name in [*ON_PYPI, *pinned, *(r for group in known.values() for r in group)]}
    lines = list(told())
    assert len({where for where, _ in lines}) > 10, "the search finds what programs and pages say"
    for where, line in lines:
        tool, _, *words = shlex.split(line, comments=True)
        taken, skip = 0, False
        for word in words:
            if skip:
                assert word in ("-e",) or (ROOT / word.split("glimpse_clouds/")[-1]).is_file(), (where, line)
                skip, taken = False, taken + 1
            elif word in ("-r", "--requirement", "-c"):
                skip = True
            elif word.startswith("-"):
                assert word in ("-e", "-y", "--no-install-recommends", "--break-system-packages", "-q"), line
            elif word == "...":  # cut short
                break
            elif word.startswith("."):
                wanted = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
                assert wanted and set((wanted[1] or "").split(",")) <= set(known), (where, line)
                taken += 1
            elif tool == "pip" and re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?([<>=!~]=?[\w.*,<>=]+)?", word):
                if bare(word) not in names:
                    assert taken, (where, line)  # prose has begun
                    break
                taken += 1
            elif tool != "pip" and (
                word in ("1", *IN_APT) or re.sub(r"^ros-(\$ROS_DISTRO-)?", "", word) in IN_ROS
            ):
                taken += 1
            else:
                assert taken, (where, line)
                break
        assert taken, (where, line)


def test_no_one_is_told_to_install_what_is_on_no_index() -> None:
    for path in [*PROGRAMS, *PAGES]:
        assert "glimpse-clouds-python[" not in path.read_text(), path


def test_a_robot_is_given_all_that_its_programs_import(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = (ROOT / "requirements" / "robot.txt").read_text()
    evaluation = (ROOT / "requirements" / "robot-evaluate.txt").read_text()
    listed = {bare(line) for line in robot.splitlines() if line and not line.startswith("#")}
    from_apt = {"numpy", "opencv-python-headless", "pyyaml"}  # package.xml
    assert listed | from_apt == {bare(r) for r in extras(monkeypatch)[""]} | {"onnxruntime", "numpy"}
    assert set(install.EXTRAS["evaluate"]) <= set(evaluation.splitlines())
