# SPDX-License-Identifier: Apache-2.0
"""Whether a packet of an H.264 stream follows the one before it: libav patches over lost pictures and says nothing.

ITU-T H.264: 7.3.2.1 sequence parameter set, 7.3.3 slice header, 7.4.3 frame_num.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_START = re.compile(rb"\x00\x00\x01")
_SLICE, _IDR, _SEQUENCE = 1, 5, 7
# Profiles whose parameter sets tell the chroma format and may hold scaling lists.
_HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_HEAD = 400  # bytes of a unit that are looked at; the fields that count come earlier


@dataclass(frozen=True)
class _Sequence:
    """Of a sequence parameter set. gaps: pictures may be missing on purpose, as in temporal layers."""

    frame_num_bits: int
    gaps: bool
    separate_planes: bool


class Continuity:
    """The count of reference pictures in one stream; one sequence parameter set at a time."""

    def __init__(self) -> None:
        self._sequence: _Sequence | None = None
        self._last: int | None = None  # frame_num of the newest reference picture; None: unknown

    def restart(self) -> None:
        """Pictures were left out knowingly."""
        self._last = None

    def follows(self, packet: bytes) -> bool:
        """Whether nothing that this packet builds on is missing, as far as its headers tell. Never raises."""
        for unit in _units(packet):
            kind, reference = unit[0] & 31, bool(unit[0] & 0x60)
            try:
                if kind == _SEQUENCE:
                    self._sequence = _read_sequence(_Bits(unit))
                elif kind in (_SLICE, _IDR):
                    return self._count(_Bits(unit), kind == _IDR, reference)
            except ValueError:  # the decoder will say what is wrong with it
                return True
        return True

    def _count(self, bits: _Bits, idr: bool, reference: bool) -> bool:
        sequence = self._sequence
        if sequence is None:
            return True
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.golomb()
        if sequence.separate_planes:
            bits.take(2)
        number, last = bits.take(sequence.frame_num_bits), self._last
        if reference:
            self._last = number
        if idr or last is None or sequence.gaps:
            return True
        return number in (last, (last + 1) % (1 << sequence.frame_num_bits))


def _units(packet: bytes) -> list[bytes]:
    """The beginnings of the NAL units of a packet in Annex B form, without emulation prevention."""
    starts = [found.end() for found in _START.finditer(packet)]
    units = (packet[at : min(end, at + _HEAD)] for at, end in pairwise([*starts, len(packet)]))
    return [unit.replace(b"\0\0\3", b"\0\0") for unit in units if unit]


class _Bits:
    """Reads a unit behind its first byte. Raises ValueError at its end."""

    def __init__(self, unit: bytes) -> None:
        self._value, self._left = int.from_bytes(unit[1:], "big"), 8 * (len(unit) - 1)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the unit is too short")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        if zeros > 32:
            raise ValueError("a number of more than 32 bits")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """se(v)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read_sequence(bits: _Bits) -> _Sequence:
    profile, _, _ = bits.take(8), bits.take(8), bits.take(8)
    bits.golomb()  # seq_parameter_set_id
    separate = False
    if profile in _HIGH:
        chroma = bits.golomb()
        separate = chroma == 3 and bool(bits.take(1))
        bits.golomb(), bits.golomb(), bits.take(1)  # bit depths, qpprime_y_zero_transform_bypass
        if bits.take(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    if frame_num_bits > 16:
        raise ValueError("log2_max_frame_num above 16")
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1), bits.golomb(), bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    return _Sequence(frame_num_bits, bool(bits.take(1)), separate)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
