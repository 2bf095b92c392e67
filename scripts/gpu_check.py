# SPDX-License-Identifier: Apache-2.0
"""The steps of gpu_check.sh, in the order of what one wants to know first; each in a process of its own.

A step that cannot run is skipped with its reason, one that takes too long is stopped, and the JSON is written after
each, so that a machine that goes away leaves what was found so far. Steps:

    pytest                    the tests marked `gpu`
    NAME build                both modes, FP32 and FP16, one camera: the sidecars
    NAME bench, first         `trt-build bench`: fresh processes, whose start compiles kernels
    NAME bench, second        the same again, with the kernels that the first kept
    NAME verify               against ONNX Runtime in FP32 on painted clips
    engines                   all others built and opened side by side, as many as there are processors
    NAME MODE PRECISION xN    recorded as a CUDA graph and launched one by one, N cameras: times in turn, in ms

for the bundles given (default: bundles/people). `paper`, exported untrained where PyTorch is there, has one bench and
the last three: times and errors of precision do not need trained weights, labels do.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner import PRECISIONS, ROOT, Check, Skipped, facts

BATCHES = (1, 4, 16)
_TIMING = [sys.executable, str(Path(__file__).with_name("gpu_timing.py"))]
_TRT_BUILD = [sys.executable, "-c", "from trt_build.cli import main; main()"]
_GC_MODEL = [sys.executable, "-c", "from gc_model.cli import main; main()"]


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


def build(check: Check, bundle: Path) -> list[dict[str, Any]]:
    """`trt-build build` of both modes in both precisions; without a GPU for sm89, which TensorRT-RTX can."""
    if not check.facts["versions"][check.backend]:
        raise Skipped("neither tensorrt_rtx nor tensorrt can be imported")
    target = [] if check.facts["gpu"] else ["--target", "sm89"]
    if target and check.backend == "tensorrt":
        check.need_gpu()
    found = []
    for precision in PRECISIONS:
        options = ["--backend", check.backend, "--precision", precision, "--json"]
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
    bad = []
    for c in judged:
        if not c["ok"]:
            value = float("nan") if c["value"] is None else c["value"]  # JSON has no word for it
            bad.append(f"{c['engine']} {c['part']} {c['what']} {value:.2g}")
    if bad:
        raise RuntimeError(f"out of tolerance: {'; '.join(bad[:6])}")
    return {
        "judged": len(judged),
        "checks": [c for c in found["checks"] if not c["what"].startswith("state ")],
    }


@dataclass(frozen=True)
class Case:
    """An engine to time, in a copy of its bundle, so that no two builders wait for one lock."""

    name: str
    source: Path
    mode: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.name} {self.mode} {self.precision} x{self.batch}"

    def order(self, check: Check, folder: Path) -> str:
        """What a process is told; makes the copy, of links, where it is not there yet."""
        copy = folder / "cases" / str(self).replace(" ", "-")
        if not copy.exists():
            leave = shutil.ignore_patterns("engines")
            shutil.copytree(self.source, copy, copy_function=os.link, ignore=leave)
        options = {"mode": self.mode, "precision": self.precision, "batch": self.batch}
        return json.dumps({"bundle": str(copy), "backend": check.backend, **options})


def cases_of(name: str, bundle: Path) -> list[Case]:
    """The smaller batches first."""
    modes = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["modes"]
    return [
        Case(name, bundle, mode, precision, batch)
        for batch in BATCHES
        for precision in PRECISIONS
        for mode in modes
    ]


def open_all(check: Check, cases: list[Case], folder: Path) -> dict[str, Any]:
    """Build and open engines side by side, in groups of as many as there are processors; seconds of each."""
    check.need_gpu()
    found: dict[str, Any] = {}
    failed: list[str] = []
    size = max(os.cpu_count() or 1, 1)
    for start in range(0, len(cases), size):
        group = cases[start : start + size]
        running = [check.spawn([*_TIMING, "open", case.order(check, folder)]) for case in group]
        for case, process in zip(group, running, strict=True):
            try:
                found[str(case)] = json.loads(check.finish(process, 150).splitlines()[-1])
            except RuntimeError as error:
                failed.append(f"{case}: {error}")
            else:
                if case.batch == 1:  # for bench and verify
                    _share(Path(json.loads(case.order(check, folder))["bundle"]), case.source)
    if failed:
        raise RuntimeError("; ".join(failed))
    return found


def _share(copy: Path, bundle: Path) -> None:
    """Link the engines of a copy into its bundle; each has all that its check needs beside it."""
    (bundle / "engines").mkdir(exist_ok=True)
    for file in (copy / "engines").glob("*.*"):
        if not (bundle / "engines" / file.name).exists():
            os.link(file, bundle / "engines" / file.name)


def timing(check: Check, case: Case, folder: Path) -> dict[str, Any]:
    check.need_gpu()
    text = check.run([*_TIMING, "time", case.order(check, folder)], 90)
    return json.loads(text.splitlines()[-1])


def paint(check: Check, folder: Path) -> Path:
    """A few painted clips of people, whose activities `bundles/people` knows."""
    size = ["--classes", "clap,drink,jump,wave", "--subjects", "2", "--clips-per-class", "4"]
    check.run([*_GC_MODEL, "synth", str(folder), *size, "--size", "320x240", "--fps", "8", "--seed", "7"], 60)
    return folder


def untrained(preset: str, folder: Path) -> list[str]:
    """The command that makes folder/bundle of a preset, with the weights that training starts with."""
    program = "from pathlib import Path; from benchmarks.engines import untrained_bundle; "
    return [sys.executable, "-c", f"{program}untrained_bundle({preset!r}, Path({str(folder)!r}))"]


def names_of(bundles: list[Path], preset: str) -> list[str]:
    """A name for each bundle, its folder's; a number tells equal ones, and one of the preset's name, apart."""
    names: list[str] = []
    for path in bundles:
        own = name = path.resolve().name
        number = 2
        while name in (*names, preset):
            name, number = f"{own}-{number}", number + 1
        names.append(name)
    return names


def demand_place(out: Path) -> None:
    """Make the folder of the JSON, and write in it. Raises OSError now, not behind minutes of a lent GPU's time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
    from trt_build import files

    files.demand_place(out)


