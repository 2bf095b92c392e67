# SPDX-License-Identifier: Apache-2.0
"""`trt-build bench`: latency, throughput, memory and start-up of every engine of a bundle, in one interleaved run.

Each engine has a process of its own, so that memory and start-up are its own. The processes take turns of a few calls
each, round by round: other load on the machine affects all alike, so ratios between engines of one run can be trusted
where times cannot.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.engines.open import open_engine
from trt_build.engines.targets import split_target
from trt_build.errors import EngineError, GlimpseError

CALLS = 5  # calls of one engine in one turn
_MB = 1e6


@dataclass(frozen=True)
class Timing:
    """One engine in one mode. Times in milliseconds; memory in megabytes (10^6 bytes)."""

    engine: str
    mode: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls_per_s: float  # frames or windows: calls times the batch
    start_s: float  # opening and the first call, with the files in the page cache
    resident_mb: float  # of the whole process after the last call
    own_mb: float  # the part of it that opening and running the engine added
    calls: int
    description: str


def bench(
    bundle: LoadedBundle,
    targets: Sequence[str],
    *,
    calls: int = 50,
    threads: int | None = None,
    batch: int = 1,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Timing]:
    """Time all modes of all `targets` (backend:precision[@device]) over at least `calls` calls.

    A target that is named twice is timed once. Raises GlimpseError.
    """
    processes: list[_EngineProcess] = []
    try:
        for mode in bundle.info.modes:
            for target in dict.fromkeys(targets):
                progress(f"opening {target}, {mode}")
                processes.append(_EngineProcess(bundle, target, mode, threads, batch))
                processes[-1].open()
        times: list[list[float]] = [[] for _ in processes]
        for turn in range(-(-calls // CALLS)):
            progress(f"round {turn + 1} of {-(-calls // CALLS)}")
            for process, found in zip(processes, times, strict=True):
                found += process.ask("run")["times"]
        return [
            _timing(process, np.array(found) * 1e3, process.ask("end"), batch)
            for process, found in zip(processes, times, strict=True)
        ]
    finally:
        for process in processes:
            process.close()


def _timing(process: _EngineProcess, ms: Any, end: dict[str, Any], batch: int) -> Timing:
    p50, p90, p99 = (float(np.percentile(ms, q)) for q in (50, 90, 99))
    return Timing(
        engine=process.target,
        mode=process.mode,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        calls_per_s=batch * 1e3 / float(ms.mean()),
        start_s=process.opened["start_s"],
        resident_mb=end["resident"] / _MB,
        own_mb=(end["resident"] - process.opened["before"]) / _MB,
        calls=len(ms),
        description=process.opened["description"],
    )


class _EngineProcess:
    """A process that runs one engine and answers each request with one line of JSON."""

    def __init__(self, bundle: LoadedBundle, target: str, mode: str, threads: int | None, batch: int):
        self.target, self.mode, self._bundle = target, mode, bundle.path
        backend, precision, device = split_target(target)
        order = {
            "bundle": str(bundle.path.resolve()),
            "mode": mode,
            "backend": backend,
            "precision": precision,
            "threads": threads,
            "batch": batch,
            "device": device,
        }
        here = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trt_build.bench", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        self.opened: dict[str, Any] = {}

    def open(self) -> None:
        """Wait until the engine is open."""
        self.opened = self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; `_answer` reports it
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise EngineError(
                f"{self.target}, {self.mode}: its process ended with exit code {code}; see whether it runs at all: "
                f"trt-build verify {quote(str(self._bundle))} --engine {self.target} --clips CLIPS"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # Closing writes what a process that has ended did not take; the error at hand says more, and the
                # other processes are to be ended, too.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _resident() -> int:
    """Resident memory of this process in bytes; mapped pages of files count too."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


def _requests() -> queue.Queue[str]:
    """The lines of stdin. Where it ends, the process that measures has ended, in whatever way, and so does this one."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the engine may still be opening

    threading.Thread(target=read, daemon=True).start()
    return lines


def _work(order: dict[str, Any]) -> None:
    requests = _requests()
    bundle = load_bundle(order.pop("bundle"))  # checks the hashes, which brings all files into the page cache
    mode = order.pop("mode")
    before = _resident()
    began = time.perf_counter()
    engine = open_engine(bundle, mode, **order)
    rng = np.random.default_rng(0)
    inputs = {n: rng.integers(0, 256, s.sized(engine.batch), np.uint8) for n, s in engine.inputs.items()}
    engine.run(inputs)
    start = time.perf_counter() - began
    _say({"start_s": start, "before": before, "description": engine.description})
    while line := requests.get():
        if line.strip() == "end":
            _say({"resident": _resident()})
            continue
        engine.run(inputs)  # not timed: caches and clocks are as the last process left them
        times = []
        for _ in range(CALLS):
            began = time.perf_counter()
            engine.run(inputs)
            times.append(time.perf_counter() - began)
        _say({"times": times})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def ratios(timings: Sequence[Timing]) -> dict[str, float]:
    """window : step of every engine that has both, by median."""
    medians = {(t.engine, t.mode): t.p50_ms for t in timings}
    return {
        engine: medians[engine, "window"] / p50
        for (engine, mode), p50 in medians.items()
        if mode == "step" and (engine, "window") in medians
    }


def as_json(timings: Sequence[Timing], bundle: LoadedBundle, threads: int | None) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "model_id": bundle.info.model_id,
        "preset": bundle.info.preset,
        "threads": threads,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "engines": [asdict(timing) for timing in timings],
        "window_to_step": ratios(timings),
    }


def as_lines(timings: Sequence[Timing]) -> list[str]:
    """A table; x: times as fast as the first engine of the same mode."""
    times = "".join(f"{name:>9}" for name in ("p50", "p90", "p99"))
    head = f"{'engine':22} {'mode':6}{times} {'x':>6} {'calls/s':>9} {'start':>7} {'memory':>8}"
    first: dict[str, float] = {}
    lines = [head]
    for t in timings:
        base = first.setdefault(t.mode, t.p50_ms)
        lines.append(
            f"{t.engine:22} {t.mode:6} {t.p50_ms:8.2f} {t.p90_ms:8.2f} {t.p99_ms:8.2f} {base / t.p50_ms:6.2f} "
            f"{t.calls_per_s:9.1f} {t.start_s:6.2f}s {t.resident_mb:6.0f}MB"
        )
    lines += [f"{engine:22} window : step = {ratio:.2f} : 1" for engine, ratio in ratios(timings).items()]
    return lines


if __name__ == "__main__":
    try:
        _work(json.loads(sys.argv[1]))
    except GlimpseError as error:
        _say({"error": str(error)})
    except MemoryError as error:
        _say({"error": f"too little memory for this engine ({error}); give a smaller --batch"})
