# SPDX-License-Identifier: Apache-2.0
"""The steps of gpu_check.sh, in the order of what one wants to know first; each in a process of its own.

A step that cannot run is skipped with its reason, one that takes too long is stopped, and the JSON is written after
each, so that a machine that goes away leaves what was found so far. Steps:

    pytest                    the tests marked `gpu`
    NAME build                both modes, FP32 and FP16, one camera: the sidecars
    NAME bench, first         `trt-build bench`: fresh processes, whose start compiles kernels
    NAME bench, second        the same again, with the kernels that the first kept
    NAME verify               against ONNX Runtime in FP32 on painted clips
    NAME MODE PRECISION xN    recorded as a CUDA graph and launched one by one, N cameras: times in turn, in ms

for the bundles given (default: bundles/people) and for `paper`, exported untrained where PyTorch is there: times and
errors of precision do not need trained weights, labels do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 4, 16)
PRECISIONS = ("fp16", "fp32")
CALLS = 200  # of each way to run, in a timing
TURN = 10  # calls of one way before the other takes its turn
_TRT_BUILD = [sys.executable, "-c", "from trt_build.cli import main; main()"]
_GC_MODEL = [sys.executable, "-c", "from gc_model.cli import main; main()"]


class Skipped(Exception):
    """A step cannot run here; the text is the reason."""


class Check:
    """Runs steps until the time is up and writes what they found."""

    def __init__(self, out: Path | None, seconds: float, stand_in: bool) -> None:
        self._out, self._end, self.stand_in = out, time.monotonic() + seconds, stand_in
        self.facts = facts()
        self.backend = "tensorrt_rtx" if self.facts["versions"]["tensorrt_rtx"] else "tensorrt"
        self.steps: dict[str, dict[str, Any]] = {}

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
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            found = {"status": "failed", "reason": str(error)}
        self.steps[name] = found | {"seconds": round(time.monotonic() - began, 1)}
        print(f"{name}: {found['status']} {found.get('reason', '')}"[:300], file=sys.stderr, flush=True)
        self.write()
        return found.get("result")

    def left(self) -> float:
        return self._end - time.monotonic()

    def run(self, command: list[str], most: float, codes: tuple[int, ...] = (0,)) -> str:
        """A command's standard output. Raises RuntimeError with its last lines, or where it takes too long."""
        limit = min(most, self.left())
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
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

    def write(self) -> None:
        text = json.dumps({**self.facts, "stand_in": self.stand_in, "steps": self.steps}, indent=1)
        if self._out is not None:
            part = self._out.with_name(f".{self._out.name}.part")
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(self._out)


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


