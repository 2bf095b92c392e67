# SPDX-License-Identifier: Apache-2.0
"""`trt-build`: turns a trained run into a bundle and engines, and checks and times them.

The commands import what they need when they run: torch only for `export` and for `verify --run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console

from trt_build.bundle import CLASSES_NAME, INT8_WEIGHTS_NAME, LoadedBundle, load_bundle
from trt_build.command import Json, Threads, command_line, progress_bar
from trt_build.engine import Engine
from trt_build.errors import EngineError, need
from trt_build.files import demand_place
from trt_build.install import extra, pip

app = command_line("Turn a trained run into a bundle and engines, and check and time them.")


@app.command(epilog="Example: trt-build export run --out bundle")
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of `gc-model train`.")],
    out: Annotated[Path, typer.Option(help="Bundle directory to write.")],
    video: Annotated[
        list[Path] | None,
        typer.Option(help="Real clip to compare with PyTorch on, beside noise; may be repeated."),
    ] = None,
    weight_bits: Annotated[
        int,
        typer.Option(
            min=12,
            max=24,
            help="Significant bits of a weight: 24 are all, 19 make an archive of the bundle a tenth smaller.",
        ),
    ] = 24,
    head_bits: Annotated[
        int,
        typer.Option(
            min=0,
            max=24,
            help="Significant bits of what lies behind the trunk, 12 or more; 0: as --weight-bits. Where a training "
            "changed the head alone, the trunk's part of weights.bin stays the same to the byte.",
        ),
    ] = 0,
    clips: Annotated[
        Path | None,
        typer.Option(
            help="Where the clips of the training are now; default: where they were. `gc-ros teach` needs them."
        ),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(help="Source and licence of the training's clips, for the provenance; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a bundle: ONNX graphs, shared weights, description, hashes. The graphs are compared with PyTorch."""
    try:
        from gc_model.export.onnx import export_bundle
    except ImportError as error:
        raise EngineError(f"export needs torch ({error}); {extra('export')}") from None
    from trt_build.engines.sidecar import left_over

    quantised = (out / INT8_WEIGHTS_NAME).is_file()
    bundle = export_bundle(
        run,
        out,
        videos=video or [],
        weight_bits=weight_bits,
        head_bits=head_bits or None,
        data=clips,
        licences=licence or [],
        progress=not as_json,
    )
    if as_json:
        typer.echo(bundle.info.model_dump_json())
        return
    worst = max(bundle.info.parity["max_abs_difference"].values())
    typer.echo(
        f"{out}: {bundle.info.model_id}, modes {', '.join(bundle.info.modes)}, within {worst:.1e} of torch"
    )
    if quantised:
        typer.echo(
            f"its INT8 graphs of before are gone; for new ones: trt-build quantize {quote(str(out))} --clips CLIPS"
        )
    if old := left_over(bundle):
        kinds = " ".join(quote(f"{path.parent}/{path.stem}") + ".*" for path in old)
        typer.echo(
            f"engines of before do not fit it and are refused; remove them: rm {kinds}; "
            f"for new ones: trt-build build {quote(str(out))}"
        )
    if CLASSES_NAME not in bundle.info.sha256:
        typer.echo(
            "it cannot be taught new activities: "
            + (
                f"in {clips}, and what was mixed in, there is no clip of some of its classes; give data that has"
                if clips is not None
                else "the clips of the training are not where they were; export again with --clips DATA"
            ),
            err=True,
        )


