# SPDX-License-Identifier: Apache-2.0
"""For gpu_check.py: what the machine is, and steps that run in processes, end in time, and are written as they come."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp16", "fp32")


class Skipped(Exception):
    """A step cannot run here; the text is the reason."""


class Check:
    """Runs steps until the time is up and writes what they found."""

    def __init__(self, found: dict[str, Any], out: Path | None, seconds: float, stand_in: bool) -> None:
        self._out, self._end, self.stand_in = out, time.monotonic() + seconds, stand_in
        self.facts = found  # of `facts`
        self.backend = "tensorrt_rtx" if self.facts["versions"]["tensorrt_rtx"] else "tensorrt"
        self.steps: dict[str, dict[str, Any]] = {}
        self.unwritten = ""  # why the newest answer is not in its file
        self._spawned: list[subprocess.Popen[str]] = []

    @property
    def targets(self) -> list[str]:
        """Engines of verify and bench; the stand-in has the processor's."""
        backend = "onnxruntime" if self.stand_in else self.backend
        return [f"{backend}:{precision}" for precision in PRECISIONS]

    def need_gpu(self) -> None:
        if self.facts["gpu"] is None:
            raise Skipped(f"no GPU: {self.facts['why']}")
        if not self.facts["versions"][self.backend]:
            raise Skipped("neither tensorrt_rtx nor tensorrt can be imported")

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one step; its result, or None where it did not come to one."""
        began = time.monotonic()
        found: dict[str, Any]
        try:
            if self.left() < 5:
                raise Skipped("no time left")
            found = {"status": "ok", "result": work()}
        except Skipped as reason:
            found = {"status": "skipped", "reason": str(reason)}
        except RuntimeError as error:
            found = {"status": "failed", "reason": str(error)}
        except Exception as error:  # a fault of ours costs this step, not those behind it: the GPU is lent
            found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        self.steps[name] = found | {"seconds": round(time.monotonic() - began, 1)}
        print(f"{name}: {found['status']} {found.get('reason', '')}"[:300], file=sys.stderr, flush=True)
        self.write()
        return found.get("result")

    def left(self) -> float:
        return self._end - time.monotonic()

    def spawn(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._spawned.append(process)
        return process

    def close(self) -> None:
        """Stop what still runs."""
        for process in self._spawned:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def finish(self, process: subprocess.Popen[str], most: float, codes: tuple[int, ...] = (0,)) -> str:
        """A command's standard output. Raises RuntimeError with its last lines, or where it takes too long.

        most: seconds, so that one step leaves time for the others on a lent GPU. A stand-in, which may be slow or
        busy and has nothing to lose, keeps to the time of the whole alone.
        """
        limit = max(self.left() if self.stand_in else min(most, self.left()), 0.1)
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: bench and pytest have some
            process.communicate()
            raise RuntimeError(f"stopped after {limit:.0f} s") from None
        if process.returncode not in codes:
            said = [line for line in (errors or output).splitlines() if line.strip()]
            raise RuntimeError(f"exit code {process.returncode}: {' | '.join(said[-3:])}")
        return output

    def run(self, command: list[str], most: float, codes: tuple[int, ...] = (0,)) -> str:
        """`finish` of a command started now."""
        return self.finish(self.spawn(command), most, codes)

    def write(self) -> None:
        text = json.dumps({**self.facts, "stand_in": self.stand_in, "steps": self.steps}, indent=1)
        if self._out is not None:
            from trt_build.command import os_error_line
            from trt_build.files import write_atomically

            try:
                write_atomically(self._out, text + "\n")
                self.unwritten = ""
            except OSError as error:  # costs no step: the GPU is lent
                self.unwritten = os_error_line(error)


def facts() -> dict[str, Any]:
    """The machine: GPU or why there is none, versions of what matters, load."""
    from trt_build.engines.cuda import load_cuda
    from trt_build.errors import GlimpseError

    found: dict[str, Any] = {"gpu": None, "why": ""}
    try:
        cuda = load_cuda()
        gpu = cuda.gpu()
        driver = cuda.call("cudaDriverGetVersion")
        found["gpu"] = vars(gpu) | {"cuda_driver": f"{driver // 1000}.{driver % 1000 // 10}"}
    except GlimpseError as error:
        found["why"] = str(error)
    modules = ("tensorrt_rtx", "tensorrt", "onnxruntime", "onnx", "torch", "numpy")
    return found | {
        "versions": {name: _version(name) for name in modules},
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _version(module: str) -> str | None:
    """Asked in another process: some of these modules take memory and seconds."""
    program = f"import {module}; print({module}.__version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else None
