"""Signals that ask a command to end: it does so as after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """Signal `number` came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Stopped in the block, unless they are ignored, as below nohup."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in _NUMBERS}
    taken = [number for number in _NUMBERS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)


def exit_code(error: BaseException) -> int:
    """Of a command that ended by KeyboardInterrupt: 128 and the signal's number, as shells have it."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)
