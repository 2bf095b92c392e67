# SPDX-License-Identifier: Apache-2.0
"""Calling a command line in this process, and what a refusal must look like."""

from __future__ import annotations

import typer
from typer.testing import CliRunner


def call(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_one_line(result, *words: str) -> None:
    """Exit code 2 and one line on stderr that names `words`."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.output
    assert all(word in lines[0] for word in words), lines[0]
