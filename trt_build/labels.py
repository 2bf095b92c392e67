# SPDX-License-Identifier: Apache-2.0
"""What a class may be called, in a bundle and wherever one is trained or taught."""

from __future__ import annotations

import re
import unicodedata

# Names of a class of clips in which nobody is there or nothing is done, as `Bundle.idle` has it.
IDLE_LABELS = ("idle", "nobody")
MAX_LABEL_LENGTH = 200
# Line ends and surrogates break what prints or sends a label, the others turn the text around them.
_UNPRINTABLE = re.compile("[\u202a-\u202e\u2066-\u2069]")


def printable(text: str, what: str) -> str:
    """`text`, or ValueError where it holds control characters."""
    if _UNPRINTABLE.search(text) or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        raise ValueError(f"{what} {text[:40]!a} has control characters; only printable ones are allowed")
    return text


def check_label(label: str) -> None:
    """Raise ValueError for what no class of a bundle may be called."""
    if not label.strip():
        raise ValueError("a label is empty")
    if len(printable(label, "label")) > MAX_LABEL_LENGTH:
        raise ValueError(f"label {label[:40]!a} is longer than {MAX_LABEL_LENGTH} characters")