@app.command(epilog="Example: trt-build build bundles/people --backend tensorrt_rtx --target sm89")
def build(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle directory; engines are written to its folder engines/.")
    ],
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt_rtx.")] = "tensorrt",
    mode: Annotated[str, typer.Option(help="window, step, or all of the bundle's modes.")] = "all",
    precision: Annotated[str, typer.Option(help="fp16 (mixed) or fp32.")] = "fp16",
    batch: Annotated[int, typer.Option(min=1, help="Cameras that share an engine.")] = 1,
    target: Annotated[
        str | None, typer.Option(help="Compute capability to build for without such a GPU, for example sm89.")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.")] = 0,
    workspace: Annotated[int, typer.Option(min=16, help="Limit of TensorRT's scratch memory in MiB.")] = 2048,
    force: Annotated[bool, typer.Option("--force", help="Build even if an engine fits.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a bundle's graphs into TensorRT engines, each with a sidecar. Progress goes to stderr."""
    need("onnx", pip("onnx"))
    from trt_build.engines.compile import build_engine, wanted_engine

    loaded = load_bundle(bundle)
    results = []
    for each in loaded.info.modes if mode == "all" else [mode]:
        wanted = wanted_engine(
            loaded, each, backend=backend, precision=precision, batch=batch, target=target, device=device
        )
        path, sidecar = build_engine(
            loaded, wanted, workspace_mb=workspace, force=force, say=lambda line: typer.echo(line, err=True)
        )
        results.append({"plan": str(path), **sidecar.model_dump(mode="json")})
        if not as_json:
            typer.echo(
                f"{path}: {sidecar.layers} layers, {sidecar.plan_bytes / 1e6:.0f} MB, "
                f"{', '.join(sidecar.flags)}, built in {sidecar.build_seconds:.1f} s"
            )
    if as_json:
        typer.echo(json.dumps(results))


@app.command(epilog="Example: trt-build info bundles/people")
def info(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    as_json: Json = False,
) -> None:
    """Describe a bundle, after checking its hashes."""
    loaded = load_bundle(bundle)
    description = loaded.info
    if as_json:
        typer.echo(json.dumps({**description.model_dump(mode="json"), "bundle_sha256": loaded.sha256}))
        return
    typer.echo(f"{'sha256':12} {loaded.sha256}")
    values = description.model_dump(mode="json")
    for key in (
        "model_id",
        "preset",
        "labels",
        "T",
        "rate_hz",
        "temporal",
        "modes",
        "reset_after",
        "preprocess",
    ):
        typer.echo(f"{key:12} {values[key]}")
    for key in ("calibration", "parity", "provenance"):
        typer.echo(f"{key:12} {json.dumps(values[key])}")


Clips = Annotated[
    list[Path],
    typer.Option("--clips", help="Videos, folders (class/clip), CSV tables or bags; may be repeated."),
]
Subject = Annotated[list[str] | None, typer.Option(help="Only this subject of a CSV table; may be repeated.")]
Topic = Annotated[str | None, typer.Option(help="Image topic of the bags; default: the only one.")]


@app.command(epilog="Example: trt-build quantize bundle --clips clips.csv --subject p1 --subject p2")
def quantize(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory; the INT8 graphs are added to it.")],
    clips: Clips,
    subject: Subject = None,
    topic: Topic = None,
    samples: Annotated[int, typer.Option(min=1, help="Windows to measure ranges on.")] = 24,
    as_json: Json = False,
) -> None:
    """Add INT8 graphs for CPUs, with ranges measured on clips that the model was trained on.

    Without --subject, a CSV table that names people gives the clips of those the model was trained on.
    """
    loaded = load_bundle(bundle)
    try:
        from gc_ros.recognition.footage import read_footage, training_subjects
        from trt_build.graphs.int8 import quantize_bundle
    except ImportError as error:
        raise EngineError(
            f"quantize needs onnx and onnxruntime ({error}); {pip('onnx', 'onnxruntime')}"
        ) from None
    demand_place(bundle)
    people = subject or training_subjects(clips, loaded.info)
    if people and not subject:
        typer.echo(f"measuring ranges on the people of the training: {', '.join(people)}", err=True)
    pieces = read_footage(clips, loaded.info, subjects=people, topic=topic)
    with progress_bar() as bar:
        task = bar.add_task("measuring each weight alone", total=None)
        made = quantize_bundle(
            loaded,
            pieces,
            samples=samples,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    note = made.info.provenance["int8"]
    if as_json:
        typer.echo(json.dumps(note))
        return
    typer.echo(
        f"{bundle}: INT8 graphs for {', '.join(made.info.modes)}, ranges measured on {note['windows']} windows"
        + (f", {len(note['sensitive'])} sensitive weights left in FP32" if note["sensitive"] else "")
    )
    if note["error"] > 1:
        typer.echo(
            f"errors are {note['error']:.2g} times what was aimed at: labels of uncertain windows may change"
        )
    typer.echo(f"next: trt-build verify {quote(str(bundle))} --clips OTHER_CLIPS")


@app.command(epilog="Example: trt-build verify bundle --clips clips.csv --subject p3 --engine openvino:int8")
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    clips: Clips,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="BACKEND:PRECISION[@cuda]; may be repeated. Default: all that run here."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Trained run: compare with PyTorch instead of ONNX Runtime in FP32.")
    ] = None,
    subject: Subject = None,
    topic: Topic = None,
    frames: Annotated[int, typer.Option(min=1, help="Length of the streams.")] = 1000,
    windows: Annotated[int, typer.Option(min=1, help="Largest number of windows.")] = 64,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="TENSOR=ERROR, state=ERROR or labels=PART; may be repeated.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compare engines on recorded clips, tensor by tensor. Exit code 1 where one is out of tolerance."""
    loaded = load_bundle(bundle)
    from gc_ros.recognition.footage import read_footage
    from trt_build import verify as work
    from trt_build.engines.targets import candidates, split_target

    limits = dict(_tolerance(text) for text in tolerance or [])
    targets = engine or candidates(loaded)
    for target in targets:
        split_target(target)
    pieces = read_footage(clips, loaded.info, subjects=subject or [], topic=topic)
    with Console(stderr=True).status("reading") as status:
        checks = work.verify(
            loaded,
            pieces,
            targets,
            reference=_torch_reference(loaded, run) if run is not None else None,
            frames=frames,
            most_windows=windows,
            limits=limits,
            threads=threads,
            progress=status.update,
        )
    if as_json:
        typer.echo(json.dumps(work.as_json(checks, loaded)))
    else:
        typer.echo("\n".join(work.as_lines(checks)))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command(epilog="Example: trt-build bench bundle --threads 2 --json")
def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="BACKEND:PRECISION[@cuda]; may be repeated. Default: all that run here."),
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls of each engine, at least.")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="Cameras in one call.")] = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, memory and start-up of engines, interleaved in one run."""
    loaded = load_bundle(bundle)
    from trt_build import bench as work
    from trt_build.engines.targets import candidates, split_target

    targets = engine or candidates(loaded)
    for target in targets:
        split_target(target)
    with Console(stderr=True).status("starting") as status:
        timings = work.bench(
            loaded, targets, calls=calls, threads=threads, batch=batch, progress=status.update
        )
    if as_json:
        typer.echo(json.dumps(work.as_json(timings, loaded, threads)))
    else:
        typer.echo("\n".join(work.as_lines(timings)))


def _torch_reference(bundle: LoadedBundle, run: Path) -> Callable[[str], Engine]:
    """Opens the engine of a mode as PyTorch runs it. Raises EngineError without torch or for a run of other labels."""
    try:
        from gc_model.export.torch_engine import TorchEngine
        from gc_model.training import checkpoint
    except ImportError as error:
        raise EngineError(f"--run needs torch ({error}); {extra('train')}") from None
    model, recipe = checkpoint.load(run)
    if list(recipe.labels) != list(bundle.info.labels):
        raise EngineError(
            f"{run} has other labels than {bundle.path}; name the run that the bundle was exported from"
        )
    return lambda mode: TorchEngine(model, bundle.info, mode)


def _tolerance(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise EngineError(f"--tolerance {text!r} is not TENSOR=NUMBER, as in logits=0.05") from None


def main() -> None:
    app()
