"""Keeps the C library from giving big blocks back to the kernel between layers."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def reuse_freed_memory() -> None:
    """Make glibc's malloc keep freed activations for the next layer; elsewhere this does nothing.

    It concerns the whole process, so the commands call it, never the library by itself. By default every
    activation is mapped afresh and its pages are cleared again and again. On 2 idle cores, the median
    of 8 training steps (32 crops of 128 px, bf16, alternated) took 1.27 and 1.46 s
    without, 1.16 and 1.14 s with.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 256 << 20)
