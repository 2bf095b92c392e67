# SPDX-License-Identifier: Apache-2.0
"""OpenVINO backend: the fastest on x86 processors; FP32, BF16 or INT8.

There is one request for each direction of the states (`host_states`), and the two take turns. All tensors share memory
with NumPy arrays, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from trt_build.bundle import INT8, LoadedBundle
from trt_build.engine import (
    STATE_PREFIX,
    TensorSpec,
    check_inputs,
    check_signature,
    expected_io,
    idle_slots,
    split_states,
    zeros,
)
from trt_build.engines.host_states import DIRECTIONS, HostStates
from trt_build.engines.int8_graph import SIGNED, int8_graph
from trt_build.errors import BundleError, EngineError

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # what is not quantised stays FP32


class OvEngine:
    """`trt_build.engine.Engine` on OpenVINO's CPU device; made by `open_engine`."""

    backend = "openvino"

    def __init__(
        self,
        bundle: LoadedBundle,
        mode: str,
        *,
        batch: int = 1,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "auto",
    ) -> None:
        if device != "cpu":
            raise EngineError(f"backend openvino runs on device cpu, not {device!r}; use device cpu")
        self.batch = batch
        self.precision = "fp32" if precision == "auto" else precision
        if self.precision not in _HINTS:
            raise EngineError(f"openvino has no precision {precision!r} here; use {', '.join(_HINTS)}")
        compiled = self._compile(bundle, mode, threads)
        self.description = (
            f"openvino {ov.__version__.split('-')[0]} CPU, {mode}, {self.precision}, batch {batch}"
        )
        if self._signed:
            self.description += SIGNED
        self._host = zeros(self.outputs, batch)
        self._carried = HostStates(self.states, batch)
        self._requests = [self._request(compiled, read, write) for read, write in DIRECTIONS]
        self._bound: list[dict[str, NDArray[Any]]] = [{}, {}]

    def _compile(self, bundle: LoadedBundle, mode: str, threads: int | None) -> Any:
        graph = bundle.graph(mode, INT8 if self.precision == INT8 else "fp32")
        source = int8_graph(graph) if self.precision == INT8 else graph
        self._signed = isinstance(source, bytes)
        core = ov.Core()
        if self.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor has no BF16 arithmetic; use precision fp32 or int8")
        try:
            model = core.read_model(source)
        except Exception as error:
            raise BundleError(
                f"{graph}: openvino cannot load it ({error}); export the bundle again"
            ) from None
        inputs, found, self.states = split_states(_specs(model.inputs), _specs(model.outputs))
        check_signature(bundle, mode, inputs, found)
        # Axes the exporter left open are fixed by bundle.json, so that every buffer can be made now.
        want_in, self.outputs = expected_io(bundle.info, mode)
        self.inputs = dict(want_in)
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            model.reshape({name: s.sized(self.batch) for name, s in (self.inputs | self.states).items()})
            return core.compile_model(model, "CPU", config)
        except Exception as error:
            raise EngineError(
                f"{graph}: openvino cannot compile it ({error}); use another backend or precision"
            ) from None

    def _request(self, compiled: Any, read: int, write: int) -> Any:
        request, sets = compiled.create_infer_request(), self._carried.sets
        for name in self.states:
            request.set_tensor(name, ov.Tensor(sets[read][name], shared_memory=True))
            request.set_tensor(STATE_PREFIX + name, ov.Tensor(sets[write][name], shared_memory=True))
        for name, array in self._host.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        return request

    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `Engine.run`. Passing the same contiguous arrays again costs no rebinding."""
        if not self._requests:
            raise EngineError("the engine is closed; open a new one")
        check_inputs(self.inputs, inputs, self.batch)
        idle = idle_slots(active, self.batch)
        direction = self._carried.current
        request, bound = self._requests[direction], self._bound[direction]
        for name, array in inputs.items():
            if bound.get(name) is not array:
                # OpenVINO shares only memory that can be written to.
                if not (array.flags.c_contiguous and array.flags.writeable):
                    array = array.copy()
                request.set_tensor(name, ov.Tensor(array, shared_memory=True))
                bound[name] = array  # keeps the memory alive for as long as it is bound
        try:
            request.infer()
        except Exception as error:
            raise EngineError(f"openvino failed: {error}") from error
        self._carried.advance(idle)
        return dict(self._host)

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Set the states of these slots (default: all) to zero."""
        self._carried.reset(slots)

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states, for verification."""
        return self._carried.read()

    def close(self) -> None:
        """Release the compiled graph and its memory."""
        self._requests, self._bound = [], []


def _specs(ports: Any) -> dict[str, TensorSpec]:
    specs = {}
    for port in ports:
        shape = port.get_partial_shape()
        sizes = tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)
        name = port.get_any_name()
        specs[name] = TensorSpec(name, sizes, np.dtype(port.get_element_type().to_dtype()))
    return specs
