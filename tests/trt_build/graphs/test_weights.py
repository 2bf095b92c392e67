# SPDX-License-Identifier: Apache-2.0
"""Weights that are rounded for the archive: as near as the bits allow, and a part of the bytes says nothing."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from trt_build.graphs.weights import ALIGN, round_weights, share_weights


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


def test_graphs_share_what_is_equal_and_read_back_what_they_held(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    tensors = {
        "w": large,
        "turned": large.reshape(40, 30),  # the same bytes in another shape
        "bits": large.view(np.int32),  # and as another type
        "again": large.copy(),  # what tracing copies for every frame
        "other": large[:20] + 1,
        "small": np.float32([1, 2]),
    }
    graphs = {"step.onnx": _graph(**tensors), "window.onnx": _graph(more=large + 2, **tensors)}
    for graph in graphs.values():
        graph.graph.node.extend(helper.make_node("Identity", [name], [f"{name}_out"]) for name in tensors)
    share_weights(graphs, tmp_path / "weights.bin")
    for name, graph in graphs.items():
        onnx.save(graph, tmp_path / name)
        external = {t.name: {e.key: e.value for e in t.external_data} for t in graph.graph.initializer}
        assert not external.pop("small") and "again" not in external
        assert all(int(entry["offset"]) % ALIGN == 0 for entry in external.values()), "it cannot be mapped"
        reads = [node.input[0] for node in graph.graph.node]
        assert reads == ["w" if n == "again" else n for n in tensors]
        values = _weights(onnx.load(tmp_path / name))
        for tensor in values.keys() - {"more"}:
            assert values[tensor].dtype == tensors[tensor].dtype and np.array_equal(
                values[tensor], tensors[tensor]
            )
    sizes = [-(-array.nbytes // ALIGN) * ALIGN for array in (large, tensors["other"], large)]
    assert (tmp_path / "weights.bin").stat().st_size <= sum(sizes)
