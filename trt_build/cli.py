# SPDX-License-Identifier: Apache-2.0
"""`trt-build`: a trained run becomes a bundle; a bundle is described and checked. Torch only for export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trt_build.bundle import load_bundle
from trt_build.command import Json, command_line
from trt_build.engine import need
from trt_build.errors import EngineError

app = command_line(__doc__)


@app.command(epilog="Example: trt-build export run --out bundle")
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of `gc-model train`.")],
    out: Annotated[Path, typer.Option(help="Bundle directory to write.")],
    video: Annotated[
        list[Path] | None, typer.Option(help="Real clips to check parity on, beside noise.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a bundle: ONNX graphs, shared weights, description, hashes; checked against torch."""
    try:
        from trt_build.export import export_bundle
    except ImportError as error:
        raise EngineError(
            f"export needs torch ({error}); pip install 'glimpse-clouds-python[export]'"
        ) from None
    bundle = export_bundle(run, out, videos=video or [])
    if as_json:
        typer.echo(bundle.info.model_dump_json())
        return
    worst = max(bundle.info.parity["max_abs_difference"].values())
    typer.echo(
        f"{out}: {bundle.info.model_id}, modes {', '.join(bundle.info.modes)}, within {worst:.1e} of torch"
    )


@app.command(epilog="Example: trt-build build bundles/people --backend tensorrt_rtx --target sm89")
def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory; the engine goes into its engines/.")],
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt_rtx.")] = "tensorrt",
    mode: Annotated[str, typer.Option(help="window, step, or all of the bundle's modes.")] = "all",
    precision: Annotated[str, typer.Option(help="fp16 (mixed) or fp32.")] = "fp16",
    batch: Annotated[int, typer.Option(min=1, help="Cameras that share the engine.")] = 1,
    target: Annotated[
        str | None, typer.Option(help="Compute capability to build for without its GPU, as sm89.")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.")] = 0,
    workspace: Annotated[int, typer.Option(min=16, help="Limit of scratch memory in MiB.")] = 2048,
    force: Annotated[bool, typer.Option("--force", help="Build anew even if an engine fits.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a bundle's graphs into TensorRT engines, each with a sidecar. Progress goes to stderr."""
    need("onnx", "pip install onnx")
    from trt_build.build import build_engine, wanted_engine

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
    """What a bundle is; its hashes are checked first."""
    description = load_bundle(bundle).info
    if as_json:
        typer.echo(description.model_dump_json())
        return
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


def main() -> None:
    app()