def work(check: Check, options: argparse.Namespace, folder: Path) -> None:
    """All steps."""
    # Copies without engines: the first start must compile its kernels, and a checkout stays as it is.
    bundles = {name: folder / "bundles" / name for name in names_of(options.bundle, options.preset)}
    for path, copy in zip(options.bundle, bundles.values(), strict=True):
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("engines"))
    exporting = None
    if options.preset and check.facts["versions"]["torch"]:  # beside the tests, which time nothing
        exporting = check.spawn(untrained(options.preset, folder / options.preset))
    check.step("pytest", lambda: tests(check, folder))
    clips = folder / "clips"
    check.step("clips", lambda: str(paint(check, clips)))
    # A robot reads one window in eight frames of `people`: of fewer, one near tie would fail the step.
    frames = 256 if check.stand_in else 1000
    for name, bundle in bundles.items():
        check.step(f"{name} build", lambda bundle=bundle: build(check, bundle))  # type: ignore[misc]
        for turn in ("first", "second"):
            check.step(f"{name} bench, {turn}", lambda bundle=bundle: bench(check, bundle, options.calls))  # type: ignore[misc]
        check.step(f"{name} verify", lambda bundle=bundle: verify(check, bundle, clips, frames, True))  # type: ignore[misc]
    cases = [case for name, bundle in bundles.items() for case in cases_of(name, bundle)]

    def exported() -> str:
        if exporting is None:
            raise Skipped("PyTorch is not installed: give an exported bundle with --bundle")
        check.finish(exporting, 150)
        return str(folder / options.preset / "bundle")

    made = check.step(f"{options.preset} export", exported) if options.preset else None
    if made:
        cases += cases_of(options.preset, Path(made))
    cases.sort(key=lambda case: case.batch)
    check.step("engines", lambda: open_all(check, cases, folder))
    for case in cases:
        check.step(str(case), lambda case=case: timing(check, case, folder))  # type: ignore[misc]
    if made:
        check.step(f"{options.preset} bench", lambda: bench(check, Path(made), options.calls))
        check.step(f"{options.preset} verify", lambda: verify(check, Path(made), clips, 48, False))


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
    options = parser.parse_args()
    options.bundle = options.bundle or [ROOT / "bundles" / "people"]
    if options.out is not None:
        try:
            demand_place(options.out)
        except OSError as error:
            parser.error(f"--out {options.out}: cannot be written ({error.strerror or error})")
    check = Check(facts(), options.out, options.seconds, options.stand_in)
    with tempfile.TemporaryDirectory() as folder:
        try:
            work(check, options, Path(folder))
        finally:
            check.close()
    if check.unwritten:
        print(f"{check.unwritten}; the answer follows", file=sys.stderr)
    if options.out is None or check.unwritten:
        print(json.dumps({**check.facts, "stand_in": options.stand_in, "steps": check.steps}, indent=1))
    return int(any(step["status"] == "failed" for step in check.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
