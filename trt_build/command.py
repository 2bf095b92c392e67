# SPDX-License-Identifier: Apache-2.0
"""What the three command lines share: one line an error, exit code 2 for bad input, `--json`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
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
