# SPDX-License-Identifier: Apache-2.0
"""`trt-build verify`: compares engines of a bundle with a reference, tensor by tensor, on recorded clips.

    window   every output over windows of the clips, and the labels;
    step     every output and the labels over a stream that is reset every `reset_after` frames, as the bundle says;
    drift    outputs and states over a stream that is never reset, in blocks of 100 frames: an error that grows with
             the length of the stream shows here;
    layers   (TensorRT in FP16) the engine's own report confirms that every layer meant to be FP16 is.

The error of a tensor is the root mean square of the difference, in units of the reference's standard deviation. The
assignment's is the mean difference, in units of the mean deviation (`tolerances.choice_errors` says why). All frames
count in its mean over a stream; a block leaves out its worst fifth, and so does the state that holds past assignments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine, expected_io
from trt_build.engines.layers import not_half
from trt_build.engines.open import open_engine
from trt_build.engines.targets import split_target
from trt_build.errors import GlimpseError
from trt_build.footage import Footage, stream, windows
from trt_build.readout import read_out
from trt_build.tolerances import AGREEMENT, TOLERANCES, choice_errors, error_of, relative_error, spread

BLOCK = 100  # frames of one block of the drift
WORST = 5  # one in so many frames of a block may assign otherwise
PAST_CHOICES = "state weight"  # the assignments of the last frames

Tensors = dict[str, NDArray[Any]]
Opener = Callable[[str], Engine]  # mode -> its engine


@dataclass(frozen=True)
class Check:
    """One comparison. value: the error of a tensor, or the part of equal labels or confirmed layers."""

    engine: str
    part: str  # window, step or drift; of the layers window or step
    what: str  # a tensor's name, "labels" or "layers"
    value: float
    limit: float
    largest: float  # absolute difference
    ok: bool
    blocks: list[float]  # errors of every `BLOCK` frames of the drift
    windows: int = 0  # whose labels were compared


def verify(
    bundle: LoadedBundle,
    pieces: Sequence[Footage],
    targets: Sequence[str],
    *,
    reference: Opener | None = None,
    frames: int = 1000,
    most_windows: int = 64,
    limits: Mapping[str, float] | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Check]:
    """Compare engines with the reference on recorded clips; the module says what is compared.

    targets: backend:precision[@device]. reference: opens the engine of a mode that the others are compared with; by
    default ONNX Runtime in FP32. frames: length of the streams. limits: by tensor, instead of `TOLERANCES`; "labels"
    for the agreement. progress: called with what is running. Raises GlimpseError where an engine cannot be opened or
    run, for limits that are none, and for streams shorter than a window.
    """
    for name, limit in (limits or {}).items():
        if name not in (*TOLERANCES["fp32"], "labels") or not limit >= 0:
            raise GlimpseError(
                f"no tolerance {name}={limit:g}; name one of {', '.join(TOLERANCES['fp32'])} or labels, and a number "
                "that is not negative"
            )
        if name == "labels" and limit > 1:
            raise GlimpseError(f"labels={limit:g} is no part of all windows: give 0 to 1, as labels=0.99")
    if frames < bundle.info.T:
        raise GlimpseError(f"streams of {frames} frames hold no window: give at least {bundle.info.T}")
    clips = windows(pieces, bundle.info.T, most_windows)
    reference = reference or _opener(bundle, "onnxruntime:fp32", threads)
    expected = _all_parts(
        bundle, reference, clips, pieces, frames, lambda part: progress(f"reference, {part}")
    )
    checks: list[Check] = []
    for target in targets:
        _, precision, _ = split_target(target)
        found = _all_parts(
            bundle,
            _opener(bundle, target, threads),
            clips,
            pieces,
            frames,
            lambda part, target=target: progress(f"{target}, {part}"),  # type: ignore[misc]
        )
        for mode in bundle.info.modes if precision == "fp16" else ():
            checks += _layers(bundle, target, mode, threads)
        for part, ours in found.items():
            T, reset_after = bundle.info.T, bundle.info.reset_after
            checks += _compare(target, part, precision, ours, expected[part], T, reset_after, limits or {})
    return checks


def _opener(bundle: LoadedBundle, target: str, threads: int | None) -> Opener:
    backend, precision, device = split_target(target)
    return lambda mode: open_engine(
        bundle, mode, backend=backend, precision=precision, threads=threads, device=device
    )


def _layers(bundle: LoadedBundle, target: str, mode: str, threads: int | None) -> list[Check]:
    """Whether the engine's own layer report confirms FP16; empty where a backend has no report."""
    engine = _opener(bundle, target, threads)(mode)
    try:
        report = getattr(engine, "layers", None)
        if report is None:
            return []
        from trt_build.graphs.precision import half_nodes, mixed_precision

        wanted = half_nodes(mixed_precision(bundle, mode))
        wrong = not_half(report(), wanted)
        part = 1 - len(wrong) / max(len(wanted), 1)
        what = "layers" if not wrong else f"layers: {wrong[0]}"
        return [Check(target, mode, what, part, 1.0, float(len(wrong)), not wrong, [])]
    finally:
        engine.close()


def _all_parts(
    bundle: LoadedBundle,
    opened: Opener,
    clips: NDArray[np.uint8],
    pieces: Sequence[Footage],
    frames: int,
    progress: Callable[[str], None],
) -> dict[str, Tensors]:
    results: dict[str, Tensors] = {}
    for mode in bundle.info.modes:
        engine = opened(mode)
        name = next(iter(expected_io(bundle.info, mode)[0]))
        try:
            if mode == "window":
                progress("window")
                results["window"] = _stacked(engine.run({name: clip[None]}) for clip in clips)
                continue
            if bundle.info.reset_after:
                progress("step")
                every = bundle.info.reset_after
                results["step"] = _run_stream(engine, name, stream(pieces, frames), every, states=False)
                engine.reset()
            progress("drift")
            results["drift"] = _run_stream(engine, name, stream(pieces, frames), 0, states=True)
        finally:
            engine.close()
    return results


