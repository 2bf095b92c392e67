# SPDX-License-Identifier: Apache-2.0
"""Reading ahead changes nothing but the time: order, errors, an early end."""

import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros.evaluation.ahead import read_ahead


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5))
def test_the_same_items_come_in_the_same_order(items, depth):
    assert list(read_ahead(iter(items), depth)) == items


def test_an_error_comes_behind_the_items_before_it():
    def broken():
        yield 1
        yield 2
        raise ValueError("half a chunk")

    seen = []
    with pytest.raises(ValueError, match="half a chunk"):
        for item in read_ahead(broken()):
            seen.append(item)
    assert seen == [1, 2]


def test_it_reads_while_the_consumer_works_and_never_more_than_the_depth():
    produced = threading.Semaphore(0)
    count = [0]

    def items():
        for i in range(100):
            count[0] += 1
            produced.release()
            yield i

    with closing(read_ahead(items(), 3)) as ahead:
        assert next(ahead) == 0
        for _ in range(5):  # the first, three that wait, and the one in the thread's hand
            assert produced.acquire(timeout=10)
        assert not produced.acquire(timeout=0.3) and count[0] == 5
    assert not [t for t in threading.enumerate() if t.name == "read-ahead"]
    assert count[0] == 5
