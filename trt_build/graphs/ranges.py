# SPDX-License-Identifier: Apache-2.0
"""Ranges of a graph's activations on recorded clips, cut where that costs least: for INT8.

A range from the least to the most that was seen spends its 255 steps on a few outliers. Each range is instead the one
of some candidates with the least mean square error of what it quantises, outliers included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from trt_build.engine import STATE_PREFIX
from trt_build.graphs.qdq import Range, activation_scale

# Candidates: the share of the samples beyond either end.
_TAILS = (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
_SAMPLES = 200_000  # values of one tensor that are kept, at about this number


def quiet_options(threads: int | None = None) -> ort.SessionOptions:
    """Options of a session whose errors arrive as exceptions, and whose warnings do not arrive."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def session(model: onnx.ModelProto | Path, threads: int | None = None) -> ort.InferenceSession:
    """A quiet session on the processor."""
    options = quiet_options(threads)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, ["CPUExecutionProvider"])


def run_clips(
    opened: ort.InferenceSession, clips: NDArray[np.uint8], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """What the graph gives for whole clips uint8 (n, T, S, S, 3), or for their frames, states being carried.

    names: the outputs that are wanted. A graph without states takes whole windows.
    """
    frame, *states = [value.name for value in opened.get_inputs()]
    if not states:
        for clip in clips:
            yield dict(zip(names, opened.run(names, {frame: clip[None]}), strict=True))
        return
    zeros = {v.name: np.zeros([1, *v.shape[1:]], np.float32) for v in opened.get_inputs()[1:]}
    following = [STATE_PREFIX + name for name in states]
    for clip in clips:
        carried = zeros
        for image in clip:
            found = opened.run([*names, *following], {frame: image[None], **carried})
            yield dict(zip(names, found, strict=False))
            carried = dict(zip(states, found[len(names) :], strict=True))


def measure_ranges(
    model: onnx.ModelProto, clips: NDArray[np.uint8], names: Sequence[str]
) -> dict[str, Range]:
    """(least, most) to quantise each of these tensors with; the model's weights must be loaded.

    clips: uint8 (n, T, S, S, 3).
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    states = {value.name for value in probe.graph.input}
    # A state has the range of what the next frame carries.
    shown = {name: STATE_PREFIX + name if name in states else name for name in names}
    there = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in dict.fromkeys(shown.values())
        if name not in there
    )
    runs = len(clips) * (clips.shape[1] if len(states) > 1 else 1)
    samples: dict[str, list[NDArray[Any]]] = defaultdict(list)
    ends: dict[str, Range] = defaultdict(lambda: (0.0, 0.0))
    for found in run_clips(session(probe), clips, list(dict.fromkeys(shown.values()))):
        for name, values in found.items():
            flat = values.ravel()
            # An odd step does not meet the same column of every row.
            samples[name].append(flat[:: max(1, flat.size * runs // _SAMPLES) | 1].copy())
            ends[name] = (min(ends[name][0], float(flat.min())), max(ends[name][1], float(flat.max())))
    best = {name: best_range(np.concatenate(samples[name]), ends[name]) for name in samples}
    return {name: best[source] for name, source in shown.items()}


def best_range(samples: NDArray[Any], ends: Range) -> Range:
    """The candidate with the least mean square error of the samples; ends: the least and the most that was seen."""
    low = np.quantile(samples, _TAILS).tolist()
    high = np.quantile(samples, [1 - tail for tail in _TAILS]).tolist()
    candidates = [ends, *((min(a, 0.0), max(b, 0.0)) for a, b in zip(low, high, strict=True))]
    return min(candidates, key=lambda found: _error(samples, found))


def _error(samples: NDArray[Any], found: Range) -> float:
    scale, zero = activation_scale(found)
    steps = np.clip(np.rint(samples / scale) + zero, 0, 255)
    return float(np.mean(((steps - zero) * scale - samples) ** 2))
