"""`--engine ray`: stopped, and the same files in the end; and what it says without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deconvseg.batch.ray import joined
from deconvseg.errors import MissingDependencyError, UsageError

from .conftest import COMMAND, Run, lines, manifest_lines, results_of, save_blocks

pytestmark = pytest.mark.slow
COUNT = 12


def test_a_stopped_run_goes_on_to_the_same(run: Run, inside: Run, fast: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    save_blocks(tmp_path / "in" / f"{number:02}.png" for number in range(COUNT))
    kinds = ("--save", "labels", "--save", "coco")
    inside("segment", "in", "-o", "plain", *kinds, *fast)
    log = tmp_path / "out" / "segment.jsonl"
    command = ["segment", "in", "-o", "out", *kinds, *fast, "--engine", "ray", "--workers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    stopped = subprocess.Popen([COMMAND, *command], cwd=tmp_path, start_new_session=True, **pipes)
    while stopped.poll() is None and not manifest_lines(log):
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = stopped.communicate(timeout=240)
    assert stopped.returncode == 130, stderr.decode()
    assert stdout == b""
    assert stderr.decode().splitlines()[-1].startswith("error: interrupted; finished photos are kept")
    assert 0 < manifest_lines(log) < COUNT

    finished = run(*command, "--quiet", "--json")
    assert finished.stderr == b""
    statuses = [record["status"] for record in json.loads(finished.stdout)["images"]]
    assert len(statuses) == COUNT and {*statuses} == {"skipped", "done"}
    assert results_of(tmp_path / "out") == results_of(tmp_path / "plain")

    skipped = inside(*command)
    assert f"{COUNT} photos: 0 done, {COUNT} skipped" in lines(skipped)[-1]


def test_a_missing_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "deconvseg\[ray\]"'), joined(None, 1):
        pass


def test_a_cluster_that_is_not_there() -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    for address in ("127.0.0.1:1", "127.0.0.1:many", "nonsense"):
        with pytest.raises(UsageError, match=f"{address}: cannot be joined"), joined(address, 1):
            pass
    assert time.monotonic() - start < 60
