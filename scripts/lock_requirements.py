#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write requirements/locked-*.txt: every package that `make env` installs, with its version and hashes.

    pip install --dry-run --ignore-installed --report all.json -e .[dev] torch==2.13.0 -r requirements/ros-wheels.txt \\
      -c requirements/constraints.txt
    python scripts/lock_requirements.py all.json [more.json ...]

Each further report adds hashes, of another Python (`pip install --report --no-deps --python-version 3.12
--only-binary :all: ...`) or another build of torch, and packages that only that build of torch needs: those go into
locked-cuda.txt. The first report says what is needed; what the demo needs of it follows from the packages' metadata.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
OURS = "glimpse-clouds-python"
BUILD = ("setuptools", "wheel")
DEMO_EXTRA = "onnxruntime"
HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/lock_requirements.py. Linux on x86_64, Python 3.11 and 3.12. {what}
"""
WHAT = {
    "build": "What builds the packages that come as source.",
    "demo": "What `make demo` installs.",
    "test": "What `make env` and `make test` install beside locked-demo.txt.",
    "cuda": "What PyTorch from PyPI needs beside that; its build for CPUs needs none of it.",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(metadata: dict[str, Any], extra: str | None = None) -> set[str]:
    """Names of what a package requires, of its extras the one asked for."""
    names = set()
    for line in metadata.get("requires_dist", []):
        text, _, marker = line.partition(";")
        if "extra" in marker and (extra is None or not re.search(rf"""['"]{extra}['"]""", marker)):
            continue
        names.add(canonical(re.split(r"[\s<>=!~\[(;]", text.strip())[0]))
    return names


def main(paths: list[str]) -> None:
    reports = [json.loads(Path(path).read_text())["install"] for path in paths]
    versions: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for item in (item for report in reports for item in report):
        name, version = canonical(item["metadata"]["name"]), item["metadata"]["version"].partition("+")[0]
        if name == OURS:
            continue
        if versions.setdefault(name, version) != version:
            sys.exit(f"{name} is {versions[name]} in one report and {version} in another")
        hashes.setdefault(name, set()).add(item["download_info"]["archive_info"]["hashes"]["sha256"])
    first = {canonical(item["metadata"]["name"]): item["metadata"] for item in reports[0]}
    wheels = (REQUIREMENTS / "ros-wheels.txt").read_text().splitlines()
    demo: set[str] = set()
    waiting = needed(first[OURS], DEMO_EXTRA) | {
        canonical(line.partition("==")[0]) for line in wheels if "==" in line
    }
    while waiting:
        name = waiting.pop()
        if name in first and name not in demo:
            demo.add(name)
            waiting |= needed(first[name])
    groups = {
        "build": set(BUILD),
        "demo": demo - set(BUILD),
        "test": set(first) - demo - {*BUILD, OURS},
        "cuda": set(versions) - set(first) - set(BUILD),
    }
    for group, names in groups.items():
        lines = [HEAD.format(what=WHAT[group])]
        for name in sorted(names):
            digests = " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(hashes[name]))
            lines.append(f"{name}=={versions[name]} \\\n{digests}\n")
        (REQUIREMENTS / f"locked-{group}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
