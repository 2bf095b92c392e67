# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md, line by line: each promise names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def rows() -> list[list[str]]:
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("| threat | answer | test |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_every_promise_of_security_md_names_a_test_that_exists() -> None:
    found = rows()
    assert len(found) > 25 and len({row[0] for row in found}) == len(found)
    for row in found:
        assert len(row) == 3 and all(row), row
        named = re.fullmatch(r"`(tests/[\w/]+\.py)`: `(test_\w+)`", row[2])
        assert named, row
        tree = ast.parse((ROOT / named[1]).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert named[2] in functions, f"{named[1]} has no {named[2]}"


def test_the_robot_downloads_nothing_and_reads_no_pickle() -> None:
    """As SECURITY.md says below its table; torch, whose files are pickles, is in gc_model alone."""
    for path in (path for name in ("gc_ros", "trt_build") for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"pickle", "urllib", "requests", "ftplib", "marshal"}, path
                assert not name.startswith("http.client"), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
