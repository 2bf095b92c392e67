# SPDX-License-Identifier: Apache-2.0
"""Calling a command line in this process, and what a refusal must look like."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.testing import CliRunner


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Writing fails behind so many bytes of a file, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def call(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_one_line(result, *words: str) -> None:
    """Exit code 2 and one line on stderr that names `words`."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.output
    assert all(word in lines[0] for word in words), lines[0]
