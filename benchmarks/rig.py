# SPDX-License-Identifier: Apache-2.0
"""What the node's benchmarks share: the node in a process of its own with a toy engine of known duration, cameras
and listener in this one. Machine and load go into every report, since times mean nothing without them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from tests.gc_ros.node import harness  # noqa: E402
from tests.toy import toy_bundle  # noqa: E402

_scratch = tempfile.TemporaryDirectory()  # scripts and bundles of this benchmark; removed when it ends

_NODE = """
import sys, time
from functools import partial
from gc_ros.node import process as node
from gc_ros.node import lifecycle
from trt_build.engines.open import open_engine
from tests.toy import FakeEngine

def slow(*arguments, **options):
    engine = FakeEngine(open_engine(*arguments, **options))
    # Asleep like a host that waits for a GPU: the cores are free meanwhile.
    engine.before_run = lambda: time.sleep({engine_s})
    return engine

if {engine_s}:
    lifecycle.ActivityRecognition = partial(lifecycle.ActivityRecognition, open_engine=slow)
sys.exit(node.main(sys.argv[1:]))
"""


def scratch() -> Path:
    """An empty folder that is gone when the benchmark has ended."""
    return Path(tempfile.mkdtemp(dir=_scratch.name))


class NodeProcess(harness.Process):
    """The node as a robot runs it, but for an engine call that takes `engine_s` longer than the toy's own.

    before: Python that its process runs first.
    """

    def __init__(self, bundle: Path, engine_s: float = 0.0, before: str = "", **parameters: Any) -> None:
        script = scratch() / "node.py"
        script.write_text(before + _NODE.format(engine_s=engine_s))
        arguments = ["--ros-args", "-p", f"bundle:={bundle}", "-p", "threads:=1"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        super().__init__(*arguments, script=script)

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_s(self) -> float:
        """User and system time so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def toy(rate_hz: float, S: int = 224) -> Path:
    """A toy bundle sampled at `rate_hz`, with the paper's input size."""
    path = scratch() / "bundle"
    preprocess = {"size": S, "resize": S * 8 // 7}
    return toy_bundle(path, "colours", S=S, rate_hz=rate_hz, preprocess=preprocess).path


class Clock:
    """Times in a steady beat; `late_s` is how far this process fell behind it at worst."""

    def __init__(self, hz: float) -> None:
        self._period, self._next, self.late_s = 1 / hz, time.monotonic(), 0.0

    def wait(self) -> None:
        self._next += self._period
        pause = self._next - time.monotonic()
        self.late_s = max(self.late_s, -pause)
        if pause > 0:
            time.sleep(pause)


def percentiles(values: Sequence[float], scale: float = 1e3) -> dict[str, float]:
    """p50, p95, p99 and maximum, in ms when the values are seconds."""
    found = np.percentile(np.asarray(values, float), [50, 95, 99, 100]) * scale
    return dict(zip(("p50", "p95", "p99", "max"), (round(float(v), 3) for v in found), strict=True))


def machine() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def report(name: str, figures: dict[str, Any], out: str | None = None) -> None:
    """Print (and write) one JSON object."""
    text = json.dumps({"benchmark": name, **machine(), **figures}, indent=2)
    print(text)
    if out:
        Path(out).write_text(text + "\n")
