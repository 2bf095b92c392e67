# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: one line that says what is wrong and what to do about it."""

from __future__ import annotations

import importlib
from typing import Any


class GlimpseError(Exception):
    """Base of every expected failure. The command lines print it as one line on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries often end up quoted in ours: keep the promise of one line here, once.
        super().__init__(" ".join(message.split()))


class BundleError(GlimpseError):
    """A bundle directory is missing, edited, incomplete, or disagrees with its graphs."""


class EngineError(GlimpseError):
    """An engine cannot be opened, was fed the wrong tensors, or failed while running."""


class ImageError(GlimpseError):
    """An image that cannot be used: wrong type, shape, size or encoding."""


class DataError(GlimpseError):
    """A video, bag, clip list or camera that cannot be read or written."""


def need(module: str, remedy: str) -> Any:
    """Import a backend's module, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(f"{module} cannot be imported ({error}); {remedy}") from None
