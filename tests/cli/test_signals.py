"""What signals do to a command."""

import os
import signal
from collections.abc import Iterator

import pytest

from deconvseg.cli.signals import Stopped, exit_code, stopping


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Nothing is ignored, even if the tests run below nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_stop_the_block_alone(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, stopping():
        os.kill(os.getpid(), number)
    assert isinstance(caught.value, Stopped)
    assert exit_code(caught.value) == code
    assert signal.getsignal(number) is before
    assert exit_code(KeyboardInterrupt()) == 130


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
