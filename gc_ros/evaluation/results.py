# SPDX-License-Identifier: Apache-2.0
"""Results on disk. A file is replaced whole or not at all; bag.json confirms the others and is written last.

    OUT/summary.json report.html windows.jsonl      of all bags
    OUT[/bags/NAME]/bag.json                         one bag's facts, events and identity
                    windows.jsonl predictions.mcap worst.json
The files of a single bag lie in OUT itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
OF_A_BAG = (WINDOWS, PREDICTIONS, WORST, BAG)


def bag_folders(out: Path, names: Sequence[str]) -> list[Path]:
    """Where the results of each bag lie: distinct folders below `out`, whatever the names are.

    A plain relative path is its own folder name. Any other name, and one whose folder would coincide with another's on
    some file system, gets the end of the name and a digest of all of it.
    """
    if len(names) == 1:
        return [out]
    folders: list[Path] = []
    whole: set[tuple[str, ...]] = set()  # of the folders so far, as `_key` has them
    above: set[tuple[str, ...]] = set()  # what they lie in
    for name in names:
        folder, tries = name, 0
        while (
            not _plain(folder)
            or _key(folder) in whole
            or _key(folder) in above
            or not whole.isdisjoint(_above(folder))
        ):
            digest = hashlib.sha256(f"{name}{'~' * tries}".encode(errors="surrogateescape")).hexdigest()
            end = re.sub(r"[^\w.-]+", "_", PurePosixPath(name).name).strip("._")[:60]
            folder, tries = f"{end}~{digest[:12]}", tries + 1
        whole.add(_key(folder))
        above |= _above(folder)
        folders.append(out / "bags" / folder)
    return folders


def _plain(name: str) -> bool:
    """Whether a name is a relative path that stays below the folder it is joined to and fits every file system."""
    parts = name.split("/")
    return all(
        part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) < 200 for part in parts
    )


def _key(folder: str) -> tuple[str, ...]:
    """Equal for folders that coincide on file systems that ignore letter case or compose accents."""
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in folder.split("/"))


def _above(folder: str) -> set[tuple[str, ...]]:
    key = _key(folder)
    return {key[:n] for n in range(1, len(key))}


def dump(value: Any) -> str:
    """Indented JSON with sorted keys and without NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name may hold bytes that are not UTF-8, which Python keeps as lone surrogates: \udcff in JSON.
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Summary:
    """What a comparison needs of summary.json. bags: their sha256 by name."""

    bags: dict[str, str]
    model_id: str
    engines: str


@dataclass(frozen=True)
class Window:
    """What a comparison needs of a line of windows.jsonl whose truth is a label."""

    bag: str
    in_pass: int
    start_s: float
    end_s: float
    end_ns: int
    person: str
    label: str
    truth: str


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises DataError."""
    with _reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_windows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of windows.jsonl. Raises DataError."""
    with _reading(path), path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_summary(folder: Path) -> Summary:
    """Read summary.json. Raises DataError."""
    found = read_json(folder / SUMMARY)
    with _reading(folder / SUMMARY):
        bags = {str(bag["name"]): str(bag["bag_sha256"]) for bag in found["bags"]}
        made = found["provenance"]
        return Summary(bags, str(made["model_id"]), ", ".join(made["engines"]))


def scored_windows(folder: Path) -> Iterator[Window]:
    """Yield the windows of windows.jsonl whose truth is a label. Raises DataError."""
    for row in read_windows(folder / WINDOWS):
        with _reading(folder / WINDOWS):
            if row["truth_kind"] != "label":
                continue
            window = Window(
                bag=str(row["bag"]),
                in_pass=int(row["pass"]),
                start_s=float(row["start_s"]),
                end_s=float(row["end_s"]),
                end_ns=int(row["end_ns"]),
                person=str(row.get("person", "")),
                label=str(row["label"]),
                truth=str(row["truth"]),
            )
        yield window


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises DataError for a file that cannot be read, or is none of a result."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path}: not a readable result ({why}); evaluate again with: "
            "gc-ros evaluate BAGS --bundle BUNDLE --out OUT"
        ) from None


def finished(folder: Path) -> dict[str, Any] | None:
    """bag.json of a finished bag; None where it is missing or belongs to another windows.jsonl."""
    try:
        record: dict[str, Any] = json.loads((folder / BAG).read_text(encoding="utf-8"))
        if file_sha256(folder / WINDOWS) == record["windows_sha256"]:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
