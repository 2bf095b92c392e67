# SPDX-License-Identifier: Apache-2.0
"""Windows and streams of recorded pieces: no frame of one piece beside that of another, and none left out."""

from __future__ import annotations

import numpy as np

from trt_build.footage import Footage, stream, windows


def piece(first: int, count: int) -> Footage:
    """Frames (count, 1, 1, 3) that say their number."""
    frames = np.repeat(np.arange(first, first + count, dtype=np.uint8), 3).reshape(count, 1, 1, 3)
    return Footage(str(first), "", frames)


def numbers(clips: np.ndarray) -> list[list[int]]:
    return [clip[:, 0, 0, 0].tolist() for clip in clips]


def test_windows_overlap_by_half_and_reach_the_end_of_each_piece() -> None:
    found = windows([piece(0, 8), piece(100, 4), piece(200, 7)], 4, 99)
    assert numbers(found) == [
        [0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [100, 101, 102, 103], [200, 201, 202, 203], [202, 203, 204, 205],
    ]  # fmt: skip
    assert numbers(windows([piece(5, 3)], 1, 99)) == [[5], [6], [7]]


def test_fewer_windows_are_spread_over_all_pieces_from_the_first_to_the_last() -> None:
    pieces = [piece(20 * k, 4) for k in range(9)]
    assert [clip[0] for clip in numbers(windows(pieces, 4, 3))] == [0, 80, 160]
    assert [clip[0] for clip in numbers(windows(pieces, 4, 9))] == list(range(0, 180, 20))
    assert [clip[0] for clip in numbers(windows(pieces, 4, 1))] == [0]


def test_a_stream_has_its_length_and_begins_again_where_the_pieces_end() -> None:
    found = [int(frame[0, 0, 0]) for frame in stream([piece(0, 3), piece(100, 2)], 12)]
    assert found == [0, 1, 2, 100, 101] * 2 + [0, 1]
    assert len(list(stream([piece(0, 3)], 3))) == 3
