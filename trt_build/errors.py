# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: one line that says what is wrong and what to do about it."""

from __future__ import annotations

import importlib
from typing import Any

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


class GlimpseError(Exception):
    """Base of every expected failure; the command lines print it as one line on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        # Ours often quote messages of other libraries: the promise of one line is kept here, once.
        # A file name that is not UTF-8, or holds control characters, must not break the terminal that shows it.
        text = " ".join(message.split()).translate(_ESCAPES)
        super().__init__(text.encode("utf-8", "backslashreplace").decode())


class BundleError(GlimpseError):
    """A bundle directory is missing, edited or incomplete, or disagrees with its graphs."""


class EngineError(GlimpseError):
    """An engine cannot be opened, was given the wrong tensors, or failed while running."""


class ImageError(GlimpseError):
    """An image cannot be used: wrong type, shape, size or encoding."""


class DataError(GlimpseError):
    """A video, bag, list of clips, or camera cannot be read or written."""


def one_line(error: Exception) -> str:
    """An error in one line: of an expected one its text, of another its type, too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GlimpseError) else f"{type(error).__name__}: {text}"


def need(module: str, remedy: str) -> Any:
    """The imported module. Raises EngineError with `remedy`, what to install, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(f"{module} cannot be imported ({error}); {remedy}") from None
