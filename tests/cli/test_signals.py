"""What signals do to a command: the same in all of them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from deconvseg.cli.signals import asked_to_stop, exit_code, stopping

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WAITING = """
import sys, time
from deconvseg.cli import console, signals

def command(**options):
    try:
        print("begun", flush=True)
        while not (sys.argv[1] == "asks" and signals.asked_to_stop()):
            time.sleep(0.01)
    except KeyboardInterrupt:
        pass
    print("asked", flush=True)
    time.sleep(float(sys.argv[2]))  # what is written is finished
    print("written", flush=True)
    raise KeyboardInterrupt

sys.exit(console.run(command))
"""


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Nothing is ignored, even if the tests run in the background or below nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def started(way: str = "raises", seconds: float = 0.0, *shell: str) -> subprocess.Popen[str]:
    """A process that waits for a signal, and then goes on for some seconds."""
    command = [*shell, sys.executable, "-c", WAITING, way, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", CODES)
def test_a_signal_stops_the_block_alone(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopping():
        signal.raise_signal(number)
    assert exit_code() == CODES[number]
    assert signal.getsignal(number) is before


def test_a_loop_that_asks_is_not_broken_off(capfd: pytest.CaptureFixture[str]) -> None:
    with stopping():
        assert not asked_to_stop()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # a terminal that closes sends two
        assert asked_to_stop()
    assert exit_code() == 129
    assert capfd.readouterr().err == "stopping after this step; once more stops at once\n"


@pytest.mark.parametrize("way", ["raises", "asks"])
def test_work_is_finished_and_a_second_signal_ends_it(way: str) -> None:
    process = started(way, 1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "asked\nwritten\n"
    assert process.returncode == 143

    process = started(way, 60)
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 130


@pytest.mark.parametrize(("ignored", "number"), [("INT HUP", signal.SIGINT), ("HUP TERM", signal.SIGTERM)])
def test_ignored_signals(ignored: str, number: signal.Signals) -> None:
    """HUP stays ignored (nohup); a job script's background job ends by the INT or TERM it is sent."""
    process = started("raises", 0, "sh", "-c", f'trap "" {ignored}; exec "$@"', "sh")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == CODES[number]
