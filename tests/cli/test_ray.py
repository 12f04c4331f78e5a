"""`--engine ray`: stopped, a network killed, and the same files in the end; and what it says without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

import deconvseg.batch.run
from deconvseg.batch import FolderRun, Options
from deconvseg.batch.plan import make_plan
from deconvseg.batch.ray import joined
from deconvseg.errors import MissingDependencyError, UsageError

from .conftest import COMMAND, Run, lines, manifest_lines, results_of, save_blocks

pytestmark = pytest.mark.slow
COUNT = 12


def networks_of(pid: int) -> list[int]:
    """The processes below `pid` that hold a network."""
    with suppress(OSError):  # it may end meanwhile
        words = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        found = [each for word in chain(*words) for each in networks_of(int(word))]
        return [*found, *([pid] if b"_Network" in Path(f"/proc/{pid}/cmdline").read_bytes() else [])]
    return []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_stopped_killed_and_the_same(inside: Run, fast: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    save_blocks(tmp_path / "in" / f"{number:02}.png" for number in range(COUNT))
    kinds = ("--save", "labels", "--save", "coco")
    inside("segment", "in", "-o", "plain", *kinds, *fast)
    log = tmp_path / "out" / "segment.jsonl"
    command = [COMMAND, "segment", "in", "-o", "out", *kinds, *fast, "--engine", "ray", "--workers", "2"]

    def start(*options: str) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*command, *options], cwd=tmp_path, start_new_session=True, **pipes)

    stopped = start()
    while stopped.poll() is None and not manifest_lines(log):
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = stopped.communicate(timeout=240)
    assert stopped.returncode == 130, stderr.decode()
    assert stdout == b""
    assert stderr.decode().splitlines()[-1].startswith("error: interrupted; finished photos are kept")
    assert 0 < manifest_lines(log) < COUNT

    before = manifest_lines(log)
    killed = start("--quiet", "--json", "--overwrite")
    while killed.poll() is None and not (networks := networks_of(killed.pid)):
        time.sleep(0.01)
    while killed.poll() is None and not 0 < manifest_lines(log) < before + COUNT:
        time.sleep(0.01)
    os.kill(networks[0], signal.SIGKILL)
    stdout, stderr = killed.communicate(timeout=240)
    assert killed.returncode == 0
    assert stderr == b""
    assert [record["status"] for record in json.loads(stdout)["images"]] == ["done"] * COUNT
    assert results_of(tmp_path / "out") == results_of(tmp_path / "plain")

    skipped = inside("segment", "in", "-o", "out", *kinds, *fast, "--engine", "ray")
    assert f"{COUNT} photos: 0 done, {COUNT} skipped" in lines(skipped)[-1]


def test_options_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(["none.jpg"], str(tmp_path), ["labels"])
    with pytest.raises(UsageError, match="Ray needs at least one network"):
        FolderRun(plan, Options(engine="ray", workers=0))
    monkeypatch.setattr(deconvseg.batch.run, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "deconvseg\[ray\]"'):
        FolderRun(plan, Options(engine="ray"))


def test_a_broken_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
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
