"""Standard streams that are closed or full: work goes on, and no message gets into its data."""

from __future__ import annotations

import io
import os
import sys

missing: set[str] = set()  # those of stdin, stdout and stderr that were closed when the process began


def secure_streams() -> None:
    """Make a closed standard stream the null device, and let no message fail because stderr takes none.

    It comes before any file is opened: else one would get the number of a closed stream, and be written to.
    """
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers: `open` takes the lowest free
        if getattr(sys, name) is None:
            missing.add(name)
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Log(sys.stderr.fileno(), "w", closefd=False)),
        encoding=sys.stderr.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


class _Log(io.FileIO):
    """A file whose writer is never told that it is full, or that nobody reads it any more."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]


def drop_stdout() -> None:
    """Send what is still buffered for standard output nowhere: the interpreter would fail at it once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
