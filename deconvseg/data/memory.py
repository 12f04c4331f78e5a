"""How much main memory is left."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None where the system does not tell.

    On Linux what the kernel calls `MemAvailable`; elsewhere the free pages, where they are counted.
    """
    if _MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # no such figure, or no sysconf at all
        return None
