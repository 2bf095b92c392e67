# SPDX-License-Identifier: Apache-2.0
"""The protocol of everything that runs a bundle's graph, and the checks that all backends share.

States need no knowledge of the model: the graph's output `next_X` is its input `X` of the next run. States start as
zeros. Axis 0 of every tensor is the batch; one row of the batch is called a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_build.bundle import Bundle, LoadedBundle
from trt_build.errors import BundleError, EngineError

STATE_PREFIX = "next_"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of a graph's input or output; None in `shape` is the batch axis N."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with N = batch."""
        return tuple(batch if size is None else size for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('N' if s is None else str(s) for s in self.shape)})"


class Engine(Protocol):
    """Runs one graph for `batch` slots. Not thread-safe: one thread at a time.

    inputs, outputs: by name, without the states. states: by input name; empty for a window graph.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    states: dict[str, TensorSpec]
    batch: int
    backend: str
    description: str

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        inputs: every input by name, (batch, ...).
        active: for each slot, whether its state advances; the others keep theirs and their output rows are undefined.

        Returns arrays by output name, valid until the next run. Raises EngineError; all states are then undefined until
        they are reset.
        """
        ...

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        ...

    def close(self) -> None:
        """Release the engine. May be called twice."""
        ...


def expected_io(info: Bundle, mode: str) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """(inputs, outputs) by name, without states, that the graph of `mode` must have in this bundle."""
    S, K, G, C = info.preprocess.size, len(info.labels), info.glimpses, info.workers
    time: tuple[int, ...] = (info.T,) if mode == "window" else ()
    frame = "frames" if mode == "window" else "frame"
    f32, u8 = np.dtype(np.float32), np.dtype(np.uint8)
    outputs = [
        TensorSpec("logits", (None, K), f32),
        *([TensorSpec("embedding", (None, *time, info.embedding), f32)] if info.embedding else []),
        TensorSpec("glimpses", (None, *time, G, 4), f32),
        TensorSpec("assignment", (None, *time, C, G), f32),
    ]
    return {frame: TensorSpec(frame, (None, *time, S, S, 3), u8)}, {spec.name: spec for spec in outputs}


def zeros(specs: Mapping[str, TensorSpec], batch: int) -> dict[str, NDArray[Any]]:
    """A new array of zeros for every tensor, by name."""
    return {name: np.zeros(spec.sized(batch), spec.dtype) for name, spec in specs.items()}


def split_states(
    graph_inputs: Mapping[str, TensorSpec], graph_outputs: Mapping[str, TensorSpec]
) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Apply the next_X rule to a graph's signature: (inputs, outputs, states by input name).

    Raises BundleError where `next_X` has no input `X` of the same shape and type.
    """
    states: dict[str, TensorSpec] = {}
    for name, out in graph_outputs.items():
        if not name.startswith(STATE_PREFIX):
            continue
        state = graph_inputs.get(name[len(STATE_PREFIX) :])
        if state is None:
            raise BundleError(
                f"graph output {name} has no input {name[len(STATE_PREFIX) :]}; export the bundle again"
            )
        unsized = any(size is None for size in state.shape[1:])
        if not state.shape or unsized or state.shape[1:] != out.shape[1:] or state.dtype != out.dtype:
            raise BundleError(f"state {state} does not match {out}; export the bundle again")
        states[state.name] = TensorSpec(state.name, (None, *state.shape[1:]), state.dtype)
    inputs = {name: spec for name, spec in graph_inputs.items() if name not in states}
    outputs = {name: spec for name, spec in graph_outputs.items() if not name.startswith(STATE_PREFIX)}
    return inputs, outputs, states


def check_signature(
    bundle: LoadedBundle, mode: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    """Raise BundleError unless a graph, without its states, has the tensors that bundle.json promises.

    An axis that the graph leaves open fits any promise.
    """
    want_in, want_out = expected_io(bundle.info, mode)
    for kind, want, have in (("input", want_in, inputs), ("output", want_out, outputs)):
        for name, spec in want.items():
            found = have.get(name)
            if found is None:
                raise BundleError(
                    f"{bundle.path}: the {mode} graph has no {kind} {name!r}; export the bundle again"
                )
            fits = len(found.shape) == len(spec.shape) and all(
                f is None or w is None or f == w for f, w in zip(found.shape, spec.shape, strict=True)
            )
            if not fits or found.dtype != spec.dtype:
                hint = f" ({len(bundle.info.labels)} labels)" if name == "logits" else ""
                raise BundleError(
                    f"{bundle.path}: the {mode} graph has {kind} {found}, bundle.json{hint} says {spec}; "
                    "export the bundle again"
                )
    extra = sorted(inputs.keys() - want_in.keys())
    if extra:
        raise BundleError(
            f"{bundle.path}: the {mode} graph asks for unknown inputs {extra}; export the bundle again"
        )


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, NDArray[Any]], batch: int) -> None:
    """Raise EngineError unless exactly the inputs in `specs` are given, in shape and type; the error names both."""
    if inputs.keys() != specs.keys():
        raise EngineError(f"the graph takes inputs {sorted(specs)}, got {sorted(inputs)}")
    for name, spec in specs.items():
        array, shape = inputs[name], spec.sized(batch)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != spec.dtype:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise EngineError(f"input {name} must be {spec.dtype} {shape}, got {found}")


def idle_slots(active: Sequence[bool] | None, batch: int) -> list[int]:
    """Slots whose state does not advance in a run. Raises EngineError unless `active` has one entry for each slot."""
    if active is None:
        return []
    if len(active) != batch:
        raise EngineError(f"active has {len(active)} entries, the engine has {batch} slots")
    return [slot for slot in range(batch) if not active[slot]]


def chosen_slots(slots: Sequence[int] | None, batch: int) -> list[int]:
    """Slots of a reset; None means all. Raises EngineError for a slot that the engine does not have."""
    chosen = list(range(batch)) if slots is None else list(slots)
    wrong = [slot for slot in chosen if not 0 <= slot < batch]
    if wrong:
        raise EngineError(f"no slot {wrong[0]}: the engine has slots 0 to {batch - 1}")
    return chosen
