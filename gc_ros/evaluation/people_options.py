# SPDX-License-Identifier: Apache-2.0
"""Options of people that `gc-ros video` and `evaluate` share: the node's parameters, with its bounds and rule."""

from __future__ import annotations

from typing import Annotated

import typer

from trt_build.errors import DataError

PersonMargin = Annotated[
    float | None, typer.Option(min=0, max=1, help="As the node's parameter; default: the bundle's.")
]
PeopleMaxAge = Annotated[float, typer.Option(min=0.01, max=10, help="As the node's parameter.")]
PersonTimeout = Annotated[float, typer.Option(min=0.1, max=60, help="As the node's parameter.")]


def check_times(people_max_age_s: float, person_timeout_s: float) -> None:
    """Raise DataError where a box would count for longer than its person is there. Both in seconds."""
    if people_max_age_s > person_timeout_s:
        raise DataError(
            f"--people-max-age-s {people_max_age_s:g} is above --person-timeout-s {person_timeout_s:g}: a box would "
            "count for longer than its person is there"
        )
