"""Standard streams that are closed or full: work goes on, and no message gets into its data."""

from __future__ import annotations

import os
import sys
from typing import TextIO

missing: set[str] = set()  # those of stdin, stdout and stderr that were closed when the process began


def secure_streams() -> None:
    """Make a closed standard stream the null device.

    It comes before any file is opened: else one would get the number of a closed stream, and be written to.
    """
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers: `open` takes the lowest free
        if getattr(sys, name) is None:
            missing.add(name)
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def drop(stream: TextIO) -> None:
    """Send what is still buffered for a stream nowhere: the interpreter would fail at it once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
