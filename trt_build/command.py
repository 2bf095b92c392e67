# SPDX-License-Identifier: Apache-2.0
"""What the three command lines share: one-line errors with exit code 2, `--json`, a progress bar."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from trt_build.errors import GlimpseError

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


class OneLineErrors(TyperGroup):
    """Prints every GlimpseError of a command as one line on stderr and exits with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GlimpseError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


def command_line(help_text: str | None) -> typer.Typer:
    """A command line without commands, with the settings that all three share; help_text: what it is for."""
    return typer.Typer(
        cls=OneLineErrors,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def progress_bar() -> Progress:
    """A bar on stderr with count, total and time left, removed when done; shown on terminals only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
