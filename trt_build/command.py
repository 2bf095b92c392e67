# SPDX-License-Identifier: Apache-2.0
"""What the three command lines share: one line an error, exit code 2 for bad input, `--json`, a progress bar."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from trt_build.errors import GlimpseError

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


class OneLineErrors(TyperGroup):
    """Turns every GlimpseError of a command into its one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GlimpseError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


def command_line(help_text: str | None) -> typer.Typer:
    """An empty command line in the house's manner; `help_text` says what it is for."""
    return typer.Typer(
        cls=OneLineErrors,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def progress_bar() -> Progress:
    """How many of how many and what remains, on stderr, gone when done; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
