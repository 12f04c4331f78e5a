"""Workers end with their parent, however it ends, and are replaced when they end before it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deconvseg.errors import WorkerError
from deconvseg.machine import Crew

PARENT = """
import os, time
from deconvseg.machine import worker_processes
if __name__ == "__main__":
    with worker_processes(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        list(pool.map(time.sleep, [60] * 10))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_leave_when_their_parent_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "parent.py"
    path.write_text(PARENT)
    process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers
    process.send_signal(number)
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("count", [0, 2])
def test_crew_gives_results_and_errors(count: int) -> None:
    with Crew(count) as crew:
        numbers = [crew.submit(divmod, number, 3) for number in range(8)]
        wrong = crew.submit(divmod, 1, 0)
        pid = crew.submit(os.getpid)
        assert [future.result() for future in numbers] == [divmod(number, 3) for number in range(8)]
        with pytest.raises(ZeroDivisionError):
            wrong.result()
        assert (pid.result() == os.getpid()) == (count == 0)


def test_a_call_is_made_again_when_its_worker_was_killed(tmp_path: Path) -> None:
    once = f"mkdir '{tmp_path}/once' && kill -9 $PPID"  # the second time mkdir fails, and sh answers 1
    with Crew(2) as crew:
        others = [crew.submit(pow, 2, number) for number in range(6)]
        assert crew.submit(subprocess.call, ["sh", "-c", f"{once} 2>&-"]).result() == 1
        assert [future.result() for future in others] == [2**number for number in range(6)]


def test_a_call_that_kills_twice_fails_alone() -> None:
    with Crew(2) as crew:
        deadly = crew.submit(os._exit, 1)
        others = [crew.submit(pow, 2, number) for number in range(6)]
        with pytest.raises(WorkerError, match="killed, and so was the next one"):
            deadly.result()
        assert [future.result() for future in others] == [2**number for number in range(6)]
        assert crew.submit(pow, 2, 10).result() == 1024


def test_a_crew_closes_without_what_has_not_begun() -> None:
    with Crew(1) as crew:
        crew.submit(os.getpid).result()
        begun, *others = [crew.submit(time.sleep, 0.5) for _ in range(20)]
        while not begun.running():
            time.sleep(0.01)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert begun.done() and not begun.cancelled()
    assert sum(future.cancelled() for future in others) >= 18
