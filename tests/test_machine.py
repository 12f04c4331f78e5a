"""How many cores and how much memory this process may use."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from deconvseg import machine


@pytest.fixture(autouse=True)
def _in_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_OWN_GROUP", Path("/nonexistent"))


def test_linux_tells_what_can_be_used_without_swapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(
        "MemTotal:  9 kB\nMemFree:   1 kB\nMemAvailable:    2048 kB\nCached: 5 kB\n"
    )
    assert machine.available_memory() == 2048 * 1024
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\n")
    assert machine.available_memory() is None


def test_a_container_may_have_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemAvailable:    2048 kB\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/\n")
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    usage.write_text("1048576\n")
    for text, left in (("1500000\n", 451424), ("max\n", 2048 * 1024), ("1000\n", 0)):
        limit.write_text(text)
        assert machine.available_memory() == left, text
    limit.write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 5\nactive_file 300\ninactive_file 200000\n")
    assert machine.available_memory() == 651424, "files that were only read are no lack of memory"


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/", {}, 8),
    ],
)
def test_cores_are_those_of_the_affinity_mask_and_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], count: int
) -> None:
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text(own + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine.cores() == count


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_pool_gives_results_in_order_and_errors_in_their_place(workers: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    def third(number: int) -> float:
        time.sleep(0.002 * (number % 3))
        return 12 / (number - 30)

    with machine.pool(workers) as call_each:
        results = call_each(third, items())
        for number in range(30):
            assert next(results) == 12 / (number - 30)
            assert len(taken) <= number + 2 * workers + 2
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_what_is_under_way_ends_when_the_items_are_interrupted() -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise KeyboardInterrupt

    done = []
    with machine.pool(2) as call_each, pytest.raises(KeyboardInterrupt):
        for number in call_each(lambda number: time.sleep(0.05) or number, items()):
            done.append(number)
    assert done == [0, 1, 2, 3]


def test_workers_share_the_cores() -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    with machine.pool(2, torch_threads=1) as call_each:
        seen = list(call_each(lambda _: (cv2.getNumThreads(), torch.get_num_threads()), range(4)))
    assert seen == [(1, 1)] * 4
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
