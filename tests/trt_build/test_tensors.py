# SPDX-License-Identifier: Apache-2.0
"""Arrays in files of the safetensors format: what is written is read, by its package too, and nothing else is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trt_build import tensors

arrays = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=8),
    st.sampled_from([np.float32, np.float16, np.int64, np.uint8]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(arrays)
def test_what_is_written_is_read(values):
    found = tensors.from_bytes(tensors.to_bytes(values))
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


def test_the_package_of_the_format_reads_it_and_what_it_writes_is_read():
    theirs = pytest.importorskip("safetensors.numpy", reason="pip install -e '.[train]'")
    values = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], np.int64)}
    for found in (theirs.load(tensors.to_bytes(values)), tensors.from_bytes(theirs.save(values))):
        assert found.keys() == values.keys() and all(np.array_equal(found[k], values[k]) for k in values)


def test_equal_arrays_give_equal_bytes_whatever_their_order():
    a, b = np.zeros(3, np.float32), np.ones(2, np.float32)
    assert tensors.to_bytes({"a": a, "b": b}) == tensors.to_bytes({"b": b, "a": a})


def file_with(header: object, values: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def test_ties_are_rounded_to_even_and_signs_do_not_matter():
    last = 2.0**-11  # of 12 significant bits
    values = np.float32(
        [1 + last / 2, 1 + 3 * last / 2, 1 + last / 2 + 2**-20, -1 - last / 2, 2 - last / 2, 0]
    )
    expected = np.float32([1, 1 + 2 * last, 1 + last, -1, 2, 0])
    assert np.array_equal(tensors.rounded(values, 12), expected)
    assert tensors.rounded(values, 24) is values


def test_arrays_of_another_byte_order_are_written_as_all_others():
    values = np.arange(4, dtype=np.float32)
    assert tensors.to_bytes({"a": values.astype(">f4")}) == tensors.to_bytes({"a": values})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 64,
        file_with(b"[]"),
        file_with(b"{" * 100),
        file_with(b"\xff\xfe\xfd"),
        file_with({"a": 1}),
        file_with({"a": ENTRY | {"dtype": "BF16"}}),
        file_with({"a": ENTRY | {"dtype": ["F32"]}}),
        file_with({"a": ENTRY | {"shape": [5]}}),
        file_with({"a": ENTRY | {"shape": [-2, -2]}}),
        file_with({"a": ENTRY | {"shape": [1 << 50, 0]}}),
        file_with({"a": ENTRY | {"shape": [4] + [1] * 40}}),
        file_with({"a": ENTRY | {"shape": [True, 4]}}),
        file_with({"a": ENTRY | {"data_offsets": [0, 17]}}),
        file_with({"a": ENTRY | {"data_offsets": [8, 24]}}),
        file_with({"a": ENTRY | {"data_offsets": [16, 0]}}),
        file_with({"a": ENTRY | {"data_offsets": None}}),
    ],
)
def test_what_is_no_such_file_is_refused(content):
    with pytest.raises(ValueError):
        tensors.from_bytes(content)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200))
def test_damage_is_read_or_refused_and_nothing_else_happens(damage, at):
    whole = tensors.to_bytes({"a": np.arange(8, dtype=np.float32), "b": np.arange(3)})
    damaged = whole[:at] + damage + whole[at + len(damage) :]
    try:
        found = tensors.from_bytes(damaged)
    except ValueError:
        return
    assert all(array.nbytes <= len(damaged) for array in found.values())
