# SPDX-License-Identifier: Apache-2.0
"""What parametrised tests share: which of their cases belong to the everyday part."""

from __future__ import annotations

from typing import Any

import pytest


def first_fast(*cases: Any) -> list[Any]:
    """Cases of a slow test of which `make test-fast` runs the first alone; a tuple is the values of one case."""
    rest = (c if isinstance(c, tuple) else (c,) for c in cases[1:])
    return [cases[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]
