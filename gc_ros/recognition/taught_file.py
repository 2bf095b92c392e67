# SPDX-License-Identifier: Apache-2.0
"""The files of what was taught: `taught.json` and the arrays that it names, in a folder beside the bundle.

The arrays are written first, under a name made of their hash; `taught.json` then takes its name in one step. A process
killed in the middle leaves what was there before. Who reads refuses a file that was changed: the arrays by their hash
in `taught.json`, that by the hash of its own content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gc_ros.recognition.kept_clips import remedy, sweep_clips
from gc_ros.recognition.space import Examples
from gc_ros.recognition.taught import MAX_ACTIVITIES, MAX_WINDOWS, Lessons, Taught, sound_name, space_of
from trt_build import tensors
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError
from trt_build.files import demand_place, lock, write_atomically
from trt_build.labels import MAX_LABEL_LENGTH
from trt_build.untrusted import read_regular

NAME = "taught.json"
MAX_JSON, MAX_ARRAYS = 1 << 20, 1 << 30
PATIENCE_S = 30.0  # for another process that changes a folder
_HASH = r"^[0-9a-f]{64}$"


class _Activity(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_LABEL_LENGTH)
    clips: int = Field(ge=1)
    windows: int = Field(ge=1, le=MAX_WINDOWS)


class _File(BaseModel):
    """taught.json. none: windows of none-of-these. arrays: hash of the file of arrays. sha256: of all the rest."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    model_id: str = Field(min_length=1, max_length=200)
    activities: list[_Activity] = Field(max_length=MAX_ACTIVITIES)
    none: int = Field(default=0, ge=0, le=MAX_WINDOWS)
    arrays: str = Field(pattern=_HASH)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    def digest(self) -> str:
        """What `sha256` must be."""
        content = json.dumps(self.model_dump(exclude={"sha256"}), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def folder_of(bundle: Path) -> Path:
    """Where what a bundle was taught lies unless another folder is named: BUNDLE.taught beside it."""
    whole = Path(os.path.abspath(bundle))
    return whole.with_name(f"{whole.name}.taught")


def read_taught(folder: Path, model_id: str) -> Taught:
    """What is taught in a folder; nothing where there is no `taught.json`. Raises DataError for one that was changed.

    model_id: of the bundle in use, for a folder that holds nothing.
    """
    try:
        text = read_regular(folder, NAME, MAX_JSON)
    except FileNotFoundError:
        return Taught(model_id)
    except NotADirectoryError:
        where = f": {folder.parent}" if folder.name == NAME else ""
        raise DataError(f"{folder}: is a file; name the folder that gc-ros teach wrote{where}") from None
    except OSError as error:
        away = "make it readable" if error.errno == errno.EACCES else "move it away"
        raise DataError(
            f"{folder / NAME}: {error.strerror or error}; {away}, or name another folder that gc-ros teach wrote"
        ) from None
    try:
        file = _File.model_validate_json(text)
        if file.sha256 != file.digest():
            raise ValueError("its content does not have the hash that it names")
        try:
            content = read_regular(folder, _arrays_name(file.arrays), MAX_ARRAYS)
        except FileNotFoundError:
            if read_regular(folder, NAME, MAX_JSON) == text:
                raise
            # Somebody taught between the two reads, and nothing needs the old arrays any more.
            return read_taught(folder, model_id)
        if hashlib.sha256(content).hexdigest() != file.arrays:
            raise ValueError(f"{_arrays_name(file.arrays)} was changed")
        found = tensors.from_bytes(content)
        activities = {
            a.name: _examples(found, str(i), a.windows, a.clips) for i, a in enumerate(file.activities)
        }
        none = _examples(found, "none", file.none, None) if file.none else None
        _check_names([a.name for a in file.activities])
        # Where everything was forgotten, another model may be taught.
        return Taught(file.model_id if activities or none is not None else model_id, activities, none)
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{folder / NAME} was changed or is damaged ({why}); copy the folder again, or remove it and teach again"
        ) from None