def _run_stream(
    engine: Engine, name: str, images: Iterable[NDArray[np.uint8]], reset_after: int, *, states: bool
) -> Tensors:
    read = getattr(engine, "read_states", None) if states else None
    kept: list[Tensors] = []

    def outputs() -> Iterable[Tensors]:
        count = 0
        for count, image in enumerate(images, 1):
            if reset_after and count > 1 and (count - 1) % reset_after == 0:
                engine.reset()
            yield engine.run({name: image[None]})
            if read is not None and count % BLOCK == 0:
                kept.append(read())
        if read is not None and count % BLOCK:
            kept.append(read())  # what the last frame left

    tensors = _stacked(outputs())
    return tensors | {f"state {k}": np.concatenate([s[k] for s in kept]) for k in (kept[0] if kept else ())}


def _stacked(runs: Iterable[Mapping[str, NDArray[Any]]]) -> Tensors:
    copies = [{name: value.copy() for name, value in out.items()} for out in runs]
    return {name: np.concatenate([c[name] for c in copies]) for name in copies[0]}


def _compare(
    target: str,
    part: str,
    precision: str,
    ours: Tensors,
    theirs: Tensors,
    T: int,
    reset_after: int,
    limits: Mapping[str, float],
) -> list[Check]:
    checks = []
    for name, expected in theirs.items():
        if name not in ours:
            continue  # this engine does not show its states
        kind = "state" if name.startswith("state ") else name
        limit = limits.get(kind, TOLERANCES[precision][kind])
        value, blocks = error_of(name, ours[name], expected), []
        if name == PAST_CHOICES:
            value = _without_worst(choice_errors(ours[name], expected))
        elif part == "drift":
            blocks = _blocks(name, ours[name], expected)
        largest = float(np.abs(ours[name].astype(np.float64) - expected).max())
        worst = max([value, *blocks]) if np.isfinite([value, *blocks]).all() else float("nan")
        checks.append(Check(target, part, name, worst, limit, largest, bool(worst <= limit), blocks))
    every = reset_after if part == "step" else 0
    equal = _labels(ours["logits"], part, T, every) == _labels(theirs["logits"], part, T, every)
    agreement = float(equal.mean())
    least = limits.get("labels", AGREEMENT[precision])
    # A robot never runs a stream longer than the bundle says: where it is reset, drifted labels do not count.
    if part != "drift" or not reset_after:
        ok = agreement >= least
        checks.append(Check(target, part, "labels", agreement, least, 0.0, ok, [], len(equal)))
    return checks


def _blocks(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> list[float]:
    """Errors of every `BLOCK` frames of an output, or of each of a state's samples, in units of the whole stream."""
    size = 1 if name.startswith("state ") else BLOCK
    starts = range(0, len(theirs), size)
    if name == "assignment":
        errors = choice_errors(ours, theirs)
        return [_without_worst(errors[i : i + size]) for i in starts]
    deviation = spread(theirs)
    return [relative_error(ours[i : i + size], theirs[i : i + size], deviation) for i in starts]


def _without_worst(errors: NDArray[np.float64]) -> float:
    """Mean of the errors but the worst fifth: a near tie that went the other way is over after some frames."""
    if not np.isfinite(errors).all():
        return float("nan")
    return float(np.sort(errors)[: len(errors) - len(errors) // WORST].mean())


def _labels(logits: NDArray[Any], part: str, T: int, reset_after: int) -> NDArray[np.intp]:
    """Winning classes: of each window, or of a stream's last T frames read out as in the recogniser.

    The recogniser reads no window across a reset, whose label may then hang on another near tie.
    """
    if part == "window":
        return logits.argmax(-1)
    recent: deque[NDArray[Any]] = deque(maxlen=T)
    winners = []
    for count, row in enumerate(logits):
        if reset_after and count % reset_after == 0:
            recent.clear()
        recent.append(row)
        if len(recent) == T:
            winners.append(int(read_out(recent).argmax()))
    return np.array(winners, np.intp)


def as_json(checks: Sequence[Check], bundle: LoadedBundle) -> dict[str, Any]:
    """Everything, as plain values; what is no finite number is None, for which JSON has a word."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "model_id": bundle.info.model_id,
        "ok": all(check.ok for check in checks),
        "checks": [{name: plain(value) for name, value in asdict(check).items()} for check in checks],
    }


def as_lines(checks: Sequence[Check]) -> list[str]:
    """A table; of the states it shows each engine's worst and all that fail."""
    worst: dict[str, Check] = {}
    for check in checks:
        if check.what.startswith("state ") and check.value >= worst.get(check.engine, check).value:
            worst[check.engine] = check
    lines = [f"{'engine':22} {'part':7} {'tensor':18} {'value':>9} {'limit':>9}  verdict"]
    for check in checks:
        if check.what.startswith("state ") and check.ok and worst[check.engine] is not check:
            continue
        more = ""
        if check.blocks and not check.what.startswith("state "):
            more = f"  first {BLOCK}: {check.blocks[0]:.1e}, last: {check.blocks[-1]:.1e}"
        if check.windows:
            other = round((1 - check.value) * check.windows)
            more = f"  other: {other} of {check.windows}"
        verdict = "ok" if check.ok else "FAILED"
        form = "9.2%" if check.what.startswith(("labels", "layers")) else "9.1e"
        value, limit = format(check.value, form), format(check.limit, form)
        lines.append(f"{check.engine:22} {check.part:7} {check.what:18} {value} {limit}  {verdict}{more}")
    return lines
