# SPDX-License-Identifier: Apache-2.0
"""The files of a training run: options and clips, checked when it is resumed, and the weights between its stages.

Every file has its name only when it is whole.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gc_model.data.clip import LabelledClip
from gc_model.paper.network import Network
from gc_model.training.checkpoint import DESCRIPTION
from gc_model.training.options import TrainOptions
from gc_ros.media.kinds import some
from trt_build.bundle import INFO_NAME
from trt_build.errors import DataError, one_line
from trt_build.files import demand_place, lock, replacing, write_atomically


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Let no other process train into `out` meanwhile. Raises DataError where one does.

    The folder is made where it is not there, and goes away again where nothing was written to it.
    """

    def in_use(_: float) -> None:
        raise DataError(f"another training is writing to {out}: wait for its end, or choose another --out")

    made, held = not out.exists(), None
    try:
        # A file, a folder of others, a disk without locks: what writes there says what is wrong, if anything is.
        with suppress(OSError):
            out.mkdir(parents=True, exist_ok=True)
            held = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
            lock(held, in_use, every_s=0)
        yield
    finally:
        if held is not None:
            os.close(held)
        if made:
            with suppress(OSError):
                out.rmdir()


def check_run(options: TrainOptions, out: Path, resume: bool) -> None:
    """Raise DataError unless `out` may be written to: new without `resume`, with it started with the same options.

    Decoded frames alone are no run yet: whoever was interrupted among them starts with `resume` as well as without.
    """
    path = out / "options.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if path.is_file():
        if not resume:
            raise DataError(f"{out} already holds a run: continue it with --resume, or choose another --out")
        try:
            before = TrainOptions.model_validate_json(path.read_text())
        except ValueError as error:
            reason = one_line(error)[:100]
            raise DataError(
                f"{path} is damaged ({reason}): restore it, remove {out}, or choose another --out"
            ) from None
        changed = [k for k, v in before if _whole_paths(v) != _whole_paths(getattr(options, k))]
        if changed:
            raise DataError(
                f"{out} was started with other options ({', '.join(changed)}): resume with the same"
            )
        return
    if any((out / name).exists() for name in (DESCRIPTION, INFO_NAME)):
        raise DataError(
            f"{out} holds a trained network: choose another --out, or remove it to train it again"
        )
    if resume and not (out / "cache").is_dir():
        raise DataError(f"{out} holds no run to resume: leave out --resume to start one")


def _whole_paths(value: Any) -> Any:
    """An option, a path in one spelling of many."""
    if isinstance(value, list):
        return [_whole_paths(part) for part in value]
    return value.resolve() if isinstance(value, Path) else value


def check_unused(out: Path) -> None:
    """Raise DataError unless `out` is new or an empty directory, OSError where it cannot be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already: choose another --out")
    demand_place(out)


@contextmanager
def new_run(out: Path) -> Iterator[None]:
    """Make the folder of a run that is written at once. Where that fails it is as before, for the same command again.

    Raises as `check_unused`.
    """
    check_unused(out)
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for file in out.iterdir():
                file.unlink()
            if not there:
                out.rmdir()
        raise


def start_run(
    options: TrainOptions,
    out: Path,
    training: Sequence[LabelledClip],
    validation: Sequence[LabelledClip],
    files: Mapping[str, str],
) -> None:
    """Write options and clips of the run; for a resumed one, check that the clips are the same. Raises DataError.

    files: see `Samples`. Clips that have their names and other contents are warned of: files that were only copied look
    so, too.
    """
    path = out / "clips.json"
    names = {"training": [c.name for c in training], "validation": [c.name for c in validation]}
    if path.is_file():
        try:
            found = json.loads(path.read_text())
            # Runs begun by earlier versions have none.
            first = dict(found.pop("files", files))
            before = {part: list(map(str, of)) for part, of in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}): restore it, or choose another --out") from None
        if before != names:
            found, known = ({n for part in of.values() for n in part} for of in (names, before))
            which = next(iter(sorted(found ^ known)), "another split")
            raise DataError(
                f"the clips changed since {out} was started ({which}): restore them, or choose another --out"
            )
        if other := [name for name, identity in files.items() if first.get(name) != identity]:
            logging.getLogger(__name__).warning(
                "%d clips are not the files any more that %s was started with (%s): what it trained before saw those; "
                "to train on the new ones alone, choose another --out",
                len(other),
                out,
                some(other),
            )
        files = first
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(names | {"files": dict(files)}, indent=1))
        write_atomically(out / "options.json", options.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out"
        ) from None


def save_part(model: Network, path: Path, also: Mapping[str, Tensor] | None = None) -> None:
    """Write the model's weights as they are, and the tensors of `also`, which the model does not have."""
    with replacing(path, durable=True) as part:
        save_file({k: v.contiguous() for k, v in {**(also or {}), **model.state_dict()}.items()}, part)


def load_front(model: Network, path: Path) -> None:
    """Load what stage 1 trains from the weights of another run. Raises DataError for a damaged file."""
    kept = ("trunk.", "pose.", "global_head.")
    with _whole(path):
        values = {k: v for k, v in load_file(path).items() if k.startswith(kept)}
        model.load_state_dict({k: v for k, v in values.items() if k in model.state_dict()}, strict=False)


def load_part(model: Network, path: Path) -> bool:
    """Load the weights of `path` into `model`; False if there is no such file. Raises DataError for a damaged one."""
    if not path.is_file():
        return False
    with _whole(path):
        model.load_state_dict(load_file(path))
    return True


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it to repeat this stage") from None
