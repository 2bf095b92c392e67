# SPDX-License-Identifier: Apache-2.0
"""What the three command lines share: one-line errors with exit code 2, `--json`, a progress bar."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from trt_build.errors import GlimpseError

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
# Of commands that open a bundle's engine.
BundleOption = Annotated[
    Path, typer.Option("--bundle", "-b", help="Bundle directory made by trt-build export.")
]
Sha256 = Annotated[
    str | None,
    typer.Option(metavar="HEX", help="Refuse a bundle with another sha256 (trt-build info shows it)."),
]
Mode = Annotated[str | None, typer.Option(help="window or step; default: the bundle's.")]
Stride = Annotated[int, typer.Option(min=1, help="Sampled frames between two results.")]
Backend = Annotated[str, typer.Option(help="onnxruntime, openvino, tensorrt, or auto.")]
Precision = Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, or auto.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]


def at_most_cores(threads: int | None) -> int | None:
    """More threads than cores wait for one another, and a call takes many times as long."""
    return threads and min(threads, os.cpu_count() or threads)


Threads = Annotated[
    int | None,
    typer.Option(
        min=1, callback=at_most_cores, help="CPU threads, at most one a core; default: the backend's choice."
    ),
]


_REMEDIES = {
    errno.ENOSPC: "free space, or choose another disk",
    errno.EDQUOT: "free space, or choose another disk",
    errno.EFBIG: "raise the limit (ulimit -f), or choose another disk",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be read and written, or change its rights",
    errno.EPERM: "choose a place that can be read and written, or change its rights",
    errno.EEXIST: "a file has that name; choose another",
    errno.ENOTDIR: "a file has that name; choose another",
    errno.EISDIR: "a directory has that name; choose another",
}


class OneLineErrors(TyperGroup):
    """Prints every GlimpseError and OSError of a command as one line on stderr and exits with 2."""

    def invoke(self, ctx: Any) -> Any:
        _print_anything()
        try:
            with _ended_as_by_ctrl_c():
                return super().invoke(ctx)
        except GlimpseError as error:
            line = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough: the command line ends without a word
            line = os_error_line(error)
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, from `timeout` or a service manager, ends a command as Ctrl-C does: files are finished or removed.

    Not where a handler is set, as in a program that calls the command, and not in processes that a command forks.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def os_error_line(error: OSError) -> str:
    """One line for an error of the operating system: the place, what is wrong, what helps."""
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return " ".join(f"{place}{error.strerror or error}{'; ' + remedy if remedy else ''}".split())


def counted(n: int, one: str, many: str = "") -> str:
    """A number of things in words: "1 clip", "2 clips". many: of a word that takes another ending than s."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def print_json(value: Any) -> None:
    """One line of JSON on stdout, escaped where the terminal's encoding lacks a character of it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=True)


def _print_anything() -> None:
    """A label or file name that the terminal's encoding lacks is printed with escapes instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


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
    # A file's name may look like markup.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
