"""Keeps the C library from giving big blocks back to the kernel between layers."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def reuse_freed_memory() -> None:
    """Make glibc's malloc keep freed activations for the next layer; elsewhere this does nothing.

    It concerns the whole process, so the commands call it, never the library by itself. By default every
    activation is mapped afresh and its pages are cleared again and again. Measured on 2 cores, one training
    step of 32 crops of 128 px in bf16: 2.43 s before, 1.25 s after.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 256 << 20)