def tests(check: Check, folder: Path) -> dict[str, Any]:
    """`pytest -m gpu`: how many passed, failed and were skipped, and why."""
    for module in ("pytest", "hypothesis"):
        if importlib.util.find_spec(module) is None:
            raise Skipped(f"{module} is not installed")
    report = folder / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    # The plugins that the settings name may not be here.
    command += ["-o", "addopts=", "--import-mode=importlib", f"--junitxml={report}", "tests/trt_build"]
    check.run(command, 180, codes=(0, 1, 5))
    from xml.etree import ElementTree

    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [node for node in case if node.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            found["failed"].append(f"{case.get('name')}: {(bad[0].get('message') or '')[:200]}")
        elif skipped is not None:
            reason = skipped.get("message") or ""
            found["skipped"][reason] = found["skipped"].get(reason, 0) + 1
        else:
            found["passed"] += 1
    if found["failed"]:
        raise RuntimeError(f"{len(found['failed'])} tests failed: {'; '.join(found['failed'][:5])}")
    return found


def build(check: Check, bundle: Path, batch: int = 1) -> list[dict[str, Any]]:
    """`trt-build build` of both modes in both precisions; without a GPU for sm89, which TensorRT-RTX can."""
    if not check.facts["versions"][check.backend]:
        raise Skipped("neither tensorrt_rtx nor tensorrt can be imported")
    target = [] if check.facts["gpu"] else ["--target", "sm89"]
    if target and check.backend == "tensorrt":
        check.need_gpu()
    found = []
    for precision in PRECISIONS:
        options = ["--backend", check.backend, "--precision", precision, "--batch", str(batch), "--json"]
        text = check.run([*_TRT_BUILD, "build", str(bundle), *options, *target], 120)
        for sidecar in json.loads(text):
            if "TF32 off" not in sidecar["flags"]:
                raise RuntimeError(f"TF32 is on: {sidecar['flags']}")
            kept = ("mode", "precision", "batch", "flags", "layers", "plan_bytes", "build_seconds")
            found.append({name: sidecar[name] for name in kept})
    return found


def bench(check: Check, bundle: Path, calls: int) -> dict[str, Any]:
    if not check.stand_in:
        check.need_gpu()
    engines = [word for target in check.targets for word in ("--engine", target)]
    text = check.run([*_TRT_BUILD, "bench", str(bundle), *engines, "--calls", str(calls), "--json"], 150)
    return json.loads(text)


def verify(check: Check, bundle: Path, clips: Path, frames: int, trained: bool) -> dict[str, Any]:
    """`trt-build verify`. Of a network without training only logits and layers are judged: a label or an assignment
    that is decided by noise says nothing."""
    if not check.stand_in:
        check.need_gpu()
    if not clips.exists():
        raise Skipped("no clips could be painted")
    engines = [word for target in check.targets for word in ("--engine", target)]
    size = ["--frames", str(frames), "--windows", str(max(frames // 16, 1))]
    # 1: out of tolerance, which the checks say.
    text = check.run(
        [*_TRT_BUILD, "verify", str(bundle), "--clips", str(clips), *engines, *size, "--json"],
        150,
        codes=(0, 1),
    )
    found = json.loads(text)
    judged = [c for c in found["checks"] if trained or c["what"].startswith(("logits", "layers"))]
    bad = [f"{c['engine']} {c['part']} {c['what']} {c['value']:.2g}" for c in judged if not c["ok"]]
    if bad:
        raise RuntimeError(f"out of tolerance: {'; '.join(bad[:6])}")
    return {
        "judged": len(judged),
        "checks": [c for c in found["checks"] if not c["what"].startswith("state ")],
    }


def timing(check: Check, bundle: Path, mode: str, precision: str, batch: int) -> dict[str, Any]:
    check.need_gpu()
    order = {"bundle": str(bundle), "mode": mode, "precision": precision, "batch": batch}
    text = check.run([sys.executable, __file__, "--time", json.dumps(order | {"backend": check.backend})], 90)
    return json.loads(text.splitlines()[-1])


def time_both_ways(order: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step recorded as a CUDA graph and launched, in turn; made in a process of its own."""
    import numpy as np

    from trt_build.bundle import load_bundle
    from trt_build.engines.trt import TrtEngine

    bundle = load_bundle(order.pop("bundle"))
    mode = order.pop("mode")
    began = time.perf_counter()
    engines = {"graph": TrtEngine(bundle, mode, cuda_graph=True, **order)}
    opening = time.perf_counter() - began
    engines["launched"] = TrtEngine(bundle, mode, cuda_graph=False, **order)
    rng = np.random.default_rng(0)
    spec = next(iter(engines["graph"].inputs.values()))
    frames = {spec.name: rng.integers(0, 256, spec.sized(engines["graph"].batch), np.uint8)}
    times: dict[str, list[float]] = {way: [] for way in engines}
    for _ in range(CALLS // TURN):
        for way, engine in engines.items():
            engine.run(frames)
            for _ in range(TURN):
                began = time.perf_counter()
                engine.run(frames)
                times[way].append((time.perf_counter() - began) * 1e3)
    found: dict[str, Any] = {"open_s": round(opening, 2), "description": engines["graph"].description}
    for way, ms in times.items():
        found[way] = {f"p{q}_ms": round(float(np.percentile(ms, q)), 4) for q in (50, 90, 99)}
    for engine in engines.values():
        engine.close()
    return found


def paint(check: Check, folder: Path) -> Path:
    """A few painted clips of people, whose activities `bundles/people` knows."""
    size = ["--classes", "clap,drink,jump,wave", "--subjects", "2", "--clips-per-class", "4"]
    check.run([*_GC_MODEL, "synth", str(folder), *size, "--size", "320x240", "--fps", "8", "--seed", "7"], 60)
    return folder


def untrained(check: Check, preset: str, folder: Path) -> Path:
    """A bundle of a preset with the weights that training starts with, every temporal tap in use."""
    if check.facts["versions"]["torch"] is None:
        raise Skipped("PyTorch is not installed: give an exported bundle with --bundle")
    program = "import sys; from pathlib import Path; from benchmarks.engines import untrained_bundle; "
    program += f"untrained_bundle({preset!r}, Path({str(folder)!r}))"
    check.run([sys.executable, "-c", program], 150)
    return folder / "bundle"


def work(check: Check, options: argparse.Namespace, folder: Path) -> None:
    """All steps."""
    # Copies without engines: the first start must compile its kernels, and a checkout stays as it is.
    bundles = {path.name: folder / "bundles" / path.name for path in options.bundle}
    for path in options.bundle:
        shutil.copytree(path, bundles[path.name], ignore=shutil.ignore_patterns("engines"))
    check.step("pytest", lambda: tests(check, folder))
    clips = folder / "clips"
    check.step("clips", lambda: str(paint(check, clips)))

    def look(name: str, bundle: Path, frames: int, trained: bool) -> None:
        check.step(f"{name} build", lambda: build(check, bundle))
        check.step(f"{name} bench, first", lambda: bench(check, bundle, options.calls))
        check.step(f"{name} bench, second", lambda: bench(check, bundle, options.calls))
        check.step(f"{name} verify", lambda: verify(check, bundle, clips, frames, trained))

    def both_ways(name: str, bundle: Path, batch: int) -> None:
        modes = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["modes"]
        for precision in PRECISIONS:
            for mode in modes:
                check.step(
                    f"{name} {mode} {precision} x{batch}",
                    lambda mode=mode, precision=precision: timing(check, bundle, mode, precision, batch),  # type: ignore[misc]
                )

    for name, bundle in bundles.items():
        look(name, bundle, 256, True)
        both_ways(name, bundle, 1)
    if options.preset:
        made = check.step(
            f"{options.preset} export", lambda: str(untrained(check, options.preset, folder / options.preset))
        )
        if made:
            bundles[options.preset] = Path(made)
            look(options.preset, Path(made), 48, False)
            both_ways(options.preset, Path(made), 1)
    for batch in BATCHES[1:]:
        for name, bundle in bundles.items():
            both_ways(name, bundle, batch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the JSON; default: standard output at the end")
    parser.add_argument(
        "--bundle", type=Path, action="append", help="may be repeated; default: bundles/people"
    )
    parser.add_argument("--preset", default="paper", help="preset to export untrained; '' for none")
    parser.add_argument("--seconds", type=float, default=480, help="for everything")
    parser.add_argument("--calls", type=int, default=100, help="calls of each engine of bench")
    parser.add_argument(
        "--stand-in", action="store_true", help="ONNX Runtime on the processor in verify and bench"
    )
    parser.add_argument("--time", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time:
        print(json.dumps(time_both_ways(json.loads(options.time))))
        return 0
    options.bundle = options.bundle or [ROOT / "bundles" / "people"]
    check = Check(options.out, options.seconds, options.stand_in)
    with tempfile.TemporaryDirectory() as folder:
        work(check, options, Path(folder))
    if options.out is None:
        print(json.dumps({**check.facts, "stand_in": options.stand_in, "steps": check.steps}, indent=1))
    return int(any(step["status"] == "failed" for step in check.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
