"""How much main memory is left, and the C library kept from giving it back between layers."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""What a container may use and what it uses, as version 2 and version 1 of Linux's control groups tell it."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")
"""As torch says it: of its own allocators on GPUs, of that on the processor, and of cuBLAS's and cuDNN's."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None where the system does not tell.

    On Linux what the kernel calls `MemAvailable`, or what a container's limit leaves if that is less;
    elsewhere the free pages, where they are counted.
    """
    return min((figure for figure in (_of_machine(), *_of_groups()) if figure is not None), default=None)


def _of_machine() -> int | None:
    if _MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # no such figure, or no sysconf at all
        return None


def _of_groups() -> Iterator[int]:
    for limit, usage in _GROUPS:
        try:
            most, used = int(limit.read_text("ascii")), int(usage.read_text("ascii"))
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
        if most < 2**60:  # version 1 has no word for no limit, but a number
            yield max(most - used + _droppable(usage.with_name("memory.stat")), 0)


def _droppable(statistics: Path) -> int:
    """Bytes of files that were read some time ago: they count as used until somebody wants the memory."""
    try:
        found = re.findall(r"^(?:total_)?inactive_file (\d+)$", statistics.read_text("ascii"), re.MULTILINE)
    except OSError:
        return 0
    return max(map(int, found), default=0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on any device, raised this for want of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in _NO_MEMORY)
    )


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
