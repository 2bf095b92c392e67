# SPDX-License-Identifier: Apache-2.0
"""Results on disk. A file is replaced whole or not at all, and bag.json, which vouches for the others, comes last.

    OUT/summary.json report.html windows.jsonl      of all bags
    OUT[/bags/NAME]/bag.json                         one bag's facts, events and identity
                    windows.jsonl predictions.mcap worst.json
With a single bag its files lie in OUT itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trt_build.bundle import file_sha256
from trt_build.errors import DataError

SUMMARY, WINDOWS, BAG, WORST, PREDICTIONS, REPORT = (
    "summary.json",
    "windows.jsonl",
    "bag.json",
    "worst.json",
    "predictions.mcap",
    "report.html",
)


def bag_folder(out: Path, name: str, only: bool) -> Path:
    """Where the results of one bag lie."""
    return out if only else out / "bags" / name


def dump(value: Any) -> str:
    """JSON as it is written here: keys in order, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable result ({error}); evaluate again") from None


def read_windows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of windows.jsonl. Raises DataError."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable result ({error}); evaluate again") from None


def finished(folder: Path) -> dict[str, Any] | None:
    """bag.json of a bag whose windows.jsonl is the one it was written with, else None."""
    try:
        record: dict[str, Any] = json.loads((folder / BAG).read_text(encoding="utf-8"))
        if file_sha256(folder / WINDOWS) == record["windows_sha256"]:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
