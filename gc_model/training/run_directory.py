# SPDX-License-Identifier: Apache-2.0
"""The files of a training run: who may write there, what it was asked for, and its weights between the stages.

Every file appears under its name when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gc_model.data.frames import Clip
from gc_model.paper.network import Network
from gc_model.training.options import TrainOptions
from trt_build.errors import DataError
from trt_build.files import replacing, write_atomically


def check_run(options: TrainOptions, out: Path, resume: bool) -> None:
    """Whether `out` may be written to: new without `resume`, started with the same options with it."""
    path = out / "options.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if path.is_file():
        if not resume:
            raise DataError(f"{out} already holds a run: continue it with --resume, or choose another --out")
        try:
            before = TrainOptions.model_validate_json(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): restore it, or choose another --out") from None
        changed = [k for k, v in before if v != getattr(options, k)]
        if changed:
            raise DataError(
                f"{out} was started with other options ({', '.join(changed)}): resume with the same"
            )
        return
    if resume:
        raise DataError(f"{out} holds no run to resume: leave --resume away to start one")


def start_run(options: TrainOptions, out: Path, training: Sequence[Clip], validation: Sequence[Clip]) -> None:
    """Write down what the run is; for a resumed one, check that the clips are the same."""
    path = out / "clips.json"
    names = {"training": [c.name for c in training], "validation": [c.name for c in validation]}
    if path.is_file():
        before = json.loads(path.read_text())
        if before != names:
            found, known = ({n for part in of.values() for n in part} for of in (names, before))
            which = next(iter(sorted(found ^ known)), "another split")
            raise DataError(
                f"the clips changed since {out} was started ({which}): restore them, or start anew"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(names, indent=1))
        write_atomically(out / "options.json", options.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}): choose another --out") from None


def save_part(model: Network, path: Path, also: Mapping[str, Tensor] | None = None) -> None:
    """The weights as they are, and `also` what the model has not, under their name when whole."""
    with replacing(path, durable=True) as part:
        save_file({k: v.contiguous() for k, v in {**(also or {}), **model.state_dict()}.items()}, part)


def load_front(model: Network, path: Path) -> None:
    """What stage 1 trains, from another run's."""
    kept = ("trunk.", "pose.", "global_head.")
    values = {k: v for k, v in load_file(path).items() if k.startswith(kept)}
    model.load_state_dict({k: v for k, v in values.items() if k in model.state_dict()}, strict=False)


def load_part(model: Network, path: Path) -> bool:
    """Whether `path` is there; its weights are then in `model`. Raises DataError for a damaged file."""
    if not path.is_file():
        return False
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it to do this stage again") from None
    return True
