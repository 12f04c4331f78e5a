"""Workers end with their parent, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, time
from deconvseg.processes import worker_processes
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
