# SPDX-License-Identifier: Apache-2.0
"""Keeps freed memory in the process.

By default glibc returns large buffers to the kernel at once and faults them in again, page by page. That made
deserialising camera images some thirty times slower and a forward pass of training twice as slow.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # mallopt(3)


def keep_freed_memory(*, any_size: bool = False) -> None:
    """Tell glibc to keep freed memory; call it once, early. Does nothing with another C library.

    any_size: also keep blocks over 32 MiB, which then stay until the process ends (training).
    """
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
