# SPDX-License-Identifier: Apache-2.0
"""The bundle directory: the only thing that crosses from training to the robot.

    bundle.json        `Bundle` below: names, shapes, labels, preprocessing, provenance, sha256 of every file
    window.onnx        frames uint8 (N, T, S, S, 3) -> logits (N, K), embedding (N, T, E), glimpses (N, T, G, 4),
                       assignment (N, T, C, G); bundles of schema 1 have no embedding and cannot be taught
    step.onnx          frame uint8 (N, S, S, 3) and states X -> the same for one frame, and next_X for every X;
                       causal models only
    weights.bin        ONNX external data, shared by both graphs
    classes.safetensors
                       what teaching needs of the training clips, see `trt_build.classes`; only where the export
                       found them
    *.int8.onnx, weights.int8.bin
                       added by `trt-build quantize`: the same graphs in INT8, with weights of their own
    engines/           built later on the robot; not hashed here, each engine has its own sidecar

`load_bundle` compares every hash before any graph is parsed, so an edited file is refused and never run. Its own
hash, `LoadedBundle.sha256`, stands for all of them: who knows it out of band can demand it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trt_build.errors import BundleError
from trt_build.files import replacing, write_new
from trt_build.integrity import MAX_BYTES, again, cause, check_file, demand, depth, whole
from trt_build.labels import MAX_LABEL_LENGTH, check_label, printable
from trt_build.untrusted import NotRegular, read_regular, sha256_regular

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)  # 1: bundles without embedding
INFO_NAME = "bundle.json"
GRAPHS = {"window": "window.onnx", "step": "step.onnx"}
WEIGHTS_NAME = "weights.bin"
CLASSES_NAME = "classes.safetensors"
INT8 = "int8"  # the precision whose graphs `trt-build quantize` adds, with weights of their own
INT8_WEIGHTS_NAME = "weights.int8.bin"

# More than any model has; a bundle that asks for more is broken or made to take the robot's memory or time.
MAX_INFO_BYTES, MAX_INFO_DEPTH = 4 << 20, 32
MAX_LABELS = 10_000
MAX_FILES = 64
MAX_WINDOW_BYTES = 256 << 20  # of the uint8 frames of one window

Mode = Literal["window", "step"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocess(_Frozen):
    """How a camera image becomes the S x S model input; `trt_build.preprocess` does it.

    size: S. resize: the image is resized to `resize` x `resize`, of which the central S x S pixels are used.
    fit: what happens to an image that is not square: "stretch" ignores the aspect, "square" takes the central square,
        "pad" adds grey along the shorter side.
    """

    size: int = Field(default=224, ge=1, le=4096)
    resize: int = Field(default=256, ge=1, le=4096)
    fit: Literal["stretch", "square", "pad"] = "stretch"

    @model_validator(mode="after")
    def _crop_inside(self) -> Preprocess:
        if self.size > self.resize:
            raise ValueError(f"size {self.size} is larger than resize {self.resize}")
        return self


class Calibration(_Frozen):
    """Scores are softmax(logits / temperature); below `unknown_threshold` the activity is 'unknown'."""

    temperature: float = Field(default=1.0, ge=1e-6, le=1e6)
    unknown_threshold: float = Field(default=0.0, ge=0, le=1)


class Bundle(_Frozen):
    """Content of bundle.json. Lists are JSON lists; treat them as read-only."""

    schema_version: int = SCHEMA_VERSION
    model_id: str = Field(min_length=1, max_length=200)
    preset: str = Field(max_length=200)
    labels: list[str] = Field(min_length=1, max_length=MAX_LABELS)
    # Of `labels`, those that say that nobody is there or nothing is done: a result of one is "unknown", and no event.
    idle: list[str] = []
    T: int = Field(default=8, ge=1, le=1024)  # frames a window
    glimpses: int = Field(ge=1, le=256)  # G
    workers: int = Field(ge=1, le=256)  # C
    # E, features a frame for teaching; 0: the graphs put out none.
    embedding: int = Field(default=0, ge=0, le=1 << 14)
    temporal: Literal["centered", "causal"]
    modes: list[Mode] = Field(min_length=1)
    default_mode: Mode
    reset_after: int = Field(ge=0, le=1 << 31)  # frames after which the states of `step` are reset; 0 = never
    preprocess: Preprocess = Preprocess()
    # Sampling rate of the training frames; a window covers T / rate_hz seconds.
    rate_hz: float = Field(ge=0.01, le=1000)
    calibration: Calibration = Calibration()
    provenance: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    sha256: dict[str, str] = Field(default={}, max_length=MAX_FILES)

    @field_validator("model_id", "preset")
    @classmethod
    def _names_printable(cls, name: str) -> str:
        return printable(name, "the name")

    @field_validator("labels")
    @classmethod
    def _labels_distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct")
        for label in labels:
            check_label(label)
        return labels

    @field_validator("sha256")
    @classmethod
    def _names_inside(cls, sha256: dict[str, str]) -> dict[str, str]:
        for name in sha256:
            _check_name(name)
        return sha256

    @model_validator(mode="after")
    def _consistent(self) -> Bundle:
        if strange := sorted(set(self.idle) - set(self.labels)):
            raise ValueError(f"idle label {strange[0]!r} is not among the labels")
        if self.default_mode not in self.modes:
            raise ValueError(f"default_mode {self.default_mode!r} is not among modes {self.modes}")
        if "step" in self.modes and self.temporal != "causal":
            raise ValueError("mode 'step' needs temporal 'causal'")
        if 0 < self.reset_after < self.T:
            raise ValueError(
                f"reset_after {self.reset_after} is shorter than a window of T = {self.T} frames"
            )
        if self.T * self.preprocess.size**2 * 3 > MAX_WINDOW_BYTES:
            raise ValueError(
                f"a window of T = {self.T} frames of size {self.preprocess.size} is above {MAX_WINDOW_BYTES} bytes"
            )
        return self

    @property
    def window_s(self) -> float:
        """Seconds that a window of T frames covers."""
        return self.T / self.rate_hz


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle directory whose files have been checked. sha256: of bundle.json; "" where there is none."""

    path: Path
    info: Bundle
    sha256: str = ""

    def graph(self, mode: str, precision: str = "fp32") -> Path:
        """Path of the ONNX graph of `mode` in a precision. Raises BundleError where the bundle has no such graph."""
        if mode not in self.info.modes:
            have = ", ".join(self.info.modes)
            raise BundleError(f"{self.path}: no mode {mode!r} in this bundle; it has: {have}")
        name = graph_name(mode, precision)
        if precision != "fp32" and name not in self.info.sha256:
            make = "; add it with: trt-build quantize BUNDLE --clips DIR" if precision == INT8 else ""
            raise BundleError(f"{self.path}: no {precision} graph of mode {mode!r} in this bundle{make}")
        return self.path / name


