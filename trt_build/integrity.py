# SPDX-License-Identifier: Apache-2.0
"""What a bundle directory is checked for before anything in it is believed: file types, sizes, hashes, references."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Set
from pathlib import Path
from shlex import quote

from trt_build.errors import BundleError
from trt_build.references import external_files
from trt_build.untrusted import NotRegular, open_regular

MAX_BYTES, MAX_GRAPH_BYTES = 16 << 30, (2 << 30) - 1  # of all files, and of a graph: protobuf ends at 2 GiB
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_TOKEN = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


def demand(path: Path, digest: str, wanted: str) -> None:
    """Raise BundleError unless `digest`, the hash of bundle.json, is the wanted one."""
    if not SHA256.fullmatch(wanted):
        raise BundleError(
            f"bundle_sha256 {ascii(wanted)[:80]} is not the 64 hex digits that trt-build info shows"
        )
    if digest != wanted.lower():
        raise BundleError(
            f"{path}: the sha256 of bundle.json is {digest}, but {wanted.lower()} is demanded; "
            "install the bundle that was approved, or demand the one that is here"
        )


def unchanged(path: Path, name: str, found: str, expected: str) -> None:
    """Raise BundleError unless `found`, the hash of a file, is the one that bundle.json records."""
    if found != expected.lower():
        raise BundleError(
            f"{path}: {name} was changed after export (sha256 {found[:8]}, recorded {expected[:8]}); {again(path)}"
        )


def check_file(path: Path, name: str, expected: str | None, known: Set[str], most: int) -> int:
    """Check a file that bundle.json names; returns its size in bytes.

    expected: its hash, None: not compared. known: the files that have a hash; a graph may refer to no other. most:
    bytes it may have. Raises BundleError.
    """
    try:
        with open_regular(path, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > (min(most, MAX_GRAPH_BYTES) if name.endswith(".onnx") else most):
                raise BundleError(
                    f"{path}: {name} has {size} bytes, more than a bundle may have; {again(path)}"
                )
            if expected is None:
                return size
            content = file.read() if name.endswith(".onnx") else b""
            digest = hashlib.sha256(content)
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        raise BundleError(f"{path}: {name} is missing; {again(path)}") from None
    except NotRegular as error:
        raise BundleError(f"{path}: {name}: {error.strerror or error}; {whole(path)}") from None
    except OSError as error:
        raise BundleError(f"{path}: {name} cannot be read ({cause(error)}); {again(path)}") from None
    unchanged(path, name, digest.hexdigest(), expected)
    try:
        unknown = sorted(external_files(content) - known)
    except ValueError as error:
        raise BundleError(f"{path}: {name} is not a graph of ours, {error}; {again(path)}") from None
    if unknown:
        raise BundleError(
            f"{path}: {name} refers to {ascii(unknown[0])[:80]}, of which bundle.json has no hash; {again(path)}"
        )
    return size


def depth(text: str) -> int:
    """How deep the lists and objects of a JSON text nest; Python's parser ends in a RecursionError far down."""
    deepest = now = 0
    quoted = False
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == '"':
            quoted = not quoted
        elif not quoted and mark in "[{":
            now += 1
            deepest = max(deepest, now)
        elif not quoted and mark in "]}":
            now -= 1
    return deepest


def cause(error: Exception) -> str:
    """What went wrong, without the path."""
    return getattr(error, "strerror", None) or str(error)


def whole(path: Path) -> str:
    """The remedy for a bundle of links."""
    return f"a bundle holds files, not links: copy it with cp -rL, or export it again to {path}"


def again(path: Path) -> str:
    """The remedy for a bundle that is damaged."""
    return f"copy or export the bundle again: trt-build export RUN --out {quote(str(path))}"
