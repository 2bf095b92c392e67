# SPDX-License-Identifier: Apache-2.0
"""Keeping freed memory in the process.

glibc gives large buffers back to the kernel at once and faults them in anew, page by page. For camera images
that made deserialising some thirty times slower, for training's activations a forward pass twice as slow.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # mallopt(3)


def keep_freed_memory(*, any_size: bool = False) -> None:
    """Call once, early. any_size: also blocks over 32 MiB, which then stay until the process ends (training)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # not glibc: only slower
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # its largest legal value
    mallopt(_TRIM_THRESHOLD, 256 << 20)
    if any_size:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_TOP_PAD, 64 << 20)