def graph_name(mode: str, precision: str = "fp32") -> str:
    """File name of a graph inside a bundle."""
    return GRAPHS[mode] if precision == "fp32" else f"{mode}.{precision}.onnx"


def load_bundle(path: str | os.PathLike[str], verify: bool = True, sha256: str | None = None) -> LoadedBundle:
    """Read and check a bundle directory.

    verify: False skips the hashes, for tools that read a bundle while it is being made; schema and existence of the
        files are checked either way.
    sha256: what that of bundle.json must be, in hex; None or "": anything.

    Raises BundleError.
    """
    path = Path(path)
    if not path.is_dir():
        if path.exists():
            holds = f": {path.parent}" if (path.parent / INFO_NAME).is_file() else ""
            raise BundleError(f"{path}: is a file; a bundle is the folder that holds {INFO_NAME}{holds}")
        raise BundleError(
            f"{path}: no such bundle directory; make one with: trt-build export RUN --out {quote(str(path))}"
        )
    try:
        content = read_regular(path, INFO_NAME, MAX_INFO_BYTES)
        digest = hashlib.sha256(content).hexdigest()
        if sha256:
            demand(path, digest, sha256)
        text = content.decode("utf-8")
    except NotRegular as error:
        raise BundleError(f"{path}: {INFO_NAME}: {error.strerror or error}; {whole(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: no readable {INFO_NAME} ({cause(error)}); {again(path)}") from None
    info = _parse(path, text)
    for name in _required(info):
        if name not in info.sha256:
            raise BundleError(f"{path}: {INFO_NAME} has no hash of {name}; {again(path)}")
    left = MAX_BYTES
    for name, expected in info.sha256.items():
        left -= check_file(path, name, expected if verify else None, info.sha256.keys(), left)
    return LoadedBundle(path, info, digest)


