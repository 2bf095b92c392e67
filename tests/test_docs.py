# SPDX-License-Identifier: Apache-2.0
"""The documents keep up with the code: diagnostics, topics, links, pictures, changelog."""

from __future__ import annotations

import ast
import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gc_ros.node.security import names

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def sentences(path: Path, functions: set[str]) -> list[str]:
    """The fixed text of every message these functions return: for each f-string its longest piece."""
    found = []
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name in functions:
            for node in ast.walk(function):
                if isinstance(node, ast.JoinedStr):
                    text = "|".join(p.value if isinstance(p, ast.Constant) else "" for p in node.values)
                    sentence = text.split(";")[0]  # what follows is advice
                    found.append(max(re.split(r"\|| \(", sentence), key=len))
                elif isinstance(node, ast.Tuple) and len(node.elts) == 2:  # a level and its message
                    text = node.elts[1]
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        found.append(text.value)
    return [text.split(";")[0].strip(" ,:") for text in found if len(text) > 8]


CONDITIONS = {"_conditions", "_silence", "_images", "_stamps", "_results", "_refusals", "judge_engine"}


def test_every_diagnostic_sentence_has_its_row_in_troubleshooting() -> None:
    table = (ROOT / "docs" / "node.md").read_text().split("## Troubleshooting")[1]
    diagnostics = sentences(ROOT / "gc_ros" / "node" / "diagnostics.py", CONDITIONS)
    assert len(diagnostics) >= 19
    of_people = sentences(ROOT / "gc_ros" / "node" / "people_diagnostics.py", CONDITIONS)
    assert len(of_people) >= 10
    diagnostics += of_people
    running = {"running at"}  # nothing to do
    for text in set(diagnostics) - running:
        assert text in table, text


def test_every_topic_and_service_of_the_policy_is_documented() -> None:
    text = (ROOT / "docs" / "node.md").read_text()
    of_ros = ("/rosout", "/parameter_events", "/clock", "transition_event")
    for name in names(people="detections").publish:
        if not name.endswith(of_ros):
            assert f"`{name.replace('/activity_recognition/', '~/')}`" in text, name
    for service in ("~/enable", "~/reset", "~/change_state"):
        assert f"`{service}`" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def test_pictures_are_small_enough_for_a_repository() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 500_000, picture


def test_the_changelog_has_the_form_of_rep_132_and_names_this_version() -> None:
    lines = (ROOT / "CHANGELOG.rst").read_text().splitlines()
    assert lines[1] == "Changelog for package glimpse_clouds" and set(lines[0]) == set(lines[2]) == {"^"}
    headings = [a for a, b in itertools.pairwise(lines) if b and set(b) == {"-"} and len(b) == len(a)]
    version = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    assert headings[0] == "Forthcoming" and version in headings


def test_the_upgrading_page_leads_from_modules_that_are_gone_to_modules_that_are_there() -> None:
    def modules(cell: str) -> list[str]:
        """The modules of a cell; `d` after `a.b.c` is a.b.d."""
        found: list[str] = []
        for name in re.findall(r"`([\w.]+)`", cell):
            found.append(name if "." in name else f"{found[-1].rpartition('.')[0]}.{name}")
        return found

    def exists(module: str) -> bool:
        path = ROOT / module.replace(".", "/")
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    rows = [
        line.split("|")[1:3]
        for line in (ROOT / "docs" / "upgrading.md").read_text().splitlines()
        if "|" in line
    ]
    moved = [(modules(before), modules(now)) for before, now in rows[2:]]
    assert len(moved) > 20
    for before, now in moved:
        for module in now:
            assert exists(module), module
        # What is still there stands on both sides, but for two modules whose names are folders now, and a command.
        for module in set(before) - set(now) - {"gc_ros.node", "gc_model.training", "gc_ros.security"}:
            assert not exists(module), module


def test_every_file_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(
        re.findall(r"`((?:gc_model|gc_ros|trt_build|tests|config|docs|requirements)/[\w./-]+)`", text)
    )
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name


def test_each_board_has_one_table_as_the_benchmark_prints_it_and_one_at_least_is_filled() -> None:
    source = (ROOT / "benchmarks" / "node_over_dds.py").read_text()
    columns = ast.literal_eval(re.search(r"^COLUMNS = (\(.*?^\))", source, re.M | re.S)[1])  # type: ignore[index]
    boards = (ROOT / "docs" / "boards.md").read_text().split("\n## ")[1:]
    assert len(boards) >= 4 and any("Jetson" in board for board in boards)
    for board in boards:
        rows = [line for line in board.splitlines() if line.startswith("|")]
        assert rows[0] == f"| {' | '.join(columns)} |" and len(rows) == 6, board
        assert all(row.count("|") == len(columns) + 1 for row in rows)
    assert any(re.search(r"\| \d+ / \d+ \|", board) for board in boards)
