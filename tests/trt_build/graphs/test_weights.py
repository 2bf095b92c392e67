# SPDX-License-Identifier: Apache-2.0
"""Weights that are rounded for the archive: as near as the bits allow, and a part of the bytes says nothing."""

from __future__ import annotations

import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from trt_build.graphs.weights import round_weights


def _graph(**tensors: np.ndarray) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return helper.make_model(helper.make_graph([], "weights", [], [], initializers))


def _weights(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(1, 24), st.floats(-30, 30))
def test_a_weight_moves_by_half_of_the_last_bit_at_most(seed: int, bits: int, scale: float) -> None:
    before = (np.random.default_rng(seed).normal(size=(32, 16)) * 2.0**scale).astype(np.float32)
    graph = _graph(w=before)
    round_weights(graph, bits)
    after = _weights(graph)["w"]
    assert after.dtype == np.float32 and after.shape == before.shape
    mantissa, _ = np.frexp(after.astype(np.float64))
    assert (mantissa * 2.0**bits == np.round(mantissa * 2.0**bits)).all()
    assert (np.abs(after - before.astype(np.float64)) <= 2.0 ** (np.frexp(before)[1] - bits - 1.0)).all()
    again = _graph(w=after)
    round_weights(again, bits)
    assert (_weights(again)["w"] == after).all()


def test_what_is_no_weight_stays_as_it_is() -> None:
    tensors = {
        "small": np.full(4, 1 / 3, np.float32),
        "indices": np.arange(1000, dtype=np.int64),
        "endless": np.full(1000, np.inf, np.float32),
        "largest": np.full(1000, np.finfo(np.float32).max, np.float32),
    }
    graph = _graph(**tensors)
    round_weights(graph, 16)
    for name, value in _weights(graph).items():
        assert (value == tensors[name]).all(), name


def test_fewer_bits_make_a_smaller_archive() -> None:
    graph = _graph(w=np.random.default_rng(0).normal(size=100_000).astype(np.float32))
    whole = len(zlib.compress(_weights(graph)["w"].tobytes()))
    round_weights(graph, 19)
    assert len(zlib.compress(_weights(graph)["w"].tobytes())) < 0.92 * whole


@pytest.mark.parametrize("bits", [0, 25, -1])
def test_bits_that_a_float_does_not_have_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 24"):
        round_weights(_graph(), bits)
