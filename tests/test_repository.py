# SPDX-License-Identifier: Apache-2.0
"""The files that describe the repository to others: workflow, forms, hooks, citation, package.xml, pins."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
FORMS = sorted(
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"
)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def commands() -> str:
    """All that the workflow runs, one text."""
    return "\n".join(step.get("run", "") for job in load(WORKFLOW)["jobs"].values() for step in job["steps"])


def targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert phony
    return set(phony[1].split())


def recipe(target: str, *variables: str) -> list[str]:
    """The shell lines of a target, with variables as `make` would put them in."""
    # Not those of a `make test PYTHON=...` around these tests.
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    done = subprocess.run(
        ["make", "-n", target, *variables], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]),
)
def test_yaml_parses_without_a_key_given_twice(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path.name}: {keys}"
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(), Loader), dict)


def test_the_help_of_the_makefile_names_every_target_and_no_other() -> None:
    described = set(re.findall(r'@echo "make ([\w-]+) ', MAKEFILE))
    assert described == targets() - {"help"}
    defined = {name for line in re.findall(r"^([\w -]+):(?!=)", MAKEFILE, re.M) for name in line.split()}
    assert targets() <= defined


@pytest.mark.parametrize("target", ["env", "demo", "lint", "test", "test-fast", "coverage"])
def test_a_distribution_that_is_asked_for_is_the_one_that_is_prepared(target: str) -> None:
    for ros, named in (("", None), ("kilted", "kilted")):
        calls = [line for line in recipe(target, f"ROS={ros}") if "environment.py" in line]
        assert calls
        for call in calls:
            found = re.search(r"environment\.py --ros (\S+)", call)
            assert (found and found[1]) == named, call


def test_the_workflow_calls_what_exists_and_reads_only() -> None:
    workflow, run = load(WORKFLOW), commands()
    called = set(re.findall(r"\bmake ([\w-]+)", run))
    assert {"env", "coverage"} <= called <= targets()
    assert ".ci/run" in run and "make test" in (ROOT / ".ci" / "run").read_text()
    for path in re.findall(r"src/glimpse_clouds/(\S+)", run):
        assert (ROOT / path).is_file(), path
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert re.fullmatch(
                r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", step.get("uses", "actions/checkout@v4")
            )


def test_the_workflow_builds_and_tests_on_every_distribution_the_form_asks_for() -> None:
    job = load(WORKFLOW)["jobs"]["colcon"]
    distributions = job["strategy"]["matrix"]["distro"]
    assert distributions == ["humble", "jazzy", "kilted", "lyrical"]
    assert [row["distro"] for row in job["strategy"]["matrix"]["include"]] == distributions
    assert job["container"]["image"].startswith("ros:${{ matrix.distro }}")
    lines = "\n".join(step.get("run", "") for step in job["steps"])
    assert "colcon build" in lines and "colcon test " in lines and "colcon test-result" in lines
    (asked,) = [
        field for field in load(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"] if field.get("id") == "ros"
    ]
    assert [name.lower() for name in asked["attributes"]["options"][:4]] == distributions


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_has_what_github_requires(path: Path) -> None:
    form = load(path)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["value" if field["type"] == "markdown" else "label"]
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_bug_form_asks_for_diagnostics_and_bundle_with_commands_that_exist() -> None:
    form = {field.get("id"): field for field in load(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "/diagnostics" in form["diagnostics"]["attributes"]["description"]
    command = re.search(r"`trt-build (\w+) BUNDLE`", form["bundle"]["attributes"]["description"])
    assert command and f"def {command[1]}(" in (ROOT / "trt_build" / "cli.py").read_text()


def test_the_hooks_are_make_lint() -> None:
    hooks = load(ROOT / ".pre-commit-config.yaml")
    # So that no version is given twice.
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    entries = [hook["entry"] for hook in hooks["repos"][0]["hooks"]]
    assert entries == recipe("lint") and len(entries) == 3
    assert {"ruff", "mypy", "pytest-cov", "coverage"} <= set(pins())


def test_every_tool_of_the_tests_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = re.search(r"^DEV = \[(.*?)^\]", (ROOT / "setup.py").read_text(), re.M | re.S)
    assert listed
    # Stubs: their version follows PyYAML's.
    names = set(re.findall(r'"([\w-]+)', listed[1])) - {"types-PyYAML"}
    assert len(names) > 5 and names <= set(pins())


def test_the_citation_has_its_required_keys_and_names_the_paper_and_this_version() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"] and citation["authors"]
    version = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    assert str(citation["version"]) == version and citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Baradel", "Wolf", "Mille", "Taylor"]
    assert (
        paper["type"] == "conference-paper"
        and paper["year"] == 2018
        and paper["title"].startswith("Glimpse Clouds:")
    )
    assert re.fullmatch(r"10\.1109/CVPR\.2018\.\d{5}", paper["doi"])


def test_package_xml_says_who_and_where_and_what_colcon_test_needs() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    for person in [*package.findall("maintainer"), *package.findall("author")]:
        assert person.text and re.fullmatch(r"[\w-]+@users\.noreply\.github\.com", person.attrib["email"])
    assert package.find("author") is not None
    urls = {url.attrib["type"]: url.text for url in package.findall("url")}
    assert set(urls) <= {"website", "repository", "bugtracker"} and urls["website"].startswith("https://")
    needed = {element.text for element in package.findall("test_depend")}
    assert {"ament_cmake_pytest", "python3-pytest", "python3-hypothesis"} <= needed
    # The schema of format 3 gives the elements an order.
    order = ["name", "version", "description", "maintainer", "license", "url", "author"]
    assert [element.tag for element in package if element.tag in order] == order


def test_colcon_test_knows_every_marker_and_every_folder_of_tests_below_the_model() -> None:
    markers = re.compile(r"^\s+\"?(\w+): ", re.M)
    pyproject = (ROOT / "pyproject.toml").read_text().split("markers = [")[1].split("]")[0]
    assert set(markers.findall(pyproject)) <= set(
        markers.findall((ROOT / "tests" / "colcon.ini").read_text())
    )
    loop = re.search(r"foreach\(folder (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert loop
    folders = {
        path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")
    }
    covered = tuple(f"{folder}/" for folder in loop[1].split())
    left = {folder for folder in folders if not f"{folder}/".startswith(covered)}
    assert {folder.split("/")[0] for folder in left} <= {
        ".",
        "gc_model",
        "gc_ros",
    } and "gc_ros/node" not in left


@pytest.mark.parametrize(
    "name", ["CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md"]
)
def test_the_pages_that_a_host_shows_to_contributors_are_there(name: str) -> None:
    assert len((ROOT / name).read_text().split()) > 50