def write_bundle(
    path: str | os.PathLike[str],
    info: Bundle,
    files: Mapping[str, bytes | os.PathLike[str] | str] | Iterable[str],
) -> LoadedBundle:
    """Write a bundle whole: what `path` held before stays usable until everything new is on the disk.

    New files lie hidden beside the old ones until then. They are renamed within milliseconds, bundle.json last, so that
    a half-written bundle never loads.

    files: name inside the bundle -> its content (bytes) or a file to copy; or only the names of files that are in
        `path` already. Graphs and weights of an older bundle in `path` that are not among them are removed.

    Returns the bundle as written, with `sha256` computed here. Raises BundleError where a required graph is not among
    the files or a file is missing, OSError where one cannot be read or written.
    """
    path = Path(path)
    sources: dict[str, bytes | os.PathLike[str] | str]
    sources = dict(files) if isinstance(files, Mapping) else {name: path / name for name in files}
    for name in sources:
        try:
            _check_name(name)
        except ValueError as error:
            raise BundleError(str(error)) from None
    missing = [name for name in _required(info) if name not in sources]
    if missing:
        raise BundleError(f"{path}: modes {info.modes} need {', '.join(missing)} among the files to write")
    path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as waiting:  # what is entered first is renamed last
        info_part = waiting.enter_context(replacing(path / INFO_NAME))
        hashes: dict[str, str] = {}
        for name, source in sorted(sources.items()):
            there = path / name
            if not isinstance(source, bytes) and not Path(source).is_file():
                raise BundleError(f"{source}: this file should be part of the bundle, but does not exist")
            if isinstance(source, bytes) or Path(source).resolve() != there.resolve():
                there.parent.mkdir(parents=True, exist_ok=True)
                there = waiting.enter_context(replacing(there))
                write_new(there, source)
            try:
                hashes[name] = sha256_regular(path, there.relative_to(path).as_posix())
            except NotRegular as error:
                raise BundleError(f"{error.filename}: {error.strerror or error}; {whole(path)}") from None
        # Validated again from plain data: model_copy would carry over unchecked values.
        info = _parse(path, json.dumps({**info.model_dump(mode="json"), "sha256": hashes}))
        content = info.model_dump(mode="json")
        # A bundle without such a class stays one that programs read which do not know the field.
        if not content["idle"]:
            del content["idle"]
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_new(info_part, text.encode("utf-8"))
    variants = {graph_name(mode, INT8) for mode in GRAPHS} | {INT8_WEIGHTS_NAME}
    for stale in {*GRAPHS.values(), WEIGHTS_NAME, CLASSES_NAME, *variants} - sources.keys():
        (path / stale).unlink(missing_ok=True)
    return LoadedBundle(path, info, hashlib.sha256(text.encode("utf-8")).hexdigest())


def file_sha256(path: str | os.PathLike[str], stopped: threading.Event | None = None) -> str:
    """Hex sha256 of a file. Raises CancelledError soon after another thread sets `stopped`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            if stopped is not None and stopped.is_set():
                raise CancelledError
            digest.update(block)
    return digest.hexdigest()


def _required(info: Bundle) -> list[str]:
    return [GRAPHS[mode] for mode in info.modes]


def _check_name(name: str) -> None:
    """Raise ValueError unless `name` is a plain relative name: a bundle must not reach outside its directory."""
    parts = PurePosixPath(name).parts
    inside = parts and not name.startswith("/") and "\\" not in name and ".." not in parts
    if not inside or name != "/".join(parts) or name == INFO_NAME or len(name) > MAX_LABEL_LENGTH:
        raise ValueError(f"{name[:80]!r} is not a file name inside a bundle")
    printable(name, "the file name")


def _parse(path: Path, text: str) -> Bundle:
    if depth(text) > MAX_INFO_DEPTH:
        raise BundleError(f"{path}: {INFO_NAME} nests deeper than {MAX_INFO_DEPTH} levels; {again(path)}")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{path}: {INFO_NAME} is not JSON ({error}); {again(path)}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: bundle schema {version} is newer than the {SCHEMA_VERSION} this program reads; "
            "update glimpse_clouds on this machine"
        )
    if version not in READ_VERSIONS or isinstance(version, bool):
        raise BundleError(f"{path}: bundle schema {version!r} is not {SCHEMA_VERSION}; {again(path)}")
    try:
        return Bundle.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise BundleError(
            f"{path}: {INFO_NAME}: {where + ': ' if where else ''}{message}; {again(path)}"
        ) from None
