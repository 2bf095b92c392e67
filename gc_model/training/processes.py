# SPDX-License-Identifier: Apache-2.0
"""Several training processes: which one this is, and waiting for the one that prepares the run.

Lightning starts the processes of one node itself, torchrun or SLURM those of several. Where the first has prepared the
run before it starts the others, they find everything there; where all start together, they wait for a file. Lightning's
`prepare_data` does not replace it: it runs inside `Trainer.fit`, while the passes before the first fit need the frames
too; its barrier ends with the collectives' timeout after minutes, where decoding may take hours; and it hands nothing
to the other processes, which must know the clips that failed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from trt_build.files import write_atomically

PREPARED = "prepared.json"
# While it lives: of a process whose parent has ended, the number is that of another.
_PARENT = os.getppid()


def rank(devices: int) -> int:
    """The number of this process among all of the training, 0 for the first."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return int(os.environ.get("NODE_RANK", 0)) * devices + int(os.environ.get("LOCAL_RANK", 0))


def is_first(devices: int, nodes: int) -> bool:
    """Whether this process is the only one, or the first of several: that which checks, judges, writes and tells."""
    return devices * nodes == 1 or rank(devices) == 0


def accelerator() -> torch.device:
    """Where this process computes: its GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def tell_prepared(out: Path, values: dict[str, Any]) -> None:
    """In the first process: announce that the run directory is ready, and what the others must know."""
    write_atomically(out / PREPARED, json.dumps(values))


def wait_prepared(out: Path, timeout_s: float = 24 * 3600.0) -> dict[str, Any]:
    """In the others: wait for the first, whose decoding may take hours."""
    wait_for(out / PREPARED, timeout_s)
    values: dict[str, Any] = json.loads((out / PREPARED).read_text())
    return values


def wait_for(path: Path, timeout_s: float = 24 * 3600.0) -> None:
    """In the others: wait for a file that the first process writes.

    Where that fails, torchrun or SLURM ends this process; one that Lightning started ends with the first, its parent.
    """
    end = time.monotonic() + timeout_s
    while not path.is_file():
        # Written, perhaps, just before the parent came to its end.
        if os.getppid() != _PARENT and not path.is_file():
            raise SystemExit(1)
        if time.monotonic() > end:
            raise TimeoutError(f"the first process did not write {path} within {timeout_s / 3600:.0f} h")
        time.sleep(0.2)
