# SPDX-License-Identifier: Apache-2.0
"""What a parameter of the node is: its default, its legal values, and when it may change. No ROS import."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Value = bool | int | float | str | tuple[str, ...]
Change = Literal["at once", "unconfigured", "never"]

CHANGE_MEANS = {
    "at once": "takes effect with the next image or result",
    "unconfigured": "can change only while the node is unconfigured",
    "never": "fixed when the node starts",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter. Numbers have low <= value <= high, strings may have choices; `change` says when it may change."""

    name: str
    default: Value
    description: str
    change: Change
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    form: tuple[str, str] = ("", "")  # of strings: a regular expression, and the same in words

    def refuse(self, value: object) -> str | None:
        """Why this value is illegal, or None. An int is taken for a float, as YAML writes it."""
        kind = type(self.default)
        if kind is tuple:
            return self._refuse_names(value)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            return f"{self.name} must be {_TYPES[kind]}, got {_TYPES.get(type(value), type(value).__name__)} {value!r}"
        if isinstance(value, int | float) and not self._within(value):
            return f"{self.name} must be from {self.low:g} to {self.high:g}, got {value:g}"
        if self.choices and value not in self.choices:
            return f"{self.name} must be {self.legal}; got {value!r}"
        if self.form[0] and not re.fullmatch(self.form[0], str(value)):
            return f"{self.name} must be {self.form[1]}, got {value!r}"
        return None

    def _refuse_names(self, value: object) -> str | None:
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            return f"{self.name} must be a list of strings, got {value!r}"
        if list(value) == [""]:
            return None
        for name in value:
            if not _CAMERA.fullmatch(name):
                return (
                    f"{self.name} has the name {name!r}; a name is letters, digits and underscores, a letter first, "
                    "with slashes between parts"
                )
        if len(set(value)) != len(value) or not 1 <= len(value) <= MAX_CAMERAS:
            return f"{self.name} must be 1 to {MAX_CAMERAS} different names, got {', '.join(value) or 'none'}"
        return None

    @property
    def legal(self) -> str:
        """The legal values in words."""
        if self.choices:
            return "one of " + ", ".join(choice or '""' for choice in self.choices)
        if self.low is not None and self.high is not None:
            return (
                f"{'integer' if type(self.default) is int else 'number'} from {self.low:g} to {self.high:g}"
            )
        return self.form[1] or _TYPES[type(self.default)]

    def _within(self, value: float) -> bool:
        if self.low is None or self.high is None:
            return True
        return math.isfinite(value) and self.low <= value <= self.high


MAX_CAMERAS = 16
_CAMERA = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)
_TYPES: dict[type, str] = {bool: "true or false", int: "an integer", float: "a number"}
_TYPES |= {str: "a string", tuple: "a list of strings"}