def write_taught(folder: Path, taught: Taught) -> None:
    """Replace what is taught in a folder, which is made where it does not exist. Raises DataError."""
    arrays: dict[str, Any] = {}
    named = [(str(i), e) for i, e in enumerate(taught.activities.values())]
    for key, examples in [*named, *([("none", taught.none)] if taught.none is not None else [])]:
        arrays[f"{key}.features"], arrays[f"{key}.clips"] = examples.features, examples.clips
    content = tensors.to_bytes(arrays)
    file = _File(
        model_id=taught.model_id,
        activities=[
            _Activity(name=name, clips=e.count, windows=len(e)) for name, e in taught.activities.items()
        ],
        none=0 if taught.none is None else len(taught.none),
        arrays=hashlib.sha256(content).hexdigest(),
    )
    file.sha256 = file.digest()
    keep = _arrays_name(file.arrays)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / keep, content, durable=True)
        text = json.dumps(file.model_dump(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / NAME, text, durable=True)
    except OSError as error:
        raise DataError(
            f"{folder}: what was taught cannot be kept ({error.strerror or error}); {remedy(error)}"
        ) from None
    _sweep(folder, keep)


def sweep(folder: Path) -> None:
    """Remove what a kill left of what was forgotten: arrays and clips that nothing names. Call it locked."""
    try:
        file = _File.model_validate_json(read_regular(folder, NAME, MAX_JSON))
    except (OSError, ValueError):  # one that is damaged does not say what is left over
        return
    if file.sha256 == file.digest():
        _sweep(folder, _arrays_name(file.arrays))


def _sweep(folder: Path, keep: str) -> None:
    parts = [*folder.glob(f".{NAME}.*.part"), *folder.glob(".examples-*.part")]
    for old in [*folder.glob("examples-*.safetensors"), *parts]:
        if old.name != keep:
            with suppress(OSError):
                old.unlink()
    sweep_clips(folder)


def load_lessons(bundle: LoadedBundle, where: str | None = None) -> Lessons | None:
    """What a bundle was taught, ready for a recogniser; None where it was taught nothing.

    where: a folder, None: that beside the bundle, "none": nothing whatever lies there. Raises GlimpseError.
    """
    folder = folder_of(bundle.path) if not where else Path(where)
    if where == "none" or (not where and not (folder / NAME).exists()):
        return None
    must_hold(folder)
    taught = read_taught(folder, bundle.info.model_id)
    return Lessons(bundle, space_of(bundle), taught, folder) if taught.activities else None


def taught_digest(folder: Path) -> str:
    """What stands for all that is taught in a folder: sha256 of its `taught.json`, "" without one."""
    try:
        return hashlib.sha256(read_regular(folder, NAME, MAX_JSON)).hexdigest()
    except OSError:
        return ""


@contextmanager
def locked(folder: Path, *, make: bool = True) -> Iterator[None]:
    """Alone with a folder: from reading over changing to writing it, nobody else does.

    make: the folder, where it does not exist. Raises DataError, also where somebody else is alone with it for longer
    than `PATIENCE_S`.
    """
    if not make:
        must_hold(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); {remedy(error)}") from None
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def check_place(folder: Path) -> None:
    """Raise DataError where what is going to be shown could not be kept in a folder, which need not be there yet."""
    try:
        demand_place(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); {remedy(error)}") from None


def must_hold(folder: Path) -> None:
    """Raise DataError unless something was taught into a folder."""
    if not (folder / NAME).exists():
        raise DataError(f"{folder}: holds no {NAME}; name the folder that gc-ros teach wrote")


def _lock(descriptor: int, folder: Path) -> None:
    def on_wait(waited_s: float) -> None:
        if waited_s > PATIENCE_S:
            raise DataError(
                f"{folder}: another process has been changing it for {PATIENCE_S:g} s; end that, or wait for it, "
                "and try again"
            )

    try:
        lock(descriptor, on_wait, every_s=0.02)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be locked ({error.strerror or error}); name a folder on a disk of this machine"
        ) from None


def _arrays_name(digest: str) -> str:
    return f"examples-{digest[:16]}.safetensors"


def _check_names(names: list[str]) -> None:
    """Raise ValueError for names that teaching gives no activity; one in Unicode form NFD, as it once gave, may be."""
    for i, name in enumerate(names):
        try:
            sound = sound_name(name) == unicodedata.normalize("NFC", name)
        except DataError:
            sound = False
        if not sound:
            raise ValueError(f"no activity can have the name {name!r}")
        if sound_name(name) in map(sound_name, names[:i]):
            raise ValueError(f"the name {name!r} is listed twice")


def _examples(found: dict[str, Any], key: str, windows: int, clips: int | None) -> Examples:
    features, numbers = found.get(f"{key}.features"), found.get(f"{key}.clips")
    if features is None or features.dtype != np.float32 or features.ndim != 2 or len(features) != windows:
        raise ValueError("the arrays do not hold what is listed")
    if numbers is None or numbers.dtype != np.int64 or numbers.shape != (windows,):
        raise ValueError("the arrays do not hold what is listed")
    examples = Examples(features, numbers)
    if clips is not None and examples.count != clips:
        raise ValueError("the arrays do not hold what is listed")
    if not examples.sound:
        raise ValueError("features are no numbers, or larger than a network gives")
    return examples
