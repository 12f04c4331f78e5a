"""Signals that ask a command to end: one rule for INT, TERM and HUP, for all commands.

The first one raises KeyboardInterrupt, or is noted where a loop asks for it after each step; files are
written beside their targets and renamed, so none is half there. A second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ONE_REQUEST = 0.5
"""Signals within so many seconds are one request: a terminal that closes sends HUP twice, and torchrun passes
on to its processes what the terminal has sent them already."""


@dataclass
class _Request:
    """The first signal and when it came; whether a loop asks for it; whether the user has been told."""

    number: int | None = None
    time: float = 0.0
    polled: bool = False
    told: bool = False


request = _Request()


@contextmanager
def stopping() -> Iterator[None]:
    """INT, TERM and HUP end the block as the module says; what was in force before is restored.

    A HUP that is ignored at the start stays so: nohup means it. An INT that is ignored, as in a shell
    script's background jobs, counts all the same: whoever sends it wants the job to end.
    """
    global request
    request = _Request()
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def asked_to_stop() -> bool:
    """Whether a signal came. From the first call on they raise nothing: the caller asks after every step."""
    request.polled = True
    return request.number is not None


def exit_code() -> int:
    """Of a command that was interrupted: 128 and the signal's number, as shells have it."""
    return 128 + (request.number or signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if request.number is None:
        request.number, request.time = number, now
        if not request.polled:
            raise KeyboardInterrupt
        _say("stopping after this step; once more stops at once\n")
    elif now - request.time > _ONE_REQUEST:
        _say("\x1b[?25h" if sys.stderr.isatty() else "")  # a progress bar hides the cursor
        os._exit(128 + number)


def _say(text: str) -> None:
    """Unbuffered: the signal may have come in the midst of a print."""
    with suppress(OSError):
        os.write(2, text.encode())
