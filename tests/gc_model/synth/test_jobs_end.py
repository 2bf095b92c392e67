# SPDX-License-Identifier: Apache-2.0
"""Drawing goes on where one of its processes dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from gc_model.synth import jobs


def draw(root: Path, job: Any) -> int:
    (root / str(job)).write_text("drawn")
    if job == 3 and multiprocessing_child():
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def multiprocessing_child() -> bool:
    import multiprocessing

    return multiprocessing.parent_process() is not None


def test_what_a_killed_process_had_to_draw_is_drawn_all_the_same(tmp_path: Path) -> None:
    batches = [(tmp_path, [i], draw) for i in range(8)]
    found = {job: frames for made in jobs._run(batches, 2, False, 8, 1) for job, frames in made.items()}
    assert found == dict.fromkeys(range(8), 1)
    assert len(list(tmp_path.iterdir())) == 8
